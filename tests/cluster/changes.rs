//! Clusters that change while entries are on their way: nodes that join, leave, are restarted, move to other addresses,
//! or are not heard of for a while.
//!
//! Each test counts full syncs: one more would end in the same state, and prove nothing.

use std::time::Duration;

use crate::df2redis::Task;
use crate::lanes::{
    Writes, equal, goes_on_after_a_kill, killed, resumed, source, stamped, task, under_load,
};
use crate::scale::number;
use crate::support::cluster::{Move, Shape};
use crate::support::proxy::BOTH;
use crate::support::{Cluster, Proxy, SimulatedDragonfly, Target};

/// Nodes that have what they had when they are started again.
const KEPT: &[&str] = &["--appendonly", "yes"];

/// How long a node is not heard of: little in `make check`, a minute in `make torture`.
fn outage() -> Duration {
    let seconds: u64 = number("TORTURE_OUTAGE_S", 6);
    Duration::from_secs(seconds.min(60))
}

/// A node joins, takes slots, gives them all back, so that it is a master without slots, or a replica, and goes away.
#[track_caller]
fn a_node_joins_and_leaves(target: Target, how: Move) {
    let (source, mut cluster) = (source(), Cluster::start_shaped(target, Shape::MASTERS));
    let task = task(&source, &cluster);
    let running = task.start_stable();
    let mut writes = Writes::default();
    writes.rounds(&mut source.client(), 50);
    let joined = under_load(&source, &mut writes, || {
        let joined = cluster.add_master();
        cluster.move_slots(100..=159, joined, how);
        cluster.move_slots(9000..=9039, joined, how);
        joined
    });
    assert_eq!(cluster.masters(), [0, 1, 2, joined]);
    equal(&source, &cluster);
    writes.counted(&cluster);
    // To several nodes, one of which did not have them before.
    under_load(&source, &mut writes, || {
        cluster.move_slots(9000..=9039, 1, how);
        cluster.move_slots(100..=129, 0, how);
        cluster.move_slots(130..=159, 2, how);
    });
    assert_eq!(cluster.masters(), [0, 1, 2]);
    equal(&source, &cluster);
    writes.counted(&cluster);
    // A flow that has not heard of it would lose its connection.
    stamped(&cluster);
    under_load(&source, &mut writes, || cluster.remove(joined));
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    assert_eq!(running.count_logged("target lost"), 0, "the flows went on");
    goes_on_after_a_kill(running, &task, (&source, &cluster), &mut writes);
}

#[test]
fn a_node_of_redis_joins_and_leaves_under_load_and_nothing_is_copied_again() {
    a_node_joins_and_leaves(Target::Redis70, Move::Keys);
}

#[test]
fn a_node_of_valkey_joins_and_leaves_under_load_and_nothing_is_copied_again() {
    a_node_joins_and_leaves(Target::Valkey91, Move::Keys);
}

#[test]
fn a_node_of_valkey_is_given_and_gives_slots_at_once_and_nothing_is_copied_again() {
    a_node_joins_and_leaves(Target::Valkey91, Move::Atomic);
}

