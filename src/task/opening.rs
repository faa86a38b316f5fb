//! How a session begins: both ends reached, the fence taken, and what the target holds decides where to go on.
//!
//! ```text
//!  positions of this master process, of these flows and of this mapping ──► ask to resume ──► granted: journal
//!  anything else ───────────────────────────────────────────────────────────┐      │ refused on some flow
//!                                                                           ▼      ▼
//!                                                                      full sync, from the start
//! ```
//!
//! Invariant: nothing but what was read together with the fence decides; what an earlier session of this process knew is
//!   forgotten.

mod ends;
mod resuming;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slog::info;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::config::{Positions, Reaction, Resync};
use crate::entry::unix_ms;
use crate::fail_point::{self, Place};
use crate::logging::fields;
use crate::source::dragonfly::{
    self, Flow, Master, Monitor, Registered, Resuming, Session, Start, Syncing,
};
use crate::spool::{Identity, Outlet, Spool};
use crate::target::{
    Control, Fence, Fenced, Ownership, Passed, Reconcile, Settings, Taken, Withheld, Writer,
    remove_unfinished,
};

use super::backlog::Backlog;
use super::context::Context;
use super::error::TaskError;
use super::reread::Ask;
use super::session::Setup;
use super::settings;
use super::sizing::{Conditions, LastFullSync};
use super::status::{Phase, Status};
use super::watching::read_clock;
use super::window::ring_entries;

use ends::{Ends, Held, reach};
use resuming::{Reason, Wanted, resumable};

/// Both ends reached, nothing moving yet.
pub(super) struct Opened {
    pub(super) context: Arc<Context>,
    pub(super) flows: Vec<(Flow, Writer, Outlet)>,
    pub(super) spool: Spool,
    pub(super) begun: Begun,
    pub(super) monitor: Monitor,
    pub(super) source: dragonfly::Settings,
    /// What a full sync depends on; none where none is needed.
    pub(super) conditions: Option<Conditions>,
    /// Entries that the source keeps of each shard, if that is known.
    pub(super) ring: Option<u64>,
    /// Keys that flows withhold from the start.
    pub(super) withheld: Vec<Withheld>,
    /// Keys of which members expire, and when, if nothing is copied.
    pub(super) members: Vec<(Withheld, i64)>,
    /// What is left to do about keys that the source may have deleted unseen.
    pub(super) reconcile: Reconcile,
    /// What flows ask to be read again.
    pub(super) asks: mpsc::Receiver<Ask>,
}

/// What the flows carry first.
pub(super) enum Begun {
    /// Their snapshots.
    Snapshot(Syncing),
    /// The journal, from these positions on.
    Journal(Resuming, Vec<u64>),
}

/// What the master has agreed to.
struct Agreed {
    registration: Registration,
    /// The positions that it goes on from, or why it does not.
    decided: Result<Vec<u64>, Reason>,
    backlog: Backlog,
    conditions: Option<Conditions>,
    /// The master that it was a replica of, and that the positions are of.
    last_master: Option<String>,
}

/// What an earlier session has left to do.
struct Left {
    withheld: Vec<Withheld>,
    members: Vec<(Withheld, i64)>,
    reconcile: Reconcile,
}

