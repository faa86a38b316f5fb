//! One flow's way into the target: items in, batches out, replies matched, positions applied.
//!
//! Invariants: items take effect in the order they were pushed; a transaction is sent only when
//!   nothing is unanswered, and nothing is sent behind it; what may have been executed is sent
//!   again only if it is a record, and then from its item's first command on. Behind a
//!   [fence](super::Fence), entries take effect in the transaction that stores the position they reach, and none does
//!   once the fence is another's; records that were on their way then still do.
//! Units: bytes of memory for the window and batches; times are `Duration`.
//!
//! ```text
//!  begin ──► open ──seal──► queue: │ sent, unanswered │ waiting │
//!                                   └─ replies ─► applied, reused
//!                                   └─ refused for now ─► all answered ─► backoff ─► waiting
//! ```

pub(super) mod batch;
mod guard;
pub(super) mod link;
pub(super) mod missed;
pub(super) mod patience;
mod refused;
mod replies;
mod retry;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use self::batch::Batch;
use self::guard::Guard;
use self::link::{Link, WriteError};
use self::patience::Patience;
use self::refused::Refused;
use self::retry::{Retry, Trouble};
use super::answer::{Refusal, Tolerate};
use super::dead_letter::ErrorPolicy;
use super::error::TargetError;
use super::outgoing::{Described, Outgoing};
use super::settings::Settings;
use crate::resp::Scanner;

pub use self::guard::Fenced;
use self::missed::Missing;
pub use self::missed::{ANSWERS_MISSING, MayExpire, Missed};

/// Unanswered plain batches; more would only split the same bytes into smaller writes.
const MOST_SENT: usize = 4;
/// Emptied batches kept for reuse.
const SPARE: usize = 2;
/// Notices kept until somebody asks; the counters go on.
pub(super) const NOTICES: usize = 64;

/// Whether an item may take effect twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key as a whole: its commands, run again from the first, leave the same value.
    Record,
    /// A journal command: exactly once, so it travels in a transaction.
    Entry,
}

/// Sizes and delays of a writer, and where it puts what is too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of commands in memory, sent or not, from which on there is no room.
    pub window: usize,
    /// Bytes from which on a batch is complete.
    pub batch_bytes: usize,
    /// Commands from which on a batch is complete.
    pub batch_commands: usize,
    /// First wait after a refusal; doubles.
    pub retry_initial: Duration,
    /// Longest wait.
    pub retry_max: Duration,
    /// The connection is given up when an answer is due and nothing has been written or read for this long.
    pub answer: Duration,
    /// Where commands go that wait for long, in files without a name.
    pub spill_dir: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 2 << 20,
            batch_bytes: 512 << 10,
            batch_commands: 2048,
            retry_initial: Duration::from_millis(200),
            retry_max: Duration::from_secs(5),
            answer: Duration::from_secs(60),
            spill_dir: std::env::temp_dir(),
        }
    }
}

/// What a writer has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands answered for.
    pub commands: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Commands recorded and passed over.
    pub skipped: u64,
    /// Waits because the target refused for now.
    pub retries: u64,
    /// Bytes sent and not answered for.
    pub in_flight_bytes: u64,
}

/// Something the operator should read.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The target refuses for now; the writer tries again by itself.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The target's words.
        answer: String,
        /// Until the next attempt.
        wait: Duration,
        /// How often in a row, from 1.
        attempt: u32,
    },
    /// It accepts again.
    Recovered {
        /// Since the first refusal.
        after: Duration,
        /// How many attempts were refused.
        attempts: u32,
    },
    /// Slots of a cluster are on the move for longer than usual: their entries wait, and nothing else.
    Moving {
        /// Which.
        slots: Vec<u16>,
    },
    /// A command was refused for good, recorded, and passed over.
    Skipped {
        /// Which.
        command: Described,
        /// In which database of the target.
        db: u32,
        /// The target's words.
        answer: String,
    },
}

/// One connection, owned by one flow.
#[derive(Debug)]
pub struct Writer {
    addr: String,
    link: Link,
    scanner: Scanner,
    limits: Limits,
    policy: ErrorPolicy,
    /// Being filled.
    open: Batch,
    /// Complete, in order; the first `sent` are sent, or being sent, and not all answered.
    queue: VecDeque<Batch>,
    sent: usize,
    /// Whose reply comes next. Not 0 only while there is trouble.
    awaiting: usize,
    spare: Vec<Batch>,
    /// Memory of `queue`.
    queued: usize,
    /// The connection's database, once one was selected.
    db: Option<u32>,
    verified: Vec<u32>,
    guard: Option<Guard>,
    /// What was refused for good in the transaction whose checks are still to be answered.
    refused: Refused,
    /// The refusal that made the first batch of the queue one to be sent again.
    trouble: Option<Trouble>,
    retry: Retry,
    /// For how long an answer has been due.
    overdue: Patience,
    notices: VecDeque<Notice>,
    /// Keys that entries found missing, or may have: noted rather than being an error.
    missing: Missing,
    applied: Option<u64>,
    counters: Counters,
    /// Whether something happened that the caller waits for.
    stirred: bool,
}

