//! One session with a master, once it is [opened](super::opening): full sync or resumption, stable sync, end.
//!
//! ```text
//! open ── sync or resume ────┬─ reader 0 ── batches ── applier 0 ── target connection 0
//!                            ├─ reader N ── batches ── applier N ── target connection N
//!                            └─ coordinator: all snapshots ended -> STARTSTABLE; lag; summary
//! ```
//!
//! Invariants: the first error of any part is the session's error, and ends all others; being
//!   ended by that is no error. However the session ends, the sockets to the master are closed
//!   in order (see `wire` in the source).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Task;
use crate::entry::{Budget, unix_ms};
use crate::logging::{Terminal, fields};
use crate::process::Stop;
use crate::source::dragonfly::{
    self, Acknowledger, FailedFlow, Monitor, ReadSettings, SnapshotEnded, SourceError, Stable,
    Syncing,
};
use crate::spool::{Full, Spool};
use crate::target::Reconcile;

use super::applier::{Applier, FlowEnd};
use super::backlog::{self, Fed, feed};
use super::context::Context;
use super::error::{TaskError, chain};
use super::lag::LagMeter;
use super::millis;
use super::opening::{Begun, Opened, open};
use super::progress::{self, Moment, Rates};
use super::reconcile::Reconciling;
use super::report::Lag;
use super::reporter::Reporter;
use super::reread::{Suspects, read_again};
use super::settings;
use super::status::{Phase, Status};

/// Batches a reader may be ahead of its applier, besides what the budget allows: enough to hide
/// the switch between the two, few enough that empty ones cost nothing.
const BATCHES_AHEAD: usize = 32;

/// How often the master's own positions are asked for.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How a session ended without an error.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// As asked.
    Stopped,
    /// A flush arrived during the snapshot, which has to start again.
    FlushedEarly,
}

/// What one part of a session ended with.
enum Part {
    Reader(Result<(), FailedFlow>),
    Applier(FlowEnd, Acknowledger),
    Fed(Fed),
    Stable(Box<Stable>),
    Reconciled,
}

/// What a session needs from outside.
pub(super) struct Setup<'a> {
    pub(super) task: Arc<Task>,
    pub(super) log: &'a Logger,
    pub(super) terminal: &'a Terminal,
    pub(super) reporter: &'a Reporter,
}

/// Runs one session until it is stopped, spoilt or broken. `reached_stable` is called once.
pub(super) async fn run(
    setup: &Setup<'_>,
    stop: watch::Receiver<Stop>,
    reached_stable: &mut (dyn FnMut() + Send),
) -> Result<SessionEnd, TaskError> {
    let mut stopping = stop.clone();
    let opened = tokio::select! {
        opened = Box::pin(open(setup)) => opened?,
        _ = stopping.wait_for(|stop| *stop != Stop::Run) => return Ok(SessionEnd::Stopped),
    };
    let mut running = Running::start(setup, opened, stop.clone())?;
    let end = running.coordinate(stop, reached_stable).await;
    setup.terminal.show(None);
    running.close().await;
    end
}

/// A session whose flows are moving.
struct Running<'a> {
    setup: &'a Setup<'a>,
    context: Arc<Context>,
    parts: JoinSet<Result<Part, TaskError>>,
    /// Flows whose snapshot has ended, until there are as many as flows.
    ended: mpsc::Receiver<SnapshotEnded>,
    tokens: Vec<SnapshotEnded>,
    syncing: Option<Syncing>,
    /// What stands between readers and appliers. Dropped after them.
    spool: Option<Spool>,
    /// Tells the readers that what comes cannot be kept.
    letting_go: watch::Sender<bool>,
    /// Why.
    full: Option<Full>,
    /// Flows go on where they were, and STARTSTABLE is not confirmed yet.
    resuming: bool,
    stable: Option<Box<Stable>>,
    /// To be begun with stable sync.
    reconciling: Option<Reconciling>,
    /// Keeps the appliers from listening to nobody.
    _suspects: Vec<mpsc::Sender<Suspects>>,
    appliers_left: u32,
    /// Keeps the flows open until the last one is done.
    done: Vec<Acknowledger>,
    meters: Vec<LagMeter>,
    rates: Rates,
    started: Instant,
}

