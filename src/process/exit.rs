//! How the process ends: the numbers scripts and init systems see, stable from release to release.

use std::process::ExitCode;

/// An exit code. The numbers from 64 are those of sysexits(3); 1, 3 and 4 are the answers that the LSB wants of an init
/// script, and only commands that look for a running process give them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done, or stopped on request.
    Done,
    /// Of `status`: dead, and its PID file is still there. Of `stop`: it did not end. Of `approve`: nothing waits. Of
    /// `check`: [`Self::DIFFERENT`].
    Dead,
    /// Of `status`, `wait` and `log-level`: not running; of `check --repair`: there is nobody to repair.
    NotRunning,
    /// Of `status`, `stop`, `wait` and `log-level`: nobody can tell, or whoever asks is not allowed to.
    Unknown,
    /// The command line is wrong.
    Usage,
    /// What came from the source cannot be understood or copied, or the target refused it.
    BadInput,
    /// A server is not available, and it was said not to try again.
    Unavailable,
    /// A defect of df2redis.
    Internal,
    /// Something cannot be created: a lock that somebody holds, a target that is not empty; or another process has taken
    /// over the task.
    CannotCreate,
    /// Reading or writing a file failed.
    Io,
    /// Not now; the same later may succeed.
    Temporary,
    /// A server does not speak the expected protocol.
    Protocol,
    /// Wrong password, or not allowed.
    Permission,
    /// A task file is wrong.
    Config,
}

impl Exit {
    /// All, in order of their numbers.
    pub const ALL: [Exit; 14] = [
        Exit::Done,
        Exit::Dead,
        Exit::NotRunning,
        Exit::Unknown,
        Exit::Usage,
        Exit::BadInput,
        Exit::Unavailable,
        Exit::Internal,
        Exit::CannotCreate,
        Exit::Io,
        Exit::Temporary,
        Exit::Protocol,
        Exit::Permission,
        Exit::Config,
    ];

    /// Of `check`: the servers differ, or nobody can tell of some keys whether they do.
    pub const DIFFERENT: Self = Self::Dead;

    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Dead => 1,
            Self::NotRunning => 3,
            Self::Unknown => 4,
            Self::Usage => 64,
            Self::BadInput => 65,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::CannotCreate => 73,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::Protocol => 76,
            Self::Permission => 77,
            Self::Config => 78,
        }
    }

    /// The exit code of this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| exit.code() == code)
    }

    /// What the number means, in a few words for `--help`.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, or stopped on request",
            Self::Dead => {
                "status: dead, and its PID file is still there; stop: it did not end; check: different or unsettled"
            }
            Self::NotRunning => {
                "status, wait, log-level: not running; check --repair: the task does not run"
            }
            Self::Unknown => {
                "status, stop, wait, log-level: unknown, no answer, or not allowed to ask"
            }
            Self::Usage => "wrong command line",
            Self::BadInput => {
                "the source sent what cannot be understood or copied, or the target refused it"
            }
            Self::Unavailable => {
                "a server is not available; replicate: and retry.max_elapsed is over"
            }
            Self::Internal => "a defect of df2redis",
            Self::CannotCreate => {
                "the task runs already or was taken over, a file cannot be created, or the target is not empty"
            }
            Self::Io => "reading or writing a file failed",
            Self::Temporary => "not now; the same later may succeed",
            Self::Protocol => "a server does not speak the expected protocol",
            Self::Permission => "wrong password, or not allowed",
            Self::Config => {
                "a task file is wrong or does not fit its servers, or a full sync does not fit its spool"
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
