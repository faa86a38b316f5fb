//! What can go wrong with a Dragonfly source, as cases its caller treats differently.
//! Invariant: no password, key or value stands in an error.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::net::ConnectError;

use super::pulse::Silence;

/// Where in a flow's bytes, counted from the first after the `DFLY FLOW` reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Offset on the wire.
    pub byte: u64,
    /// For what is inside a compressed blob that starts at `byte`: offset in its content.
    pub inside: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inside {
            Some(inside) => write!(f, "byte {inside} of the blob at byte {}", self.byte),
            None => write!(f, "byte {}", self.byte),
        }
    }
}

/// How far a session had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the snapshot.
    Handshake,
    /// Between `DFLY SYNC` and the end of the snapshot.
    Snapshot,
    /// In the journal stream.
    Stable,
    /// On an ordinary connection.
    Monitor,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "the handshake",
            Self::Snapshot => "the snapshot",
            Self::Stable => "the journal stream",
            Self::Monitor => "monitoring",
        })
    }
}

/// Which of the session's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The one the session was created on.
    Control,
    /// The one of this flow.
    Flow(u32),
    /// An ordinary connection beside the session.
    Monitor,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("the control connection"),
            Self::Flow(flow) => write!(f, "flow {flow}"),
            Self::Monitor => f.write_str("the monitoring connection"),
        }
    }
}

