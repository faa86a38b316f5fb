//! What inlets, outlets and the writing thread share: one state behind one lock, held for moments.
//!
//! Invariants: nothing waits, writes or reads while the lock is held; the record of a batch is queued for writing in
//!   the order in which the batches of its flow were taken.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::entry::{Batch, Item, Share};

use super::disk::Disk;
use super::error::{Full, PushError, ReadError};
use super::flow::{Flow, Held, Pending, Segment, Taken, held};
use super::record::Encoded;
use super::space::{KEEP_MAX, Settings, Space};

/// How the spool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// When everything is written.
    Finish,
    /// At once.
    Now,
}

/// A record that waits to be written.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) flow: u32,
    pub(super) run: u64,
    pub(super) number: u64,
    pub(super) record: Encoded,
    /// Given back when it is written.
    _share: Share,
}

impl Job {
    /// Bytes that are set apart for it: it may be the first of its segment, and the last.
    pub(super) fn cost(&self) -> u64 {
        cost(self.record.len())
    }
}

/// Bytes that are set apart for a record of `len` bytes.
pub(super) fn cost(len: u64) -> u64 {
    len + (super::segment::HEAD + super::record::HEAD) as u64
}

/// Everything that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) flows: Vec<Flow>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) space: Space,
    /// The thread waits to be woken.
    pub(super) idle: bool,
    pub(super) ending: Option<Ending>,
    /// Nothing can be written any more.
    pub(super) failed: Option<Arc<io::Error>>,
    /// Number of the next segment.
    pub(super) segments: u64,
}

/// Counted since the spool was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) written_bytes: AtomicU64,
    pub(super) written_records: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) read_records: AtomicU64,
}

/// What everybody has.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) wake: Condvar,
    /// There may be room again.
    pub(super) room: Notify,
    pub(super) settings: Settings,
    pub(super) identity: u64,
    pub(super) disk: Disk,
    pub(super) counters: Counters,
}

/// A batch in an inlet.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) batch: Batch,
    /// Made when it is to be written; always for journal entries.
    pub(super) record: Option<Encoded>,
    /// Of the first entry and after the last; `None` for part of a snapshot.
    pub(super) lsns: Option<(u64, u64)>,
}

/// What became of a staged batch.
pub(super) enum Offered {
    /// The outlet is to be told, and the thread to be woken if so said.
    Taken { wake: bool },
    /// It has to be written: its record is to be made.
    NeedsRecord,
    /// It needs this much memory to be written.
    NeedsWriting(usize),
    /// It needs this much memory for the outlet.
    NeedsMemory(usize),
    /// The outlet is not level yet.
    Behind,
}

