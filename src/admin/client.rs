//! Asking a process over its control socket: plain calls, one connection each, that wait no longer than [`PATIENCE`].

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::address::ShortDir;
use super::protocol::{self, Answer, LONGEST_ANSWER, Request, TaskReport};
use crate::config::Severity;

/// How long a request may take, from connecting to the end of the answer. An answer takes milliseconds; this is for a
/// process that waits for its turn on a machine under load.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to see whether somebody listens, where connections already wait to be accepted.
const GLANCE: Duration = Duration::from_millis(100);

/// The control socket of a process, to be asked there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Control {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it must be; none: a process that cannot be seen from here.
    pub pid: Option<u32>,
}

/// Why a process did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or whoever did has just gone.
    #[error("nobody listens on the control socket {}", .0.display())]
    Deserted(PathBuf),
    /// Only root and the user of the process may ask.
    #[error("not allowed to connect to the control socket {}", .0.display())]
    NotAllowed(PathBuf),
    /// Somebody listens there who might tell anything.
    #[error("the control socket {} is not believed: {who} listens there", .path.display())]
    Impostor {
        /// The socket.
        path: PathBuf,
        /// Who that is.
        who: String,
    },
    /// It takes too long.
    #[error("no answer from the control socket {} within {PATIENCE:?}", .0.display())]
    Silent(PathBuf),
    /// Connecting, sending or receiving failed.
    #[error("cannot talk to the control socket {}: {cause}", .path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// What came back is no answer.
    #[error("the answer from the control socket {} is wrong: {what}", .path.display())]
    Wrong {
        /// The socket.
        path: PathBuf,
        /// How it shows.
        what: String,
    },
    /// The process does not want to, or cannot.
    #[error("refused: {0}")]
    Refused(String),
}

impl Control {
    /// How all tasks of the process are.
    pub fn status(&self) -> Result<Vec<TaskReport>, AskError> {
        match self.ask(&Request::Status)? {
            Answer::Tasks { tasks } => Ok(tasks),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has the sources of these tasks (none: all) asked for their positions at once; see
    /// [`crate::task::Reporter::refresh`].
    pub fn refresh(&self, tasks: &[String]) -> Result<(), AskError> {
        let tasks = tasks.to_vec();
        match self.ask(&Request::Refresh { tasks })? {
            Answer::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Changes what these tasks (none: all) log in a module (none: everywhere); no level goes back to what they
    /// started with. Answers what is logged from now on, by task.
    pub fn set_log_level(
        &self,
        tasks: &[String],
        module: Option<&str>,
        level: Option<Severity>,
    ) -> Result<BTreeMap<String, String>, AskError> {
        let request = Request::LogLevel {
            tasks: tasks.to_vec(),
            module: module.map(str::to_owned),
            level,
        };
        match self.ask(&request)? {
            Answer::Levels { levels } => Ok(levels),
            other => Err(self.unexpected(&other)),
        }
    }

    fn unexpected(&self, answer: &Answer) -> AskError {
        match answer {
            Answer::Refused { reason } => AskError::Refused(reason.clone()),
            _ => self.wrong("it answers something else".to_owned()),
        }
    }

    fn wrong(&self, what: String) -> AskError {
        let path = self.path.clone();
        AskError::Wrong { path, what }
    }

    fn ask(&self, request: &Request) -> Result<Answer, AskError> {
        let request = protocol::encode(request).map_err(|error| self.failed(error.into()))?;
        let end = Instant::now() + PATIENCE;
        let mut stream = connect(&self.path, PATIENCE).map_err(|cause| self.failed(cause))?;
        self.believe(&stream)?;
        let line = exchange(&mut stream, &request, end).map_err(|cause| self.failed(cause))?;
        match line.split_last() {
            Some((b'\n', line)) => {
                protocol::decode(line).map_err(|invalid| self.wrong(invalid.to_string()))
            }
            _ if line.len() >= LONGEST_ANSWER => {
                Err(self.wrong(format!("it is longer than {LONGEST_ANSWER} bytes")))
            }
            // It ended before it could finish.
            _ => Err(AskError::Deserted(self.path.clone())),
        }
    }

    fn failed(&self, cause: io::Error) -> AskError {
        let path = self.path.clone();
        match cause.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => AskError::Deserted(path),
            io::ErrorKind::PermissionDenied => AskError::NotAllowed(path),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Silent(path),
            _ => AskError::Failed { path, cause },
        }
    }

    /// Whether it is the right process that listens. What the kernel tells is who began to listen.
    fn believe(&self, stream: &UnixStream) -> Result<(), AskError> {
        let listener = getsockopt(stream, PeerCredentials);
        let listener = listener.map_err(|error| self.failed(error.into()))?;
        match impostor(&listener, self.pid, geteuid().as_raw()) {
            None => Ok(()),
            Some(who) => Err(AskError::Impostor {
                path: self.path.clone(),
                who,
            }),
        }
    }
}

/// Who listens, if that is not to be believed: anybody but the process that was looked for, where that can be seen; and
/// whom neither root nor this user runs. Root, who may look after everybody's processes, goes by the first alone.
fn impostor(listener: &UnixCredentials, wanted: Option<u32>, own: u32) -> Option<String> {
    let (uid, pid) = (listener.uid(), listener.pid());
    if uid != 0 && uid != own && own != 0 {
        return Some(format!("a process of user {uid}"));
    }
    // 0: it cannot be seen from here.
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0);
    match (pid, wanted) {
        (Some(pid), Some(wanted)) if pid != wanted => {
            Some(format!("PID {pid}, and not PID {wanted},"))
        }
        _ => None,
    }
}

/// Whether somebody listens; `true` where that cannot be told.
pub(super) fn is_listened_to(path: &Path) -> bool {
    !matches!(connect(path, GLANCE), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let (_dir, short) = ShortDir::of(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Connecting waits as long as too many others do.
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(short)?)?;
    Ok(socket.into())
}

/// Sends the request, and takes what comes back: no more than an answer may have, until its end or `end`.
fn exchange(stream: &mut UnixStream, request: &[u8], end: Instant) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    let mut bytes = [0; 16 * 1024];
    while answer.len() < LONGEST_ANSWER {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(bytes.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}
