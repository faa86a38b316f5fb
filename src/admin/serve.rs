//! Answering on the control socket.
//!
//! A client gets [`PATIENCE`] to send its request and to take its answer, and no more than [`CLIENTS`] are listened to at
//! a time; the others wait to be accepted. So whoever sends nothing, too much, or does not read holds up other clients
//! for a while, and nobody else.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Managed;
use super::protocol::{self, Answer, DoubtedKey, LONGEST_REQUEST, Request, TaskReport};
use crate::config::Severity;
use crate::logging::Levels;
use crate::task::{Doubted, Unrepaired};

/// Clients that are listened to at a time.
const CLIENTS: usize = 32;

/// How long a client may take. It has its request ready, so this is for a machine under load.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nobody is accepted when the process has no descriptor left for them.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Answers until dropped. Needs a runtime with I/O and time; without, that is the error.
pub(super) async fn serve(listener: StdListener, tasks: Vec<Managed>) -> io::Error {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let tasks: Arc<[Subject]> = tasks.into_iter().map(Subject::new).collect();
    let places = Arc::new(Semaphore::new(CLIENTS));
    let mut conversations = JoinSet::new();
    loop {
        let place = match places.clone().acquire_owned().await {
            Ok(place) => place,
            // It is never closed.
            Err(closed) => return io::Error::other(closed),
        };
        // What became of earlier ones is between them and their clients.
        while conversations.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let tasks = tasks.clone();
                conversations.spawn(async move {
                    // An error is a client that has gone or that is too slow: there is nobody to be told.
                    let _ = timeout(PATIENCE, converse(stream, &tasks)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(EXHAUSTED).await,
        }
    }
}

/// A task, and what it logged at the start.
struct Subject {
    managed: Managed,
    levels_before: String,
}

impl Subject {
    fn new(managed: Managed) -> Self {
        Self {
            levels_before: managed.levels.describe(),
            managed,
        }
    }

    fn task(&self) -> &str {
        self.managed.reporter.task()
    }

    fn report(&self) -> TaskReport {
        let levels = self.managed.levels.describe();
        TaskReport {
            report: self.managed.reporter.report(),
            log_levels: Some(levels).filter(|levels| *levels != self.levels_before),
        }
    }
}

async fn converse(mut stream: UnixStream, tasks: &[Subject]) -> io::Result<()> {
    let asker = stream.peer_cred()?.uid();
    let answer = if may_ask(asker, geteuid().as_raw()) {
        match request(&mut stream).await? {
            Ok(request) => answer(&request, tasks),
            Err(reason) => Answer::Refused { reason },
        }
    } else {
        Answer::Refused {
            reason: format!("user {asker} may not ask this process"),
        }
    };
    let line = protocol::encode(&answer).or_else(|error| {
        protocol::encode(&Answer::Refused {
            reason: format!("the answer cannot be sent: {error}"),
        })
    })?;
    stream.write_all(&line).await?;
    stream.shutdown().await
}

/// Whether a client of this user is answered.
fn may_ask(asker: u32, own: u32) -> bool {
    asker == 0 || asker == own
}

/// The client's request, or why it has none.
async fn request(stream: &mut UnixStream) -> io::Result<Result<Request, String>> {
    let mut line = Vec::new();
    // One byte more tells a line that is too long from one that just fits.
    let limit = LONGEST_REQUEST as u64 + 1;
    let mut reader = BufReader::new(stream.take(limit));
    reader.read_until(b'\n', &mut line).await?;
    if line.len() > LONGEST_REQUEST {
        return Ok(Err(format!(
            "the request is longer than {LONGEST_REQUEST} bytes"
        )));
    }
    match line.pop() {
        Some(b'\n') => Ok(protocol::decode(&line).map_err(|invalid| invalid.to_string())),
        _ => Ok(Err("the request has no end".to_owned())),
    }
}

fn answer(request: &Request, tasks: &[Subject]) -> Answer {
    let chosen = |names: &[String]| {
        let unknown = |name: &&String| !tasks.iter().any(|task| task.task() == name.as_str());
        match names.iter().find(unknown) {
            Some(name) => Err(Answer::Refused {
                reason: format!("task {name} does not run in this process"),
            }),
            None => Ok(tasks
                .iter()
                .filter(|task| names.is_empty() || names.iter().any(|name| name == task.task()))
                .collect::<Vec<_>>()),
        }
    };
    let answered = match request {
        Request::Status => Ok(Answer::Tasks {
            tasks: tasks.iter().map(Subject::report).collect(),
        }),
        Request::Refresh { tasks } => chosen(tasks).map(|chosen| {
            for task in chosen {
                task.managed.reporter.refresh();
            }
            Answer::Done
        }),
        Request::Approve { tasks } => chosen(tasks).map(|chosen| {
            let waited = chosen
                .into_iter()
                .filter(|task| task.managed.reporter.approve());
            Answer::Approved {
                tasks: waited.map(|task| task.task().to_owned()).collect(),
            }
        }),
        Request::Repair { task, keys } => {
            chosen(std::slice::from_ref(task)).and_then(|chosen| repair(&chosen, keys))
        }
        Request::LogLevel {
            tasks,
            module,
            level,
        } => chosen(tasks).and_then(|chosen| set_levels(&chosen, module.as_deref(), *level)),
    };
    answered.unwrap_or_else(|refused| refused)
}

fn repair(tasks: &[&Subject], keys: &[DoubtedKey]) -> Result<Answer, Answer> {
    let refused = |reason: String| Answer::Refused { reason };
    let keys: Option<Vec<Doubted>> = keys.iter().map(DoubtedKey::decoded).collect();
    let keys = keys.ok_or_else(|| refused("a key is no base64".to_owned()))?;
    // One name, so one task.
    let Some(task) = tasks.first() else {
        return Err(refused("no task is named".to_owned()));
    };
    match task.managed.reporter.repair(keys) {
        Ok(()) => Ok(Answer::Taken),
        Err(Unrepaired::Busy) => Ok(Answer::Busy),
        Err(Unrepaired::NotNow(why)) => Err(refused(why)),
    }
}

fn set_levels(
    tasks: &[&Subject],
    module: Option<&str>,
    level: Option<Severity>,
) -> Result<Answer, Answer> {
    if let Some(module) = module
        && !Levels::is_module(module)
    {
        return Err(Answer::Refused {
            reason: format!("there is no module {module}"),
        });
    }
    let mut levels = BTreeMap::new();
    for task in tasks {
        task.managed.levels.set(module, level);
        levels.insert(task.task().to_owned(), task.managed.levels.describe());
    }
    Ok(Answer::Levels { levels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_own_user_may_ask() {
        assert!(may_ask(0, 1000) && may_ask(1000, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
        // A user that is not known in this namespace.
        assert!(!may_ask(65_534, 0));
    }
}
