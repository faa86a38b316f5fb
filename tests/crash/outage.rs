//! A target that does not answer for a while, and a source that is written to all the time.

use crate::df2redis::Task;
use crate::pair::{Pair, Way, way_of};
use crate::scale;
use crate::support::proxy::BOTH;
use crate::support::{PATIENCE, Proxy, SimulatedDragonfly, eventually, within};
use crate::workload::Workload;
use std::time::{Duration, Instant};

/// A busy machine may hold up anybody for a moment; a source that waits for its replica's target waits much longer.
const NOTICED: Duration = Duration::from_millis(500);
/// How often a part of each second's writes is given.
const STEP: Duration = Duration::from_millis(20);
/// Bytes of a value; every other write has one.
const VALUE: usize = 300;
/// Writes that are applied each second, at least, on whatever this runs.
const SLOWEST: u64 = 2_000;
/// Keys that are counted with.
const KEYS: u64 = 1_000;
/// What the task may hold of its flows: far less than is written meanwhile.
const BUDGET: &str = "16MiB";

/// Writes at a rate for so long; how many there were.
fn write(pair: &Pair, per_second: u64, time: Duration) -> u64 {
    let mut client = pair.client();
    let value = "v".repeat(VALUE);
    let each = per_second * u64::try_from(STEP.as_millis()).unwrap_or(1) / 1_000;
    let (began, mut written) = (Instant::now(), 0);
    for step in 1.. {
        let lines: Vec<String> = (written..written + each)
            .map(|n| match n % 2 {
                0 => format!("INCR count:{}", n / 2 % KEYS),
                _ => format!("SET value:{} {n}{value}", n % KEYS),
            })
            .collect();
        let replies = client.lines(&lines);
        assert!(!replies.iter().any(crate::support::Reply::is_error));
        written += each;
        if began.elapsed() >= time {
            break;
        }
        std::thread::sleep((STEP * step).saturating_sub(began.elapsed()));
    }
    written
}

#[test]
fn a_target_that_does_not_answer_costs_disk_and_neither_writes_at_the_source_nor_a_full_sync() {
    let pair = Pair::of(SimulatedDragonfly::options());
    let way = Proxy::to(&pair.target.address());
    let task = Task::between(&pair.source.address(), &way.address())
        .with(format!("limits.memory = \"{BUDGET}\""));
    let mut running = task.start();
    assert_eq!(way_of(&mut running), Way::Resynced);
    way.black_hole(&BOTH, true);
    let written = write(&pair, scale::writes_per_second(), scale::outage());
    let rate = written / scale::outage().as_secs().max(1);
    println!("{written} writes, {rate} a second");
    let blocked = pair.source.blocked_writes();
    assert!(blocked.longest < NOTICED, "{blocked:?}");
    eventually("nothing waiting at the source", || {
        (0..pair.source.flows()).all(|flow| pair.source.unsent(flow) == 0)
    });
    assert!(
        task.spooled_bytes() > written / 2 * VALUE as u64,
        "it is not on disk"
    );
    way.black_hole(&BOTH, false);
    // What took so long to come is not applied at once.
    let patience = PATIENCE + Duration::from_secs(written / SLOWEST);
    assert!(within(patience, || pair.source.all_acked()), "not applied");
    pair.equal(&[]);
    assert_eq!(
        (pair.source.full_syncs(), pair.source.partial_syncs()),
        (1, 0)
    );
    running.stop();
}

/// What records the start of stable sync.
const RECORD: &[u8] = b"\r\nphase\r\n$6\r\nstable\r\n";

#[test]
fn a_target_that_is_lost_while_the_start_of_stable_sync_is_recorded_is_not_copied_to_again() {
    let pair = Pair::start();
    let way = Proxy::to(&pair.target.address());
    let task = Task::between(&pair.source.address(), &way.address());
    let mut workload = Workload::on(&[0, 1, 2]);
    workload.rounds(&mut pair.client(), 40);
    way.hold_from(RECORD);
    let mut running = task.start();
    eventually("the record on its way", || way.holds_anywhere(RECORD));
    way.refuse(true);
    way.cut();
    running.wait_logged("target lost, reading on into the spool");
    workload.rounds(&mut pair.client(), 40);
    way.hold_from(b"");
    way.refuse(false);
    running.wait_stable();
    pair.equal(&[&workload]);
    assert_eq!(running.count_logged("snapshot finished"), 1);
    assert_eq!(pair.source.full_syncs(), 1);
    running.stop();
}
