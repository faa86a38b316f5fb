//! `df2redis replicate`: all tasks of one process, in the foreground or detached.
//!
//! ```text
//! with the caller's terminal: options, task files, user, log directories, PID file
//!     --daemon ──► detach ──► caller: waits for the daemon's word, prints it, ends
//! PID file ─► user and groups ─► locks ─► logs ─► control socket ─► signals ─► ready ─► tasks
//! ```
//!
//! What fails before the logs are open is said on standard error only, what fails later in both places. A daemon says
//! it to its caller.

mod attend;
mod failure;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::unistd::{AccessFlags, eaccess};
use slog::{crit, info};
use tokio::runtime::{Builder, Runtime};

use self::attend::Attended;
use self::failure::Failure;
use super::arguments::{Ready, Replicate};
use super::complain;
use crate::admin::{ControlSocket, Managed};
use crate::config::{self, Console, Task};
use crate::logging::{Logs, TaskLog, fields};
use crate::process::{Detach, Exit, Identity, PidFile, Readiness, Side, TaskLock, Verdict, detach};
use crate::source::dragonfly::all_closed;
use crate::task::{Hosted, Reporter};

/// The most threads that run tasks: most of the work is moving bytes.
const MOST_THREADS: usize = 4;

/// What the command line asks for, checked as far as can be without changing anything.
struct Wanted {
    tasks: Vec<Task>,
    identity: Option<Identity>,
    pid_file: Option<PathBuf>,
    ready: Ready,
}

/// Runs the tasks until they end, or starts a daemon that does.
pub(super) fn run(arguments: &Replicate) -> Exit {
    match start(arguments) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.lines().iter().for_each(complain);
            failure.exit()
        }
    }
}

fn start(arguments: &Replicate) -> Result<Exit, Failure> {
    let wanted = prepare(arguments)?;
    if !arguments.daemon {
        return replicate(wanted, &Readiness::none()).map(|()| Exit::Done);
    }
    let how = Detach {
        chdir: std::path::absolute(&arguments.chdir).map_err(Failure::Path)?,
        umask: arguments.umask,
    };
    // Not later: the daemon has no terminal to say where its logs are.
    let logs: Vec<PathBuf> = wanted.tasks.iter().map(log_path).collect();
    match detach(&how).map_err(Failure::Detach)? {
        Side::Caller(caller) => Ok(tell(caller.wait(arguments.ready_timeout), arguments, &logs)),
        Side::Daemon(readiness) => {
            let ended = replicate(wanted, &readiness);
            if let Err(failure) = &ended {
                readiness.failed(failure.exit(), &failure.lines().join("\n"));
            }
            ended.map(|()| Exit::Done)
        }
    }
}

/// Says what became of the daemon.
fn tell(verdict: Verdict, arguments: &Replicate, logs: &[PathBuf]) -> Exit {
    match verdict {
        Verdict::Ready => Exit::Done,
        Verdict::Failed { exit, message } => {
            message.lines().for_each(complain);
            exit
        }
        Verdict::Died => {
            complain("the daemon ended before it was ready, without a word; what it logged is in");
            logs.iter().for_each(|path| complain(path.display()));
            Exit::Internal
        }
        Verdict::NotReady(tasks) => {
            let after = humantime::format_duration(arguments.ready_timeout);
            let tasks = match tasks.is_empty() {
                true => "the daemon is".to_owned(),
                false => format!("tasks {} are", tasks.join(", ")),
            };
            complain(format_args!(
                "{tasks} not ready after {after}; the daemon goes on trying, see `df2redis status` and"
            ));
            logs.iter().for_each(|path| complain(path.display()));
            Exit::Temporary
        }
    }
}

/// Everything that can be checked, and said well, before the process detaches.
fn prepare(arguments: &Replicate) -> Result<Wanted, Failure> {
    let chosen = &arguments.tasks;
    let mut tasks = config::load(&chosen.config, &chosen.task_name).map_err(Failure::Config)?;
    for task in &mut tasks {
        task.log.level = arguments.log_level.unwrap_or(task.log.level);
        task.log.console = arguments.log_console.unwrap_or(task.log.console);
    }
    let identity = Identity::look_up(arguments.user.as_deref(), arguments.group.as_deref())
        .map_err(Failure::Identity)?;
    for task in &tasks {
        writable(&task.log.dir).map_err(|cause| Failure::LogDirectory {
            dir: task.log.dir.clone(),
            cause,
        })?;
    }
    let pid_file = arguments.pidfile.as_ref().map(std::path::absolute);
    let pid_file = pid_file.transpose().map_err(Failure::Path)?;
    if let Some(path) = &pid_file {
        PidFile::check_free(path).map_err(Failure::PidFile)?;
    }
    Ok(Wanted {
        tasks,
        identity,
        pid_file,
        ready: arguments.ready,
    })
}

