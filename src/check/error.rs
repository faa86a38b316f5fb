//! Why a comparison could not be finished, by what it means to whoever asked for it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::net::ConnectError;
use crate::process::Exit;
use crate::target::TargetError;

use super::settings::Side;

/// A comparison ended early. Texts hold neither secrets nor values.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No connection could be made.
    #[error("cannot reach the {side} {addr}")]
    Connect {
        /// Which of the two.
        side: Side,
        /// Where it listens.
        addr: String,
        /// Why not.
        #[source]
        cause: Box<ConnectError>,
    },
    /// User name or password are wrong, or needed and not set; or a command is not permitted.
    #[error("the {side} {addr} does not permit {command}: {answer}")]
    Permission {
        /// Which of the two.
        side: Side,
        /// Where it listens.
        addr: String,
        /// What was asked.
        command: String,
        /// The server's words.
        answer: String,
    },
    /// The connection ended.
    #[error("lost the {side} {addr}")]
    Lost {
        /// Which of the two.
        side: Side,
        /// Where it listens.
        addr: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// No answer in time.
    #[error("the {side} {addr} did not answer within {}", humantime::format_duration(*.after))]
    Silent {
        /// Which of the two.
        side: Side,
        /// Where it listens.
        addr: String,
        /// How long was waited.
        after: Duration,
    },
    /// It answers, and cannot serve now, such as while it loads its dataset.
    #[error("the {side} {addr} is not ready: {answer}")]
    Unready {
        /// Which of the two.
        side: Side,
        /// Where it listens.
        addr: String,
        /// The server's words.
        answer: String,
    },
    /// An answer that fits nothing.
    #[error("unexpected answer of the {side} {addr} to {command}: {answer}")]
    Answer {
        /// Which of the two.
        side: Side,
        /// Where it listens.
        addr: String,
        /// What was asked.
        command: String,
        /// What came.
        answer: String,
    },
    /// The nodes of a cluster cannot be found.
    #[error(transparent)]
    Nodes(#[from] TargetError),
    /// The file for the report cannot be created.
    #[error("cannot create the report {}", .path.display())]
    ReportCreate {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The report cannot be written.
    #[error("cannot write to the report {}", .path.display())]
    ReportWrite {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A part of this program failed.
    #[error("a part of the comparison failed: {0}")]
    Internal(String),
}

impl CheckError {
    /// What the process ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Connect { cause, .. } if !cause.is_temporary() => Exit::Config,
            Self::Connect { .. } | Self::Lost { .. } | Self::Silent { .. } => Exit::Unavailable,
            Self::Permission { .. } => Exit::Permission,
            Self::Unready { .. } => Exit::Temporary,
            Self::Answer { .. } => Exit::Protocol,
            Self::Nodes(error) if error.is_temporary() => Exit::Unavailable,
            Self::Nodes(TargetError::Permission { .. } | TargetError::Login { .. }) => {
                Exit::Permission
            }
            Self::Nodes(_) => Exit::Config,
            Self::ReportCreate { .. } => Exit::CannotCreate,
            Self::ReportWrite { .. } => Exit::Io,
            Self::Internal(_) => Exit::Internal,
        }
    }
}
