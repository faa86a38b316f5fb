//! The main job, to watch: a Dragonfly with data and live writes, df2redis copying it, a real Redis as its target,
//! and at the end a comparison of the two by ordinary commands.
//!
//! `make demo` builds the program and runs this. The source is `$DRAGONFLY`, or `dragonfly` on PATH, or else the
//! simulated Dragonfly of the tests. Ends by itself within two minutes; exit code 1 when the copy differs.

#[path = "demo/load.rs"]
mod load;
#[path = "demo/source.rs"]
mod source;
#[path = "../tests/support/mod.rs"]
mod support;

use source::Source;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::compare::{Database, differences_of, read_database, shorten};
use support::{Client, RedisServer};

/// When the demo gives up on whatever it waits for.
const DEADLINE: Duration = Duration::from_secs(100);
/// How long clients write while df2redis follows.
const WRITING: Duration = Duration::from_secs(10);
/// How long df2redis may take to stop.
const STOPPING: Duration = Duration::from_secs(10);
/// The types that are counted at the end, as `TYPE` names them.
const TYPES: [&str; 6] = ["string", "list", "set", "hash", "zset", "stream"];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match demo() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(format!("demo failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<bool> {
    let clock = Clock::start()?;
    let program = program()?;
    let source = Source::start()?;
    say(format!("source: {}", source.about()));
    let target = RedisServer::start();
    let version = info(&mut target.client(), "server", "redis_version:").unwrap_or_default();
    say(format!("target: Redis {version} on {}", target.address()));

    let keys = load::seed(&mut source.client());
    say(format!(
        "the source holds {keys} keys of all types in the databases 0 and 3"
    ));

    let dir = tempfile::tempdir()?;
    let config = task_file(dir.path(), &source.address(), &target.address())?;
    say("$ df2redis replicate --config demo.toml, with this task file:");
    fs::read_to_string(&config)?
        .lines()
        .for_each(|line| println!("   | {line}"));
    let started = Instant::now();
    let mut df2redis = Program::start(&program, &config)?;
    let mut observer = source.client();
    let mut copied = target.client();
    clock.wait("the full copy", || {
        df2redis.check()?;
        Ok(in_stable_sync(&mut observer) && load::keys(&mut copied) >= keys)
    })?;
    say(format!(
        "full copy done {:.1} s after the start; clients now write for {} s",
        started.elapsed().as_secs_f64(),
        WRITING.as_secs()
    ));

    let written = load::write(&source, WRITING, || {
        clock.over() || df2redis.check().is_err()
    });
    let stopped = Instant::now();
    clock.wait("the last write on the target", || {
        df2redis.check().map(|()| is_level(&mut observer))
    })?;
    say(format!(
        "{written} live writes; {} ms after the last one the source showed a lag of 0",
        stopped.elapsed().as_millis()
    ));
    let mut observers = (source.client(), target.client());
    clock.wait("the short-lived keys' end", || {
        Ok(load::brief_are_gone(&mut observers.0) && load::brief_are_gone(&mut observers.1))
    })?;

    let (status, took) = df2redis.stop()?;
    say(format!(
        "SIGTERM: df2redis ended with {status} after {:.2} s",
        took.as_secs_f64()
    ));
    let same = compare(&mut observers.0, &mut observers.1);
    say(if same {
        "the target is identical to the source"
    } else {
        "the target DIFFERS from the source"
    });
    let harm = source.harm();
    harm.iter()
        .for_each(|harm| say(format!("a real Dragonfly would have been harmed: {harm}")));
    Ok(same && status.success() && harm.is_empty())
}

/// One line of the demo's own. It begins at the edge, whatever progress the program has drawn there.
fn say(line: impl AsRef<str>) {
    let edge = if io::stdout().is_terminal() {
        "\r\x1b[2K"
    } else {
        ""
    };
    println!("{edge}== {}", line.as_ref());
}

/// Where cargo has put the program: beside the directory of examples.
fn program() -> Result<PathBuf> {
    let demo = std::env::current_exe()?;
    let profile = demo
        .parent()
        .and_then(Path::parent)
        .ok_or("the demo must be run by cargo")?;
    let program = profile.join("df2redis");
    if !program.is_file() {
        let missing = format!(
            "{} is missing: `make demo` builds it first",
            program.display()
        );
        return Err(missing.into());
    }
    Ok(program)
}

fn task_file(dir: &Path, source: &str, target: &str) -> Result<PathBuf> {
    let path = dir.join("demo.toml");
    let text = format!(
        "[source]\naddress = \"{source}\"\n\n[target]\naddress = \"{target}\"\nexclusive = true\n\n[log]\nconsole = \"always\"\n"
    );
    fs::write(&path, text)?;
    Ok(path)
}

/// The value behind `name` in a section of INFO.
fn info(client: &mut Client, section: &str, name: &str) -> Option<String> {
    let text = client.try_cmd(&["INFO", section]).ok()?.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().to_owned())
}

