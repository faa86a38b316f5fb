//! The program under test as a value, and what is said about how it went.
//!
//! Invariants: it runs in a directory of its own, is killed by its own process id when the test is over, and
//!   shows its log when the test fails; nothing it says or leaves behind may hold a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{RedisServer, SimulatedDragonfly, compare, eventually, peak_memory};

/// More than the program needs for anything here, and far less than what a wrong length asks for.
const PEAK_KIB: u64 = 128 << 10;

/// A task file to be. Retries are quick unless it says otherwise.
pub struct Task {
    dir: tempfile::TempDir,
    source: String,
    target: String,
    policy: String,
    retry: String,
    rest: String,
    environment: Vec<(String, String)>,
}

impl Task {
    /// Between two addresses.
    pub fn new(source: &str, target: &str) -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory for a task"),
            source: format!("address = \"{source}\"\n"),
            target: format!("address = \"{target}\"\n"),
            policy: String::new(),
            retry: "initial = \"20ms\"\nmax = \"100ms\"\n".to_owned(),
            rest: String::new(),
            environment: Vec::new(),
        }
    }

    /// Between two servers.
    pub fn between(source: &SimulatedDragonfly, target: &RedisServer) -> Self {
        Self::new(&source.address(), &target.address())
    }

    /// A line of `[source]`.
    pub fn source(mut self, line: &str) -> Self {
        self.source += &format!("{line}\n");
        self
    }

    /// A line of `[target]`.
    pub fn target(mut self, line: &str) -> Self {
        self.target += &format!("{line}\n");
        self
    }

    /// A line of `[policy]`.
    pub fn policy(mut self, line: &str) -> Self {
        self.policy += &format!("{line}\n");
        self
    }

    /// Gives up after a while instead of never.
    pub fn giving_up(mut self) -> Self {
        self.retry += "max_elapsed = \"250ms\"\n";
        self
    }

    /// Whole tables.
    pub fn tables(mut self, text: &str) -> Self {
        self.rest += &format!("{text}\n");
        self
    }

    /// A variable of the program's environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where the task file, its log and its state are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(self) -> Running {
        let Self {
            source,
            target,
            policy,
            retry,
            rest,
            ..
        } = &self;
        let text = format!(
            "[source]\n{source}\n[target]\n{target}\n[policy]\n{policy}\n[retry]\n{retry}\n{rest}"
        );
        let file = self.dir().join("copy.toml");
        fs::write(&file, text).expect("a task file");
        let stderr = fs::File::create(self.dir().join("stderr")).expect("a file for messages");
        let child = Command::new(env!("CARGO_BIN_EXE_df2redis"))
            .args(["replicate", "--config"])
            .arg(&file)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the program starts");
        Running {
            child,
            task: self,
            seen_kib: None,
        }
    }

    /// Runs it until it ends by itself.
    #[track_caller]
    pub fn run(self) -> Ended {
        self.start().ended()
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    task: Task,
    /// The most memory it had when it was last looked at, KiB.
    seen_kib: Option<u64>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.task.dir().join("state")
    }

    /// Everything beside its task file.
    pub fn dir(&self) -> &Path {
        self.task.dir()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        let path = self.task.dir().join("log/copy_replicate.log");
        // A device in its place may have no end.
        match path.is_file() {
            true => fs::read_to_string(path).unwrap_or_default(),
            false => String::new(),
        }
    }

    /// What it said on standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.task.dir().join("stderr")).unwrap_or_default()
    }

    /// Lines of the log that hold all of these.
    pub fn lines(&self, parts: &[&str]) -> Vec<String> {
        let log = self.log();
        let lines = log
            .lines()
            .filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.map(str::to_owned).collect()
    }

    /// Waits for a line of the log that holds all of these.
    #[track_caller]
    pub fn says(&mut self, parts: &[&str]) {
        eventually(&format!("a line of the log with {parts:?}"), || {
            self.still_runs();
            !self.lines(parts).is_empty()
        });
    }

    /// Waits until it tries again because of something, for at least the second time if `attempt` is 2.
    #[track_caller]
    pub fn retries(&mut self, attempt: u32, because: &str) {
        let attempt = format!("attempt: {attempt}, wait_ms: ");
        self.says(&["session ended, another follows", because, &attempt]);
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits until it follows the source's writes, for the `time`th time.
    #[track_caller]
    pub fn follows(&mut self, time: usize) {
        eventually("it follows writes", || {
            self.still_runs();
            self.lines(&[", following writes"]).len() >= time
        });
    }

    #[track_caller]
    fn still_runs(&mut self) {
        self.seen_kib = self.peak_kib().or(self.seen_kib);
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("it ended by itself: {status}\n{}", self.stderr());
        }
    }

    /// Waits until the target holds what a source with a backing store holds, a last write included.
    #[track_caller]
    pub fn ends_equal(&mut self, source: &SimulatedDragonfly, target: &RedisServer) {
        let last = format!("last:{}", source.next_lsn(0));
        source.client().ok(&["SET", &last, "1"]);
        eventually("the last write has arrived", || {
            self.still_runs();
            target.get(&last) == "1"
        });
        // The other flows' last writes may still be on their way.
        eventually("both sides are equal", || {
            compare(source.oracle(), target.port()).is_empty()
        });
        self.is_modest();
    }

    /// Its peak memory is within bounds.
    #[track_caller]
    pub fn is_modest(&self) {
        is_modest(self.peak_kib());
    }

    /// The most memory it has had, KiB; none when it has ended.
    pub fn peak_kib(&self) -> Option<u64> {
        peak_memory(self.pid()).map(|bytes| bytes >> 10)
    }

    /// Asks it to end, and waits until it has, without an error.
    #[track_caller]
    pub fn stops(self) -> Ended {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM).expect("a process to stop");
        let ended = self.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn ended(mut self) -> Ended {
        let mut status = None;
        eventually("the program ends", || {
            self.seen_kib = self.peak_kib().or(self.seen_kib);
            status = self.child.try_wait().expect("a child to wait for");
            status.is_some()
        });
        let ended = Ended {
            code: status.and_then(|status| status.code()),
            stderr: self.stderr(),
            log: self.log(),
            peak_kib: self.seen_kib,
        };
        for text in [&ended.stderr, &ended.log] {
            assert!(!text.contains("panicked"), "{text}");
        }
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- standard error\n{}--- log\n{}",
                self.stderr(),
                self.log()
            );
        }
    }
}

