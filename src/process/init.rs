//! Being PID 1, as in a container: the duties that other processes leave to init.
//!
//! The kernel gives PID 1 every process whose parent has ended, and keeps each that ends until PID 1 has asked for it.
//! It also has no default signal actions: a signal that it neither handles nor ignores has no effect, which
//! [`super::ignore_fatal_signals`] provides for.

use std::io;

use futures_util::StreamExt;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use signal_hook::consts::SIGCHLD;
use signal_hook_tokio::{Handle, Signals as Incoming};
use tokio::task::JoinHandle;

/// Adopted children being asked for as they end, until dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the reaping"]
pub struct Orphans {
    handle: Handle,
    task: JoinHandle<()>,
}

/// Reaps, on the current runtime, the children that were left to this process if it is PID 1; `None`: it is not.
///
/// The program starts no children itself, so it takes no exit code away from anybody.
pub fn reap_orphans() -> io::Result<Option<Orphans>> {
    match std::process::id() {
        1 => reap().map(Some),
        _ => Ok(None),
    }
}

fn reap() -> io::Result<Orphans> {
    let mut incoming = Incoming::new([SIGCHLD])?;
    let handle = incoming.handle();
    let task = tokio::spawn(async move {
        loop {
            // First: some may have ended before anybody listened. One signal may stand for several.
            ask_for_all();
            if incoming.next().await.is_none() {
                return;
            }
        }
    });
    Ok(Orphans { handle, task })
}

/// Asks for each child that has ended. An error means that there are no children.
fn ask_for_all() {
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|it| it != WaitStatus::StillAlive) {}
}

impl Drop for Orphans {
    fn drop(&mut self) {
        self.handle.close();
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{Other, command, hear, play, say};
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn block_on<F: Future>(future: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(future)
    }

    /// Adopts what its children leave behind, as PID 1 does, until nothing is left.
    #[test]
    #[ignore = "the other process of the test below"]
    fn child() {
        play(|_, children| adopt(children));
    }

    fn adopt(children: &Path) {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        // The shell ends at once; the sleeps have no parent then.
        let script = "sleep 0.05 & sleep 0.1 & sleep 0.15 & echo $!";
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", script]).stdout(Stdio::null());
        assert!(shell.status().unwrap().success());
        let left = || std::fs::read_to_string(children).unwrap();
        assert_eq!(left().split_whitespace().count(), 3, "{}", left());
        block_on(async {
            let _orphans = reap().unwrap();
            while !left().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        say("all reaped");
        hear();
    }

    #[test]
    fn adopted_children_are_reaped_as_they_end() {
        let children = Path::new("/proc/thread-self/children");
        let mut other = Other::start(command("process::init::tests::child", "", children));
        assert_eq!(other.says(), "all reaped");
        assert!(other.ends().success());
    }

    #[test]
    fn a_process_that_is_not_pid_1_leaves_children_to_whoever_started_them() {
        assert!(reap_orphans().unwrap().is_none());
    }
}
