//! The journal at full rate, and how far behind the target is at half that rate.
//!
//! Lag is measured outside the program: each few milliseconds an entry of a stream of its own is journalled on every
//! flow, its time noted, and read from the target by a connection that waits for it in `XREAD BLOCK`.

use crate::blast::{Lane, blast, connect, drain};
use crate::machine::own_cpu;
use crate::program::{BUDGET, Program, Used};
use crate::source::{Source, replica_state};
use crate::support::dragonfly::Script;
use crate::support::dragonfly::encode::shard_of;
use crate::support::{Client, Dataset, RedisServer};
use crate::table::{self, Goal, Row, median};
use crate::{FLOWS, Result};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Not counted in the percentiles: an empty target makes all its keys in it, and answers late for that.
const WARM_UP: Duration = Duration::from_millis(500);

/// Time between two lag marks on a flow.
const MARK_EVERY: Duration = Duration::from_millis(5);
/// Entries per second of a quiet source: most batches hold one.
const QUIET: u64 = 1_000;
/// How `target.positions` can be set.
const POSITIONS: [&str; 2] = ["transaction", "none"];
/// How long lag is measured in each run, at full scale.
const LAG_SECONDS: f64 = 5.0;

/// Commands in both forms, and the keys by which their end is seen.
pub struct Journal {
    pub lanes: Vec<Lane>,
    pub script: Script,
    pub ends: Vec<String>,
}

/// One run at full rate.
struct Run {
    took: Duration,
    used: Used,
    own_cpu: Duration,
}

/// Measures and prints the table.
///
/// # Errors
/// When something fails; numbers that miss a goal are no failure.
pub fn measure(count: usize, scale: f64, runs: usize) -> Result<()> {
    let journal = Journal::new(count);
    let entries: usize = journal.lanes.iter().map(|lane| lane.ends.len()).sum();
    let (mut limits, mut follows, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let target = RedisServer::start();
        limits.push(entries as f64 / blast(target.port(), &journal.lanes)?.as_secs_f64());
        let [with, without] = POSITIONS;
        follows.push(follow(&journal, with)?);
        bare.push(follow(&journal, without)?);
    }
    let rates_of = |follows: &[Run]| -> Vec<f64> {
        let rate = |run: &Run| entries as f64 / run.took.as_secs_f64();
        follows.iter().map(rate).collect()
    };
    let (rates, bare_rates) = (rates_of(&follows), rates_of(&bare));
    let half = median(&rates) / 2.0;
    let seconds = (LAG_SECONDS * scale.min(1.0)).max(0.5);
    let slow = Journal::new((half * seconds) as usize);
    let lags = (0..runs)
        .map(|_| lag(&slow, half as u64, POSITIONS[0]))
        .collect::<Result<Vec<Lags>>>()?;
    let quiet = Journal::new((QUIET as f64 * seconds) as usize);
    let mut quiet_lags = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (lags, positions) in quiet_lags.iter_mut().zip(POSITIONS) {
            lags.push(lag(&quiet, QUIET, positions)?.p50);
        }
    }
    let [quiet_lags, bare_quiet_lags] = quiet_lags;
    let part = median(&rates) / median(&limits);
    let kept = median(&rates) / median(&bare_rates);
    let per_entry = |of: &dyn Fn(&Run) -> Duration| {
        follows
            .iter()
            .map(|run| of(run).as_secs_f64() * 1e6 / entries as f64)
            .collect::<Vec<_>>()
    };
    let peaks = |follows: &[Run]| -> Vec<f64> {
        let peak = |run: &Run| run.used.peak as f64 / f64::from(1 << 20);
        follows.iter().map(peak).collect()
    };
    let memory = (BUDGET >> 20) + 16 + FLOWS as u64;
    let of = |at: &dyn Fn(&Lags) -> f64| lags.iter().map(at).collect::<Vec<_>>();
    table::print(
        &format!(
            "stable sync: {entries} journal entries (SET, INCR, HSET, LPUSH, ZADD, PEXPIREAT)"
        ),
        &[
            Row::new("(a) the target's own limit", "entries/s", limits),
            Row::new("(b) df2redis", "entries/s", rates),
            Row::new("(b) / (a): part of the limit's rate", "of 1", vec![part])
                .goal(Goal::AtLeast(0.7)),
            Row::new("(c) with positions = \"none\"", "entries/s", bare_rates),
            Row::new(
                "(b) / (c): what positions leave of the rate",
                "of 1",
                vec![kept],
            )
            .goal(Goal::AtLeast(0.95)),
            Row::new(
                "processor time of df2redis",
                "us/entry",
                per_entry(&|run| run.used.cpu),
            ),
            Row::new(
                "processor time of source and bench",
                "us/entry",
                per_entry(&|run| run.own_cpu),
            ),
            Row::new("most memory of df2redis", "MiB", peaks(&follows))
                .goal(Goal::AtMost(memory as f64)),
            Row::new("  with positions = \"none\"", "MiB", peaks(&bare)),
            Row::new(
                format!("lag at {half:.0} entries/s, p50"),
                "ms",
                of(&|lags| lags.p50),
            ),
            Row::new("  p99", "ms", of(&|lags| lags.p99)).goal(Goal::AtMost(20.0)),
            Row::new("  greatest", "ms", of(&|lags| lags.most)),
            Row::new(
                "  greatest of the first half second, not counted above",
                "ms",
                of(&|lags| lags.cold),
            ),
            Row::new(format!("lag at {QUIET} entries/s, p50"), "ms", quiet_lags),
            Row::new("  with positions = \"none\"", "ms", bare_quiet_lags),
            Row::new("marks", "seen", of(&|lags| lags.marks as f64)),
        ],
    );
    Ok(())
}