/// How it went.
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it said on standard error.
    pub stderr: String,
    /// Its log.
    pub log: String,
    /// The most memory it had when it was last looked at, KiB.
    peak_kib: Option<u64>,
}

impl Ended {
    /// It ended with this code, and both its last words and its log hold all of these.
    #[track_caller]
    pub fn with(&self, code: i32, parts: &[&str]) -> &Self {
        let Self { stderr, log, .. } = self;
        assert_eq!(self.code, Some(code), "{stderr}--- log\n{log}");
        let last = log
            .lines()
            .rev()
            .find(|line| line.contains(" CRIT df2redis failed"));
        let last = last.unwrap_or_else(|| panic!("no failure in the log:\n{log}"));
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not said:\n{stderr}");
            assert!(last.contains(part), "{part:?} is not logged:\n{last}");
        }
        self
    }

    /// Its peak memory was within bounds.
    #[track_caller]
    pub fn was_modest(&self) {
        is_modest(self.peak_kib);
    }

    /// It tried again before that, with a line for each attempt.
    #[track_caller]
    pub fn after_retries(&self) -> &Self {
        let mut attempts = self
            .log
            .lines()
            .filter(|line| line.contains("session ended, another follows"));
        let first = attempts.next().unwrap_or_default();
        assert!(
            first.contains("attempt: 1, wait_ms: ") && first.contains("error: "),
            "no attempt in the log:\n{}",
            self.log
        );
        self
    }
}

#[track_caller]
fn is_modest(peak_kib: Option<u64>) {
    let within = peak_kib.is_some_and(|peak| peak < PEAK_KIB);
    assert!(within, "peak memory {peak_kib:?} KiB");
}

/// A source with a Redis behind it, that holds 200 keys of several types.
pub fn source() -> SimulatedDragonfly {
    filled(SimulatedDragonfly::options())
}

/// The same with other options.
pub fn filled(options: crate::support::dragonfly::Options) -> SimulatedDragonfly {
    let source = options.backing_store().start();
    fill(&source);
    source
}

/// Writes 200 keys of several types.
pub fn fill(source: &SimulatedDragonfly) {
    let mut client = source.client();
    let words = |text: String| {
        text.split(' ')
            .map(|word| word.as_bytes().to_vec())
            .collect()
    };
    let commands: Vec<Vec<Vec<u8>>> = (0..50)
        .flat_map(|n| {
            [
                words(format!("SET s:{n} {}", "text,".repeat(40 + n))),
                words(format!("RPUSH l:{n} a b c {n}")),
                words(format!("HSET h:{n} f {n} g {}", "text,".repeat(30))),
                words(format!("ZADD z:{n} 1.5 a {n} b")),
            ]
        })
        .collect();
    for reply in client.pipeline(&commands) {
        assert!(!reply.is_error(), "{reply:?}");
    }
}
