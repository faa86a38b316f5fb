//! What all flows of one session share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use slog::{Logger, info, warn};
use tokio::sync::{mpsc, watch};

use crate::commands::{self, Features, Global, Kind, Known, Note, Reason, Unsupported};
use crate::config::{Conflict, CrossSlot, MemberExpiry, Policy, Reaction, Task};
use crate::fail_point::{self, Place};
use crate::logging::fields;
use crate::target::{Control, Fence, Ownership, Reconcile, TargetError, form};

use super::barrier::Barrier;
use super::error::TaskError;
use super::ghosts::Ghosts;
use super::reread::{Ask, Expiring, Moves};
use super::settings;
use super::status::Status;

/// One session's shared state.
pub(super) struct Context {
    pub(super) task: Arc<Task>,
    pub(super) features: Features,
    /// The target's writing commands.
    pub(super) known: Known,
    /// Most bytes of one word that the target takes.
    pub(super) longest_word: u64,
    pub(super) status: Arc<Status>,
    pub(super) barrier: Barrier,
    pub(super) ghosts: Arc<Ghosts>,
    pub(super) ownership: Ownership,
    /// The master's replication id, which its positions belong to.
    pub(super) master_id: String,
    /// The right to write; none with `positions = "none"`.
    pub(super) fence: Option<Fence>,
    /// For what is neither a flow's nor frequent: flushes, questions about foreign keys.
    pub(super) control: tokio::sync::Mutex<Control>,
    pub(super) losses: Losses,
    /// Where flows ask for keys to be read again. Holds a question of each.
    pub(super) asks: mpsc::Sender<Ask>,
    /// By flow, the keys that may expire on the target: those that got an end since this session's full sync. Empty
    /// where there was none, so that nothing is known.
    pub(super) expiring: Vec<Expiring>,
    /// The target may have keys of the task that are older than the last full sync: until they are reconciled.
    pub(super) is_unreconciled: AtomicBool,
    /// The source may leave deletions out of the journal during a snapshot.
    pub(super) omits_deletions: bool,
    /// The source journals mere reads as ends of keys: see `reread::defects`.
    pub(super) reads_end_keys: bool,
    /// What was taken from lists and put into lists.
    pub(super) moves: Arc<Moves>,
    /// The last global command was about all that it names; in a cluster, a part may have passed it before.
    pub(super) flushed_whole: AtomicBool,
    /// Flows whose snapshot is in the target, whole.
    pub(super) copied: watch::Sender<u32>,
    /// The global command, and its database, that arrived before some flow's snapshot had ended.
    pub(super) spoilt: watch::Sender<Option<(Global, u32)>>,
}

/// What could not be copied and was left out by policy is told once per kind; the status counts it.
#[derive(Debug, Default)]
pub(super) struct Losses {
    told: Mutex<HashSet<&'static str>>,
}

impl Losses {
    fn first(&self, what: &'static str) -> bool {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(what)
    }
}

impl Context {
    /// Which of these keys of the target were there before the task.
    pub(super) async fn foreign(&self, keys: &[(u32, &[u8])]) -> Result<Vec<bool>, TargetError> {
        if self.ownership.foreign_count() == 0 {
            return Ok(vec![false; keys.len()]);
        }
        let mut control = self.control.lock().await;
        self.ownership.foreign(&mut control, keys).await
    }

    /// Applies `on_unsupported` to something of source database `db`: an error, or counted and left
    /// out.
    pub(super) fn unsupported(
        &self,
        log: &Logger,
        db: u32,
        what: &str,
        unsupported: &Unsupported,
    ) -> Result<(), TaskError> {
        if reaction(&self.task.policy, unsupported.kind) == Reaction::Stop {
            return Err(TaskError::Unsupported {
                what: what.to_owned(),
                db,
                reason: unsupported.to_string(),
            });
        }
        self.status.count_unsupported(unsupported.kind);
        if self.losses.first(unsupported.kind.as_str()) {
            warn!(log, "left out, and counted from now on";
                fields::KIND => unsupported.kind.as_str(), fields::DB => db,
                fields::WHAT => what.to_owned(), fields::REASON => unsupported.to_string());
        }
        Ok(())
    }