impl Journal {
    /// So many commands of all kinds.
    pub fn new(count: usize) -> Self {
        let mut journal = Self {
            lanes: vec![Lane::default(); FLOWS],
            script: Script::new(FLOWS),
            ends: (0..FLOWS).map(|flow| key_on("end", flow)).collect(),
        };
        let value = "v".repeat(64);
        for n in 0..count {
            let at = n.wrapping_mul(7919) % 50_000;
            let n = n.to_string();
            match at % 10 {
                0..=3 => journal.push(&["SET", &format!("string:{at}"), &value]),
                4 | 5 => journal.push(&["INCR", &format!("counter:{at}")]),
                6 => journal.push(&[
                    "HSET",
                    &format!("hash:{at}"),
                    &format!("field:{}", at % 7),
                    &n,
                ]),
                7 => journal.push(&["LPUSH", &format!("list:{at}"), &n]),
                8 => journal.push(&[
                    "ZADD",
                    &format!("zset:{at}"),
                    &n,
                    &format!("member:{}", at % 50),
                ]),
                _ => journal.push(&["PEXPIREAT", &format!("string:{}", at - 9), "4102444800000"]),
            }
        }
        for end in journal.ends.clone() {
            journal.push(&["SET", &end, "1"]);
        }
        journal
    }

    fn push(&mut self, args: &[&str]) {
        let flow = shard_of(args[1].as_bytes(), FLOWS);
        self.lanes[flow].push(args);
        self.script.push(0, args);
    }

    fn arrived(&self, target: &mut Client) -> bool {
        let question = [vec!["EXISTS".to_owned()], self.ends.clone()].concat();
        target.ok(&question).int() == Some(self.ends.len() as i64)
    }
}

/// A key that this flow owns.
fn key_on(name: &str, flow: usize) -> String {
    (0..)
        .map(|n| format!("{name}:{n}"))
        .find(|key| shard_of(key.as_bytes(), FLOWS) == flow)
        .unwrap_or_default()
}

/// A source, a target and df2redis in stable sync between them.
fn in_stable_sync(positions: &str) -> Result<(Source, RedisServer, Program)> {
    let source = Source::holding(&Dataset::new(), &[])?;
    let target = RedisServer::start();
    let mut program = Program::start_with(source.port(), target.port(), positions)?;
    let mut observer = source.client();
    program.wait("stable sync", Duration::from_millis(2), || {
        replica_state(&mut observer) == "online"
    })?;
    Ok((source, target, program))
}

/// (b) and (c)
///
/// # Errors
/// When the program fails.
fn follow(journal: &Journal, positions: &str) -> Result<Run> {
    let (source, target, mut program) = in_stable_sync(positions)?;
    let mut client = target.client();
    let own_before = own_cpu();
    let started = Instant::now();
    match &source {
        Source::Simulated(simulated) => journal.script.play(simulated),
        Source::Real(real) => drop(blast(real.port(), &journal.lanes)?),
    }
    program.wait("the last entry", Duration::from_millis(1), || {
        journal.arrived(&mut client)
    })?;
    let took = started.elapsed();
    let own_cpu = own_cpu().saturating_sub(own_before);
    let used = program.stop()?;
    Ok(Run {
        took,
        used,
        own_cpu,
    })
}

/// Percentiles of one run, in milliseconds.
struct Lags {
    p50: f64,
    p99: f64,
    most: f64,
    /// The greatest of [`WARM_UP`].
    cold: f64,
    marks: usize,
}

