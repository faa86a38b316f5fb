//! The program as its user starts it: exit codes, messages, signals, log, lock.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::OpenptyResult;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn df2redis() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_df2redis"));
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    df2redis().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Waits until `check` has an answer.
#[track_caller]
fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(answer) = check() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// A task file whose source and target accept connections and never say a word.
struct SilentTask {
    dir: tempfile::TempDir,
    _servers: [TcpListener; 2],
}

impl SilentTask {
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [source, target] = servers
            .each_ref()
            .map(|server| server.local_addr().unwrap());
        let content =
            format!("[source]\naddress = \"{source}\"\n[target]\naddress = \"{target}\"\n{more}");
        fs::write(dir.path().join("silent.toml"), content).unwrap();
        Self {
            dir,
            _servers: servers,
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("silent.toml")
    }

    fn command(&self) -> Command {
        let mut command = df2redis();
        command.arg("replicate").arg("--config").arg(self.file());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Running {
        let running = Running(self.command().spawn().unwrap());
        eventually("the start is logged", || {
            self.log().contains("df2redis started").then_some(())
        });
        running
    }

    fn log(&self) -> String {
        let path = self.dir.path().join("log/silent_replicate.log");
        fs::read_to_string(path).unwrap_or_default()
    }
}

/// A pseudo terminal. Whoever is started on it does not inherit the other end, for then it could not hang up.
fn terminal() -> OpenptyResult {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let close = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
    fcntl(&terminal.master, close).unwrap();
    terminal
}

/// A df2redis that is killed if the test forgets it.
struct Running(Child);

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        let status = eventually("the end", || self.0.try_wait().unwrap());
        assert_eq!(status.signal(), None, "{status}");
        status.code()
    }

    /// What it wrote to standard error, up to its end.
    fn said(&mut self) -> String {
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }

    /// What it wrote to standard output, which must be a pipe, up to its end.
    fn printed(&mut self) -> String {
        let mut printed = String::new();
        let mut stdout = self.0.stdout.take().unwrap();
        stdout.read_to_string(&mut printed).unwrap();
        printed
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn help_and_version_are_answers() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["help"],
        &["replicate", "--help"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(
            text(&output.stdout).contains("Usage: df2redis"),
            "{arguments:?}"
        );
        assert!(output.stderr.is_empty(), "{arguments:?}");
    }
    let help = text(&run(&["--help"]).stdout);
    for part in [
        "Examples:",
        "Files:",
        "Exit codes:",
        "  78  a task file is wrong",
    ] {
        assert!(help.contains(part), "{help}");
    }
    let output = run(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    let version = text(&output.stdout);
    assert!(
        version.starts_with(concat!("df2redis ", env!("CARGO_PKG_VERSION"))),
        "{version}"
    );
}

#[test]
fn a_wrong_command_line_ends_with_64_and_says_what_is_wrong() {
    for (arguments, expected) in [
        (&[][..], "Usage: df2redis"),
        (&["replicat"], "replicate"),
        (&["replicate", "--config", "a", "--cofnig", "b"], "--cofnig"),
        (
            &["replicate", "--config", "a", "--log-level", "loud"],
            "[possible values: trace, debug",
        ),
        (&["config", "chekc"], "check"),
        (&["config", "check", "--connect=yes"], "--connect"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_wrong_task_file_ends_with_78_and_every_complaint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.toml");
    let path = path.to_str().unwrap();
    fs::write(
        path,
        "[source]\nadress = \"a:1\"\n[target]\naddress = \"b\"\n",
    )
    .unwrap();
    let expected = format!(
        "df2redis: {path}:1:1: source.address: is missing, expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"\n\
         df2redis: {path}:2:1: source.adress: unknown key, did you mean \"address\"?\n\
         df2redis: {path}:4:11: target.address: \"b\" has no port, expected \"host:port\"\n"
    );
    for command in [&["replicate"][..], &["config", "check"]] {
        let output = df2redis()
            .args(command)
            .args(["--config", path])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{command:?}");
        assert_eq!(text(&output.stderr), expected, "{command:?}");
        assert!(output.stdout.is_empty());
    }
    let output = run(&["replicate", "--config", "/nowhere/orders.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        text(&output.stderr),
        "df2redis: /nowhere/orders.toml: cannot be read: No such file or directory (os error 2)\n"
    );
}

#[test]
fn config_check_lists_correct_tasks_and_warns() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.toml");
    let content = "[source]\naddress = \"df:1\"\n[source.tls]\ninsecure_skip_verify = true\n\
                   [target]\naddress = \"unix:/run/redis.sock\"\n";
    fs::write(&path, content).unwrap();
    let output = df2redis()
        .args(["config", "check", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout),
        "task orders: df:1 to unix:/run/redis.sock, correct\n"
    );
    let warning = format!(
        "df2redis: warning: {}:4:1: source.tls.insecure_skip_verify: any",
        path.display()
    );
    assert!(
        text(&output.stderr).starts_with(&warning),
        "{}",
        text(&output.stderr)
    );
    // Checking creates nothing.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_lost_session_does_not_end_a_task_and_a_request_does() {
    let task = SilentTask::new("");
    let mut running = task.start();
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"))
        .unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    for signal in [Signal::SIGHUP, Signal::SIGPIPE] {
        assert_ne!(
            ignored & (1 << (signal as i32 - 1)),
            0,
            "{signal} is not ignored"
        );
    }
    running.signal(Signal::SIGHUP);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(0));
    let log = task.log();
    assert!(log.contains("INFO df2redis stopped"), "{log}");
}

#[test]
fn every_signal_that_stops_ends_with_0() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        let task = SilentTask::new("");
        let mut running = task.start();
        running.signal(signal);
        assert_eq!(running.exit_code(), Some(0), "{signal}");
    }
}

