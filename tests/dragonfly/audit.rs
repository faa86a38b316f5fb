//! What no entry of the journal shows is found by the audit, and set right while writes go on.

use crate::audited::{Counting, FOUND, named, status, wait_passed, wait_repaired};
use crate::df2redis::{Df2redis, Task};
use crate::support::dragonfly::Fault;
use crate::support::{Client, RedisServer, SimulatedDragonfly, compare, eventually};
use nix::sys::signal::Signal;
use serde_json::Value as Json;
use std::collections::BTreeMap;

fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options()
        .flows(3)
        .backing_store()
        .start()
}

/// One that is audited as fast as it goes.
fn audited(source: &SimulatedDragonfly, target: &RedisServer) -> Task {
    Task::between(&source.address(), &target.address()).with("audit.keys_per_second = 20000")
}

/// What the source executes without a trace in its journal.
fn unseen(source: &SimulatedDragonfly) -> Client {
    Client::connect(source.oracle())
}

/// A consumer of a group reads all there is of a stream.
const READ_BY_ONE: [&str; 7] = [
    "XREADGROUP",
    "GROUP",
    "group",
    "one",
    "STREAMS",
    "stream",
    ">",
];

#[test]
fn what_no_entry_shows_is_found_and_set_right_while_writes_go_on() {
    let (source, target) = (source(), RedisServer::start());
    let task = audited(&source, &target);
    let mut client = source.client();
    for n in 0..300 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
        client.ok(&["HSET", &format!("hash:{n}"), "f", "1", "g", "2"]);
    }
    let running = task.start_stable();
    let counting = Counting::begin(source.port(), "counter");
    let (mut here, mut there) = (unseen(&source), target.client());
    // Lost writes, of keys that rest and keys that do not.
    there.ok(&["SET", "still:7", "w"]);
    there.ok(&["DEL", "hash:8"]);
    there.ok(&["HSET", "hash:9", "h", "3"]);
    there.ok(&["PEXPIRE", "still:10", "10000000"]);
    here.ok(&["SADD", "set:unseen", "a", "b"]);
    here.ok(&["DEL", "still:11"]);
    here.ok(&["SELECT", "5"]);
    here.ok(&["ZADD", "zset:unseen", "1.5", "a"]);
    eventually("counters on the target", || {
        there.ok(&["EXISTS", "counter:3", "counter:log:4"]).int() == Some(2)
    });
    there.ok(&["INCRBY", "counter:3", "1000"]);
    there.ok(&["RPUSH", "counter:log:4", "never"]);
    // And keys that the source never had.
    there.ok(&["SET", "extra:1", "v"]);
    there.ok(&["RPUSH", "extra:2", "v"]);
    let expected = [
        ("still:7", "value"),
        ("hash:8", "missing"),
        ("hash:9", "value"),
        ("still:10", "expiry"),
        ("set:unseen", "missing"),
        ("still:11", "extra"),
        ("zset:unseen", "missing"),
        ("counter:3", "value"),
        ("counter:log:4", "value"),
        ("extra:1", "extra"),
        ("extra:2", "extra"),
    ];
    let expected = expected.map(|(key, class)| (key.to_owned(), class.to_owned()));
    eventually("all to be found", || {
        named(&running).len() >= expected.len()
    });
    eventually("all to be repaired", || {
        let audit = status(&task);
        audit["found"] == audit["repaired"]
    });
    wait_passed(&task);
    assert_eq!(named(&running), BTreeMap::from(expected));
    let counted = counting.end();
    source.assert_copied(target.port());
    counted.assert_counted(&target);
    let audit = status(&task);
    assert_eq!(audit["last"]["found"], serde_json::json!({}), "{audit:#}");
    let found = serde_json::json!({ "value": 4, "missing": 3, "expiry": 1, "extra": 3 });
    assert_eq!(audit["found"], found);
    assert_eq!(audit["repaired"], found);
    assert!(source.violations().is_empty(), "{:?}", source.violations());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    running.stop();
}

