//! Logs: slog drains for a file and the terminal, each behind a channel and a thread of its own.
//!
//! Whoever logs never waits: a full channel drops records and says later how many. A file that cannot be
//! written costs lines, never the log: it is tried again with every record, and the first line that works is
//! preceded by one that says how many were lost. A terminal that fails is left alone from then on.
//! Each line reaches its file by one write, so that a reader never sees half of one that fits the disk.

mod drains;
pub mod fields;
mod file;
mod format;
mod terminal;

use std::io::{self, IsTerminal};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use slog::{Drain, Duplicate, Level, LevelFilter, Logger, Never, info, o};
use slog_async::{Async, AsyncGuard, OverflowStrategy};

use crate::config;
use drains::{ConsoleDrain, FileDrain};
use file::LogFile;
pub use terminal::{Progress, Terminal};

/// Records between whoever logs and the file. Phases and summaries need a few; a burst of warnings fits.
const FILE_CHANNEL: usize = 4_096;
/// Records between whoever logs and the terminal.
const CONSOLE_CHANNEL: usize = 1_024;
/// How long a terminal that does not move may hold up the end of the process.
const CONSOLE_FLUSH: Duration = Duration::from_secs(1);

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be created or opened.
    #[error("cannot open the log file {}: {cause}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The thread that draws on the terminal cannot be started.
    #[error("cannot start a thread for the terminal: {0}")]
    Thread(io::Error),
}

/// Keeps the log going; dropped, it writes out all that was logged before.
#[must_use]
pub struct LogGuard {
    file: Option<AsyncGuard>,
    console: Option<AsyncGuard>,
    terminal: Terminal,
}

/// Starts the log of one command: `<dir>/<name>.log`, appended to (0640; directories are created), and standard
/// output where it is a terminal or the settings say so.
pub fn start(settings: &config::Log, name: &str) -> Result<(Logger, Terminal, LogGuard), LogError> {
    let is_terminal = io::stdout().is_terminal();
    let terminal = match settings.console {
        config::Console::Never => Terminal::off(),
        _ if is_terminal => Terminal::live().map_err(LogError::Thread)?,
        config::Console::Always => Terminal::plain(),
        config::Console::Auto => Terminal::off(),
    };
    let path = settings.dir.join(format!("{name}.log"));
    let file = LogFile::open(path).map_err(|(path, cause)| LogError::Open { path, cause })?;
    let (file, file_guard) = Async::new(FileDrain::new(settings.format, file))
        .chan_size(FILE_CHANNEL)
        .overflow_strategy(OverflowStrategy::DropAndReport)
        .thread_name("log-file".into())
        .build_with_guard();
    let level = settings.level.as_level();
    let (log, console) = if terminal.is_off() {
        (root(file.ignore_res(), level), None)
    } else {
        let (console, guard) = Async::new(ConsoleDrain::new(terminal.clone()))
            .chan_size(CONSOLE_CHANNEL)
            .overflow_strategy(OverflowStrategy::DropAndReport)
            .thread_name("log-console".into())
            .build_with_guard();
        let both = Duplicate::new(file.ignore_res(), console.ignore_res());
        (root(both.ignore_res(), level), Some(guard))
    };
    if settings.console == config::Console::Auto && !is_terminal {
        info!(log, "Detected non-TTY stdout, disabling console output");
    }
    let guard = LogGuard {
        file: Some(file_guard),
        console,
        terminal: terminal.clone(),
    };
    Ok((log, terminal, guard))
}

fn root<D>(drain: D, level: Level) -> Logger
where
    D: Drain<Ok = (), Err = Never> + Send + Sync + UnwindSafe + RefUnwindSafe + 'static,
{
    Logger::root(LevelFilter::new(drain, level).ignore_res(), o!())
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let console = self.console.take();
        let terminal = std::mem::replace(&mut self.terminal, Terminal::off());
        let (done, wait) = mpsc::channel();
        let flush = move || {
            terminal.end();
            drop(console);
            // Nobody listens any more if it took too long.
            let _ = done.send(());
        };
        let flushing = thread::Builder::new().name("log-flush".into()).spawn(flush);
        drop(self.file.take());
        if flushing.is_ok() {
            // An error is the time being over: the process ends without its terminal.
            let _ = wait.recv_timeout(CONSOLE_FLUSH);
        }
    }
}