/// Plays the journal at a rate, and notes how long each mark takes from the source to the target.
fn lag(journal: &Journal, per_second: u64, positions: &str) -> Result<Lags> {
    let (source, target, mut program) = in_stable_sync(positions)?;
    let mut client = target.client();
    let keys: Vec<String> = (0..FLOWS).map(|flow| key_on("mark", flow)).collect();
    let over = AtomicBool::new(false);
    let (sent, seen) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(target.client(), &keys, &over));
        let mut marks = Marks::new(&keys);
        let played = match &source {
            Source::Simulated(simulated) => {
                journal.script.play_at(simulated, per_second, |flow, _, _| {
                    if let Some(mark) = marks.due(flow) {
                        simulated.journal_on(flow, 0, mark);
                    }
                });
                Ok(())
            }
            Source::Real(real) => pace(real.port(), &journal.lanes, per_second, &mut marks),
        };
        let arrived = played.and_then(|()| {
            program.wait("the last entry", Duration::from_millis(1), || {
                journal.arrived(&mut client)
            })
        });
        // A mark may lie behind the end of its lane: the watcher looks once more for what is there.
        over.store(true, Ordering::Release);
        let seen = watcher.join().map_err(|_| "the watcher panicked")?;
        arrived.map(|()| (marks.sent, seen))
    })?;
    program.stop()?;
    let begun = sent.iter().flatten().min().copied();
    let warm = begun.map(|begun| begun + WARM_UP);
    let (mut lags, mut cold) = (Vec::new(), 0.0_f64);
    for (flow, n, at) in &seen {
        let Some(written) = sent.get(*flow).and_then(|sent| sent.get(n - 1)) else {
            continue;
        };
        let lag = at.saturating_duration_since(*written).as_secs_f64() * 1e3;
        if Some(*written) < warm {
            cold = cold.max(lag);
        } else {
            lags.push(lag);
        }
    }
    lags.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = ((lags.len() as f64 * part).ceil() as usize).max(1) - 1;
        lags.get(place).copied().unwrap_or(f64::NAN)
    };
    Ok(Lags {
        p50: at(0.5),
        p99: at(0.99),
        most: at(1.0),
        cold,
        marks: lags.len(),
    })
}

/// The marks of a run: when each was written, by flow.
struct Marks<'a> {
    keys: &'a [String],
    sent: Vec<Vec<Instant>>,
}

impl<'a> Marks<'a> {
    fn new(keys: &'a [String]) -> Self {
        Self {
            keys,
            sent: vec![Vec::new(); keys.len()],
        }
    }

    /// The command of the next mark on a flow, if it is time for one. It counts as written now.
    fn due(&mut self, flow: usize) -> Option<[String; 5]> {
        let (key, sent) = (self.keys.get(flow)?, self.sent.get_mut(flow)?);
        let now = Instant::now();
        if sent
            .last()
            .is_some_and(|last| now.duration_since(*last) < MARK_EVERY)
        {
            return None;
        }
        sent.push(now);
        let id = format!("{}-1", sent.len());
        Some([
            "XADD".to_owned(),
            key.clone(),
            id,
            "n".to_owned(),
            "1".to_owned(),
        ])
    }
}

/// Waits for marks on the target; answers flow, number and time of each.
fn watch(mut client: Client, keys: &[String], over: &AtomicBool) -> Vec<(usize, usize, Instant)> {
    let mut last = vec![0_usize; keys.len()];
    let mut seen = Vec::new();
    loop {
        let ending = over.load(Ordering::Acquire);
        let mut question: Vec<String> = ["XREAD", "BLOCK", "50", "STREAMS"]
            .map(str::to_owned)
            .to_vec();
        question.extend_from_slice(keys);
        question.extend(last.iter().map(|n| format!("{n}-1")));
        let reply = client.ok(&question);
        let now = Instant::now();
        for stream in reply.items() {
            let [key, entries] = stream.items() else {
                continue;
            };
            let Some(flow) = keys.iter().position(|known| *key == known.as_str()) else {
                continue;
            };
            for entry in entries.items() {
                let id = entry
                    .items()
                    .first()
                    .map(|id| id.text())
                    .unwrap_or_default();
                let n = id
                    .split('-')
                    .next()
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(0);
                last[flow] = n;
                seen.push((flow, n, now));
            }
        }
        if ending {
            return seen;
        }
    }
}

/// Writes lanes to a real source at a rate, a millisecond's worth at a time.
fn pace(port: u16, lanes: &[Lane], per_second: u64, marks: &mut Marks<'_>) -> Result<()> {
    let streams = lanes
        .iter()
        .map(|_| connect(port))
        .collect::<std::io::Result<Vec<_>>>()?;
    // Marks have a connection of their own: their replies are of two lines, and not counted with the others.
    let mut marker = Client::connect(port);
    std::thread::scope(|scope| {
        for (lane, stream) in lanes.iter().zip(&streams) {
            scope.spawn(move || drain(stream, lane.ends.len()));
        }
        let total: usize = lanes.iter().map(|lane| lane.ends.len()).sum();
        let started = Instant::now();
        let mut done = vec![0; lanes.len()];
        while done
            .iter()
            .zip(lanes)
            .any(|(done, lane)| *done < lane.ends.len())
        {
            let part = started.elapsed().as_secs_f64() * per_second as f64 / total as f64;
            for (flow, (lane, mut stream)) in lanes.iter().zip(&streams).enumerate() {
                let due =
                    ((lane.ends.len() as f64 * part) as usize).clamp(done[flow], lane.ends.len());
                let at = |count: usize| count.checked_sub(1).map_or(0, |last| lane.ends[last]);
                stream.write_all(&lane.bytes[at(done[flow])..at(due)])?;
                done[flow] = due;
                if let Some(mark) = marks.due(flow) {
                    marker.ok(&mark);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })
}