#[test]
fn defects_of_the_journal_that_no_entry_shows_are_set_right() {
    let source = SimulatedDragonfly::options().backing_store().defects();
    let (source, target) = (source.release("df-v1.36.0").start(), RedisServer::start());
    let task = audited(&source, &target);
    let mut running = task.start_stable();
    let mut client = source.client();
    for n in 0..20 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    client.ok(&["SET", "over", "v"]);
    client.ok(&["RPUSH", "list", "a", "b", "c", "d"]);
    client.ok(&["XADD", "stream", "1-1", "f", "v"]);
    client.ok(&["XGROUP", "CREATE", "stream", "group", "0"]);
    source.wait_acked();
    client.ok(&["SET", "over", "v", "PXAT", "1000"]);
    client.ok(&["BLMPOP", "1", "1", "list", "LEFT", "COUNT", "3"]);
    client.ok(&READ_BY_ONE);
    let expected = [
        ("list", "value, length"),
        ("over", "extra"),
        ("stream", "stream_metadata"),
    ];
    for (key, classes) in expected {
        let line = running.wait_logged(&format!("key: {key}, class: {classes}"));
        assert!(line.contains(FOUND), "{line}");
    }
    wait_repaired(&task, expected.len() as u64);
    source.assert_copied(target.port());
    // Behind the repair entries are applied as before.
    client.ok(&["RPUSH", "list", "e"]);
    source.assert_copied(target.port());
    let list = target.client().ok(&["LRANGE", "list", "0", "-1"]);
    assert_eq!(list.items().len(), 2, "{list:?}");
    running.stop();
}

/// Once the audit has found these keys, each with its classes, and no others, all is repaired.
#[track_caller]
fn assert_set_right(
    (source, target): (&SimulatedDragonfly, &RedisServer),
    (task, running): (&Task, &mut Df2redis),
    expected: &[(&str, &str)],
) {
    for (key, classes) in expected {
        let line = running.wait_logged(&format!("key: {key}, class: {classes}"));
        assert!(line.contains(FOUND), "{line}");
    }
    wait_repaired(task, expected.len() as u64);
    source.assert_copied(target.port());
    assert_eq!(named(running).len(), expected.len());
}

