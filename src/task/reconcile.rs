//! After a full sync that did not start on an empty target: keys that the source no longer has are found and removed.
//!
//! The target's keys are walked, and the source is asked for each whether it has it. That is only a suspicion: a key may
//! be deleted or made at any moment. So each key that seems to be gone is handed to the flow that owns it, which reads
//! it again between two positions and writes, or deletes, what it found where that is exact (see
//! [`reread`](super::reread)).
//!
//! One such walk is enough, and under load there is none that finds nothing: while a key goes from the source, it is on
//! the target for a moment longer. Every key that the source had removed before the full sync is on the target from the
//! walk's first step to its last, unless a flow settles it before, so the walk comes to it. If the source does not have
//! it then, it is settled. If the source has it again, then by an entry that comes behind the flow's snapshot, and until
//! a flow has passed what the source had written by the end of the walk, it takes no entry for a key whose value may be
//! of old, but reads the key again (see [`Baselines`](super::reread::Baselines)).
//!
//! Memory is bounded by the keys of one step of the walk, whatever the size of the target. Deletions respect the task's
//! filters and databases, and keys that were there first; more of them than `policy.max_delete` wait for `df2redis
//! approve`, since a source that was started empty must not empty the target.
//!
//! A key is handed to the flow that [`Ghosts`](super::ghosts::Ghosts) name. A session that has begun with a snapshot has
//! seen all keys of the source by then; one that was resumed leaves keys with a hash tag until it has seen enough of that
//! kind to be certain which part of a key decides, and walks again.
//!
//! Invariant: the record on the target says that this is due until the walk is done and the flows have passed its end,
//!   so a kill at any moment costs no more than another walk.

use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, info, warn};
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::error::TaskError;
use super::millis;
use super::report::Approval;
use super::reporter::Reporter;
use super::reread::{Flows, Place};
use super::settings;
use crate::fail_point;
use crate::logging::fields;
use crate::source::dragonfly::{self, Monitor, SourceError};
use crate::target::{Control, Reconcile, Walk};

/// How long is waited before a source that cannot be reached is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// How often the keys are counted anew while somebody is to approve: the source may have got them back.
const RECOUNT_EVERY: Duration = Duration::from_secs(60);

/// What a walk needs.
pub(super) struct Reconciling {
    pub(super) context: Arc<Context>,
    pub(super) source: dragonfly::Settings,
    pub(super) reporter: Reporter,
    pub(super) log: Logger,
    pub(super) flows: Flows,
    pub(super) due: Reconcile,
    monitor: Option<Monitor>,
}

/// What a walk found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Found {
    /// Keys of the task.
    owned: u64,
    /// Those that the source did not have when it was asked.
    gone: u64,
    /// Those of them that were not settled, since nobody knows yet which flow is theirs, and one of these.
    homeless: u64,
    example: Option<Vec<u8>>,
}

impl Reconciling {
    pub(super) fn new(
        context: Arc<Context>,
        source: dragonfly::Settings,
        reporter: Reporter,
        log: Logger,
        flows: Flows,
        due: Reconcile,
    ) -> Self {
        Self {
            context,
            source,
            reporter,
            log,
            flows,
            due,
            monitor: None,
        }
    }

    /// Walks to count them, and then to settle them.
    pub(super) async fn run(mut self) -> Result<(), TaskError> {
        let started = Instant::now();
        let mut control = Control::connect(&settings::target(&self.context.task)).await?;
        info!(self.log, "looking for keys that the source no longer has");
        let mut removed = 0;
        loop {
            fail_point::pass(fail_point::Place::ReconcileWalk);
            let found = self.walk(&mut control, false).await?;
            if found.gone == 0 {
                break;
            }
            if self.is_allowed(&found).await? {
                let found = self.walk(&mut control, true).await?;
                removed += found.gone - found.homeless;
                let Some(example) = found.example else {
                    break;
                };
                self.wait_for_evidence(found.homeless, &example).await;
            }
        }
        self.reporter.awaits(None);
        self.pass().await?;
        fail_point::pass(fail_point::Place::ReconcileRecord);
        self.context.reconciled().await?;
        fail_point::pass(fail_point::Place::ReconcileRecorded);
        info!(self.log, "the target has no keys that the source does not have";
            fields::KEYS => removed, fields::TOOK_MS => millis(started.elapsed()));
        Ok(())
    }

    /// The flow that owns a key, as far as this session can tell.
    fn owner(&self, key: &[u8]) -> Option<u32> {
        let flows = self.context.status.flows.len() as u32;
        self.context.ghosts.likely_owner(key, flows)
    }

