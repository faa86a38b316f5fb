//! A real Dragonfly as a value: started on a free port, gone when dropped.
//!
//! Invariants: it listens on 127.0.0.1 only, keeps its files in a temporary directory, and is killed by its own
//!   process id and waited for.

use super::client::Client;
use super::redis_server::free_port;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);

/// A running Dragonfly. Dropping it kills it.
pub struct RealDragonfly {
    child: Child,
    dir: TempDir,
    port: u16,
    release: String,
}

impl RealDragonfly {
    /// The program that `$DRAGONFLY` names.
    #[must_use]
    pub fn named() -> Option<OsString> {
        std::env::var_os("DRAGONFLY").filter(|path| !path.is_empty())
    }

    /// The program that `$DRAGONFLY` names, else the `dragonfly` on PATH.
    #[must_use]
    pub fn find() -> Option<OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let there = std::env::split_paths(&path).any(|dir| dir.join("dragonfly").is_file());
        Self::named().or_else(|| there.then(|| "dragonfly".into()))
    }

    /// Starts it with so many threads, which is how many flows it has, and nothing on disk.
    ///
    /// # Errors
    /// In words, when it cannot be started or does not answer, with its log.
    pub fn start(program: &OsStr, threads: usize) -> Result<Self, String> {
        Self::start_with(program, threads, &[])
    }

    /// The same, with further flags.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(program: &OsStr, threads: usize, flags: &[&str]) -> Result<Self, String> {
        let attempt = || Self::attempt(program, threads, flags);
        // Somebody else may have taken the port between our looking and its binding.
        attempt().or_else(|_| attempt()).or_else(|_| attempt())
    }

    fn attempt(program: &OsStr, threads: usize, flags: &[&str]) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot start {}: {error}", program.display());
        let dir = tempfile::tempdir().map_err(cannot)?;
        let output = File::create(dir.path().join("dragonfly.log")).map_err(cannot)?;
        let port = free_port();
        let child = Command::new(program)
            .args(["--bind", "127.0.0.1", "--dbfilename="])
            .arg(format!("--port={port}"))
            .arg(format!("--proactor_threads={threads}"))
            .arg("--dir")
            .arg(dir.path())
            .args(flags)
            .stdin(Stdio::null())
            .stderr(output.try_clone().map_err(cannot)?)
            .stdout(output)
            .spawn()
            .map_err(cannot)?;
        let release = String::new();
        let mut server = Self {
            child,
            dir,
            port,
            release,
        };
        server.wait_up()?;
        Ok(server)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its release, as it says itself: `df-v1.40.1`.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    fn wait_up(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while started.elapsed() < START {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!(
                    "Dragonfly ended with {status}; its log:\n{}",
                    self.log()
                ));
            }
            if let Some(release) = self.ask() {
                self.release = release;
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!(
            "Dragonfly did not answer; its log:\n{}",
            self.log()
        ))
    }

    fn ask(&self) -> Option<String> {
        let mut client = Client::try_connect(("127.0.0.1", self.port)).ok()?;
        let about = client.try_cmd(&["INFO", "server"]).ok()?.text();
        let release = about
            .lines()
            .find_map(|line| line.strip_prefix("dragonfly_version:"))?;
        Some(release.trim().to_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("dragonfly.log")).unwrap_or_default()
    }
}

impl Drop for RealDragonfly {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
