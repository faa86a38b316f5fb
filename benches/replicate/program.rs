//! df2redis as it is installed: the release binary, with a task file, watched from outside.

use crate::Result;
use crate::machine::children_cpu;
use crate::support::peak_memory;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The memory budget of every run.
pub const BUDGET: u64 = 64 << 20;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running df2redis. Killed and waited for when dropped.
pub struct Program {
    child: Child,
    dir: TempDir,
    /// Processor time of the children before it.
    cpu_before: Duration,
}

/// What it has used.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Processor time from start to end.
    pub cpu: Duration,
    /// Most memory, in bytes.
    pub peak: u64,
}

impl Program {
    /// Starts it between two ports of 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(source: u16, target: u16) -> Result<Self> {
        Self::start_with(source, target, "transaction")
    }

    /// Starts it with this `target.positions`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(source: u16, target: u16, positions: &str) -> Result<Self> {
        Self::start_into(
            source,
            &format!("address = \"127.0.0.1:{target}\""),
            positions,
        )
    }

    /// Starts it with these lines of `[target]`, and this `target.positions`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_into(source: u16, target: &str, positions: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("bench.toml");
        let text = format!(
            "[source]\naddress = \"127.0.0.1:{source}\"\n[target]\n{target}\nexclusive = true\n\
             positions = \"{positions}\"\n[limits]\nmemory = \"{}MiB\"\n[log]\nconsole = \"never\"\n",
            BUDGET >> 20
        );
        fs::write(&config, text)?;
        let cpu_before = children_cpu();
        let child = spawn(&config)?;
        Ok(Self {
            child,
            dir,
            cpu_before,
        })
    }

    /// Kills it as nothing can be prepared for, and starts it again in its place.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kill_and_start_again(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.dir.path().join("bench.toml"))?;
        Ok(())
    }

    /// Looks every `pause` until `check` is true.
    ///
    /// # Errors
    /// When it ends before, or that takes too long; with the end of its log.
    pub fn wait(
        &mut self,
        what: &str,
        pause: Duration,
        mut check: impl FnMut() -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        while !check() {
            if let Some(status) = self.child.try_wait()? {
                return Err(
                    format!("df2redis ended with {status} before {what}\n{}", self.log()).into(),
                );
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("waited too long for {what}\n{}", self.log()).into());
            }
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// Processor time that it has used so far, to a hundredth of a second.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Its name, in parentheses, may hold anything; user and system time are the 12th and 13th word behind it.
        let words = stat.rsplit(')').next().unwrap_or_default();
        let ticks = words.split_ascii_whitespace().skip(11).take(2);
        let ticks: Vec<u64> = ticks
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
        let per_second = u32::try_from(per_second)?;
        Ok(Duration::from_secs(ticks.iter().sum()) / per_second)
    }

    /// Stops it; answers what it has used. No other child may have been waited for in the meantime.
    ///
    /// # Errors
    /// When it does not stop, or not with exit code 0.
    pub fn stop(mut self) -> Result<Used> {
        let peak = peak_memory(self.child.id()).unwrap_or(0);
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )?;
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if asked.elapsed() > Duration::from_secs(20) {
                return Err(format!("df2redis did not stop\n{}", self.log()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if !status.success() {
            return Err(format!("df2redis stopped with {status}\n{}", self.log()).into());
        }
        let cpu = children_cpu().saturating_sub(self.cpu_before);
        Ok(Used { cpu, peak })
    }

    /// Where it logs.
    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("log/bench_replicate.log")
    }

    /// How many lines of its log have this.
    ///
    /// # Errors
    /// When there is no log.
    pub fn times_logged(&self, what: &str) -> Result<usize> {
        let text = fs::read_to_string(self.log_file())?;
        Ok(text.lines().filter(|line| line.contains(what)).count())
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(15)..)
            .unwrap_or_default()
            .join("\n")
    }
}

fn spawn(config: &Path) -> std::io::Result<Child> {
    Command::new(env!("CARGO_BIN_EXE_df2redis"))
        .args(["replicate", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
