//! What goes wrong, in time: how long after kill -9 entries are applied again, and what a target that stands still costs
//! the source's own writers.
//!
//! A write's latency counts from when it was due, so that one that is held up counts for those behind it too.

use crate::program::{BUDGET, Program, Used};
use crate::source::{Source, replica_state};
use crate::support::{Client, Dataset, RedisServer};
use crate::table::{self, Goal, Row, median};
use crate::{FLOWS, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Writes per second while it is killed: the default ring holds what is written until it is back.
const AROUND_A_KILL: u64 = 2_000;
/// Writes per second while the target stands still.
const WRITES: u64 = 20_000;
/// Connections that write.
const WRITERS: usize = 4;
/// How long writes are measured without a replica, at most.
const ALONE: Duration = Duration::from_secs(60);
/// How long writes are measured in each run, at full scale.
const SECONDS: f64 = 10.0;

/// Measures and prints both tables. The target stands still for so long, or for as long as the scale says.
///
/// # Errors
/// When something fails; numbers that miss a goal are no failure.
pub fn measure(lasts: Option<Duration>, scale: f64, runs: usize) -> Result<()> {
    let back = (0..runs)
        .map(|_| Ok(after_a_kill()?.as_secs_f64()))
        .collect::<Result<Vec<f64>>>()?;
    let title = format!("kill -9 in stable sync, at {AROUND_A_KILL} entries/s");
    let back = Row::new("until an entry written after it is applied", "s", back);
    table::print(&title, &[back.goal(Goal::AtMost(2.0))]);

    let scaled = || Duration::from_secs_f64((SECONDS * scale.min(1.0)).max(0.5));
    let lasts = lasts.unwrap_or_else(scaled);
    let (mut alone, mut held, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let source = Source::holding(&Dataset::new(), &[])?;
        // Nothing builds up where nobody replicates.
        alone.push(write(&source, lasts.min(ALONE)));
        drop(source);
        let (latencies, used) = with_a_target_that_stands_still(lasts)?;
        held.push(latencies);
        peaks.push(used.peak as f64 / f64::from(1 << 20));
    }
    let of = |latencies: &[Latencies], at: usize| -> Vec<f64> {
        latencies.iter().map(|run| run.0[at]).collect()
    };
    let mut rows = Vec::new();
    for (at, name) in ["p50", "p99", "p99.9", "longest"].into_iter().enumerate() {
        let (alone, held) = (of(&alone, at), of(&held, at));
        let more = median(&held) - median(&alone);
        rows.push(Row::new(format!("{name} without a replica"), "ms", alone));
        rows.push(Row::new(format!("{name} with df2redis"), "ms", held));
        if name == "p99.9" {
            let row = Row::new("  the difference", "ms", vec![more]);
            rows.push(row.goal(Goal::AtMost(50.0)));
        }
    }
    // What the README promises.
    let most = (BUDGET >> 20) as f64 + 16.0 + FLOWS as f64;
    rows.push(Row::new("most memory of df2redis", "MiB", peaks).goal(Goal::AtMost(most)));
    let title = format!(
        "writes of the source's clients, {WRITES} a second, while the target stands still for {} s",
        lasts.as_secs_f64()
    );
    table::print(&title, &rows);
    Ok(())
}

/// Writes one key, of this thread, to the source.
struct Writer<'a> {
    source: &'a Source,
    client: Option<Client>,
    number: usize,
}

impl<'a> Writer<'a> {
    fn new(source: &'a Source, number: usize) -> Self {
        let client = matches!(source, Source::Real(_)).then(|| source.client());
        Self {
            source,
            client,
            number,
        }
    }

    fn write(&mut self, key: &str, value: u64) {
        let words = ["SET".to_owned(), key.to_owned(), value.to_string()];
        match (self.source, &mut self.client) {
            (Source::Simulated(simulated), _) => {
                simulated.journal_on(self.number % FLOWS, 0, words);
            }
            (Source::Real(_), Some(client)) => drop(client.ok(&words)),
            (Source::Real(_), None) => {}
        }
    }
}

