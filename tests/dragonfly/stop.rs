//! Signals: what is in flight is finished and acknowledged, the source sees an orderly end.

use crate::df2redis::Task;
use crate::scenarios::a_stop_drains;
use crate::support::dragonfly::Fault;
use crate::support::{Dataset, RedisServer, SimulatedDragonfly, eventually};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

#[test]
fn sigterm_in_stable_sync_finishes_what_is_in_flight() {
    let source = SimulatedDragonfly::options().backing_store().start();
    a_stop_drains(&source, &RedisServer::start());
}

#[test]
fn sigterm_does_not_wait_for_a_flush_that_only_some_flows_have_read() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    source.journal_on(0, 0, ["SET", "before", "1"]);
    source.journal_on(0, 0, ["FLUSHDB"]);
    source.journal_on(0, 0, ["SET", "behind", "1"]);
    eventually("what comes before it applied", || {
        target.get("before") == "1"
    });
    running.stop();
    assert_eq!(target.get("before"), "1");
    assert_eq!(target.get("behind"), "");
    // The flush and what is behind it are still to come.
    assert_eq!(source.acked(0), Some(source.next_lsn(0) - 2));
}

#[test]
fn sigterm_waits_for_a_target_that_is_slow() {
    let source = SimulatedDragonfly::options().flows(3).start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    source.wait_acked();
    target.client().ok(&["CLIENT", "PAUSE", "2000", "WRITE"]);
    for n in 0..100 {
        source.journal(0, ["SET", &format!("k{n}"), "v"]);
    }
    in_flight(&target, 3);
    let asked = Instant::now();
    running.stop();
    assert!(
        asked.elapsed() > Duration::from_millis(500),
        "it did not wait"
    );
    eventually("no session left", || source.replicas() == 0);
    // One position of each flow stands in its ring for each key. The master ends a session with its first flow, and
    // may then not look at what the others have said last.
    let acked: u64 = (0..3)
        .map(|flow| source.acked(flow).expect("an acknowledgement") - 1)
        .sum();
    let all = target.client().ok(&["DBSIZE"]).int().expect("a number");
    let there = all - i64::try_from(target_records(&target)).expect("a number");
    assert!(there > 0);
    assert!(
        i64::try_from(acked).expect("a number") <= there,
        "{acked} of {there}"
    );
}

fn target_records(target: &RedisServer) -> usize {
    target.client().ok(&["KEYS", "df2redis:*"]).items().len()
}

/// Waits until writes of so many connections are held by the paused target.
#[track_caller]
fn in_flight(target: &RedisServer, connections: usize) {
    let wanted = format!("blocked_clients:{connections}");
    eventually("writes held by the target", || {
        let clients = target.client().ok(&["INFO", "clients"]).text();
        clients.lines().any(|line| line.trim_end() == wanted)
    });
}

#[test]
fn sigint_stops_like_sigterm() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    source.journal(0, ["SET", "k", "v"]);
    running.signal(Signal::SIGINT);
    assert_eq!(running.exit_code(), 0);
    eventually("no session left", || source.replicas() == 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    source.wait_acked();
    target.client().ok(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    source.journal(0, ["SET", "k", "v"]);
    in_flight(&target, 1);
    running.signal(Signal::SIGINT);
    running.wait_logged("stopping, finishing what is in flight");
    let asked = Instant::now();
    running.signal(Signal::SIGINT);
    assert_eq!(running.exit_code(), 75);
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    let told = "stopped before the target confirmed what was in flight";
    assert!(running.log().contains(told), "{}", running.log());
    eventually("no session left", || source.replicas() == 0);
}

#[test]
fn sigterm_during_the_snapshot_ends_at_once_and_in_order() {
    let source = SimulatedDragonfly::options()
        .dataset(Dataset::strings(20_000, 100))
        .start();
    let target = RedisServer::start();
    for flow in 0..2 {
        source.inject(Fault::SlowFlow {
            flow,
            bytes_per_second: 50_000,
        });
    }
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start();
    running.wait_logged("full sync started");
    eventually("some keys copied", || {
        target.client().ok(&["DBSIZE"]).int() > Some(20)
    });
    running.stop();
    source.clear_faults();
    eventually("no session left", || source.replicas() == 0);
    assert_eq!(source.full_syncs(), 0);
    assert_eq!(task.state_files(), Vec::<String>::new());
}
