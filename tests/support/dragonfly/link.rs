//! One replica's flow as its shard sees it: what is still to be sent, and how far it has come.
//!
//! ```text
//! Registered --SYNC--> Snapshot --all units out--> Snapshot, ended --STARTSTABLE--> Stable
//! Registered (partial) ------------------------------------------- STARTSTABLE --> Stable
//! ```
//! Invariants: `unsent` is what was queued and not yet accepted by the kernel, without snapshot units that
//!   nobody waits for; bytes leave in the order in which they were queued.

use super::encode::{journal_blob, lsn_marker};
use super::snapshot::{FULLSYNC_END, FlowPlan, Framing, compressed, trailer};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// Whole seconds between two LSN opcodes, exceeded.
const LSN_EVERY: Duration = Duration::from_secs(3);
/// Bytes of journal blobs that are compressed together.
const BLOBS_BYTES: usize = 8 << 10;

/// Bytes of snapshot units that are written together.
const UNITS_BYTES: usize = 256 << 10;

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// `DFLY FLOW` was answered, nothing was sent.
    Registered,
    /// `DFLY SYNC` was given.
    Snapshot,
    /// `DFLY STARTSTABLE` was given.
    Stable,
}

/// What the sending thread does next.
pub enum Work {
    /// Send these, one after the other; `true` when they count as unsent.
    Bytes(Vec<Bytes>, bool),
    /// Send these bytes, which end the snapshot's records.
    End(Bytes),
    /// Wait until woken, or until the time is over.
    Wait(Option<Duration>),
    /// End.
    Stop,
}

/// The sending thread's state, so that it is woken only when that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Busy,
    Idle,
    /// Something is there, but too little: it wakes up by itself in a moment.
    Gathering,
}

/// One flow of one session.
pub struct Link {
    /// Unique in the process.
    pub id: u64,
    /// The session it belongs to.
    pub session: u32,
    /// How far it has come.
    pub phase: Phase,
    /// The position asked for, when `+PARTIAL` was answered.
    pub partial_from: Option<u64>,
    /// The token of the `DFLY FLOW` reply.
    pub token: String,
    /// The last acknowledged position.
    pub acked: u64,
    /// Whether it gets LSN opcodes.
    pub sends_lsn: bool,
    /// Added to every LSN that is sent, to send wrong ones.
    pub lsn_error: i64,
    /// Wakes the sending thread.
    pub wake: Arc<Condvar>,
    /// Bytes queued and not yet accepted by the kernel.
    pub unsent: usize,
    /// Bytes accepted by the kernel.
    pub written: u64,
    /// Whether the sending thread has begun to write `FULLSYNC_END`.
    pub end_taken: bool,
    /// The count of bytes at which `FULLSYNC_END` is out.
    pub end_at: Option<u64>,
    /// Set when the flow is over.
    pub closed: bool,
    framing: Framing,
    gathers: usize,
    gather_for: Duration,
    plan: Option<Arc<FlowPlan>>,
    sent: Vec<bool>,
    next_unit: usize,
    end_queued: bool,
    /// What a replayed capture sends by itself when stable sync starts.
    recorded: Option<Bytes>,
    lsn_at: Option<Instant>,
    queue: VecDeque<Bytes>,
    tail: Vec<u8>,
    sender: Sender,
}

impl Link {
    /// A flow that was just registered.
    #[must_use]
    pub fn new(
        id: u64,
        session: u32,
        token: String,
        framing: Framing,
        gathers: usize,
        gather_for: Duration,
    ) -> Self {
        Self {
            id,
            session,
            phase: Phase::Registered,
            partial_from: None,
            token,
            acked: 0,
            sends_lsn: true,
            lsn_error: 0,
            wake: Arc::new(Condvar::new()),
            unsent: 0,
            written: 0,
            end_taken: false,
            end_at: None,
            closed: false,
            framing,
            gathers,
            gather_for,
            plan: None,
            sent: Vec::new(),
            next_unit: 0,
            end_queued: false,
            recorded: None,
            lsn_at: None,
            queue: VecDeque::new(),
            tail: Vec::new(),
            sender: Sender::Busy,
        }
    }

