//! What a task tells of itself, gathered over all its sessions: the one source of reports.
//!
//! The task writes, through `pub(super)` methods; whoever holds a clone reads. Counters are read where they are
//! counted, so a report is never older than the moment it is asked for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slog::{Logger, info};
use tokio::sync::{Notify, watch};

use crate::check::Progress;
use crate::config::Task;
use crate::entry::unix_ms;
use crate::logging::fields;

use super::audit::is_on as audits;
use super::error::{TaskError, chain};
use super::progress::resident_bytes;
use super::repair::Desk;
use super::report::{
    Approval, Audit, AuditPass, Flow, Lag, LastError, PerSecond, Report, Server, SpoolReport,
};
use super::status::{FlowStatus, Phase, Status};

/// How far a task has come, for whoever waits for that. Falls back when a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has its lock and its log.
    Started,
    /// It has reached its source and its target.
    Connected,
    /// It follows its source's writes.
    Stable,
}

/// A task's reports, as long as the process lives. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What never changes; everything else in it is filled in for each report.
    fixed: Report,
    state_dir: PathBuf,
    stage: watch::Sender<Stage>,
    phase: watch::Sender<Phase>,
    refresh: Notify,
    approved: Arc<Notify>,
    desk: Desk,
    saving: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    phase_since_ms: i64,
    sessions: u64,
    restarts: u64,
    source: Option<String>,
    target: Option<String>,
    session: Option<Arc<Status>>,
    began: Option<String>,
    approval: Option<Approval>,
    rates: PerSecond,
    lag: Option<Lag>,
    spool: Option<SpoolReport>,
    /// None if it is off.
    audit: Option<Audit>,
    /// How far the present pass is.
    pass: Option<Arc<Progress>>,
    last_error: Option<LastError>,
}