impl Writer {
    /// Connects and logs in. With a fence, the server must be the one it was taken on, and positions are stored.
    pub async fn connect(
        settings: &Settings,
        limits: Limits,
        policy: ErrorPolicy,
        fenced: Option<Fenced>,
    ) -> Result<Self, TargetError> {
        let link = {
            let server = fenced.as_ref().map(|fenced| fenced.fence.server());
            Link::open(settings, server, None).await?
        };
        let guard = fenced.map(Guard::new);
        let db = guard.as_ref().map(|guard| guard.position_db);
        Ok(Self {
            addr: settings.addr(),
            link,
            scanner: Scanner::new(),
            retry: Retry::new(limits.retry_initial, limits.retry_max),
            overdue: Patience::new(limits.answer),
            limits,
            policy,
            open: Batch::default(),
            queue: VecDeque::new(),
            sent: 0,
            awaiting: 0,
            spare: Vec::new(),
            queued: 0,
            applied: guard.as_ref().and_then(|guard| guard.stored),
            guard,
            refused: Refused::default(),
            db,
            verified: db.into_iter().collect(),
            trouble: None,
            notices: VecDeque::new(),
            missing: Missing::default(),
            counters: Counters::default(),
            stirred: false,
        })
    }

    /// Starts an item in a database of the target. Its commands, if any, are pushed to what is
    /// returned before anything else is called. `tolerate` names errors of them that are none.
    #[inline]
    pub fn begin(&mut self, kind: Kind, db: u32, tolerate: Tolerate) -> &mut Outgoing {
        if self.is_full(&self.open) {
            self.seal();
        }
        if self.open.last_db != db || self.open.is_empty() {
            self.expect_db(db);
        }
        if self.open.begun.is_none() {
            self.open.begun = self.missing.begin();
        }
        self.open.begin(kind, db, tolerate);
        &mut self.open.out
    }

    /// When everything pushed so far is answered, position `next` is applied.
    #[inline]
    pub fn mark(&mut self, next: u64) {
        if !self.open.is_empty() {
            self.open.reaches = Some(next);
        } else if let Some(last) = self.queue.back_mut() {
            last.reaches = Some(next);
        } else {
            self.applied = Some(next);
        }
    }