    /// Starts the snapshot: the header at once, the plan as the connection takes it. A plan that stands for a
    /// recording brings its own header and end.
    pub fn start_snapshot(&mut self, header: Vec<u8>, plan: Arc<FlowPlan>, recorded: bool) {
        self.phase = Phase::Snapshot;
        self.sent = vec![false; plan.units.len()];
        self.plan = Some(plan);
        self.end_queued = recorded;
        if !header.is_empty() {
            self.queue_bytes(header.into());
        }
        self.rouse();
    }

    /// What is sent, after the snapshot, when stable sync starts: a recording's second half.
    pub fn set_recorded(&mut self, bytes: Bytes) {
        self.recorded = Some(bytes);
    }

    /// Whether every record and `FULLSYNC_END` has been handed to the kernel.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.end_at.is_some_and(|end| self.written >= end)
    }

    /// Starts stable sync at `next`: what is left of the snapshot, its trailer, then bare entries.
    pub fn start_stable(&mut self, next: u64, token: &str, offset_in_blob: bool) {
        if let Some(bytes) = self.recorded.take() {
            self.queue_rest();
            self.seal();
            self.queue_bytes(bytes);
            // The recording has its own first LSN opcode.
            self.lsn_at = Some(Instant::now());
        } else if self.phase == Phase::Snapshot {
            self.queue_rest();
            let (offset, end) = trailer(next, token);
            let blob = if offset_in_blob {
                let mut items = std::mem::take(&mut self.tail);
                self.unsent -= items.len();
                items.extend_from_slice(&offset);
                compressed(self.framing.compression, &items).unwrap_or(items)
            } else {
                self.seal();
                offset
            };
            self.queue_bytes(blob.into());
            self.queue_bytes(end.into());
        }
        self.phase = Phase::Stable;
        self.rouse();
    }

    /// Hands one journal entry over. `keys` are the hashes of its words, any of which may be a key.
    pub fn deliver(&mut self, entry: &[u8], lsn: u64, keys: &[u64], now: Instant) {
        match self.phase {
            Phase::Registered => return,
            Phase::Snapshot => {
                for key in keys {
                    self.send_first(*key);
                }
                let before = self.tail.len();
                journal_blob(entry, &mut self.tail);
                self.unsent += self.tail.len() - before;
                if self.tail.len() >= BLOBS_BYTES {
                    self.seal();
                }
            }
            Phase::Stable => {
                let before = self.tail.len();
                self.tail.extend_from_slice(entry);
                if self.sends_lsn
                    && self
                        .lsn_at
                        .is_none_or(|at| now.duration_since(at) > LSN_EVERY)
                {
                    self.lsn_at = Some(now);
                    lsn_marker(lsn.wrapping_add_signed(self.lsn_error), &mut self.tail);
                }
                self.unsent += self.tail.len() - before;
            }
        }
        self.wake_for_more();
    }

    /// Puts bytes into the stream as they are.
    pub fn inject(&mut self, bytes: &[u8]) {
        self.seal();
        self.queue_bytes(Bytes::copy_from_slice(bytes));
        self.rouse();
    }

    /// What the sending thread does next.
    pub fn work(&mut self) -> Work {
        self.sender = Sender::Busy;
        if self.closed {
            return Work::Stop;
        }
        if !self.queue.is_empty() {
            return Work::Bytes(self.queue.drain(..).collect(), true);
        }
        if self.phase == Phase::Snapshot {
            return self.snapshot_work();
        }
        if self.tail.is_empty() {
            self.sender = Sender::Idle;
            return Work::Wait(None);
        }
        if self.tail.len() < self.gathers {
            self.sender = Sender::Gathering;
            return Work::Wait(Some(self.gather_for));
        }
        self.take_tail()
    }

    /// After [`Work::Wait`] with a time: what has gathered goes out, little as it is.
    pub fn take_tail(&mut self) -> Work {
        self.sender = Sender::Busy;
        let spare = Vec::with_capacity(self.tail.len().clamp(4096, 1 << 18));
        Work::Bytes(vec![std::mem::replace(&mut self.tail, spare).into()], true)
    }

    /// Whether bare journal bytes are gathering.
    #[must_use]
    pub fn gathered(&self) -> bool {
        self.phase == Phase::Stable
            && !self.tail.is_empty()
            && self.queue.is_empty()
            && !self.closed
    }

    /// Notes that the kernel took bytes.
    pub fn took(&mut self, bytes: usize, counted: bool) {
        self.written += bytes as u64;
        if counted {
            self.unsent = self.unsent.saturating_sub(bytes);
        }
    }

    /// Wakes the sending thread, whatever it waits for.
    pub fn rouse(&mut self) {
        self.wake.notify_all();
    }

    /// Journal blobs first, then the next units, then the end.
    fn snapshot_work(&mut self) -> Work {
        if !self.tail.is_empty() {
            self.seal();
            return Work::Bytes(self.queue.drain(..).collect(), true);
        }
        let Some(plan) = self.plan.as_ref() else {
            return Work::Wait(None);
        };
        let (mut units, mut size) = (Vec::new(), 0);
        while self.next_unit < self.sent.len() && size < UNITS_BYTES {
            let at = self.next_unit;
            // A recording's only unit ends with everything up to and including its own end.
            if self.end_queued && at + 1 == self.sent.len() && units.is_empty() {
                self.next_unit += 1;
                self.sent[at] = true;
                self.end_taken = true;
                return Work::End(plan.units[at].clone());
            }
            self.next_unit += 1;
            if !std::mem::replace(&mut self.sent[at], true) {
                size += plan.units[at].len();
                units.push(plan.units[at].clone());
            }
        }
        if !units.is_empty() {
            return Work::Bytes(units, false);
        }
        if !self.end_queued {
            self.end_queued = true;
            self.end_taken = true;
            return Work::End(Bytes::from_static(&FULLSYNC_END));
        }
        self.sender = Sender::Idle;
        Work::Wait(None)
    }

    /// Sends the units of a key ahead of their turn.
    fn send_first(&mut self, hash: u64) {
        let Some((first, last)) = self.plan.as_ref().and_then(|plan| plan.units_of(hash)) else {
            return;
        };
        self.seal();
        for at in first..=last {
            self.queue_unit(at);
        }
    }

    fn queue_unit(&mut self, at: usize) {
        let unsent = self
            .sent
            .get_mut(at)
            .is_some_and(|sent| !std::mem::replace(sent, true));
        if let Some(plan) = self.plan.as_ref().filter(|_| unsent) {
            let unit = plan.units[at].clone();
            self.queue_bytes(unit);
        }
    }

    /// The rest of the snapshot and its end, when stable sync is asked for too early.
    fn queue_rest(&mut self) {
        if self.sent.iter().any(|sent| !sent) {
            self.seal();
            (0..self.sent.len()).for_each(|at| self.queue_unit(at));
        }
        if self.phase == Phase::Snapshot && !self.end_queued {
            self.seal();
            self.end_queued = true;
            self.queue_bytes(Bytes::from_static(&FULLSYNC_END));
        }
    }

    /// Moves what has gathered into the queue; journal blobs are compressed when that is worth it.
    fn seal(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let tail = std::mem::take(&mut self.tail);
        self.unsent -= tail.len();
        let bytes = if self.phase == Phase::Snapshot {
            self.framing.frame(tail)
        } else {
            tail.into()
        };
        self.queue_bytes(bytes);
    }

    fn queue_bytes(&mut self, bytes: Bytes) {
        self.unsent += bytes.len();
        self.queue.push_back(bytes);
    }

    fn wake_for_more(&self) {
        let due = match self.sender {
            Sender::Busy => false,
            Sender::Idle => true,
            Sender::Gathering => self.tail.len() >= self.gathers,
        };
        if due {
            self.wake.notify_all();
        }
    }
}
