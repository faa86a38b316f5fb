//! Finding the processes that run tasks, and asking each once, for `status`, `wait` and `log-level`.
//!
//! A process is found by the locks that it holds, never by a number in a file. Between looking for it and asking it, it
//! may start, end, or be replaced: then it is looked for again, for a while.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::arguments::Tasks;
use super::complain;
use crate::admin::{AskError, Control, Deadline};
use crate::config::{self, Task};
use crate::process::{self, Exit, Holder, control_of, task_holder};

/// How long a process may be without a control socket, because it is just starting or ending.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked for meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// What a command asks about.
pub(super) enum Subject {
    /// The process that runs this task, wherever that is.
    Task(Box<Task>),
    /// The process that holds this PID file, whatever its tasks.
    PidFile(PathBuf),
}

/// Why nobody was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unasked {
    /// It does not run.
    NotRunning,
    /// It does not run, but has left its PID file behind, with this number.
    Dead(u32),
    /// It runs, but does not answer; which process, and what was tried.
    Silent(String),
    /// That cannot be told, and why.
    Unknown(String),
}

impl Unasked {
    /// The exit code of `status` for it.
    pub(super) fn exit_of_status(&self) -> Exit {
        match self {
            Self::NotRunning => Exit::NotRunning,
            Self::Dead(_) => Exit::Dead,
            Self::Silent(_) | Self::Unknown(_) => Exit::Unknown,
        }
    }

    /// The exit code of a command that wanted something of the process.
    pub(super) fn exit_of_request(&self) -> Exit {
        match self {
            Self::NotRunning | Self::Dead(_) => Exit::NotRunning,
            Self::Silent(_) | Self::Unknown(_) => Exit::Unknown,
        }
    }
}

impl fmt::Display for Unasked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning => write!(f, "not running"),
            Self::Dead(pid) => write!(f, "dead, and PID {pid} has left its PID file behind"),
            Self::Silent(why) | Self::Unknown(why) => write!(f, "{why}"),
        }
    }
}

impl Subject {
    /// What the options of a command name. What is wrong with task files is said on standard error.
    pub(super) fn chosen(tasks: &Tasks, pid_file: Option<&Path>) -> Result<Vec<Self>, Exit> {
        if let Some(path) = pid_file {
            return Ok(vec![Self::PidFile(path.to_owned())]);
        }
        match config::load(&tasks.config, &tasks.task_name) {
            Ok(tasks) => Ok(tasks.into_iter().map(Box::new).map(Self::Task).collect()),
            Err(errors) => {
                for complaint in errors.complaints() {
                    complain(complaint);
                }
                Err(Exit::Config)
            }
        }
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Task(task) => format!("task {}", task.name),
            Self::PidFile(path) => format!("the process of {}", path.display()),
        }
    }

    /// The task's name, as a list; none for all tasks of a process.
    fn tasks(&self) -> Option<String> {
        match self {
            Self::Task(task) => Some(task.name.clone()),
            Self::PidFile(_) => None,
        }
    }

    fn locate(&self) -> Place {
        match self {
            Self::Task(task) => locate_task(task),
            Self::PidFile(path) => locate_holder(path),
        }
    }
}

/// Where a subject's process is.
enum Place {
    /// It can be asked there.
    At(Control),
    /// It runs, but cannot be asked: not yet, or not any more.
    Unreachable(String),
    /// It cannot be asked.
    Not(Unasked),
}

fn unknown(what: &str, error: &io::Error) -> Place {
    Place::Not(Unasked::Unknown(format!("cannot tell who {what}: {error}")))
}

fn locate_task(task: &Task) -> Place {
    let holder = match task_holder(&task.state_dir, &task.name) {
        Ok(Some(holder)) => holder,
        Ok(None) => return Place::Not(Unasked::NotRunning),
        Err(error) => {
            let lock = format!("holds the lock in {}", task.state_dir.display());
            return unknown(&lock, &error);
        }
    };
    let pid = holder.pid;
    match holder.control {
        Some(path) => Place::At(Control { path, pid }),
        None => Place::Unreachable(without_socket(pid)),
    }
}

