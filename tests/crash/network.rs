//! What happens to connections, on either side: cut, delayed, throttled, black-holed.

use crate::df2redis::{Df2redis, Task};
use crate::pair::{Pair, Way, resumptions, way_of};
use crate::support::proxy::BOTH;
use crate::support::{Proxy, SimulatedDragonfly, Towards, eventually};
use crate::workload::Workload;
use crate::writers::Writers;
use std::time::Duration;

/// A task with a proxy on each side, and clients that write.
struct Run {
    pair: Pair,
    to_source: Proxy,
    to_target: Proxy,
    running: Df2redis,
    writers: Writers,
    /// Its directory.
    _task: Task,
}

impl Run {
    fn start() -> Self {
        let pair = Pair::of(SimulatedDragonfly::options().ring(1 << 20));
        let to_source = Proxy::to(&pair.source.address());
        let to_target = Proxy::to(&pair.target.address());
        let task = Task::between(&to_source.address(), &to_target.address());
        let mut running = task.start();
        assert_eq!(way_of(&mut running), Way::Resynced);
        let workloads = [[0, 1], [2, 3]].map(|databases| Workload::on(&databases));
        let writers = Writers::start(pair.source.port(), workloads.into());
        Self {
            pair,
            to_source,
            to_target,
            running,
            writers,
            _task: task,
        }
    }

    /// Whether it has gone on where the target was so often.
    fn resumed(&self, times: usize) -> bool {
        resumptions(&self.running) >= times
    }

    #[track_caller]
    fn equal(&self) {
        let paused = self.writers.pause();
        let all: Vec<&Workload> = paused.iter().map(|one| &**one).collect();
        self.pair.equal(&all);
    }

    /// Stops it: everything was copied once.
    #[track_caller]
    fn stop(self) {
        assert_eq!(self.running.count_logged("full sync needed"), 1);
        assert_eq!(self.pair.source.full_syncs(), 1);
        drop(self.writers);
        self.running.stop();
        // The proxy, not the program, ends connections in a reset.
        let _ = self.pair.source.take_violations();
    }
}

#[test]
fn connections_that_are_cut_on_either_side_are_made_again_and_nothing_is_repeated() {
    let run = Run::start();
    for round in 1..=8 {
        match round % 2 {
            0 => run.to_source.cut(),
            _ => run.to_target.cut(),
        }
        eventually("a resumption", || run.resumed(round));
        run.equal();
    }
    run.stop();
}

#[test]
fn a_target_that_refuses_for_a_while_is_waited_for() {
    let run = Run::start();
    run.to_target.refuse(true);
    run.to_target.cut();
    eventually("an attempt that failed", || {
        run.running.count_logged("target not reached, reading on") >= 1
    });
    run.to_target.refuse(false);
    eventually("a resumption", || run.resumed(1));
    run.equal();
    run.stop();
}

#[test]
fn a_source_that_refuses_for_a_while_is_waited_for() {
    let run = Run::start();
    run.to_source.refuse(true);
    run.to_source.cut();
    eventually("several attempts", || {
        run.running.count_logged("session ended, another follows") >= 4
    });
    run.to_source.refuse(false);
    eventually("a resumption", || run.resumed(1));
    run.equal();
    run.stop();
}

#[test]
fn delays_and_low_rates_on_either_side_end_no_session() {
    let run = Run::start();
    for (proxy, towards) in [
        (&run.to_source, Towards::Client),
        (&run.to_target, Towards::Server),
    ] {
        for to in BOTH {
            proxy.delay(to, Duration::from_millis(40));
        }
        run.equal();
        for to in BOTH {
            proxy.delay(to, Duration::ZERO);
        }
        proxy.throttle(towards, 200_000);
        std::thread::sleep(Duration::from_secs(1));
        proxy.throttle(towards, 0);
        run.equal();
    }
    assert_eq!(run.running.count_logged("session ended"), 0);
    run.stop();
}

#[test]
fn a_target_behind_a_black_hole_is_followed_from_where_it_was_whether_it_comes_back_or_is_cut() {
    let run = Run::start();
    for resumptions in 0..2 {
        run.to_target.black_hole(&BOTH, true);
        std::thread::sleep(Duration::from_secs(2));
        if resumptions > 0 {
            run.to_target.cut();
        }
        run.to_target.black_hole(&BOTH, false);
        eventually("a resumption", || run.resumed(resumptions));
        run.equal();
    }
    assert_eq!(run.running.count_logged("target lost, reading on"), 1);
    run.stop();
}

#[test]
fn a_source_behind_a_black_hole_is_followed_from_where_it_was_whether_it_comes_back_or_is_cut() {
    let run = Run::start();
    for resumptions in 0..2 {
        run.to_source.black_hole(&BOTH, true);
        std::thread::sleep(Duration::from_secs(2));
        if resumptions > 0 {
            run.to_source.cut();
        }
        run.to_source.black_hole(&BOTH, false);
        eventually("a resumption", || run.resumed(resumptions));
        run.equal();
    }
    assert_eq!(run.running.count_logged("session ended"), 1);
    run.stop();
}
