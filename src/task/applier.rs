//! One flow's way into the target: items in order, filtered, translated, written, answered,
//! acknowledged.
//!
//! Reading the source is another task's work ([`crate::source::dragonfly`]); between the two stands
//! the spool, whose batches carry their share of its memory.
//!
//! Invariants: items take effect in the order they arrived; only positions that the target has
//!   answered for are acknowledged; at a global command nothing of this flow is applied before all
//!   flows have reached it.

mod answers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use slog::Logger;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::commands::Global;
use crate::entry::{Batch, Item};
use crate::fail_point::{self, Place};
use crate::source::dragonfly::{Acknowledger, Found};
use crate::spool::Outlet;
use crate::target::{Withheld, Writer};

use super::barrier::{Meeting, Role};
use super::context::Context;
use super::error::TaskError;
use super::ghosts::GhostFilter;
use super::items::{Foreign, Took};
use super::reread::{
    Answer, Baselines, Before, Doubts, Ends, Expiring, LATE, Late, List, MARGIN, MOST_BYTES,
    MOST_ITEMS, Schedule, Settling, Suspects, Suspicion,
};

/// How often the applied position is acknowledged when nothing else asks for it.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_secs(1);

/// Unacknowledged entries after which the master is told without waiting for the next second, so
/// that its `INFO replication` shows the true lag of a busy flow.
const ACKNOWLEDGE_AFTER: u64 = 1024;

/// Batches of which it is remembered when they were taken in. Of more, the last ones count as one.
const MOST_RECEIPTS: usize = 4096;

/// How one flow ended without an error.
#[derive(Debug)]
pub(super) enum FlowEnd {
    /// The reader stopped; everything it had read is in the target and acknowledged.
    Drained,
    /// A global command arrived before the end of some flow's snapshot, which it spoils. All that
    /// this flow had sent to the target is answered.
    Spoilt,
}

/// A batch, and how much of it is done.
struct Pending {
    batch: Batch,
    next: usize,
    /// Looked for when its first item is taken: what is before it may change that.
    foreign: Option<Foreign>,
    /// The target was asked about its keys, or they are not late.
    checked: bool,
}

impl Pending {
    fn new(batch: Batch) -> Self {
        Self {
            batch,
            next: 0,
            foreign: None,
            checked: false,
        }
    }
}

/// What taking items ended with.
enum Taken {
    /// The whole batch.
    All,
    /// The writer's window is full.
    Full,
    /// A value that has to be built in steps: the index of its item.
    Steps(usize),
    /// A global command.
    Meeting(Meeting, Global, Option<u64>),
}

/// Where a flow is in the target.
pub(super) struct Resumed<'a> {
    /// The entry it goes on with. Everything before is there but the keys that are withheld.
    pub(super) next: u64,
    /// Those of all flows.
    pub(super) withheld: &'a [Withheld],
    /// Keys of all flows of which members expire, and when the first one does: Unix milliseconds by the source's clock.
    pub(super) members: &'a [(Withheld, i64)],
}

/// One flow's applier.
pub(super) struct Applier {
    pub(super) flow: u32,
    pub(super) context: Arc<Context>,
    pub(super) writer: Writer,
    pub(super) ghosts: GhostFilter,
    /// Keys that may be copies of another flow's, until the flow's own keys have told.
    pub(super) doubtful: Vec<Batch>,
    /// Keys that were on the target first and that this flow has made the task's.
    pub(super) released: Foreign,
    acknowledger: Acknowledger,
    pub(super) log: Logger,
    /// For each batch not answered yet: the position it reaches, and when it was taken in.
    receipts: VecDeque<(u64, Instant)>,
    acknowledged: u64,
    /// A PING whose position is to be acknowledged as soon as it is applied.
    asked_at: Option<u64>,
    /// A PING has come: what is applied is to be acknowledged at once.
    asked_now: bool,
    snapshot_ended: bool,
    /// The snapshot is in the target, whole.
    copied: bool,
    /// The next entry to be taken; none inside the snapshot.
    pub(super) next: Option<u64>,
    /// Keys that are withheld.
    pub(super) list: List,
    pub(super) late: Late,
    /// The database of the source that was found last to fit into the target.
    pub(super) fitting: Option<u32>,
    /// The snapshot's keys, where it matters which of them have been seen.
    pub(super) baselines: Option<Baselines>,
    /// Keys that may expire on the target, where that is known.
    pub(super) expiring: Option<Expiring>,
    /// When keys end, of those that were given an end last.
    pub(super) ends: Ends,
    /// The present entry's key may have ended on the target.
    pub(super) may_have_ended: bool,
    /// Keys whose entries' answers tell whether they were there.
    pub(super) doubts: Doubts,
    /// Keys of which members expire that the target does not let expire.
    pub(super) members: Schedule,
    /// Large values that were read again, and are written before anything else.
    pub(super) large: Vec<(super::reread::Place, Found)>,
    /// What is remembered of the entries before.
    pub(super) before: Before,
    /// What is thought of the present entry, by those before.
    pub(super) suspicion: Option<Suspicion>,
    /// A key should be withheld, and too many are.
    pub(super) is_overwhelmed: bool,
    /// The answer to what was asked about withheld keys.
    pub(super) asking: Option<oneshot::Receiver<Answer>>,
    /// Keys that others do not trust.
    suspects: mpsc::Receiver<Suspects>,
    /// Those of them that are not settled.
    pub(super) settling: Vec<Settling>,
    /// Commands answered for when the clock last ticked.
    sent_before: u64,
}

