//! `df2redis check` of a cluster: every key is compared where it is, also while slots move.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use df2redis::target::Conflict;

use crate::asked::{Checked, IDLE};
use crate::df2redis::Task;
use crate::server::{establish, wanted};
use crate::support::cluster::{Move, Shape, slot_of};
use crate::support::{Cluster, RedisServer, SimulatedDragonfly, Target};

/// Runs each line on both.
fn on_both(source: &RedisServer, cluster: &Cluster, lines: &[String]) {
    let mut client = source.client();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        client.ok(&words);
        cluster.ok(&words);
    }
}

fn dataset() -> Vec<String> {
    let mut lines = Vec::new();
    for n in 0..60 {
        lines.push(format!("SET string:{n} value:{n}"));
        lines.push(format!("RPUSH list:{n} a b {n}"));
        lines.push(format!("SADD set:{n} a b {n}"));
        lines.push(format!("HSET hash:{n} a 1 b {n}"));
        lines.push(format!("ZADD zset:{n} 1.5 a {n} b"));
        lines.push(format!("XADD stream:{n} 1-{n} f v", n = n + 1));
        lines.push(format!("SET expiring:{n} v PXAT 4000000000000"));
    }
    // Read in pieces, and sampled in smart mode.
    let long = "x".repeat(3 << 20);
    lines.push(format!("SET long:string {long}"));
    for part in 0..60 {
        let fields: Vec<_> = (0..500)
            .map(|n| format!("field:{part}:{n} {}", "v".repeat(60)))
            .collect();
        lines.push(format!("HSET long:hash {}", fields.join(" ")));
    }
    lines
}

fn pair() -> (RedisServer, Cluster, Task) {
    let source = RedisServer::start();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    on_both(&source, &cluster, &dataset());
    let task = Task::into_cluster(&source.address(), &cluster.addresses()[1..2]);
    (source, cluster, task)
}

#[test]
fn what_differs_on_any_node_is_found_and_nothing_else() {
    let (_source, cluster, task) = pair();
    Checked::of(&task, IDLE).assert_equal();
    for mode in ["smart", "outline", "length"] {
        Checked::of(&task, &[IDLE, &["--mode", mode]].concat()).assert_equal();
    }
    let mut expected = BTreeMap::new();
    let mut spoil = |line: &str, class: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        cluster.ok(&words);
        expected.insert(words[1].to_owned(), class.to_owned());
    };
    for n in 0..9 {
        spoil(&format!("SET string:{n} other:{n}"), "value");
        spoil(&format!("DEL list:{n}"), "missing");
        spoil(&format!("SADD more:{n} a"), "extra");
        spoil(&format!("PERSIST expiring:{n}"), "expiry");
    }
    spoil("SETRANGE long:string 2000000 y", "value");
    spoil("HSET long:hash field:30:7 w", "value");
    let nodes = expected
        .keys()
        .map(|key| cluster.owner_of(slot_of(key.as_bytes())));
    let mut nodes: Vec<_> = nodes.collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes, [0, 1, 2], "something on every node");
    let found = Checked::of(&task, IDLE);
    assert_eq!(
        found.events("different"),
        expected,
        "{}{}",
        found.text,
        found.messages
    );
    assert_eq!(found.summary()["unsettled"], 0);
}

#[test]
fn a_comparison_goes_on_while_slots_move_and_what_is_between_two_nodes_is_not_called_equal() {
    let (source, cluster, task) = pair();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut moved = 0;
            while !over.load(Ordering::Relaxed) {
                for to in [1, 0] {
                    cluster.move_slots(0..=60, to, Move::Keys);
                    moved += 1;
                }
            }
            moved
        });
        for _ in 0..3 {
            Checked::of(&task, IDLE).assert_equal();
        }
        over.store(true, Ordering::Relaxed);
        assert!(mover.join().unwrap() > 2, "slots moved meanwhile");
    });

    let key = "string:7";
    let slot = slot_of(key.as_bytes());
    let to = (cluster.owner_of(slot) + 1) % 3;
    cluster.begin_move(slot, to);
    let moved = cluster.move_keys(slot, to, 1);
    assert_eq!(moved, 1);
    let found = Checked::of(&task, IDLE);
    assert_eq!(found.code, 1, "{}{}", found.text, found.messages);
    assert_eq!(found.events("different"), BTreeMap::new());
    assert_eq!(found.summary()["unsettled"], 1, "{}", found.text);
    assert!(
        found.events("unsettled").contains_key(key),
        "{:#?}",
        found.report
    );
    cluster.finish_move(slot, to);
    cluster.wait_agreed();
    Checked::of(&task, IDLE).assert_equal();
    drop(source);
}

#[tokio::test]
async fn keys_that_were_there_first_and_stay_are_no_difference() {
    let (source, cluster, task) = pair();
    let task = task
        .with("filter.include = [\"string:*\", \"theirs:*\"]")
        .with("policy.conflict = \"skip\"");
    for n in 0..30 {
        cluster.ok(&["SET", &format!("theirs:{n}"), "v"]);
    }
    establish(&cluster, "copy", wanted("theirs:", Conflict::Skip))
        .await
        .unwrap();
    cluster.ok(&["SET", "theirs:new", "v"]);
    let found = Checked::of(&task, IDLE);
    let expected = [("theirs:new".to_owned(), "extra".to_owned())];
    assert_eq!(
        found.events("different"),
        BTreeMap::from(expected),
        "{}",
        found.text
    );
    assert!(found.text.contains("but for foreign"), "{}", found.text);
    drop(source);
}

