//! A source in which the hash tag of a key decides on its flow.

use crate::audited::{Counting, status, wait_passed, wait_repaired};
use crate::df2redis::Task;
use crate::support::{RedisServer, SimulatedDragonfly, eventually};
use ::df2redis::fail_point::DIE_AT;

fn source() -> SimulatedDragonfly {
    let source = SimulatedDragonfly::options().flows(3).by_hash_tag();
    source.backing_store().start()
}

/// Tagged keys are together on one flow, where hashing them whole would put few of them.
#[track_caller]
fn assert_together(source: &SimulatedDragonfly, name: &str) {
    let flow = source.flow_of(format!("{name}:0"));
    assert!((1..40).all(|n| source.flow_of(format!("{name}:{n}")) == flow));
}

#[test]
fn the_audit_repairs_keys_on_the_flow_of_their_tag() {
    let (source, target) = (source(), RedisServer::start());
    let task =
        Task::between(&source.address(), &target.address()).with("audit.keys_per_second = 20000");
    assert_together(&source, "{tag}:still");
    let mut client = source.client();
    for n in 0..40 {
        client.ok(&["SET", &format!("{{tag}}:still:{n}"), "v"]);
        client.ok(&["SET", &format!("still:{n}"), "v"]);
    }
    let running = task.start_stable();
    let counting = Counting::begin(source.port(), "{tag}:counter");
    let mut there = target.client();
    eventually("a counter on the target", || {
        there.ok(&["EXISTS", "{tag}:counter:9"]) == "1"
    });
    for n in 0..20 {
        there.ok(&["SET", &format!("{{tag}}:still:{n}"), "w"]);
        there.ok(&["DEL", &format!("still:{n}")]);
        there.ok(&["RPUSH", &format!("{{tag}}:extra:{n}"), "w"]);
        there.ok(&["INCRBY", &format!("{{tag}}:counter:{n}"), "1000"]);
    }
    wait_repaired(&task, 80);
    wait_passed(&task);
    assert_eq!(running.count_logged("which flow owns them"), 0);
    let counted = counting.end();
    source.assert_copied(target.port());
    counted.assert_counted(&target);
    assert_eq!(status(&task)["last"]["found"], serde_json::json!({}));
    running.stop();
}

#[test]
fn keys_that_have_gone_are_settled_by_the_flow_of_their_tag_after_a_kill_too() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address())
        .with("policy.max_delete = \"100%\"")
        .with("audit.keys_per_second = 0");
    let mut client = source.client();
    let gone: Vec<String> = (0..200).map(|n| format!("{{tag}}:gone:{n}")).collect();
    for key in &gone {
        client.ok(&["SET", key, "v"]);
    }
    let running = task.start_stable();
    source.wait_acked();
    running.stop();
    for key in &gone {
        client.ok(&["DEL", key]);
    }
    let mut there = target.client();
    // Positions that nothing can be resumed from.
    there.ok(&["HSET", "df2redis:position:copy", "replid", "0123"]);
    let mut command = task.command();
    command.env(DIE_AT, "reconcile_suspect 1");
    let mut dying = task.start_as(command);
    eventually("it dies", || dying.ended().is_some());
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    // Nothing tells yet whose keys these are.
    let mut running = task.start_stable();
    running.wait_logged("keys that the source no longer has stay for now");
    // Of the others both the whole key and its tag have the same flow.
    let left = gone.iter().map(String::as_str);
    let exist: Vec<&str> = ["EXISTS"].into_iter().chain(left).collect();
    assert!(there.ok(&exist).int() > Some(50));
    // Some come back meanwhile, by commands that must not be applied to what is left of them.
    let counting = Counting::begin(source.port(), "{tag}:gone");
    running.wait_logged("the target has no keys that the source does not have");
    let counted = counting.end();
    source.assert_copied(target.port());
    counted.assert_counted(&target);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (2, 1));
    running.stop();
}
