//! What is known of one task: from the process that runs it, or else from what it left behind.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::admin::TaskReport;
use crate::cli::running::{Subject, Unasked};
use crate::config::Task;
use crate::process::Exit;
use crate::task::{Phase, Report, Server};

/// What there is to show.
#[derive(Debug)]
pub(super) enum Known {
    /// One task.
    Task(Box<TaskState>),
    /// The process of a PID file, of whose tasks nothing is known.
    Process {
        /// What it is called.
        name: String,
        /// Why its tasks are not known.
        silence: Unasked,
    },
}

/// One task.
#[derive(Debug)]
pub(super) struct TaskState {
    /// The task at one moment; how much of it is known, and of which moment, says `origin`.
    pub(super) report: Report,
    /// Where that is from.
    pub(super) origin: Origin,
    /// Why it is not from the process that runs the task; none: it is.
    pub(super) silence: Option<Unasked>,
    /// What the task logs, if that was changed since it started.
    pub(super) log_levels: Option<String>,
}

/// Where a report is from.
#[derive(Debug)]
pub(super) enum Origin {
    /// From the process, of this moment.
    Process,
    /// The last that the process saved.
    Saved,
    /// The task file, which knows no more than names and addresses; with the error that made the saved one unreadable, if
    /// there is one.
    TaskFile(Option<io::Error>),
}

impl Known {
    /// What is known of the tasks of a subject, given what its process said.
    pub(super) fn of(subject: &Subject, answer: Result<Vec<TaskReport>, Unasked>) -> Vec<Self> {
        let told = |told: TaskReport| {
            Self::task(TaskState {
                report: told.report,
                origin: Origin::Process,
                silence: None,
                log_levels: told.log_levels,
            })
        };
        match (subject, answer) {
            (Subject::PidFile(_), Ok(tasks)) => tasks.into_iter().map(told).collect(),
            (Subject::PidFile(_), Err(silence)) => {
                let name = subject.name();
                vec![Self::Process { name, silence }]
            }
            (Subject::Task(task), Ok(tasks)) => {
                let mut own = tasks.into_iter().filter(|own| own.report.task == task.name);
                vec![own.next().map_or_else(
                    || {
                        left_behind(
                            task,
                            Unasked::Unknown("its process does not know it".into()),
                        )
                    },
                    told,
                )]
            }
            (Subject::Task(task), Err(silence)) => vec![left_behind(task, silence)],
        }
    }

    fn task(state: TaskState) -> Self {
        Self::Task(Box::new(state))
    }

    /// The exit code that tells whether it runs.
    pub(super) fn exit(&self) -> Exit {
        let silence = match self {
            Self::Task(task) => task.silence.as_ref(),
            Self::Process { silence, .. } => Some(silence),
        };
        silence.map_or(Exit::Done, Unasked::exit_of_status)
    }

    /// What there is to say where no task is known.
    pub(super) fn note(&self) -> Option<String> {
        match self {
            Self::Task(_) => None,
            Self::Process { name, silence } => Some(format!("{name}: {silence}")),
        }
    }

    /// The task as a JSON object: the report's fields as far as they are known, and `running` (null: it cannot be
    /// told), `note`, `log_levels`. None for what is no task.
    pub(super) fn json(&self) -> Option<Value> {
        let Self::Task(task) = self else { return None };
        let TaskState {
            report,
            origin,
            silence,
            log_levels,
        } = task.as_ref();
        let lossy = |path: &Path| path.to_string_lossy().into_owned();
        let files = || {
            json!({
                "task": report.task,
                "file": lossy(&report.file),
                "log_file": lossy(&report.log_file),
                "source": report.source,
                "target": report.target,
            })
        };
        let mut value = match origin {
            Origin::TaskFile(_) => files(),
            // Read from JSON, so it can be written as such.
            Origin::Process | Origin::Saved => {
                serde_json::to_value(report).unwrap_or_else(|_| files())
            }
        };
        if let Some(fields) = value.as_object_mut() {
            let running = match silence {
                None => Value::Bool(true),
                Some(Unasked::Silent(_) | Unasked::Unknown(_)) => Value::Null,
                Some(Unasked::NotRunning | Unasked::Dead(_)) => Value::Bool(false),
            };
            fields.insert("running".into(), running);
            fields.insert("note".into(), json!(task.note()));
            fields.insert("log_levels".into(), json!(log_levels));
        }
        Some(value)
    }
}

impl TaskState {
    /// Why there is no report of this moment, in one line; none: there is.
    pub(super) fn note(&self) -> Option<String> {
        let silence = self.silence.as_ref()?;
        Some(match (&self.origin, silence) {
            (Origin::TaskFile(None), _) => format!("{silence}, and no state was left behind"),
            (Origin::TaskFile(Some(error)), _) => {
                format!("{silence}, and the state that was left behind cannot be read: {error}")
            }
            (_, Unasked::NotRunning) if !self.ended_in_order() => {
                "dead, it ended without saying so".to_owned()
            }
            _ => silence.to_string(),
        })
    }

    /// Whether the last that it said is how it ended.
    pub(super) fn ended_in_order(&self) -> bool {
        matches!(self.report.phase, Phase::Stopped | Phase::Failed)
    }
}

fn left_behind(task: &Task, silence: Unasked) -> Known {
    let (report, origin) = match Report::load(&task.state_dir, &task.name) {
        Ok(Some(report)) => (report, Origin::Saved),
        Ok(None) => (from_file(task), Origin::TaskFile(None)),
        Err(error) => (from_file(task), Origin::TaskFile(Some(error))),
    };
    Known::task(TaskState {
        report,
        origin,
        silence: Some(silence),
        log_levels: None,
    })
}

fn from_file(task: &Task) -> Report {
    let server = |address: String| Server {
        address,
        server: None,
    };
    Report {
        task: task.name.clone(),
        file: task.file.clone(),
        log_file: task.log.dir.join(format!("{}_replicate.log", task.name)),
        source: server(task.source.address.to_string()),
        target: server(task.target.address.to_string()),
        ..Report::default()
    }
}
