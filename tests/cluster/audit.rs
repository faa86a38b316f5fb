//! What differs in a cluster without an entry that tells of it: found by the audit, or by what follows a full sync, and set
//! right on whichever node it is.

use crate::audited::{named, status, wait_passed};
use crate::lanes::{Writes, equal, source, task};
use crate::support::cluster::{Move, Shape, slot_of};
use crate::support::{Client, Cluster, Target, eventually};
use std::collections::BTreeMap;

/// Keys of which each differs in its own way, on every node.
const PLANTED: usize = 9;

/// A key's number, and what is done to it.
fn plant(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut planted = BTreeMap::new();
    for n in 0..PLANTED {
        let (key, class) = match n % 3 {
            0 => (format!("still:{n}"), "value"),
            1 => (format!("fields:{n}"), "missing"),
            _ => (format!("extra:{n}"), "extra"),
        };
        match class {
            "value" => cluster.ok(&["SET", &key, "spoilt"]),
            "missing" => cluster.ok(&["DEL", &key]),
            _ => cluster.ok(&["RPUSH", &key, "never", "there"]),
        };
        planted.insert(key, class.to_owned());
    }
    let owner = |key: &String| cluster.owner_of(slot_of(key.as_bytes()));
    let mut nodes: Vec<usize> = planted.keys().map(owner).collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes, cluster.masters(), "each has some");
    planted
}

fn fill(client: &mut Client) {
    for n in 0..60 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
        client.ok(&["HSET", &format!("fields:{n}"), "f", "1", "g", "2"]);
    }
}

#[test]
fn the_audit_finds_and_sets_right_what_differs_on_any_node_while_writes_go_on() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster).with("audit.keys_per_second = 20000");
    let mut client = source.client();
    fill(&mut client);
    let running = task.start_stable();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 100);
    let planted = plant(&cluster);
    eventually("all to be found, under writes", || {
        writes.rounds(&mut client, 1);
        named(&running).len() >= planted.len()
    });
    eventually("all to be repaired", || {
        writes.rounds(&mut client, 1);
        let audit = status(&task);
        audit["found"] == audit["repaired"]
    });
    assert_eq!(named(&running), planted);
    wait_passed(&task);
    equal(&source, &cluster);
    writes.counted(&cluster);
    let audit = status(&task);
    assert_eq!(audit["last"]["found"], serde_json::json!({}), "{audit:#}");
    assert_eq!(audit["repaired"], audit["found"]);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

/// Nobody writes, so no entry meets a redirect.
#[test]
fn the_audit_goes_on_when_slots_have_moved_and_nobody_writes() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster).with("audit.keys_per_second = 20000");
    let mut client = source.client();
    fill(&mut client);
    let running = task.start_stable();
    equal(&source, &cluster);
    wait_passed(&task);
    let moved = "still:1";
    let slot = slot_of(moved.as_bytes());
    let to = (cluster.owner_of(slot) + 1) % 3;
    cluster.move_slots(slot..=slot, to, Move::Keys);
    cluster.ok(&["SET", moved, "spoilt"]);
    wait_passed(&task);
    equal(&source, &cluster);
    assert_eq!(named(&running).keys().collect::<Vec<_>>(), [moved]);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

#[test]
fn what_the_source_has_lost_meanwhile_is_removed_from_all_nodes_after_a_full_sync() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let mut client = source.client();
    fill(&mut client);
    task.start_stable().stop();
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    let planted = plant(&cluster);
    for n in 0..30 {
        client.ok(&["DEL", &format!("still:{n}")]);
    }
    // Its positions are lost.
    cluster.ok(&["HSET", "df2redis:position:copy", "phase", "snapshot"]);
    let mut running = task.start();
    running.wait_stable();
    assert_eq!(running.count_logged("full sync needed"), 1);
    let mut writes = Writes::default();
    writes.rounds(&mut client, 60);
    running.wait_logged("the target has no keys that the source does not have");
    equal(&source, &cluster);
    writes.counted(&cluster);
    let left = planted.keys().filter(|key| key.starts_with("extra"));
    for key in left {
        assert_eq!(cluster.ok(&["EXISTS", key]), "0", "{key}");
    }
    assert_eq!(source.full_syncs(), 2);
    running.stop();
}

#[test]
fn more_than_may_be_removed_from_a_cluster_waits_for_approval() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster).with("policy.max_delete = \"20%\"");
    let mut client = source.client();
    fill(&mut client);
    task.start_stable().stop();
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    for n in 0..60 {
        client.ok(&["DEL", &format!("still:{n}")]);
    }
    cluster.ok(&["HSET", "df2redis:position:copy", "phase", "snapshot"]);
    let mut running = task.start();
    running.wait_stable();
    running.wait_logged("none is removed before it is approved");
    assert_eq!(cluster.keys("still:").len(), 60);
    let approved = task.asked("approve").output().expect("df2redis starts");
    assert!(approved.status.success(), "{approved:?}");
    running.wait_logged("the target has no keys that the source does not have");
    equal(&source, &cluster);
    assert_eq!(cluster.keys("still:").len(), 0);
    running.stop();
}
