//! One session with a master: handshake, full sync, stable sync, end.
//!
//! ```text
//! open ── register ── sync ──┬─ reader 0 ── batches ── applier 0 ── target connection 0
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
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Task;
use crate::entry::{Budget, unix_ms};
use crate::logging::{Terminal, fields};
use crate::process::Stop;
use crate::source::dragonfly::{
    self, Acknowledger, FailedFlow, Monitor, ReadSettings, Session, SnapshotEnded, SnapshotFlow,
    SourceError, Stable, Start, Syncing,
};
use crate::target::{Control, Ownership, Profile, Writer};

use super::applier::{Applier, FlowEnd};
use super::barrier::Barrier;
use super::context::{Context, Losses};
use super::error::TaskError;
use super::lag::LagMeter;
use super::millis;
use super::progress::{self, Moment, Rates};
use super::report::Lag;
use super::reporter::Reporter;
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
    Stable(Box<Stable>),
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
    let mut running = Running::start(setup, opened, stop.clone());
    let end = running.coordinate(stop, reached_stable).await;
    setup.terminal.show(None);
    end
}

/// Both ends reached, nothing moving yet.
struct Opened {
    context: Arc<Context>,
    flows: Vec<(SnapshotFlow, Writer)>,
    syncing: Syncing,
    monitor: Monitor,
    source: dragonfly::Settings,
}

async fn open(setup: &Setup<'_>) -> Result<Opened, TaskError> {
    let task = &setup.task;
    let source = settings::source(task);
    let target = settings::target(task);
    let mut control = Control::connect(&target).await?;
    let profile = Profile::read(&mut control).await?;
    setup.reporter.target_is(&profile.features.to_string());
    info!(setup.log, "target reached"; fields::ADDR => target.endpoint.to_string(),
        fields::SERVER => profile.features.to_string());
    let mut session = Session::open(&source).await?;
    let master = session.master().clone();
    let mut monitor = session.monitor().await?;
    let release = master.release.as_deref().unwrap_or("release unknown");
    setup.reporter.source_is(&format!("Dragonfly {release}"));
    info!(setup.log, "source reached"; fields::ADDR => source.endpoint.to_string(),
        fields::SERVER => release,
        fields::FLOWS => master.flows, fields::SESSION => master.sync_id.clone());
    warn_of(setup.log, &profile);

    let wanted = settings::wanted(task, profile.databases, source.endpoint.to_string());
    let ownership = Ownership::establish(&mut control, &target, wanted, unix_ms()).await?;
    if setup.reporter.sessions() == 1 && !ownership.is_first() {
        warn!(
            setup.log,
            "this task has written to the target before: a new full sync overwrites in place, \
             and keys deleted at the source meanwhile stay on the target"
        );
    }
    let status = Arc::new(Status::new(master.flows));
    if let Some(keyspace) = monitor.keyspace().await? {
        let allowed = keyspace.iter().filter(|(db, _)| task.filter.allows_db(*db));
        let keys = allowed.map(|(_, keys)| *keys).sum();
        status.expected_keys.store(keys, Ordering::Relaxed);
    }
    // Before the first entry, whose receipt is dated by it.
    read_clock(&mut monitor, &status).await?;
    let mut writers = Vec::with_capacity(master.flows as usize);
    let errors = settings::errors(task)?;
    for _ in 0..master.flows {
        let limits = settings::writing(task, master.flows);
        writers.push(Writer::connect(&target, limits, errors.clone()).await?);
    }
    ownership
        .set_phase(&mut control, "snapshot", unix_ms())
        .await?;
    let context = Arc::new(Context {
        task: task.clone(),
        features: profile.features.clone(),
        barrier: Barrier::new(master.flows),
        ghosts: Arc::default(),
        ownership,
        control: tokio::sync::Mutex::new(control),
        losses: Losses::default(),
        copied: watch::Sender::new(0),
        spoilt: watch::Sender::new(None),
        status,
    });
    let registered = session.register(Start::Full).await?;
    let (syncing, flows) = registered.sync().await?;
    setup.reporter.session_counts(context.status.clone());
    setup.reporter.enter(Phase::Snapshot);
    info!(setup.log, "full sync started"; fields::FLOWS => master.flows,
        fields::KEYS => context.status.expected_keys.load(Ordering::Relaxed));
    Ok(Opened {
        context,
        flows: flows.into_iter().zip(writers).collect(),
        syncing,
        monitor,
        source,
    })
}

