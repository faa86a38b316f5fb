//! Commands with keys in several slots, and flushes, from one end to the other.

use crate::df2redis::Task;
use crate::support::cluster::{Shape, slot_of};
use crate::support::{Cluster, SimulatedDragonfly, Target, eventually};

/// Waits until the cluster holds what the source does.
#[track_caller]
fn assert_copied(source: &SimulatedDragonfly, cluster: &Cluster) {
    let mut last = Vec::new();
    let mut same = || {
        last = cluster.differences_from(source.oracle());
        last.is_empty()
    };
    if !crate::support::within(crate::support::PATIENCE, &mut same) {
        panic!("{last:#?}");
    }
}

/// Two keys of one shard of the source and different slots.
fn apart(source: &SimulatedDragonfly, prefix: &str) -> [String; 2] {
    let keys = (0..).map(|n| format!("{prefix}:{n}"));
    let first = format!("{prefix}:first");
    let fits = |key: &String| {
        source.flow_of(key) == source.flow_of(&first)
            && slot_of(key.as_bytes()) != slot_of(first.as_bytes())
    };
    let second = keys.into_iter().find(fits).unwrap();
    [first, second]
}

#[test]
fn commands_over_several_slots_end_as_at_the_source() {
    let source = SimulatedDragonfly::options()
        .flows(2)
        .backing_store()
        .start();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let running = task.start_stable();
    let mut client = source.client();
    let mut run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        client.ok(&words);
    };
    for round in 0..20 {
        let pairs: Vec<_> = (0..30).map(|n| format!("many:{n} {round}:{n}")).collect();
        run(&format!("MSET {}", pairs.join(" ")));
        let keys: Vec<_> = (0..30)
            .filter(|n| n % 7 == round % 7)
            .map(|n| format!("many:{n}"))
            .collect();
        run(&format!("DEL {}", keys.join(" ")));
        let [one, other] = apart(&source, &format!("string:{round}"));
        run(&format!("SET {one} v"));
        run(&format!("APPEND {one} w"));
        run(&format!("RENAME {one} {other}"));
        run(&format!("APPEND {other} x"));
        run(&format!("RENAME {other} {one}"));
        run(&format!("APPEND {one} y"));
        run(&format!("INCR {other}"));
        let [one, other] = apart(&source, &format!("list:{round}"));
        run(&format!("RPUSH {one} 3 1 2"));
        run(&format!("SORT {one} STORE {other}"));
        run(&format!("RPUSH {other} 4"));
        run(&format!("LMOVE {one} {other} LEFT RIGHT"));
        let [one, other] = apart(&source, &format!("set:{round}"));
        run(&format!("SADD {one} a b c"));
        run(&format!("SMOVE {one} {other} a"));
        run(&format!("SUNIONSTORE union:{round} {one} {other}"));
        run(&format!("COPY {one} copy:{round}"));
    }
    assert_copied(&source, &cluster);
    running.stop();
}

#[test]
fn a_list_of_one_element_that_is_rotated_is_there_and_keeps_its_expiry() {
    let source = SimulatedDragonfly::options().backing_store().start();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let running = task.start_stable();
    let mut client = source.client();
    client.ok(&["RPUSH", "one", "a"]);
    client.ok(&["PEXPIRE", "one", "600000"]);
    eventually("the list is there", || cluster.keys("one").len() == 1);
    client.ok(&["RPOPLPUSH", "one", "one"]);
    client.ok(&["SET", "behind", "v"]);
    eventually("what comes behind is copied", || {
        cluster.cmd(&["GET", "behind"]) == "v"
    });
    assert_copied(&source, &cluster);
    assert!(cluster.cmd(&["PTTL", "one"]).int() > Some(0));
    running.stop();
}

#[test]
fn a_flush_empties_every_master_of_what_the_task_owns_and_of_nothing_else() {
    let source = SimulatedDragonfly::options()
        .flows(2)
        .backing_store()
        .start();
    let cluster = Cluster::start_shaped(Target::Valkey91, Shape::MASTERS);
    for n in 0..40 {
        cluster.ok(&["SET", &format!("theirs:{n}"), "v"]);
    }
    let mut client = source.client();
    for n in 0..200 {
        client.ok(&["SET", &format!("ours:{n}"), "v"]);
    }
    let task = Task::into_cluster(&source.address(), &cluster.addresses())
        .with("filter.include = [\"ours:*\"]");
    let running = task.start_stable();
    eventually("all is copied", || cluster.keys("ours:").len() == 200);
    client.ok(&["FLUSHALL"]);
    client.ok(&["SET", "ours:after", "v"]);
    eventually("only what came after the flush is there", || {
        cluster.keys("ours:") == ["ours:after"]
    });
    assert_eq!(cluster.keys("theirs:").len(), 40);
    running.stop();
}

#[test]
fn a_task_that_is_to_stop_at_a_command_over_several_slots_does() {
    let source = SimulatedDragonfly::options()
        .flows(1)
        .backing_store()
        .start();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let stopping = task.with("policy.on_cross_slot = \"stop\"");
    let mut running = stopping.start_stable();
    let [one, other] = apart(&source, "key");
    let mut client = source.client();
    client.ok(&["SET", &one, "v"]);
    client.ok(&["RENAME", &one, &other]);
    assert_eq!(running.exit_code(), 65);
    let said = running.messages();
    assert!(
        said.contains("combines keys that are in different slots"),
        "{said}"
    );

    let skipping = stopping.with("policy.on_cross_slot = \"skip\"");
    let mut running = skipping.start_stable();
    running.wait_logged("left out, and counted from now on");
    client.ok(&["SET", "behind", "v"]);
    eventually("what comes behind is copied", || {
        cluster.cmd(&["GET", "behind"]) == "v"
    });
    assert_eq!(cluster.ok(&["GET", &one]), "v", "left out whole");
    running.stop();
}

/// What an operator's command said.
fn asked(task: &Task, command: &str, arguments: &[&str]) -> (i32, String) {
    let output = task.asked(command).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn an_entry_that_a_node_refuses_waits_for_an_operator_and_is_run_again_once() {
    let source = SimulatedDragonfly::options()
        .flows(1)
        .backing_store()
        .start();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let mut running = task.start_stable();
    let mut client = source.client();
    for n in 0..30 {
        client.ok(&["RPUSH", &format!("list:{n}"), "first"]);
    }
    source.wait_acked();
    cluster.ok(&["SET", "list:7", "x"]);
    client.ok(&["RPUSH", "list:7", "second"]);
    assert_eq!(running.exit_code(), 65, "{}", running.messages());
    let (code, listed) = asked(&task, "skip", &[]);
    assert_eq!(code, 0, "{listed}");
    assert!(listed.contains("list:7"), "{listed}");
    let (code, said) = asked(&task, "retry", &[]);
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("WRONGTYPE"), "{said}");
    cluster.ok(&["DEL", "list:7"]);
    cluster.ok(&["RPUSH", "list:7", "first"]);
    let (code, said) = asked(&task, "retry", &[]);
    assert_eq!(code, 0, "{said}");
    let (_, listed) = asked(&task, "skip", &[]);
    assert!(!listed.contains("list:7"), "{listed}");
    let running = task.start_stable();
    client.ok(&["RPUSH", "list:7", "third"]);
    assert_copied(&source, &cluster);
    running.stop();
}