impl Applier {
    /// An applier that has done nothing yet.
    pub(super) fn new(
        flow: u32,
        context: Arc<Context>,
        mut writer: Writer,
        acknowledger: Acknowledger,
        suspects: mpsc::Receiver<Suspects>,
        log: Logger,
    ) -> Self {
        let looks = context.is_unreconciled.load(Ordering::Relaxed) || context.omits_deletions;
        let flows = context.status.flows.len() as u32;
        let expiring = context.expiring.get(flow as usize).cloned();
        if let Some(expiring) = expiring.clone() {
            writer.may_expire(Arc::new(move |key| expiring.may_have(key)));
        }
        Self {
            flow,
            ghosts: GhostFilter::new(context.ghosts.clone(), flow, flows),
            doubtful: Vec::new(),
            context,
            writer,
            released: Foreign::new(),
            acknowledger,
            log,
            receipts: VecDeque::new(),
            acknowledged: 0,
            asked_at: None,
            asked_now: false,
            snapshot_ended: false,
            copied: false,
            next: None,
            list: List::default(),
            late: Late::default(),
            fitting: None,
            baselines: looks.then(Baselines::new),
            expiring,
            ends: Ends::default(),
            may_have_ended: false,
            doubts: Doubts::default(),
            members: Schedule::default(),
            large: Vec::new(),
            before: Before::default(),
            suspicion: None,
            is_overwhelmed: false,
            asking: None,
            suspects,
            settling: Vec::new(),
            sent_before: 0,
        }
    }

    /// Nothing is copied.
    pub(super) fn resumes_at(&mut self, there: &Resumed<'_>) {
        let next = there.next;
        self.snapshot_ended();
        self.copied = true;
        self.next = Some(next);
        self.forget_baselines();
        for key in there.withheld.iter().filter(|key| key.flow == self.flow) {
            self.list.add(key.db, &key.key, next);
        }
        self.resume_schedule(there.members);
        if let Some(counters) = self.context.status.flows.get(self.flow as usize) {
            // A session that has counted before counts on.
            if counters.base.load(Ordering::Relaxed) == 0 {
                counters.base.store(next, Ordering::Relaxed);
            }
            counters.applied.store(next, Ordering::Relaxed);
        }
    }

    /// Runs until the reader's end of `batches` is closed and all is settled. The flow's socket stays open as long as
    /// others have its acknowledger: a master ends all flows when one closes.
    pub(super) async fn run(mut self, batches: Outlet) -> Result<FlowEnd, TaskError> {
        self.apply_all(batches).await
    }