#[test]
fn keys_that_the_snapshot_left_out_are_found_whatever_was_written_to_them_since() {
    let (source, target) = (source(), RedisServer::start());
    let task = audited(&source, &target);
    let mut client = source.client();
    for n in 0..40 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    client.ok(&["SET", "counter", "1000"]);
    client.ok(&["RPUSH", "list", "a", "b", "c"]);
    client.ok(&["SET", "ended", "v"]);
    client.ok(&["SET", "replaced", "v"]);
    for key in ["still:3", "counter", "list", "ended", "replaced"] {
        source.inject(Fault::OmitKey { key });
    }
    let mut running = task.start_stable();
    let mut there = target.client();
    client.ok(&["INCR", "counter"]);
    client.ok(&["RPUSH", "list", "d"]);
    client.ok(&["DEL", "ended"]);
    client.ok(&["SET", "replaced", "w"]);
    assert_set_right(
        (&source, &target),
        (&task, &mut running),
        &[
            ("still:3", "missing"),
            ("counter", "value"),
            ("list", "value, length"),
        ],
    );
    // Behind the repair entries are applied as before, once.
    client.ok(&["INCR", "counter"]);
    client.ok(&["RPUSH", "list", "e"]);
    source.assert_copied(target.port());
    assert_eq!(there.ok(&["GET", "counter"]), "1002");
    assert_eq!(there.ok(&["LLEN", "list"]), "5");
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

#[test]
fn amounts_elements_and_owners_that_entries_tell_wrongly_are_set_right() {
    let (source, target) = (source(), RedisServer::start());
    let task = audited(&source, &target);
    let mut here = unseen(&source);
    for n in 0..40 {
        here.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    here.ok(&["MSET", "hits", "10", "left", "10"]);
    here.ok(&["RPUSH", "list", "a", "b"]);
    here.ok(&["XADD", "stream", "1-1", "f", "v"]);
    here.ok(&["XGROUP", "CREATE", "stream", "group", "0"]);
    here.ok(&READ_BY_ONE);
    let mut running = task.start_stable();
    // Of memcache's `incr hits 5` and `decr left 3` the journal has no amounts.
    here.ok(&["INCRBY", "hits", "5"]);
    source.journal(0, ["INCR", "hits"]);
    here.ok(&["DECRBY", "left", "3"]);
    source.journal(0, ["DECR", "left"]);
    // An element that was in the snapshot already.
    source.journal(0, ["RPUSH", "list", "b"]);
    // At the source it had been idle for long enough, on the target it has not.
    here.ok(&["XCLAIM", "stream", "group", "two", "0", "1-1"]);
    source.journal(0, ["XCLAIM", "stream", "group", "two", "3600000", "1-1"]);
    assert_set_right(
        (&source, &target),
        (&task, &mut running),
        &[
            ("hits", "value"),
            ("left", "value"),
            ("list", "value, length"),
            ("stream", "stream_metadata"),
        ],
    );
    let mut there = target.client();
    assert_eq!(there.ok(&["MGET", "hits", "left"]).items()[0].text(), "15");
    assert_eq!(there.ok(&["LLEN", "list"]), "2");
    let pending = there.ok(&["XPENDING", "stream", "group", "-", "+", "9", "two"]);
    assert_eq!(pending.items().len(), 1, "{pending:?}");
    // Behind the repair entries are applied as before.
    source.client().ok(&["INCR", "hits"]);
    source.client().ok(&["RPUSH", "list", "c"]);
    source.assert_copied(target.port());
    running.stop();
}

#[test]
fn more_keys_than_may_be_deleted_stay_and_so_do_those_that_were_there_first() {
    let (source, target) = (source(), RedisServer::start());
    target.client().ok(&["SET", "theirs", "v"]);
    let task = audited(&source, &target).with("policy.max_delete = \"2\"");
    let mut client = source.client();
    for n in 0..100 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    let mut running = task.start_stable();
    let mut there = target.client();
    for n in 0..3 {
        there.ok(&["SET", &format!("extra:{n}"), "v"]);
    }
    there.ok(&["DEL", "still:5"]);
    running.wait_logged("key: still:5, class: missing");
    running.wait_logged("key: extra:2, class: extra");
    let line = running.wait_logged("the audit deletes none");
    assert!(line.contains("keys: 3, of: 103, limit: 2,"), "{line}");
    wait_repaired(&task, 1);
    wait_passed(&task);
    let audit = status(&task);
    assert_eq!(audit["last"]["found"], serde_json::json!({ "extra": 3 }));
    assert_eq!(audit["last"]["repaired"], serde_json::json!({}));
    let told =
        running.count_logged("key: extra:2") + running.count_logged("the audit deletes none");
    assert_eq!(told, 2, "of what stays as it is the log tells once");
    assert_eq!(there.ok(&["EXISTS", "extra:0", "extra:1", "extra:2"]), "3");
    there.ok(&["DEL", "extra:1"]);
    wait_repaired(&task, 3);
    assert_eq!(there.ok(&["EXISTS", "extra:0", "extra:2"]), "0");
    assert_eq!(there.ok(&["GET", "theirs"]), "v");
    assert!(!running.log().contains("theirs"), "{}", running.log());
    running.stop();
}

#[test]
fn a_pass_that_fails_is_begun_anew_and_the_task_goes_on() {
    let (source, target) = (source(), RedisServer::start());
    let task = audited(&source, &target);
    let mut client = source.client();
    for n in 0..100 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    source.inject(Fault::Answer {
        command: "SCAN",
        with: "-NOPERM no",
        times: 2,
    });
    let mut running = task.start_stable();
    target.client().ok(&["SET", "still:5", "w"]);
    let line = running.wait_logged("the audit did not come to its end");
    assert!(line.contains("does not permit SCAN"), "{line}");
    let counting = Counting::begin(source.port(), "counter");
    eventually("the second to be told", || {
        running.count_logged("the audit did not come to its end") == 2
    });
    wait_repaired(&task, 1);
    wait_passed(&task);
    assert_eq!(status(&task)["error"], Json::Null);
    let counted = counting.end();
    source.assert_copied(target.port());
    counted.assert_counted(&target);
    assert_eq!(running.count_logged("session ended"), 0);
    running.stop();
}

#[test]
fn the_audit_goes_on_after_an_outage_of_the_target_and_knows_its_last_pass_after_a_restart() {
    let persistent = ["--appendonly", "yes", "--appendfsync", "always"];
    let (source, mut target) = (source(), RedisServer::start_with(&persistent));
    let task = audited(&source, &target);
    let mut client = source.client();
    for n in 0..100 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    let mut running = task.start_stable();
    wait_passed(&task);
    let counting = Counting::begin(source.port(), "counter");
    target.kill();
    running.wait_logged("target lost, reading on into the spool");
    target.restart();
    running.wait_logged("target is back, following writes");
    target.client().ok(&["SET", "still:5", "w"]);
    running.wait_logged("key: still:5, class: value");
    wait_repaired(&task, 1);
    let counted = counting.end();
    source.assert_copied(target.port());
    counted.assert_counted(&target);
    wait_passed(&task);
    running.stop();
    let last = status(&task)["last"].take();
    assert!(last["ended_ms"].as_i64().is_some(), "{last:#}");
    // Nobody knows yet which flow a key is of, until the flows have brought some.
    target.client().ok(&["SET", "still:6", "w"]);
    let mut running = task.start_stable();
    running.wait_logged("key: still:6, class: value");
    running.wait_logged("which flow owns them is not certain, or not yet");
    let counting = Counting::begin(source.port(), "again");
    wait_repaired(&task, 1);
    let counted = counting.end();
    source.assert_copied(target.port());
    counted.assert_counted(&target);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    running.stop();
}

#[test]
fn kills_while_keys_are_repaired_repeat_and_lose_nothing() {
    let (source, target) = (source(), RedisServer::start());
    let task = audited(&source, &target);
    let mut running = task.start_stable();
    let counting = Counting::begin(source.port(), "counter");
    let mut there = target.client();
    eventually("counters on the target", || {
        there.ok(&["EXISTS", "counter:39", "counter:log:39"]).int() == Some(2)
    });
    for _ in 0..4 {
        // What was found before the kill is written by the next start, over what is done to it meanwhile.
        eventually("no key to be read again", || {
            there.ok(&["EXISTS", "df2redis:reread:copy"]) == "0"
        });
        for n in 0..20 {
            there.ok(&["INCRBY", &format!("counter:{n}"), "1000"]);
            there.ok(&["DEL", &format!("counter:log:{n}")]);
        }
        running.wait_logged(FOUND);
        running.signal(Signal::SIGKILL);
        running.wait_killed();
        eventually("the source has noticed", || source.replicas() == 0);
        let _ = source.take_violations();
        running = task.start_stable();
    }
    let counted = counting.end();
    // What was not found before is found now that all keys rest.
    eventually("all to be repaired", || {
        compare(source.oracle(), target.port()).is_empty()
    });
    counted.assert_counted(&target);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

#[test]
fn while_keys_are_still_to_be_removed_after_a_full_sync_the_audit_waits() {
    let (source, target) = (source(), RedisServer::start());
    let task = audited(&source, &target).with("policy.max_delete = \"0\"");
    let mut client = source.client();
    for n in 0..30 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    let running = task.start_stable();
    source.wait_acked();
    running.stop();
    client.ok(&["DEL", "still:3"]);
    // Positions that nothing can be resumed from.
    target
        .client()
        .ok(&["HSET", "df2redis:position:copy", "replid", "0123"]);
    let mut running = task.start();
    running.wait_logged("none is removed before it is approved");
    let waits = "keys that the source deleted before the full sync are still to be removed";
    eventually("the audit to wait", || status(&task)["waits"] == waits);
    assert_eq!(status(&task)["pass_began_ms"], Json::Null);
    let approved = task.asked("approve").status().expect("df2redis starts");
    assert_eq!(approved.code(), Some(0));
    running.wait_logged("the target has no keys that the source does not have");
    wait_passed(&task);
    source.assert_copied(target.port());
    running.stop();
}

#[test]
fn a_walk_is_as_fast_as_it_may_be_and_no_faster() {
    let (source, target) = (source(), RedisServer::start());
    let mut client = source.client();
    for n in 0..99 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    // Counts as much as 200 keys.
    client.ok(&["SET", "large", &"v".repeat(200 * (16 << 10))]);
    let task = audited(&source, &target).with("audit.keys_per_second = 100");
    let running = task.start_stable();
    eventually("a pass to end", || {
        status(&task)["last"]["took_ms"].is_u64()
    });
    let pass = status(&task)["last"].take();
    // The keys of both sides, and what was read; the last few need not be waited for.
    let took = pass["took_ms"].as_u64().unwrap_or(0);
    assert!((3_500..30_000).contains(&took), "{pass:#}");
    assert_eq!(pass["keys"], 100);
    running.stop();
}

#[test]
fn without_positions_or_a_rate_there_is_no_audit() {
    for line in ["target.positions = \"none\"", "audit.keys_per_second = 0"] {
        let (source, target) = (source(), RedisServer::start());
        let task = audited(&source, &target).with(line);
        let running = task.start_stable();
        assert_eq!(status(&task), Json::Null, "{line}");
        running.stop();
    }
}
