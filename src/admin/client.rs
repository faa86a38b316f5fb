//! Asking a process over its control socket: plain calls, one connection each, that wait no longer than they are told.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::address::ShortDir;
use super::protocol::{self, Answer, DoubtedKey, LONGEST_ANSWER, Request, TaskReport};
use crate::config::Severity;
use crate::task::Doubted;

/// How long a request may take, from connecting to the end of the answer, where nothing calls for less. An answer takes
/// milliseconds; this is for a process that waits for its turn on a machine under load.
const PATIENCE: Duration = Duration::from_secs(10);

/// The least that makes sense: shorter timeouts are none at all to the kernel.
const LEAST_PATIENCE: Duration = Duration::from_millis(1);

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

/// When an answer comes too late.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// As soon as an answer takes unusually long, and no later than `end`.
    pub fn before(end: Option<Instant>) -> Self {
        let usual = Instant::now() + PATIENCE;
        Self(end.map_or(usual, |end| end.min(usual)))
    }

    fn left(self) -> Duration {
        let left = self.0.saturating_duration_since(Instant::now());
        left.max(LEAST_PATIENCE)
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.0
    }
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
    #[error("no answer from the control socket {} in time", .0.display())]
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
    pub fn status(&self, deadline: Deadline) -> Result<Vec<TaskReport>, AskError> {
        match self.ask(&Request::Status, deadline)? {
            Answer::Tasks { tasks } => Ok(tasks),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has the sources of these tasks (none: all) asked for their positions at once; see
    /// [`crate::task::Reporter::refresh`].
    pub fn refresh(&self, tasks: &[String], deadline: Deadline) -> Result<(), AskError> {
        let tasks = tasks.to_vec();
        match self.ask(&Request::Refresh { tasks }, deadline)? {
            Answer::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Approves what these tasks (none: all) wait for. Answers which of them did.
    pub fn approve(&self, tasks: &[String], deadline: Deadline) -> Result<Vec<String>, AskError> {
        let tasks = tasks.to_vec();
        match self.ask(&Request::Approve { tasks }, deadline)? {
            Answer::Approved { tasks } => Ok(tasks),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Brings keys that differ to the task, to be read again from the source: whether it has taken them, else it is busy
    /// with others. They may have [`LONGEST_REPAIR`](super::LONGEST_REPAIR) bytes together.
    pub fn repair(
        &self,
        task: &str,
        keys: &[Doubted],
        deadline: Deadline,
    ) -> Result<bool, AskError> {
        let request = Request::Repair {
            task: task.to_owned(),
            keys: keys.iter().map(DoubtedKey::of).collect(),
        };
        match self.ask(&request, deadline)? {
            Answer::Taken => Ok(true),
            Answer::Busy => Ok(false),
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
        deadline: Deadline,
    ) -> Result<BTreeMap<String, String>, AskError> {
        let request = Request::LogLevel {
            tasks: tasks.to_vec(),
            module: module.map(str::to_owned),
            level,
        };
        match self.ask(&request, deadline)? {
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

    fn ask(&self, request: &Request, deadline: Deadline) -> Result<Answer, AskError> {
        let request = protocol::encode(request).map_err(|error| self.failed(error.into()))?;
        let connected = connect(&self.path, deadline.left());
        let mut stream = connected.map_err(|cause| self.failed(cause))?;
        self.believe(&stream)?;
        let answer = exchange(&mut stream, &request, deadline);
        match answer.map_err(|cause| self.failed(cause))? {
            Some(line) => {
                protocol::decode(&line).map_err(|invalid| self.wrong(invalid.to_string()))
            }
            // It ended before it could finish.
            None => Err(AskError::Deserted(self.path.clone())),
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

/// Sends the request, and takes the one line that comes back, without its end; none: there is none.
fn exchange(
    stream: &mut UnixStream,
    request: &[u8],
    deadline: Deadline,
) -> io::Result<Option<Vec<u8>>> {
    stream.set_write_timeout(Some(deadline.left()))?;
    match stream.write_all(request) {
        Ok(()) => {}
        // It has seen enough, and what it says to that is still to be had.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => return Err(error),
    }
    let mut answer = Vec::new();
    let mut bytes = [0; 16 * 1024];
    loop {
        if deadline.is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(deadline.left()))?;
        let read = match stream.read(&mut bytes) {
            Ok(0) => return Ok(None),
            Ok(n) => bytes.get(..n).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // Nothing is read beyond that: whoever closes with a part of the request unread ends in a reset.
        if let Some(end) = memchr::memchr(b'\n', read) {
            answer.extend_from_slice(read.get(..end).unwrap_or_default());
            return Ok(Some(answer));
        }
        answer.extend_from_slice(read);
        if answer.len() > LONGEST_ANSWER {
            let what = format!("the answer is longer than {LONGEST_ANSWER} bytes");
            return Err(io::Error::other(what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ControlSocket;

    #[test]
    fn a_refusal_is_heard_although_the_request_was_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let socket = ControlSocket::bind(dir.path()).unwrap();
        let control = Control {
            path: socket.path().to_owned(),
            pid: Some(std::process::id()),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(socket.serve(Vec::new()));
        let too_many = vec!["orders".to_owned(); 100_000];
        let soon = || Deadline::before(None);
        let refused = control.refresh(&too_many, soon()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "refused: the request is longer than 65536 bytes"
        );
        assert_eq!(control.status(soon()).unwrap(), []);
        drop(runtime);
        let gone = control.status(soon()).unwrap_err();
        assert!(matches!(gone, AskError::Deserted(_)), "{gone}");
    }

    #[test]
    fn an_answer_without_end_or_that_is_none_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let control = Control { path, pid: None };
        let ask = |answer: &'static [u8]| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.write_all(answer).unwrap();
                });
                control.status(Deadline::before(None)).unwrap_err()
            })
        };
        assert!(matches!(ask(b""), AskError::Deserted(_)));
        assert!(matches!(ask(b"{\"version\":1"), AskError::Deserted(_)));
        assert!(matches!(
            ask(b"HTTP/1.1 200 OK\r\n"),
            AskError::Wrong { .. }
        ));
        let done = ask(b"{\"version\":1,\"answer\":\"done\"}\n");
        assert!(matches!(done, AskError::Wrong { .. }), "{done}");
        let later = ask(b"{\"version\":2}\n");
        assert!(later.to_string().contains("version 2"), "{later}");
    }

    #[test]
    fn somebody_who_listens_and_says_nothing_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let control = Control { path, pid: None };
        let deadline = Deadline::before(Some(Instant::now() + Duration::from_millis(50)));
        let silent = control.status(deadline).unwrap_err();
        assert!(matches!(silent, AskError::Silent(_)), "{silent}");
    }

    fn listener(uid: u32, pid: i32) -> UnixCredentials {
        let credentials = nix::libc::ucred { pid, uid, gid: 0 };
        UnixCredentials::from(credentials)
    }

    #[test]
    fn only_processes_of_root_and_the_own_user_are_believed() {
        let is_believed = |uid, own| impostor(&listener(uid, 7), Some(7), own).is_none();
        assert!(is_believed(0, 1000) && is_believed(1000, 1000));
        assert!(!is_believed(1001, 1000) && !is_believed(65_534, 1000));
        // A service of a user of its own, looked after by root.
        assert!(is_believed(1000, 0));
    }

    #[test]
    fn another_process_than_the_one_that_was_looked_for_is_not_believed() {
        let who = impostor(&listener(0, 8), Some(7), 0);
        assert_eq!(who.as_deref(), Some("PID 8, and not PID 7,"));
        // From another PID namespace one of the two cannot be told.
        assert_eq!(impostor(&listener(0, 0), Some(7), 0), None);
        assert_eq!(impostor(&listener(0, 8), None, 0), None);
    }
}
