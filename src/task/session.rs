//! One session with a master, once it is [opened](super::opening): full sync or resumption, stable sync, end.
//!
//! ```text
//! open ── sync or resume ────┬─ reader 0 ── batches ── applier 0 ── target connection 0
//!                            ├─ reader N ── batches ── applier N ── target connection N
//!                            └─ coordinator: all snapshots ended -> STARTSTABLE; lag; summary
//! ```
//!
//! Invariants: the first error of any part is the session's error, and ends all others; being ended by that is no error.
//!   The loss of the target in stable sync is none (see `outage`). However the session ends, the sockets to the master are
//!   closed in order (see `wire` in the source).

mod looking;
mod outage;
mod stable;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use slog::{Logger, info, warn};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Task;
use crate::entry::Budget;
use crate::logging::{Terminal, fields};
use crate::process::Stop;
use crate::source::dragonfly::{
    self, Acknowledger, FailedFlow, Flow, Monitor, Pulse, ReadSettings, SnapshotEnded, SourceError,
    Stable, Syncing,
};
use crate::spool::{Full, Inlet, Outlet, Spool};
use crate::target::{Reconcile, Writer};

use super::Timing;
use super::applier::{Applier, FlowEnd, Resumed};
use super::backlog::feed;
use super::context::Context;
use super::error::{TaskError, chain};
use super::lag::LagMeter;
use super::opening::{Begun, Opened, open};
use super::progress::{self, Rates};
use super::reconcile::Reconciling;
use super::reporter::Reporter;
use super::reread::{Ask, Flows, read_again};
use super::settings;
use super::sizing::{Conditions, Ended, LastFullSync};
use super::status::Phase;
use super::watching::{SourceWatch, keep_target_alive};
use super::window::SourceRates;

use outage::{Reopening, reopened};

/// Batches a reader may be ahead of its applier, besides what the budget allows: enough to hide
/// the switch between the two, few enough that empty ones cost nothing.
const BATCHES_AHEAD: usize = 32;

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
    Applier(FlowEnd),
    Stable(Box<Stable>),
    /// Goes on for ever.
    Watch,
    Reconciled,
    /// The start of stable sync is recorded on the target.
    Recorded,
}

/// Where the record of the start of stable sync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recording {
    NotDue,
    /// Everything is copied, and the target is told.
    UnderWay,
    Recorded,
}

/// What a session needs from outside.
pub(super) struct Setup<'a> {
    pub(super) task: Arc<Task>,
    pub(super) log: &'a Logger,
    pub(super) terminal: &'a Terminal,
    pub(super) reporter: &'a Reporter,
    pub(super) timing: Timing,
    /// The next session copies everything, wherever the target is.
    pub(super) copies_all: AtomicBool,
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
    if let Err(TaskError::SpoolFull {
        in_snapshot: true, ..
    }) = &end
    {
        running.full_sync_ended(Ended::SpoolFull);
        running.remember_full_sync().await;
    }
    if matches!(end, Err(TaskError::Overwhelmed { .. })) {
        setup.copies_all.store(true, Ordering::Relaxed);
    }
    setup.terminal.show(None);
    running.close().await;
    end
}

/// A session whose flows are moving.
struct Running<'a> {
    setup: &'a Setup<'a>,
    context: Arc<Context>,
    /// What has to do with the source.
    parts: JoinSet<Result<Part, TaskError>>,
    /// What has to do with the target, which may be lost and come back.
    appliers: JoinSet<Result<Part, TaskError>>,
    /// While the target is lost.
    reopening: Option<Reopening<'a>>,
    /// Flows whose snapshot has ended, until there are as many as flows.
    ended: mpsc::Receiver<SnapshotEnded>,
    tokens: Vec<SnapshotEnded>,
    syncing: Option<Syncing>,
    recording: Recording,
    /// What stands between readers and appliers. Dropped after them.
    spool: Option<Spool>,
    /// Tells the readers that what comes cannot be kept.
    letting_go: watch::Sender<bool>,
    /// Why it cannot.
    fulls: mpsc::UnboundedReceiver<Full>,
    /// Why it could not, first.
    full: Option<Full>,
    /// What the full sync depends on, until it has ended.
    conditions: Option<Conditions>,
    /// The full sync, when it has ended.
    full_sync: Option<LastFullSync>,
    /// Flows go on where they were, and STARTSTABLE is not confirmed yet.
    resuming: bool,
    stable: Option<Box<Stable>>,
    /// To be begun with stable sync.
    reconciling: Option<Reconciling>,
    /// Keep the appliers from listening to nobody.
    suspects: Flows,
    source: dragonfly::Settings,
    appliers_left: u32,
    /// By flow. Keep the flows open until the last one is done, whatever becomes of the appliers.
    acknowledgers: Vec<Acknowledger>,
    meters: Vec<LagMeter>,
    rates: Rates,
    source_rates: SourceRates,
    /// Entries that the source keeps of each shard, if that is known.
    ring: Option<u64>,
    started: Instant,
}

