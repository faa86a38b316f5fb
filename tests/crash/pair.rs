//! A source, a target, and a task between them.

use crate::df2redis::{Df2redis, Task};
use crate::sink::Sink;
use crate::support::dragonfly::Options;
use crate::support::{Client, RedisServer, SimulatedDragonfly, eventually, within};
use crate::workload::Workload;
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// How a session has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Where the target was.
    Resumed,
    /// With everything.
    Resynced,
}

/// A source and a target: one server, where nothing else is said.
pub struct Pair<T = RedisServer> {
    pub source: SimulatedDragonfly,
    pub target: T,
}

impl Pair {
    /// A source that clients can write to, and an empty target.
    #[must_use]
    pub fn start() -> Self {
        Self::of(SimulatedDragonfly::options())
    }

    /// The same, with a source set up so.
    #[must_use]
    pub fn of(source: Options) -> Self {
        Self {
            source: source.backing_store().start(),
            target: RedisServer::start(),
        }
    }
}

impl<T: Sink> Pair<T> {
    /// A task from one to the other.
    #[must_use]
    pub fn task(&self) -> Task {
        self.task_over(&self.target.addresses())
    }

    /// A task from one to the other, which reaches the target's servers over these addresses. What a flush at the source
    /// leaves to be removed by the next full sync waits for nobody.
    #[must_use]
    pub fn task_over(&self, ways: &[String]) -> Task {
        let task = self.target.task_over(&self.source.address(), ways);
        task.with("policy.max_delete = \"100%\"")
    }

    /// A client of the source.
    #[must_use]
    pub fn client(&self) -> Client {
        self.source.client()
    }

    /// By flow, the position behind the newest entry.
    #[must_use]
    pub fn newest(&self) -> Vec<u64> {
        let flows = 0..self.source.flows();
        flows.map(|flow| self.source.next_lsn(flow)).collect()
    }

    /// Writes more than the source keeps of each flow.
    pub fn overrun(&self, workload: &mut Workload, ring: u64) {
        let mut client = self.client();
        let ends: Vec<u64> = self.newest().iter().map(|next| next + ring).collect();
        let is_over = |newest: Vec<u64>| newest.iter().zip(&ends).all(|(next, end)| next > end);
        while !is_over(self.newest()) {
            workload.rounds(&mut client, 50);
        }
    }

    /// Waits until the source knows that its replica is gone: a killed process ends its connections in a reset, which
    /// a real master survives.
    #[track_caller]
    pub fn left(&self) {
        eventually("the source has noticed", || self.source.replicas() == 0);
        let _ = self.source.take_violations();
    }

    /// Both hold the same, and every counter what was counted.
    #[track_caller]
    pub fn equal(&self, workloads: &[&Workload]) {
        // Asks for an acknowledgement, which would come by itself, only later.
        self.client().ok(&["WAIT", "1", "30000"]);
        self.source.wait_acked();
        // Entries count as applied whose keys are being read again instead; they are listed until that is done.
        eventually("no key to be read again", || !self.target.has_withheld());
        eventually("no key to be removed", || {
            !self.target.record().contains_key("reconcile")
        });
        self.same(workloads);
    }

    /// The same, without waiting for an acknowledgement.
    #[track_caller]
    pub fn same(&self, workloads: &[&Workload]) {
        for workload in workloads {
            let wrong = workload.miscounted(&self.target);
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
        let differences = self.target.differences_from(self.source.oracle());
        assert!(differences.is_empty(), "{differences:#?}");
    }
}

/// How often a process has gone on where the target was: with another session, or with the one that had lost it.
#[must_use]
pub fn resumptions(running: &Df2redis) -> usize {
    [
        "resumed, following writes",
        "target is back, following writes",
    ]
    .map(|line| running.count_logged(line))
    .iter()
    .sum()
}

/// Waits until a session follows writes, and says which way it began: by its log, which must not say both.
#[track_caller]
pub fn way_of(running: &mut Df2redis) -> Way {
    running.wait_stable();
    let resumed = running.count_logged("resuming where the target is");
    let resynced = running.count_logged("full sync needed");
    match (resumed, resynced) {
        (1, 0) => Way::Resumed,
        (0, 1) => Way::Resynced,
        _ => panic!("{resumed} resumptions and {resynced} full syncs in one start"),
    }
}

/// Whether the process is killed within so long; it must not end otherwise.
#[track_caller]
pub fn is_killed(running: &mut Df2redis, within_: Duration) -> bool {
    let mut status = None;
    let ended = within(within_, || {
        status = running.ended();
        status.is_some()
    });
    if let Some(status) = status {
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    }
    ended
}
