//! Logs: slog drains for a file and the terminal, each behind a channel and a thread of its own.
//!
//! Whoever logs never waits: a full channel drops records and says later how many. A file that cannot be
//! written costs lines, never the log: it is tried again with every record, and the first line that works is
//! preceded by one that says how many were lost. A terminal that fails is left alone from then on.
//! Each line reaches its file by one write, so that a reader never sees half of one that fits the disk.

mod channel;
mod drains;
pub mod fields;
mod file;
mod format;
mod levels;
mod panics;
mod terminal;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use slog::{Drain, Duplicate, Logger, info, o};
use slog_async::AsyncGuard;

use crate::config;
use channel::{Channel, Overflow};
use drains::{ConsoleDrain, FileDrain};
use file::LogFile;
pub use levels::Levels;
use levels::Wanted;
pub use terminal::{Progress, Terminal};

/// Records between whoever logs and a file. Phases and summaries need a few; a burst of warnings fits.
const FILE_CHANNEL: usize = 4_096;
/// Records between whoever logs and the terminal.
const CONSOLE_CHANNEL: usize = 1_024;
/// How long a terminal that does not move may hold up the end of the process.
const CONSOLE_FLUSH: Duration = Duration::from_secs(1);

/// Why a log cannot be started.
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

/// The logs of one process: a file for each task, one console for all. Dropped, it writes out all that was logged
/// before.
#[must_use]
pub struct Logs {
    setting: config::Console,
    console: Option<(Channel, AsyncGuard)>,
    terminal: Terminal,
    guards: Vec<AsyncGuard>,
    files: Files,
}

/// One task's log.
#[derive(Clone)]
pub struct TaskLog {
    /// Where to log.
    pub log: Logger,
    /// Where to show progress.
    pub terminal: Terminal,
    /// What is logged, changeable at any time.
    pub levels: Levels,
    /// The log file, for status.
    pub path: PathBuf,
}

/// What signals and the end ask of all logs of the process, those opened later included. Cloning shares it.
#[derive(Clone)]
pub struct LogHandle {
    files: Files,
}

type Files = Arc<Mutex<Vec<FileLog>>>;

/// One open log.
struct FileLog {
    /// To the file and the console, whatever the level.
    log: Logger,
    channel: Channel,
    reopen: Arc<AtomicBool>,
}

impl Logs {
    /// Opens the console, if there is to be one.
    ///
    /// # Errors
    /// [`LogError::Thread`].
    pub fn start(console: config::Console) -> Result<Self, LogError> {
        let is_terminal = io::stdout().is_terminal();
        let terminal = match console {
            config::Console::Never => Terminal::off(),
            _ if is_terminal => Terminal::live().map_err(LogError::Thread)?,
            config::Console::Always => Terminal::plain(),
            config::Console::Auto => Terminal::off(),
        };
        let channel = (!terminal.is_off()).then(|| {
            let overflow = Overflow::default();
            let drain = ConsoleDrain::new(terminal.clone(), overflow.clone());
            Channel::start(drain, overflow, CONSOLE_CHANNEL, "log-console")
        });
        Ok(Self {
            setting: console,
            console: channel,
            terminal,
            guards: Vec::new(),
            files: Files::default(),
        })
    }

    /// Opens `<dir>/<name>.log`, appended to (0640 at most; directories are created).
    ///
    /// # Errors
    /// [`LogError::Open`].
    pub fn open(&mut self, settings: &config::Log, name: &str) -> Result<TaskLog, LogError> {
        let path = settings.dir.join(format!("{name}.log"));
        let file =
            LogFile::open(path.clone()).map_err(|(path, cause)| LogError::Open { path, cause })?;
        let reopen = Arc::new(AtomicBool::new(false));
        let overflow = Overflow::default();
        let drain = FileDrain::new(settings.format, file, Arc::clone(&reopen), overflow.clone());
        let (channel, guard) = Channel::start(drain, overflow, FILE_CHANNEL, "log-file");
        self.guards.push(guard);
        let levels = Levels::new(settings.level);
        let everything = match &self.console {
            Some((console, _)) => {
                let both = Duplicate::new(channel.clone(), console.clone());
                Logger::root(both.ignore_res(), o!())
            }
            None => Logger::root(channel.clone(), o!()),
        };
        let wanted = Wanted {
            levels: levels.clone(),
            drain: everything.clone(),
        };
        let log = Logger::root(wanted, o!());
        if self.setting == config::Console::Auto && self.terminal.is_off() {
            info!(log, "Detected non-TTY stdout, disabling console output");
        }
        locked(&self.files).push(FileLog {
            log: everything,
            channel,
            reopen,
        });
        Ok(TaskLog {
            log,
            terminal: self.terminal.clone(),
            levels,
            path,
        })
    }

    /// For signals.
    pub fn handle(&self) -> LogHandle {
        LogHandle {
            files: Arc::clone(&self.files),
        }
    }
}

impl LogHandle {
    /// Opens all files again by their names, as logrotate asks for with SIGUSR1. Returns at once; lines logged before
    /// go to the old files.
    pub fn reopen(&self) {
        for file in locked(&self.files).iter() {
            file.reopen.store(true, Ordering::Release);
            file.channel.nudge();
        }
    }

    /// From now on a panic writes its message and backtrace to all logs.
    pub fn catch_panics(&self) {
        panics::catch(self.clone());
    }

    /// The loggers of all files, without a filter.
    fn loggers(&self) -> Vec<Logger> {
        locked(&self.files)
            .iter()
            .map(|file| file.log.clone())
            .collect()
    }
}

impl Drop for Logs {
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
        self.guards.clear();
        if flushing.is_ok() {
            // An error is the time being over: the process ends without its terminal.
            let _ = wait.recv_timeout(CONSOLE_FLUSH);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
