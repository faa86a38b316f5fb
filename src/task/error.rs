//! Why a task stopped, and what that means for whoever started it.

use indicatif::BinaryBytes;

use crate::net::ConnectError;
use crate::process::Exit;
use crate::source::dragonfly::SourceError;
use crate::spool::{Full, PushError, ReadError, SpoolError};
use crate::target::TargetError;

use super::barrier::Disagreement;
use super::sizing::TooLarge;

/// Why a task, or one session of it, ended.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The source, or the way to it.
    #[error("source{}: {cause}", .addr.as_ref().map_or_else(String::new, |addr| format!(" {addr}")))]
    Source {
        /// Whom; filled in where the error leaves the task.
        addr: Option<String>,
        /// What is wrong there.
        #[source]
        cause: SourceError,
    },
    /// The target, or the way to it.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A key or command that the target cannot hold, with `on_unsupported = "stop"`.
    #[error("{what} of database {db} cannot be copied: {reason}")]
    Unsupported {
        /// The key or command, shown with escapes.
        what: String,
        /// Source database.
        db: u32,
        /// Why the target cannot hold it.
        reason: String,
    },
    /// A value whose bytes are not of its type.
    #[error("the source sent a damaged value for key {key} of database {db}: {cause}")]
    Damaged {
        /// The key, shown with escapes.
        key: String,
        /// Source database.
        db: u32,
        /// What is wrong.
        cause: String,
    },
    /// The flows' global commands contradict each other.
    #[error(transparent)]
    Barrier(#[from] Disagreement),
    /// A journal entry whose words do not add up.
    #[error("the source sent a damaged entry on flow {flow}")]
    Malformed {
        /// Which flow.
        flow: u32,
        /// What is wrong.
        #[source]
        cause: crate::entry::MalformedArgs,
    },
    /// The state directory cannot be used.
    #[error("cannot use the state directory {}: {cause}", .dir.display())]
    State {
        /// Which directory.
        dir: std::path::PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Retrying has lasted longer than `retry.max_elapsed`.
    #[error("gave up after {}", humantime::format_duration(*.after))]
    GaveUp {
        /// The limit that was reached.
        after: std::time::Duration,
        /// The last failure.
        #[source]
        last: Box<TaskError>,
    },
    /// The task was told to end at once, or `task.shutdown_timeout` passed, before the target had
    /// answered for what was in flight.
    #[error("stopped before the target confirmed what was in flight")]
    Undrained,
    /// The source has keys in databases that would become others than 0, and the target is a cluster.
    #[error("the target is a cluster, which has only database 0, and the source has {}", databases(.0))]
    OtherDatabases(Vec<(u32, u64)>),
    /// Entries that the target refused wait for an operator's word.
    #[error("entries that the target refused are not settled: {count}, the first: {first}")]
    Unsettled {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
        /// The task file.
        file: std::path::PathBuf,
    },
    /// The spool cannot be opened.
    #[error("cannot open the spool: {0}")]
    Spool(#[source] SpoolError),
    /// The spool cannot be written.
    #[error("cannot write to the spool: {0}")]
    Spooling(#[source] PushError),
    /// The spool cannot be read.
    #[error("cannot read the spool: {0}")]
    Unspooling(#[source] ReadError),
    /// The target was slower than the source for longer than the spool lasts.
    #[error("the spool is full{}: {full}", if *.in_snapshot { " before the snapshot was in the target" } else { "" })]
    SpoolFull {
        /// What was needed and what there was.
        full: Full,
        /// During a full sync, which would only fill it again.
        in_snapshot: bool,
    },
    /// A full sync that would fill the spool, by what the last one has shown, and so was not started.
    #[error(
        "{}: {}about {} would have to wait in the spool, by the last one's rates ({}/s sent, {}/s taken by the \
         target), and there is room for {}",
        if .0.again { "the last full sync filled the spool, and nothing that matters has changed since" }
        else { "a full sync would fill the spool" },
        .0.used_memory.map_or_else(String::new, |used| format!("of {} at the source, ", BinaryBytes(used))),
        BinaryBytes(.0.needed), BinaryBytes(.0.rates.0), BinaryBytes(.0.rates.1), BinaryBytes(.0.room)
    )]
    TooLarge(Box<TooLarge>),
    /// The target has lost more keys than can be read again one by one.
    #[error("more than {keys} keys of flow {flow} would have to be read again")]
    Overwhelmed {
        /// Which flow.
        flow: u32,
        /// How many are waiting for that.
        keys: usize,
    },
    /// The source became another one between two questions.
    #[error("the source was started anew while the session was opened")]
    Moved,
    /// A bug: told to end at once, the task did not.
    #[error("the task did not end when told to, and was abandoned")]
    Stuck,
    /// A bug: one of the task's parts panicked. The log has its message.
    #[error("a part of the task panicked: {0}")]
    Panicked(String),
}

/// What to do about databases that a cluster does not have.
pub(super) const ONLY_DATABASE_0: &str =
    "copy one of them: choose it with filter.databases, and make it 0 with target.db_map";

fn databases(keyspace: &[(u32, u64)]) -> String {
    let shown = keyspace.iter();
    let shown = shown.map(|(db, keys)| match keys {
        1 => format!("1 key in database {db}"),
        keys => format!("{keys} keys in database {db}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

impl From<SourceError> for TaskError {
    fn from(cause: SourceError) -> Self {
        Self::Source { addr: None, cause }
    }
}

impl TaskError {
    /// The same error, with the source's address if it is about the source.
    pub(super) fn of_source(self, address: &impl std::fmt::Display) -> Self {
        match self {
            Self::Source { cause, .. } => Self::Source {
                addr: Some(address.to_string()),
                cause,
            },
            other => other,
        }
    }

    /// Whether a new session may succeed where this one failed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Source { cause, .. } => cause.is_temporary(),
            Self::Target(error) => error.is_temporary(),
            // A broken stream may have been broken on the way; a full sync starts from scratch.
            Self::Barrier(_)
            | Self::Malformed { .. }
            | Self::Damaged { .. }
            | Self::Moved
            | Self::Overwhelmed { .. }
            | Self::Spool(_)
            | Self::Spooling(_)
            | Self::Unspooling(_)
            | Self::Panicked(_) => true,
            Self::SpoolFull { in_snapshot, .. } => !in_snapshot,
            Self::Unsupported { .. }
            | Self::OtherDatabases(_)
            | Self::Unsettled { .. }
            | Self::TooLarge(_)
            | Self::State { .. }
            | Self::GaveUp { .. }
            | Self::Stuck
            | Self::Undrained => false,
        }
    }

    /// Whether another process goes on with the task, so that trying again would only take it from there.
    pub fn is_displaced(&self) -> bool {
        matches!(self, Self::Target(TargetError::TakenOver { .. }))
    }

    /// What an operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source { cause, .. } => cause.hint().map(str::to_owned),
            Self::Target(error) => Some(error.hint().to_owned()),
            Self::Unsupported { .. } => Some(
                "set policy.on_unsupported to \"skip\" to go on without such keys and commands, \
                 or exclude them with filter.exclude"
                    .to_owned(),
            ),
            Self::GaveUp { last, .. } => last.hint(),
            Self::State { .. } => Some("set task.state_dir to a directory of this user".to_owned()),
            Self::Undrained => {
                Some("the next start goes on where the target is; a longer task.shutdown_timeout gives a slow target time".to_owned())
            }
            Self::Spool(_) | Self::Spooling(_) | Self::Unspooling(_) => {
                Some("check space, permissions and health of the disk of task.state_dir".to_owned())
            }
            Self::SpoolFull { .. } => Some(
                "raise spool.max_size or free space, or slow the source down with its setting \
                 snapshot_egress_limit_bytes, or set spool.on_full to \"throttle\""
                    .to_owned(),
            ),
            Self::TooLarge(what) => Some(what.hint()),
            Self::OtherDatabases(_) => Some(ONLY_DATABASE_0.to_owned()),
            Self::Unsettled { file, .. } => {
                let file = file.display();
                Some(format!(
                    "put it right, then `df2redis retry --config {file}` runs them again, or `df2redis skip --config \
                     {file}` gives them up"
                ))
            }
            Self::Barrier(_)
            | Self::Malformed { .. }
            | Self::Damaged { .. }
            | Self::Stuck
            | Self::Moved
            | Self::Overwhelmed { .. }
            | Self::Panicked(_) => None,
        }
    }

    /// The exit code this ends the process with.
    pub fn exit_code(&self) -> Exit {
        match self {
            Self::Source { cause, .. } => source_exit(cause),
            Self::Target(error) => target_exit(error),
            Self::Unsupported { .. } | Self::Unsettled { .. } | Self::Damaged { .. } => {
                Exit::BadInput
            }
            Self::OtherDatabases(_) => Exit::Config,
            Self::Barrier(_) | Self::Malformed { .. } => Exit::Protocol,
            Self::State { .. } => Exit::CannotCreate,
            Self::GaveUp { last, .. } => match last.exit_code() {
                exit @ (Exit::Permission | Exit::Config) => exit,
                _ => Exit::Unavailable,
            },
            Self::TooLarge(_) => Exit::Config,
            Self::Undrained | Self::Moved | Self::Overwhelmed { .. } => Exit::Temporary,
            Self::Spool(_) | Self::Spooling(_) | Self::Unspooling(_) | Self::SpoolFull { .. } => {
                Exit::Io
            }
            Self::Stuck | Self::Panicked(_) => Exit::Internal,
        }
    }
}

/// An error and its causes in one line, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

fn source_exit(error: &SourceError) -> Exit {
    match error {
        SourceError::Connect(cause) => connect_exit(cause),
        SourceError::PasswordMissing
        | SourceError::PasswordWrong { .. }
        | SourceError::NoPermission { .. }
        | SourceError::Restricted { .. } => Exit::Permission,
        SourceError::IsReplica | SourceError::NeedsTls => Exit::Config,
        SourceError::NotDragonfly { .. }
        | SourceError::Refused { .. }
        | SourceError::Unexpected { .. }
        | SourceError::SnapshotsOpen { .. }
        | SourceError::Invalid { .. }
        | SourceError::UnknownOpcode { .. }
        | SourceError::UnknownType { .. }
        | SourceError::ErrorText { .. }
        | SourceError::LsnMismatch { .. }
        | SourceError::WrongToken { .. } => Exit::Protocol,
        SourceError::Closed { .. }
        | SourceError::HalfOpen { .. }
        | SourceError::NoAnswer { .. }
        | SourceError::Loading
        | SourceError::MasterChanged
        | SourceError::FlowCount { .. }
        | SourceError::SessionLost { .. } => Exit::Unavailable,
        SourceError::Spill { .. } | SourceError::SpillRead(_) => Exit::Io,
    }
}

fn target_exit(error: &TargetError) -> Exit {
    match error {
        TargetError::Connect { cause, .. } => connect_exit(cause),
        TargetError::Login { .. } | TargetError::Permission { .. } => Exit::Permission,
        TargetError::Protocol { .. } | TargetError::Answer { .. } => Exit::Protocol,
        TargetError::Lost { .. }
        | TargetError::Silent { .. }
        | TargetError::Unready { .. }
        | TargetError::Vanished { .. }
        | TargetError::Replaced { .. } => Exit::Unavailable,
        TargetError::Refused { .. } => Exit::BadInput,
        TargetError::Database { .. }
        | TargetError::Cluster { .. }
        | TargetError::NotACluster { .. }
        | TargetError::TooOld { .. }
        | TargetError::Overlap { .. } => Exit::Config,
        TargetError::Conflict { .. } | TargetError::TakenOver { .. } => Exit::CannotCreate,
        TargetError::Record { .. } => Exit::Protocol,
        TargetError::DeadLetter { .. } | TargetError::Spill(_) => Exit::Io,
    }
}

fn connect_exit(cause: &ConnectError) -> Exit {
    if cause.is_temporary() {
        Exit::Unavailable
    } else {
        Exit::Config
    }
}
