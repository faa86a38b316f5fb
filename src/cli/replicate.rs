//! `df2redis replicate`: one task in the foreground.
//!
//! Order: task file, lock, log, runtime, signals, task; signals before the first line of the log. What fails before the log exists is said on standard error
//! only, what fails later in both places.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use slog::{Logger, crit, info, warn};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::arguments::Replicate;
use super::{VERSION, complain};
use crate::config::{self, ConfigErrors, Task};
use crate::logging::{LogError, Logs, TaskLog, Terminal, fields};
use crate::process::{Exit, LockError, Signals, Stop, TaskLock};
use crate::source::dragonfly::all_closed;
use crate::task::{self, Hosted, Reporter, TaskError, chain};

/// The most threads one task uses: flows are many, but most of the work is moving bytes.
const MOST_THREADS: usize = 4;

/// Why the command failed.
enum Failure {
    Config(ConfigErrors),
    Lock(LockError),
    Log(LogError),
    Runtime(io::Error),
    Task(TaskError),
}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Config,
            Self::Lock(
                LockError::Held { .. }
                | LockError::Directory { .. }
                | LockError::Unsafe { .. }
                | LockError::File { .. }
                | LockError::NotAFile { .. },
            ) => Exit::CannotCreate,
            Self::Log(LogError::Open { .. }) => Exit::CannotCreate,
            Self::Log(LogError::Thread(_)) | Self::Runtime(_) => Exit::Internal,
            Self::Task(error) => error.exit_code(),
        }
    }
}

impl Failure {
    /// What the operator can do about it, where the text does not say.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Task(error) => error.hint(),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => write!(f, "{errors}"),
            Self::Lock(error) => write!(f, "{}", chain(error)),
            Self::Log(error) => write!(f, "{}", chain(error)),
            Self::Runtime(error) => write!(f, "cannot start the runtime: {error}"),
            Self::Task(error) => write!(f, "{}", chain(error)),
        }
    }
}

/// Runs the task until it ends.
pub(super) fn run(arguments: &Replicate) -> Exit {
    match replicate(arguments) {
        Ok(()) => Exit::Done,
        Err(Failure::Config(errors)) => {
            for complaint in errors.complaints() {
                complain(complaint);
            }
            Exit::Config
        }
        Err(failure) => {
            complain(&failure);
            if let Some(hint) = failure.hint() {
                complain(format_args!("hint: {hint}"));
            }
            failure.exit()
        }
    }
}

fn replicate(arguments: &Replicate) -> Result<(), Failure> {
    let chosen = &arguments.tasks;
    let tasks = config::load(&chosen.config, &chosen.task_name).map_err(Failure::Config)?;
    // One file, so one task.
    for mut task in tasks {
        if let Some(level) = arguments.log_level {
            task.log.level = level;
        }
        run_task(task)?;
    }
    Ok(())
}

fn run_task(task: Task) -> Result<(), Failure> {
    let _lock = TaskLock::acquire(&task.state_dir, &task.name).map_err(Failure::Lock)?;
    let name = format!("{}_replicate", task.name);
    // Dropped last: it writes out what the lines below have logged.
    let mut logs = Logs::start(task.log.console).map_err(Failure::Log)?;
    let TaskLog { log, terminal, .. } = logs.open(&task.log, &name).map_err(Failure::Log)?;
    logs.handle().catch_panics();
    let ended = runtime().and_then(|runtime| {
        let ended = runtime.block_on(async {
            let ended = supervise(task, log.clone(), terminal.clone()).await;
            all_closed().await;
            ended
        });
        // What is left are name lookups and the like, which nobody waits for any more.
        runtime.shutdown_background();
        ended
    });
    terminal.show(None);
    match &ended {
        Ok(()) => info!(log, "df2redis stopped"),
        Err(failure) => {
            crit!(log, "df2redis failed"; fields::ERROR => %failure,
                "exit" => failure.exit().code(), fields::Hint(failure.hint()));
        }
    }
    ended
}

fn runtime() -> Result<Runtime, Failure> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(cores.min(MOST_THREADS))
        .thread_name("df2redis")
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
}

/// Runs the task beside the signals. It is a task of its own for the runtime, so that its panic is its own.
async fn supervise(task: Task, log: Logger, terminal: Terminal) -> Result<(), Failure> {
    let listening = Signals::listen(task.shutdown_timeout).map_err(Failure::Runtime)?;
    let (_signals, stop, _requests) = listening;
    // Not earlier: whoever reads this line may send a signal.
    info!(log, "df2redis started";
        fields::TASK => &task.name, fields::VERSION => VERSION, fields::PID => std::process::id(),
        fields::FILE => %task.file.display());
    for warning in &task.warnings {
        warn!(log, "task file warning"; fields::REASON => %warning);
    }
    let reporter = Reporter::new(
        &task,
        task.log.dir.join(format!("{}_replicate.log", task.name)),
    );
    let hosted = Hosted {
        task: Arc::new(task),
        log: log.clone(),
        terminal,
        reporter,
    };
    tokio::select! {
        // A task that ends at once may be faster than the line that says so.
        biased;
        () = told(stop.clone(), log) => Ok(()),
        ended = task::host(vec![hosted], stop) => match ended {
            Ok(()) => Ok(()),
            Err(mut failures) => failures.pop().map_or(Ok(()), |(_, error)| Err(Failure::Task(error))),
        }
    }
}

/// Logs each rise of `stop`. Never ends.
async fn told(mut stop: watch::Receiver<Stop>, log: Logger) {
    // The sender lives as long as the signals are listened to, which is longer than this.
    let _ = stop.wait_for(|stop| *stop >= Stop::Drain).await;
    info!(log, "stopping, finishing what is in flight");
    let _ = stop.wait_for(|stop| *stop >= Stop::Now).await;
    warn!(log, "stopping at once");
    std::future::pending().await
}
