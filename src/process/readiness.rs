//! What a daemon tells the process that started it, until it is ready: both ends of a pipe.
//!
//! One line per word, `\n` and `\` in texts escaped:
//!
//! ```text
//! waiting TASK      this task is not ready yet
//! met TASK          it is now
//! ready             the last word
//! failed CODE TEXT  the last word: exit code and error
//! ```
//!
//! The end of the pipe without a last word means that the daemon has ended. The daemon never waits for its caller, who
//! may be stopped: what does not fit now is told later, and the last word always fits.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};

use super::Exit;

/// The parts of the pipe: one for tasks being waited for, one for the last word, and two that the kernel may leave
/// unused, since a line that does not fit the rest of a page starts a new one.
const PARTS: usize = 4;

/// The smallest pipe that Linux makes, in bytes.
const SMALLEST_PIPE: usize = 4096;

/// More than a whole pipe without a line's end is not from our own program.
const LONGEST_LINE: usize = 1 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Waiting(String),
    Met(String),
    Ready,
    Failed(Exit, String),
}

impl Word {
    fn line(&self) -> String {
        match self {
            Self::Waiting(task) => format!("waiting {}\n", escape(task)),
            Self::Met(task) => format!("met {}\n", escape(task)),
            Self::Ready => "ready\n".to_owned(),
            Self::Failed(exit, text) => format!("failed {} {}\n", exit.code(), escape(text)),
        }
    }

    /// `line` without its end.
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "waiting" => Some(Self::Waiting(unescape(rest))),
            "met" => Some(Self::Met(unescape(rest))),
            "ready" => Some(Self::Ready),
            "failed" => {
                let (code, text) = rest.split_once(' ')?;
                let exit = Exit::from_code(code.parse().ok()?)?;
                Some(Self::Failed(exit, unescape(text)))
            }
            _ => None,
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match char {
            '\\' if rest.next() == Some('n') => plain.push('\n'),
            '\\' => plain.push('\\'),
            char => plain.push(char),
        }
    }
    plain
}

/// The daemon's end: how it tells its caller that it is ready, or why it is not. Of all clones the first last word
/// counts, and closes the pipe everywhere.
#[derive(Debug, Clone)]
pub struct Readiness {
    line: Arc<Mutex<Option<Line>>>,
}

#[derive(Debug)]
struct Line {
    pipe: File,
    /// How many bytes one part of the pipe has.
    part: usize,
    /// The tasks that the caller believes are being waited for.
    told: BTreeSet<String>,
}

impl Readiness {
    /// For a process in the foreground: there is nobody to tell.
    pub fn none() -> Self {
        Self {
            line: Arc::new(Mutex::new(None)),
        }
    }

    /// Over this pipe, whose writing does not block.
    pub(super) fn over(pipe: OwnedFd) -> Self {
        let size = fcntl(&pipe, FcntlArg::F_GETPIPE_SZ).ok();
        let size = size.and_then(|size| usize::try_from(size).ok());
        let line = Line {
            pipe: File::from(pipe),
            part: size.unwrap_or(SMALLEST_PIPE) / PARTS,
            told: BTreeSet::new(),
        };
        Self {
            line: Arc::new(Mutex::new(Some(line))),
        }
    }

