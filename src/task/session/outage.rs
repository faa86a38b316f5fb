//! A target that is lost while the source is not: the source is read on, into the spool, until the target is back.
//!
//! ```text
//!  reader ─▶ spool ─▶ applier ─▶ target          stable sync
//!  reader ─▶ spool                    ✗ lost     waiting: connect, take the fence, read the positions, again and again
//!  reader ─▶ spool ─▶ applier ─▶ target          from the positions that were read, out of the spool
//! ```
//!
//! Invariants: nothing of the time before decides where it goes on, only what was read together with the fence; where
//!   that is not in the spool, the session ends, and the next one asks the source.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use slog::{info, warn};
use tokio::sync::watch;

use crate::fail_point::{self, Place};
use crate::logging::fields;
use crate::target::{
    Control, Ownership, Profile, Reconcile, Stored, TargetError, Withheld, Writer,
};
use crate::task::applier::Resumed;
use crate::task::backoff::Backoff;
use crate::task::barrier::Barrier;
use crate::task::context::{Context, Losses};
use crate::task::error::{TaskError, chain};
use crate::task::opening::{positions, take_fence, writers};
use crate::task::status::Phase;
use crate::task::{millis, settings};

use super::{Recording, Running, Setup};

/// The target, reached again.
pub(super) struct Reopened {
    context: Arc<Context>,
    writers: Vec<Writer>,
    /// By flow, the next LSN on the target.
    lsns: Vec<u64>,
    /// Keys that flows withhold from the start.
    withheld: Vec<Withheld>,
    members: Vec<(Withheld, i64)>,
    /// What is left to do about keys that the source may have deleted unseen.
    reconcile: Reconcile,
}

/// The attempts to reach it.
pub(super) type Reopening<'a> =
    Pin<Box<dyn Future<Output = Result<Reopened, TaskError>> + Send + 'a>>;

/// Waits for the attempts; for ever if there are none.
pub(super) async fn reopened(reopening: &mut Option<Reopening<'_>>) -> Result<Reopened, TaskError> {
    match reopening {
        Some(attempts) => attempts.await,
        None => std::future::pending().await,
    }
}

impl<'a> Running<'a> {
    /// Whether the source can be read on without the target: what comes goes to the spool, and the positions tell later
    /// where to go on.
    pub(super) fn outlives(&self, error: &TaskError) -> bool {
        let of_target = matches!(error, TaskError::Target(error) if error.is_temporary());
        let is_copied =
            self.setup.reporter.phase() == Phase::Stable || self.recording == Recording::UnderWay;
        of_target
            && is_copied
            // STARTSTABLE was sent: there are journals to read.
            && self.syncing.is_none()
            && self.full.is_none()
            && self.context.fence.is_some()
    }

    /// Ends what writes to the target, and begins to look for it again.
    pub(super) async fn target_lost(&mut self, error: &TaskError) {
        fail_point::pass(Place::TargetLost);
        self.appliers.shutdown().await;
        self.appliers_left = self.acknowledgers.len() as u32;
        self.setup.reporter.failed(error);
        self.setup.reporter.enter(Phase::Waiting);
        warn!(self.setup.log, "target lost, reading on into the spool until it is back";
            fields::ERROR => chain(error), fields::Hint(error.hint()));
        self.reopening = Some(Box::pin(reopen(self.setup, self.context.clone())));
    }

    /// Goes on where the target is.
    pub(super) fn target_is_back(&mut self, reopened: Reopened) -> Result<(), TaskError> {
        self.reopening = None;
        let Reopened {
            context,
            writers,
            lsns,
            withheld,
            members,
            reconcile,
        } = reopened;
        self.context = context;
        self.suspects.clear();
        let positions = positions(&lsns);
        let acknowledgers = self.acknowledgers.clone();
        let flows = acknowledgers.into_iter().zip(writers).zip(lsns);
        for ((acknowledger, writer), next) in flows {
            let Some(spool) = &self.spool else {
                break;
            };
            let mut outlet = spool
                .outlet(acknowledger.flow())
                .map_err(TaskError::Spool)?;
            outlet.read_from(next).map_err(TaskError::Spool)?;
            self.apply(
                writer,
                acknowledger,
                outlet,
                Some(Resumed {
                    next,
                    withheld: &withheld,
                    members: &members,
                }),
            );
        }
        self.stand_by(reconcile);
        self.setup
            .reporter
            .began(&format!("resumed at {positions}"));
        info!(self.setup.log, "target is back, following writes out of the spool";
            fields::POSITION => positions);
        match self.recording {
            Recording::UnderWay => self.recording = Recording::Recorded,
            _ => {
                self.setup.reporter.enter(Phase::Stable);
                self.reconcile();
                self.audit();
            }
        }
        fail_point::pass(Place::TargetBack);
        Ok(())
    }
}

