//! Kills at random moments, and some stops in order, while clients write all the time.
//!
//! Before each new start it is worked out what it must do, from what the target holds and from what the source still
//! has; then that is compared with what it says and with what the source has seen.

use crate::df2redis::{Df2redis, Task};
use crate::pair::{Pair, Way};
use crate::scale;
use crate::sink::Sink;
use crate::support::{Proxy, RedisServer, SimulatedDragonfly, Towards, eventually, within};
use crate::workload::Workload;
use crate::writers::Writers;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// How much later the target's answers arrive: without, most kills would find nothing under way.
const ANSWERS_LATER: Duration = Duration::from_millis(10);
/// One of so many ends is in order.
const STOPS: u32 = 5;
/// How much later they arrive when a transaction is to be caught without an answer.
const HELD_BACK: Duration = Duration::from_millis(500);
/// How long a kill may wait for a transaction to be under way.
const UNDER_WAY_WITHIN: Duration = Duration::from_secs(2);
/// Entries kept for each shard by a real master.
pub const DEFAULT_RING: u64 = 8_192;
/// With the default ring, while nobody follows, more is written than it holds at each of so many kills.
const OVERRUN_EVERY: usize = 8;

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Tally {
    kills: usize,
    stops: usize,
    unanswered: usize,
    pub resumed: usize,
    pub resynced: usize,
}

/// What the next start must do.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Only(Way),
    /// The spool may bridge what the ring has lost.
    Either,
}

/// Kills of one task.
pub struct Run<T> {
    pub pair: Pair<T>,
    /// To each server of the target.
    ways: Vec<Proxy>,
    task: Task,
    ring: u64,
    random: StdRng,
    pub tally: Tally,
}

impl<T: Sink> Run<T> {
    /// Between a source that keeps so many entries of each flow, and this target.
    #[must_use]
    pub fn start(ring: u64, target: T) -> Self {
        let source = SimulatedDragonfly::options().ring(ring);
        let source = source.backing_store().start();
        let pair = Pair { source, target };
        let servers = pair.target.addresses();
        let ways: Vec<_> = servers.iter().map(|there| Proxy::watching(there)).collect();
        let addresses: Vec<_> = ways.iter().map(Proxy::address).collect();
        delay(&ways, ANSWERS_LATER);
        let task = pair.task_over(&addresses);
        Self {
            pair,
            ways,
            task,
            ring,
            random: StdRng::seed_from_u64(scale::seed()),
            tally: Tally::default(),
        }
    }

