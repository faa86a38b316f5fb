//! Deaths at every place that a flow into a cluster passes, and all kinds of trouble one after the other.

use nix::sys::signal::Signal;

use df2redis::fail_point::{DIE_AT, Place};

use crate::df2redis::{Df2redis, Task};
use crate::lanes::{Writes, equal, killed, resumed, source, task};
use crate::support::cluster::{Move, Shape};
use crate::support::{Cluster, SimulatedDragonfly, Target, eventually, within};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// How long a place may take to be reached, on a busy machine.
const REACHED_WITHIN: Duration = Duration::from_secs(40);
/// A flush comes after so many rounds.
const FLUSH_EVERY: usize = 40;

/// Places that a start which resumes passes, and at which of their passes it dies.
const FOLLOWING: &[(Place, u64)] = &[
    (Place::FenceTake, 1),
    (Place::FenceTaken, 1),
    (Place::ControlSend, 1),
    (Place::ControlOpened, 1),
    (Place::ControlAnswered, 1),
    (Place::Registered, 1),
    (Place::Resumed, 1),
    (Place::FlushBegin, 1),
    (Place::FlushApplied, 1),
    (Place::FlushPassed, 2),
    (Place::BatchSend, 2),
    (Place::BatchSent, 1),
    (Place::BatchAnswered, 3),
    (Place::TransactionSend, 5),
    (Place::TransactionSent, 1),
    (Place::TransactionSent, 12),
    (Place::Replied, 2),
    (Place::Replied, 21),
    (Place::TransactionAnswered, 1),
    (Place::TransactionAnswered, 30),
    (Place::TransactionChecked, 1),
    (Place::TransactionChecked, 9),
    (Place::Acknowledge, 1),
    (Place::Acknowledged, 2),
];

/// Starts it so that it dies at the `at`th pass of a place, under writes and flushes, and waits until it has.
#[track_caller]
fn die(task: &Task, source: &SimulatedDragonfly, writes: &mut Writes, (place, at): (Place, u64)) {
    let mut command = task.command();
    command.env(DIE_AT, format!("{} {at}", place.name()));
    let mut running: Df2redis = task.start_as(command);
    let mut client = source.client();
    let mut status = None;
    let reached = within(REACHED_WITHIN, || {
        writes.rounds(&mut client, 5);
        if writes.since_flush() > FLUSH_EVERY {
            client.ok(&["FLUSHDB"]);
            writes.flushed();
        }
        status = running.ended();
        status.is_some()
    });
    assert!(reached, "{} was not passed {at} times", place.name());
    let status = status.expect("just seen");
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
}

fn dies_everywhere(cases: impl Iterator<Item = &'static (Place, u64)>) {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let mut writes = Writes::default();
    writes.rounds(&mut source.client(), 50);
    task.start_stable().stop();
    for case in cases {
        die(&task, &source, &mut writes, *case);
        let mut running = task.start();
        resumed(&mut running);
        equal(&source, &cluster);
        writes.counted(&cluster);
        running.stop();
    }
    assert_eq!(source.full_syncs(), 1);
}

#[test]
fn a_death_at_any_place_loses_and_repeats_nothing() {
    dies_everywhere(FOLLOWING.iter().step_by(2));
}

#[test]
fn a_death_at_any_other_place_loses_and_repeats_nothing() {
    dies_everywhere(FOLLOWING.iter().skip(1).step_by(2));
}

#[test]
fn deaths_moves_and_failovers_one_after_the_other_lose_and_repeat_nothing() {
    let (source, cluster) = (source(), Cluster::start(Target::Redis70));
    let task = task(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    let mut running = task.start_stable();
    for round in 0..4_u16 {
        writes.rounds(&mut client, 60);
        let to = cluster.owner_of(9000);
        cluster.move_slots(round * 500..=round * 500 + 19, to, Move::Keys);
        writes.rounds(&mut client, 60);
        // The stamps tell where it was.
        killed(running, &source);
        writes.rounds(&mut client, 30);
        running = task.start();
        resumed(&mut running);
        writes.rounds(&mut client, 30);
        if let Some(replica) = cluster.replicas_of(cluster.owner_of(9000)).first() {
            cluster.promote(*replica);
        }
        writes.rounds(&mut client, 60);
        equal(&source, &cluster);
        writes.counted(&cluster);
    }
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}
