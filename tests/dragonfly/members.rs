//! Expiry of single hash fields on every target: native where there is one, by policy where there is none.

use crate::df2redis::Task;
use crate::support::dragonfly::{Dataset, Record, Value};
use crate::support::{
    Client, RedisServer, SimulatedDragonfly, Target, eventually, on_every_target,
};
use nix::sys::signal::Signal;
use std::time::{SystemTime, UNIX_EPOCH};

/// Whole seconds, so long from now.
fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.expect("a clock").as_secs()).expect("a date") + seconds
}

/// Waits until a second is neither young nor old: about its end, times in seconds are asked for again, and a source without
/// a backing store has nothing to say.
fn within_a_second() {
    eventually("the midst of a second", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        (150..700).contains(&now.expect("a clock").subsec_millis())
    });
}

/// When these fields expire, in Unix milliseconds: -1 for never, -2 for no such field.
fn expiry(client: &mut Client, key: &str, fields: &[&str]) -> Vec<i64> {
    let count = fields.len().to_string();
    let question = ["HPEXPIRETIME", key, "FIELDS", &count];
    let answer = client.ok(&[&question[..], fields].concat());
    answer.items().iter().filter_map(|at| at.int()).collect()
}

/// Near enough to a time that is counted from the receipt of an entry.
fn is_about(at: i64, seconds: i64) -> bool {
    let expected = seconds_from_now(seconds) * 1000;
    (expected - 60_000..=expected + 1000).contains(&at)
}

/// A master with such a hash in its snapshot, and a task that follows it.
fn copied(
    target: &RedisServer,
    later: i64,
) -> (SimulatedDragonfly, Task, crate::df2redis::Df2redis) {
    let mut dataset = Dataset::new();
    let fields = [
        ("a", "1", Some(later)),
        ("b", "2", None),
        ("c", "3", Some(later + 5)),
    ];
    dataset.push(Record::new("small", Value::hash_with_expiry(&fields)));
    let many: Vec<_> = (0..3000)
        .map(|n| {
            let at = (n % 3 > 0).then_some(later + n % 3);
            (format!("field {n}"), "x".repeat(500), at)
        })
        .collect();
    dataset.push(Record::new("big", Value::hash_with_expiry(&many)));
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let task = Task::between(&source.address(), &target.address())
        .with("policy.on_member_expiry = \"drop\"");
    let running = task.start_stable();
    (source, task, running)
}

fn fields_of_the_snapshot_and_of_the_journal_expire(target: Target) {
    let server = target.start();
    let later = seconds_from_now(10_000);
    let (source, _task, mut running) = copied(&server, later);
    within_a_second();
    for words in [
        &["HSETEX", "journal", "5000", "a", "1", "b", "2"][..],
        &["HSET", "journal", "c", "3", "d", "4", "e", "5"],
        &["HEXPIRE", "journal", "6000", "FIELDS", "1", "c"],
        &["FIELDEXPIRE", "journal", "7000", "d"],
        &["HSETEX", "journal", "KEEPTTL", "8000", "a", "9", "f", "6"],
        &["HGETEX", "journal", "PERSIST", "FIELDS", "1", "b"],
        &["HGETEX", "journal", "EX", "9000", "FIELDS", "1", "e"],
        &[
            "HSETEX", "journal", "FNX", "PX", "4000000", "FIELDS", "1", "g", "7",
        ],
        &["HEXPIRE", "journal", "0", "FIELDS", "1", "g"],
        &["SADD", "set", "m"],
        &["FIELDEXPIRE", "set", "1000", "m"],
    ] {
        source.journal(0, words);
    }
    source.wait_acked();
    let mut client = server.client();
    assert_eq!(client.ok(&["HLEN", "small"]), "3");
    assert_eq!(client.ok(&["HLEN", "big"]), "3000");
    assert_eq!(client.ok(&["HGET", "journal", "a"]), "9");
    assert_eq!(client.ok(&["HLEN", "journal"]), "6");
    assert_eq!(client.ok(&["SISMEMBER", "set", "m"]), "1");
    if target.lets_fields_expire() {
        let small = expiry(&mut client, "small", &["a", "b", "c", "none"]);
        assert_eq!(small, [later * 1000, -1, (later + 5) * 1000, -2]);
        let big = expiry(&mut client, "big", &["field 0", "field 1", "field 2999"]);
        assert_eq!(big, [-1, (later + 1) * 1000, (later + 2) * 1000]);
        let journal = expiry(&mut client, "journal", &["a", "b", "c", "d", "e", "f"]);
        for (field, expected) in [(0, 5000), (2, 6000), (3, 7000), (4, 9000), (5, 8000)] {
            assert!(is_about(journal[field], expected), "{field} of {journal:?}");
        }
        assert_eq!(journal[1], -1);
        assert_eq!(
            running.count_logged("expiry of single members was dropped"),
            0
        );
    } else {
        running.wait_logged("expiry of single members was dropped");
    }
    running.stop();
}