    /// Lets it run for a moment, from its start or from stable sync on, and ends it: mostly by a kill.
    fn end(&mut self, mut running: Df2redis) {
        if self.random.random_ratio(7, 8) {
            running.wait_stable();
        }
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..150)));
        let stops = self.random.random_ratio(1, STOPS);
        if !stops && self.random.random_ratio(3, 4) {
            // Most kills look for it; without a transaction in that time, it is another moment like any.
            let under_way = || self.ways.iter().any(Proxy::has_unanswered);
            if within(UNDER_WAY_WITHIN, under_way) {
                delay(&self.ways, HELD_BACK);
            }
        }
        if stops {
            running.signal(Signal::SIGTERM);
            assert_eq!(running.exit_code(), 0, "{}", running.messages());
        } else {
            running.signal(Signal::SIGKILL);
            running.wait_killed();
        }
        delay(&self.ways, ANSWERS_LATER);
        self.pair.left();
        // What it has sent is with the target, or lost.
        eventually("the end of its connections", || {
            self.ways.iter().all(|way| way.connections() == 0)
        });
        let unanswered: usize = self.ways.iter().map(Proxy::take_unanswered).sum();
        if stops {
            self.tally.stops += 1;
        } else {
            self.tally.kills += 1;
            self.tally.unanswered += usize::from(unanswered > 0);
        }
    }

    /// What the record on the target, and the ring of the source, mean for the next start. `newest` is what the
    /// killed one can have read at most.
    fn expected(&self, newest: &[u64]) -> Expected {
        let record = self.pair.target.record();
        if record.get("phase").map(String::as_str) != Some("stable") {
            return Expected::Only(Way::Resynced);
        }
        let oldest = |flow| self.pair.source.oldest_lsn(flow);
        let flows = 0..self.pair.source.flows();
        let is_told = |flow| record.contains_key(&format!("lsn:{flow}"));
        if self.ways.len() > 1 && !flows.clone().all(is_told) {
            // The nodes of a cluster hold no position: nobody can tell where it stands.
            return Expected::Only(Way::Resynced);
        }
        let stands =
            |flow: usize| -> u64 { record[&format!("lsn:{flow}")].parse().expect("a position") };
        if flows.clone().all(|flow| stands(flow) >= oldest(flow)) {
            return Expected::Only(Way::Resumed);
        }
        match flows.clone().any(|flow| newest[flow] < oldest(flow)) {
            true => Expected::Only(Way::Resynced),
            false => Expected::Either,
        }
    }

    /// Starts it again; nobody writes until it has decided.
    fn start_again(&mut self, expected: &Expected) -> Df2redis {
        let source = &self.pair.source;
        let running = self.task.start();
        let mut way = None;
        let decided = within(Duration::from_secs(60), || {
            let log = running.log();
            way = match () {
                () if log.contains("resuming where the target is") => Some(Way::Resumed),
                () if log.contains("full sync needed") => Some(Way::Resynced),
                () => None,
            };
            way.is_some()
        });
        assert!(decided, "no decision");
        let way = way.expect("a decision");
        assert!(
            *expected == Expected::Either || *expected == Expected::Only(way),
            "{way:?} instead of {expected:?}, after {} kills",
            self.tally.kills
        );
        eventually("the source knows its replica", || source.replicas() > 0);
        match way {
            Way::Resumed => self.tally.resumed += 1,
            Way::Resynced => self.tally.resynced += 1,
        }
        running
    }

    /// So many kills under these writes.
    #[track_caller]
    pub fn run(&mut self, kills: usize, workloads: Vec<Workload>) {
        let writers = Writers::start(self.pair.source.port(), workloads);
        let mut running = self.task.start();
        running.wait_stable();
        for kill in 1..=kills {
            self.end(running);
            let mut paused = writers.pause();
            let newest = self.pair.newest();
            if self.ring == DEFAULT_RING && kill % OVERRUN_EVERY == 0 {
                self.pair.overrun(&mut paused[0], self.ring);
            }
            let expected = self.expected(&newest);
            running = self.start_again(&expected);
            if kill % 4 == 0 || kill == kills {
                running.wait_stable();
                delay(&self.ways, Duration::ZERO);
                let all: Vec<&Workload> = paused.iter().map(|one| &**one).collect();
                self.pair.equal(&all);
                delay(&self.ways, ANSWERS_LATER);
            }
        }
        assert_eq!(running.count_logged("session ended"), 0);
        drop(writers);
        running.stop();
        println!("{:?}", self.tally);
        let Tally {
            kills, unanswered, ..
        } = self.tally;
        assert!(
            unanswered * 4 >= kills,
            "{unanswered} of {kills} kills found a transaction unanswered"
        );
    }
}

/// Has answers arrive so much later.
fn delay(ways: &[Proxy], by: Duration) {
    ways.iter().for_each(|way| way.delay(Towards::Client, by));
}

fn workloads() -> Vec<Workload> {
    [[0, 1], [2, 3], [4, 5]]
        .map(|databases| Workload::on(&databases))
        .into()
}

#[test]
fn random_kills_with_the_ring_of_a_real_master_lose_and_repeat_nothing() {
    let mut run = Run::start(DEFAULT_RING, RedisServer::start());
    run.run(scale::kills(), workloads());
    assert!(
        run.tally.resumed > 0 && run.tally.resynced > 0,
        "{:?}",
        run.tally
    );
}

#[test]
fn random_kills_with_a_large_ring_always_resume() {
    let mut run = Run::start(1 << 22, RedisServer::start());
    run.run(scale::kills(), workloads());
    assert_eq!(
        (run.tally.resynced, run.pair.source.full_syncs()),
        (0, 1),
        "{:?}",
        run.tally
    );
}
