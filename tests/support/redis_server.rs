//! A real `redis-server`, or `valkey-server`, as a value: started on a free port, gone when dropped.
//!
//! Invariants: it listens on 127.0.0.1 only, keeps nothing on disk outside its own temporary directory, is
//!   killed by its own process id and waited for, and shows its log when the test that owns it panics.

use super::client::Client;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Attempts at a port that somebody else may take between our looking and the server's binding.
const ATTEMPTS: usize = 5;

/// A server that stands still until this is dropped.
pub struct Still<'a>(&'a RedisServer);

impl<'a> Still<'a> {
    /// Stops it as `SIGSTOP` does.
    #[must_use]
    pub fn hold(server: &'a RedisServer) -> Self {
        server.signal(Signal::SIGSTOP);
        Self(server)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGCONT);
    }
}

/// A running server. Dropping it kills it.
pub struct RedisServer {
    child: Child,
    dir: TempDir,
    port: u16,
    program: PathBuf,
    args: Vec<String>,
}

impl RedisServer {
    /// Starts one without persistence.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not answer within 20 s.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further arguments, such as `["--maxmemory", "1mb"]`.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not answer within 20 s.
    #[must_use]
    #[track_caller]
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_program(Path::new("redis-server"), args)
    }

    /// The same of another program than the `redis-server` on PATH.
    ///
    /// # Panics
    /// When there is no such program, or it does not answer within 20 s.
    #[must_use]
    #[track_caller]
    pub fn start_program(program: &Path, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self::start_attempts(program, || args.clone())
    }

    /// The same with arguments that each attempt chooses anew, such as further ports.
    ///
    /// # Panics
    /// When there is no such program, or it does not answer within 20 s.
    #[must_use]
    #[track_caller]
    pub fn start_attempts(program: &Path, args: impl Fn() -> Vec<String>) -> Self {
        let mut log = String::new();
        for _ in 0..ATTEMPTS {
            let args = args();
            let dir = tempfile::tempdir().expect("a temporary directory for redis-server");
            let port = free_port();
            let mut server = Self {
                child: spawn(program, dir.path(), port, &args),
                dir,
                port,
                program: program.to_owned(),
                args,
            };
            if server.answers() {
                return server;
            }
            log = format!("{:?}\n{}", server.args, server.log());
        }
        panic!("{} did not come up; its log:\n{log}", program.display());
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().expect("a process id"));
        super::signal(pid, signal);
    }

    /// Its own directory, where it would also write dumps.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new connection to it, without authentication.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// What `GET key` answers in database 0; the empty string when there is no such key.
    #[must_use]
    #[track_caller]
    pub fn get(&self, key: &str) -> String {
        self.client().ok(&["GET", key]).text()
    }

    /// Kills it as `kill -9` would, and waits until it is gone. The port stays reserved for [`Self::restart`].
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port after [`Self::kill`], empty unless its arguments made it persist.
    ///
    /// # Panics
    /// When it does not come up on its old port.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, self.dir.path(), self.port, &self.args);
        assert!(
            self.answers(),
            "redis-server did not come up again on port {}:\n{}",
            self.port,
            self.log()
        );
    }

    /// Starts it again on another port, with what its arguments made persist.
    ///
    /// # Panics
    /// When it does not come up there.
    #[track_caller]
    pub fn restart_elsewhere(&mut self) {
        self.kill();
        self.port = free_port();
        self.restart();
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(log_path(self.dir.path())).unwrap_or_default()
    }

    /// Waits until it answers; false when it ended before (a lost race for the port) or after 20 s.
    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        let addr = SocketAddr::from(([127, 0, 0, 1], self.port));
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            // A server that asks for a password, or is loading, is up too; another one's answer cannot come,
            // because ours would have failed to bind and ended.
            let ping = Client::try_connect(addr).and_then(|mut client| client.try_cmd(&["PING"]));
            if ping.is_ok()
                && matches!(self.child.try_wait(), Ok(None))
                && self.log().contains("Ready to accept")
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- log of redis-server on port {}\n{}",
                self.port,
                self.log()
            );
        }
    }
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("redis.log")
}

fn spawn(program: &Path, dir: &Path, port: u16, args: &[String]) -> Child {
    let output = fs::File::create(log_path(dir)).expect("a log file for redis-server");
    let spawned = Command::new(program)
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .args(["--daemonize", "no", "--dir"])
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stderr(
            output
                .try_clone()
                .expect("a second handle to the log of redis-server"),
        )
        .stdout(output)
        .spawn();
    match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            panic!(
                "there is no {}; `apt-get install redis-server` (or `make tools`) installs that of PATH",
                program.display()
            )
        }
        Err(error) => panic!("cannot start {}: {error}", program.display()),
    }
}

/// A port that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port on 127.0.0.1");
    listener
        .local_addr()
        .expect("the address of a listener")
        .port()
}