fn locate_holder(pid_file: &Path) -> Place {
    let pid = match process::holder(pid_file) {
        Ok(Holder::Running(pid)) => pid,
        Ok(Holder::Stale(Some(pid))) => return Place::Not(Unasked::Dead(pid)),
        // It ended in order, and emptied the file that it was not allowed to remove.
        Ok(Holder::Stale(None) | Holder::Absent) => return Place::Not(Unasked::NotRunning),
        Err(error) => return Place::Not(Unasked::Unknown(error.to_string())),
    };
    let found = match control_of(pid) {
        Ok(found) => found,
        // It has ended since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return unknown(&format!("PID {pid} is"), &error),
    };
    let pid = Some(pid);
    match found {
        Some(path) => Place::At(Control { path, pid }),
        None => Place::Unreachable(without_socket(pid)),
    }
}

fn without_socket(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("PID {pid} runs, but has no control socket"),
        None => "a process that cannot be seen from here runs it, and has no control socket".into(),
    }
}

/// Asks every process once, with the names of the tasks that are asked about (none: all of the process), and answers
/// for each subject what its process said, or why it said nothing. Nobody is waited for any longer than `end`.
pub(super) fn ask<Said: Clone>(
    subjects: &[Subject],
    end: Option<Instant>,
    mut request: impl FnMut(&Control, &[String], Deadline) -> Result<Said, AskError>,
) -> Vec<Result<Said, Unasked>> {
    let last_look = Instant::now() + PATIENCE;
    let last_look = end.map_or(last_look, |end| end.min(last_look));
    let mut answers: Vec<Option<Result<Said, Unasked>>> = vec![None; subjects.len()];
    loop {
        let mut again = false;
        let is_last = Instant::now() >= last_look;
        let mut retry = |why: String| {
            again |= !is_last;
            is_last.then_some(Err(Unasked::Silent(why)))
        };
        let mut processes: BTreeMap<Control, Vec<usize>> = BTreeMap::new();
        for (number, (subject, answer)) in subjects.iter().zip(&mut answers).enumerate() {
            if answer.is_some() {
                continue;
            }
            match subject.locate() {
                Place::At(control) => processes.entry(control).or_default().push(number),
                Place::Unreachable(why) => *answer = retry(why),
                Place::Not(unasked) => *answer = Some(Err(unasked)),
            }
        }
        for (control, numbers) in processes {
            let asked = numbers.iter().filter_map(|number| subjects.get(*number));
            let names: Option<Vec<String>> = asked.map(Subject::tasks).collect();
            let deadline = Deadline::before(end);
            let answer = match request(&control, &names.unwrap_or_default(), deadline) {
                Ok(said) => Some(Ok(said)),
                Err(error @ AskError::Silent(_)) => Some(Err(Unasked::Silent(error.to_string()))),
                Err(error @ AskError::Deserted(_)) => retry(error.to_string()),
                Err(error) => Some(Err(Unasked::Unknown(error.to_string()))),
            };
            for number in numbers {
                if let Some(place) = answers.get_mut(number) {
                    place.clone_from(&answer);
                }
            }
        }
        if !again {
            let lost = || Err(Unasked::Unknown("it was not asked".to_owned()));
            return answers
                .into_iter()
                .map(|answer| answer.unwrap_or_else(lost))
                .collect();
        }
        sleep(PAUSE);
    }
}

/// Of several exit codes the one that tells most: unknown, not running, dead, running.
pub(super) fn worst(exits: impl IntoIterator<Item = Exit>) -> Exit {
    exits
        .into_iter()
        .max_by_key(|exit| exit.code())
        .unwrap_or(Exit::Done)
}