    /// Whether a command that the table does not know goes to the target as it came: that has one of this name, and
    /// nothing depends on which of its words are keys.
    pub(super) fn passes_on(&self, name: &[u8], unsupported: &Unsupported) -> bool {
        unsupported.reason == Reason::Unknown
            // Which of its words is a key decides where it goes.
            && self.task.target.cluster.is_none()
            && self.known.has(name)
            && self.task.filter.allows_everything()
            && self.task.policy.conflict == Conflict::Overwrite
    }

    /// Counts what was copied with less than it had.
    pub(super) fn note(&self, log: &Logger, db: u32, what: &str, note: Note) {
        let name = match note {
            Note::MemberExpiryDropped => "expiry of single members was dropped",
            Note::StreamIdChosen => "the target chose a stream entry's id",
            Note::PassedOn => "a command that df2redis does not know was passed on as it came",
            // Nothing is lost: see `reread::expiring`.
            Note::MemberExpiryDue(_) => return,
        };
        self.status.reduced.fetch_add(1, Ordering::Relaxed);
        if self.losses.first(name) {
            warn!(log, "copied with less than the source has, and counted from now on";
                fields::REASON => name, fields::DB => db, fields::WHAT => what.to_owned());
        }
    }

    /// What the form of a value depends on, for one received at `now_ms`.
    pub(super) fn form_settings(&self, now_ms: i64) -> form::Settings<'_> {
        form::Settings {
            features: &self.features,
            on_member_expiry: member_expiry(self.task.policy.on_member_expiry),
            task: &self.task.name,
            of_cluster: self.task.target.cluster.is_some(),
            now_ms,
            limits: form::Limits {
                word: self.longest_word,
                ..form::Limits::default()
            },
            spill_dir: &self.task.state_dir,
        }
    }

    /// By how much longer keys live on the target, in milliseconds.
    pub(super) fn grace_ms(&self) -> i64 {
        i64::try_from(self.task.policy.expiry_grace.as_millis()).unwrap_or(i64::MAX)
    }

    /// The database of the source that goes to this one of the target.
    pub(super) fn source_db(&self, target: u32) -> Option<u32> {
        let task = &self.task;
        let mapped = task.target.db_map.iter().find(|(_, to)| **to == target);
        let source = mapped.map_or(target, |(from, _)| *from);
        (task.target.db(source) == target && task.filter.allows_db(source)).then_some(source)
    }

    /// How long keys of the target live yet; see [`Control::ttls`].
    pub(super) async fn ttls<'a>(
        &self,
        keys: impl Iterator<Item = (u32, &'a [u8])>,
    ) -> Result<Vec<i64>, TaskError> {
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut control = self.control.lock().await;
        Ok(control.ttls(&keys).await?)
    }

    /// Keys that the source does not have are gone from the target.
    pub(super) async fn reconciled(&self) -> Result<(), TaskError> {
        self.set_reconcile(Reconcile::Nothing).await?;
        self.is_unreconciled.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Removing them was approved, however many they are.
    pub(super) async fn approved(&self) -> Result<(), TaskError> {
        self.set_reconcile(Reconcile::Approved).await
    }

    async fn set_reconcile(&self, reconcile: Reconcile) -> Result<(), TaskError> {
        if let Some(fence) = &self.fence {
            let mut control = self.control.lock().await;
            fence.set_reconcile(&mut control, reconcile).await?;
        }
        Ok(())
    }

    /// Keeps the control connection in use, or makes a new one: targets close idle clients.
    pub(super) async fn keep_alive(&self) {
        // Somebody uses it now: then it is not idle.
        let Ok(mut control) = self.control.try_lock() else {
            return;
        };
        if control.ping().await.is_err()
            && let Ok(connected) = Control::connect(&settings::target(&self.task)).await
        {
            *control = connected;
        }
    }

    /// Runs a global command on what the task owns, and moves flows to the positions behind it, if there are any.
    /// All flows stand still meanwhile.
    pub(super) async fn flush(
        &self,
        global: &Global,
        db: u32,
        positions: &[(u32, u64)],
        log: &Logger,
    ) -> Result<(), TaskError> {
        fail_point::pass(Place::FlushBegin);
        let mut control = self.control.lock().await;
        let fence = self.fence.as_ref();
        let passed = fence.map(|fence| fence.passed(positions));
        let passed = passed.unwrap_or_default();
        self.flushed_whole
            .store(passed.is_empty(), Ordering::Relaxed);
        let concerns = !matches!(global, Global::FlushDb) || self.task.filter.allows_db(db);
        match global {
            _ if !concerns => {}
            Global::FlushAll => {
                let flushing = self.ownership.flush(&mut control, fence, None, &passed);
                flushing.await?;
            }
            Global::FlushDb => {
                let db = Some(self.task.target.db(db));
                let flushing = self.ownership.flush(&mut control, fence, db, &passed);
                flushing.await?;
            }
            Global::FlushSlots(ranges) => {
                let ranges: Vec<_> = ranges.iter().map(|(first, last)| *first..=*last).collect();
                let flushing = self
                    .ownership
                    .flush_slots(&mut control, fence, &ranges, &passed);
                flushing.await?;
            }
        }
        fail_point::pass(Place::FlushApplied);
        if let Some(fence) = fence {
            fence.move_all(&mut control, positions).await?;
        }
        fail_point::pass(Place::FlushPassed);
        if !concerns {
            return Ok(());
        }
        info!(log, "source was flushed, so are the keys this task owns";
            fields::DB => db, fields::COMMAND => format!("{global:?}"));
        Ok(())
    }
}

