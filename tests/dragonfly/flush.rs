//! FLUSHALL and FLUSHDB: once, at the same place of every flow, and only on what the task owns.

use crate::df2redis::Task;
use crate::scenarios::{
    assert_equal, commands_seen, flushes_meet_writes, run, seed, settled, words,
};
use crate::support::client::Reply;
use crate::support::dragonfly::Fault;
use crate::support::{Proxy, RedisServer, SimulatedDragonfly, Towards, compare, eventually};

#[test]
fn flushes_between_writes_of_several_flows_take_effect_at_their_place() {
    let source = SimulatedDragonfly::options()
        .flows(3)
        .backing_store()
        .start();
    flushes_meet_writes(&source, &RedisServer::start());
    assert_eq!(source.full_syncs(), 1);
}

#[test]
fn a_flush_between_the_end_of_the_snapshot_and_stable_sync_gives_no_flow_a_position() {
    let source = SimulatedDragonfly::options().backing_store().start();
    let target = RedisServer::start();
    let mut client = source.client();
    seed(&mut client);
    let way = Proxy::to(&source.address());
    way.throttle(Towards::Client, 500_000);
    let task = Task::between(&way.address(), &target.address());
    let mut running = task.start();
    running.wait_logged("full sync started");
    // The snapshot arrives, and the request for stable sync does not.
    way.black_hole(&[Towards::Server], true);
    way.throttle(Towards::Client, 0);
    eventually("the snapshot on the target", || {
        compare(source.oracle(), target.port()).is_empty()
    });
    run(
        &mut client,
        &[
            "SELECT 1",
            "FLUSHDB",
            "INCR after",
            "SELECT 0",
            "INCR after",
        ],
    );
    running.wait_logged("source was flushed, so are the keys this task owns");
    let stored = |flow: &str| {
        let field = format!("lsn:{flow}");
        target
            .client()
            .ok(&["HGET", "df2redis:position:copy", &field])
    };
    assert_eq!(["0", "1"].map(stored), [Reply::Nil, Reply::Nil]);
    way.black_hole(&[Towards::Server], false);
    running.wait_stable();
    run(&mut client, &["SELECT 1", "INCR after"]);
    assert_equal(&source, target.port());
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

/// A flush while the flows in `slow` are in their snapshot and the others may be beyond it.
#[track_caller]
fn flush_during_the_snapshot(slow: &[usize], flush: &str) {
    let source = SimulatedDragonfly::options().backing_store().start();
    let target = RedisServer::start();
    let mut client = source.client();
    seed(&mut client);
    for flow in slow {
        source.inject(Fault::SlowFlow {
            flow: *flow,
            bytes_per_second: 200_000,
        });
    }
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start();
    running.wait_logged("full sync started");
    crate::support::eventually("some keys copied", || {
        target.client().ok(&["DBSIZE"]).int() > Some(20)
    });
    assert_eq!(source.full_syncs(), 0, "too late");
    run(
        &mut client,
        &["SELECT 1", flush, "SET after 1", "INCR after"],
    );
    source.clear_faults();
    running.wait_logged("flush during the snapshot, starting it again");
    running.wait_stable();
    run(&mut client, &["INCR after"]);
    assert_equal(&source, target.port());
    assert_eq!(
        target.client().ok(&words("EXISTS s:1")),
        if flush == "FLUSHALL" { "0" } else { "1" }
    );
    assert_eq!(running.count_logged("full sync started"), 2);
    assert!(commands_seen(&target, "flushall").is_none());
    running.stop();
}

#[test]
fn a_flushall_during_the_snapshot_starts_it_again() {
    flush_during_the_snapshot(&[0, 1], "FLUSHALL");
}

#[test]
fn a_flushall_during_the_snapshot_of_one_flow_only_starts_it_again() {
    flush_during_the_snapshot(&[1], "FLUSHALL");
}

#[test]
fn a_flushdb_during_the_snapshot_starts_it_again() {
    flush_during_the_snapshot(&[0], "FLUSHDB");
}

#[test]
fn a_flush_leaves_the_keys_of_others() {
    let source = SimulatedDragonfly::options().backing_store().start();
    let target = RedisServer::start();
    let others = [
        "SELECT 0",
        "SET theirs 1",
        "SADD df2redis:foreign:other 0:k",
        "SELECT 1",
        "RPUSH theirs:too 1 2",
        "SELECT 9",
        "SET elsewhere 1",
    ];
    run(&mut target.client(), &others);
    let mut client = source.client();
    seed(&mut client);
    let task =
        Task::between(&source.address(), &target.address()).with("filter.databases = [0, 1]");
    let running = task.start_stable();
    run(&mut client, &["FLUSHALL", "SET k v"]);
    settled(&source);
    let theirs = [
        "db 0 \"theirs\": a string too many",
        "db 1 \"theirs:too\": a list too many",
        "db 9 \"elsewhere\": a string too many",
    ];
    let wanted: Vec<String> = theirs.iter().map(|line| (*line).to_owned()).collect();
    let mut found = compare(source.oracle(), target.port());
    // The last one written stands in database 1 of the source, and of the target.
    found.sort();
    assert_eq!(found, wanted);
    let mut there = target.client();
    assert_eq!(there.ok(&["SCARD", "df2redis:foreign:other"]), "1");
    for command in ["flushall", "flushdb"] {
        assert!(commands_seen(&target, command).is_none(), "{command}");
    }
    running.stop();
}

#[test]
fn a_database_that_is_the_tasks_alone_is_flushed_whole() {
    let source = SimulatedDragonfly::options().backing_store().start();
    let target = RedisServer::start();
    run(&mut target.client(), &["SELECT 1", "SET left-over 1"]);
    let mut client = source.client();
    seed(&mut client);
    let task = Task::between(&source.address(), &target.address()).with("target.exclusive = true");
    let running = task.start_stable();
    run(&mut client, &["FLUSHALL", "SET k v"]);
    assert_equal(&source, target.port());
    assert!(commands_seen(&target, "flushdb").is_some());
    assert!(commands_seen(&target, "flushall").is_none());
    running.stop();
}