/// Reaches both ends and registers the flows.
pub(super) async fn open(setup: &Setup<'_>) -> Result<Opened, TaskError> {
    let (mut ends, session) = reach(setup).await?;
    let taken = take_fence(setup, &mut ends.control, &ends.target).await?;
    let ownership = ends.own(setup).await?;
    let status = Arc::new(Status::new(ends.master.flows));
    // Before the first entry, whose receipt is dated by it.
    read_clock(&mut ends.monitor, &status).await?;
    let ring = ring_entries(&mut ends.monitor, &ends.master).await?;

    let stored = taken.as_ref().map(|taken| &taken.stored);
    let mut wanted = resumable(stored, ownership.is_same_mapping(), &ends.master);
    if wanted.is_ok() && setup.copies_all.load(Ordering::Relaxed) {
        wanted = Err(Reason::Overwhelmed);
    }
    let Agreed {
        registration,
        decided,
        mut backlog,
        conditions,
        last_master,
    } = ends.agree(setup, session, wanted).await?;
    tell(setup, &decided, &ownership, ends.master.flows);

    let (fence, mut left) = Left::of(taken);
    if let (Some(fence), Some(last)) = (&fence, last_master) {
        backlog = ends.succeed(setup, fence, backlog, last).await?;
    }
    if decided.as_ref().is_err_and(Reason::leaves_unfinished) {
        ends.remove_unfinished(setup).await?;
    }
    match decided.is_err() {
        true => {
            let start = ends.start_anew(setup, &status, fence.as_ref(), &ownership);
            left = start.await?;
        }
        false => ends.expect_late_entries(&status).await?,
    }
    let resumed = decided.ok();
    let flows = ends.master.flows;
    let writers = writers(setup, &ends.target, &fence, flows, resumed.as_deref()).await?;
    let (ask, asks) = mpsc::channel(flows.max(1) as usize);
    let held = Held {
        ownership,
        fence,
        status,
        ask,
        is_resumed: resumed.is_some(),
        is_unreconciled: left.reconcile != Reconcile::Nothing,
    };
    let (context, source, monitor) = ends.context(setup, held);
    let context = Arc::new(context);
    let registered = match registration {
        Registration::Done(registered) => registered,
        Registration::ToDo(session) => session.register(&Start::Full).await?,
    };
    let (begun, flows) = begin(registered, resumed).await?;
    began(setup, &begun, &context.status);
    let flows = flows.into_iter().zip(writers).zip(backlog.outlets);
    Ok(Opened {
        context,
        flows: flows
            .map(|((flow, writer), outlet)| (flow, writer, outlet))
            .collect(),
        spool: backlog.spool,
        begun,
        monitor,
        source,
        conditions,
        ring,
        withheld: left.withheld,
        members: left.members,
        reconcile: left.reconcile,
        asks,
    })
}

impl Ends {
    /// Asks the master to resume, if that is wanted, and opens what stands between readers and appliers accordingly.
    async fn agree(
        &mut self,
        setup: &Setup<'_>,
        session: Session,
        wanted: Result<Wanted, Reason>,
    ) -> Result<Agreed, TaskError> {
        let master = &self.master;
        let last_master = wanted.as_ref().ok().and_then(|wanted| wanted.of.clone());
        let mut backlog = None;
        if let Ok(Wanted { lsns, .. }) = &wanted {
            let of = last_master.as_ref().unwrap_or(&master.id);
            let identity = Identity::of(of, master.flows);
            backlog = Some(Backlog::resumed(setup, identity, lsns).await?);
        }
        let next = backlog.as_ref().map(Backlog::next).transpose()?;
        let (registration, decided) = register(session, &self.source, wanted, next).await?;
        fail_point::pass(Place::Registered);
        let conditions = match &decided {
            Ok(_) => None,
            Err(_) => Some(expect_to_fit(setup, &mut self.monitor).await?),
        };
        let backlog = match backlog.filter(|_| decided.is_ok()) {
            Some(backlog) => backlog,
            None => Backlog::empty(&setup.task, Identity::of(&master.id, master.flows)).await?,
        };
        Ok(Agreed {
            registration,
            backlog,
            conditions,
            last_master: last_master.filter(|_| decided.is_ok()),
            decided,
        })
    }

    /// From now on the positions are of this master, which has taken the last one's place.
    async fn succeed(
        &mut self,
        setup: &Setup<'_>,
        fence: &Fence,
        backlog: Backlog,
        last: String,
    ) -> Result<Backlog, TaskError> {
        let Master { id, flows, .. } = &self.master;
        info!(setup.log, "the source goes on in the place of the master it was a replica of";
            fields::LAST_MASTER => last, fields::MASTER => id.clone());
        // First what is here, which is then of both: a kill in between finds one or the other on the target.
        let backlog = backlog.succeeded_by(id).await?;
        let recording = fence.begin_stable(&mut self.control, id, *flows, unix_ms());
        recording.await?;
        Ok(backlog)
    }

    async fn remove_unfinished(&mut self, setup: &Setup<'_>) -> Result<(), TaskError> {
        let removed = remove_unfinished(&mut self.control, &self.target).await?;
        if removed > 0 {
            info!(setup.log, "removed what an earlier full sync had begun to build";
                fields::KEYS => removed);
        }
        Ok(())
    }

    /// Everything is copied: the target is told.
    async fn start_anew(
        &mut self,
        setup: &Setup<'_>,
        status: &Status,
        fence: Option<&Fence>,
        ownership: &Ownership,
    ) -> Result<Left, TaskError> {
        expect_keys(setup, &mut self.monitor, status).await?;
        fail_point::pass(Place::FullSyncRecord);
        let reconcile = prepare_snapshot(setup, self, fence, ownership).await?;
        setup.copies_all.store(false, Ordering::Relaxed);
        fail_point::pass(Place::FullSyncRecorded);
        Ok(Left::only(reconcile))
    }
}