/// What every flow's reader is given.
struct Readers {
    settings: ReadSettings,
    /// Bytes that may be on their way into the spool.
    budget: u64,
    ended: mpsc::Sender<SnapshotEnded>,
    full: mpsc::UnboundedSender<Full>,
    stop: watch::Receiver<Stop>,
}

impl<'a> Running<'a> {
    fn start(
        setup: &'a Setup<'a>,
        opened: Opened,
        stop: watch::Receiver<Stop>,
    ) -> Result<Self, TaskError> {
        let count = opened.flows.len() as u32;
        let (ended_sender, ended) = mpsc::channel(count.max(1) as usize);
        let (full, fulls) = mpsc::unbounded_channel();
        let context = opened.context;
        let threshold = settings::threshold(&setup.task, count);
        let mut read = ReadSettings::new(setup.task.state_dir.clone(), threshold);
        read.clock_offset_ms = context.status.clock_offset_ms.clone();
        let readers = Readers {
            settings: read,
            budget: settings::arriving(&setup.task, count),
            ended: ended_sender,
            full,
            stop,
        };
        let inlets = opened
            .flows
            .iter()
            .map(|(flow, ..)| opened.spool.inlet(flow.flow()));
        let inlets: Vec<_> = inlets.collect::<Result<_, _>>().map_err(TaskError::Spool)?;
        let mut running = Self {
            setup,
            resuming: matches!(opened.begun, Begun::Journal(..)),
            conditions: opened.conditions,
            full_sync: None,
            source: opened.source,
            reconciling: None,
            suspects: Flows::default(),
            spool: Some(opened.spool),
            letting_go: watch::Sender::new(false),
            fulls,
            full: None,
            parts: JoinSet::new(),
            appliers: JoinSet::new(),
            reopening: None,
            ended,
            tokens: Vec::with_capacity(count as usize),
            syncing: None,
            recording: Recording::NotDue,
            stable: None,
            appliers_left: count,
            acknowledgers: Vec::with_capacity(count as usize),
            meters: (0..count).map(|_| LagMeter::default()).collect(),
            rates: Rates::default(),
            source_rates: SourceRates::default(),
            ring: opened.ring,
            started: Instant::now(),
            context,
        };
        let mut pulses = Vec::with_capacity(inlets.len());
        let mut appliers = Vec::with_capacity(inlets.len());
        for ((flow, writer, outlet), inlet) in opened.flows.into_iter().zip(inlets) {
            pulses.push(running.read(flow, inlet, &readers));
            appliers.push((writer, outlet));
        }
        running.watch_source(opened.monitor, pulses);
        running.read_again(opened.asks);
        // The flows are being read by now, as they must be.
        let resumed = running.begin(opened.begun);
        for (flow, (writer, outlet)) in (0..).zip(appliers) {
            let next = resumed.as_ref().and_then(|lsns| lsns.get(flow).copied());
            let there = next.map(|next| Resumed {
                next,
                withheld: &opened.withheld,
                members: &opened.members,
            });
            if let Some(acknowledger) = running.acknowledgers.get(flow).cloned() {
                running.apply(writer, acknowledger, outlet, there);
            }
        }
        running.stand_by(opened.reconcile);
        Ok(running)
    }

    /// Has a flow's way from the source into the spool begin.
    fn read(&mut self, flow: Flow, inlet: Inlet, readers: &Readers) -> Pulse {
        let (reader, acknowledger) = flow.split();
        let pulse = reader.pulse();
        let (batches, received) = mpsc::channel(BATCHES_AHEAD);
        // Only what is on its way into the spool, which has a budget of its own.
        let budget = Budget::new(readers.budget);
        let on_full = self.setup.task.spool.on_full;
        let (status, full) = (self.context.status.clone(), readers.full.clone());
        let feeding = async move { feed(received, inlet, on_full, &status, full).await };
        let mut stop = readers.stop.clone();
        let mut let_go = self.letting_go.subscribe();
        let stopped = async move {
            tokio::select! {
                // The senders outlive every part.
                _ = stop.wait_for(|stop| *stop != Stop::Run) => {}
                _ = let_go.wait_for(|let_go| *let_go) => {}
            }
        };
        let (read, ended) = (readers.settings.clone(), readers.ended.clone());
        let reading = reader.run(batches, ended, budget, read, stopped);
        self.parts
            .spawn(read_into_spool(Box::pin(reading), Box::pin(feeding)));
        self.acknowledgers.push(acknowledger);
        pulse
    }

    /// Looks after the source on an ordinary connection.
    fn watch_source(&mut self, monitor: Monitor, pulses: Vec<Pulse>) {
        let watch = SourceWatch {
            context: self.context.clone(),
            monitor,
            source: self.source.clone(),
            reporter: self.setup.reporter.clone(),
            pulses,
            timing: self.setup.timing,
        };
        self.parts.spawn(async move {
            watch.run().await;
            Ok(Part::Watch)
        });
    }

