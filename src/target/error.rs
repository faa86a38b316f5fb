//! What can go wrong with a target, by what the caller does about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::outgoing::Described;
use crate::net::ConnectError;
use crate::resp::Garbage;

/// A failure on the target's side. Texts never hold secrets or values.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No connection could be made.
    #[error("cannot reach the target {addr}")]
    Connect {
        /// Whom.
        addr: String,
        /// Why not.
        #[source]
        cause: Box<ConnectError>,
    },
    /// User name or password are wrong, or needed and not set.
    #[error("the target {addr} refused the login: {answer}")]
    Login {
        /// Whom.
        addr: String,
        /// The target's words.
        answer: String,
    },
    /// The login is good, and not allowed to do what is needed.
    #[error("the target {addr} does not permit {command}: {answer}")]
    Permission {
        /// Whom.
        addr: String,
        /// What was refused.
        command: String,
        /// The target's words.
        answer: String,
    },
    /// What answers is no Redis.
    #[error("{addr} does not speak the Redis protocol")]
    Protocol {
        /// Whom.
        addr: String,
        /// What came.
        #[source]
        cause: Garbage,
    },
    /// The connection ended. Commands without an answer may or may not have been executed: they
    /// must not be sent again.
    #[error("lost the target {addr} with {unanswered} commands unanswered")]
    Lost {
        /// Whom.
        addr: String,
        /// Commands sent and not answered.
        unanswered: usize,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// No answer in time, on a control connection.
    #[error("the target {addr} did not answer within {} while {doing}", humantime::format_duration(*.after))]
    Silent {
        /// Whom.
        addr: String,
        /// What was being done.
        doing: String,
        /// How long was waited.
        after: Duration,
    },
    /// It answers, and cannot serve now: loading, full, busy, read-only.
    #[error("the target {addr} is not ready, {doing}: {answer}")]
    Unready {
        /// Whom.
        addr: String,
        /// What was being done.
        doing: String,
        /// The target's words.
        answer: String,
    },
    /// An answer that fits nothing.
    #[error("unexpected answer of the target {addr} while {doing}: {answer}")]
    Answer {
        /// Whom.
        addr: String,
        /// What was being done.
        doing: String,
        /// The target's words.
        answer: String,
    },
    /// A command was refused for good, and errors stop the task.
    #[error("the target {addr} refused {command} of key \"{}\"{}: {answer}", .key.escape_ascii(), at_lsn(*.lsn))]
    Refused {
        /// Whom.
        addr: String,
        /// The command's name.
        command: String,
        /// Its first argument.
        key: Vec<u8>,
        /// The journal entry it was made from.
        lsn: Option<u64>,
        /// The target's words.
        answer: String,
        /// It is recorded on the target, which holds what came before and after it.
        recorded: bool,
    },
    /// A database cannot be selected.
    #[error("the target {addr} has no database {db}, or does not permit it: {answer}")]
    Database {
        /// Whom.
        addr: String,
        /// Which.
        db: u32,
        /// The target's words.
        answer: String,
    },
    /// A Redis Cluster node under `type = "redis"`.
    #[error("the target {addr} is a node of a Redis Cluster")]
    Cluster {
        /// Whom.
        addr: String,
    },
    /// A single server under `type = "redis-cluster"`.
    #[error("the target {addr} is not a node of a Redis Cluster")]
    NotACluster {
        /// Whom.
        addr: String,
    },
    /// The target's release lacks something this task needs.
    #[error("the target {addr} is too old: {what}")]
    TooOld {
        /// Whom.
        addr: String,
        /// What is missing, and since when it exists.
        what: String,
    },
    /// Owned keys are there already, and `conflict = "panic"`.
    #[error("the target {addr} already holds keys of this task: {}", listed(.keys))]
    Conflict {
        /// Whom.
        addr: String,
        /// Some of them, with their databases.
        keys: Vec<(u32, Vec<u8>)>,
    },
    /// Another task claims keys of this one.
    #[error(
        "task \"{other}\" already writes {claim} on the target {addr}, which this task claims too"
    )]
    Overlap {
        /// Whom.
        addr: String,
        /// The other task.
        other: String,
        /// What it claims.
        claim: String,
    },
    /// A record of df2redis on the target cannot be understood.
    #[error("cannot understand {key} on the target {addr}: {what}")]
    Record {
        /// Whom.
        addr: String,
        /// Which key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// Another process of this task writes to the target.
    #[error("another process of this task has taken over the target {addr}: {holder}")]
    TakenOver {
        /// Whom.
        addr: String,
        /// What is known of the other process.
        holder: String,
    },
    /// The task's own keys are not as it left them: flushed, evicted, deleted, or the dataset is another one.
    #[error("the target {addr} no longer holds what this task wrote: {what}")]
    Vanished {
        /// Whom.
        addr: String,
        /// How that was seen.
        what: String,
    },
    /// The server was restarted, or another one answers, or its dataset has another history.
    #[error("the target {addr} was restarted, failed over or replaced")]
    Replaced {
        /// Whom.
        addr: String,
    },
    /// The dead-letter file cannot be written.
    #[error("cannot write {}", .path.display())]
    DeadLetter {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A spilled value cannot be read back.
    #[error("cannot read back a large value from the state directory")]
    Spill(#[source] io::Error),
}

impl TargetError {
    /// Whether the task starts again by itself after a while. After anything else it ends.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { cause, .. } => cause.is_temporary(),
            Self::Lost { .. } | Self::Silent { .. } | Self::Unready { .. } => true,
            // What the target holds now decides how to go on.
            Self::Vanished { .. } | Self::Replaced { .. } => true,
            // Whoever came last goes on; to take over in turn would never end.
            Self::TakenOver { .. } => false,
            Self::Login { .. }
            | Self::Permission { .. }
            | Self::Protocol { .. }
            | Self::Answer { .. }
            | Self::Refused { .. }
            | Self::Database { .. }
            | Self::Cluster { .. }
            | Self::NotACluster { .. }
            | Self::TooOld { .. }
            | Self::Conflict { .. }
            | Self::Overlap { .. }
            | Self::Record { .. }
            | Self::DeadLetter { .. }
            | Self::Spill(_) => false,
        }
    }

    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "check target.address, target.tls, and that the server runs",
            Self::Login { .. } => "check target.username and target.password",
            Self::Permission { .. } => {
                "permit the command to the task's user with ACL SETUSER on the target"
            }
            Self::Protocol { .. } => {
                "check the port in target.address, and whether it wants TLS (target.tls)"
            }
            Self::Lost { .. } => "the task starts again by itself; the target's log may say why",
            Self::Silent { .. } => "the target may be overloaded or blocked by a slow command",
            Self::Unready { .. } => "the task goes on by itself when the target is ready",
            Self::Answer { .. } => "a proxy in between, or a server that is no Redis or Valkey",
            Self::Refused { recorded: true, .. } => {
                "repair the cause on the target; then \"df2redis retry\" repeats the entry, or \
                 \"df2redis skip\" gives it up; set policy.on_error = \"skip\" to record such entries and go on"
            }
            Self::Refused { .. } => {
                "repair the cause on the target, or set policy.on_error = \"skip\" to record such \
                 commands in the dead-letter file and go on"
            }
            Self::Database { .. } => {
                "raise \"databases\" on the target, or map the database with target.db_map"
            }
            Self::Cluster { .. } => "set target.type = \"redis-cluster\"",
            Self::NotACluster { .. } => "set target.type = \"redis\"",
            Self::TooOld { .. } => "upgrade the target, or choose another setting",
            Self::Conflict { .. } => {
                "choose an empty target, or set policy.conflict to \"overwrite\" or \"skip\""
            }
            Self::Overlap { .. } => {
                "give the tasks databases or filter.include prefixes of their own; if the other \
                 task is gone for good, remove its records with \"df2redis forget\""
            }
            Self::Record { .. } => {
                "it may be of a newer df2redis: use that version, or forget the task"
            }
            Self::TakenOver { .. } => {
                "only one process can run a task: stop the other one before this one is started again"
            }
            Self::Vanished { .. } => {
                "the task reads its positions again; see who flushes the target, and whether it evicts keys"
            }
            Self::Replaced { .. } => "the task reads its positions from the target again",
            Self::DeadLetter { .. } => "check space and permissions of the state directory",
            Self::Spill(_) => "check the disk of the state directory",
        }
    }

    /// What it means that a flow's command was refused for good. `recorded`: its record is on the target.
    pub(super) fn of_refused(
        addr: &str,
        described: Described,
        text: &[u8],
        recorded: bool,
    ) -> Self {
        let addr = addr.to_owned();
        let answer = String::from_utf8_lossy(text).into_owned();
        match text.starts_with(b"NOPERM") {
            true => Self::Permission {
                addr,
                command: described.name,
                answer,
            },
            false => Self::Refused {
                addr,
                key: described.key().to_vec(),
                command: described.name,
                lsn: described.lsn,
                answer,
                recorded,
            },
        }
    }

    /// What an error reply on a control connection means.
    pub(super) fn from_answer(addr: &str, doing: &str, command: &str, answer: String) -> Self {
        let addr = addr.to_owned();
        match answer.split_whitespace().next().unwrap_or_default() {
            "NOPERM" | "DENIED" => Self::Permission {
                addr,
                command: command.to_owned(),
                answer,
            },
            "NOAUTH" | "WRONGPASS" => Self::Login { addr, answer },
            _ if super::answer::Refusal::of(answer.as_bytes()).is_some()
                || answer.starts_with("ERR max number of clients") =>
            {
                Self::Unready {
                    addr,
                    doing: doing.to_owned(),
                    answer,
                }
            }
            _ => Self::Answer {
                addr,
                doing: doing.to_owned(),
                answer,
            },
        }
    }
}

fn at_lsn(lsn: Option<u64>) -> String {
    lsn.map_or_else(String::new, |lsn| format!(" (journal entry {lsn})"))
}

fn listed(keys: &[(u32, Vec<u8>)]) -> String {
    let shown: Vec<_> = keys
        .iter()
        .map(|(db, key)| format!("\"{}\" in database {db}", key.escape_ascii()))
        .collect();
    shown.join(", ")
}