impl<'a> Running<'a> {
    fn start(
        setup: &'a Setup<'a>,
        opened: Opened,
        stop: watch::Receiver<Stop>,
    ) -> Result<Self, TaskError> {
        let Opened {
            context,
            flows,
            spool,
            begun,
            monitor,
            source,
            withheld,
            reconcile,
            asks,
        } = opened;
        let mut suspects = Vec::with_capacity(flows.len());
        let mut parts = JoinSet::new();
        let resumed = match &begun {
            Begun::Journal(_, lsns) => Some(lsns.clone()),
            Begun::Snapshot(_) => None,
        };
        let count = flows.len() as u32;
        let (ended_sender, ended) = mpsc::channel(flows.len().max(1));
        let threshold = settings::threshold(&setup.task, count);
        let mut read = ReadSettings::new(setup.task.state_dir.clone(), threshold);
        read.clock_offset_ms = context.status.clock_offset_ms.clone();
        let letting_go = watch::Sender::new(false);
        for (flow, writer, outlet) in flows {
            let number = flow.flow();
            let (reader, acknowledger) = flow.split();
            let (batches, received) = mpsc::channel(BATCHES_AHEAD);
            // Only what is on its way into the spool, which has a budget of its own.
            let budget = Budget::new(settings::arriving(&setup.task, count));
            let inlet = spool.inlet(number).map_err(TaskError::Spool)?;
            let on_full = setup.task.spool.on_full;
            parts.spawn(async move {
                let fed = Box::pin(feed(received, inlet, on_full)).await?;
                Ok(Part::Fed(fed))
            });
            let read = read.clone();
            let ended = ended_sender.clone();
            let mut stop = stop.clone();
            let mut let_go = letting_go.subscribe();
            let stopped = async move {
                tokio::select! {
                    // The senders outlive every part.
                    _ = stop.wait_for(|stop| *stop != Stop::Run) => {}
                    _ = let_go.wait_for(|let_go| *let_go) => {}
                }
            };
            parts.spawn(async move {
                let read = Box::pin(reader.run(batches, ended, budget, read, stopped)).await;
                Ok(Part::Reader(read))
            });
            let log = setup.log.clone();
            let (suspect, suspected) = mpsc::channel(1);
            suspects.push(suspect);
            let context = context.clone();
            let mut applier = Applier::new(number, context, writer, acknowledger, suspected, log);
            let resumed = resumed.as_ref().and_then(|lsns| lsns.get(number as usize));
            if let Some(next) = resumed {
                applier.resumes_at(*next, &withheld);
            }
            parts.spawn(async move {
                let (end, acknowledger) = Box::pin(applier.run(outlet)).await?;
                Ok(Part::Applier(end, acknowledger))
            });
        }
        parts.spawn(watch_servers(
            context.clone(),
            monitor,
            source.clone(),
            setup.reporter.clone(),
        ));
        let reading = read_again(source.clone(), setup.task.state_dir.clone(), asks);
        parts.spawn(async move {
            match reading.await {
                Ok(never) => match never {},
                Err(error) => Err(error.into()),
            }
        });
        let reconciling = (reconcile != Reconcile::Nothing).then(|| {
            Reconciling::new(
                context.clone(),
                source,
                setup.reporter.clone(),
                setup.log.clone(),
                suspects.clone(),
                reconcile,
            )
        });
        let now = Instant::now();
        let syncing = match begun {
            Begun::Snapshot(syncing) => Some(syncing),
            // The flows are being read by now, as they must be.
            Begun::Journal(resuming, _) => {
                parts.spawn(
                    async move { Ok(Part::Stable(Box::new(resuming.start_stable().await?))) },
                );
                None
            }
        };
        Ok(Self {
            setup,
            resuming: resumed.is_some(),
            reconciling,
            _suspects: suspects,
            spool: Some(spool),
            letting_go,
            full: None,
            parts,
            ended,
            tokens: Vec::with_capacity(count as usize),
            syncing,
            stable: None,
            appliers_left: count,
            done: Vec::new(),
            meters: (0..count).map(|_| LagMeter::default()).collect(),
            rates: Rates::default(),
            started: now,
            context,
        })
    }