impl Left {
    fn only(reconcile: Reconcile) -> Self {
        Self {
            withheld: Vec::new(),
            members: Vec::new(),
            reconcile,
        }
    }

    /// The fence, and what was found with it.
    fn of(taken: Option<Taken>) -> (Option<Fence>, Self) {
        let Some(taken) = taken else {
            return (None, Self::only(Reconcile::Nothing));
        };
        let left = Self {
            withheld: taken.withheld,
            members: taken.members,
            reconcile: taken.reconcile,
        };
        (Some(taken.fence), left)
    }
}

/// Says where the session goes on.
fn tell(setup: &Setup<'_>, decided: &Result<Vec<u64>, Reason>, ownership: &Ownership, flows: u32) {
    let began = match decided {
        Ok(lsns) => format!("resumed at {}", positions(lsns)),
        Err(reason) => format!("full sync, since {reason}"),
    };
    setup.reporter.began(&began);
    match decided {
        Ok(lsns) => info!(setup.log, "resuming where the target is";
            fields::POSITION => positions(lsns), fields::FLOWS => flows),
        Err(reason) => full_sync_needed(setup, reason, ownership),
    }
}

/// Says what has begun.
fn began(setup: &Setup<'_>, begun: &Begun, status: &Arc<Status>) {
    setup.reporter.session_counts(status.clone());
    if matches!(begun, Begun::Snapshot(_)) {
        setup.reporter.enter(Phase::Snapshot);
        info!(setup.log, "full sync started"; fields::FLOWS => status.flows.len(),
            fields::KEYS => status.expected_keys.load(Ordering::Relaxed));
    }
}

/// Makes the target ready for a full sync, and says what will be left to do about keys that are older than it.
async fn prepare_snapshot(
    setup: &Setup<'_>,
    ends: &mut Ends,
    fence: Option<&Fence>,
    ownership: &Ownership,
) -> Result<Reconcile, TaskError> {
    let Ends {
        control, master, ..
    } = ends;
    let may_have = !ownership.is_first() || setup.task.target.exclusive;
    let has_keys = may_have && ownership.has_keys(control).await?;
    let flushes = setup.task.policy.resync == Resync::Flush;
    let is_resync = has_keys && !flushes;
    match fence {
        Some(fence) => {
            let of = Some((master.id.as_str(), master.flows));
            let recording = fence.begin_snapshot(control, of, is_resync, unix_ms());
            recording.await?;
        }
        None => ownership.set_phase(control, "snapshot", unix_ms()).await?,
    }
    if has_keys && flushes {
        info!(
            setup.log,
            "removing the task's keys before the full sync, as policy.resync says"
        );
        let nothing = Passed::default();
        ownership.flush(control, fence, None, &nothing).await?;
    }
    Ok(match is_resync {
        true => Reconcile::Due,
        false => Reconcile::Nothing,
    })
}

/// A session with its flows, or one that still has to ask for them: for a snapshot, once the target is told.
enum Registration {
    Done(Registered),
    ToDo(Session),
}

/// Asks the master to resume, where that makes sense; the positions it grants, or why it does not.
async fn register(
    session: Session,
    source: &dragonfly::Settings,
    wanted: Result<Wanted, Reason>,
    next: Option<Vec<u64>>,
) -> Result<(Registration, Result<Vec<u64>, Reason>), TaskError> {
    let Wanted { lsns, of } = match wanted {
        Ok(wanted) => wanted,
        Err(reason) => return Ok((Registration::ToDo(session), Err(reason))),
    };
    let master = session.master().clone();
    // What is in the spool need not come again.
    let next = next.unwrap_or_else(|| lsns.clone());
    let is_other = of.is_some();
    let start = match of {
        Some(of) => Start::Succeed { of, lsns: next },
        None => Start::Resume(next),
    };
    match session.register(&start).await? {
        granted @ Registered::Resumable(_) => Ok((Registration::Done(granted), Ok(lsns))),
        full @ Registered::Full(_) => {
            let flows = (0..master.flows).collect();
            let reason = match is_other {
                true => Reason::OtherMaster,
                false => Reason::Backlog { flows },
            };
            Ok((Registration::Done(full), Err(reason)))
        }
        Registered::Mixed { full } => {
            let session = Session::open(source).await?;
            if session.master().id != master.id || session.master().flows != master.flows {
                return Err(TaskError::Moved);
            }
            Ok((
                Registration::ToDo(session),
                Err(Reason::Backlog { flows: full }),
            ))
        }
    }
}

