//! Why `replicate` ended without having been asked to, and what that means to whoever started it.

use std::fmt;
use std::io;

use crate::admin::ControlError;
use crate::config::ConfigErrors;
use crate::logging::LogError;
use crate::process::{DetachError, Exit, IdentityError, LockError, PidFileError};
use crate::task::{TaskError, chain};

/// Why the command failed.
#[derive(Debug)]
pub(super) enum Failure {
    Config(ConfigErrors),
    /// What the options name cannot be made absolute.
    Path(io::Error),
    /// The log directory cannot be written.
    LogDirectory {
        dir: std::path::PathBuf,
        cause: io::Error,
    },
    Identity(IdentityError),
    Detach(DetachError),
    PidFile(PidFileError),
    Lock(LockError),
    Log(LogError),
    Control(ControlError),
    Runtime(io::Error),
    /// By task; never empty.
    Tasks(Vec<(String, TaskError)>),
}

impl Failure {
    /// The exit code; of several tasks, the first one's.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Config,
            Self::Identity(error) => match error {
                IdentityError::NoUser { .. }
                | IdentityError::NoGroup { .. }
                | IdentityError::GroupNeeded { .. } => Exit::Usage,
                IdentityError::NotAllowed { .. }
                | IdentityError::Assume { .. }
                | IdentityError::NotSafe { .. } => Exit::Permission,
                IdentityError::LookUp { .. } => Exit::Io,
            },
            Self::Detach(DetachError::Directory { .. }) => Exit::Usage,
            Self::LogDirectory { .. }
            | Self::PidFile(_)
            | Self::Lock(_)
            | Self::Control(_)
            | Self::Log(LogError::Open { .. }) => Exit::CannotCreate,
            Self::Path(_) | Self::Detach(_) | Self::Log(LogError::Thread(_)) | Self::Runtime(_) => {
                Exit::Internal
            }
            Self::Tasks(tasks) => tasks
                .first()
                .map_or(Exit::Internal, |(_, error)| error.exit_code()),
        }
    }

    /// One text a line: what is wrong, and below it what can be done.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(errors) => errors
                .complaints()
                .iter()
                .map(ToString::to_string)
                .collect(),
            Self::Tasks(tasks) => {
                let several = tasks.len() > 1;
                let lines = tasks.iter().flat_map(|(name, error)| {
                    let of = if several {
                        format!("task {name}: ")
                    } else {
                        String::new()
                    };
                    let hint = error.hint().map(|hint| format!("hint: {hint}"));
                    [Some(format!("{of}{}", chain(error))), hint]
                });
                lines.flatten().collect()
            }
            other => vec![other.to_string()],
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => write!(f, "{errors}"),
            Self::Path(error) => write!(f, "cannot tell the working directory: {error}"),
            Self::LogDirectory { dir, cause } => {
                write!(
                    f,
                    "cannot write to the log directory {}: {cause}",
                    dir.display()
                )
            }
            Self::Identity(error) => write!(f, "{}", chain(error)),
            Self::Detach(error) => write!(f, "{}", chain(error)),
            Self::PidFile(error) => write!(f, "{}", chain(error)),
            Self::Lock(error) => write!(f, "{}", chain(error)),
            Self::Log(error) => write!(f, "{}", chain(error)),
            Self::Control(error) => write!(f, "{}", chain(error)),
            Self::Runtime(error) => write!(f, "cannot start the runtime: {error}"),
            Self::Tasks(_) => write!(f, "{}", self.lines().join("; ")),
        }
    }
}