    /// Waits until flows have written enough keys to tell whose this one is.
    async fn wait_for_evidence(&self, keys: u64, example: &[u8]) {
        warn!(self.log, "keys that the source no longer has stay for now: which flow owns them is not certain, or not yet";
            fields::KEYS => keys);
        while self.owner(example).is_none() {
            sleep(AGAIN).await;
        }
    }

    /// Whether so many keys may be removed. If not, waits until somebody approves, or it is time to count again.
    async fn is_allowed(&mut self, found: &Found) -> Result<bool, TaskError> {
        let most = self.context.task.policy.max_delete;
        if self.due == Reconcile::Approved || most.allows(found.gone, found.owned) {
            return Ok(true);
        }
        let approval = self.reporter.approved();
        let mut approved = std::pin::pin!(approval.notified());
        // From now on, not from the first poll on.
        approved.as_mut().enable();
        self.reporter.awaits(Some(Approval {
            gone: found.gone,
            owned: found.owned,
        }));
        let file = self.context.task.file.display();
        warn!(self.log, "the source lacks more of the target's keys than policy.max_delete, none is removed before it is approved";
            fields::KEYS => found.gone, fields::OF => found.owned, fields::LIMIT => most.to_string(),
            fields::HINT => format!("check that the source is the right one and has its data; then df2redis approve --config {file}"));
        tokio::select! {
            () = &mut approved => {
                self.due = Reconcile::Approved;
                self.context.approved().await?;
                self.reporter.awaits(None);
                info!(self.log, "removing them was approved"; fields::KEYS => found.gone);
            }
            () = sleep(RECOUNT_EVERY) => {}
        }
        Ok(false)
    }

    /// Walks over the task's keys on the target. With `remove`, those that seem to be gone are read again and settled.
    async fn walk(&mut self, control: &mut Control, remove: bool) -> Result<Found, TaskError> {
        let context = self.context.clone();
        let mut found = Found::default();
        let mut walk = Walk::of(&context.ownership);
        while let Some((db, keys)) = walk.next(control).await? {
            let Some(source_db) = context.source_db(db) else {
                continue;
            };
            found.owned += keys.len() as u64;
            let there = self.ask(source_db, &keys).await?;
            let gone = keys.into_iter().zip(there);
            let gone: Vec<_> = gone
                .filter_map(|(key, there)| (!there).then_some(key))
                .collect();
            found.gone += gone.len() as u64;
            if remove && !gone.is_empty() {
                fail_point::pass(fail_point::Place::ReconcileSuspect);
                let mut places = Vec::with_capacity(gone.len());
                for key in gone {
                    match self.owner(&key) {
                        Some(flow) => places.push((
                            flow,
                            Place {
                                db: source_db,
                                key: key.into(),
                            },
                        )),
                        None => {
                            found.homeless += 1;
                            found.example = Some(key);
                        }
                    }
                }
                self.flows.settle(places).await;
                fail_point::pass(fail_point::Place::ReconcileSettled);
            }
        }
        Ok(found)
    }

    /// Whether the source has these keys. Asked again for ever: the flows notice when the source is lost.
    async fn ask(&mut self, db: u32, keys: &[Vec<u8>]) -> Result<Vec<bool>, TaskError> {
        loop {
            match self.try_ask(db, keys).await {
                Ok(there) => return Ok(there),
                Err(error) if error.is_temporary() => sleep(AGAIN).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until every flow has passed what the source has written by now.
    async fn pass(&mut self) -> Result<(), TaskError> {
        let ends = loop {
            match self.try_offsets().await {
                Ok(ends) => break ends,
                Err(error) if error.is_temporary() => sleep(AGAIN).await,
                Err(error) => return Err(error.into()),
            }
        };
        let flows = ends.into_iter().map(|reach| (Vec::new(), reach));
        self.flows.have_settled(flows.collect()).await;
        Ok(())
    }

    async fn try_offsets(&mut self) -> Result<Vec<u64>, SourceError> {
        let mut monitor = self.monitor().await?;
        let offsets = monitor.offsets().await?;
        self.monitor = Some(monitor);
        Ok(offsets)
    }

    async fn try_ask(&mut self, db: u32, keys: &[Vec<u8>]) -> Result<Vec<bool>, SourceError> {
        let mut monitor = self.monitor().await?;
        let there = monitor.exist(db, keys).await?;
        self.monitor = Some(monitor);
        Ok(there)
    }

    /// The connection to ask the source on. Whoever took it puts it back if it is still good.
    async fn monitor(&mut self) -> Result<Monitor, SourceError> {
        match self.monitor.take() {
            Some(monitor) => Ok(monitor),
            None => Monitor::open(&self.source).await,
        }
    }
}