/// Has the flows begin with what was granted.
async fn begin(
    registered: Registered,
    resumed: Option<Vec<u64>>,
) -> Result<(Begun, Vec<Flow>), TaskError> {
    match (registered, resumed) {
        (Registered::Resumable(resumable), Some(lsns)) => {
            let (resuming, flows) = resumable.flows();
            Ok((Begun::Journal(resuming, lsns), flows))
        }
        (Registered::Full(full), None) => {
            let (syncing, flows) = full.sync().await?;
            Ok((Begun::Snapshot(syncing), flows))
        }
        // A snapshot was asked for, so nothing else can have been granted.
        _ => Err(TaskError::Moved),
    }
}

/// The right to write, and what the target holds; nothing where no positions are kept.
pub(super) async fn take_fence(
    setup: &Setup<'_>,
    control: &mut Control,
    target: &Settings,
) -> Result<Option<Taken>, TaskError> {
    let task = &setup.task;
    if task.target.positions == Positions::None {
        return Ok(None);
    }
    let taken = Fence::take(control, target).await?;
    if let Some(first) = taken.failed.first()
        && task.policy.on_error == Reaction::Stop
    {
        return Err(TaskError::Unsettled {
            count: taken.failed.len(),
            first: first.to_string(),
            file: task.file.clone(),
        });
    }
    Ok(Some(taken))
}

fn full_sync_needed(setup: &Setup<'_>, reason: &Reason, ownership: &Ownership) {
    info!(setup.log, "full sync needed"; fields::REASON => reason.to_string());
    if !ownership.is_first() && setup.task.policy.resync == Resync::Reconcile {
        info!(
            setup.log,
            "this task has written to the target before: a new full sync overwrites in place, \
             and removes afterwards what the source no longer has"
        );
    }
}

/// Refuses a full sync that cannot fit, by what the last one has shown.
async fn expect_to_fit(setup: &Setup<'_>, monitor: &mut Monitor) -> Result<Conditions, TaskError> {
    let now = Conditions::read(&setup.task, monitor).await?;
    let file = LastFullSync::path(&setup.task);
    let reading = {
        let file = file.clone();
        spawn_blocking(move || LastFullSync::load(&file)).await
    };
    let last = reading
        .unwrap_or_else(|lost| Err(std::io::Error::other(lost)))
        .map_err(|cause| TaskError::State {
            dir: setup.task.state_dir.clone(),
            cause,
        })?;
    match last {
        Some(last) => last.judge(&now, file).map_err(TaskError::TooLarge)?,
        None => {
            if let Some(used) = now.used_memory().filter(|used| *used > now.room()) {
                info!(setup.log, "how fast the target takes a full sync is not known yet: if it is slow, the spool gets full";
                    fields::SOURCE_BYTES => used, fields::ROOM_BYTES => now.room());
            }
        }
    }
    Ok(now)
}

/// Notes how many keys there are to copy, if the source tells.
async fn expect_keys(
    setup: &Setup<'_>,
    monitor: &mut Monitor,
    status: &Status,
) -> Result<(), TaskError> {
    if let Some(keyspace) = monitor.keyspace().await? {
        let filter = &setup.task.filter;
        let allowed = keyspace.iter().filter(|(db, _)| filter.allows_db(*db));
        let keys = allowed.map(|(_, keys)| *keys).sum();
        status.expected_keys.store(keys, Ordering::Relaxed);
    }
    Ok(())
}

/// A connection to the target for each flow.
pub(super) async fn writers(
    setup: &Setup<'_>,
    target: &Settings,
    fence: &Option<Fence>,
    flows: u32,
    resumed: Option<&[u64]>,
) -> Result<Vec<Writer>, TaskError> {
    let errors = settings::errors(&setup.task)?;
    let mut writers = Vec::with_capacity(flows as usize);
    for flow in 0..flows {
        let limits = settings::writing(&setup.task, flows, setup.timing);
        let stored = resumed.and_then(|lsns| lsns.get(flow as usize).copied());
        let fenced = fence.clone().map(|fence| Fenced {
            fence,
            flow,
            stored,
        });
        writers.push(Writer::connect(target, limits, errors.clone(), fenced).await?);
    }
    Ok(writers)
}

pub(super) fn positions(lsns: &[u64]) -> String {
    let lsns: Vec<_> = lsns.iter().map(u64::to_string).collect();
    lsns.join(" ")
}