#[test]
fn a_node_that_is_replaced_by_a_new_one_at_once_leaves_in_order() {
    let (source, mut cluster) = (
        source(),
        Cluster::start_shaped(Target::Valkey91, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let running = task.start_stable();
    let mut writes = Writes::default();
    writes.rounds(&mut source.client(), 100);
    under_load(&source, &mut writes, || {
        let joined = cluster.add_master();
        for slots in cluster.slots_of(1) {
            cluster.move_slots(slots, joined, Move::Atomic);
        }
    });
    assert_eq!(cluster.masters(), [0, 2, 3]);
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    assert_eq!(running.count_logged("target lost"), 0, "the flows went on");
    goes_on_after_a_kill(running, &task, (&source, &cluster), &mut writes);
}

/// Nodes are gone for a while, and come back with what they had.
#[track_caller]
fn nodes_come_back(target: Target, replicas: usize, go: impl FnOnce(&mut Cluster)) {
    let shape = Shape {
        replicas,
        args: KEPT,
        ..Shape::MASTERS
    };
    let (source, mut cluster) = (source(), Cluster::start_shaped(target, shape));
    let task = task(&source, &cluster);
    let mut running = task.start_stable();
    let mut writes = Writes::default();
    writes.rounds(&mut source.client(), 100);
    under_load(&source, &mut writes, || {
        go(&mut cluster);
        cluster.wait_agreed();
        running.wait_logged("target is back, following writes");
    });
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

fn all_restart(cluster: &mut Cluster) {
    (0..cluster.len()).for_each(|node| cluster.kill(node));
    (0..cluster.len()).for_each(|node| cluster.restart(node));
}

#[test]
fn all_nodes_of_redis_are_restarted_and_go_on_with_what_they_have() {
    nodes_come_back(Target::Redis70, 1, all_restart);
}

#[test]
fn all_nodes_of_valkey_are_restarted_and_go_on_with_what_they_have() {
    nodes_come_back(Target::Valkey91, 0, all_restart);
}

fn one_moves(cluster: &mut Cluster) {
    let before = cluster.node(1).port();
    cluster.restart_elsewhere(1);
    assert_ne!(cluster.node(1).port(), before);
}

#[test]
fn a_node_of_redis_that_moves_to_another_address_is_found_there() {
    nodes_come_back(Target::Redis70, 0, one_moves);
}

#[test]
fn a_node_of_valkey_that_moves_to_another_address_is_found_there() {
    nodes_come_back(Target::Valkey91, 0, one_moves);
}

/// A task that reaches every node through a proxy of its own.
fn task_through(source: &SimulatedDragonfly, cluster: &Cluster, ports: &[u16]) -> Task {
    let ways: Vec<_> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let pairs = cluster.addresses().into_iter().zip(&ways);
    let map: Vec<_> = pairs
        .map(|(node, way)| format!("{node:?} = {way:?}"))
        .collect();
    Task::into_cluster(&source.address(), &ways)
        .with(format!("target.address_map = {{ {} }}", map.join(", ")))
        .with("policy.max_delete = \"100%\"")
}

/// What was on its way when a node was no longer heard of comes to it when it is heard of again, after others have.
#[track_caller]
fn a_node_is_not_heard_of(target: Target) {
    let (source, cluster) = (source(), Cluster::start_shaped(target, Shape::MASTERS));
    let proxies: Vec<_> = cluster
        .addresses()
        .iter()
        .map(|node| Proxy::to(node))
        .collect();
    let ports: Vec<_> = proxies.iter().map(Proxy::port).collect();
    let task = task_through(&source, &cluster, &ports).with("target.connect_timeout = \"1s\"");
    let mut running = task.start_stable();
    let mut writes = Writes::default();
    writes.rounds(&mut source.client(), 100);
    under_load(&source, &mut writes, || {
        proxies[1].black_hole(&BOTH, true);
        // That long, whatever happens: it is what is tested.
        std::thread::sleep(outage());
    });
    // Another process comes meanwhile, and cannot reach the node either.
    killed(running, &source);
    running = task.start();
    running.wait_logged("session ended, another follows");
    proxies[1].black_hole(&BOTH, false);
    resumed(&mut running);
    under_load(&source, &mut writes, || proxies[1].cut());
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

#[test]
fn a_node_of_redis_that_is_not_heard_of_for_a_while_gets_everything_once() {
    a_node_is_not_heard_of(Target::Redis70);
}

#[test]
fn a_node_of_valkey_that_is_not_heard_of_for_a_while_gets_everything_once() {
    a_node_is_not_heard_of(Target::Valkey91);
}

#[test]
fn nodes_that_go_by_names_are_reached_by_tls_as_a_user_with_the_rights_that_are_advised() {
    use crate::support::tls::TlsProxy;
    let shape = Shape {
        args: &[
            "--cluster-announce-hostname",
            "node.invalid",
            "--cluster-preferred-endpoint-type",
            "hostname",
        ],
        ..Shape::MASTERS
    };
    let (source, mut cluster) = (source(), Cluster::start_shaped(Target::Redis70, shape));
    // One more that has no slots, so that only CLUSTER NODES tells of it.
    cluster.add_master();
    let proxies: Vec<_> = (0..cluster.len())
        .map(|node| TlsProxy::start(cluster.node(node).port()))
        .collect();
    // Each is its own authority.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let all: Vec<_> = proxies
        .iter()
        .map(|proxy| std::fs::read_to_string(proxy.ca()).expect("a certificate"))
        .collect();
    let ca = dir.path().join("all.pem");
    std::fs::write(&ca, all.concat()).expect("a file of certificates");
    let ways: Vec<_> = proxies
        .iter()
        .map(|proxy| format!("localhost:{}", proxy.port()))
        .collect();
    let map: Vec<_> = (0..cluster.len())
        .map(|node| {
            let announced = format!("node.invalid:{}", cluster.node(node).port());
            format!("{announced:?} = {:?}", ways[node])
        })
        .collect();
    let set = |rules: &[&str]| {
        let words = [&["ACL", "SETUSER", "copier"], rules].concat();
        (0..cluster.len()).for_each(|node| drop(cluster.node(node).client().ok(&words)));
    };
    let advised = |text: &str| {
        let advice = text.lines().filter_map(|line| {
            let (_, rules) = line.split_once("on the target: ACL SETUSER copier ")?;
            Some(rules.split(' ').map(str::to_owned).collect::<Vec<_>>())
        });
        advice.flatten().collect::<Vec<_>>()
    };
    set(&[
        "on",
        ">secret",
        "~*",
        "+@all",
        "-hset",
        "-cluster|info",
        "-client|kill",
    ]);
    let task = Task::into_cluster(&source.address(), &ways[..1])
        .with(format!("target.address_map = {{ {} }}", map.join(", ")))
        .with(format!("target.tls.ca = {ca:?}"))
        .with("target.username = \"copier\"")
        .with("target.password = \"secret\"")
        .with("policy.max_delete = \"100%\"");
    let mut client = source.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 50);
    for _ in 0..5 {
        let checked = task.check_servers();
        let rules = advised(&checked.text);
        assert!(rules.iter().all(|rule| rule.starts_with('+')), "{rules:?}");
        if rules.is_empty() {
            break;
        }
        set(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let checked = task.check_servers();
    checked.assert_no_errors();
    let running = task.start_stable();
    under_load(&source, &mut writes, || {
        cluster.move_slots(0..=29, 2, Move::Keys);
        // The stamp is in the first slot, so every flow notices.
        let first = *cluster.slots_of(2)[1].start();
        cluster.move_slots(first..=first + 29, 3, Move::Keys);
    });
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    goes_on_after_a_kill(running, &task, (&source, &cluster), &mut writes);
}