/// What the operator should know of a target before anything is written to it.
fn warn_of(log: &Logger, profile: &Profile) {
    if let Some(eviction) = profile.eviction.as_ref()
        && eviction != "noeviction"
        && profile.max_memory.is_some()
    {
        warn!(log, "the target evicts keys when it is full"; fields::REASON => eviction.clone(),
            fields::HINT => "set maxmemory-policy noeviction on the target");
    }
    if profile.is_replica {
        warn!(
            log,
            "the target is a replica and refuses writes until it is promoted"
        );
    }
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
    stable: Option<Box<Stable>>,
    appliers_left: u32,
    /// Keeps the flows open until the last one is done.
    done: Vec<Acknowledger>,
    meters: Vec<LagMeter>,
    rates: Rates,
    started: Instant,
}

impl<'a> Running<'a> {
    fn start(setup: &'a Setup<'a>, opened: Opened, stop: watch::Receiver<Stop>) -> Self {
        let Opened {
            context,
            flows,
            syncing,
            monitor,
            source,
        } = opened;
        let mut parts = JoinSet::new();
        let count = flows.len() as u32;
        let (ended_sender, ended) = mpsc::channel(flows.len().max(1));
        let threshold = settings::threshold(&setup.task, count);
        let mut read = ReadSettings::new(setup.task.state_dir.clone(), threshold);
        read.clock_offset_ms = context.status.clock_offset_ms.clone();
        for (flow, writer) in flows {
            let number = flow.flow();
            let (reader, acknowledger) = flow.split();
            let (batches, received) = mpsc::channel(BATCHES_AHEAD);
            let budget = Budget::new(settings::reading(&setup.task, count));
            let read = read.clone();
            let ended = ended_sender.clone();
            let mut stop = stop.clone();
            let stopped = async move {
                // The sender outlives every session.
                let _ = stop.wait_for(|stop| *stop != Stop::Run).await;
            };
            parts.spawn(async move {
                let read = Box::pin(reader.run(batches, ended, budget, read, stopped)).await;
                Ok(Part::Reader(read))
            });
            let log = setup.log.clone();
            let applier = Applier::new(number, context.clone(), writer, acknowledger, log);
            parts.spawn(async move {
                let (end, acknowledger) = Box::pin(applier.run(received)).await?;
                Ok(Part::Applier(end, acknowledger))
            });
        }
        parts.spawn(watch_servers(
            context.clone(),
            monitor,
            source,
            setup.reporter.clone(),
        ));
        let now = Instant::now();
        Self {
            setup,
            parts,
            ended,
            tokens: Vec::with_capacity(count as usize),
            syncing: Some(syncing),
            stable: None,
            appliers_left: count,
            done: Vec::new(),
            meters: (0..count).map(|_| LagMeter::default()).collect(),
            rates: Rates::default(),
            started: now,
            context,
        }
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
            tokio::select! {
                biased;
                () = async { drop(copied.wait_for(|copied| *copied == flows).await) },
                    if self.setup.reporter.phase() == Phase::Snapshot =>
                {
                    self.enter_stable();
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
                    if self.appliers_left == 0
                        && let Some(end) = self.end(stopping).await?
                    {
                        return Ok(end);
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
            // A reader that ends without an error was stopped, or lost its applier: that one's
            // result says why.
            Part::Reader(read) => read.map_err(|failed| failed.cause)?,
        }
        Ok(())
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
                self.context.flush(&global, db, self.setup.log).await?;
                Ok(Some(SessionEnd::FlushedEarly))
            }
            None => Ok(stopping.then_some(SessionEnd::Stopped)),
        }
    }

    fn enter_stable(&mut self) {
        self.setup.reporter.enter(Phase::Stable);
        let totals = self.context.status.totals();
        info!(self.setup.log, "snapshot finished, following writes";
            fields::KEYS => totals.keys, fields::BYTES => totals.bytes,
            fields::TOOK_MS => millis(self.started.elapsed()),
            fields::GHOSTS => self.context.ghosts.dropped(),
            fields::NOT_OWNED => self.context.ghosts.kept());
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
        self.setup
            .reporter
            .measured(self.rates.recent(), moment.lag);
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
async fn read_clock(monitor: &mut Monitor, status: &Status) -> Result<(), SourceError> {
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
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = reporter.refresh_wanted() => {}
        }
        let asked = async {
            let offsets = monitor.offsets().await?;
            for (flow, next) in context.status.flows.iter().zip(offsets) {
                flow.source_next.store(next, Ordering::Relaxed);
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