/// Whether files can be made in `dir`, or `dir` itself where it is not there yet.
fn writable(dir: &Path) -> io::Result<()> {
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut place = dir;
    while let Err(error) = place.metadata() {
        match place.parent() {
            Some(parent) if is_missing(&error) => place = parent,
            _ => return Err(error),
        }
    }
    Ok(eaccess(place, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// A log's name, by task and command.
fn log_name(task: &Task) -> String {
    format!("{}_replicate", task.name)
}

fn log_path(task: &Task) -> PathBuf {
    task.log.file(&log_name(task))
}

/// Runs the tasks in this process, which is the one that stays.
fn replicate(wanted: Wanted, readiness: &Readiness) -> Result<(), Failure> {
    let Wanted {
        tasks,
        identity,
        pid_file,
        ready,
    } = wanted;
    // Dropped last: where it is gone, locks and socket are too.
    let _pid_file = match pid_file {
        Some(path) => Some(claim(&path, identity.as_ref())?),
        None => None,
    };
    if let Some(identity) = identity {
        identity.assume().map_err(Failure::Identity)?;
    }
    let mut locks = Vec::with_capacity(tasks.len());
    for task in &tasks {
        locks.push(TaskLock::acquire(&task.state_dir, &task.name).map_err(Failure::Lock)?);
    }
    let mut logs = Logs::start(console_of(&tasks), tasks.len() > 1).map_err(Failure::Log)?;
    let mut opened = Vec::with_capacity(tasks.len());
    for task in &tasks {
        opened.push(
            logs.open(&task.log, &task.name, &log_name(task))
                .map_err(Failure::Log)?,
        );
    }
    logs.handle().catch_panics();
    let task_logs = opened.clone();
    let ended = attend(tasks, opened, locks, &logs, readiness, ready);
    for TaskLog { log, terminal, .. } in &task_logs {
        terminal.show(None);
        match &ended {
            Ok(()) => info!(log, "df2redis stopped"),
            Err(failure) => {
                crit!(log, "df2redis failed"; fields::ERROR => %failure, "exit" => failure.exit().code());
            }
        }
    }
    ended
}

/// Makes the PID file ours, and the user's that this process is about to become.
fn claim(path: &Path, identity: Option<&Identity>) -> Result<PidFile, Failure> {
    let file = PidFile::create(path).map_err(Failure::PidFile)?;
    if let Some(identity) = identity {
        file.give_to(identity.uid(), identity.gid())
            .map_err(Failure::PidFile)?;
    }
    Ok(file)
}

/// One console for all tasks: as much of it as any of them wants.
fn console_of(tasks: &[Task]) -> Console {
    let wanted = |console| tasks.iter().any(|task| task.log.console == console);
    match (wanted(Console::Always), wanted(Console::Auto)) {
        (true, _) => Console::Always,
        (false, true) => Console::Auto,
        (false, false) => Console::Never,
    }
}

/// Brings up what outsiders reach this process by, and runs the tasks.
fn attend(
    tasks: Vec<Task>,
    logs: Vec<TaskLog>,
    mut locks: Vec<TaskLock>,
    all_logs: &Logs,
    readiness: &Readiness,
    ready: Ready,
) -> Result<(), Failure> {
    let Some(first) = tasks.first() else {
        return Ok(());
    };
    let control = ControlSocket::bind(&first.state_dir).map_err(Failure::Control)?;
    for lock in &mut locks {
        lock.announce(control.path()).map_err(Failure::Lock)?;
    }
    let (hosted, managed) = tasks
        .into_iter()
        .zip(logs)
        .map(|(task, log)| hosted(task, log))
        .unzip();
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let attended = Attended {
            hosted,
            managed,
            control,
            logs: all_logs.handle(),
            readiness: readiness.clone(),
            ready,
        };
        let ended = attended.run().await;
        all_closed().await;
        ended
    });
    // What is left are name lookups and the like, which nobody waits for any more.
    runtime.shutdown_background();
    drop(locks);
    ended
}

fn hosted(task: Task, log: TaskLog) -> (Hosted, Managed) {
    let reporter = Reporter::new(&task, log.path);
    let managed = Managed {
        reporter: reporter.clone(),
        levels: log.levels,
    };
    let hosted = Hosted {
        task: Arc::new(task),
        log: log.log,
        terminal: log.terminal,
        reporter,
    };
    (hosted, managed)
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
