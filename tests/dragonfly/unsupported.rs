//! What Redis cannot hold: named and stopped at, or left out and counted.

use crate::df2redis::Task;
use crate::support::dragonfly::{Dataset, Options};
use crate::support::{RedisServer, SimulatedDragonfly, Target};
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
    let task = Task::between(&source.address(), &target.address())
        .with("policy.on_member_expiry = \"drop\"");
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

/// Journals a value under a key of flow 1 on flow 0, and answers what the target then holds: nothing, or the value.
/// `confirmed`: another key was seen on its own flow before.
fn misplaced(value: &[u8], confirmed: bool) -> Vec<u8> {
    let source = SimulatedDragonfly::options().flows(2).start();
    let of_flow = |flow: usize| {
        (0..)
            .map(|n| format!("key:{n}"))
            .find(|key| source.flow_of(key) == flow)
            .expect("a key of that flow")
    };
    let (own, ghost) = (of_flow(0), of_flow(1));
    let mut dataset = Dataset::new();
    if confirmed {
        dataset.string(&own, "own");
    }
    source.set_dataset(&dataset);
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    source.journal_on(0, 0, [b"SET", ghost.as_bytes(), value]);
    source.wait_acked();
    running.stop();
    target.client().ok(&["GET", &ghost]).bytes()
}

#[test]
fn a_hyperloglog_on_a_flow_that_does_not_own_it_is_dropped_only_where_that_is_certain() {
    assert_eq!(misplaced(HYPERLOGLOG, true), b"");
    assert_eq!(misplaced(HYPERLOGLOG, false), HYPERLOGLOG);
    assert_eq!(misplaced(b"no HyperLogLog", true), b"no HyperLogLog");
}

#[test]
fn a_value_longer_than_the_target_takes_follows_the_policy_and_is_announced() {
    let mut dataset = Dataset::new();
    dataset.string("long", vec![b'x'; 3 << 20]);
    dataset.string("short", "y");
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let target = RedisServer::start_with(&["--proto-max-bulk-len", "2mb"]);
    let task = Task::between(&source.address(), &target.address());
    let checked = task.check_servers();
    let limit = "target: takes at most 2.0 MiB at once (proto-max-bulk-len)";
    let warned = checked.graded("warning");
    assert!(
        warned.iter().any(|line| line.starts_with(limit)),
        "{}",
        checked.text
    );
    let mut running = task.start();
    assert_eq!(running.exit_code(), 65);
    let said = running.messages();
    assert!(
        said.contains("a value of 3145728 bytes is too large"),
        "{said}"
    );
    let task = Task::between(&source.address(), &target.address())
        .with("policy.on_unsupported.value = \"skip\"");
    let running = task.start_stable();
    assert_eq!(target.get("short"), "y");
    assert_eq!(target.client().ok(&["EXISTS", "long"]), "0");
    running.stop();
}

#[test]
fn a_command_newer_than_the_table_is_passed_on_if_the_target_has_it() {
    for target in [Target::Redis82, Target::Valkey91] {
        let source = SimulatedDragonfly::start();
        let server = target.start();
        let task = Task::between(&source.address(), &server.address());
        let mut running = task.start_stable();
        source.journal(0, ["HSET", "h", "a", "1", "b", "2"]);
        source.journal(0, ["HGETDEL", "h", "FIELDS", "1", "a"]);
        source.wait_acked();
        assert_eq!(server.client().ok(&["HGETALL", "h"]).items().len(), 2);
        let line = running.wait_logged("does not know was passed on as it came");
        assert!(line.contains("HGETDEL"), "{line}");
        running.stop();
    }
}

#[test]
fn a_command_newer_than_table_and_target_follows_the_policy() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    source.journal(0, ["HGETDEL", "h", "FIELDS", "1", "a"]);
    assert_eq!(running.exit_code(), 65);
    let said = running.messages();
    assert!(
        said.contains("HGETDEL") && said.contains("not known"),
        "{said}"
    );
}

#[test]
fn a_command_newer_than_the_table_is_not_passed_on_where_its_keys_matter() {
    let source = SimulatedDragonfly::start();
    let target = Target::Redis82.start();
    let task =
        Task::between(&source.address(), &target.address()).with("filter.include = [\"h*\"]");
    let mut running = task.start_stable();
    source.journal(0, ["HGETDEL", "h", "FIELDS", "1", "a"]);
    assert_eq!(running.exit_code(), 65);
    assert!(
        running.messages().contains("HGETDEL"),
        "{}",
        running.messages()
    );
}

/// Dragonfly's Lua is newer: it divides integers.
const NEWER_LUA: &str = "return 7//2";

#[test]
fn a_script_that_the_target_cannot_compile_follows_the_policy() {
    let sources = || {
        let mut dataset = Dataset::new();
        dataset.string("key", "value");
        dataset.scripts = vec![b"return 1".to_vec(), NEWER_LUA.into()];
        SimulatedDragonfly::options().dataset(dataset).start()
    };
    let (source, target) = (sources(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start();
    assert_eq!(running.exit_code(), 65);
    let said = running.messages();
    assert!(
        said.contains("a script") && said.contains("compiling"),
        "{said}"
    );

    let (source, target) = (sources(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address()).skipping_unsupported();
    let mut running = task.start_stable();
    let line = running.wait_logged("left out, and counted from now on");
    assert!(line.contains("a script"), "{line}");
    source.journal(0, ["SCRIPT", "LOAD", "return 2"]);
    source.journal(0, ["SCRIPT", "LOAD", NEWER_LUA]);
    source.journal(0, ["SET", "key", "other"]);
    source.wait_acked();
    assert_eq!(target.get("key"), "other");
    // Of "return 1" and "return 2".
    let digests = [
        "e0e1f9fabfc9d4800c877a703b823ac0578ff8db",
        "7f923f79fe76194c868d7e1d0820de36700eb649",
    ];
    let answer = target
        .client()
        .ok(&[&["SCRIPT", "EXISTS"][..], &digests].concat());
    assert_eq!(answer.items()[0], "1");
    assert_eq!(answer.items()[1], "1");
    running.stop();
}
