//! Logs: slog drains for files and the console, each behind a channel and a thread of its own.
//!
//! Whoever logs never waits: a full channel drops records and says later how many. A file that cannot be
//! written costs lines, never the log: it is tried again with every record, and the first line that works is
//! preceded by one that says how many were lost. A console that fails is left alone from then on.
//! Each line reaches its file by one write, so that a reader never sees half of one that fits the disk.

mod console;
mod drains;
pub mod fields;
mod file;
mod format;
mod levels;
mod panics;
mod rotation;

use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use slog::{Drain, Duplicate, Logger, Never, OwnedKVList, info, o, warn};
use slog_async::{Async, AsyncGuard, OverflowStrategy};

use crate::config;
use console::{Console, Found};
pub use console::{Progress, Terminal};
use drains::{ConsoleDrain, FileDrain, Labelled};
use file::{LogFile, Reopen};
use levels::Filter;
pub use levels::Levels;
use rotation::Rotation;

/// Records between whoever logs and the file. Phases and summaries need a few; a burst of warnings fits.
const FILE_CHANNEL: usize = 4_096;
/// Records between whoever logs and the console.
const CONSOLE_CHANNEL: usize = 1_024;
/// How long a console that does not move may hold up the end of the process.
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

/// The logs of one process: a file for each task, one console for all. Dropped, it writes out all that was logged
/// before.
#[must_use]
pub struct Logs {
    console: Option<(Console, Arc<Async>, AsyncGuard)>,
    /// There would be a console if there were a terminal.
    lacks_terminal: bool,
    /// Lines on the console name their task.
    several: bool,
    files: Vec<AsyncGuard>,
    handle: LogHandle,
}

/// One task's log.
#[derive(Clone)]
pub struct TaskLog {
    /// Into the file, and onto the console if there is one.
    pub log: Logger,
    /// The task's own place on the console.
    pub terminal: Terminal,
    /// What is severe enough.
    pub levels: Levels,
    /// The file.
    pub path: PathBuf,
}

/// What can be asked of all logs of the process while they are in use. Cloning is cheap.
#[derive(Clone)]
pub struct LogHandle {
    reopen: Reopen,
    logs: Arc<Mutex<Vec<Logger>>>,
}

impl LogHandle {
    /// Has every file opened again, or made, under its name. Each heeds it with its next line.
    pub fn reopen(&self) {
        self.reopen.ask();
    }

    /// From now on, panics are written to all logs, with their backtraces.
    pub fn catch_panics(&self) {
        panics::catch(self.clone());
    }

    fn all(&self) -> Vec<Logger> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.clone()
    }
}

impl Logs {
    /// Finds out where the console is. With `several` tasks, what it shows names them.
    pub fn start(wanted: config::Console, several: bool) -> Result<Self, LogError> {
        let found = Console::find(wanted).map_err(LogError::Thread)?;
        let lacks_terminal = matches!(found, Found::NoTerminal);
        let handle = LogHandle {
            reopen: Reopen::default(),
            logs: Arc::default(),
        };
        let console = match found {
            Found::Console(console) => {
                let logs = handle.clone();
                console.on_death(move |error| {
                    for log in logs.all() {
                        warn!(log, "the console failed, nothing is shown there any more";
                            fields::ERROR => %error);
                    }
                });
                let drain = ConsoleDrain::new(console.clone());
                let (drain, guard) = spawned(drain, CONSOLE_CHANNEL, "log-console");
                Some((console, Arc::new(drain), guard))
            }
            Found::NoTerminal | Found::NotWanted => None,
        };
        Ok(Self {
            console,
            lacks_terminal,
            several,
            files: Vec::new(),
            handle,
        })
    }

    /// Starts the log of one task: `<dir>/<name>.log`, appended to (0640; directories are created), and the console.
    /// `task` is what the console calls it.
    pub fn open(
        &mut self,
        settings: &config::Log,
        task: &str,
        name: &str,
    ) -> Result<TaskLog, LogError> {
        let path = settings.dir.join(format!("{name}.log"));
        let rotation = settings.rotate.map(Rotation::new);
        let file = LogFile::open(path.clone(), rotation, self.handle.reopen.clone())
            .map_err(|(path, cause)| LogError::Open { path, cause })?;
        let drain = FileDrain::new(settings.format, file);
        let (file, guard) = spawned(drain, FILE_CHANNEL, "log-file");
        self.files.push(guard);
        let levels = Levels::new(settings.level);
        let label = self.several.then_some(task);
        let (log, terminal) = match &self.console {
            None => (root(file.ignore_res(), &levels), Terminal::off()),
            Some((console, drain, _)) => {
                let labelled = Labelled {
                    label: label.map(|task| OwnedKVList::from(o!(fields::TASK => task.to_owned()))),
                    drain: Arc::clone(drain).ignore_res(),
                };
                let both = Duplicate::new(file.ignore_res(), labelled).ignore_res();
                (root(both, &levels), console.terminal(label))
            }
        };
        if self.lacks_terminal {
            info!(log, "Detected non-TTY stdout, disabling console output");
        }
        let mut logs = self
            .handle
            .logs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        logs.push(log.clone());
        Ok(TaskLog {
            log,
            terminal,
            levels,
            path,
        })
    }

    /// What can be asked of all logs.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }
}

/// A drain behind a channel, with a thread of its own.
fn spawned<D>(drain: D, channel: usize, thread: &str) -> (Async, AsyncGuard)
where
    D: Drain<Ok = (), Err = Never> + Send + 'static,
{
    Async::new(drain)
        .chan_size(channel)
        .overflow_strategy(OverflowStrategy::DropAndReport)
        .thread_name(thread.into())
        .build_with_guard()
}

fn root<D>(drain: D, levels: &Levels) -> Logger
where
    D: Drain<Ok = (), Err = Never> + Send + Sync + UnwindSafe + RefUnwindSafe + 'static,
{
    let levels = levels.clone();
    Logger::root(Filter { levels, drain }, o!())
}

impl Drop for Logs {
    fn drop(&mut self) {
        let (done, wait) = mpsc::channel();
        // First the console, which may have something to say to the files.
        if let Some((console, _, guard)) = self.console.take() {
            let flush = move || {
                console.end();
                drop(guard);
                // Nobody listens any more if it took too long.
                let _ = done.send(());
            };
            let flushing = thread::Builder::new().name("log-flush".into()).spawn(flush);
            if flushing.is_ok() {
                // An error is the time being over: the process ends without its console.
                let _ = wait.recv_timeout(CONSOLE_FLUSH);
            }
        }
        self.files.clear();
    }
}