on_every_target!(fields_of_the_snapshot_and_of_the_journal_expire);

fn a_field_that_expires_stops_the_task_only_where_it_cannot(target: Target) {
    let server = target.start();
    let source = SimulatedDragonfly::start();
    let task = Task::between(&source.address(), &server.address())
        .with("policy.on_member_expiry = \"stop\"");
    let mut running = task.start_stable();
    within_a_second();
    source.journal(0, ["HSETEX", "hash", "5000", "a", "1"]);
    if target.lets_fields_expire() {
        source.wait_acked();
        assert!(is_about(
            expiry(&mut server.client(), "hash", &["a"])[0],
            5000
        ));
        running.stop();
    } else {
        assert_eq!(running.exit_code(), 65);
        assert!(
            running.messages().contains("hash"),
            "{}",
            running.messages()
        );
        assert_eq!(server.client().ok(&["EXISTS", "hash"]), "0");
    }
}

on_every_target!(a_field_that_expires_stops_the_task_only_where_it_cannot);

/// The journal says that a member expires; the source has lost it, and tells nobody.
#[test]
fn a_key_is_looked_at_when_its_first_member_expires_also_by_the_next_process() {
    let (source, target) = (
        SimulatedDragonfly::options()
            .backing_store()
            .flows(1)
            .start(),
        RedisServer::start(),
    );
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    let (mut client, mut there) = (source.client(), target.client());
    client.ok(&["SADD", "soon", "goes", "stays"]);
    client.ok(&["SADD", "moved", "goes", "stays"]);
    client.ok(&["SADD", "later", "goes", "stays"]);
    source.journal(0, ["SADDEX", "soon", "2", "goes"]);
    source.journal(0, ["SADDEX", "moved", "4", "goes"]);
    client.ok(&["RENAME", "moved", "new"]);
    source.journal(0, ["SADDEX", "later", "4", "goes"]);
    source.wait_acked();
    let mut backing = Client::connect(source.oracle());
    for key in ["soon", "later", "new"] {
        assert_eq!(there.ok(&["SCARD", key]), "2", "{key}");
        backing.ok(&["SREM", key, "goes"]);
    }
    let score = there.ok(&["ZCARD", "df2redis:members:copy"]);
    assert_eq!(score.int(), Some(4), "soon, moved, new and later");
    eventually("the first one is gone", || {
        there.ok(&["SCARD", "soon"]) == "1"
    });
    assert_eq!(there.ok(&["SCARD", "later"]), "2", "not before its time");
    running.signal(Signal::SIGKILL);
    running.wait_killed();
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    running = task.start_stable();
    for key in ["later", "new"] {
        eventually("the next process removes it", || {
            there.ok(&["SCARD", key]) == "1"
        });
    }
    eventually("all times are done with", || {
        there.ok(&["EXISTS", "df2redis:members:copy"]) == "0"
    });
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    running.stop();
}

/// A master with the backing store, a target, and the task between them.
fn followed(target: &RedisServer) -> (SimulatedDragonfly, Task, crate::df2redis::Df2redis) {
    let source = SimulatedDragonfly::options().backing_store().start();
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    (source, task, running)
}

#[track_caller]
fn wait_read_again(source: &SimulatedDragonfly, target: &RedisServer) {
    source.wait_acked();
    let mut there = target.client();
    eventually("all is read again", || {
        there.ok(&["EXISTS", "df2redis:reread:copy"]) == "0"
    });
}

fn a_field_that_the_target_let_expire_before_its_expiry_was_put_off_is_there(target: Target) {
    let server = target.start();
    let (source, _task, running) = followed(&server);
    let (mut client, mut there) = (source.client(), server.client());
    let keys: Vec<String> = (0..20).map(|n| format!("h:{n}")).collect();
    for key in &keys {
        client.ok(&["HSET", key, "f", "1", "g", "2"]);
    }
    source.wait_acked();
    for key in &keys {
        // As if it had expired.
        there.ok(&["HDEL", key, "f"]);
        source.journal(0, ["HEXPIRE", key, "1000", "FIELDS", "2", "g", "f"]);
    }
    wait_read_again(&source, &server);
    for key in &keys {
        let found = there.ok(&["HGET", key, "f"]);
        match target.lets_fields_expire() {
            true => assert_eq!(found, "1", "{key}"),
            // Nothing was missed: what the test did is nobody's business.
            false => assert_eq!(found, crate::support::Reply::Nil, "{key}"),
        }
    }
    running.stop();
}

