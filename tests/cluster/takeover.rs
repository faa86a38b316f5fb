//! What a process has on its way has no effect once another one has taken over, wherever it is on its way to.

use crate::df2redis::Task;
use crate::lanes::{Writes, equal, killed, resumed, source, task};
use crate::support::cluster::Shape;
use crate::support::{Cluster, Proxy, SimulatedDragonfly, Target, eventually};

/// The name of `EXEC` on the wire: with it, a transaction is whole.
const EXEC: &[u8] = b"\r\nEXEC\r\n";
/// What records the start of stable sync.
const RECORD: &[u8] = b"\r\nphase\r\n$6\r\nstable\r\n";
/// What begins a deletion at a flush.
const UNLINK: &[u8] = b"\r\nUNLINK\r\n";

/// A way to each node, and a task that takes them.
fn over_ways(source: &SimulatedDragonfly, cluster: &Cluster) -> (Vec<Proxy>, Task) {
    let nodes = cluster.addresses();
    let ways: Vec<_> = nodes.iter().map(|node| Proxy::to(node)).collect();
    let seeds: Vec<_> = ways.iter().map(Proxy::address).collect();
    let pairs = nodes.iter().zip(&seeds);
    let map: Vec<_> = pairs
        .map(|(node, way)| format!("{node:?} = {way:?}"))
        .collect();
    let task = Task::into_cluster(&source.address(), &seeds)
        .with(format!("target.address_map = {{ {} }}", map.join(", ")));
    (ways, task)
}

#[test]
fn a_flush_that_a_process_has_begun_goes_no_further_once_another_one_has_taken_over() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let (ways, slow) = over_ways(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    let mut first = slow.start_stable();
    writes.rounds(&mut client, 100);
    equal(&source, &cluster);
    ways.iter().for_each(|way| way.hold_from(UNLINK));
    client.ok(&["FLUSHDB"]);
    writes.flushed();
    // A transaction of a flow would be aborted; this is none.
    eventually("deletions on their way", || {
        ways.iter().any(|way| way.holds_anywhere(UNLINK))
    });
    let fast = task(&source, &cluster);
    let mut second = fast.start();
    resumed(&mut second);
    // The same keys again.
    writes.rounds(&mut client, 100);
    for way in &ways {
        let answers = way.release();
        assert!(!answers.contains(':'), "deleted: {answers:?}");
    }
    assert_eq!(first.exit_code(), 73, "{}", first.log());
    first.wait_logged("another process of this task has taken over");
    let _ = source.take_violations();
    writes.rounds(&mut client, 10);
    equal(&source, &cluster);
    writes.counted(&cluster);
    second.stop();
}

#[test]
fn transactions_to_a_node_that_is_no_master_at_the_takeover_have_no_effect_when_it_is_one_again() {
    let (source, cluster) = (source(), Cluster::start(Target::Redis70));
    let (ways, slow) = over_ways(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    let first = slow.start_stable();
    writes.rounds(&mut client, 100);
    equal(&source, &cluster);
    ways[0].hold_from(EXEC);
    eventually("a whole transaction on its way", || {
        writes.round(&mut client);
        ways[0].holds_anywhere(EXEC)
    });
    killed(first, &source);
    let replica = cluster.replicas_of(0)[0];
    cluster.promote(replica);
    let fast = task(&source, &cluster);
    let mut second = fast.start();
    resumed(&mut second);
    equal(&source, &cluster);
    cluster.wait_replica_follows(0);
    cluster.promote(0);
    let answers = ways[0].release();
    assert!(!answers.contains('*'), "executed: {answers:?}");
    writes.rounds(&mut client, 50);
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!(source.full_syncs(), 1);
    second.stop();
}

#[test]
fn a_cluster_that_is_lost_while_the_start_of_stable_sync_is_recorded_is_not_copied_to_again() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let (ways, task) = over_ways(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 100);
    ways.iter().for_each(|way| way.hold_from(RECORD));
    let mut running = task.start();
    eventually("the record on its way", || {
        ways.iter().any(|way| way.holds_anywhere(RECORD))
    });
    for way in &ways {
        way.refuse(true);
        way.cut();
    }
    running.wait_logged("target lost, reading on into the spool");
    writes.rounds(&mut client, 100);
    for way in &ways {
        way.hold_from(b"");
        way.refuse(false);
    }
    running.wait_stable();
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!(running.count_logged("snapshot finished"), 1);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}
