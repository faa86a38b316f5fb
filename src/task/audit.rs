//! The audit: source and target are compared in the background, again and again, and what differs is set right.
//!
//! The source's own journal does not tell of everything that happens there, and others may write to the target. What
//! then differs no entry shows. So all keys are walked over at a bounded rate by [`mod@check`], which proves
//! a difference by positions. A key that differs is handed to the flow that owns it, which reads it again between two
//! positions and writes what it found where that is exact (see [`reread`](super::reread)): what is repaired takes part
//! in the order of entries, whatever is written meanwhile, and none is repeated or left out.
//!
//! Keys that only the target has are deleted at the end of the pass, by the same way, and only if they are not more than
//! `policy.max_delete` of the task's: a source that has lost its data without a trace must not empty the target.
//!
//! Which flow owns a key is what [`Ghosts`](super::ghosts::Ghosts) have seen; as long as they are not certain the key is
//! counted, and stays as it is.
//!
//! Where a full sync had more keys to read again than a flow can withhold, the rest may differ by what is known already.
//! Then the next pass does not go at its leisure, and what it leaves no doubt about is no longer counted as unverified.
//!
//! Replication comes first: the walk stands still while the task does not follow writes, while the target is behind,
//! while many keys are withheld, and until keys that the source deleted before a full sync are removed.
//!
//! Invariants: nothing is written here, only handed to flows; an error ends the pass, never the session; what a pass
//!   keeps in memory is bounded, whatever it finds.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slog::{Logger, debug, info, warn};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::error::chain;
use super::millis;
use super::report::AuditPass;
use super::reporter::Reporter;
use super::reread::{Flows, Place};
use super::settings;
use super::status::Phase;
use crate::check::{self, CheckError, Class, Difference, Outcome, Progress, check};
use crate::config::{Positions, Task};
use crate::entry::unix_ms;
use crate::logging::fields;
use crate::process::Stop;
use crate::target::{Conflict, TargetError};

/// Between two passes: a small keyspace is not walked over all the time.
const PAUSE: Duration = Duration::from_secs(5);

/// After a pass that could not be finished; doubles each time.
const AGAIN: Duration = Duration::from_secs(1);
/// Up to this.
const AGAIN_AT_MOST: Duration = Duration::from_secs(300);

/// How often is looked whether the walk may go on.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The target is behind if the oldest entry that it lacks is older than this.
const BEHIND_MS: u64 = 1_000;

/// While more keys are withheld the walk stands still: they are read one after the other.
const WITHHELD: u64 = 1_000;

/// Keys in a second, at least, where some are known to be unverified: what `check` has a source bear all the time.
const HURRIED: u32 = 20_000;

/// Keys repaired together.
const AT_ONCE: usize = 64;

/// Keys that a pass names in the log.
const NAMED: usize = 1_000;

/// Bytes of the names of keys that only the target has. What does not fit is found by the next pass.
const EXTRA: usize = 1 << 20;

/// Whether the task is audited: without positions nothing can be proved.
pub(super) fn is_on(task: &Task) -> bool {
    task.audit.keys_per_second > 0 && task.target.positions == Positions::Transaction
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// What the audit needs.
pub(super) struct Auditing {
    pub(super) context: Arc<Context>,
    pub(super) reporter: Reporter,
    pub(super) log: Logger,
    pub(super) flows: Flows,
}

/// What a pass has found so far.
#[derive(Debug, Default)]
struct Findings {
    found: Counts,
    repaired: Counts,
    /// Keys that only the target has, to be deleted at the end.
    extra: Vec<(u32, Place)>,
    extra_bytes: usize,
    /// Keys that were there before the task, and that the source never had.
    foreign: u64,
    left: Left,
    /// What the pass before has left.
    before: Left,
    /// Keys that the log names.
    named: u64,
}

/// What a pass leaves as it is: the next does not tell of it again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Some of them, by hash.
    keys: HashSet<u64>,
    /// Keys that only the target has, of which there are too many to be deleted unasked.
    extra: u64,
    /// Keys that cannot be repaired, since nobody knows which flow is theirs.
    homeless: u64,
}

