//! A full sync that does not fit is started once, and not again while nothing has changed.

use crate::df2redis::{Df2redis, Task};
use crate::support::dragonfly::{Fault, Options};
use crate::support::{Dataset, RedisServer, SimulatedDragonfly, Still};

const KEYS: usize = 1_000;

/// 100 MB in two flows.
fn source() -> Options {
    SimulatedDragonfly::options()
        .dataset(Dataset::strings(KEYS, 100_000))
        .used_memory(110 << 20)
}

fn tight(source: &SimulatedDragonfly, target: &RedisServer) -> Task {
    Task::between(&source.address(), &target.address())
        .with("limits.memory = \"16MiB\"")
        .with("spool.max_size = \"64MiB\"")
        .with("spool.min_free = \"0B\"")
}

/// Runs the task against a target that stands still from the beginning of the full sync, until it ends.
fn fill_the_spool(task: &Task, source: &SimulatedDragonfly, target: &RedisServer) {
    for flow in 0..source.flows() {
        source.inject(Fault::SlowFlow {
            flow,
            bytes_per_second: 100_000,
        });
    }
    let mut running = task.start();
    running.wait_logged("full sync started");
    let _still = Still::hold(target);
    source.clear_faults();
    assert_eq!(running.exit_code(), 74, "{}", running.log());
    let log = running.log();
    assert!(
        log.contains("the spool is full before the snapshot was in the target"),
        "{log}"
    );
}

#[track_caller]
fn refused(mut running: Df2redis) -> String {
    assert_eq!(running.exit_code(), 78, "{}", running.log());
    assert_eq!(running.count_logged("full sync started"), 0);
    running.messages()
}

#[track_caller]
fn copied(task: &Task, target: &RedisServer) {
    let running = task.start_stable();
    assert_eq!(target.client().ok(&["DBSIZE"]).int(), Some(KEYS as i64 + 2));
    running.stop();
}

#[test]
fn a_full_sync_that_filled_the_spool_is_refused_until_something_has_changed() {
    let source = source().setting("snapshot_egress_limit_bytes", "0").start();
    let target = RedisServer::start();
    let task = tight(&source, &target);
    fill_the_spool(&task, &source, &target);
    // As a process that knows nothing of the first one.
    for _ in 0..2 {
        let messages = refused(task.start());
        for part in [
            "the last full sync filled the spool, and nothing that matters has changed since",
            "of 110.00 MiB at the source, about ",
            "and there is room for 80.00 MiB",
            "set spool.max_size to more than ",
            "CONFIG SET snapshot_egress_limit_bytes, to less than the ",
            "copy.full-sync.json",
        ] {
            assert!(messages.contains(part), "{part:?} in {messages}");
        }
    }
    copied(&task.with("spool.max_size = \"1GiB\""), &target);
}

#[test]
fn throttling_and_forgetting_are_ways_out() {
    let (source, target) = (source().start(), RedisServer::start());
    let task = tight(&source, &target);
    fill_the_spool(&task, &source, &target);
    let messages = refused(task.start());
    assert!(
        !messages.contains("snapshot_egress_limit_bytes"),
        "{messages}"
    );
    let forget = |arguments: &[&str]| {
        let output = task.asked("forget").args(arguments).output();
        String::from_utf8(output.expect("an answer").stdout).expect("text")
    };
    let would = forget(&[]);
    assert!(would.contains("would remove its spool in "), "{would}");
    assert!(task.spooled_bytes() > 0);
    let did = forget(&["--yes"]);
    assert!(did.contains("removed its spool in "), "{did}");
    assert!(
        did.contains("removed what is remembered of its last full sync in "),
        "{did}"
    );
    assert_eq!(task.spooled_bytes(), 0);
    assert!(!task.dir().join("state/spool/copy").exists());
    fill_the_spool(&task, &source, &target);
    copied(&task.with("spool.on_full = \"throttle\""), &target);
}

#[test]
fn a_full_sync_that_did_fit_tells_whether_more_data_will() {
    let target = RedisServer::start();
    let first = source().start();
    let task = tight(&first, &target).with("spool.max_size = \"1GiB\"");
    let mut running = task.start();
    running.wait_logged("full sync started");
    running.wait_stable();
    running.stop();
    let file = task.dir().join("state/copy.full-sync.json");
    let read = std::fs::read_to_string(&file).expect("what is remembered");
    assert!(read.contains("\"ended\": \"read\""), "{read}");
    // A target that took half of it.
    let last: serde_json::Value = serde_json::from_str(&read).expect("JSON");
    let mut slower = last.clone();
    slower["applied"] = (last["received"].as_u64().expect("bytes") / 2).into();
    std::fs::write(&file, slower.to_string()).expect("the file");
    let port = first.port();
    drop(first);
    // A hundred times as much.
    let _second = source().used_memory(11 << 30).port(port).start();
    let messages = refused(task.start());
    assert!(
        messages.contains("a full sync would fill the spool: of 11.00 GiB at the source"),
        "{messages}"
    );
}
