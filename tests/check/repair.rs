//! `check --repair`: what differs is read again by the task that runs, and compared once more.

use crate::asked::{Checked, send};
use crate::df2redis::Task;
use crate::support::{Client, RedisServer, SimulatedDragonfly, eventually};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

fn pair(flows: usize) -> (SimulatedDragonfly, RedisServer, Task) {
    let options = SimulatedDragonfly::options().flows(flows);
    let source = options.backing_store().start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    (source, target, task)
}

fn fill(client: &mut Client) {
    send(
        client,
        &[
            "SET string:value v",
            "SET string:missing v",
            "RPUSH list:value a b",
            "RPUSH list:type a b",
            "HSET hash:value a 1",
            "ZADD zset:value 0.1 a",
            "XADD stream:group 1-1 f v",
            "XGROUP CREATE stream:group g 0",
            "SET string:expiry v PXAT 4000000000000",
            "SELECT 3",
            "SET other:database v",
        ],
    );
    client.ok(&[&b"SET"[..], b"binary:\x00\xff\r\n", b"v"]);
}

const SPOILED: &[&str] = &[
    "SET string:value w",
    "DEL string:missing",
    "SET string:extra v",
    "LSET list:value 0 c",
    "SET list:type v",
    "HSET hash:value a 2",
    "ZADD zset:value 0.2 a",
    "XGROUP DESTROY stream:group g",
    "PERSIST string:expiry",
    "SELECT 3",
    "DEL other:database",
];

#[test]
fn every_class_of_difference_is_repaired_while_others_write() {
    for flows in [1, 3] {
        let (source, target, task) = pair(flows);
        fill(&mut source.client());
        let running = task.start_stable();
        source.wait_acked();
        let mut there = target.client();
        send(&mut there, SPOILED);
        there.ok(&[&b"DEL"[..], b"binary:\x00\xff\r\n"]);

        let over = Arc::new(AtomicBool::new(false));
        let writing = thread::spawn({
            let (mut client, over) = (source.client(), over.clone());
            move || {
                while !over.load(Ordering::Relaxed) {
                    // Writes to what differs, which must not be lost or repeated by its repair.
                    for _ in 0..40 {
                        send(&mut client, &["RPUSH list:value x", "INCR count"]);
                        send(&mut client, &["HINCRBY hash:value n 1"]);
                        thread::sleep(Duration::from_millis(5));
                    }
                    // What is written without a pause is proved to be equal only by a machine that is fast enough.
                    thread::sleep(Duration::from_millis(300));
                }
            }
        });
        let found = Checked::of(
            &task,
            &["--repair", "--interval", "500ms", "--rounds", "60"],
        );
        over.store(true, Ordering::Relaxed);
        writing.join().expect("a writer");
        assert_eq!(found.code, 0, "{}{}", found.text, found.messages);
        let different = found.events("different");
        assert_eq!(different.len(), 11, "{different:#?}");
        let repaired = found.events("repaired");
        assert!(repaired.keys().eq(different.keys()), "{repaired:#?}");
        assert!(found.text.contains("repaired"), "{}", found.text);
        source.assert_copied(target.port());
        assert_eq!(there.ok(&["EXISTS", "string:extra"]), "0");
        assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
        assert!(source.violations().is_empty(), "{:?}", source.violations());
        running.stop();
    }
}

#[test]
fn keys_that_only_the_target_has_stay_if_they_are_too_many_or_somebody_elses() {
    let (source, target, task) = pair(1);
    let task = task.with("policy.max_delete = \"3\"");
    let mut there = target.client();
    send(&mut there, &["SET foreign v"]);
    let mut client = source.client();
    send(&mut client, &["SET key v"]);
    let running = task.start_stable();
    source.wait_acked();
    for n in 0..4 {
        there.ok(&["SET", &format!("extra:{n}"), "v"]);
    }
    there.ok(&["SET", "key", "w"]);
    let found = Checked::of(&task, &["--repair"]);
    assert_eq!(found.code, 1, "{}", found.text);
    let expected = BTreeMap::from([("key".to_owned(), String::new())]);
    assert_eq!(found.events("repaired"), expected);
    assert!(
        found.text.contains("policy.max_delete, 3"),
        "{}",
        found.text
    );
    assert_eq!(there.ok(&["DBSIZE"]).int(), Some(6 + own_keys(&mut there)));

    send(&mut there, &["DEL extra:0", "DEL extra:1"]);
    let found = Checked::of(&task, &["--repair"]);
    assert_eq!(found.code, 1, "what was there first stays: {}", found.text);
    assert_eq!(found.events("repaired").len(), 2, "{}", found.text);
    assert_eq!(there.ok(&["EXISTS", "extra:2", "extra:3", "foreign"]), "1");
    running.stop();
}

/// Keys that the task has there for itself.
fn own_keys(client: &mut Client) -> i64 {
    let own = client.ok(&["KEYS", "df2redis:*"]).items().len();
    i64::try_from(own).expect("a number")
}

#[test]
fn a_task_that_does_not_run_repairs_nothing_but_can_be_made_to_copy_everything() {
    let (source, target, task) = pair(2);
    let task = task.with("policy.max_delete = \"100%\"");
    let mut client = source.client();
    send(&mut client, &["SET key v", "RPUSH list a"]);
    task.start_stable().stop();
    send(&mut target.client(), &["SET key w", "SET extra v"]);
    send(&mut client, &["RPUSH list b"]);

    let refused = Checked::of(&task, &["--repair"]);
    assert_eq!(refused.code, 3, "{}", refused.text);
    assert!(
        refused.messages.contains("--discard-position"),
        "{}",
        refused.messages
    );
    assert!(refused.report.is_empty());

    let asked = [
        "--repair",
        "--discard-position",
        "--rounds",
        "2",
        "--interval",
        "20ms",
    ];
    let found = Checked::of(&task, &asked);
    assert_eq!(found.code, 1, "{}", found.text);
    assert!(
        found.text.contains("its next start copies everything"),
        "{}",
        found.text
    );
    let running = task.start_stable();
    let mut there = target.client();
    eventually("what the source never had is removed", || {
        there.ok(&["HEXISTS", "df2redis:position:copy", "reconcile"]) == "0"
    });
    source.assert_copied(target.port());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (2, 0));
    let refused = Checked::of(&task, &["--repair", "--discard-position"]);
    assert_eq!(refused.code, 64, "{}", refused.messages);
    running.stop();
}
