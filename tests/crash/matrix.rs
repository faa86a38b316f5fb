//! The crash matrix: every fail point, at some of its passes, in a first start and in one that resumes.

use crate::case::{
    Case, as_recorded, die, die_and_start_again, die_disturbed, resumed, resynced, start_again,
};
use crate::pair::Pair;
use crate::sink::Sink;
use crate::support::{Proxy, SimulatedDragonfly, Towards};
use crate::workload::Workload;
use ::df2redis::fail_point::Place;

/// Rounds of writes between two cuts.
const CUT_EVERY: usize = 20;

/// What a first start passes.
const FIRST: &[Case] = &[
    resynced(Place::FenceTake, &[1]),
    resynced(Place::FenceTaken, &[1]),
    resynced(Place::ControlSend, &[1, 2]),
    resynced(Place::ControlOpened, &[1, 2]),
    resynced(Place::ControlAnswered, &[1, 2]),
    resynced(Place::Registered, &[1]),
    resynced(Place::FullSyncRecord, &[1]),
    resynced(Place::FullSyncRecorded, &[1]),
    resynced(Place::Received, &[1, 2]),
    resynced(Place::BatchSend, &[1]),
    resynced(Place::BatchSent, &[1]),
    resynced(Place::BatchAnswered, &[1]),
    resynced(Place::Replied, &[1, 3]),
    resynced(Place::TransactionSend, &[1, 2]),
    resynced(Place::TransactionSent, &[1, 2]),
    resynced(Place::TransactionAnswered, &[1, 2]),
    resynced(Place::TransactionChecked, &[1, 2]),
    resynced(Place::SnapshotEnded, &[1, 2]),
    resynced(Place::StartStable, &[1]),
    as_recorded(Place::StartedStable, &[1]),
    resynced(Place::StableRecord, &[1]),
    resumed(Place::StableRecorded, &[1]),
];

/// What a start passes that goes on where the target is, and then follows small writes and flushes.
const FOLLOWING: &[Case] = &[
    resumed(Place::FenceTake, &[1]),
    resumed(Place::FenceTaken, &[1]),
    resumed(Place::ControlSend, &[1, 2, 3]),
    resumed(Place::ControlOpened, &[1, 2, 3]),
    resumed(Place::ControlAnswered, &[1, 2, 3]),
    resumed(Place::Registered, &[1]),
    resumed(Place::StartStable, &[1]),
    resumed(Place::StartedStable, &[1]),
    resumed(Place::Resumed, &[1]),
    resumed(Place::Received, &[1, 9]),
    resumed(Place::FlushBegin, &[1, 2]),
    resumed(Place::FlushApplied, &[1, 2]),
    resumed(Place::FlushPassed, &[1, 2]),
    resumed(Place::TransactionSend, &[1, 3, 30]),
    resumed(Place::TransactionSent, &[1, 3, 30]),
    resumed(Place::Replied, &[1, 3, 30]),
    resumed(Place::TransactionAnswered, &[1, 3, 30]),
    resumed(Place::TransactionChecked, &[1, 3, 30]),
    resumed(Place::Acknowledge, &[1, 2]),
    resumed(Place::Acknowledged, &[1, 2]),
    resumed(Place::RecordWrite, &[1, 10]),
    resumed(Place::RecordWritten, &[1, 10]),
    resumed(Place::SegmentCreate, &[1, 2]),
    resumed(Place::SegmentCreated, &[1, 2]),
    resumed(Place::Sync, &[1, 2]),
    resumed(Place::Synced, &[1, 2]),
];

/// What is passed with values that go through files, and fill segments.
const LARGE: &[Case] = &[
    resumed(Place::TransactionPart, &[1, 2, 5]),
    resumed(Place::TransactionSent, &[4]),
    resumed(Place::RecordPart, &[1, 2, 5]),
    resumed(Place::RecordWritten, &[4]),
    resumed(Place::SegmentCreate, &[6]),
    resumed(Place::SegmentCreated, &[6]),
    resumed(Place::SegmentSeal, &[1, 2]),
    resumed(Place::SegmentSealed, &[1, 2]),
    resumed(Place::SegmentRemove, &[1, 2]),
    resumed(Place::SegmentRemoved, &[1, 2]),
];

/// What is passed when a snapshot does not fit into memory.
const OVERFLOWING: &[Case] = &[
    resynced(Place::OverflowWrite, &[1, 3]),
    resynced(Place::OverflowWritten, &[1, 3]),
    resynced(Place::SegmentCreated, &[1]),
    resynced(Place::SegmentRemove, &[1]),
];

/// What a start passes that finds keys on the target which the source has removed since.
const RECONCILING: &[Case] = &[
    resumed(Place::ReconcileWalk, &[1]),
    resumed(Place::ReconcileSuspect, &[1]),
    as_recorded(Place::RereadAsk, &[1, 2, 4]),
    as_recorded(Place::RereadAnswered, &[1, 2, 4]),
    as_recorded(Place::RereadWritten, &[1, 2, 4]),
    resumed(Place::ReconcileSettled, &[1]),
    resumed(Place::ReconcileRecord, &[1]),
    resumed(Place::ReconcileRecorded, &[1]),
];

