//! What is copied to where, and what was there first: filters, maps, conflicts, other tasks.

use crate::df2redis::Task;
use crate::scenarios::{run, words};
use crate::support::compare::read_database;
use crate::support::{Dataset, RedisServer, SimulatedDragonfly};

/// The strings of a database of the target, as `key=value`.
fn strings(target: &RedisServer, db: u32) -> Vec<String> {
    let keys = read_database(&mut target.client(), db).into_iter();
    keys.map(|(key, seen)| format!("{}={}", key.escape_ascii(), seen.value.concat()))
        .collect()
}

fn journal(source: &SimulatedDragonfly, db: u32, lines: &[&str]) {
    for line in lines {
        source.journal(db, words(line));
    }
}

#[test]
fn filters_pick_databases_and_keys_and_take_commands_apart() {
    let mut dataset = Dataset::new();
    for key in ["user:1", "user:secret", "other:1"] {
        dataset.string(key, "snapshot");
        let value = crate::support::dragonfly::Value::string(b"1");
        let record = crate::support::dragonfly::Record::new(format!("{key}:2"), value);
        dataset.push(record.clone().in_db(2));
        dataset.push(record.in_db(3));
    }
    let source = SimulatedDragonfly::options()
        .flows(1)
        .dataset(dataset)
        .start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address())
        .with("filter.databases = [0, 2]")
        .with("filter.include = [\"user:*\"]")
        .with("filter.exclude = [\"*secret*\"]")
        .skipping_unsupported();
    let mut running = task.start_stable();
    let kept = [
        "MSET user:3 a user:secret:3 b other:3 c user:4 d",
        "SET other:5 e",
        "DEL other:1 user:1 user:secret",
        "RENAME user:3 user:6",
        "SUNIONSTORE other:7 user:4 other:3",
    ];
    journal(&source, 0, &kept);
    journal(&source, 1, &["SET user:1 in-another-database"]);
    journal(&source, 2, &["SET user:9 x"]);
    // Needs a key that is not there: left out, counted, told.
    journal(&source, 0, &["RENAME other:3 user:7"]);
    source.wait_acked();
    assert_eq!(strings(&target, 0), ["user:4=d", "user:6=a"]);
    assert_eq!(strings(&target, 1), Vec::<String>::new());
    assert_eq!(strings(&target, 2), ["user:1:2=1", "user:9=x"]);
    assert_eq!(strings(&target, 3), Vec::<String>::new());
    let line = running.wait_logged("left out, and counted from now on");
    assert!(
        line.contains("RENAME") && line.contains("other:3"),
        "{line}"
    );
    running.stop();
}

#[test]
fn a_command_across_the_filter_stops_by_default_and_names_the_key() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task =
        Task::between(&source.address(), &target.address()).with("filter.include = [\"user:*\"]");
    let mut running = task.start_stable();
    journal(&source, 0, &["RENAME other:3 user:7"]);
    assert_eq!(running.exit_code(), 65);
    let said = running.messages();
    assert!(
        said.contains("RENAME") && said.contains("other:3"),
        "{said}"
    );
}

#[test]
fn databases_are_mapped_in_snapshot_and_journal() {
    let mut dataset = Dataset::new();
    dataset.string("a", "zero");
    let value = crate::support::dragonfly::Value::string(b"three");
    dataset.push(crate::support::dragonfly::Record::new("b", value).in_db(3));
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address())
        .with("target.db_map = { \"0\" = 3, \"3\" = 0 }");
    let running = task.start_stable();
    journal(&source, 0, &["APPEND a !", "SET c 0", "MOVE c 3"]);
    journal(&source, 3, &["APPEND b !"]);
    journal(&source, 5, &["SET d 5"]);
    source.wait_acked();
    assert_eq!(strings(&target, 0), ["b=three!", "c=0"]);
    assert_eq!(strings(&target, 3), ["a=zero!"]);
    assert_eq!(strings(&target, 5), ["d=5"]);
    source.journal_global(3, ["FLUSHDB"]);
    source.wait_acked();
    assert_eq!(strings(&target, 0), Vec::<String>::new());
    assert_eq!(strings(&target, 3), ["a=zero!"]);
    running.stop();
}

fn a_thousand() -> Dataset {
    Dataset::strings(1000, 20)
}

#[test]
fn conflict_panic_writes_nothing_and_lists_keys() {
    let source = SimulatedDragonfly::options().dataset(a_thousand()).start();
    let target = RedisServer::start();
    run(&mut target.client(), &["SELECT 4", "SET here:first 1"]);
    let task =
        Task::between(&source.address(), &target.address()).with("policy.conflict = \"panic\"");
    let mut running = task.start();
    assert_eq!(running.exit_code(), 73);
    let said = running.messages();
    assert!(said.contains("here:first"), "{said}");
    assert_eq!(
        target
            .client()
            .ok(&["INFO", "keyspace"])
            .text()
            .lines()
            .count(),
        2
    );
    assert_eq!(source.full_syncs(), 0);
    // What was in the way is gone: now it starts.
    run(&mut target.client(), &["SELECT 4", "DEL here:first"]);
    let running = task.start_stable();
    assert_eq!(read_database(&mut target.client(), 0).len(), 1000);
    running.stop();
}

