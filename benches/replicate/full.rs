//! Full synchronisation against the target's own limit.

use crate::blast::{Lane, blast};
use crate::machine::{own_cpu, redis_cpu, redis_version};
use crate::program::{BUDGET, Program, Used};
use crate::source::{Source, replica_state};
use crate::support::{Client, RedisServer};
use crate::table::{self, Goal, Row, median};
use crate::workload::Workload;
use crate::{FLOWS, Result};
use std::time::{Duration, Instant};

/// Bytes of a key with its value that count as small.
const SMALL: f64 = 128.0;

/// One run of df2redis.
struct Run {
    from_start: Duration,
    from_sync: Duration,
    used: Used,
    target_cpu: Duration,
    own_cpu: Duration,
}

/// Measures one data set and prints its table.
///
/// # Errors
/// When something fails; numbers that miss a goal are no failure.
pub fn measure(workload: Workload, runs: usize) -> Result<()> {
    let redis = redis_version(&mut RedisServer::start().client());
    let lanes = workload.lanes(&redis)?;
    let source = Source::holding(&workload.dataset, &lanes)?;
    let Workload {
        about,
        keys,
        bytes,
        small_strings,
        dataset,
    } = workload;
    drop(dataset);
    let (mut limits, mut limit_cpu, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let (limit, cpu) = ingest(&lanes, keys)?;
        limits.push(limit.as_secs_f64());
        limit_cpu.push(cpu.as_secs_f64());
        copies.push(copy(&source, keys)?);
    }
    let harm = source.harm();
    if !harm.is_empty() {
        return Err(format!("a real Dragonfly would have been harmed: {harm:?}").into());
    }
    let seconds = |of: &dyn Fn(&Run) -> Duration| {
        copies
            .iter()
            .map(|run| of(run).as_secs_f64())
            .collect::<Vec<_>>()
    };
    let from_sync = seconds(&|run| run.from_sync);
    let ratio = median(&limits) / median(&from_sync);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let allowed = 0.8e-6 * keys as f64 + 1.5e-9 * (bytes as f64 - SMALL * keys as f64).max(0.0);
    let ratio = Row::new("(a) / (b): part of the limit's rate", "of 1", vec![ratio]);
    let ratio = if small_strings {
        ratio.goal(Goal::AtLeast(0.7))
    } else {
        ratio
    };
    let memory = BUDGET + (16 << 20) + ((FLOWS as u64) << 20);
    let peaks = copies.iter().map(|run| mib(run.used.peak)).collect();
    let title = format!("full sync: {about} ({keys} keys, {:.1} MiB)", mib(bytes));
    table::print(
        &title,
        &[
            Row::new("(a) the target's own limit", "s", limits),
            Row::new("(b) df2redis, DFLY SYNC to last key", "s", from_sync),
            ratio,
            Row::new(
                "df2redis, process start to last key",
                "s",
                seconds(&|run| run.from_start),
            ),
            Row::new(
                "processor time of df2redis",
                "s",
                seconds(&|run| run.used.cpu),
            )
            .goal(Goal::AtMost(allowed)),
            Row::new("most memory of df2redis", "MiB", peaks).goal(Goal::AtMost(mib(memory))),
            Row::new("processor time of the target in (a)", "s", limit_cpu),
            Row::new(
                "processor time of the target in (b)",
                "s",
                seconds(&|run| run.target_cpu),
            ),
            Row::new(
                "processor time of source and bench in (b)",
                "s",
                seconds(&|run| run.own_cpu),
            ),
        ],
    );
    Ok(())
}

/// (a), and the target's processor time.
fn ingest(lanes: &[Lane], keys: u64) -> Result<(Duration, Duration)> {
    let target = RedisServer::start();
    let mut client = target.client();
    let before = redis_cpu(&mut client);
    let took = blast(target.port(), lanes)?;
    if size(&mut client) != keys {
        return Err("the target does not hold what was blasted at it".into());
    }
    Ok((took, redis_cpu(&mut client).saturating_sub(before)))
}

/// (b)
fn copy(source: &Source, keys: u64) -> Result<Run> {
    let target = RedisServer::start();
    let mut client = target.client();
    let mut observer = source.client();
    let (cpu_before, own_before) = (redis_cpu(&mut client), own_cpu());
    let started = Instant::now();
    let mut program = Program::start(source.port(), target.port())?;
    let begun =
        |observer: &mut Client| matches!(replica_state(observer).as_str(), "full_sync" | "online");
    program.wait("DFLY SYNC", Duration::from_micros(500), || {
        begun(&mut observer)
    })?;
    let synced = Instant::now();
    program.wait("the last key", Duration::from_millis(2), || {
        size(&mut client) >= keys
    })?;
    let (from_start, from_sync) = (started.elapsed(), synced.elapsed());
    program.wait("stable sync", Duration::from_millis(2), || {
        replica_state(&mut observer) == "online"
    })?;
    let target_cpu = redis_cpu(&mut client).saturating_sub(cpu_before);
    let own_cpu = own_cpu().saturating_sub(own_before);
    let used = program.stop()?;
    Ok(Run {
        from_start,
        from_sync,
        used,
        target_cpu,
        own_cpu,
    })
}

/// Keys in database 0 that are not df2redis' own.
fn size(client: &mut Client) -> u64 {
    let all = client.ok(&["DBSIZE"]).int().unwrap_or(0).unsigned_abs();
    let own = ["position", "fence", "failed", "reread", "foreign"]
        .map(|name| format!("df2redis:{name}:bench"));
    let question: Vec<String> = std::iter::once("EXISTS".to_owned()).chain(own).collect();
    all.saturating_sub(client.ok(&question).int().unwrap_or(0).unsigned_abs())
}