on_every_target!(a_field_that_the_target_let_expire_before_its_expiry_was_put_off_is_there);

fn a_late_count_in_a_field_that_expired_meanwhile_is_the_sources(target: Target) {
    if !target.lets_fields_expire() {
        return;
    }
    let server = target.start();
    let (source, _task, running) = followed(&server);
    let mut client = source.client();
    for key in ["first", "second"] {
        client.ok(&["HSET", key, "n", "5", "stays", "1"]);
        source.journal(0, ["HSETEX", key, "2", "n", "5"]);
    }
    source.wait_acked();
    server.signal(Signal::SIGSTOP);
    // What is under way when the target stops, and what waits behind it.
    client.ok(&["HINCRBY", "first", "n", "1"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.ok(&["HINCRBY", "second", "n", "1"]);
    // The time in which the target lets the fields expire.
    std::thread::sleep(std::time::Duration::from_millis(3_000));
    server.signal(Signal::SIGCONT);
    wait_read_again(&source, &server);
    for key in ["first", "second"] {
        assert_eq!(server.client().ok(&["HGET", key, "n"]), "6", "{key}");
    }
    running.stop();
}

on_every_target!(a_late_count_in_a_field_that_expired_meanwhile_is_the_sources);

fn only_members_that_the_target_cannot_let_expire_are_on_the_schedule(target: Target) {
    let server = target.start();
    let (source, task, running) = followed(&server);
    within_a_second();
    source.journal(0, ["HSETEX", "hash", "1000", "f", "1"]);
    source.journal(1, ["SADDEX", "set", "1000", "m"]);
    source.wait_acked();
    let mut there = server.client();
    let scheduled = |there: &mut Client| {
        let keys = there.ok(&["ZRANGE", "df2redis:members:copy", "0", "-1"]);
        let mut keys: Vec<String> = keys.items().iter().map(|key| key.text()).collect();
        keys.sort();
        keys
    };
    let set = format!("{}:1:set", source.flow_of("set"));
    let hash = format!("{}:0:hash", source.flow_of("hash"));
    // A time about the end of a second is asked for, and what the source has then has no expiry: see above.
    let mut expected = vec![set];
    if !target.lets_fields_expire() {
        expected.push(hash);
    }
    expected.sort();
    assert_eq!(scheduled(&mut there), expected);
    let said = task.asked("status").output().expect("df2redis starts");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let counted = format!(
        "reread    0 keys, {} when members of them expire",
        expected.len()
    );
    assert!(said.contains(&counted), "{said}");
    source.journal_global(1, ["FLUSHDB"]);
    source.wait_acked();
    expected.retain(|key| !key.ends_with(":1:set"));
    assert_eq!(scheduled(&mut there), expected);
    source.journal_global(0, ["FLUSHALL"]);
    source.wait_acked();
    assert_eq!(scheduled(&mut there), Vec::<String>::new());
    running.stop();
}

on_every_target!(only_members_that_the_target_cannot_let_expire_are_on_the_schedule);

fn a_large_hash_loses_the_fields_that_expire_and_is_never_seen_in_part(target: Target) {
    let soon = seconds_from_now(10);
    let fields: Vec<_> = (0..20_000)
        .map(|n| {
            let at = if n < 10 { soon } else { soon + 10_000 };
            (format!("field {n}"), "x".repeat(500), Some(at))
        })
        .collect();
    let mut dataset = Dataset::new();
    dataset.push(Record::new("large", Value::hash_with_expiry(&fields)));
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let server = target.start();
    let task = Task::between(&source.address(), &server.address());
    let running = task.start_stable();
    let mut there = server.client();
    let count = |there: &mut Client| there.ok(&["HLEN", "large"]).int().expect("a number");
    assert_eq!(count(&mut there), 20_000);
    eventually("what expires is gone", || {
        let left = count(&mut there);
        assert!((19_990..=20_000).contains(&left), "{left}");
        left == 19_990
    });
    assert!(seconds_from_now(0) >= soon, "not before its time");
    assert_eq!(there.ok(&["HEXISTS", "large", "field 9"]), "0");
    wait_read_again(&source, &server);
    assert_eq!(there.ok(&["EXISTS", "df2redis:tmp:copy:large"]), "0");
    running.stop();
}

on_every_target!(a_large_hash_loses_the_fields_that_expire_and_is_never_seen_in_part);
