//! Logs: a file for each task, and one console for all, each behind a channel and a thread of its own.
//!
//! What always holds:
//! - **Whoever logs never waits.** A full channel drops records, and the next line written says how many. A line
//!   that nobody wants costs one atomic load.
//! - **A file that cannot be written costs lines, never the log.** It is tried again with every line, and the first
//!   that works has the number of those lost in front of it. Each line is one write, so that a reader never sees
//!   half of one. How files are rotated by others and found again stands in `file`, how by us in `rotation`.
//! - **The console costs nothing.** It exists only where somebody reads it (`place`), and is left for good at its
//!   first error, which every file records once. One that is slow or stopped holds up its own threads only.
//! - **The end writes everything out**: [`Logs`], dropped, waits for the files, and for the console one second.
//!
//! slog carries records, slog-async carries them to the threads, slog-term and slog-json put them into words.

mod channel;
mod console;
pub mod fields;
mod file;
mod file_drain;
mod format;
mod levels;
mod outlet;
mod panics;
mod place;
mod rotation;
mod screen;
mod terminal;

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use slog::{Drain, Duplicate, Logger, info, o, warn};
use slog_async::AsyncGuard;

use crate::config::{self, LogFormat};
use channel::{Channel, Overflow};
use console::Console;
use file::LogFile;
use file_drain::FileDrain;
use format::{Form, Lines};
pub use levels::Levels;
use levels::Wanted;
use place::{Place, Streams};
use rotation::Rotation;
pub use terminal::{Progress, Terminal};

/// Records between whoever logs and a file. Phases and summaries need a few; a burst of warnings fits.
const FILE_CHANNEL: usize = 4_096;

/// How long files may hold up the end of the process: a disk that takes longer is not coming back.
const FILE_FLUSH: Duration = Duration::from_secs(10);

/// How long a console that does not move may hold up the end of the process.
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
    /// The console cannot be used: no thread, or no further file, can be had.
    #[error("cannot start a thread for the console: {0}")]
    Thread(io::Error),
}

/// The logs of one process: a file for each task, one console for all. Dropped, it writes out all that was logged
/// before.
#[must_use]
pub struct Logs {
    setting: config::Console,
    console: Option<Console>,
    /// A panic has to be printed too, for somebody may read standard error, and there is no console.
    panics_on_stderr: bool,
    guards: Vec<AsyncGuard>,
    shared: Shared,
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

/// What signals ask of all logs of the process, those opened later included. Cloning shares it.
#[derive(Clone)]
pub struct LogHandle {
    shared: Shared,
    panics_on_stderr: bool,
}

type Shared = Arc<Mutex<Open>>;

/// What is open.
#[derive(Default)]
struct Open {
    files: Vec<FileLog>,
    /// The error of the console, once it is lost.
    console_lost: Option<String>,
}

/// One open file.
struct FileLog {
    /// To the file and the console, whatever the level.
    log: Logger,
    channel: Channel,
    reopen: Arc<AtomicBool>,
}

impl Logs {
    /// Opens the console, if there is to be one: a terminal on standard output, else standard error if a service
    /// manager captures it or the setting is `always`. With `several` tasks, what it shows names them.
    ///
    /// # Errors
    /// [`LogError::Thread`].
    pub fn start(console: config::Console, several: bool) -> Result<Self, LogError> {
        let streams = Streams::of_process();
        let place = streams.place(console);
        let shared = Shared::default();
        let own = Arc::clone(&shared);
        let on_failure = move |error: &io::Error| lose_console(&own, error);
        let opened = Console::open(place, several, on_failure).map_err(LogError::Thread)?;
        let stderr_is_read = io::stderr().is_terminal() || streams.stderr_is_captured();
        Ok(Self {
            setting: console,
            console: opened,
            panics_on_stderr: place == Place::Nowhere && stderr_is_read,
            guards: Vec::new(),
            shared,
        })
    }

