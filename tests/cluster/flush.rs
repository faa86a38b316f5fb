//! A flush that all flows meet at a second time, since a node has fallen back behind it.

use df2redis::fail_point::{DIE_AT, Place};
use nix::sys::signal::Signal;
use std::ops::RangeInclusive;

use crate::df2redis::Task;
use crate::lanes::{Writes, equal, resumed, source, task};
use crate::support::cluster::{Shape, slot_of};
use crate::support::{Client, Cluster, Proxy, RedisServer, SimulatedDragonfly, Target, eventually};

/// More of these than the kernel keeps for a replica that does not read; the rest is lost with its master.
const LARGE: usize = 1 << 20;
const MANY: usize = 24;
/// Of node 0.
const REPLICA: usize = 3;

/// Deletions that a node was asked for.
fn unlinks(server: &RedisServer) -> u64 {
    let stats = server.client().ok(&["INFO", "commandstats"]).text();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_unlink:calls="));
    let calls = line.and_then(|rest| rest.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

/// Writes, flushes and writes, of which the replica of node 0 gets only the first.
fn falls_behind(
    source: &SimulatedDragonfly,
    cluster: &Cluster,
    writes: &mut Writes,
    flush: impl Fn(&mut Client, &mut Writes),
) {
    let mut client = source.client();
    writes.rounds(&mut client, 150);
    equal(source, cluster);
    assert_eq!(cluster.replicas_of(0), [REPLICA]);
    cluster.node(REPLICA).signal(Signal::SIGSTOP);
    let tag = (0..)
        .map(|n| n.to_string())
        .find(|tag| cluster.owner_of(slot_of(tag.as_bytes())) == 0)
        .expect("it has slots");
    for n in 0..MANY {
        let value = "x".repeat(LARGE);
        client.ok(&["APPEND", &format!("large:{{{tag}}}{n}"), &value]);
    }
    for n in 0..MANY {
        client.ok(&["DEL", &format!("large:{{{tag}}}{n}")]);
    }
    flush(&mut client, writes);
    writes.rounds(&mut client, 150);
    equal(source, cluster);
    writes.counted(cluster);
}

/// Has the replica of node 0 take over as it was.
fn falls_back(cluster: &mut Cluster) {
    cluster.kill(0);
    cluster.node(REPLICA).signal(Signal::SIGCONT);
    cluster.promote(REPLICA);
}

fn patient(source: &SimulatedDragonfly, cluster: &Cluster) -> Task {
    // What a replica has lost is more than the source keeps.
    task(source, cluster).with("spool.keep = \"10m\"")
}

#[test]
fn a_node_that_falls_back_behind_a_flush_is_flushed_again_and_no_other_is() {
    let (source, mut cluster) = (source(), Cluster::start(Target::Redis70));
    let task = patient(&source, &cluster);
    let running = task.start_stable();
    let mut writes = Writes::default();
    falls_behind(&source, &cluster, &mut writes, |client, writes| {
        client.ok(&["FLUSHDB"]);
        writes.flushed();
    });
    let others = [1, 2];
    let before = others.map(|node| unlinks(cluster.node(node)));
    falls_back(&mut cluster);
    writes.rounds(&mut source.client(), 50);
    equal(&source, &cluster);
    writes.counted(&cluster);
    let met = running.count_logged("source was flushed");
    assert_eq!(met, 2, "all flows have met at it again");
    assert_eq!(others.map(|node| unlinks(cluster.node(node))), before);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

/// Slots of the source are flushed as its own cluster does when it gives them away: the journal tells, and no key of them.
fn flush_slots(source: &SimulatedDragonfly, slots: RangeInclusive<u16>) {
    let mut keys = Client::connect(source.oracle());
    for key in keys.ok(&["KEYS", "*"]).items() {
        let key = key.bytes();
        if slots.contains(&slot_of(&key)) {
            keys.ok(&[&b"DEL"[..], &key]);
        }
    }
    let (first, last) = (slots.start().to_string(), slots.end().to_string());
    source.journal_global(0, ["DFLYCLUSTER", "FLUSHSLOTS", &first, &last]);
}

#[test]
fn a_node_that_falls_back_behind_a_flush_of_slots_loses_those_again_and_no_others() {
    // Of each node some.
    const FLUSHED: RangeInclusive<u16> = 3_000..=13_000;
    let (source, mut cluster) = (source(), Cluster::start(Target::Redis70));
    let task = patient(&source, &cluster);
    let running = task.start_stable();
    let mut writes = Writes::default();
    falls_behind(&source, &cluster, &mut writes, |_, writes| {
        flush_slots(&source, FLUSHED);
        writes.flushed_slots(FLUSHED);
    });
    falls_back(&mut cluster);
    writes.rounds(&mut source.client(), 50);
    equal(&source, &cluster);
    writes.counted(&cluster);
    let met = running.count_logged("source was flushed");
    assert_eq!(met, 2, "all flows have met at it again");
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

/// Of a database that is not copied: it does nothing, but all flows meet.
#[test]
fn a_flush_that_removes_nothing_takes_no_node_ahead_of_what_it_has() {
    let (source, mut cluster) = (source(), Cluster::start(Target::Redis70));
    let task = patient(&source, &cluster).with("filter.databases = [0]");
    let mut writes = Writes::default();
    source.client().lines(&["SELECT 5", "SET left out"]);
    let mut command = task.command();
    command.env(DIE_AT, format!("{} 2", Place::FlushPassed.name()));
    let mut running = task.start_as(command);
    running.wait_stable();
    falls_behind(&source, &cluster, &mut writes, |client, _| {
        client.lines(&["SELECT 5", "FLUSHDB", "SELECT 0"]);
    });
    falls_back(&mut cluster);
    eventually("it has died where flows met again", || {
        running.ended().is_some()
    });
    drop(running);
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    let mut running = task.start();
    resumed(&mut running);
    writes.rounds(&mut source.client(), 50);
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

#[test]
fn a_flush_after_a_full_sync_from_a_new_master_is_not_taken_for_one_that_was_passed_before() {
    let (first, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let way = Proxy::to(&first.address());
    let task = Task::into_cluster(&way.address(), &cluster.addresses())
        .with("policy.max_delete = \"100%\"");
    let running = task.start_stable();
    Writes::default().rounds(&mut first.client(), 200);
    equal(&first, &cluster);
    // Its LSNs begin at 1 again.
    let second = source();
    way.lead_to(&second.address());
    drop(first);
    eventually("another full sync", || second.full_syncs() == 1);
    let mut client = second.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 5);
    equal(&second, &cluster);
    client.ok(&["FLUSHALL"]);
    writes.flushed();
    writes.rounds(&mut client, 2);
    equal(&second, &cluster);
    writes.counted(&cluster);
    running.stop();
}