    fn line<T>(&self, act: impl FnOnce(&mut Option<Line>) -> T) -> T {
        act(&mut self.line.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These tasks, and no others, are not ready yet. To be called whenever that changes.
    pub fn waiting_for(&self, tasks: &[String]) {
        self.line(|line| {
            // A caller that is gone need not be told anything any more.
            if line
                .as_mut()
                .is_some_and(|open| open.wait_for(tasks).is_err())
            {
                *line = None;
            }
        });
    }

    /// The state that the caller waits for is reached.
    pub fn ready(&self) {
        self.end(&Word::Ready);
    }

    /// The process is about to end with this exit code, because of this.
    pub fn failed(&self, exit: Exit, message: &str) {
        self.end(&Word::Failed(exit, message.to_owned()));
    }

    fn end(&self, word: &Word) {
        if let Some(mut line) = self.line(Option::take) {
            let mut text = word.line();
            if text.len() > line.part {
                let fits = |at: &usize| text.is_char_boundary(*at);
                let end = (0..line.part).rev().find(fits).unwrap_or_default();
                text.truncate(end);
                text.push('\n');
            }
            // Whoever does not wait any more has been told that this goes on without them.
            let _ = line.pipe.write_all(text.as_bytes());
        }
    }
}

impl Line {
    fn wait_for(&mut self, tasks: &[String]) -> io::Result<()> {
        let now: BTreeSet<String> = tasks.iter().cloned().collect();
        let met = self.told.difference(&now).cloned().map(Word::Met);
        let more = now.difference(&self.told).cloned().map(Word::Waiting);
        let words: Vec<Word> = met.chain(more).collect();
        let unread = usize::try_from(ioctl_fionread(&self.pipe)?).unwrap_or(usize::MAX);
        let mut room = self.part.saturating_sub(unread);
        for word in words {
            let text = word.line();
            room = match room.checked_sub(text.len()) {
                Some(room) => room,
                // The caller is not reading. What it was not told is told with the next change.
                None => return Ok(()),
            };
            self.pipe.write_all(text.as_bytes())?;
            match word {
                Word::Met(task) => self.told.remove(&task),
                Word::Waiting(task) => self.told.insert(task),
                Word::Ready | Word::Failed(..) => false,
            };
        }
        Ok(())
    }
}

/// The caller's end.
#[derive(Debug)]
pub struct Caller {
    pipe: File,
    /// The tasks that are not ready.
    waiting: BTreeSet<String>,
    /// Read, and not yet a whole line.
    unread: Vec<u8>,
}

/// What became of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The state that was waited for is reached.
    Ready,
    /// It has ended, or is about to.
    Failed {
        /// With this exit code.
        exit: Exit,
        /// Because of this.
        message: String,
    },
    /// It has ended without a word.
    Died,
    /// The time is over, and these tasks are not ready. The daemon goes on.
    NotReady(Vec<String>),
}

impl Caller {
    pub(super) fn over(pipe: OwnedFd) -> Self {
        Self {
            pipe: File::from(pipe),
            waiting: BTreeSet::new(),
            unread: Vec::new(),
        }
    }

    /// Waits until the daemon is ready, has failed, has died, or `timeout` is over.
    pub fn wait(mut self, timeout: Duration) -> Verdict {
        // None: longer than can be told, so without end.
        let end = Instant::now().checked_add(timeout);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match self.readable(left) {
                Ok(false) => return Verdict::NotReady(self.waiting.into_iter().collect()),
                Ok(true) => {}
                // The pipe itself is broken: whatever the daemon says cannot be heard any more.
                Err(_) => return Verdict::Died,
            }
            let mut bytes = [0; 4096];
            match self.pipe.read(&mut bytes) {
                Ok(0) => return Verdict::Died,
                Ok(read) => self.unread.extend(bytes.iter().take(read)),
                Err(error) if is_passing(&error) => continue,
                Err(_) => return Verdict::Died,
            }
            if let Some(verdict) = self.heard() {
                return verdict;
            }
            if self.unread.len() > LONGEST_LINE {
                return Verdict::Died;
            }
        }
    }