    /// Whether the window is open. One item may be pushed whatever its size.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.queued + self.open.out.in_memory() < self.limits.window
            && !(self.is_full(&self.open) && self.has_next())
    }

    fn is_full(&self, batch: &Batch) -> bool {
        batch.out.in_memory() >= self.limits.batch_bytes
            || batch.out.commands() >= self.limits.batch_commands
    }

    /// Whether the batch is there that follows on an unanswered transaction. More would wait for nothing: in memory, and
    /// while keys expire.
    fn has_next(&self) -> bool {
        let first = self.queue.front().filter(|_| self.sent > 0);
        first.is_some_and(|first| first.sending.transaction) && self.queue.len() > self.sent
    }

    /// Whether everything pushed was answered.
    pub fn is_settled(&self) -> bool {
        self.open.is_empty() && self.queue.is_empty()
    }

    /// The position everything before which the target has answered for.
    pub fn applied(&self) -> Option<u64> {
        self.applied
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let in_flight = self.queue.iter().take(self.sent);
        Counters {
            in_flight_bytes: in_flight.map(|batch| batch.out.len()).sum(),
            ..self.counters
        }
    }

    /// The oldest notice not yet taken.
    pub fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Closes the connection in order; best when everything is settled.
    pub async fn close(mut self) -> io::Result<()> {
        self.link.close().await
    }

    /// Writes what can be written and reads what has come, until something was answered for or
    /// there is a notice. Pending for ever while there is nothing to do, unless the connection ends. After an error the
    /// writer is of no further use.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TargetError>> {
        loop {
            if self.retry.poll_ready(cx) {
                self.poll_send(cx)?;
            }
            if std::mem::take(&mut self.stirred) {
                return Poll::Ready(Ok(()));
            }
            match self.link.poll_read(cx) {
                Poll::Pending if self.sent > 0 => {
                    if self.overdue.poll_lost(self.link.written, cx).is_ready() {
                        return Poll::Ready(Err(self.silent()));
                    }
                    return Poll::Pending;
                }
                Poll::Pending => {
                    self.overdue.nothing_is_due();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.lost(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(count)) => {
                    self.overdue.nothing_is_due();
                    self.take_replies(count)?;
                }
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(self.lost(cause))),
            }
        }
    }

    /// Sends until the socket is full or there is nothing that may be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), TargetError> {
        loop {
            let writing = self.link.is_writing() || self.start_next();
            let batch = self
                .sent
                .checked_sub(1)
                .and_then(|last| self.queue.get(last));
            match self.link.poll_write(batch, cx) {
                Poll::Ready(Ok(())) if writing => {}
                Poll::Ready(Ok(())) | Poll::Pending => return Ok(()),
                Poll::Ready(Err(WriteError::Socket(cause))) => return Err(self.lost(cause)),
                Poll::Ready(Err(WriteError::Spill(cause))) => {
                    return Err(TargetError::Spill(cause));
                }
            }
        }
    }

    /// Starts the next batch if it may be sent now.
    fn start_next(&mut self) -> bool {
        let behind_transaction = self.sent > 0
            && self
                .queue
                .front()
                .is_some_and(|batch| batch.sending.transaction);
        if behind_transaction || self.trouble.is_some() || self.sent >= MOST_SENT {
            return false;
        }
        let next = self.queue.get(self.sent).unwrap_or(&self.open);
        let must_wait = next.needs_transaction(self.db) || !next.unverified.is_empty();
        if next.is_empty() || self.sent > 0 && must_wait {
            return false;
        }
        // What waits stays open until it may go: more may join it.
        if self.sent == self.queue.len() {
            self.seal();
        }
        let Some(next) = self.queue.get_mut(self.sent) else {
            return false;
        };
        if !next.unverified.is_empty() {
            let mut probe = Batch {
                probe: true,
                ..Batch::default()
            };
            let databases = std::mem::take(&mut next.unverified);
            databases.into_iter().for_each(|db| probe.select(db));
            self.queue.push_front(probe);
        }
        let db = self.db;
        let is_armed = self.guard.as_ref().is_none_or(|guard| guard.armed);
        let needs = |batch: &Batch| batch.needs_transaction(db) && !batch.arming;
        if !is_armed && self.queue.get(self.sent).is_some_and(needs) {
            // Nothing is unanswered, or a transaction would have to wait.
            self.queue.push_front(Batch {
                arming: true,
                // An empty one: were MULTI not permitted, what follows it would be executed by itself.
                atomic: true,
                ..Batch::default()
            });
        }
        if let Some(batch) = self.queue.get_mut(self.sent) {
            batch.prepare(db, self.guard.as_ref());
            batch.sending.at = Some(Instant::now());
            if let Some(guard) = &mut self.guard
                && batch.sending.transaction
            {
                guard.armed = false;
            }
            self.link.start(batch);
            self.sent += 1;
        }
        true
    }

    /// The open batch is complete.
    fn seal(&mut self) {
        let next = self.spare.pop().unwrap_or_default();
        let sealed = std::mem::replace(&mut self.open, next);
        self.queued += sealed.out.in_memory();
        self.queue.push_back(sealed);
    }

    /// Has a database looked for before anything is written to it.
    fn expect_db(&mut self, db: u32) {
        let is_expected = |batch: &Batch| {
            batch.unverified.contains(&db)
                || batch.probe && batch.items.iter().any(|item| item.db == db)
        };
        if !self.verified.contains(&db)
            && !is_expected(&self.open)
            && !self.queue.iter().any(is_expected)
        {
            self.open.unverified.push(db);
        }
    }

    fn silent(&self) -> TargetError {
        TargetError::Silent {
            addr: self.addr.clone(),
            doing: "writing".to_owned(),
            after: self.limits.answer,
        }
    }

    fn lost(&self, cause: io::Error) -> TargetError {
        let in_flight = self.queue.iter().take(self.sent);
        TargetError::Lost {
            addr: self.addr.clone(),
            unanswered: in_flight
                .map(|batch| batch.sending.expected - batch.sending.answered)
                .sum(),
            cause,
        }
    }

    fn notify(&mut self, notice: Notice) {
        if self.notices.len() < NOTICES {
            self.notices.push_back(notice);
        }
        self.stirred = true;
    }
}