    /// Reads again what flows ask for.
    fn read_again(&mut self, asks: mpsc::Receiver<Ask>) {
        let state_dir = self.setup.task.state_dir.clone();
        let reading = read_again(self.source.clone(), state_dir, asks);
        self.parts.spawn(async move {
            match reading.await {
                Ok(never) => match never {},
                Err(error) => Err(error.into()),
            }
        });
    }

    /// Leads to stable sync from what the flows carry first. The positions that they go on from, if they do.
    fn begin(&mut self, begun: Begun) -> Option<Vec<u64>> {
        match begun {
            Begun::Snapshot(syncing) => {
                self.syncing = Some(syncing);
                None
            }
            Begun::Journal(resuming, lsns) => {
                self.parts.spawn(async move {
                    Ok(Part::Stable(Box::new(resuming.start_stable().await?)))
                });
                Some(lsns)
            }
        }
    }

    /// Has a flow's way into the target begin; from there, if its snapshot is there.
    fn apply(
        &mut self,
        writer: Writer,
        acknowledger: Acknowledger,
        outlet: Outlet,
        there: Option<Resumed<'_>>,
    ) {
        let (flow, log) = (acknowledger.flow(), self.setup.log.clone());
        let suspected = self.suspects.add();
        let context = self.context.clone();
        let mut applier = Applier::new(flow, context, writer, acknowledger, suspected, log);
        if let Some(there) = there {
            applier.resumes_at(&there);
        }
        self.appliers
            .spawn(async move { Ok(Part::Applier(Box::pin(applier.run(outlet)).await?)) });
    }

    /// What there is to do besides, at once and when writes are followed.
    fn stand_by(&mut self, reconcile: Reconcile) {
        self.reconciling = (reconcile != Reconcile::Nothing).then(|| {
            Reconciling::new(
                self.context.clone(),
                self.source.clone(),
                self.setup.reporter.clone(),
                self.setup.log.clone(),
                self.suspects.clone(),
                reconcile,
            )
        });
        let watch = keep_target_alive(self.context.clone(), self.setup.timing);
        self.appliers.spawn(async move {
            watch.await;
            Ok(Part::Watch)
        });
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
            if self.recording == Recording::Recorded {
                self.recording = Recording::NotDue;
                self.enter_stable().await;
                reached_stable();
            }
            tokio::select! {
                biased;
                () = async { drop(copied.wait_for(|copied| *copied == flows).await) },
                    if self.is_copying() =>
                {
                    self.record_stable();
                }
                // The sender outlives every session.
                _ = stop.changed() => {
                    if *stop.borrow_and_update() == Stop::Now {
                        // Both words may come at once.
                        let is_moving = self.setup.reporter.phase() == Phase::Stable;
                        return match stopping || is_moving {
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
                Some(part) = self.appliers.join_next() => match self.ended_part(part) {
                    Err(error) if !stopping && self.outlives(&error) => {
                        self.target_lost(&error).await;
                    }
                    ended => ended?,
                },
                back = reopened(&mut self.reopening) => self.target_is_back(back?)?,
                error = lost(&mut self.syncing, &mut self.stable) => return Err(error.into()),
                Some(token) = self.ended.recv(), if self.syncing.is_some() => {
                    self.tokens.push(token);
                    self.start_stable_if_all_ended();
                }
                Some(full) = self.fulls.recv() => self.let_go(full)?,
                _ = show.tick() => self.show(),
                _ = summary.tick() => self.summarise(),
            }
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
            Part::Applier(FlowEnd::Drained | FlowEnd::Spoilt) => {
                self.appliers_left = self.appliers_left.saturating_sub(1);
            }
            Part::Watch | Part::Reconciled => {}
            Part::Recorded => self.recording = Recording::Recorded,
            // A reader that ends without an error was stopped, or lost its applier: that one's
            // result says why.
            Part::Reader(read) => read.map_err(|failed| failed.cause)?,
        }
        Ok(())
    }

    /// The spool is full: what is in it is applied, and then everything is copied again. In a snapshot that would only
    /// fill it again.
    fn let_go(&mut self, full: Full) -> Result<(), TaskError> {
        let in_snapshot = self.is_copying();
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
        self.appliers.shutdown().await;
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
}

/// Runs a flow's reader and what brings its batches into the spool. In one task: each batch would else be handed from
/// one thread to another.
async fn read_into_spool(
    mut reading: impl Future<Output = Result<(), FailedFlow>> + Unpin,
    mut feeding: impl Future<Output = Result<(), TaskError>> + Unpin,
) -> Result<Part, TaskError> {
    tokio::select! {
        read = &mut reading => {
            if read.is_ok() {
                feeding.await?;
            }
            Ok(Part::Reader(read))
        }
        fed = &mut feeding => {
            fed?;
            Ok(Part::Reader(reading.await))
        }
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
