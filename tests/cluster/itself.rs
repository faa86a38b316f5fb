//! The cluster of the tests itself: it does what its methods say, with real nodes.

use crate::support::cluster::{Move, Shape, slot_of};
use crate::support::{Cluster, Target, eventually};

fn fill(cluster: &Cluster, keys: usize) {
    for n in 0..keys {
        cluster.ok(&["SET", &format!("key:{n}"), &n.to_string()]);
    }
}

fn is_complete(cluster: &Cluster, keys: usize) {
    for n in 0..keys {
        let found = cluster.ok(&["GET", &format!("key:{n}")]);
        assert_eq!(found, n.to_string().as_str(), "key:{n}");
    }
    assert_eq!(cluster.keys("key:").len(), keys);
}

fn reshards(target: Target, how: Move) {
    let cluster = Cluster::start(target);
    assert_eq!(cluster.masters(), [0, 1, 2]);
    assert_eq!(cluster.replicas_of(1), [4]);
    fill(&cluster, 300);
    let there = |node: usize| cluster.node(node).client().ok(&["DBSIZE"]).int();
    let before = there(0);
    cluster.move_slots(0..=120, 1, how);
    cluster.move_slots(5_000..=5_010, 2, how);
    assert_eq!(cluster.slots_of(0), [121..=4_999, 5_011..=5_460]);
    assert_eq!(cluster.owner_of(60), 1);
    assert!(there(0) < before, "keys have left");
    is_complete(&cluster, 300);
}

#[test]
fn slots_of_redis_move_key_by_key() {
    reshards(Target::Redis70, Move::Keys);
}

#[test]
fn slots_of_valkey_move_at_once() {
    reshards(Target::Valkey91, Move::Atomic);
}

fn fails_over(target: Target) {
    let mut cluster = Cluster::start(target);
    fill(&cluster, 100);
    cluster.promote(4);
    assert_eq!(cluster.masters(), [0, 2, 4], "agreed on");
    is_complete(&cluster, 100);

    eventually("all writes have been replicated", || {
        let keys = |node: usize| cluster.node(node).client().ok(&["DBSIZE"]).int();
        keys(3) == keys(0)
    });
    cluster.kill(0);
    cluster.promote(3);
    assert_eq!(cluster.masters(), [2, 3, 4], "by force");
    is_complete(&cluster, 100);

    cluster.restart(0);
    eventually("the old master follows the new one", || {
        cluster.replicas_of(3) == [0]
    });
    cluster.wait_agreed();
    cluster.wait_replica_follows(0);
    is_complete(&cluster, 100);
}

#[test]
fn a_master_of_redis_fails_over() {
    fails_over(Target::Redis70);
}

#[test]
fn a_master_of_valkey_fails_over() {
    fails_over(Target::Valkey91);
}

#[test]
fn nodes_join_leave_and_move_to_other_addresses() {
    let shape = Shape {
        masters: 2,
        replicas: 0,
        args: &["--appendonly", "yes"],
        ..Shape::default()
    };
    let mut cluster = Cluster::start_shaped(Target::Redis70, shape);
    fill(&cluster, 50);
    let third = cluster.add_master();
    cluster.move_slots(16_300..=16_383, third, Move::Keys);
    assert_eq!(cluster.masters(), [0, 1, third]);
    cluster.move_slots(16_300..=16_383, 0, Move::Keys);
    cluster.remove(third);
    assert_eq!(cluster.masters(), [0, 1]);

    let before = cluster.node(1).port();
    cluster.restart_elsewhere(1);
    assert_ne!(cluster.node(1).port(), before);
    cluster.wait_agreed();
    is_complete(&cluster, 50);
}

#[test]
fn a_slot_can_stay_half_moved() {
    let shape = Shape {
        masters: 2,
        replicas: 0,
        ..Shape::default()
    };
    let cluster = Cluster::start_shaped(Target::Redis70, shape);
    let slot = slot_of(b"{half}");
    let (from, to) = match cluster.owner_of(slot) {
        0 => (0, 1),
        _ => (1, 0),
    };
    for key in ["{half}a", "{half}b", "{half}c"] {
        cluster.ok(&["SET", key, key]);
    }
    cluster.begin_move(slot, to);
    assert_eq!(cluster.move_keys(slot, to, 1), 1);
    let there = |node: usize| cluster.node(node).client().ok(&["DBSIZE"]).int();
    assert_eq!((there(from), there(to)), (Some(2), Some(1)));
    let both = cluster
        .node(from)
        .client()
        .cmd(&["MGET", "{half}a", "{half}b", "{half}c"]);
    assert!(format!("{both:?}").starts_with("-TRYAGAIN"), "{both:?}");
    for key in ["{half}a", "{half}b", "{half}c"] {
        assert_eq!(cluster.ok(&["GET", key]), key);
    }
    cluster.finish_move(slot, to);
    cluster.wait_agreed();
    assert_eq!(cluster.owner_of(slot), to);
    assert_eq!((there(from), there(to)), (Some(0), Some(3)));
}

#[test]
fn slots_are_those_the_servers_compute() {
    let shape = Shape {
        masters: 1,
        replicas: 0,
        ..Shape::default()
    };
    let server = Cluster::start_shaped(Target::Redis70, shape);
    let mut client = server.node(0).client();
    for key in [
        "",
        "a",
        "{a}b",
        "x{}y",
        "x{",
        "{{a}}",
        "a}b{c}",
        "123456789",
    ] {
        let slot = client.ok(&["CLUSTER", "KEYSLOT", key]).int();
        assert_eq!(slot, Some(slot_of(key.as_bytes()).into()), "{key:?}");
    }
}