/// Milliseconds: p50, p99, p99.9 and the longest.
struct Latencies([f64; 4]);

/// Writes at a rate for a while.
fn write(source: &Source, lasts: Duration) -> Latencies {
    let every = Duration::from_secs(1) * WRITERS as u32 / WRITES as u32;
    let mut all = std::thread::scope(|scope| {
        let writing: Vec<_> = (0..WRITERS)
            .map(|number| {
                scope.spawn(move || {
                    let mut writer = Writer::new(source, number);
                    let (started, mut taken) = (Instant::now(), Vec::new());
                    for n in 0.. {
                        let due = started + every * n;
                        if due - started >= lasts {
                            break;
                        }
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        writer.write(&format!("key:{number}:{}", n % 1_000), n.into());
                        taken.push(due.elapsed().as_secs_f64() * 1e3);
                    }
                    taken
                })
            })
            .collect();
        let taken = writing.into_iter().filter_map(|thread| thread.join().ok());
        taken.flatten().collect::<Vec<f64>>()
    });
    all.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = ((all.len() as f64 * part).ceil() as usize).max(1) - 1;
        all.get(place).copied().unwrap_or(f64::NAN)
    };
    Latencies([at(0.5), at(0.99), at(0.999), at(1.0)])
}

/// A source, a target and df2redis in stable sync between them.
fn in_stable_sync() -> Result<(Source, RedisServer, Program)> {
    let source = Source::holding(&Dataset::new(), &[])?;
    let target = RedisServer::start();
    let mut program = Program::start(source.port(), target.port())?;
    // When the source says so, the target is still to be told.
    let log = program.log_file();
    program.wait("stable sync", Duration::from_millis(5), || {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains("following writes"))
    })?;
    Ok((source, target, program))
}

fn with_a_target_that_stands_still(lasts: Duration) -> Result<(Latencies, Used)> {
    let (source, target, mut program) = in_stable_sync()?;
    let pid = Pid::from_raw(target.pid().cast_signed());
    kill(pid, Signal::SIGSTOP)?;
    let latencies = write(&source, lasts);
    let state = replica_state(&mut source.client());
    kill(pid, Signal::SIGCONT)?;
    if state != "online" {
        let log = program.log();
        return Err(format!("the source dropped df2redis: its state is \"{state}\"\n{log}").into());
    }
    // What was held up arrives, and nothing was copied anew.
    let mut client = target.client();
    Writer::new(&source, 0).write("end", 1);
    program.wait("the last entry", Duration::from_millis(5), || {
        client.ok(&["EXISTS", "end"]).int() == Some(1)
    })?;
    if program.times_logged("full sync started")? != 1 {
        return Err(format!("it copied everything again\n{}", program.log()).into());
    }
    Ok((latencies, program.stop()?))
}

/// From the kill until something that was written after it is on the target.
fn after_a_kill() -> Result<Duration> {
    let (source, target, mut program) = in_stable_sync()?;
    let (written, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = Writer::new(&source, 0);
            let started = Instant::now();
            for n in 1.. {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let due = started + Duration::from_secs(1) * n / AROUND_A_KILL as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                writer.write("count", n.into());
                written.store(n.into(), Ordering::Release);
            }
        });
        let mut client = target.client();
        let mut applied = || client.ok(&["GET", "count"]).text().parse().unwrap_or(0);
        let ended = (|| {
            program.wait("some entries", Duration::from_millis(5), || {
                applied() > AROUND_A_KILL
            })?;
            let killed = Instant::now();
            program.kill_and_start_again()?;
            let before = written.load(Ordering::Acquire);
            program.wait("entries written since", Duration::from_millis(1), || {
                applied() > before
            })?;
            Ok(killed.elapsed())
        })();
        over.store(true, Ordering::Release);
        let log = program.log();
        if ended.is_ok() && !log.contains("resuming where the target is") {
            return Err(format!("it did not resume\n{log}").into());
        }
        // What a kill leaves behind is no harm to a real master, which has noticed it by then.
        let _ = source.harm();
        program.stop()?;
        ended
    })
}