/// Writes the positions of a task by hand: the record, and on each master the stamp of every flow.
fn stamp(cluster: &Cluster, master_id: &str, node: usize, lsns: &[u64]) {
    let record = "df2redis:position:copy";
    let flows = lsns.len().to_string();
    let fields = [
        "format", "1", "phase", "stable", "epoch", "e", "replid", master_id,
    ];
    cluster.ok(&[&["HSET", record], &fields[..], &["flows", &flows]].concat());
    let first = *cluster.slots_of(node)[0].start();
    let key = format!("df2redis:stamp:copy:{{{}}}", tag_in(first));
    for (flow, lsn) in lsns.iter().enumerate() {
        let id = cluster.id(node);
        let (at, field) = (format!("at:{flow}:e:{id}"), format!("lsn:{flow}:e:{id}"));
        cluster.ok(&[
            "HSET",
            &key,
            &field,
            &lsn.to_string(),
            &at,
            cluster.id(node),
        ]);
    }
}

#[test]
fn a_difference_is_proved_by_the_positions_on_every_node() {
    let source = SimulatedDragonfly::options()
        .flows(2)
        .backing_store()
        .start();
    // So that there is a journal.
    let elsewhere = RedisServer::start();
    let other = Task::between(&source.address(), &elsewhere.address());
    let running = other.start_stable();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let mut client = source.client();
    for n in 0..30 {
        client.ok(&["SET", &format!("same:{n}"), "v"]);
        cluster.ok(&["SET", &format!("same:{n}"), "v"]);
        client.ok(&["SET", &format!("differs:{n}"), "v"]);
        cluster.ok(&["SET", &format!("differs:{n}"), "w"]);
    }
    source.wait_acked();
    let lsns: Vec<u64> = (0..2).map(|flow| source.next_lsn(flow)).collect();
    let master = source.master_id().to_owned();
    for node in 0..3 {
        stamp(&cluster, &master, node, &lsns);
    }
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let found = Checked::of(&task, &["--rounds", "1", "--interval", "100ms"]);
    assert_eq!(found.events("different").len(), 30, "{}", found.text);
    assert_eq!(found.summary()["unsettled"], 0, "{}", found.text);
    assert!(!found.text.contains("rounds"), "proved: {}", found.text);

    // A key that the task is about to read again, and one node that is not there yet.
    let tag = tag_in(slot_of(b"differs:7"));
    cluster.ok(&[
        "SADD",
        &format!("df2redis:reread:copy:{{{tag}}}"),
        "1:0:differs:7",
    ]);
    let found = Checked::of(&task, &["--rounds", "1", "--interval", "100ms"]);
    assert_eq!(found.events("different").len(), 29, "{}", found.text);
    let open = found.events("unsettled");
    assert_eq!(
        open["differs:7"],
        "value the task is about to read it again"
    );
    stamp(&cluster, &master, 1, &[lsns[0], lsns[1] - 1]);
    let found = Checked::of(&task, &["--rounds", "1", "--interval", "100ms"]);
    assert_eq!(found.events("different").len(), 0, "{}", found.text);
    let open = found.events("unsettled");
    assert_eq!(open.len(), 30);
    assert_eq!(open["differs:8"], "value the target is behind");
    running.stop();
}

/// The first hexadecimal number in a slot, as the task makes its tags.
fn tag_in(slot: u16) -> String {
    let mut words = (0_u32..).map(|n| format!("{n:x}"));
    words.find(|word| slot_of(word.as_bytes()) == slot).unwrap()
}

#[test]
fn writes_on_their_way_into_a_cluster_are_no_differences() {
    let source = SimulatedDragonfly::options()
        .flows(2)
        .backing_store()
        .start();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let mut client = source.client();
    for n in 0..50 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let running = task.start_stable();
    source.wait_acked();
    cluster.ok(&["SET", "still:7", "w"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = source.client();
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                rounds += 1;
                let lines: Vec<_> = (0..20)
                    .flat_map(|n| {
                        [
                            format!("SET to_and_fro:{n} {}", rounds % 2),
                            format!("INCR up:{n}"),
                            format!("HSET hash:{n} f {rounds}"),
                        ]
                    })
                    .collect();
                client.lines(&lines);
                // As fast as it can be copied, so that the target is never far behind.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            rounds
        });
        for _ in 0..3 {
            let found = Checked::of(&task, &["--interval", "500ms", "--rounds", "10"]);
            let planted = [("still:7".to_owned(), "value".to_owned())];
            let different = found.events("different");
            assert_eq!(different, BTreeMap::from(planted), "{}", found.text);
        }
        over.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 10);
    });
    source.wait_acked();
    cluster.ok(&["SET", "still:7", "v"]);
    Checked::of(&task, &["--interval", "1s"]).assert_equal();
    running.stop();
}

#[test]
fn a_task_that_runs_repairs_what_differs_on_every_node() {
    let source = SimulatedDragonfly::options()
        .flows(1)
        .backing_store()
        .start();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let mut client = source.client();
    for n in 0..60 {
        client.ok(&["RPUSH", &format!("list:{n}"), "a", "b"]);
    }
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let running = task.start_stable();
    source.wait_acked();
    for n in 0..10 {
        cluster.ok(&["LSET", &format!("list:{n}"), "0", "c"]);
        cluster.ok(&["DEL", &format!("list:{}", n + 10)]);
    }
    for n in 0..5 {
        cluster.ok(&["SET", &format!("extra:{n}"), "v"]);
    }
    for n in 0..60 {
        client.ok(&["RPUSH", &format!("list:{n}"), "d"]);
    }
    let found = Checked::of(&task, &["--repair"]);
    assert_eq!(found.code, 0, "{}{}", found.text, found.messages);
    assert_eq!(found.events("different").len(), 25, "{}", found.text);
    assert_eq!(found.events("repaired").len(), 25, "{}", found.text);
    Checked::of(&task, &[]).assert_equal();
    running.stop();
}