fn in_stable_sync(source: &mut Client) -> bool {
    let replica = info(source, "replication", "slave0:").unwrap_or_default();
    replica.contains("state=online") || replica.contains("state=stable_sync")
}

/// Whether every entry of the journal is acknowledged, and none came while we looked.
fn is_level(source: &mut Client) -> bool {
    let mut offsets = || {
        source
            .try_cmd(&["DFLY", "REPLICAOFFSET"])
            .ok()
            .map(|reply| format!("{reply:?}"))
    };
    let before = offsets();
    let after = offsets();
    let replica = info(source, "replication", "slave0:").unwrap_or_default();
    let mut offsets = || {
        source
            .try_cmd(&["DFLY", "REPLICAOFFSET"])
            .ok()
            .map(|reply| format!("{reply:?}"))
    };
    before.is_some()
        && before == after
        && before == offsets()
        && replica.split(',').any(|field| field == "lag=0")
}

/// Prints what the two servers hold, and says whether it is the same.
fn compare(source: &mut Client, target: &mut Client) -> bool {
    let mut differences = Vec::new();
    let mut counts = [[0_usize; TYPES.len() + 1]; 2];
    for db in 0..16 {
        let (left, right) = (read_database(source, db), read_database(target, db));
        differences.extend(differences_of(db, &left, &right));
        count(&left, &mut counts[0]);
        count(&right, &mut counts[1]);
    }
    println!("\n   {:<22}{:>10}{:>10}", "keys", "source", "target");
    let names = TYPES.iter().copied().chain(["with an expiry"]);
    for (name, (left, right)) in names.zip(counts[0].iter().zip(counts[1])) {
        println!("   {name:<22}{left:>10}{right:>10}");
    }
    println!("   {:<22}{:>20}\n", "that differ", differences.len());
    let same = differences.is_empty() && counts[0].iter().sum::<usize>() > 0;
    shorten(differences)
        .iter()
        .for_each(|difference| println!("   {difference}"));
    same
}

fn count(database: &Database, counts: &mut [usize; TYPES.len() + 1]) {
    for seen in database.values() {
        if let Some(at) = TYPES.iter().position(|name| *name == seen.kind) {
            counts[at] += 1;
        }
        counts[TYPES.len()] += usize::from(seen.expire_at_ms > 0);
    }
}

/// How long everything may take, and whether the user wants to stop.
pub struct Clock {
    started: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Clock {
    fn start() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self {
            started: Instant::now(),
            interrupted,
        })
    }

    fn over(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed) || self.started.elapsed() > DEADLINE
    }

    /// Looks every few milliseconds until `check` is true.
    ///
    /// # Errors
    /// Those of `check`, and when the time is over or the user interrupts.
    pub fn wait(&self, what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
        loop {
            let done = check();
            // Whoever interrupts a terminal interrupts all that run there: the rest is a consequence.
            if self.interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            if done? {
                return Ok(());
            }
            if self.over() {
                return Err(format!("waited too long for {what}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The program in the foreground: it writes where the demo writes. Killed and waited for when dropped.
struct Program {
    child: Child,
}

impl Program {
    fn start(program: &Path, config: &Path) -> Result<Self> {
        let child = Command::new(program)
            .arg("replicate")
            .arg("--config")
            .arg(config)
            .spawn()?;
        Ok(Self { child })
    }

    /// Fails when it has ended.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("df2redis ended by itself with {status}").into()),
        }
    }

    /// Asks it to stop, and waits until it has.
    fn stop(&mut self) -> Result<(ExitStatus, Duration)> {
        let asked = Instant::now();
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, asked.elapsed()));
            }
            if asked.elapsed() > STOPPING {
                return Err(
                    format!("df2redis did not stop within {} s", STOPPING.as_secs()).into(),
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
