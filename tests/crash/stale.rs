//! Two processes of one task: what a killed one has sent arrives late, and two run at once.

use crate::df2redis::{Df2redis, Task};
use crate::pair::{Pair, Way, way_of};
use crate::support::{Proxy, SimulatedDragonfly, eventually};
use crate::workload::Workload;
use crate::writers::Writers;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// The name of `EXEC` on the wire: with it, a transaction is whole.
const EXEC: &[u8] = b"\r\nEXEC\r\n";
/// The answer to an `EXEC` that was not executed.
const ABORTED: &str = "*-1\r\n";
/// How long two processes may need to find out which of them goes on.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process whose next transactions are held, dead; and how long it took.
#[track_caller]
fn dies_with_transactions_held(pair: &Pair, way: &Proxy, task: &Task, workload: &mut Workload) {
    let mut client = pair.client();
    let mut running = task.start();
    running.wait_stable();
    workload.rounds(&mut client, 10);
    pair.source.wait_acked();
    way.hold();
    eventually("a whole transaction held", || {
        workload.round(&mut client);
        way.holds_anywhere(EXEC)
    });
    running.signal(Signal::SIGKILL);
    running.wait_killed();
    drop(running);
    pair.left();
}

#[test]
fn transactions_of_a_killed_process_that_arrive_after_the_next_has_begun_have_no_effect() {
    let pair = Pair::start();
    let way = Proxy::to(&pair.target.address());
    let task = Task::between(&pair.source.address(), &way.address());
    let mut workload = Workload::on(&[0, 1, 2]);
    task.start_stable().stop();
    for _ in 0..6 {
        dies_with_transactions_held(&pair, &way, &task, &mut workload);
        // Its connections are not held.
        let mut running = task.start();
        assert_eq!(way_of(&mut running), Way::Resumed);
        workload.rounds(&mut pair.client(), 10);
        let late = way.release();
        assert!(late.contains(ABORTED), "nothing came late: {late:?}");
        workload.rounds(&mut pair.client(), 10);
        pair.equal(&[&workload]);
        assert_eq!(running.count_logged("session ended"), 0);
        running.stop();
    }
}

#[test]
fn transactions_of_a_killed_process_that_arrive_before_the_next_begins_are_not_repeated() {
    let pair = Pair::start();
    let way = Proxy::to(&pair.target.address());
    let task = Task::between(&pair.source.address(), &way.address());
    let mut workload = Workload::on(&[0, 1, 2]);
    task.start_stable().stop();
    for _ in 0..6 {
        dies_with_transactions_held(&pair, &way, &task, &mut workload);
        let late = way.release();
        assert!(
            late.contains("+QUEUED") && !late.contains(ABORTED),
            "{late:?}"
        );
        let mut running = task.start();
        assert_eq!(way_of(&mut running), Way::Resumed);
        pair.equal(&[&workload]);
        running.stop();
    }
}

/// The one that goes on, once the other has ended as it should.
#[track_caller]
fn the_last_one(mut one: Df2redis, mut other: Df2redis) -> Df2redis {
    let began = Instant::now();
    let one_ended = loop {
        match (one.ended().is_some(), other.ended().is_some()) {
            (true, false) => break true,
            (false, true) => break false,
            (true, true) => panic!("both have ended: {} {}", one.messages(), other.messages()),
            (false, false) => {}
        }
        assert!(began.elapsed() < PATIENCE, "both go on");
        std::thread::sleep(Duration::from_millis(2));
    };
    let (mut loser, mut winner) = match one_ended {
        true => (one, other),
        false => (other, one),
    };
    assert_eq!(loser.exit_code(), 73);
    assert!(loser.log().contains("has taken over"), "{}", loser.log());
    winner.wait_stable();
    winner
}

#[test]
fn of_two_processes_that_race_for_a_task_one_goes_on_and_nothing_is_repeated() {
    let pair = Pair::of(SimulatedDragonfly::options().ring(1 << 20));
    // As on two hosts, whose locks are not each other's.
    let tasks = [pair.task(), pair.task()];
    let workloads = [[0, 1], [2, 3]].map(|databases| Workload::on(&databases));
    tasks[0].start_stable().stop();
    let writers = Writers::start(pair.source.port(), workloads.into());
    for round in 0..8_u64 {
        let first = tasks[0].start();
        std::thread::sleep(Duration::from_millis(round * 7));
        let second = tasks[1].start();
        let winner = the_last_one(first, second);
        let paused = writers.pause();
        let all: Vec<&Workload> = paused.iter().map(|one| &**one).collect();
        pair.equal(&all);
        drop(paused);
        winner.stop();
        eventually("nobody there", || pair.source.replicas() == 0);
    }
    let _ = pair.source.take_violations();
    assert_eq!(pair.source.full_syncs(), 1);
}
