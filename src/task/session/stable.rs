//! The way into stable sync: from the last flow's snapshot, or from where a session resumed, to following writes with
//! all that is done besides.

use slog::{info, warn};
use tokio::task::spawn_blocking;

use crate::entry::unix_ms;
use crate::fail_point::{self, Place};
use crate::logging::fields;
use crate::task::audit::{self, Auditing};
use crate::task::error::chain;
use crate::task::millis;
use crate::task::repair::Repairing;
use crate::task::sizing::{Ended, LastFullSync};
use crate::task::status::Phase;

use super::{Part, Recording, Running};

impl Running<'_> {
    /// STARTSTABLE, once the last flow's snapshot has ended; flows are read meanwhile.
    pub(super) fn start_stable_if_all_ended(&mut self) {
        if self.tokens.len() < self.meters.len() {
            return;
        }
        self.full_sync_ended(Ended::Read);
        if let Some(syncing) = self.syncing.take() {
            let tokens = std::mem::take(&mut self.tokens);
            self.parts.spawn(async move {
                Ok(Part::Stable(Box::new(syncing.start_stable(tokens).await?)))
            });
        }
    }

    /// Takes down what the full sync has shown of both ends' rates.
    pub(super) fn full_sync_ended(&mut self, ended: Ended) {
        if let Some(conditions) = self.conditions.take() {
            let (totals, took) = (self.context.status.totals(), self.started.elapsed());
            let (received, applied) = (totals.received, totals.bytes);
            let last = LastFullSync::new(conditions, ended, received, applied, took);
            self.full_sync = Some(last);
        }
    }

    /// Keeps that for the next full sync, whichever process asks for it.
    pub(super) async fn remember_full_sync(&mut self) {
        let Some(last) = self.full_sync.take() else {
            return;
        };
        let file = LastFullSync::path(&self.setup.task);
        let saving = spawn_blocking(move || last.save(&file));
        let saved = saving
            .await
            .unwrap_or_else(|lost| Err(std::io::Error::other(lost)));
        if let Err(error) = saved {
            warn!(self.setup.log, "cannot remember how the full sync went"; fields::ERROR => chain(&error));
        }
    }

    /// Whether some of the full sync is still to come.
    pub(super) fn is_copying(&self) -> bool {
        self.setup.reporter.phase() == Phase::Snapshot && self.recording == Recording::NotDue
    }

    /// Every flow's snapshot is in the target, and its position too: has that recorded. The target may be lost at this
    /// very moment, which is no reason to copy everything again.
    pub(super) fn record_stable(&mut self) {
        self.recording = Recording::UnderWay;
        let (context, flows) = (self.context.clone(), self.meters.len() as u32);
        self.appliers.spawn(async move {
            fail_point::pass(Place::StableRecord);
            if let Some(fence) = &context.fence {
                let mut control = context.control.lock().await;
                let id = &context.master_id;
                let recording = fence.begin_stable(&mut control, id, flows, unix_ms());
                recording.await?;
            }
            fail_point::pass(Place::StableRecorded);
            Ok(Part::Recorded)
        });
    }

    /// That is recorded.
    pub(super) async fn enter_stable(&mut self) {
        self.remember_full_sync().await;
        self.setup.reporter.enter(Phase::Stable);
        let totals = self.context.status.totals();
        info!(self.setup.log, "snapshot finished, following writes";
            fields::KEYS => totals.keys, fields::BYTES => totals.bytes,
            fields::TOOK_MS => millis(self.started.elapsed()),
            fields::GHOSTS => self.context.ghosts.dropped(),
            fields::NOT_OWNED => self.context.ghosts.kept());
        self.reconcile();
        self.audit();
    }

    pub(super) fn enter_resumed(&mut self) {
        self.setup.reporter.enter(Phase::Stable);
        info!(self.setup.log, "resumed, following writes";
            fields::TOOK_MS => millis(self.started.elapsed()));
        fail_point::pass(Place::Resumed);
        self.reconcile();
        self.audit();
    }

    /// Begins to look for keys that the source no longer has, if that is due.
    pub(super) fn reconcile(&mut self) {
        let Some(reconciling) = self.reconciling.take() else {
            return;
        };
        if self.context.ghosts.are_refuted() {
            warn!(self.setup.log, "keys that the source deleted before this full sync stay on the target: which flow \
                owns a key cannot be told here";
                fields::HINT => "set policy.resync to \"flush\" and start a full sync with df2redis forget");
            return;
        }
        self.appliers.spawn(async move {
            Box::pin(reconciling.run()).await?;
            Ok(Part::Reconciled)
        });
    }

    /// Begins to compare in the background, if that is wanted, and to repair what others find.
    pub(super) fn audit(&mut self) {
        let repairing = Repairing {
            context: self.context.clone(),
            reporter: self.setup.reporter.clone(),
            log: self.setup.log.clone(),
            flows: self.suspects.clone(),
        };
        self.appliers.spawn(async move {
            Box::pin(repairing.run()).await;
            Ok(Part::Watch)
        });
        if !audit::is_on(&self.setup.task) {
            return;
        }
        let auditing = Auditing {
            context: self.context.clone(),
            reporter: self.setup.reporter.clone(),
            log: self.setup.log.clone(),
            flows: self.suspects.clone(),
        };
        self.appliers.spawn(async move {
            Box::pin(auditing.run()).await;
            Ok(Part::Watch)
        });
    }
}
