//! A copy under live writes equals its source; what is acknowledged is in the target.

use crate::df2redis::Task;
use crate::scenarios::{Source, a_copy_under_writes, replica_of, waits_end_promptly};
use crate::support::dragonfly::Fault;
use crate::support::{RedisServer, SimulatedDragonfly, eventually};
use std::time::{Duration, Instant};

impl Source for SimulatedDragonfly {
    fn port(&self) -> u16 {
        Self::port(self)
    }

    fn oracle(&self) -> u16 {
        Self::oracle(self)
    }
}

fn copy_under_writes(flows: usize) {
    let source = SimulatedDragonfly::options()
        .flows(flows)
        .backing_store()
        .start();
    for flow in 0..flows {
        source.inject(Fault::SlowFlow {
            flow,
            bytes_per_second: 400_000,
        });
    }
    a_copy_under_writes(&source, &RedisServer::start(), |writers| {
        writers.wait_written(200);
        assert_eq!(source.stable_replicas(), 0, "those came too late");
        source.clear_faults();
    });
    assert!(source.all_acked());
    assert_eq!(source.blocked_writes().count, 0);
}

#[test]
fn a_copy_of_one_flow_under_live_writes_is_equal() {
    copy_under_writes(1);
}

#[test]
fn a_copy_of_two_flows_under_live_writes_is_equal() {
    copy_under_writes(2);
}

#[test]
fn a_copy_of_five_flows_under_live_writes_is_equal() {
    copy_under_writes(5);
}

#[test]
fn an_acknowledged_entry_is_in_the_target_already() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut reader = target.client();
    let mut slowest = Duration::ZERO;
    for n in 1..=200_u64 {
        let number = n.to_string();
        let key = format!("k{}", n % 7);
        let position = source.journal(0, ["SET", &key, &number]);
        let flow = source.flow_of(&key);
        source.ping();
        let asked = Instant::now();
        eventually("the acknowledgement", || {
            source.acked(flow).is_some_and(|acked| acked > position)
        });
        slowest = slowest.max(asked.elapsed());
        assert_eq!(reader.ok(&["GET", &key]), number.as_str());
    }
    source.wait_acked();
    assert_eq!(replica_of(&source).map(|(_, lag)| lag), Some(0));
    // Without a PING it would come once a second.
    assert!(slowest < Duration::from_millis(700), "{slowest:?}");
    running.stop();
}

#[test]
fn the_master_shows_how_far_a_stopped_target_is_behind() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    source.wait_acked();
    let mut admin = target.client();
    admin.ok(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    for n in 0..50 {
        source.journal(0, ["SET", "k", &n.to_string()]);
    }
    let flow = source.flow_of("k");
    let before = source.acked(flow);
    source.ping();
    eventually("an acknowledgement of what is applied", || {
        replica_of(&source).is_some_and(|(_, lag)| lag >= 50)
    });
    assert_eq!(source.acked(flow), before);
    admin.ok(&["CLIENT", "UNPAUSE"]);
    source.wait_acked();
    assert_eq!(target.get("k"), "49");
    running.stop();
}

#[test]
fn a_wait_of_a_client_ends_as_soon_as_the_target_has_its_write() {
    let source = SimulatedDragonfly::options().backing_store().start();
    waits_end_promptly(&source, &RedisServer::start());
}