#[test]
fn a_second_process_is_refused_with_the_pid_of_the_first() {
    let task = SilentTask::new("");
    let mut first = task.start();
    let before = task.log();
    let output = task.command().output().unwrap();
    assert_eq!(output.status.code(), Some(73));
    let said = text(&output.stderr);
    let expected = format!(
        "df2redis: task silent is already running, PID {}\n",
        first.pid()
    );
    assert!(said.starts_with(&expected), "{said}");
    assert!(
        task.log().starts_with(&before),
        "the log of the first is not touched"
    );
    // However it ends, its lock ends with it.
    first.signal(Signal::SIGKILL);
    first.0.wait().unwrap();
    let mut third = Running(task.command().spawn().unwrap());
    eventually("a second start is logged", || {
        (task.log().matches("df2redis started").count() == 2).then_some(())
    });
    third.signal(Signal::SIGTERM);
    assert_eq!(third.exit_code(), Some(0));
}

#[test]
fn without_a_terminal_the_log_file_says_why_the_console_is_silent() {
    let task = SilentTask::new("");
    let mut command = task.command();
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    eventually("the start is logged", || {
        task.log().contains("df2redis started").then_some(())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(0));
    let printed = running.printed();
    assert_eq!(printed, "");
    let log = task.log();
    let first = log.lines().next().unwrap();
    assert!(
        first.ends_with("Z INFO Detected non-TTY stdout, disabling console output"),
        "{log}"
    );
    let pid = format!("pid: {}", running.pid());
    assert!(
        log.contains("INFO df2redis started, task: silent, version: ") && log.contains(&pid),
        "{log}"
    );
}

#[test]
fn console_always_says_the_lines_of_the_log_on_standard_error_as_a_service_manager_wants_them() {
    let task = SilentTask::new("[log]\nconsole = \"always\"\nformat = \"json\"\n");
    let mut running = Running(task.command().stdout(Stdio::piped()).spawn().unwrap());
    eventually("the start is logged", || {
        task.log().contains("df2redis started").then_some(())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(0));
    assert_eq!(running.printed(), "");
    let said = running.said();
    assert!(said.contains("\n<6>INFO df2redis stopped\n"), "{said}");
    assert_eq!(said.lines().count(), task.log().lines().count());
    for line in task.log().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn lines_go_to_the_journal_where_it_reads_standard_error_and_nowhere_else() {
    for (is_journal, expected) in [(true, "<6>INFO df2redis stopped"), (false, "")] {
        let task = SilentTask::new("");
        let captured = File::create(task.dir.path().join("captured")).unwrap();
        let about = captured.metadata().unwrap();
        let inode = if is_journal {
            about.ino()
        } else {
            about.ino() + 1
        };
        let mut command = task.command();
        command.env("JOURNAL_STREAM", format!("{}:{inode}", about.dev()));
        let mut running = Running(command.stderr(captured).spawn().unwrap());
        eventually("the start is logged", || {
            task.log().contains("df2redis started").then_some(())
        });
        running.signal(Signal::SIGTERM);
        assert_eq!(running.exit_code(), Some(0));
        let said = fs::read_to_string(task.dir.path().join("captured")).unwrap();
        assert_eq!(said.lines().last().unwrap_or_default(), expected);
        assert_eq!(task.log().contains("Detected non-TTY"), !is_journal);
    }
}

#[test]
fn a_terminal_shows_the_log() {
    let task = SilentTask::new("");
    let terminal = terminal();
    let mut running = Running(
        task.command()
            .stdout(Stdio::from(terminal.slave))
            .spawn()
            .unwrap(),
    );
    let mut screen = File::from(terminal.master);
    let mut shown = String::new();
    let mut bytes = [0; 1024];
    while !shown.contains("df2redis started") {
        // Ends with an error if the program does.
        let n = screen.read(&mut bytes).unwrap();
        shown.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    running.signal(Signal::SIGINT);
    assert_eq!(running.exit_code(), Some(0));
    assert!(!task.log().contains("Detected non-TTY"), "{}", task.log());
}

#[test]
fn a_terminal_that_hangs_up_ends_neither_task_nor_log() {
    let task = SilentTask::new("");
    let terminal = terminal();
    let mut running = Running(
        task.command()
            .stdout(Stdio::from(terminal.slave))
            .spawn()
            .unwrap(),
    );
    eventually("the start is logged", || {
        task.log().contains("df2redis started").then_some(())
    });
    drop(terminal.master);
    running.signal(Signal::SIGINT);
    assert_eq!(running.exit_code(), Some(0));
    let log = task.log();
    assert!(log.contains("INFO df2redis stopped"), "{log}");
    let failed = "the console failed, nothing is shown there any more, error: Input/output error";
    assert_eq!(log.matches(failed).count(), 1, "{log}");
}

#[test]
fn a_terminal_stopped_with_ctrl_s_holds_up_neither_log_nor_end() {
    let task = SilentTask::new("");
    let terminal = terminal();
    let mut screen = File::from(terminal.master);
    // As if Ctrl-S had been pressed: from now on, whoever writes there waits.
    screen.write_all(b"\x13").unwrap();
    let mut running = Running(
        task.command()
            .stdout(Stdio::from(terminal.slave))
            .spawn()
            .unwrap(),
    );
    eventually("the start is logged", || {
        task.log().contains("df2redis started").then_some(())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(0));
    assert!(
        task.log().contains("INFO df2redis stopped"),
        "{}",
        task.log()
    );
}

#[test]
fn a_log_that_cannot_be_opened_is_said_at_once() {
    let task = SilentTask::new("[log]\ndir = \"/proc/nowhere\"\n");
    let output = task.command().output().unwrap();
    assert_eq!(output.status.code(), Some(73));
    let said = text(&output.stderr);
    let expected = "df2redis: cannot open the log file /proc/nowhere/silent_replicate.log: ";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn the_log_level_of_the_command_line_wins() {
    let task = SilentTask::new("[log]\nlevel = \"info\"\n");
    let mut running = Running(
        task.command()
            .args(["--log-level", "critical"])
            .spawn()
            .unwrap(),
    );
    let lock = task.dir.path().join("state/silent.lock");
    eventually("the lock is held", || {
        let pid = fs::read_to_string(&lock).ok()?;
        (pid.lines().next()? == running.pid().to_string()).then_some(())
    });
    eventually("signals are listened to", || {
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).ok()?;
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:\t"))?;
        let caught = u64::from_str_radix(caught, 16).ok()?;
        (caught & (1 << (Signal::SIGTERM as i32 - 1)) != 0).then_some(())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(0));
    assert_eq!(task.log(), "");
}