impl Left {
    fn add(&mut self, place: &Place) {
        if self.keys.len() < NAMED {
            self.keys.insert(hash(place.db, &place.key));
        }
    }
}

fn hash(db: u32, key: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(key, u64::from(db))
}

/// Keys by the name of their most telling class.
#[derive(Debug, Default)]
struct Counts(BTreeMap<Class, u64>);

impl Counts {
    fn add(&mut self, class: Class, keys: u64) {
        if keys > 0 {
            *self.0.entry(class).or_default() += keys;
        }
    }

    fn of(&self, class: Class) -> u64 {
        self.0.get(&class).copied().unwrap_or_default()
    }

    fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    fn named(&self) -> BTreeMap<String, u64> {
        let counts = self.0.iter();
        counts
            .map(|(class, keys)| (class.name().to_owned(), *keys))
            .collect()
    }
}

impl Auditing {
    /// Compares for ever.
    pub(super) async fn run(self) {
        let (may_go, going) = watch::channel(false);
        tokio::select! {
            () = self.look_out(&may_go) => {}
            () = self.pass_after_pass(going) => {}
        }
    }

    /// Lets the walk go and stand still.
    async fn look_out(&self, may_go: &watch::Sender<bool>) {
        loop {
            let hindrance = self.hindrance();
            self.reporter
                .audit(|audit| audit.waits = hindrance.map(str::to_owned));
            may_go.send_if_modified(|may_go| {
                std::mem::replace(may_go, hindrance.is_none()) != *may_go
            });
            sleep(LOOK_EVERY).await;
        }
    }

