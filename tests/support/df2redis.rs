//! The program as a value: a task file in a directory of its own, the process, its log, its exit code.
//!
//! Include it beside `support`: only tests and benchmarks know where the binary is.
//! Invariants: every process is waited for, and killed by its own id if the test forgets it; a test that panics
//!   shows the log; waiting is for lines of the log, which fails at once when the process has ended.
#![allow(
    dead_code,
    reason = "each program that includes this uses a part of it"
)]

use crate::support::within;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything takes on a busy machine, shorter than what the test runner allows.
const PATIENCE: Duration = Duration::from_secs(60);

/// A task file in a directory of its own. Can be started any number of times.
pub struct Task {
    dir: TempDir,
    name: String,
    lines: Vec<String>,
}

impl Task {
    /// From one address to another, all else by default; but what a test breaks stays broken: nobody audits it.
    #[must_use]
    pub fn between(source: &str, target: &str) -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory for a task"),
            name: "copy".to_owned(),
            lines: vec![
                format!("source.address = {source:?}"),
                format!("target.address = {target:?}"),
                "retry.initial = \"10ms\"".to_owned(),
                "audit.keys_per_second = 0".to_owned(),
            ],
        }
    }

    /// From one address to a cluster with nodes at these, all else by default.
    #[must_use]
    pub fn into_cluster(source: &str, nodes: &[String]) -> Self {
        let mut task = Self::between(source, "");
        task.lines
            .retain(|line| !line.starts_with("target.address"));
        task.with("target.type = \"redis-cluster\"")
            .with(format!("target.addresses = {nodes:?}"))
    }

    /// Another name than `copy`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// A key of the task file, such as `policy.conflict = "skip"`, in place of what was said of it before.
    #[must_use]
    pub fn with(mut self, line: impl Into<String>) -> Self {
        let line = line.into();
        let key = |line: &str| line.split('=').next().map(|key| key.trim().to_owned());
        self.lines.retain(|before| key(before) != key(&line));
        self.lines.push(line);
        self
    }

    /// Leaves out what cannot be copied.
    #[must_use]
    pub fn skipping_unsupported(self) -> Self {
        self.with("policy.on_unsupported = \"skip\"")
    }

    /// Files in the state directory, but for the lock, the last status, the last full sync, the spool and the control
    /// socket.
    #[must_use]
    pub fn state_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("state"));
        let names = entries.into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let is_usual = |name: &String| {
            [".lock", ".status.json", ".full-sync.json", ".sock", "spool"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        names.filter(|name| !is_usual(name)).collect()
    }

    /// Bytes in the files of the task's spool.
    #[must_use]
    pub fn spooled_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.dir.path().join("state/spool").join(&self.name));
        let entries = entries.into_iter().flatten().flatten();
        let sizes = entries.map(|entry| entry.metadata().map_or(0, |about| about.len()));
        sizes.sum()
    }

    /// The command that runs the task, its file written.
    #[must_use]
    pub fn command(&self) -> Command {
        self.asked("replicate")
    }

    /// Another command for the task, its file written.
    #[must_use]
    pub fn asked(&self, command: &str) -> Command {
        let file = self.write_to(self.dir.path());
        let mut df2redis = Command::new(env!("CARGO_BIN_EXE_df2redis"));
        df2redis.arg(command).arg("--config").arg(file);
        df2redis.stdin(Stdio::null());
        df2redis
    }

    /// The directory that the task file is in, with everything else that is the task's.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes the task file into `dir` and answers its path. One that is there already stays untouched, for whoever is
    /// just reading it.
    pub fn write_to(&self, dir: &Path) -> PathBuf {
        let file = dir.join(format!("{}.toml", self.name));
        let content = self.lines.join("\n");
        if !fs::read_to_string(&file).is_ok_and(|there| there == content) {
            fs::write(&file, content).expect("a task file");
        }
        file
    }

    /// What `config check --connect` says of the task.
    #[must_use]
    pub fn check_servers(&self) -> Checked {
        Checked::of(&[self.write_to(self.dir.path())])
    }

    /// Starts it in the background, without a terminal.
    #[must_use]
    pub fn start(&self) -> Df2redis {
        self.start_with(&[])
    }

    /// The same, with further arguments.
    #[must_use]
    pub fn start_with(&self, arguments: &[&str]) -> Df2redis {
        let mut command = self.command();
        command.args(arguments);
        self.start_as(command)
    }

    /// Starts it by a command of the caller's own, made from [`Self::command`].
    #[must_use]
    pub fn start_as(&self, mut command: Command) -> Df2redis {
        let messages = self.dir.path().join("messages");
        let stderr = File::create(&messages).expect("a file for standard error");
        let log = self.log_path();
        let logged = fs::metadata(&log).map_or(0, |about| about.len());
        let child = command
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("df2redis starts");
        Df2redis {
            child,
            log,
            logged: usize::try_from(logged).expect("a short log"),
            messages,
        }
    }

    /// Starts it and waits until it follows the source's writes.
    #[must_use]
    #[track_caller]
    pub fn start_stable(&self) -> Df2redis {
        let mut running = self.start();
        running.wait_stable();
        running
    }

    /// The log of all its runs.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir
            .path()
            .join(format!("log/{}_replicate.log", self.name))
    }
}