impl Shared {
    pub(super) fn new(state: State, settings: Settings, identity: u64, disk: Disk) -> Self {
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            room: Notify::new(),
            settings,
            identity,
            disk,
            counters: Counters::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        let waited = self.wake.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes the thread if it waits.
    pub(super) fn wake(&self, state: &mut State) {
        if std::mem::take(&mut state.idle) {
            self.wake.notify_one();
        }
    }

    /// Takes a staged batch, which is then empty. `share` is used for writing if that is needed.
    pub(super) fn offer(
        &self,
        flow: u32,
        staged: &mut Staged,
        share: &mut Option<Share>,
    ) -> Result<Offered, PushError> {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(failed) = &state.failed {
            return Err(PushError::Failed(failed.clone()));
        }
        let Some(this) = state.flows.get_mut(flow as usize) else {
            return Err(PushError::Unplaced { flow });
        };
        this.check(flow, staged.lsns)?;
        let held = held(&staged.batch);
        let direct = match this.is_behind() {
            true => None,
            false => this.direct.try_take(held),
        };
        if staged.lsns.is_none()
            && let Some(direct) = direct
        {
            let number = this.count(&staged.batch);
            this.keep(number, staged.take(), direct);
            return Ok(Offered::Taken { wake: false });
        }
        let Some(record) = &staged.record else {
            return Ok(Offered::NeedsRecord);
        };
        let full = self.make_room(state, cost(record.len()));
        let Some(this) = state.flows.get_mut(flow as usize) else {
            return Err(PushError::Unplaced { flow });
        };
        if let Some(full) = full {
            return Err(PushError::Full(full));
        }
        let costs = held + staged.batch.items.len() * 8;
        let Some(writing) = share.take().or_else(|| this.writing.try_take(costs)) else {
            return Ok(Offered::NeedsWriting(costs));
        };
        let Some(mut record) = staged.record.take() else {
            return Ok(Offered::NeedsRecord);
        };
        if std::mem::take(&mut this.passed) {
            // What is on disk does not reach this batch.
            for segment in this.begin_run() {
                let path = segment.named.path.clone();
                state.space.remove(path, segment.bytes);
            }
        }
        let number = this.expect(staged, direct);
        record.set_number(number);
        let job = Job {
            flow,
            run: this.run,
            number,
            record,
            _share: writing,
        };
        state.space.queued += job.cost();
        state.jobs.push_back(job);
        let wake = std::mem::take(&mut state.idle);
        Ok(Offered::Taken { wake })
    }

    /// Hands a staged batch to the outlet through memory only.
    pub(super) fn pass(
        &self,
        flow: u32,
        staged: &mut Staged,
        share: &mut Option<Share>,
    ) -> Result<Offered, PushError> {
        let mut state = self.lock();
        let Some(this) = state.flows.get_mut(flow as usize) else {
            return Err(PushError::Unplaced { flow });
        };
        this.check(flow, staged.lsns)?;
        if this.is_behind() {
            return Ok(Offered::Behind);
        }
        let held = held(&staged.batch);
        let Some(direct) = share.take().or_else(|| this.direct.try_take(held)) else {
            return Ok(Offered::NeedsMemory(held));
        };
        let number = this.count(&staged.batch);
        if let Some((_, next)) = staged.lsns {
            this.next = Some(next);
            this.received(next, staged.batch.received_at_ms);
            this.passed = true;
        }
        this.keep(number, staged.take(), direct);
        Ok(Offered::Taken { wake: false })
    }

    /// What the outlet of `flow` gets next.
    pub(super) fn take(&self, flow: u32) -> Result<Taken, ReadError> {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(this) = state.flows.get_mut(flow as usize) else {
            return Ok(Taken::End);
        };
        let taken = this.take();
        if let (Taken::Wait, Some(failed)) = (&taken, &state.failed)
            && this.is_behind()
        {
            return Err(ReadError::Failed(failed.clone()));
        }
        Ok(taken)
    }

    /// Gives up what is only kept until `needed` bytes fit. Why they do not.
    fn make_room(&self, state: &mut State, needed: u64) -> Option<Full> {
        loop {
            let full = state.space.refuses(needed, &self.settings)?;
            if !state.give_up_oldest() {
                return Some(full);
            }
            self.wake(state);
        }
    }

    /// Gives up everything that is only kept. Whether there was anything.
    pub(super) fn give_up_kept(&self) -> bool {
        let mut state = self.lock();
        let mut any = false;
        while state.give_up_oldest() {
            any = true;
        }
        any
    }

    /// Removes kept segments that are older than they have to be, or too many. Call it now and then.
    pub(super) fn expire(&self, state: &mut State) {
        let now = Instant::now();
        loop {
            let kept = state.flows.iter().flat_map(|flow| {
                let kept = flow.segments.iter().take_while(|it| flow.is_kept(it));
                kept.map(|segment| segment.bytes)
            });
            let bytes: u64 = kept.sum();
            let since = state.oldest_kept().map(|(_, since)| since);
            let old = |since: Instant| now.saturating_duration_since(since) >= self.settings.keep;
            match since {
                Some(since) if bytes > KEEP_MAX || old(since) => state.give_up_oldest(),
                _ => break,
            };
        }
    }

    /// Nothing can be written any more.
    pub(super) fn fail(&self, error: io::Error) -> Arc<io::Error> {
        let mut state = self.lock();
        let first = state.failed.get_or_insert_with(|| Arc::new(error)).clone();
        state.jobs.clear();
        for flow in &state.flows {
            flow.arrived.notify_one();
        }
        self.room.notify_waiters();
        self.wake(&mut state);
        first
    }

    pub(super) fn count_read(&self, records: u64, bytes: u64) {
        let counters = &self.counters;
        counters.read_records.fetch_add(records, Ordering::Relaxed);
        counters.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl State {
    /// The flow whose oldest segment has been kept for longest, and since when.
    fn oldest_kept(&self) -> Option<(usize, Instant)> {
        let oldest = self.flows.iter().enumerate().filter_map(|(index, flow)| {
            let front = flow.segments.front().filter(|it| flow.is_kept(it))?;
            Some((index, front.applied_at?))
        });
        oldest.min_by_key(|(_, since)| *since)
    }

    /// Gives up the segment that has been kept for longest; or one that is appended to, where everything in it is
    /// applied and nothing is on its way. Whether there was one.
    fn give_up_oldest(&mut self) -> bool {
        let kept = self.oldest_kept().map(|(index, _)| index);
        let idle = || {
            self.flows.iter().position(|flow| {
                let front = flow.segments.front();
                flow.pending.is_empty() && front.is_some_and(|it| it.applied_at.is_some())
            })
        };
        let Some(flow) = kept.or_else(idle).and_then(|it| self.flows.get_mut(it)) else {
            return false;
        };
        let Some(Segment { named, bytes, .. }) = flow.segments.pop_front() else {
            return false;
        };
        if flow.journal == Some(named.number) {
            flow.journal = None;
        }
        self.space.remove(named.path.clone(), bytes);
        true
    }

    /// Removes overflow segments of a flow that nobody needs.
    pub(super) fn remove_overflows(&mut self, flow: u32) -> bool {
        let Some(flow) = self.flows.get_mut(flow as usize) else {
            return false;
        };
        let unused = flow.unused_overflows();
        for overflow in &unused {
            let path = overflow.named.path.clone();
            self.space.remove(path, overflow.bytes);
        }
        !unused.is_empty()
    }
}

impl Flow {
    /// Whether a batch goes on where the flow is.
    fn check(&self, flow: u32, lsns: Option<(u64, u64)>) -> Result<(), PushError> {
        match (lsns, self.next) {
            _ if self.unplaced => Err(PushError::Unplaced { flow }),
            (Some((found, _)), Some(expected)) if found != expected => Err(PushError::Gap {
                flow,
                expected,
                found,
            }),
            // A new snapshot, where the journal of an old one is.
            (None, Some(_)) => Err(PushError::Unplaced { flow }),
            _ => Ok(()),
        }
    }

    /// What is on disk, or on its way there, is of no use any more. The segments there were.
    fn begin_run(&mut self) -> Vec<Segment> {
        self.run += 1;
        (self.journal, self.overflow) = (None, None);
        self.pending.clear();
        self.segments.drain(..).collect()
    }

    /// Takes a batch that is about to be written, and keeps it for the outlet if there is a share. Its number.
    fn expect(&mut self, staged: &mut Staged, direct: Option<Share>) -> u64 {
        let number = self.count(&staged.batch);
        if let Some((_, next)) = staged.lsns {
            self.next = Some(next);
            self.received(next, staged.batch.received_at_ms);
        }
        let first = staged.lsns.map(|(first, _)| first);
        self.pending.push_back(Pending { number, first });
        let batch = staged.take();
        match direct {
            Some(direct) => self.keep(number, batch, direct),
            None => self.unwritten.push_back(Held {
                number,
                batch: Some(batch),
            }),
        }
        number
    }

    /// The number of this batch.
    fn count(&mut self, batch: &Batch) -> u64 {
        if let Some(Item::Stable { next }) = batch.items.last() {
            self.next = Some(*next);
            self.on_disk.send_replace(*next);
        }
        let number = self.number;
        self.number += 1;
        number
    }
}

impl Staged {
    /// The batch, leaving nothing.
    fn take(&mut self) -> Batch {
        let nothing = Batch {
            bytes: bytes::Bytes::new(),
            items: Vec::new(),
            received_at_ms: 0,
            share: Share::none(),
        };
        std::mem::replace(&mut self.batch, nothing)
    }
}