/// What is passed when the target's connections are lost.
const LOSING: &[Case] = &[
    resumed(Place::TargetLost, &[1, 2]),
    resumed(Place::TargetReopened, &[1, 2]),
    resumed(Place::TargetBack, &[1, 2]),
];

/// Each case at each of its passes.
pub fn each(cases: &'static [Case]) -> impl Iterator<Item = (Case, u64)> {
    let all = cases.iter();
    all.flat_map(|case| case.at.iter().map(|at| (*case, *at)))
}

#[test]
fn a_first_start_that_dies_anywhere_is_followed_by_one_that_ends_equal() {
    for case in each(FIRST) {
        let pair = Pair::start();
        let mut workload = Workload::on(&[0, 1, 2]);
        workload.rounds(&mut pair.client(), 60);
        die_and_start_again(&pair, &pair.task(), &mut workload, case);
    }
}

#[test]
fn a_process_that_dies_anywhere_while_it_follows_small_writes_loses_and_repeats_nothing() {
    // What is written while a process starts on a busy machine may not fall out of it.
    let pair = Pair::of(SimulatedDragonfly::options().ring(1 << 20));
    let task = pair.task();
    let mut workload = Workload::on(&[0, 1, 2]);
    task.start_stable().stop();
    for case in each(FOLLOWING) {
        die_and_start_again(&pair, &task, &mut workload, case);
    }
}

#[test]
fn a_process_that_dies_anywhere_while_it_follows_large_writes_loses_and_repeats_nothing() {
    let pair = Pair::of(SimulatedDragonfly::options().flows(4).ring(1 << 20));
    let task = pair
        .task()
        .with("limits.memory = \"16MiB\"")
        .with("spool.max_size = \"160MiB\"")
        .with("spool.min_free = \"0B\"")
        .with("spool.keep = \"0s\"");
    let mut workload = Workload::on(&[0, 1, 2]).with_large(1_300_000);
    task.start_stable().stop();
    for case in each(LARGE) {
        die_and_start_again(&pair, &task, &mut workload, case);
    }
}

#[test]
fn a_process_that_dies_while_a_snapshot_overflows_is_followed_by_one_that_ends_equal() {
    for case in each(OVERFLOWING) {
        let pair = Pair::start();
        let mut workload = Workload::on(&[0, 1, 2]);
        let mut client = pair.client();
        workload.rounds(&mut client, 20);
        client.ok(&["SELECT", "5"]);
        let value = "v".repeat(10_000);
        for n in 0..3_000 {
            client.ok(&["SET", &format!("key:{n}"), &format!("{n}{value}")]);
        }
        // Slower than the source, so that memory does not suffice.
        let way = Proxy::to(&pair.target.address());
        way.throttle(Towards::Server, 4 << 20);
        let task = pair
            .task_over(&[way.address()])
            .with("limits.memory = \"16MiB\"");
        die(&pair, &task, &mut workload, case);
        way.throttle(Towards::Server, 0);
        start_again(&pair, &task, &mut workload, case);
    }
}

#[test]
fn a_process_that_dies_while_it_removes_what_the_source_no_longer_has_is_followed_by_one_that_ends_equal()
 {
    for case in each(RECONCILING) {
        // What is written while a process starts on a busy machine may not fall out of the source's ring.
        let pair = Pair::of(SimulatedDragonfly::options().ring(1 << 20));
        let task = pair.task();
        let mut workload = Workload::on(&[0, 1, 2]);
        let mut client = pair.client();
        workload.rounds(&mut client, 60);
        client.lines(&["SELECT 5", "MSET gone:1 v gone:2 v gone:3 v gone:4 v"]);
        task.start_stable().stop();
        pair.left();
        // It flushes a database, too, but writes its keys again: only those of another one are gone for good.
        workload.rounds(&mut client, 110);
        client.lines(&["SELECT 5", "DEL gone:1 gone:2 gone:3 gone:4"]);
        // The positions are lost, as if the ring had been too small.
        pair.target.set("phase", "snapshot");
        die_and_start_again(&pair, &task, &mut workload, case);
    }
}

#[test]
fn a_process_that_dies_while_its_target_is_lost_or_back_loses_and_repeats_nothing() {
    let pair = Pair::of(SimulatedDragonfly::options().ring(1 << 20));
    let way = Proxy::to(&pair.target.address());
    let task = pair.task_over(&[way.address()]);
    let mut workload = Workload::on(&[0, 1, 2]);
    task.start_stable().stop();
    for case in each(LOSING) {
        let mut rounds = 0;
        die_disturbed(&pair, &task, &mut workload, case, || {
            rounds += 1;
            if pair.source.stable_replicas() > 0 && rounds % CUT_EVERY == 0 {
                way.cut();
            }
        });
        start_again(&pair, &task, &mut workload, case);
    }
}

#[test]
fn every_fail_point_is_in_the_matrix() {
    let mine = [FIRST, FOLLOWING, LARGE, OVERFLOWING, RECONCILING, LOSING];
    let all = [mine.concat(), crate::cluster::matrix()].concat();
    for place in Place::ALL {
        let name = place.name();
        assert!(all.iter().any(|case| case.place == *place), "{name} is not");
    }
}