    async fn coordinate(
        &mut self,
        mut stop: watch::Receiver<Stop>,
        reached_stable: &mut (dyn FnMut() + Send),
    ) -> Result<SessionEnd, TaskError> {
        let mut show = interval(progress::SHOW_EVERY);
        show.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut summary = interval(progress::SUMMARISE_EVERY);
        summary.set_missed_tick_behavior(MissedTickBehavior::Delay);
        summary.tick().await;
        let mut stopping = false;
        let flows = self.meters.len() as u32;
        let mut copied = self.context.copied.subscribe();
        loop {
            // After whatever was heard last: appliers may end before this part hears that they shall.
            if self.appliers_left == 0
                && let Some(end) = self.end(stopping).await?
            {
                return Ok(end);
            }
            tokio::select! {
                biased;
                () = async { drop(copied.wait_for(|copied| *copied == flows).await) },
                    if self.setup.reporter.phase() == Phase::Snapshot =>
                {
                    self.enter_stable().await?;
                    reached_stable();
                }
                // The sender outlives every session.
                _ = stop.changed() => {
                    if *stop.borrow_and_update() == Stop::Now {
                        return match stopping {
                            true => Err(TaskError::Undrained),
                            false => Ok(SessionEnd::Stopped),
                        };
                    }
                    stopping = true;
                    // A snapshot that did not finish starts again anyway.
                    let phase = self.setup.reporter.phase();
                    self.setup.reporter.enter(Phase::Stopping);
                    if phase != Phase::Stable {
                        return Ok(SessionEnd::Stopped);
                    }
                }
                Some(part) = self.parts.join_next() => {
                    self.ended_part(part)?;
                    if self.stable.is_some() && std::mem::take(&mut self.resuming) {
                        self.enter_resumed();
                        reached_stable();
                    }
                }
                error = lost(&mut self.syncing, &mut self.stable) => return Err(error.into()),
                Some(token) = self.ended.recv(), if self.syncing.is_some() => {
                    self.tokens.push(token);
                    self.start_stable_if_all_ended();
                }
                _ = show.tick() => self.show(),
                _ = summary.tick() => self.summarise(),
            }
        }
    }

    /// STARTSTABLE, once the last flow's snapshot has ended; flows are read meanwhile.
    fn start_stable_if_all_ended(&mut self) {
        if self.tokens.len() < self.meters.len() {
            return;
        }
        if let Some(syncing) = self.syncing.take() {
            let tokens = std::mem::take(&mut self.tokens);
            self.parts.spawn(async move {
                Ok(Part::Stable(Box::new(syncing.start_stable(tokens).await?)))
            });
        }
    }

    fn ended_part(
        &mut self,
        part: Result<Result<Part, TaskError>, tokio::task::JoinError>,
    ) -> Result<(), TaskError> {
        let part = part.map_err(|error| TaskError::Panicked(error.to_string()))??;
        match part {
            Part::Stable(stable) => {
                self.stable = Some(stable);
            }
            Part::Applier(FlowEnd::Drained | FlowEnd::Spoilt, acknowledger) => {
                self.appliers_left = self.appliers_left.saturating_sub(1);
                self.done.push(acknowledger);
            }
            Part::Fed(Fed::Whole) | Part::Reconciled => {}
            Part::Fed(Fed::Full(full)) => self.let_go(full)?,
            // A reader that ends without an error was stopped, or lost its applier: that one's
            // result says why.
            Part::Reader(read) => read.map_err(|failed| failed.cause)?,
        }
        Ok(())
    }