/// The answer of `config check --connect`.
pub struct Checked {
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard output.
    pub text: String,
    /// Its standard error.
    pub messages: String,
}

impl Checked {
    /// Asks about all tasks of these files and directories.
    #[must_use]
    pub fn of(paths: &[impl AsRef<Path>]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_df2redis"));
        command.args(["config", "check", "--connect"]);
        for path in paths {
            command.arg("--config").arg(path.as_ref());
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .expect("df2redis starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Self {
            code: output.status.code(),
            text: text(output.stdout),
            messages: text(output.stderr),
        }
    }

    /// The lines of this grade, without it.
    #[must_use]
    pub fn graded(&self, grade: &str) -> Vec<&str> {
        let start = format!("  {grade:<7}  ");
        self.text
            .lines()
            .filter_map(|line| line.strip_prefix(start.as_str()))
            .collect()
    }

    /// That there is nothing for which the task would not start.
    #[track_caller]
    pub fn assert_no_errors(&self) {
        let errors = self.graded("error");
        assert_eq!(errors, Vec::<&str>::new(), "{}", self.text);
    }

    /// That one line of this grade holds these texts.
    #[track_caller]
    pub fn assert_found(&self, grade: &str, texts: &[&str]) {
        let lines = self.graded(grade);
        let found = lines
            .iter()
            .any(|line| texts.iter().all(|text| line.contains(text)));
        assert!(found, "{grade} {texts:?} in {}{}", self.text, self.messages);
    }
}

/// A running df2redis.
pub struct Df2redis {
    child: Child,
    log: PathBuf,
    /// Bytes that earlier runs have logged.
    logged: usize,
    messages: PathBuf,
}

impl Df2redis {
    /// What this run has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(text.get(self.logged..).unwrap_or_default()).into_owned()
    }

    /// What it has said on standard error.
    #[must_use]
    pub fn messages(&self) -> String {
        fs::read_to_string(&self.messages).unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process id"))
    }

    /// Waits for a line of the log that holds this text, and answers it.
    ///
    /// # Panics
    /// When it ends before, or takes longer than a minute.
    #[track_caller]
    pub fn wait_logged(&mut self, text: &str) -> String {
        let find = |log: String| {
            log.lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        };
        let mut found = None;
        let mut ended = None;
        let ready = within(PATIENCE, || {
            found = find(self.log());
            ended = self.child.try_wait().expect("the state of df2redis");
            found.is_some() || ended.is_some()
        });
        // Its last lines may have come between the two looks.
        found = found.or_else(|| find(self.log()));
        match found {
            Some(line) => line,
            None if ready => panic!(
                "df2redis ended ({ended:?}) without {text:?}: {}",
                self.messages()
            ),
            None => panic!("not within {PATIENCE:?} in the log: {text:?}"),
        }
    }

    /// Waits until it follows the source's writes.
    #[track_caller]
    pub fn wait_stable(&mut self) {
        self.wait_logged(", following writes");
    }

    /// How many lines of the log hold this text.
    #[must_use]
    pub fn count_logged(&self, text: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    }

    /// The most memory it has had, in bytes.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        crate::support::peak_memory(self.child.id()).expect("df2redis is there")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        crate::support::signal(self.pid(), signal);
    }

    /// Waits until it ends by itself and answers its exit code.
    ///
    /// # Panics
    /// When that takes longer than a minute or a signal ended it.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let mut status = None;
        let ended = within(PATIENCE, || {
            status = self.child.try_wait().expect("the state of df2redis");
            status.is_some()
        });
        assert!(ended, "df2redis has not ended within {PATIENCE:?}");
        let status = status.expect("just seen");
        assert_eq!(status.signal(), None, "{status}");
        status.code().expect("an exit code")
    }

    /// How it has ended, if it has.
    #[must_use]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of df2redis")
    }

    /// Waits until a signal has ended it.
    pub fn wait_killed(&mut self) {
        let _ = self.child.wait();
    }

    /// Stops it as an operator does, who expects it to end well within 10 s.
    #[track_caller]
    pub fn stop(mut self) {
        let asked = Instant::now();
        self.signal(Signal::SIGTERM);
        assert_eq!(self.exit_code(), 0, "{}", self.messages());
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(10), "stopping took {took:?}");
    }
}

impl Drop for Df2redis {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- df2redis said:\n{}--- and logged:\n{}",
                self.messages(),
                self.log()
            );
        }
    }
}