/// Tries until the target is reached, in the same backoff as whole sessions.
async fn reopen(setup: &Setup<'_>, before: Arc<Context>) -> Result<Reopened, TaskError> {
    let mut backoff = Backoff::new(settings::backoff(&setup.task));
    loop {
        let wait = backoff.failed(Instant::now());
        tokio::time::sleep(wait.unwrap_or_default()).await;
        let failure = match Box::pin(attempt(setup, &before)).await {
            Ok(Some(reopened)) => return Ok(reopened),
            // Flushed, or replaced by an older or another dataset: that is decided with the source.
            Ok(None) => {
                return Err(TaskError::Target(TargetError::Vanished {
                    addr: settings::target(&setup.task).endpoint.to_string(),
                    what: "its positions are not of this session".to_owned(),
                }));
            }
            Err(error @ TaskError::Target(_)) if error.is_temporary() => error,
            Err(error) => return Err(error),
        };
        if wait.is_none() {
            return Err(TaskError::GaveUp {
                after: setup.task.retry.max_elapsed.unwrap_or_default(),
                last: Box::new(failure),
            });
        }
        setup.reporter.failed(&failure);
        warn!(setup.log, "target not reached, reading on into the spool";
            fields::ERROR => chain(&failure), fields::ATTEMPT => backoff.failures(),
            fields::WAIT_MS => wait.map(millis));
    }
}

/// Nothing if the positions there are not of this session's flows.
async fn attempt(setup: &Setup<'_>, before: &Context) -> Result<Option<Reopened>, TaskError> {
    let task = &setup.task;
    let target = settings::target(task);
    let mut control = Control::connect(&target).await?;
    if let Some(fence) = &before.fence {
        fence.refuse_successor(&mut control).await?;
    }
    let profile = Profile::read(&mut control).await?;
    let Some(taken) = take_fence(setup, &mut control, &target).await? else {
        return Ok(None);
    };
    let source = settings::source(task).endpoint.to_string();
    let wanted = settings::wanted(task, profile.databases, source);
    let now = crate::entry::unix_ms();
    let ownership = Ownership::establish(&mut control, &target, wanted, now).await?;
    let flows = before.status.flows.len();
    let is_recorded = matches!(taken.stored, Stored::Stable { .. });
    let lsns = match taken.stored {
        // Whoever's full sync it was: all of it is there, of this master and of this mapping.
        Stored::Stable {
            replication_id,
            lsns,
        }
        | Stored::Copied {
            replication_id,
            lsns,
        } if replication_id == before.master_id && lsns.len() == flows => lsns,
        _ => return Ok(None),
    };
    if !ownership.is_same_mapping() {
        return Ok(None);
    }
    if !is_recorded {
        let id = &before.master_id;
        let recording = taken
            .fence
            .begin_stable(&mut control, id, flows as u32, now);
        recording.await?;
    }
    let fence = Some(taken.fence);
    let writers = writers(setup, &target, &fence, flows as u32, Some(&lsns)).await?;
    let context = Context {
        task: task.clone(),
        longest_word: profile.longest_word(),
        features: profile.features,
        known: profile.known,
        status: before.status.clone(),
        barrier: Barrier::new(flows as u32),
        ghosts: before.ghosts.clone(),
        ownership,
        master_id: before.master_id.clone(),
        fence,
        control: tokio::sync::Mutex::new(control),
        losses: Losses::default(),
        asks: before.asks.clone(),
        expiring: before.expiring.clone(),
        is_unreconciled: (taken.reconcile != Reconcile::Nothing).into(),
        omits_deletions: before.omits_deletions,
        reads_end_keys: before.reads_end_keys,
        moves: before.moves.clone(),
        flushed_whole: true.into(),
        copied: watch::Sender::new(0),
        spoilt: watch::Sender::new(None),
    };
    fail_point::pass(Place::TargetReopened);
    Ok(Some(Reopened {
        context: Arc::new(context),
        writers,
        lsns,
        withheld: taken.withheld,
        members: taken.members,
        reconcile: taken.reconcile,
    }))
}