    /// The spool is full: what is in it is applied, and then everything is copied again. In a snapshot that would only
    /// fill it again.
    fn let_go(&mut self, full: Full) -> Result<(), TaskError> {
        let in_snapshot = self.setup.reporter.phase() == Phase::Snapshot;
        if in_snapshot {
            return Err(TaskError::SpoolFull { full, in_snapshot });
        }
        if self.full.replace(full).is_none() {
            warn!(self.setup.log, "the spool is full, letting go of the source and applying what is there";
                fields::REASON => full.to_string());
        }
        self.letting_go.send_replace(true);
        Ok(())
    }

    /// Ends all parts, then the spool, which has to be closed before another session opens it.
    async fn close(mut self) {
        self.parts.shutdown().await;
        if let Some(spool) = self.spool.take() {
            let finished = spawn_blocking(move || spool.finish()).await;
            if let Ok(Err(error)) = finished {
                warn!(self.setup.log, "cannot write the rest of the spool"; fields::ERROR => chain(&error));
            }
        }
    }

    /// All appliers have ended, and everything they sent is answered. Nothing if a reader's error
    /// is still to come, which then is the session's.
    async fn end(&mut self, stopping: bool) -> Result<Option<SessionEnd>, TaskError> {
        let spoilt = self.context.spoilt.borrow().clone();
        match spoilt {
            Some((global, db)) => {
                info!(
                    self.setup.log,
                    "flush during the snapshot, starting it again"
                );
                self.context.flush(&global, db, &[], self.setup.log).await?;
                Ok(Some(SessionEnd::FlushedEarly))
            }
            None => match self.full {
                Some(full) if !stopping => Err(TaskError::SpoolFull {
                    full,
                    in_snapshot: false,
                }),
                _ => Ok(stopping.then_some(SessionEnd::Stopped)),
            },
        }
    }

    /// Every flow's snapshot is in the target, and its position too.
    async fn enter_stable(&mut self) -> Result<(), TaskError> {
        let context = &self.context;
        if let Some(fence) = &context.fence {
            let flows = self.meters.len() as u32;
            let mut control = context.control.lock().await;
            let id = &context.master_id;
            fence
                .begin_stable(&mut control, id, flows, unix_ms())
                .await?;
        }
        self.setup.reporter.enter(Phase::Stable);
        let totals = self.context.status.totals();
        info!(self.setup.log, "snapshot finished, following writes";
            fields::KEYS => totals.keys, fields::BYTES => totals.bytes,
            fields::TOOK_MS => millis(self.started.elapsed()),
            fields::GHOSTS => self.context.ghosts.dropped(),
            fields::NOT_OWNED => self.context.ghosts.kept());
        self.reconcile();
        Ok(())
    }

    /// Begins to look for keys that the source no longer has, if that is due.
    fn reconcile(&mut self) {
        let Some(reconciling) = self.reconciling.take() else {
            return;
        };
        if self.context.ghosts.are_refuted() {
            warn!(self.setup.log, "keys that the source deleted before this full sync stay on the target: which flow \
                owns a key cannot be told here";
                fields::HINT => "set policy.resync to \"flush\" and start a full sync with df2redis forget");
            return;
        }
        self.parts.spawn(async move {
            Box::pin(reconciling.run()).await?;
            Ok(Part::Reconciled)
        });
    }

    fn enter_resumed(&mut self) {
        self.setup.reporter.enter(Phase::Stable);
        info!(self.setup.log, "resumed, following writes";
            fields::TOOK_MS => millis(self.started.elapsed()));
        self.reconcile();
    }

