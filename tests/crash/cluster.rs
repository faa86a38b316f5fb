//! Clusters as targets: the crash matrix, and random kills.
//!
//! What a task passes is the same as with one server, but for what ties a flow to several nodes: stamps, positions of
//! slots, slots on the move.

use crate::case::{Case, as_recorded, die_disturbed, resumed, resynced, start_again};
use crate::df2redis::Task;
use crate::matrix::each;
use crate::pair::Pair;
use crate::random::{DEFAULT_RING, Run};
use crate::scale;
use crate::sink::Sink;
use crate::support::cluster::{Move, Shape};
use crate::support::dragonfly::Options;
use crate::support::{Cluster, SimulatedDragonfly, Target};
use crate::workload::Workload;
use ::df2redis::fail_point::Place;
use std::time::Duration;

/// Names of each kind of key: with three of them to a hash tag, in some thirty slots.
const KEYS: usize = 31;
/// Between two rounds of writes.
const PACE: Duration = Duration::from_millis(2);
/// Rounds of writes between two moves of slots.
const MOVE_EVERY: usize = 10;

/// What a first start passes.
const FIRST: &[Case] = &[
    resynced(Place::FenceTake, &[1]),
    resynced(Place::StrangersEnded, &[1]),
    resynced(Place::FenceTaken, &[1]),
    resynced(Place::ControlOpened, &[1, 2]),
    as_recorded(Place::NodeAnswered, &[1, 20]),
    resynced(Place::FullSyncRecord, &[1]),
    resynced(Place::FullSyncRecorded, &[1]),
    resynced(Place::BatchSend, &[1, 4]),
    resynced(Place::BatchSent, &[2]),
    resynced(Place::BatchAnswered, &[1]),
    resynced(Place::Replied, &[1, 3]),
    resynced(Place::SnapshotEnded, &[1, 2]),
    resynced(Place::StampSend, &[1]),
    resynced(Place::StampAnswered, &[1, 2]),
    resynced(Place::StampStored, &[1]),
    resynced(Place::StableRecord, &[1]),
    resumed(Place::StableRecorded, &[1]),
];

/// What a start passes that goes on where the cluster is, and then follows small writes and flushes.
const FOLLOWING: &[Case] = &[
    resumed(Place::FenceTake, &[1]),
    resumed(Place::StrangersEnded, &[1]),
    resumed(Place::FenceTaken, &[1]),
    resumed(Place::ControlSend, &[1]),
    resumed(Place::ControlOpened, &[1]),
    resumed(Place::ControlAnswered, &[1]),
    resumed(Place::Registered, &[1]),
    resumed(Place::Resumed, &[1]),
    resumed(Place::FlushBegin, &[1, 2]),
    resumed(Place::NodeAnswered, &[2, 40, 90, 140]),
    resumed(Place::FlushApplied, &[1, 2]),
    resumed(Place::FlushPassed, &[1, 2]),
    resumed(Place::BatchSend, &[2, 9]),
    resumed(Place::BatchSent, &[1, 11]),
    resumed(Place::BatchAnswered, &[3]),
    resumed(Place::TransactionSend, &[1, 5, 30]),
    resumed(Place::TransactionSent, &[1, 12, 31]),
    resumed(Place::Replied, &[1, 2, 21, 60]),
    resumed(Place::TransactionAnswered, &[1, 2, 30, 77]),
    resumed(Place::TransactionChecked, &[1, 9]),
    resumed(Place::StampSend, &[1, 2, 7]),
    resumed(Place::StampAnswered, &[1, 2, 7, 20]),
    resumed(Place::StampStored, &[1, 2, 6]),
    resumed(Place::PositionsRemove, &[1, 2]),
    resumed(Place::PositionRemoved, &[1, 2, 9]),
    resumed(Place::Acknowledge, &[1]),
    resumed(Place::Acknowledged, &[2]),
];

/// What is passed with values that do not go out at once.
const LARGE: &[Case] = &[
    resumed(Place::TransactionPart, &[1, 2, 5]),
    resumed(Place::TransactionSent, &[4]),
];

/// What a start passes that finds keys in the cluster which the source has removed since.
const RECONCILING: &[Case] = &[
    resumed(Place::ReconcileWalk, &[1]),
    as_recorded(Place::RereadWritten, &[1, 2]),
    resumed(Place::ReconcileRecord, &[1]),
];

/// What is passed while slots move.
const MOVING: &[Case] = &[
    resumed(Place::SlotParked, &[1, 2, 5]),
    resumed(Place::SlotsMoved, &[1, 2, 4]),
    resumed(Place::StampAnswered, &[9]),
    resumed(Place::PositionRemoved, &[9]),
    resumed(Place::TransactionAnswered, &[99]),
];

/// All of them.
pub fn matrix() -> Vec<Case> {
    [FIRST, FOLLOWING, LARGE, RECONCILING, MOVING].concat()
}

/// Each case at each of its passes in `make torture`, and at one of them else.
fn some(cases: &'static [Case]) -> Vec<(Case, u64)> {
    if scale::is_long() {
        return each(cases).collect();
    }
    let from = usize::try_from(scale::seed()).unwrap_or_default();
    let one = |(n, case): (usize, &Case)| (*case, case.at[(n + from) % case.at.len()]);
    cases.iter().enumerate().map(one).collect()
}

/// A source, and three empty masters.
fn pair_of(source: Options, target: Target) -> Pair<Cluster> {
    // What is written while a process starts on a busy machine may not fall out of it.
    let source = source.ring(1 << 20).backing_store();
    Pair {
        source: source.start(),
        target: Cluster::start_shaped(target, Shape::MASTERS),
    }
}