    /// Why the walk must not go on now.
    fn hindrance(&self) -> Option<&'static str> {
        let context = &self.context;
        if self.reporter.phase() != Phase::Stable {
            return Some("the task does not follow writes");
        }
        if context.is_unreconciled.load(Ordering::Relaxed) {
            return Some(
                "keys that the source deleted before the full sync are still to be removed",
            );
        }
        let flows = context.status.flows.iter();
        let withheld = flows.map(|flow| flow.withheld.load(Ordering::Relaxed));
        if withheld.sum::<u64>() > WITHHELD {
            return Some("many keys are to be read again");
        }
        match self.reporter.lag() {
            Some(lag) if lag.ms <= BEHIND_MS => None,
            Some(_) => Some("the target is behind"),
            None => Some("how far the target is behind is not known yet"),
        }
    }

    async fn pass_after_pass(&self, mut going: watch::Receiver<bool>) {
        let mut again = AGAIN;
        let mut left = Left::default();
        let unverified = &self.context.status.unverified;
        let mut hurried = 0;
        loop {
            // Whoever says so lives as long as this.
            let _ = going.wait_for(|going| *going).await;
            let began = Instant::now();
            let doubts = unverified.load(Ordering::Relaxed);
            // A pass that has not cleared them up has done so for all that can be.
            let rate = match doubts > hurried {
                true => self.rate().max(HURRIED),
                false => self.rate(),
            };
            let mut findings = Findings {
                before: std::mem::take(&mut left),
                ..Findings::default()
            };
            match self.pass(rate, &going, &mut findings).await {
                Ok(outcome) => {
                    again = AGAIN;
                    self.passed(&outcome, &findings, began.elapsed());
                    hurried = doubts;
                    if findings.has_settled_all(&outcome) {
                        unverified.fetch_sub(doubts, Ordering::Relaxed);
                        hurried = 0;
                    }
                    left = findings.left;
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    let error = chain(&error);
                    warn!(self.log, "the audit did not come to its end, it begins anew"; fields::ERROR => &error,
                        fields::KEYS => findings.found.sum(), fields::WAIT_MS => millis(again));
                    self.reporter.pass_ended(Err(error));
                    left = findings.before;
                    sleep(again).await;
                    again = (again * 2).min(AGAIN_AT_MOST);
                }
            }
        }
    }

    fn rate(&self) -> u32 {
        self.context.task.audit.keys_per_second
    }

    /// Looks at every key once, at so many in a second.
    async fn pass(
        &self,
        rate: u32,
        going: &watch::Receiver<bool>,
        findings: &mut Findings,
    ) -> Result<Outcome, PassError> {
        let (differences, mut found) = mpsc::channel(AT_ONCE);
        let progress = Arc::new(Progress::default());
        self.reporter.pass_begins(progress.clone());
        let settings = self.settings(rate, going, differences);
        let (_runs, stop) = watch::channel(Stop::Run);
        let comparing = async move {
            // With the settings goes the last of those who tell of differences.
            let outcome = Box::pin(check(&settings, &progress, stop)).await?;
            Ok::<_, PassError>(outcome)
        };
        let repairing = async {
            let mut differences = Vec::with_capacity(AT_ONCE);
            while found.recv_many(&mut differences, AT_ONCE).await > 0 {
                self.take(std::mem::take(&mut differences), findings)
                    .await?;
            }
            Ok(())
        };
        let (outcome, ()) = tokio::try_join!(comparing, repairing)?;
        self.delete(&outcome, findings).await;
        Ok(outcome)
    }

    fn settings(
        &self,
        keys_per_second: u32,
        going: &watch::Receiver<bool>,
        differences: mpsc::Sender<Difference>,
    ) -> check::Settings {
        let context = &self.context;
        let mut settings = settings::comparison(&context.task);
        if let Some(lists) = &mut settings.lists {
            // What was decided at the first start counts.
            lists.keeps_foreign = context.ownership.conflict() == Conflict::Skip;
        }
        settings.differences = Some(differences);
        settings.audit = Some(check::Audit {
            keys_per_second,
            may_go: going.clone(),
        });
        settings
    }

    /// Has keys repaired that differ, and puts those aside that are to be deleted.
    async fn take(
        &self,
        differences: Vec<Difference>,
        findings: &mut Findings,
    ) -> Result<(), PassError> {
        let keys: Vec<_> = differences
            .iter()
            .map(|difference| (difference.target_db, difference.key.as_slice()))
            .collect();
        let foreign = self.context.foreign(&keys).await?;
        let context = &self.context;
        let mut places: Vec<(Class, (u32, Place))> = Vec::new();
        for (difference, foreign) in differences.into_iter().zip(foreign) {
            let class = difference.classes.iter().find(|class| !class.is_expected());
            let Some(class) = class.copied() else {
                continue;
            };
            if foreign && class == Class::Extra {
                findings.foreign += 1;
                continue;
            }
            self.name(&difference, class, findings);
            let place = Place {
                db: difference.db,
                key: difference.key.into(),
            };
            let flows = context.status.flows.len() as u32;
            let Some(flow) = context.ghosts.owner(&place.key, flows) else {
                findings.left.homeless += 1;
                findings.left.add(&place);
                continue;
            };
            match class {
                Class::Extra => findings.put_aside(flow, place),
                _ => places.push((class, (flow, place))),
            }
        }
        let classes: Vec<Class> = places.iter().map(|(class, _)| *class).collect();
        let places = places.into_iter().map(|(_, place)| place).collect();
        self.flows.settle(places).await;
        for class in classes {
            self.repaired(class, 1, findings);
        }
        Ok(())
    }

    /// Counts a key that differs, and says so.
    fn name(&self, difference: &Difference, class: Class, findings: &mut Findings) {
        findings.found.add(class, 1);
        let name = class.name().to_owned();
        self.reporter
            .audit(|audit| *audit.found.entry(name).or_default() += 1);
        let key = hash(difference.db, &difference.key);
        if findings.before.keys.contains(&key) {
            return;
        }
        findings.named += 1;
        let most = NAMED as u64;
        match findings.named {
            named if named <= most => {
                let classes = difference.classes.iter();
                let names: Vec<_> = classes
                    .filter(|class| !class.is_expected())
                    .map(|class| class.name())
                    .collect();
                let key = difference.key.get(..LONGEST).unwrap_or(&difference.key);
                warn!(self.log, "the audit found a key that differs"; fields::DB => difference.db,
                    fields::KEY => key.escape_ascii().to_string(), fields::CLASS => names.join(", "));
            }
            named if named == most + 1 => {
                warn!(self.log, "the audit finds more keys that differ, and names no others in this pass";
                    fields::LIMIT => most);
            }
            _ => {}
        }
    }

    fn repaired(&self, class: Class, keys: u64, findings: &mut Findings) {
        findings.repaired.add(class, keys);
        let name = class.name().to_owned();
        if keys > 0 {
            self.reporter
                .audit(|audit| *audit.repaired.entry(name).or_default() += keys);
        }
    }

    /// At the end: deletes what only the target has, if that is little enough.
    async fn delete(&self, outcome: &Outcome, findings: &mut Findings) {
        let extra = std::mem::take(&mut findings.extra);
        let (gone, owned) = (findings.found.of(Class::Extra), findings.keys(outcome));
        if extra.is_empty() {
            return;
        }
        let most = self.context.task.policy.max_delete;
        if !most.allows(gone, owned) {
            findings.left.extra = gone;
            extra.iter().for_each(|(_, place)| findings.left.add(place));
            if findings.before.extra == gone {
                return;
            }
            warn!(self.log, "only the target has more keys than policy.max_delete, the audit deletes none";
                fields::KEYS => gone, fields::OF => owned, fields::LIMIT => most.to_string(),
                fields::HINT => "check that the source has its data; to have them deleted, raise policy.max_delete");
            return;
        }
        let keys = extra.len() as u64;
        self.flows.settle(extra).await;
        self.repaired(Class::Extra, keys, findings);
    }

    /// A pass has come to its end.
    fn passed(&self, outcome: &Outcome, findings: &Findings, took: Duration) {
        let pass = AuditPass {
            ended_ms: unix_ms(),
            took_ms: millis(took),
            keys: findings.keys(outcome),
            unsettled: outcome.tally.open(),
            found: findings.found.named(),
            repaired: findings.repaired.named(),
        };
        let (different, repaired) = (findings.found.sum(), findings.repaired.sum());
        let (keys, took_ms, unsettled) = (pass.keys, pass.took_ms, pass.unsettled);
        match findings.named + repaired {
            0 => debug!(self.log, "the audit found nothing new"; fields::KEYS => keys,
                fields::DIFFERENT => different, fields::UNSETTLED => unsettled, fields::TOOK_MS => took_ms),
            _ => info!(self.log, "the audit has looked at all keys"; fields::KEYS => keys,
                fields::DIFFERENT => different, fields::REPAIRED => repaired,
                fields::UNSETTLED => unsettled, fields::TOOK_MS => took_ms),
        }
        let homeless = findings.left.homeless;
        if homeless > 0 && homeless != findings.before.homeless {
            warn!(self.log, "the audit leaves keys as they are: which flow owns them is not certain, or not yet";
                fields::KEYS => homeless);
        }
        self.reporter.pass_ended(Ok(pass));
    }
}

/// Bytes of a key that are worth showing.
const LONGEST: usize = 200;

impl Findings {
    /// How many keys of the task a pass has seen.
    fn keys(&self, outcome: &Outcome) -> u64 {
        outcome.tally.keys().saturating_sub(self.foreign)
    }

    /// Whether nothing is left of which it is not known whether it differs, or that differs.
    fn has_settled_all(&self, outcome: &Outcome) -> bool {
        outcome.tally.open() == 0 && self.left == Left::default() && self.extra_bytes <= EXTRA
    }

    fn put_aside(&mut self, flow: u32, place: Place) {
        self.extra_bytes += place.key.len() + size_of::<(u32, Place)>();
        if self.extra_bytes <= EXTRA {
            self.extra.push((flow, place));
        }
    }
}
