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
fn sigterm_waits_for_a_target_that_is_slow() {
    let source = SimulatedDragonfly::options().flows(3).start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    source.wait_acked();
    target.client().ok(&["CLIENT", "PAUSE", "2000", "ALL"]);
    for n in 0..100 {
        source.journal(0, ["SET", &format!("k{n}"), "v"]);
    }
    // All of it has been read: nothing is left in the sockets.
    eventually("everything read", || {
        (0..3).all(|flow| source.unsent(flow) == 0)
    });
    running.wait_logged("df2redis started");
    let asked = Instant::now();
    running.stop();
    assert!(
        asked.elapsed() > Duration::from_millis(500),
        "it did not wait"
    );
    let there = target.client().ok(&["DBSIZE"]).int().expect("a number");
    // One position of each flow stands in its ring for every key that the target has.
    let acked: u64 = (0..3)
        .map(|flow| source.acked(flow).expect("an acknowledgement") - 1)
        .sum();
    let own = i64::try_from(target_records(&target)).expect("a number");
    assert_eq!(there - own, i64::try_from(acked).expect("a number"));
    assert!(acked > 0);
}

fn target_records(target: &RedisServer) -> usize {
    target.client().ok(&["KEYS", "df2redis:*"]).items().len()
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
    target.client().ok(&["CLIENT", "PAUSE", "60000", "ALL"]);
    source.journal(0, ["SET", "k", "v"]);
    eventually("everything read", || {
        (0..2).all(|flow| source.unsent(flow) == 0)
    });
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