fn pair() -> Pair<Cluster> {
    pair_of(SimulatedDragonfly::options(), Target::Redis70)
}

/// Starts a process that dies there, writes until it has, no faster than a cluster on this machine follows, starts
/// another, and compares.
#[track_caller]
fn die_and_start_again(
    pair: &Pair<Cluster>,
    task: &Task,
    workload: &mut Workload,
    case: (Case, u64),
) {
    die_disturbed(pair, task, workload, case, || std::thread::sleep(PACE));
    start_again(pair, task, workload, case);
}

/// Makes the cluster as it was before the task.
fn emptied(pair: &Pair<Cluster>) {
    for master in pair.target.masters() {
        pair.target.node(master).client().ok(&["FLUSHALL"]);
    }
}

#[test]
fn a_first_start_into_a_cluster_that_dies_anywhere_is_followed_by_one_that_ends_equal() {
    let pair = pair();
    let mut workload = Workload::on_slots(KEYS);
    workload.rounds(&mut pair.client(), 60);
    for case in some(FIRST) {
        die_and_start_again(&pair, &pair.task(), &mut workload, case);
        emptied(&pair);
    }
}

/// Every second case, from the first or the second on.
fn dies_anywhere(skip: usize) {
    let pair = pair();
    let task = pair.task();
    let mut workload = Workload::on_slots(KEYS);
    task.start_stable().stop();
    for case in some(FOLLOWING).into_iter().skip(skip).step_by(2) {
        die_and_start_again(&pair, &task, &mut workload, case);
    }
    assert_eq!(pair.source.full_syncs(), 1);
}

#[test]
fn a_process_that_dies_anywhere_while_a_cluster_follows_loses_and_repeats_nothing() {
    dies_anywhere(0);
}

#[test]
fn a_process_that_dies_anywhere_else_while_a_cluster_follows_loses_and_repeats_nothing() {
    dies_anywhere(1);
}

#[test]
fn a_process_that_dies_while_a_cluster_follows_large_writes_loses_and_repeats_nothing() {
    // With more flows there is less memory for each, and larger values go through files.
    let pair = pair_of(SimulatedDragonfly::options().flows(4), Target::Redis70);
    let task = pair
        .task()
        .with("limits.memory = \"16MiB\"")
        .with("spool.max_size = \"160MiB\"")
        .with("spool.min_free = \"0B\"")
        .with("spool.keep = \"0s\"");
    let mut workload = Workload::on_slots(KEYS).with_large(1_300_000);
    task.start_stable().stop();
    for case in some(LARGE) {
        die_and_start_again(&pair, &task, &mut workload, case);
    }
}

#[test]
fn a_process_that_dies_while_it_removes_from_a_cluster_what_the_source_no_longer_has_ends_equal() {
    let pair = pair();
    let task = pair.task();
    let mut workload = Workload::on_slots(KEYS);
    let mut client = pair.client();
    for case in some(RECONCILING) {
        workload.rounds(&mut client, 60);
        client.ok(&["MSET", "gone:1", "v", "gone:2", "v", "gone:3", "v"]);
        task.start_stable().stop();
        pair.left();
        client.ok(&["DEL", "gone:1", "gone:2", "gone:3"]);
        // The positions are lost, as if the ring had been too small.
        pair.target.set("phase", "snapshot");
        die_and_start_again(&pair, &task, &mut workload, case);
    }
}

fn dies_while_slots_move(target: Target, how: Move) {
    let pair = pair_of(SimulatedDragonfly::options(), target);
    let task = pair.task();
    let mut workload = Workload::on_slots(KEYS);
    task.start_stable().stop();
    // From the slot of one key to that of the next, each to the node behind its own.
    let slots: Vec<u16> = (0..KEYS)
        .map(|n| crate::support::cluster::slot_of(n.to_string().as_bytes()))
        .collect();
    let mut moves = slots.iter().cycle();
    for case in some(MOVING) {
        let mut rounds = 0;
        die_disturbed(&pair, &task, &mut workload, case, || {
            rounds += 1;
            std::thread::sleep(PACE);
            if pair.source.stable_replicas() > 0 && rounds % MOVE_EVERY == 0 {
                let slot = *moves.next().expect("it has no end");
                let to = (pair.target.owner_of(slot) + 1) % 3;
                pair.target.move_slots(slot..=slot, to, how);
            }
        });
        start_again(&pair, &task, &mut workload, case);
    }
    assert_eq!(pair.source.full_syncs(), 1);
}

#[test]
fn a_process_that_dies_while_slots_move_key_by_key_loses_and_repeats_nothing() {
    dies_while_slots_move(Target::Redis70, Move::Keys);
}

#[test]
fn random_kills_with_a_cluster_and_the_ring_of_a_real_master_lose_and_repeat_nothing() {
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let mut run = Run::start(DEFAULT_RING, cluster);
    run.run(scale::kills_of_clusters(), vec![Workload::on_slots(KEYS)]);
    assert!(
        run.tally.resumed > 0 && run.tally.resynced > 0,
        "{:?}",
        run.tally
    );
}

#[test]
fn random_kills_with_a_cluster_and_a_large_ring_always_resume() {
    let cluster = Cluster::start_shaped(Target::Valkey91, Shape::MASTERS);
    let mut run = Run::start(1 << 22, cluster);
    run.run(scale::kills_of_clusters(), vec![Workload::on_slots(KEYS)]);
    assert_eq!(
        (run.tally.resynced, run.pair.source.full_syncs()),
        (0, 1),
        "{:?}",
        run.tally
    );
}