/// Why the source cannot be read, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No connection.
    #[error("cannot reach the source")]
    Connect(#[from] ConnectError),
    /// The source closed a connection, or it broke.
    #[error("the source closed {link} during {phase}")]
    Closed {
        /// Which connection.
        link: Link,
        /// When.
        phase: Phase,
        /// What the system said, if anything.
        #[source]
        cause: Option<io::Error>,
    },
    /// The source goes on and nothing arrives: something between the two forgot the connection.
    #[error(
        "flow {flow} has brought nothing for {}, though the source is at entry {} and the flow at {received}: \
         the connection is half-open",
        whole_seconds(&.silence.lasted), .silence.master_next
    )]
    HalfOpen {
        /// Which flow.
        flow: u32,
        /// LSN after the last entry received.
        received: u64,
        /// For how long, and how far the source is.
        silence: Silence,
    },
    /// No answer to a request.
    #[error("the source did not answer {request} within {}", humantime::format_duration(*.after))]
    NoAnswer {
        /// The request's name.
        request: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The source asks for a password, and none is set.
    #[error("the source requires a password and none is configured")]
    PasswordMissing,
    /// The source refuses user or password.
    #[error("the source refuses the user or the password: {answer}")]
    PasswordWrong {
        /// Its answer.
        answer: String,
    },
    /// The user lacks a command.
    #[error("the source's user lacks the permission {missing}: {answer}")]
    NoPermission {
        /// What `ACL SETUSER` must add, such as `+dfly`.
        missing: &'static str,
        /// The answer.
        answer: String,
    },
    /// The commands of replication are refused on this port.
    #[error("the source serves {request} on its admin port only")]
    Restricted {
        /// The request's name.
        request: &'static str,
    },
    /// The source is reading its own data from disk.
    #[error("the source is still loading its data")]
    Loading,
    /// Some other server.
    #[error("the server is not a Dragonfly master: it answered {request} with {answer}")]
    NotDragonfly {
        /// The request's name.
        request: &'static str,
        /// What it said.
        answer: String,
    },
    /// A Dragonfly that replicates from another one.
    #[error("the source is itself a replica")]
    IsReplica,
    /// The port expects TLS.
    #[error("the source expects TLS on this port")]
    NeedsTls,
    /// The process was restarted between two steps of the handshake.
    #[error("the source was restarted during the handshake")]
    MasterChanged,
    /// The number of flows is not what it was a moment ago.
    #[error("the source's number of flows changed: {expected} were announced, {}", count_now(.got))]
    FlowCount {
        /// As announced.
        expected: u32,
        /// As it is now, if known.
        got: Option<u32>,
    },
    /// The source has forgotten the session.
    #[error("the source dropped the session at {request}: {answer}")]
    SessionLost {
        /// The request's name.
        request: &'static str,
        /// What it said.
        answer: String,
    },
    /// An error reply nobody foresaw.
    #[error("the source refused {request}: {answer}")]
    Refused {
        /// The request's name.
        request: &'static str,
        /// What it said.
        answer: String,
    },
    /// An answer of the wrong shape.
    #[error("the source answered {request} with {answer}")]
    Unexpected {
        /// The request's name.
        request: &'static str,
        /// What it said, shortened.
        answer: String,
    },
    /// `DFLY STARTSTABLE` was asked for without the end of every flow's snapshot.
    #[error("{ended} of {flows} flows have ended their snapshot")]
    SnapshotsOpen {
        /// Flows that have.
        ended: usize,
        /// All flows.
        flows: u32,
    },
    /// Bytes that cannot be what they claim to be.
    #[error("invalid data on flow {flow} at {at}: {what}")]
    Invalid {
        /// Which flow.
        flow: u32,
        /// Where.
        at: Place,
        /// What is wrong.
        what: Cow<'static, str>,
    },
    /// An opcode without known meaning; its length is unknown too.
    #[error("unknown opcode {opcode} on flow {flow} at {at}")]
    UnknownOpcode {
        /// Which flow.
        flow: u32,
        /// Where.
        at: Place,
        /// The opcode.
        opcode: u8,
    },
    /// A value type without known layout.
    #[error("unknown value type {kind} on flow {flow} at {at}")]
    UnknownType {
        /// Which flow.
        flow: u32,
        /// Where.
        at: Place,
        /// The type number.
        kind: u8,
    },
    /// Text where a journal entry should start: the source reports that it ended the session.
    #[error("flow {flow} carries an error text instead of an entry at {at}")]
    ErrorText {
        /// Which flow.
        flow: u32,
        /// Where.
        at: Place,
    },
    /// The source counts differently: entries were lost.
    #[error("flow {flow} lost entries: expected entry {expected}, the source is at {got}")]
    LsnMismatch {
        /// Which flow.
        flow: u32,
        /// LSN of the last entry received.
        expected: u64,
        /// The source's.
        got: u64,
    },
    /// The snapshot does not end with the token that was promised.
    #[error("the snapshot of flow {flow} ends at {at} with a token of another session")]
    WrongToken {
        /// Which flow.
        flow: u32,
        /// Where.
        at: Place,
    },
    /// A large value could not be written to disk.
    #[error("cannot write a large value of flow {flow} to a file")]
    Spill {
        /// Which flow.
        flow: u32,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A large value that was read again could not be written to disk.
    #[error("cannot write a large value that was read again to a file")]
    SpillRead(#[source] io::Error),
}

fn whole_seconds(span: &Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(span.as_secs()))
}

fn count_now(got: &Option<u32>) -> String {
    match got {
        Some(got) => format!("now there are {got}"),
        None => "and now one of them does not exist".to_owned(),
    }
}

/// The smallest user that can replicate, and read again what came late.
const ACL_HINT: &str =
    "on the source: ACL SETUSER <user> +replconf +dfly +ping +select +exists +dump +pexpiretime ~*";

impl SourceError {
    /// Whether a new attempt can succeed without anybody changing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect(cause) => cause.is_temporary(),
            Self::Closed { .. }
            | Self::HalfOpen { .. }
            | Self::NoAnswer { .. }
            | Self::Loading
            | Self::MasterChanged
            | Self::FlowCount { .. }
            | Self::SessionLost { .. }
            | Self::ErrorText { .. }
            | Self::LsnMismatch { .. }
            | Self::WrongToken { .. } => true,
            Self::PasswordMissing
            | Self::PasswordWrong { .. }
            | Self::NoPermission { .. }
            | Self::Restricted { .. }
            | Self::NotDragonfly { .. }
            | Self::IsReplica
            | Self::NeedsTls
            | Self::Refused { .. }
            | Self::Unexpected { .. }
            | Self::SnapshotsOpen { .. }
            | Self::Invalid { .. }
            | Self::UnknownOpcode { .. }
            | Self::UnknownType { .. }
            | Self::Spill { .. }
            | Self::SpillRead(_) => false,
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Connect(ConnectError::Handshake { .. }) => Some(
                "check that the port speaks TLS, and the CA and server name under [source.tls]",
            ),
            Self::PasswordMissing | Self::PasswordWrong { .. } => {
                Some("check username and password under [source]")
            }
            Self::NoPermission { .. } => Some(ACL_HINT),
            Self::Restricted { .. } => {
                Some("use the source's admin port (--admin_port) as source.address")
            }
            Self::NotDragonfly { .. } => {
                Some("source.address must be a Dragonfly master's port, not Redis or a proxy")
            }
            Self::IsReplica => Some("name its master as source.address"),
            Self::NeedsTls => Some("add a [source.tls] table"),
            Self::UnknownOpcode { .. } | Self::UnknownType { .. } => {
                Some("the source is newer than this df2redis, or the stream is corrupt")
            }
            Self::Spill { .. } | Self::SpillRead(_) => {
                Some("check space and permissions of the state directory")
            }
            Self::HalfOpen { .. } => Some(
                "df2redis connects again by itself; look for what between it and the source drops connections",
            ),
            Self::Connect(_)
            | Self::Closed { .. }
            | Self::NoAnswer { .. }
            | Self::Loading
            | Self::MasterChanged
            | Self::FlowCount { .. }
            | Self::SessionLost { .. }
            | Self::Refused { .. }
            | Self::Unexpected { .. }
            | Self::SnapshotsOpen { .. }
            | Self::Invalid { .. }
            | Self::ErrorText { .. }
            | Self::LsnMismatch { .. }
            | Self::WrongToken { .. } => None,
        }
    }
}