    /// Opens `<dir>/<name>.log`: appended to, 0640 or less, directories are created. The console shows its lines too, if
    /// there is one, unless this task's own setting is `never`; it calls the task `task`.
    ///
    /// # Errors
    /// [`LogError::Open`].
    pub fn open(
        &mut self,
        settings: &config::Log,
        task: &str,
        name: &str,
    ) -> Result<TaskLog, LogError> {
        let path = settings.file(name);
        let (channel, reopen) = self.open_file(settings, &path)?;
        let to_console = match settings.console {
            config::Console::Never => None,
            config::Console::Auto | config::Console::Always => self.console.as_ref(),
        };
        let (everything, terminal) = match to_console {
            Some(console) => {
                let (lines, terminal) = console.add(task);
                let both = Duplicate::new(channel.clone(), lines);
                (Logger::root(both.ignore_res(), o!()), terminal)
            }
            None => (Logger::root(channel.clone(), o!()), Terminal::off()),
        };
        let levels = Levels::new(settings.level);
        let wanted = Wanted {
            levels: levels.clone(),
            drain: everything.clone(),
        };
        let log = Logger::root(wanted, o!());
        let automatic = [self.setting, settings.console] == [config::Console::Auto; 2];
        if automatic && self.console.is_none() {
            info!(log, "Detected non-TTY stdout, disabling console output");
        }
        let file = FileLog {
            log: everything,
            channel,
            reopen,
        };
        let mut open = locked(&self.shared);
        if let Some(error) = &open.console_lost {
            file.say_console_lost(error);
        }
        open.files.push(file);
        drop(open);
        Ok(TaskLog {
            log,
            terminal,
            levels,
            path,
        })
    }

    fn open_file(
        &mut self,
        settings: &config::Log,
        path: &Path,
    ) -> Result<(Channel, Arc<AtomicBool>), LogError> {
        let rotation = settings.rotate.map(Rotation::new);
        let file = LogFile::open(path.to_owned(), rotation).map_err(|cause| LogError::Open {
            path: path.to_owned(),
            cause,
        })?;
        let form = match settings.format {
            LogFormat::Text => Form::Text,
            LogFormat::Json => Form::Json,
        };
        let reopen = Arc::new(AtomicBool::new(false));
        let overflow = Overflow::default();
        let drain = FileDrain {
            lines: Lines::new(form),
            file: RefCell::new(file),
            reopen: Arc::clone(&reopen),
            overflow: overflow.clone(),
        };
        let (channel, guard) = Channel::start(drain, overflow, FILE_CHANNEL, "log-file");
        self.guards.push(guard);
        Ok((channel, reopen))
    }

    /// For signals.
    pub fn handle(&self) -> LogHandle {
        LogHandle {
            shared: Arc::clone(&self.shared),
            panics_on_stderr: self.panics_on_stderr,
        }
    }
}

impl LogHandle {
    /// Opens all files again by their names, as logrotate asks for with SIGUSR1. Returns at once; lines logged before
    /// go to the old files.
    pub fn reopen(&self) {
        for file in &locked(&self.shared).files {
            file.reopen.store(true, Ordering::Release);
            file.channel.nudge();
        }
    }

    /// From now on a panic writes its message and backtrace to all logs.
    pub fn catch_panics(&self) {
        panics::catch(self.clone(), self.panics_on_stderr);
    }

    /// The loggers of all files, without a filter.
    fn loggers(&self) -> Vec<Logger> {
        let open = locked(&self.shared);
        open.files.iter().map(|file| file.log.clone()).collect()
    }
}

impl FileLog {
    fn say_console_lost(&self, error: &str) {
        let log = Logger::root(self.channel.clone(), o!());
        warn!(log, "the console failed, nothing is shown there any more"; fields::ERROR => error);
    }
}

fn lose_console(shared: &Shared, error: &io::Error) {
    let mut open = locked(shared);
    let error = error.to_string();
    for file in &open.files {
        file.say_console_lost(&error);
    }
    open.console_lost = Some(error);
}

impl Drop for Logs {
    fn drop(&mut self) {
        // The console first, for its failure is a line in the files; these are written all the while.
        if let Some(console) = self.console.take() {
            // An error is the time being over: the process ends without its console.
            let _ = aside(|| console.end()).recv_timeout(CONSOLE_FLUSH);
        }
        let start = Instant::now();
        let files = self.guards.drain(..).map(|guard| aside(|| drop(guard)));
        let files: Vec<_> = files.collect();
        for file in files {
            let _ = file.recv_timeout(FILE_FLUSH.saturating_sub(start.elapsed()));
        }
    }
}

/// Does it in a thread of its own. The receiver hears of the end.
fn aside(what: impl FnOnce() + Send + 'static) -> mpsc::Receiver<()> {
    let (done, wait) = mpsc::channel();
    let what = move || {
        what();
        // Nobody listens any more if it took too long.
        let _ = done.send(());
    };
    // Without a thread `what` is dropped, and that ends what it holds, too.
    let _ = thread::Builder::new().name("log-flush".into()).spawn(what);
    wait
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