    async fn apply_all(&mut self, mut batches: Outlet) -> Result<FlowEnd, TaskError> {
        let mut timer = interval(ACKNOWLEDGE_EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = VecDeque::new();
        let mut open = true;
        let mut spoilt = self.context.spoilt.subscribe();
        loop {
            if spoilt.borrow().is_some() {
                self.writer.settle().await?;
                return Ok(FlowEnd::Spoilt);
            }
            if !pending.is_empty() && self.may_take() {
                open &= self.check(&mut batches, &mut pending, open).await?;
                if !self.take_next(&mut pending).await? {
                    return Ok(FlowEnd::Drained);
                }
                continue;
            }
            self.ask();
            self.settled();
            if pending.is_empty() && !open && self.writer.is_settled() {
                self.acknowledge().await;
                self.context.barrier.leave();
                return Ok(FlowEnd::Drained);
            }
            let due = self.until_due();
            tokio::select! {
                biased;
                // The sender lives in the context, so this fails never.
                _ = spoilt.changed() => {}
                // Polled even when all is settled: it notices when the target goes away.
                driven = self.writer.drive() => {
                    driven?;
                    self.progressed().await;
                    self.endure()?;
                    if let Some(stored) = self.writer.stored().filter(|_| self.copied) {
                        batches.applied(stored);
                    }
                }
                answer = answered(&mut self.asking) => {
                    self.answered(answer)?;
                    if !self.large.is_empty() {
                        Box::pin(self.write_large()).await?;
                    }
                }
                Some(suspects) = self.suspects.recv() => self.suspect(suspects),
                () = passed(due) => self.expire_members(),
                batch = batches.next(), if open && pending.is_empty() && self.writer.has_room() => {
                    match batch.map_err(TaskError::Unspooling)? {
                        Some(batch) => pending.push_back(Pending::new(batch)),
                        None => open = false,
                    }
                }
                _ = timer.tick() => {
                    self.acknowledge().await;
                    self.judge_pops();
                    self.keep_alive();
                }
            }
        }
    }

    /// Whether more can be handed to the writer. What waits there comes late, so no more does than keeps it busy.
    fn may_take(&self) -> bool {
        self.writer.has_room() && !self.writer.is_held_up()
    }

    /// Before items of the first batch are taken: if they come late, the target is asked about their keys, and about
    /// those of the batches that are there already. Whether there may be more batches.
    async fn check(
        &mut self,
        batches: &mut Outlet,
        pending: &mut VecDeque<Pending>,
        mut open: bool,
    ) -> Result<bool, TaskError> {
        let Some(first) = pending.front_mut() else {
            return Ok(open);
        };
        if !self.comes_late(&first.batch) {
            if !first.checked {
                first.checked = true;
                self.late.end();
                if self.next.is_some() {
                    self.context.status.caught_up.store(true, Ordering::Relaxed);
                }
                self.writer.note_missing(LATE);
            }
            return Ok(open);
        }
        if first.checked && self.late.is_late() && !self.late.is_stale() {
            return Ok(open);
        }
        let (mut items, mut bytes) = pending.iter().fold((0, 0), |(items, bytes), pending| {
            (
                items + pending.batch.items.len(),
                bytes + pending.batch.size(),
            )
        });
        while open && items < MOST_ITEMS && bytes < MOST_BYTES {
            let Some(batch) = batches.next().now_or_never() else {
                break;
            };
            match batch.map_err(TaskError::Unspooling)? {
                Some(batch) => {
                    items += batch.items.len();
                    bytes += batch.size();
                    pending.push_back(Pending::new(batch));
                }
                None => open = false,
            }
        }
        self.look(pending).await?;
        self.writer.note_missing(MARGIN / 2);
        pending
            .iter_mut()
            .for_each(|pending| pending.checked = true);
        Ok(open)
    }

    /// Asks the target about the keys of late entries, once everything before them is answered for. What waits for its
    /// slot of a cluster to move will come too late anyway, and its keys be doubted by that.
    async fn look(&mut self, pending: &VecDeque<Pending>) -> Result<(), TaskError> {
        let keys = self.keys_of_late(pending.iter().map(|pending| &pending.batch))?;
        // Where nothing may expire, nothing has to wait.
        while !keys.is_empty() {
            self.writer.settle_others().await?;
            self.progressed().await;
            if self.writer.is_answered() {
                break;
            }
        }
        Box::pin(self.look_at_late(keys)).await
    }

    /// Takes items of the first batch. `false` if the flow ends before a global command that not all flows reach.
    async fn take_next(&mut self, pending: &mut VecDeque<Pending>) -> Result<bool, TaskError> {
        self.expire_members();
        let Some(current) = pending.front_mut() else {
            return Ok(true);
        };
        if current.foreign.is_none() {
            self.load_scripts(&current.batch).await?;
            current.foreign = Some(self.foreign_of(&current.batch).await?);
        }
        let taken = self.take(current)?;
        // Nothing of this goes out.
        self.endure()?;
        if !self.large.is_empty() {
            Box::pin(self.write_large()).await?;
        }
        match taken {
            Taken::All => drop(pending.pop_front()),
            Taken::Full => {}
            Taken::Steps(item) => {
                if let Some(Item::Record(record)) = current.batch.items.get(item) {
                    self.build(&current.batch, record).await?;
                }
            }
            Taken::Meeting(meeting, global, lsn) => {
                if !self.snapshot_ended {
                    let spoilt = Some((global, meeting.db));
                    self.context.spoilt.send_if_modified(|first| {
                        first.is_none().then(|| *first = spoilt).is_some()
                    });
                } else if !self.meet(meeting, &global, lsn).await? {
                    self.acknowledge().await;
                    return Ok(false);
                }
            }
        }
        if std::mem::take(&mut self.asked_now) {
            self.acknowledge().await;
        }
        // A position that nothing has to be sent for is applied already.
        self.progressed().await;
        Ok(true)
    }

    /// Hands items to the writer until the batch ends, the window is full or flows must meet.
    fn take(&mut self, pending: &mut Pending) -> Result<Taken, TaskError> {
        let Pending {
            batch,
            next,
            foreign,
            ..
        } = pending;
        let foreign = foreign.get_or_insert_default();
        let status = Arc::clone(&self.context.status);
        let counters = status.flows.get(self.flow as usize);
        if *next == 0
            && let Some(counters) = counters
        {
            counters.bytes.fetch_add(batch.size(), Ordering::Relaxed);
        }
        let (mut keys, mut reached) = (0, None);
        let mut taken = Taken::All;
        while let Some(item) = batch.items.get(*next) {
            if !self.writer.has_room() {
                taken = Taken::Full;
                break;
            }
            if self.list.is_due(self.next.unwrap_or_default()) {
                self.write_due()?;
                if !self.large.is_empty() {
                    taken = Taken::Full;
                    break;
                }
            }
            *next += 1;
            match item {
                Item::Record(record) => {
                    keys += 1;
                    if matches!(self.record(batch, record, foreign)?, Took::Steps) {
                        taken = Taken::Steps(*next - 1);
                        break;
                    }
                }
                Item::Command(command) => {
                    if let Took::Meeting(meeting, global) = self.command(batch, command, foreign)? {
                        taken = Taken::Meeting(meeting, global, command.lsn);
                        break;
                    }
                    reached = self.mark(command.lsn).or(reached);
                }
                Item::Nothing { lsn, acknowledge } => {
                    reached = self.mark(*lsn).or(reached);
                    if *acknowledge {
                        self.asked_at = reached;
                        self.asked_now = true;
                    }
                }
                // Loaded with the batch.
                Item::Script(_) => {}
                Item::SnapshotEnd => {
                    self.settle_doubts(true)?;
                    self.ghosts.snapshot_ended();
                    fail_point::pass(Place::SnapshotEnded);
                    self.snapshot_ended();
                }
                Item::Stable { next } => {
                    self.enlist_all();
                    self.next = Some(*next);
                    self.writer.mark(*next);
                    self.writer.store();
                    reached = Some(*next);
                    if let Some(counters) = counters {
                        counters.base.store(*next, Ordering::Relaxed);
                    }
                }
            }
        }
        if let Some(counters) = counters {
            counters.keys.fetch_add(keys, Ordering::Relaxed);
        }
        self.write_due()?;
        if let Some(reached) = reached {
            let is_full = self.receipts.len() >= MOST_RECEIPTS;
            match self.receipts.back_mut().filter(|_| is_full) {
                Some((last, _)) => *last = reached,
                None => self.receipts.push_back((reached, Instant::now())),
            }
        }
        Ok(taken)
    }

    /// Everything pushed so far covers the entry `lsn`. The position that reaches.
    fn mark(&mut self, lsn: Option<u64>) -> Option<u64> {
        let next = lsn?.saturating_add(1);
        if let Some(position) = &mut self.next {
            *position = next;
        }
        self.writer.mark(next);
        Some(next)
    }

    fn snapshot_ended(&mut self) {
        self.snapshot_ended = true;
        if let Some(counters) = self.context.status.flows.get(self.flow as usize) {
            counters.snapshot_ended.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for all flows at a global command, of which one runs it. `false` if one of them has ended before it: then
    /// none passes it.
    async fn meet(
        &mut self,
        meeting: Meeting,
        global: &Global,
        lsn: Option<u64>,
    ) -> Result<bool, TaskError> {
        self.settle().await?;
        let db = meeting.db;
        // None between the end of a flow's snapshot and stable sync: there is nothing to resume at.
        let next = lsn.map(|lsn| lsn.saturating_add(1));
        match self.context.barrier.arrive(self.flow, meeting, next)? {
            Role::Run(positions) => {
                let flushing = self.context.flush(global, db, &positions, &self.log);
                flushing.await?;
                self.context.barrier.release();
            }
            Role::Wait(round) => {
                let mut spoilt = self.context.spoilt.subscribe();
                tokio::select! {
                    released = self.context.barrier.released(round) => if !released {
                        return Ok(false);
                    },
                    // Another flow read the command before the end of its snapshot.
                    _ = spoilt.wait_for(Option::is_some) => return Ok(true),
                }
            }
        }
        if let Some(next) = next {
            self.writer.stands_at(next);
            self.next = Some(next);
        }
        match global {
            // What is withheld of slots that had passed it before is not gone, and found by reading it again.
            _ if !self.context.flushed_whole.load(Ordering::Relaxed) => {}
            Global::FlushAll => self.forget_withheld(None),
            Global::FlushDb => self.forget_withheld(Some(db)),
            // Read again, they are found to be gone.
            Global::FlushSlots(_) => {}
        }
        self.progressed().await;
        Ok(true)
    }
}

/// This time has passed; never if there is none. Cancel safe.
async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// The answer that is waited for; for ever if nothing was asked. Cancel safe.
async fn answered(asking: &mut Option<oneshot::Receiver<Answer>>) -> Answer {
    match asking {
        // The other end goes only with the session.
        Some(asking) => match asking.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
