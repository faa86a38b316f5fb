//! Tests that need a process of their own: for forks, locks that belong to processes, signals, privileges.
//!
//! Such a test starts this test program again with one of its tests that are `#[ignore]`d, whose body is [`play`]. The
//! test framework always has a thread beside the test's own; so the body runs in a fork, which has one thread only. The
//! two processes talk by lines: what the child says is marked, as the framework writes to the same place.

use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio, exit};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// What marks a child's lines.
const MARK: &str = "> ";

/// Which part a child plays, and where it finds its files.
const PART: &str = "DF2REDIS_TEST_PART";
const PLACE: &str = "DF2REDIS_TEST_PLACE";

/// What a child that panics ends with, as any Rust program.
const PANICKED: i32 = 101;

/// The command for the `#[ignore]`d test of this full name.
pub(crate) fn command(test: &str, part: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture", "--quiet"])
        .env(PART, part)
        .env(PLACE, place);
    command
}

/// A shell that first does `script` and then becomes `command`.
pub(crate) fn after(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{script}; exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell
}

/// The body of such a test: `act` gets its part and its place, in a process with one thread.
pub(crate) fn play(act: impl FnOnce(&str, &Path)) {
    let part = std::env::var(PART).expect("started by another test");
    let place = PathBuf::from(std::env::var_os(PLACE).expect("started by another test"));
    #[expect(unsafe_code, reason = "fork(2) has no safe form")]
    // SAFETY: the other thread, the test framework's, only waits for this one and holds no lock; and the C library
    // makes its own locks usable in the child.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            say(std::process::id());
            let acted = catch_unwind(AssertUnwindSafe(|| act(&part, &place)));
            exit(if acted.is_ok() { 0 } else { PANICKED });
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => exit(code),
            _ => exit(PANICKED),
        },
    }
}

/// In the child: says a line to the parent.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{MARK}{line}").unwrap();
    stdout.flush().unwrap();
}

/// In the child: waits for the parent's next line; `None` when the parent says no more.
pub(crate) fn hear() -> Option<String> {
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line).unwrap() {
        0 => None,
        _ => Some(line.trim_end().to_owned()),
    }
}

/// A running child. Killed and waited for when dropped.
pub(crate) struct Other {
    /// The test framework's process, which ends with the child's code.
    framework: Child,
    pid: Pid,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn start(mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut framework = command.spawn().unwrap();
        let mut stdout = BufReader::new(framework.stdout.take().unwrap());
        let pid = line(&mut stdout).expect("the child says its PID");
        Self {
            pid: Pid::from_raw(pid.parse().unwrap()),
            stdin: framework.stdin.take(),
            stdout,
            framework,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.pid.as_raw()).unwrap()
    }

    /// The next line it says; fails when it has ended instead.
    #[track_caller]
    pub(crate) fn says(&mut self) -> String {
        line(&mut self.stdout)
            .unwrap_or_else(|| panic!("it ended without a word: {:?}", self.framework.wait()))
    }

    /// Everything it says until nobody has its output open any more.
    pub(crate) fn says_at_last(&mut self) -> Vec<String> {
        let mut all = String::new();
        self.stdout.read_to_string(&mut all).unwrap();
        let lines = all.lines().filter_map(|line| line.strip_prefix(MARK));
        lines.map(str::to_owned).collect()
    }

    /// Says it a line.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn gets(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Says no more, and waits for its end.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        self.stdin = None;
        self.framework.wait().unwrap()
    }
}

fn line(stdout: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    while stdout.read_line(&mut line).unwrap() > 0 {
        if let Some(said) = line.strip_prefix(MARK) {
            return Some(said.trim_end().to_owned());
        }
        line.clear();
    }
    None
}

impl Drop for Other {
    fn drop(&mut self) {
        // The child is not reaped, so its number not given away, before the framework's process ends.
        if let Ok(None) = self.framework.try_wait() {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.framework.wait();
        }
    }
}
