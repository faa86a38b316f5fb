//! A source, a target and a task file in a directory, for processes that others start.
//!
//! Whoever starts df2redis there, it is found by the lock of its task, and killed when the place is dropped.

use crate::support::{RedisServer, SimulatedDragonfly, eventually, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_df2redis");

/// A task named `orders`, and its two servers.
pub struct Place {
    dir: TempDir,
    pub source: SimulatedDragonfly,
    pub target: RedisServer,
    written: Cell<u32>,
}

impl Place {
    /// With all settings by default.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::with("")
    }

    /// With further tables in the task file.
    #[must_use]
    #[track_caller]
    pub fn with(tables: &str) -> Self {
        let source = SimulatedDragonfly::start();
        let target = RedisServer::start();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = format!(
            "source.address = {:?}\ntarget.address = {:?}\nretry.initial = \"10ms\"\n{tables}\n",
            source.address(),
            target.address()
        );
        fs::write(dir.path().join("orders.toml"), text).expect("a task file");
        Self {
            dir,
            source,
            target,
            written: Cell::new(0),
        }
    }

    /// A path in the place's directory.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `df2redis replicate --config …` and these further words, for a shell.
    #[must_use]
    pub fn line(&self, more: &str) -> String {
        format!(
            "{PROGRAM} replicate --config {} {more}",
            self.at("orders.toml").display()
        )
    }

    /// The same as a command, without a terminal.
    #[must_use]
    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("replicate").arg("--config");
        command.arg(self.at("orders.toml")).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Another command of the program, its options for the PID file behind it.
    #[must_use]
    pub fn ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--pidfile").arg(self.at("pid"));
        command.stdin(Stdio::null()).output().expect("an answer")
    }

    /// What all runs have logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where that is.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.at("log/orders_replicate.log")
    }

    /// Waits until the log says so.
    #[track_caller]
    pub fn wait_logged(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || {
            self.log().contains(text)
        });
    }

    /// The process that runs the task, if one does.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        let lock = fs::read_to_string(self.at("state/orders.lock")).ok()?;
        let pid = lock.lines().next()?.parse().ok()?;
        // In a PID namespace of its own it calls itself otherwise; those tests know better.
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let is_ours = program == Path::new(PROGRAM) && is_alive(Pid::from_raw(pid));
        is_ours.then(|| Pid::from_raw(pid))
    }

    /// Waits until it follows the source's writes; answers which process.
    #[track_caller]
    pub fn wait_stable(&self) -> Pid {
        self.wait_logged(", following writes");
        let mut pid = None;
        eventually("the process that runs the task", || {
            pid = self.pid();
            pid.is_some()
        });
        pid.expect("just seen")
    }

    /// Writes at the source, and waits until the target has it.
    #[track_caller]
    pub fn replicates(&self) {
        let n = self.written.get() + 1;
        self.written.set(n);
        let value = format!("write {n}");
        self.source.journal(0, ["SET", "proof", &value]);
        eventually(&format!("{value:?} on the target"), || {
            self.target.get("proof") == value
        });
    }

    /// Ends it as an operator does, and waits until it is gone.
    #[track_caller]
    pub fn stop(&self, pid: Pid) {
        kill(pid, Signal::SIGTERM).expect("it is there");
        gone(pid);
        assert!(self.log().contains("df2redis stopped"), "{}", self.log());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
            // It writes to the directory that is about to go.
            let _ = within(Duration::from_secs(5), || !is_alive(pid));
        }
        if std::thread::panicking() {
            eprintln!("--- the log:\n{}", self.log());
        }
    }
}

/// Whether this process runs: one that has ended and was not waited for does not.
#[must_use]
pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// Waits until this process has ended.
#[track_caller]
pub fn gone(pid: Pid) {
    eventually(&format!("the end of process {pid}"), || !is_alive(pid));
}

/// A field of /proc/PID/status.
#[must_use]
pub fn status_of(pid: Pid, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_default()
        .trim_start_matches(':')
        .trim()
        .to_owned()
}

/// A process that a test has started. Killed if the test forgets it.
pub struct Started(pub Child);

impl Started {
    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().expect("a process id"))
    }

    /// Waits until it has ended, with this exit code.
    #[track_caller]
    pub fn ends_with(&mut self, code: i32) {
        let mut status = None;
        eventually("its end", || {
            status = self.0.try_wait().expect("its state");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(code));
    }

    /// Ends it as an operator does.
    #[track_caller]
    pub fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).expect("it is there");
        self.ends_with(0);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