/// The policy, in the words of the room that applies it.
pub(super) fn member_expiry(policy: MemberExpiry) -> commands::MemberExpiry {
    match policy {
        MemberExpiry::Emulate => commands::MemberExpiry::Emulate,
        MemberExpiry::Drop => commands::MemberExpiry::Drop,
        MemberExpiry::Stop => commands::MemberExpiry::Stop,
    }
}

/// What the policy says of this kind.
pub(super) fn reaction(policy: &Policy, kind: Kind) -> Reaction {
    let (across, policy) = (policy.on_cross_slot, &policy.on_unsupported);
    match kind {
        Kind::CrossSlot => match across {
            CrossSlot::Skip => Reaction::Skip,
            CrossSlot::Fetch | CrossSlot::Stop => Reaction::Stop,
        },
        Kind::Json => policy.json,
        Kind::Bloom => policy.bloom,
        Kind::Cms => policy.cms,
        Kind::Topk => policy.topk,
        Kind::Cuckoo => policy.cuckoo,
        Kind::Search => policy.search,
        Kind::Value => policy.value,
        Kind::Lost => policy.lost,
        // A target without expiry of members is asked for it only where the policy is to stop.
        Kind::MemberExpiry | Kind::Command => policy.command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnUnsupported;

    #[test]
    fn each_kind_follows_its_own_policy() {
        let kinds = [
            Kind::Json,
            Kind::Bloom,
            Kind::Cms,
            Kind::Topk,
            Kind::Cuckoo,
            Kind::Search,
            Kind::Command,
            Kind::Value,
            Kind::Lost,
            Kind::CrossSlot,
        ];
        let task = super::super::preflight::task_with("");
        for skipped in kinds {
            let of = |kind: Kind| match kind == skipped {
                true => Reaction::Skip,
                false => Reaction::Stop,
            };
            let on_unsupported = OnUnsupported {
                json: of(Kind::Json),
                bloom: of(Kind::Bloom),
                cms: of(Kind::Cms),
                topk: of(Kind::Topk),
                cuckoo: of(Kind::Cuckoo),
                search: of(Kind::Search),
                command: of(Kind::Command),
                value: of(Kind::Value),
                lost: of(Kind::Lost),
            };
            let policy = Policy {
                on_unsupported,
                on_cross_slot: match of(Kind::CrossSlot) {
                    Reaction::Skip => CrossSlot::Skip,
                    Reaction::Stop => CrossSlot::Stop,
                },
                ..Policy::clone(&task.policy)
            };
            for kind in kinds {
                assert_eq!(reaction(&policy, kind), of(kind), "{kind:?}");
            }
        }
    }
}
