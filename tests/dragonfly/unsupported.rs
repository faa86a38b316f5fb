//! What Redis cannot hold: named and stopped at, or left out and counted.

use crate::df2redis::Task;
use crate::support::dragonfly::{Dataset, Options};
use crate::support::{RedisServer, SimulatedDragonfly};
use std::path::Path;

fn types() -> SimulatedDragonfly {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/dragonfly");
    Options::replay(captures.join("v1.40.1/types")).start()
}

#[test]
fn a_type_that_the_target_lacks_stops_the_task_and_is_named() {
    let source = types();
    let target = RedisServer::start();
    // JSON documents are one of five such types in the recording: leave the others to the policy.
    let others = ["bloom", "cms", "topk", "cuckoo"];
    let others = others.map(|kind| format!("policy.on_unsupported.{kind} = \"skip\""));
    let task = others.iter().fold(
        Task::between(&source.address(), &target.address()),
        |task, line| task.with(line),
    );
    let mut running = task.start();
    assert_eq!(running.exit_code(), 65);
    let said = running.messages();
    for part in ["\"json", "of database 0", "JSON"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[test]
fn types_that_the_target_lacks_are_left_out_and_counted() {
    let source = types();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address()).skipping_unsupported();
    let mut running = task.start_stable();
    for kind in ["json", "bloom", "cms", "topk", "cuckoo"] {
        let line = running.wait_logged(&format!("kind: {kind}"));
        assert!(line.contains("left out, and counted from now on"), "{line}");
    }
    let line = running.wait_logged("summary");
    let count = line.split("unsupported: ").nth(1).expect("a count");
    let count: u32 = count
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok())
        .expect("a number");
    assert!(count >= 5, "{line}");
    running.stop();
}

#[test]
fn the_expiry_of_single_members_is_dropped_and_told() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    source.journal(0, ["SADDEX", "members", "1000", "a", "b"]);
    let line = running.wait_logged("expiry of single members was dropped");
    assert!(line.contains("members"), "{line}");
    source.wait_acked();
    assert_eq!(target.client().ok(&["SCARD", "members"]), "2");
    running.stop();
}

#[test]
fn the_expiry_of_single_members_stops_the_task_if_so_wanted() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address())
        .with("policy.on_member_expiry = \"stop\"");
    let mut running = task.start_stable();
    source.journal(0, ["SADDEX", "members", "1000", "a", "b"]);
    assert_eq!(running.exit_code(), 65);
    let said = running.messages();
    assert!(
        said.contains("members") && said.contains("expire"),
        "{said}"
    );
}

/// A HyperLogLog as it stands in a string.
const HYPERLOGLOG: &[u8] = b"HYLL\x01\0\0\0\x01\0\0\0\0\0\0\0\x7f\xff";

/// A key of flow 1 among the keys of flow 0, whose snapshot comes last.
fn with_ghost(value: &[u8], more: bool) -> (SimulatedDragonfly, String) {
    let source = SimulatedDragonfly::options().flows(2).start();
    let of_flow = |flow: usize| {
        (0..)
            .map(|n| format!("key:{n}"))
            .find(|key| source.flow_of(key) == flow)
            .expect("a key of that flow")
    };
    let (own, ghost) = (of_flow(0), of_flow(1));
    let mut dataset = Dataset::new();
    if more {
        dataset.string(&own, "own");
    }
    source.set_dataset(&dataset);
    source.journal(0, ["SET", &ghost, "true"]);
    source.journal_on(0, 0, [b"SET", ghost.as_bytes(), value]);
    (source, ghost)
}

#[test]
fn a_hyperloglog_on_a_flow_that_does_not_own_it_is_dropped_only_where_that_is_certain() {
    for (value, confirmed, dropped) in [
        (HYPERLOGLOG, true, true),
        (HYPERLOGLOG, false, false),
        (b"no HyperLogLog".as_slice(), true, false),
    ] {
        let (source, ghost) = with_ghost(value, confirmed);
        let target = RedisServer::start();
        let task = Task::between(&source.address(), &target.address());
        let running = task.start_stable();
        source.journal(0, ["SET", &ghost, "true"]);
        source.wait_acked();
        source.journal_on(0, 0, [b"SET", ghost.as_bytes(), value]);
        source.wait_acked();
        let there = target.client().ok(&["GET", &ghost]).bytes();
        assert_eq!(there == b"true", dropped, "{value:?} {confirmed}");
        running.stop();
    }
}
