//! Ending another process: the one that holds a PID file, and no other.
//!
//! A PID is only a number, and belongs to somebody else as soon as its process is gone. So the process is taken hold
//! of (a pidfd, Linux 5.3), then asked after once more: if it still holds the file, the hold is on the right one, and
//! signals and waiting reach it or nobody.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::pid_file::{Holder, PidFileError, holder};

/// How long a process that was killed may take to be gone: the kernel's work, perhaps of freeing much memory.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How often the holder is looked for again that changes while it is being taken hold of.
const ATTEMPTS: u32 = 100;

/// How stopping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Nobody held the file; this is what was found instead.
    NotRunning(Holder),
    /// The process is gone.
    Gone {
        /// Which one.
        pid: u32,
        /// Whether it had to be killed. Its PID file is stale then.
        killed: bool,
    },
    /// The process is still there.
    Still {
        /// Which one.
        pid: u32,
    },
}

/// Sends SIGTERM to the process that holds the PID file `path`, waits until it is gone, and after `timeout` kills it
/// if `kill` says so.
pub fn stop(path: &Path, timeout: Duration, kill: bool) -> Result<Stopped, PidFileError> {
    let (pid, process) = match hold(path)? {
        Ok(held) => held,
        Err(found) => return Ok(Stopped::NotRunning(found)),
    };
    let failed = |doing, cause: Errno| PidFileError::Process {
        doing,
        pid,
        path: path.to_owned(),
        cause: cause.into(),
    };
    let signal = |signal| match pidfd_send_signal(&process, signal) {
        // It has just ended.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(cause) => Err(failed("signal", cause)),
    };
    let gone = |timeout| wait(&process, timeout).map_err(|cause| failed("wait for", cause));
    signal(Signal::TERM)?;
    if gone(timeout)? {
        return Ok(Stopped::Gone { pid, killed: false });
    }
    if kill {
        signal(Signal::KILL)?;
        if gone(KILL_PATIENCE)? {
            return Ok(Stopped::Gone { pid, killed: true });
        }
    }
    Ok(Stopped::Still { pid })
}

/// Takes hold of the process that holds `path`, or tells what was found instead.
fn hold(path: &Path) -> Result<Result<(u32, OwnedFd), Holder>, PidFileError> {
    let mut attempts = 0;
    loop {
        let pid = match holder(path)? {
            Holder::Running(pid) => pid,
            other => return Ok(Err(other)),
        };
        attempts += 1;
        let opened = match i32::try_from(pid).ok().and_then(Pid::from_raw) {
            Some(raw) => pidfd_open(raw, PidfdFlags::empty()),
            None => Err(Errno::SRCH),
        };
        match opened {
            // The number was the holder's before, and is the holder's now: what the hold is on either is that
            // process, or has ended.
            Ok(process) if holder(path)? == Holder::Running(pid) => return Ok(Ok((pid, process))),
            Ok(_) | Err(Errno::SRCH) if attempts < ATTEMPTS => {}
            Ok(_) => return Err(hold_failed(path, pid, Errno::AGAIN)),
            Err(cause) => return Err(hold_failed(path, pid, cause)),
        }
    }
}

fn hold_failed(path: &Path, pid: u32, cause: Errno) -> PidFileError {
    PidFileError::Process {
        doing: "take hold of",
        pid,
        path: path.to_owned(),
        cause: cause.into(),
    }
}

/// Waits until the process has ended, whether or not its parent has noticed; `false`: not within `timeout`.
fn wait(process: &OwnedFd, timeout: Duration) -> Result<bool, Errno> {
    // None: longer than can be told, so without end.
    let end = Instant::now().checked_add(timeout);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut watched = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut watched, left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::PidFile;
    use crate::process::testing::{Other, command, hear, play, say};
    use nix::sys::signal::{SigSet, Signal as Name};
    use std::fs;
    use std::process::Command;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    #[ignore = "the other process of the tests below"]
    fn child() {
        play(|part, place| {
            let term = SigSet::from(Name::SIGTERM);
            term.thread_block().unwrap();
            let _file = PidFile::create(place).unwrap();
            say("holding");
            match part {
                "obedient" => drop(term.wait().unwrap()),
                _ => drop(hear()),
            }
        });
    }

    fn holding(part: &str, path: &Path) -> Other {
        let mut other = Other::start(command("process::stop::tests::child", part, path));
        assert_eq!(other.says(), "holding");
        other
    }

    #[test]
    fn the_holder_is_asked_to_end_and_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let other = holding("obedient", &path);
        let gone = Stopped::Gone {
            pid: other.pid(),
            killed: false,
        };
        assert_eq!(stop(&path, LONG, false).unwrap(), gone);
        assert_eq!(holder(&path).unwrap(), Holder::Absent);
        let absent = Stopped::NotRunning(Holder::Absent);
        assert_eq!(stop(&path, LONG, false).unwrap(), absent);
    }

    #[test]
    fn a_holder_that_does_not_listen_is_left_or_killed_as_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let other = holding("deaf", &path);
        let pid = other.pid();
        let short = Duration::from_millis(20);
        assert_eq!(stop(&path, short, false).unwrap(), Stopped::Still { pid });
        assert_eq!(
            stop(&path, short, true).unwrap(),
            Stopped::Gone { pid, killed: true }
        );
        assert_eq!(holder(&path).unwrap(), Holder::Stale(Some(pid)));
    }

    #[test]
    fn a_process_whose_number_stands_in_a_stale_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&path, format!("{}\n", bystander.id())).unwrap();
        let stopped = stop(&path, LONG, true);
        let lives = bystander.try_wait().unwrap().is_none();
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        let stale = Stopped::NotRunning(Holder::Stale(Some(bystander.id())));
        assert_eq!(stopped.unwrap(), stale);
        assert!(lives);
    }
}