#[test]
fn conflict_skip_leaves_a_key_alone_until_the_source_replaces_it_whole() {
    let mut dataset = Dataset::new();
    dataset
        .string("k1", "new")
        .string("k2", "new")
        .string("k3", "new");
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let target = RedisServer::start();
    run(
        &mut target.client(),
        &["SET k1 old", "SET k2 old", "SET k4 old", "SET k5 old"],
    );
    let task =
        Task::between(&source.address(), &target.address()).with("policy.conflict = \"skip\"");
    let running = task.start_stable();
    journal(
        &source,
        0,
        &[
            "APPEND k1 !",
            "SET k2 newer",
            "APPEND k2 !",
            "APPEND k3 !",
            "DEL k4",
            "EXPIRE k5 1000",
        ],
    );
    source.wait_acked();
    assert_eq!(
        strings(&target, 0),
        ["k1=old", "k2=newer!", "k3=new!", "k5=old"]
    );
    assert_eq!(target.client().ok(&words("TTL k5")), "-1");
    let foreign = target.client().ok(&["SMEMBERS", "df2redis:foreign:copy"]);
    let mut foreign: Vec<String> = foreign.items().iter().map(|key| key.text()).collect();
    foreign.sort();
    assert_eq!(foreign, ["0:k1", "0:k5"]);
    running.stop();
}

/// Keys that were there first, each replaced and then changed in steps, entry by entry: what is on its way to the
/// target is taken into account, however the entries fall into batches.
#[track_caller]
fn replaced_and_changed_at_once(conflict: &str) {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let mut there = target.client();
    for n in 0..300 {
        there.ok(&["SET", &format!("n:{n}"), "1000"]);
    }
    let task = Task::between(&source.address(), &target.address())
        .with(format!("policy.conflict = {conflict:?}"));
    let running = task.start_stable();
    // The target is a little slow, so that entries come before what precedes them is answered.
    for n in 0..300 {
        let key = format!("n:{n}");
        if n % 20 == 0 {
            there.ok(&["CLIENT", "PAUSE", "30"]);
        }
        source.journal(0, ["SET", &key, "1"]);
        std::thread::sleep(std::time::Duration::from_micros(300));
        source.journal(0, ["INCRBY", &key, "1"]);
    }
    source.wait_acked();
    let wrong: Vec<String> = strings(&target, 0)
        .into_iter()
        .filter(|line| !line.ends_with("=2"))
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    running.stop();
}

#[test]
fn what_was_replaced_a_moment_ago_is_the_tasks_with_conflict_overwrite() {
    replaced_and_changed_at_once("overwrite");
}

#[test]
fn what_was_replaced_a_moment_ago_is_the_tasks_with_conflict_skip() {
    replaced_and_changed_at_once("skip");
}

#[test]
fn conflict_overwrite_replaces_what_the_source_has() {
    let source = SimulatedDragonfly::options().dataset(a_thousand()).start();
    let target = RedisServer::start();
    let mut there = target.client();
    let name = |n: u32| format!("key:{n}");
    for n in 0..1000 {
        there.ok(&["RPUSH", &name(n), "old"]);
    }
    run(&mut there, &["SET theirs 1"]);
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let found = read_database(&mut there, 0);
    assert_eq!(
        found.len(),
        1001,
        "{:?}",
        found.keys().take(5).collect::<Vec<_>>()
    );
    assert!(found.values().all(|seen| seen.kind == "string"));
    running.stop();
}

#[test]
fn a_second_task_on_the_same_keys_is_refused() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let between = || Task::between(&source.address(), &target.address());
    let first = between().named("first");
    let running = first.start_stable();
    let second = between().named("second");
    let mut refused = second.start();
    assert_eq!(refused.exit_code(), 78);
    let said = refused.messages();
    assert!(said.contains("\"first\""), "{said}");
    drop(refused);
    running.stop();
    // Also when the first does not run: its keys are still its own.
    assert_eq!(second.start().exit_code(), 78);
}

#[test]
fn two_tasks_on_different_databases_share_a_target() {
    let source = SimulatedDragonfly::options().dataset(a_thousand()).start();
    let target = RedisServer::start();
    let first = Task::between(&source.address(), &target.address())
        .named("first")
        .with("filter.databases = [0]");
    let second = Task::between(&source.address(), &target.address())
        .named("second")
        .with("filter.databases = [0]")
        .with("target.db_map = { \"0\" = 1, \"1\" = 0 }");
    let (one, two) = (first.start_stable(), second.start_stable());
    source.wait_acked();
    for db in [0, 1] {
        assert_eq!(read_database(&mut target.client(), db).len(), 1000);
    }
    one.stop();
    two.stop();
}

#[test]
fn the_same_task_does_not_run_twice() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut again = task.start();
    assert_eq!(again.exit_code(), 73);
    let said = again.messages();
    assert!(said.contains("copy") && said.contains("lock"), "{said}");
    drop(again);
    assert_eq!(source.replicas(), 1);
    running.stop();
}