impl Reporter {
    /// For a task that is about to be run by this process and logs to `log_file`.
    pub fn new(task: &Task, log_file: PathBuf) -> Self {
        let now = unix_ms();
        let server = |address: &dyn ToString| Server {
            address: address.to_string(),
            server: None,
        };
        let fixed = Report {
            task: task.name.clone(),
            file: task.file.clone(),
            log_file,
            pid: std::process::id(),
            started_ms: now,
            source: server(&task.source.address),
            target: server(&task.target.address),
            ..Report::default()
        };
        Self(Arc::new(Inner {
            fixed,
            state_dir: task.state_dir.clone(),
            stage: watch::Sender::new(Stage::Started),
            phase: watch::Sender::new(Phase::Connecting),
            refresh: Notify::new(),
            approved: Arc::default(),
            desk: Desk::default(),
            saving: Mutex::default(),
            state: Mutex::new(State {
                phase_since_ms: now,
                audit: audits(task).then(|| Audit {
                    last: last_pass(task),
                    ..Audit::default()
                }),
                ..State::default()
            }),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where keys to be repaired are brought.
    pub(super) fn desk(&self) -> &Desk {
        &self.0.desk
    }

    /// The task's name.
    pub fn task(&self) -> &str {
        &self.0.fixed.task
    }

    /// How far the task has come, now and whenever that changes.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.0.stage.subscribe()
    }

    /// Asks the source for its positions at once. [`Report::offsets_read`] rises by one for each answer; an answer that
    /// was on its way already may come first.
    pub fn refresh(&self) {
        self.0.refresh.notify_one();
    }

    /// Approves what waits for it. Whether something did.
    pub fn approve(&self) -> bool {
        let waits = self.state().approval.is_some();
        if waits {
            self.0.approved.notify_waiters();
        }
        waits
    }

    /// Everything, as it is now.
    pub fn report(&self) -> Report {
        let state = self.state();
        let mut report = Report {
            at_ms: unix_ms(),
            phase: self.phase(),
            phase_since_ms: state.phase_since_ms,
            sessions: state.sessions,
            restarts: state.restarts,
            rates: state.rates,
            lag: state.lag,
            spool: state.spool,
            last_error: state.last_error.clone(),
            began: state.began.clone(),
            approval: state.approval,
            audit: state.audit.clone(),
            memory_bytes: resident_bytes(),
            ..self.0.fixed.clone()
        };
        report.source.server.clone_from(&state.source);
        report.target.server.clone_from(&state.target);
        if let Some(session) = &state.session {
            count(&mut report, session);
        }
        if let (Some(audit), Some(pass)) = (&mut report.audit, &state.pass) {
            audit.pass_keys = pass.done.load(Ordering::Relaxed);
            audit.pass_of = pass.total.load(Ordering::Relaxed);
        }
        report
    }

    /// Saves a report for when the process is gone. Blocks for a small file.
    pub fn save(&self) -> std::io::Result<()> {
        // One after the other, each with what is known then: an older one never replaces a newer one.
        let _saving = self.0.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.report().save(&self.0.state_dir)
    }

    /// Writes a full report to the log: a line for the task, and one for each flow.
    pub fn log_report(&self, log: &Logger) {
        let report = self.report();
        let error = report.last_error.as_ref();
        info!(log, "status"; fields::TASK => &report.task, fields::PHASE => report.phase.name(),
            fields::SINCE_MS => report.at_ms - report.phase_since_ms,
            fields::SESSIONS => report.sessions, fields::RESTARTS => report.restarts,
            fields::SOURCE => report.source.to_string(), fields::TARGET => report.target.to_string(),
            fields::KEYS => report.keys, fields::BYTES => report.bytes, fields::ENTRIES => report.applied,
            fields::KEYS_PER_S => report.rates.keys.round() as u64,
            fields::ENTRIES_PER_S => report.rates.entries.round() as u64,
            fields::LAG_ENTRIES => report.lag.map(|lag| lag.entries),
            fields::LAG_MS => report.lag.map(|lag| lag.ms),
            fields::SPOOL_BYTES => report.spool.map(|spool| spool.bytes),
            fields::OLDEST_MS => report.spool.and_then(|spool| spool.oldest_ms),
            fields::EMPTY_IN_MS => report.spool.and_then(|spool| spool.empty_in_ms),
            fields::RING_WINDOW_MS => report.spool.and_then(|spool| spool.ring_window_ms),
            fields::SPOOL_WINDOW_MS => report.spool.and_then(|spool| spool.spool_window_ms),
            fields::SKIPPED => report.skipped, fields::UNSUPPORTED => report.unsupported,
            fields::REDUCED => report.reduced, fields::MEMORY_BYTES => report.memory_bytes,
            fields::ERROR => error.map(|error| error.text.clone()));
        for (number, flow) in report.flows.iter().enumerate() {
            info!(log, "status of a flow"; fields::FLOW => number, fields::KEYS => flow.keys,
                fields::BYTES => flow.bytes, fields::POSITION => flow.applied,
                fields::SOURCE_POSITION => flow.source_next, fields::LAG_ENTRIES => flow.lag_entries,
                fields::SKIPPED => flow.skipped);
        }
    }

    /// Where the task is.
    pub(super) fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// The phase, now and whenever it changes.
    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// The task moves to another phase.
    pub(super) fn enter(&self, phase: Phase) {
        {
            let mut state = self.state();
            state.phase_since_ms = unix_ms();
            if phase != Phase::Stopping {
                state.rates = PerSecond::default();
                state.lag = None;
                state.pass = None;
                if let Some(audit) = &mut state.audit {
                    (audit.pass_began_ms, audit.waits) = (None, None);
                }
            }
        }
        self.0.phase.send_replace(phase);
        let stage = match phase {
            Phase::Snapshot => Stage::Connected,
            Phase::Stable => Stage::Stable,
            // It has what it had.
            Phase::Stopping => return,
            Phase::Connecting | Phase::Waiting | Phase::Stopped | Phase::Failed => Stage::Started,
        };
        self.0.stage.send_replace(stage);
    }

    /// Another session begins.
    pub(super) fn session_begins(&self) {
        {
            let mut state = self.state();
            state.sessions += 1;
            state.session = None;
            state.spool = None;
            state.approval = None;
        }
        self.enter(Phase::Connecting);
    }

    /// The number of the present session, counted from 1.
    pub(super) fn sessions(&self) -> u64 {
        self.state().sessions
    }

    /// The target was reached, and is that.
    pub(super) fn target_is(&self, server: &str) {
        self.state().target = Some(server.to_owned());
    }

    /// The source was reached, and is that.
    pub(super) fn source_is(&self, server: &str) {
        self.state().source = Some(server.to_owned());
    }

    /// How the session begins.
    pub(super) fn began(&self, how: &str) {
        self.state().began = Some(how.to_owned());
    }

    /// What waits to be approved.
    pub(super) fn awaits(&self, approval: Option<Approval>) {
        self.state().approval = approval;
    }

    /// Tells when it was. To be waited on from before [`awaits`](Self::awaits) on.
    pub(super) fn approved(&self) -> Arc<Notify> {
        self.0.approved.clone()
    }

    /// How far the target was behind when that was measured last; none before stable sync.
    pub(super) fn lag(&self) -> Option<Lag> {
        self.state().lag
    }

    /// What the audit tells of itself, if it is on.
    pub(super) fn audit(&self, tell: impl FnOnce(&mut Audit)) {
        if let Some(audit) = &mut self.state().audit {
            tell(audit);
        }
    }

    /// A pass of the audit begins.
    pub(super) fn pass_begins(&self, progress: Arc<Progress>) {
        let mut state = self.state();
        state.pass = Some(progress);
        if let Some(audit) = &mut state.audit {
            audit.pass_began_ms = Some(unix_ms());
        }
    }

    /// It has ended: so, or for that reason.
    pub(super) fn pass_ended(&self, ended: Result<AuditPass, String>) {
        let mut state = self.state();
        state.pass = None;
        if let Some(audit) = &mut state.audit {
            audit.pass_began_ms = None;
            match ended {
                Ok(pass) => (audit.last, audit.error) = (Some(pass), None),
                Err(error) => audit.error = Some(error),
            }
        }
    }

    /// Both ends are reached, and this is where the session counts.
    pub(super) fn session_counts(&self, status: Arc<Status>) {
        self.state().session = Some(status);
    }

    /// What was measured last.
    pub(super) fn measured(&self, rates: PerSecond, lag: Option<Lag>, spool: Option<SpoolReport>) {
        let mut state = self.state();
        state.rates = rates;
        state.lag = lag;
        state.spool = spool;
    }

    /// A session, or the task, ended by this.
    pub(super) fn failed(&self, error: &TaskError) {
        self.failed_by(chain(error), error.hint());
    }

    /// The same, for what is no [`TaskError`].
    pub(super) fn failed_by(&self, text: String, hint: Option<String>) {
        self.state().last_error = Some(LastError {
            at_ms: unix_ms(),
            text,
            hint,
        });
    }

    /// The task is started again.
    pub(super) fn restarted(&self) {
        self.state().restarts += 1;
    }

    /// Waits until somebody wants to know the source's positions.
    pub(super) async fn refresh_wanted(&self) {
        self.0.refresh.notified().await;
    }
}

/// What the audit found before this process, if it was saved.
fn last_pass(task: &Task) -> Option<AuditPass> {
    let saved = Report::load(&task.state_dir, &task.name);
    saved.ok().flatten()?.audit?.last
}

/// Adds what the session has counted.
fn count(report: &mut Report, session: &Status) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let known = |value: u64| Some(value).filter(|value| *value > 0);
    // Before the flows: whoever sees a number sees the positions that were stored before it.
    report.offsets_read = session.offsets_read.load(Ordering::Acquire);
    report.flows = session
        .flows
        .iter()
        .map(|flow| {
            let (applied, next) = (known(read(&flow.applied)), known(read(&flow.source_next)));
            Flow {
                keys: read(&flow.keys),
                bytes: read(&flow.bytes),
                snapshot_ended: flow.snapshot_ended.load(Ordering::Relaxed),
                applied,
                source_next: next,
                lag_entries: applied.zip(next).map(|(at, next)| next.saturating_sub(at)),
                latency_us: read(&flow.latency_us),
                skipped: read(&flow.skipped),
            }
        })
        .collect();
    let totals = session.totals();
    report.keys = totals.keys;
    report.bytes = totals.bytes;
    report.applied = totals.applied;
    report.skipped = totals.skipped;
    report.expected_keys = known(read(&session.expected_keys));
    report.unsupported = read(&session.unsupported);
    report.unsupported_by_kind = session.unsupported_by_kind();
    report.reduced = read(&session.reduced);
    report.scheduled = session.flows.iter().map(|flow| read(&flow.scheduled)).sum();
    report.withheld = session.flows.iter().map(|flow| read(&flow.withheld)).sum();
    let flows = session.flows.iter();
    report.moving_slots = flows.flat_map(FlowStatus::moving).collect();
    report.reread = read(&session.reread);
    report.unverified = read(&session.unverified);
}