    /// How far the slowest flow is behind; none before stable sync.
    fn lag(&mut self, now: Instant) -> Option<Lag> {
        let flows = self.context.status.flows.iter().zip(&mut self.meters);
        let lags = flows.zip(0..).filter_map(|((flow, meter), number)| {
            let applied = flow.applied.load(Ordering::Relaxed);
            if applied == 0 {
                return None;
            }
            match flow.source_next.load(Ordering::Relaxed) {
                0 => {}
                next => meter.observe(now, next),
            }
            let latency = Duration::from_micros(flow.latency_us.load(Ordering::Relaxed));
            let behind = meter.lag(now, applied, latency);
            Some(Lag {
                flow: number,
                entries: behind.entries,
                ms: millis(behind.time),
            })
        });
        lags.max_by_key(|lag| (lag.entries, lag.ms))
    }

    /// What is known now, which is also reported.
    fn look(&mut self) -> Moment {
        let now = Instant::now();
        let moment = Moment {
            phase: self.setup.reporter.phase(),
            totals: self.context.status.totals(),
            lag: self.lag(now),
            sessions: self.setup.reporter.sessions(),
        };
        self.rates.look(now, moment.totals);
        let offset = self.context.status.clock_offset_ms.load(Ordering::Relaxed);
        let spool = self.spool.as_ref();
        let spool = spool.map(|spool| backlog::report(spool, &self.setup.task, offset));
        self.setup
            .reporter
            .measured(self.rates.recent(), moment.lag, spool);
        moment
    }

    fn show(&mut self) {
        let moment = self.look();
        let rates = self.rates.recent();
        progress::show(self.setup.terminal, &self.context.status, &moment, rates);
    }

    fn summarise(&mut self) {
        let moment = self.look();
        let rates = self.rates.since_summary();
        progress::summarise(self.setup.log, &self.context.status, &moment, rates);
    }
}

/// Waits until the session is lost: the control connection tells. For ever while STARTSTABLE is
/// under way, whose own reply then tells.
async fn lost(syncing: &mut Option<Syncing>, stable: &mut Option<Box<Stable>>) -> SourceError {
    match (syncing, stable) {
        (Some(syncing), _) => syncing.watch().await,
        (None, Some(stable)) => stable.watch().await,
        (None, None) => std::future::pending().await,
    }
}

/// Notes how far the master's clock is from ours, if it tells.
pub(super) async fn read_clock(monitor: &mut Monitor, status: &Status) -> Result<(), SourceError> {
    let before = unix_ms();
    if let Some(theirs) = monitor.time_ms().await? {
        let ours = before + (unix_ms() - before) / 2;
        status
            .clock_offset_ms
            .store(theirs - ours, Ordering::Relaxed);
    }
    Ok(())
}

/// Asks the master for its positions and its clock, and the target for a sign of life, for ever. A master that does not answer here
/// is lost for the flows too, which notice by themselves; so this never ends a session.
async fn watch_servers(
    context: Arc<Context>,
    mut monitor: Monitor,
    source: dragonfly::Settings,
    reporter: Reporter,
) -> Result<Part, TaskError> {
    let mut timer = interval(WATCH_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = reporter.refresh_wanted() => {}
        }
        let asked = async {
            let offsets = monitor.offsets().await?;
            // The process, the source or what is between them stood still: what was written meanwhile comes late.
            let stood_still = looked.elapsed() > WATCH_EVERY * 2;
            looked = Instant::now();
            for (flow, next) in context.status.flows.iter().zip(offsets) {
                flow.source_next.store(next, Ordering::Relaxed);
                if stood_still {
                    flow.late_until.store(next, Ordering::Relaxed);
                }
            }
            // After the positions: whoever sees the number sees them.
            context.status.offsets_read.fetch_add(1, Ordering::Release);
            read_clock(&mut monitor, &context.status).await
        };
        if asked.await.is_err()
            && let Ok(opened) = Monitor::open(&source).await
        {
            monitor = opened;
        }
        context.keep_alive().await;
    }
}