    /// Whether there is something to read, or the end, within `timeout`.
    fn readable(&self, timeout: Option<Duration>) -> Result<bool, Errno> {
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        let mut watched = [PollFd::new(&self.pipe, PollFlags::IN)];
        match poll(&mut watched, timeout.as_ref()) {
            Ok(count) => Ok(count > 0),
            // Reading finds nothing and comes back here.
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes in the whole lines that were read.
    fn heard(&mut self) -> Option<Verdict> {
        while let Some(length) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=length).collect();
            let line = String::from_utf8_lossy(&line);
            match Word::parse(line.trim_end_matches('\n')) {
                Some(Word::Waiting(task)) => drop(self.waiting.insert(task)),
                Some(Word::Met(task)) => drop(self.waiting.remove(&task)),
                Some(Word::Ready) => return Some(Verdict::Ready),
                Some(Word::Failed(exit, message)) => {
                    return Some(Verdict::Failed { exit, message });
                }
                // Both ends are the same program.
                None => return Some(Verdict::Died),
            }
        }
        None
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;
    use proptest::prelude::*;

    const LONG: Duration = Duration::from_secs(60);

    fn pair() -> (Caller, Readiness) {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (Caller::over(reader), Readiness::over(writer))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_caller_waits_for_the_word_and_not_for_less() {
        let (caller, readiness) = pair();
        readiness.waiting_for(&names(&["a", "b"]));
        let waiting = std::thread::spawn(move || caller.wait(LONG));
        readiness.waiting_for(&[]);
        assert!(!waiting.is_finished());
        readiness.ready();
        assert_eq!(waiting.join().unwrap(), Verdict::Ready);
    }

    #[test]
    fn an_error_comes_through_with_its_code_and_all_its_lines() {
        let (caller, readiness) = pair();
        let message = "task a is already running, PID 7\nits lock is C:\\new\n";
        readiness.failed(Exit::CannotCreate, message);
        let expected = Verdict::Failed {
            exit: Exit::CannotCreate,
            message: message.to_owned(),
        };
        assert_eq!(caller.wait(LONG), expected);
    }

    #[test]
    fn who_ends_without_a_word_has_died() {
        let (caller, readiness) = pair();
        let clone = readiness.clone();
        readiness.waiting_for(&names(&["a"]));
        drop((readiness, clone));
        assert_eq!(caller.wait(LONG), Verdict::Died);
    }

    #[test]
    fn when_the_time_is_over_exactly_the_tasks_are_named_that_are_not_ready() {
        let (caller, readiness) = pair();
        readiness.waiting_for(&names(&["a", "b b", "c"]));
        readiness.waiting_for(&names(&["b b", "c"]));
        readiness.waiting_for(&names(&["a", "b b"]));
        let late = Verdict::NotReady(names(&["a", "b b"]));
        assert_eq!(caller.wait(Duration::ZERO), late);
    }

    #[test]
    fn after_the_last_word_the_pipe_is_closed_everywhere_and_nothing_more_is_said() {
        let (mut caller, readiness) = pair();
        let clone = readiness.clone();
        readiness.ready();
        clone.failed(Exit::Internal, "too late");
        clone.waiting_for(&names(&["a"]));
        let mut all = String::new();
        caller.pipe.read_to_string(&mut all).unwrap();
        assert_eq!(all, "ready\n");
    }

    #[test]
    fn a_caller_that_does_not_read_holds_up_nothing_and_still_gets_the_last_word() {
        let (caller, readiness) = pair();
        for round in 0..100_000 {
            readiness.waiting_for(&names(&[&format!("task{round}")]));
        }
        readiness.failed(Exit::Io, &"long ".repeat(100_000));
        match caller.wait(LONG) {
            Verdict::Failed { exit, message } => {
                assert_eq!(exit, Exit::Io);
                assert!(message.starts_with("long long "), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_caller_that_is_gone_is_not_waited_for_either() {
        let (caller, readiness) = pair();
        drop(caller);
        readiness.waiting_for(&names(&["a"]));
        readiness.ready();
        Readiness::none().failed(Exit::Io, "nobody listens");
    }

    proptest! {
        #[test]
        fn every_text_survives_its_way(text in ".*|[\\\\n\n]*") {
            let word = Word::Failed(Exit::Io, text);
            let line = word.line();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(Word::parse(line.trim_end_matches('\n')), Some(word));
        }
    }
}
