//! A full sync onto a target that has everything already: what it costs to find that nothing has changed.

use crate::Result;
use crate::program::Program;
use crate::source::{Source, replica_state};
use crate::support::{Client, RedisServer, Reply};
use crate::table::{self, Row, median};
use crate::workload::Workload;
use std::time::{Duration, Instant};

/// The task's record on the target.
const RECORD: &str = "df2redis:position:bench";

/// Measures and prints the table.
///
/// # Errors
/// When something fails, or the target does not end with what it had.
pub fn measure(workload: Workload, runs: usize) -> Result<()> {
    let redis = crate::machine::redis_version(&mut RedisServer::start().client());
    let lanes = workload.lanes(&redis)?;
    let Workload { keys, dataset, .. } = workload;
    let source = Source::knowing(dataset, &lanes)?;
    drop(lanes);
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (copied, resynced) = twice(&source, keys)?;
        first.push(copied.as_secs_f64());
        again.push(resynced.as_secs_f64());
    }
    let times = median(&again) / median(&first);
    let title = format!("resync of {keys} unchanged keys");
    table::print(
        &title,
        &[
            Row::new("full sync to an empty target, from start", "s", first),
            Row::new("the same again, until reconciled", "s", again),
            Row::new("  times the first", "of 1", vec![times]),
        ],
    );
    Ok(())
}

fn twice(source: &Source, keys: u64) -> Result<(Duration, Duration)> {
    let target = RedisServer::start();
    let mut client = target.client();
    let started = Instant::now();
    let mut program = Program::start(source.port(), target.port())?;
    wait(&mut program, source, &mut client)?;
    let first = started.elapsed();
    let before = client.ok(&["DBSIZE"]).int();
    if before.is_none_or(|size| size.unsigned_abs() < keys) {
        return Err(format!("{before:?} keys instead of {keys}").into());
    }
    // Its positions are lost to it: as after an outage longer than the source remembers.
    client.ok(&["HSET", RECORD, "phase", "snapshot"]);
    let started = Instant::now();
    program.kill_and_start_again()?;
    wait(&mut program, source, &mut client)?;
    let again = started.elapsed();
    let after = client.ok(&["DBSIZE"]).int();
    let log = program.log();
    if after != before || !log.contains("full sync needed") {
        return Err(format!("{after:?} keys instead of {before:?}\n{log}").into());
    }
    let _ = source.harm();
    program.stop()?;
    Ok((first, again))
}

/// Until it follows writes, and nothing is left to be removed.
fn wait(program: &mut Program, source: &Source, client: &mut Client) -> Result<()> {
    let mut observer = source.client();
    program.wait("stable sync", Duration::from_millis(2), || {
        let record = client.ok(&["HMGET", RECORD, "phase", "reconcile"]);
        let is_stable = record.items()[0].text() == "stable" && record.items()[1] == Reply::Nil;
        is_stable && replica_state(&mut observer) == "online"
    })
}
