//! Entries in which the source's journal does not tell the truth: the target has it nevertheless.

use crate::df2redis::{Df2redis, Task};
use crate::support::dragonfly::{Fault, Options, Stamp};
use crate::support::{Client, RedisServer, SimulatedDragonfly, compare, eventually};
use ::df2redis::fail_point::{DIE_AT, MOST_WITHHELD};
use nix::sys::signal::Signal;
use std::process::Command;

fn source() -> Options {
    SimulatedDragonfly::options().backing_store().defects()
}

/// A task that follows this source.
fn followed(source: Options) -> (SimulatedDragonfly, RedisServer, Task, Df2redis) {
    let (source, target) = (source.start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    (source, target, task, running)
}

/// A key of this flow.
fn key_of(source: &SimulatedDragonfly, flow: usize, name: &str) -> String {
    let keys = (0..).map(|n| format!("{name}:{n}"));
    let mut ours = keys.filter(|key| source.flow_of(key) == flow);
    ours.next().expect("there are more keys than flows")
}

/// Keys that are to be read again.
fn withheld(target: &mut Client) -> i64 {
    let count = target.ok(&["SCARD", "df2redis:reread:copy"]).int();
    count.expect("a number of keys")
}

/// How many keys the task has read again.
fn reread(task: &Task) -> u64 {
    counter(task, "reread")
}

/// What status counts under this name.
fn counter(task: &Task, name: &str) -> u64 {
    let said = task.asked("status").arg("--json").output();
    let said = said.expect("df2redis starts").stdout;
    let json: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
    let count = json["tasks"][0][name].as_u64();
    count.unwrap_or_else(|| panic!("{json:#}"))
}

/// Once nothing is left to be read again, the target holds what the source does, after at least so many readings.
#[track_caller]
fn assert_set_right(source: &SimulatedDragonfly, target: &RedisServer, task: &Task, at_least: u64) {
    let mut there = target.client();
    source.wait_acked();
    eventually("all is read again", || withheld(&mut there) == 0);
    source.wait_acked();
    assert_eq!(
        compare(source.oracle(), target.port()),
        Vec::<String>::new()
    );
    let reread = reread(task);
    assert!(reread >= at_least, "{reread} of {at_least}");
}

#[test]
fn results_that_the_journal_lost_between_shards_are_there() {
    let (source, target, task, running) = followed(source());
    let mut client = source.client();
    let (list, geo) = (key_of(&source, 0, "list"), key_of(&source, 0, "geo"));
    let (sorted, near) = (key_of(&source, 1, "sorted"), key_of(&source, 1, "near"));
    client.ok(&["RPUSH", &list, "3", "1", "2"]);
    client.ok(&["GEOADD", &geo, "13.361389", "38.115556", "P"]);
    client.ok(&["SORT", &list, "STORE", &sorted]);
    client.ok(&["GEORADIUS", &geo, "13", "38", "200", "km", "STORE", &near]);
    client.ok(&["RPUSH", &sorted, "behind it"]);
    assert_set_right(&source, &target, &task, 2);
    let there = target.client().ok(&["LRANGE", &sorted, "0", "-1"]);
    assert_eq!(there.items().len(), 4, "{there:?}");
    // One that is emptied by it.
    client.ok(&["SORT", "none", "STORE", &sorted]);
    client.ok(&["SORT", &key_of(&source, 0, "none"), "STORE", &near]);
    assert_set_right(&source, &target, &task, 3);
    assert_eq!(target.client().ok(&["EXISTS", &sorted, &near]), "0");
    running.stop();
}

/// What the journal of v1.33 and before has of a command over several shards: on each its own keys, and nothing else.
#[test]
fn results_of_which_old_releases_journalled_the_keys_alone_are_there() {
    let (source, target, task, running) = followed(source().release("df-v1.33.0"));
    let mut here = Client::connect(source.oracle());
    let mut client = source.client();
    let key = |flow, name| key_of(&source, flow, name);
    let (one, two, all) = (key(0, "one"), key(1, "two"), key(1, "all"));
    let (from, to, list) = (key(0, "from"), key(1, "to"), key(0, "list"));
    client.ok(&["ZADD", &one, "1.23456789", "a"]);
    client.ok(&["ZADD", &two, "2", "b"]);
    client.ok(&["SET", &from, "v"]);
    client.ok(&["RPUSH", &list, "a", "b", "c"]);
    source.wait_acked();
    let mut over_shards = |executed: &[&str], left: &[(usize, &[&str])]| {
        here.ok(executed);
        let txid = source.next_txid();
        for (flow, words) in left {
            let stamp = Stamp::of(0, txid, 2);
            source.journal_stamped(*flow, stamp, words.iter().copied());
        }
    };
    over_shards(
        &["ZUNIONSTORE", &all, "2", &one, &two],
        &[
            (1, &["ZUNIONSTORE", &all, &two]),
            (0, &["ZUNIONSTORE", &one]),
        ],
    );
    over_shards(
        &["COPY", &from, &to],
        &[(1, &["COPY", &to]), (0, &["COPY", &from])],
    );
    let none = key(1, "none");
    over_shards(
        &["LMPOP", "2", &none, &list, "LEFT", "COUNT", "2"],
        &[(1, &["LMPOP", &none]), (0, &["LMPOP", &list])],
    );
    client.ok(&["ZINCRBY", &all, "1", "b"]);
    client.ok(&["RPUSH", &list, "behind it"]);
    assert_set_right(&source, &target, &task, 3);
    let mut there = target.client();
    assert_eq!(there.ok(&["ZSCORE", &all, "b"]), "3");
    assert_eq!(there.ok(&["EXISTS", &to]), "1");
    assert_eq!(there.ok(&["LLEN", &list]), "2");
    running.stop();
}

#[test]
fn scores_of_stored_sorted_sets_are_whole() {
    let (source, target, task, running) = followed(source());
    let mut client = source.client();
    client.ok(&["ZADD", "one", "1.23456789", "a", "1234567", "b"]);
    client.ok(&["ZADD", "two", "9007199254740993", "c", "1e-7", "d"]);
    client.ok(&["ZUNIONSTORE", "all", "2", "one", "two"]);
    client.ok(&["ZINTERSTORE", "both", "2", "one", "all"]);
    client.ok(&["ZRANGESTORE", "range", "two", "0", "-1"]);
    client.ok(&["ZINCRBY", "all", "0.5", "a"]);
    // As many as do not fit into memory as words.
    let many: Vec<String> = (0..60_000)
        .flat_map(|n| [format!("{n}.7654321"), n.to_string()])
        .collect();
    for part in many.chunks(2_000) {
        let words: Vec<&str> = part.iter().map(String::as_str).collect();
        client.ok(&[&["ZADD", "many"][..], &words].concat());
    }
    client.ok(&["ZUNIONSTORE", "more", "1", "many"]);
    assert_set_right(&source, &target, &task, 4);
    let score = target.client().ok(&["ZSCORE", "all", "a"]);
    assert_eq!(score, "1.7345678899999999");
    running.stop();
}

#[test]
fn a_pop_of_several_elements_takes_as_many_and_a_move_is_not_read_again() {
    let (source, target, task, running) = followed(source());
    let mut client = source.client();
    let (from, to) = (key_of(&source, 0, "from"), key_of(&source, 1, "to"));
    client.ok(&["RPUSH", "list", "a", "b", "c", "d", "e"]);
    client.ok(&["RPUSH", &from, "a", "b", "c"]);
    client.ok(&["LMOVE", &from, &to, "LEFT", "RIGHT"]);
    client.ok(&["RPOPLPUSH", &from, &to]);
    assert_set_right(&source, &target, &task, 0);
    assert_eq!(reread(&task), 0, "they are moves");
    client.ok(&["LMPOP", "1", "list", "LEFT", "COUNT", "2"]);
    client.ok(&["LMPOP", "2", "none", "list", "RIGHT", "COUNT", "2"]);
    client.ok(&["RPUSH", "list", "behind it"]);
    assert_set_right(&source, &target, &task, 1);
    let there = target.client().ok(&["LRANGE", "list", "0", "-1"]);
    assert_eq!(there.items().len(), 2, "{there:?}");
    running.stop();
}

#[test]
fn a_kill_before_a_pop_is_judged_leaves_it_to_the_next_start() {
    let (source, target, task, mut running) = followed(source());
    let (mut client, mut there) = (source.client(), target.client());
    client.ok(&["RPUSH", "list", "a", "b", "c", "d", "e"]);
    client.ok(&["LMPOP", "1", "list", "LEFT", "COUNT", "3"]);
    eventually("it is remembered", || withheld(&mut there) == 1);
    running.signal(Signal::SIGKILL);
    running.wait_killed();
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    running = task.start_stable();
    assert_set_right(&source, &target, &task, 1);
    assert_eq!(there.ok(&["LLEN", "list"]), "2");
    running.stop();
}

#[test]
fn a_key_that_was_only_read_does_not_end() {
    let (source, target, task, running) = followed(source().release("df-v1.39.0"));
    let mut client = source.client();
    client.ok(&["SET", "kept", "v", "PX", "600000"]);
    client.ok(&["SET", "for ever", "v"]);
    client.ok(&["GETEX", "kept"]);
    client.ok(&["GETEX", "for ever"]);
    client.ok(&["APPEND", "kept", " and more"]);
    assert_set_right(&source, &target, &task, 2);
    assert_eq!(target.client().ok(&["GET", "kept"]), "v and more");
    running.stop();
}

#[test]
fn a_list_of_one_element_that_is_rotated_keeps_its_expiry() {
    let (source, target, task, running) = followed(source());
    let mut client = source.client();
    for key in ["one", "two", "ever"] {
        client.ok(&["RPUSH", key, "a"]);
    }
    client.ok(&["RPUSH", "two", "b"]);
    client.ok(&["PEXPIRE", "one", "600000"]);
    client.ok(&["PEXPIRE", "two", "600000"]);
    for key in ["one", "two", "ever"] {
        client.ok(&["RPOPLPUSH", key, key]);
        client.ok(&["LMOVE", key, key, "LEFT", "RIGHT"]);
        // The list is made anew, and has no expiry any more.
        client.ok(&["MULTI"]);
        client.ok(&["RPOP", "ever"]);
        client.ok(&["LPUSH", "ever", "b"]);
        client.ok(&["EXEC"]);
    }
    assert_set_right(&source, &target, &task, 1);
    assert!(target.client().ok(&["PTTL", "one"]).int() > Some(0));
    running.stop();
}

#[test]
fn ids_that_the_source_left_open_are_its_own() {
    let (source, target, task, running) = followed(source().release("df-v1.26.0"));
    let mut client = source.client();
    (0..20).for_each(|n| drop(client.ok(&["XADD", "log", "*", "n", &n.to_string()])));
    assert_set_right(&source, &target, &task, 1);
    running.stop();
}

#[test]
fn a_restored_key_expires_when_it_does_at_the_source() {
    let (source, target, task, running) = followed(source());
    let mut client = source.client();
    client.ok(&["SET", "first", "v"]);
    let payload = Client::connect(source.oracle())
        .ok(&["DUMP", "first"])
        .bytes();
    for n in 0..20 {
        let key = format!("restored:{n}");
        client.ok(&[b"RESTORE".as_slice(), key.as_bytes(), b"600000", &payload]);
    }
    assert_set_right(&source, &target, &task, 20);
    running.stop();
}

#[test]
fn a_kill_before_the_answer_to_a_rotation_leaves_the_list_to_the_next_start() {
    for place in ["transaction_answered"] {
        let (source, target, task, running) = followed(source());
        running.stop();
        let mut client = source.client();
        client.ok(&["RPUSH", "one", "a"]);
        client.ok(&["PEXPIRE", "one", "600000"]);
        for pass in 1..=6 {
            let mut command = task.command();
            command.env(DIE_AT, format!("{place} {pass}"));
            let mut running = task.start_as(command);
            // Nothing else is written to the list behind the one that it dies at.
            let mut dead = false;
            while !dead {
                client.ok(&["RPOPLPUSH", "one", "one"]);
                eventually("it dies or goes on", || {
                    dead = running.ended().is_some();
                    dead || source.all_acked()
                });
            }
            eventually("the source has noticed", || source.replicas() == 0);
            let _ = source.take_violations();
            let running = task.start_stable();
            assert_set_right(&source, &target, &task, 0);
            running.stop();
        }
        assert_eq!(source.full_syncs(), 1);
    }
}

/// Keys that are made during a full sync, of whose first half the source does not tell that they are gone; and what
/// follows it then.
fn vanishing(
    source: &SimulatedDragonfly,
    target: &RedisServer,
    command: Command,
    task: &Task,
) -> (Vec<String>, Df2redis) {
    let mut client = source.client();
    let value = "v".repeat(1_000);
    for n in 0..2_000 {
        client.ok(&["SET", &format!("still:{n}"), &format!("{n}{value}")]);
    }
    for flow in [0, 1] {
        let bytes_per_second = 200_000;
        source.inject(Fault::SlowFlow {
            flow,
            bytes_per_second,
        });
    }
    let mut running = task.start_as(command);
    eventually("some keys copied", || {
        target.client().ok(&["DBSIZE"]).int() > Some(20)
    });
    let made: Vec<String> = (0..20).map(|n| format!("made:{n}")).collect();
    let mut unseen = Client::connect(source.oracle());
    for key in &made {
        client.ok(&["RPUSH", key, "a"]);
        client.ok(&["RPUSH", key, "b"]);
    }
    made.iter()
        .take(10)
        .for_each(|key| drop(unseen.ok(&["DEL", key])));
    assert_eq!(source.full_syncs(), 0, "too late");
    source.clear_faults();
    running.wait_stable();
    (made, running)
}

#[test]
fn a_key_whose_deletion_the_source_left_out_of_the_snapshot_s_journal_is_asked_for() {
    let (source, target) = (source().start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let (made, running) = vanishing(&source, &target, task.command(), &task);
    assert_set_right(&source, &target, &task, 20);
    let mut there = target.client();
    assert_eq!(there.ok(&["EXISTS", &made[3]]), "0");
    assert_eq!(there.ok(&["LLEN", &made[13]]), "2");
    running.stop();
}

#[test]
fn more_such_keys_than_memory_has_room_for_are_found_by_an_audit_that_does_not_take_its_time() {
    const MOST: usize = 3;
    let (source, target) = (source().start(), RedisServer::start());
    // The usual pass would take an hour.
    let task =
        Task::between(&source.address(), &target.address()).with("audit.keys_per_second = 1");
    let mut command = task.command();
    command.env(MOST_WITHHELD, MOST.to_string());
    let (_, mut running) = vanishing(&source, &target, command, &task);
    let count = |name| counter(&task, name);
    let line = running.wait_logged("the audit has looked at all keys");
    assert!(line.contains("repaired"), "{line}");
    assert_eq!(count("unverified"), 0);
    assert!(count("reread") > (source.flows() * MOST) as u64);
    assert_set_right(&source, &target, &task, 0);
    running.stop();
}
