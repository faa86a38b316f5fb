//! What is sent and answered as one: a run of items, and how far its replies have come.
//!
//! Invariants: items are in order of their first command; a batch that is atomic, or does not start
//!   in the connection's database, is sent as a transaction, so that no refused `SELECT` can let
//!   the commands behind it act on another database. Behind a fence every transaction begins and ends in the
//!   position database, stores the position it reaches, and is followed by what the next one stands behind:
//!
//! ```text
//!  plain        commands                                                        GET fence
//!  transaction  MULTI HSET position.. SELECT commands SELECT EXEC   WATCH fence GET fence HEXISTS position
//!               └────── prelude ───────────┘          └──── epilogue, the last of it the checks ──────────┘
//! ```

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::Kind;
use super::guard::Guard;
use crate::resp;
use crate::target::answer::Tolerate;
use crate::target::error::TargetError;
use crate::target::failed::Failed;
use crate::target::outgoing::Outgoing;

/// Memory kept for reuse with an emptied batch.
const KEPT: usize = 1 << 20;

/// One item's commands, or one `SELECT` between items.
#[derive(Debug, Clone, Copy)]
pub(in crate::target) struct Item {
    /// Its first command.
    pub first: usize,
    pub db: u32,
    pub tolerate: Tolerate,
    /// Whether it is a `SELECT` of ours.
    pub select: bool,
}

#[derive(Debug, Default)]
pub(in crate::target) struct Batch {
    pub out: Outgoing,
    pub items: Vec<Item>,
    /// The position reached when everything is answered.
    pub reaches: Option<u64>,
    /// Whether it holds what is not safe to repeat, or more than one database.
    pub atomic: bool,
    pub first_db: u32,
    pub last_db: u32,
    /// Databases that were not known to exist when it was begun.
    pub unverified: Vec<u32>,
    /// Made by us to see whether databases exist.
    pub probe: bool,
    /// Made by us to look at the fence before the first transaction.
    pub arming: bool,
    /// Sent even without commands: to store the position.
    pub bare: bool,
    /// When its first item was begun, and how long after that its answers may come before its keys are doubted.
    pub begun: Option<(Instant, Duration)>,
    /// Whether the answer 0 to some of its commands means that a key is missing.
    pub watches: bool,
    /// Records of refused entries that are stored with it.
    pub failed: Vec<Failed>,
    /// The error that its answer leads to.
    pub then: Option<Box<TargetError>>,
    pub sending: Sending,
}

/// What is asked behind a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::target) enum Checks {
    #[default]
    Nothing,
    /// `GET` of the fence.
    Fence,
    /// `WATCH` and `GET` of the fence, `HGET` of the position: before the first transaction.
    Arming,
    /// `WATCH` and `GET` of the fence, `HEXISTS` of the record: before the next transaction. The position was just
    /// stored, which would make a record that is gone.
    Rearming,
}

impl Checks {
    /// Replies they get.
    #[inline]
    pub fn replies(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Fence => 1,
            Self::Arming | Self::Rearming => 3,
        }
    }
}

/// One attempt to send a batch, and its replies.
#[derive(Debug, Default)]
pub(in crate::target) struct Sending {
    /// Commands before this one were answered in an earlier attempt.
    pub from: usize,
    /// Whether it travels between `MULTI` and `EXEC`.
    pub transaction: bool,
    pub prelude: BytesMut,
    pub epilogue: BytesMut,
    /// Replies to the commands of the prelude.
    pub prelude_replies: usize,
    pub checks: Checks,
    /// The position that is stored with it.
    pub stores: Option<u64>,
    /// When it was started.
    pub at: Option<Instant>,
    /// Replies in all.
    pub expected: usize,
    pub answered: usize,
    /// Errors before `EXEC`: which reply, and its text.
    pub queue_errors: Vec<(usize, Vec<u8>)>,
    /// Whether `MULTI` itself was refused.
    pub multi_refused: bool,
    /// Nothing of it was executed, and what was refused for good is taken out: it is to be sent again.
    pub again: bool,
}

impl Sending {
    /// Replies still to come.
    #[inline]
    pub fn left(&self) -> usize {
        self.expected - self.answered
    }
}

impl Batch {
    /// Prepares for one item's commands.
    #[inline]
    pub fn begin(&mut self, kind: Kind, db: u32, tolerate: Tolerate) {
        if self.items.is_empty() {
            self.first_db = db;
            self.last_db = db;
        } else if self.last_db != db {
            self.select(db);
        }
        self.atomic |= kind == Kind::Entry;
        self.items.push(Item {
            first: self.out.commands(),
            db,
            tolerate,
            select: false,
        });
    }

    /// Appends a `SELECT`, which makes the batch atomic.
    pub fn select(&mut self, db: u32) {
        self.items.push(Item {
            first: self.out.commands(),
            db,
            tolerate: Tolerate::Nothing,
            select: true,
        });
        self.out.command(2, None);
        self.out.word(b"SELECT");
        self.out.int(i64::from(db));
        self.last_db = db;
        self.atomic = true;
    }

    pub fn is_empty(&self) -> bool {
        self.out.is_empty() && self.failed.is_empty() && !self.bare && !self.arming
    }

    /// Has it sent even if nothing is added to it.
    pub fn stand_alone(&mut self, position_db: u32) {
        if self.items.is_empty() {
            self.first_db = position_db;
            self.last_db = position_db;
        }
        self.bare = true;
        self.atomic = true;
    }

    /// The item a command belongs to.
    pub fn item_of(&self, command: usize) -> Option<Item> {
        let behind = self.items.partition_point(|item| item.first <= command);
        self.items.get(behind.checked_sub(1)?).copied()
    }

    /// Forgets one command.
    pub fn remove(&mut self, command: usize) {
        self.out.remove(command);
        for item in &mut self.items {
            if item.first > command {
                item.first -= 1;
            }
        }
    }

    /// Encodes what stands around the commands, for a connection whose database is `db`.
    pub(in crate::target::writer) fn prepare(&mut self, db: Option<u32>, guard: Option<&Guard>) {
        let transaction = self.needs_transaction(db);
        let from = self.sending.from;
        let sending = &mut self.sending;
        sending.prelude.clear();
        sending.epilogue.clear();
        sending.queue_errors.clear();
        sending.multi_refused = false;
        sending.answered = 0;
        sending.prelude_replies = 0;
        sending.expected = 0;
        sending.stores = None;
        sending.transaction = transaction;
        sending.checks = match guard {
            None => Checks::Nothing,
            Some(_) if self.arming => Checks::Arming,
            Some(_) if transaction => Checks::Rearming,
            Some(_) => Checks::Fence,
        };
        if transaction {
            self.open_transaction(db, guard);
            self.close_transaction(guard);
        }
        let sending = &mut self.sending;
        sending.expected += self.out.commands() - from + sending.checks.replies();
        if let Some(guard) = guard {
            guard.ask(sending.checks, &mut sending.epilogue);
        }
    }

    /// Encodes what comes before the commands. The position is first: the connection is in its database.
    fn open_transaction(&mut self, db: Option<u32>, guard: Option<&Guard>) {
        let sending = &mut self.sending;
        let out = &mut sending.prelude;
        words(out, &[b"MULTI"]);
        sending.prelude_replies = 1;
        if let Some(guard) = guard {
            sending.stores = self.reaches.filter(|next| guard.stored != Some(*next));
            if let Some(next) = sending.stores {
                guard.store(next, out);
                sending.prelude_replies += 1;
            }
            for failed in &self.failed {
                guard.record(failed, out);
                sending.prelude_replies += 1;
            }
        }
        let is_there = guard.is_some() && db == Some(self.first_db);
        if !self.probe && !self.items.is_empty() && !is_there {
            select(out, self.first_db);
            sending.prelude_replies += 1;
        }
        sending.expected = sending.prelude_replies;
    }

    /// Encodes what comes behind the commands.
    fn close_transaction(&mut self, guard: Option<&Guard>) {
        let sending = &mut self.sending;
        if let Some(guard) = guard
            && !self.arming
            && (self.last_db != guard.position_db || self.probe)
        {
            select(&mut sending.epilogue, guard.position_db);
            sending.expected += 1;
        }
        words(&mut sending.epilogue, &[b"EXEC"]);
        sending.expected += 1;
    }

    /// Whether it will be sent as a transaction on a connection whose database is `db`.
    pub fn needs_transaction(&self, db: Option<u32>) -> bool {
        self.atomic || !self.items.is_empty() && db != Some(self.first_db)
    }

    /// Prepares for another attempt, from command `from` on.
    pub fn rewind(&mut self, from: usize) {
        self.sending.from = from;
        self.sending.answered = 0;
        self.sending.expected = 0;
        self.sending.again = false;
    }

    /// Empties it, for reuse.
    pub fn clear(&mut self) {
        if self.out.in_memory() > KEPT {
            self.out = Outgoing::new();
        }
        self.out.clear();
        self.items.clear();
        self.reaches = None;
        self.atomic = false;
        self.unverified.clear();
        self.probe = false;
        self.arming = false;
        self.bare = false;
        self.watches = false;
        self.begun = None;
        self.failed.clear();
        self.then = None;
        self.rewind(0);
    }
}

fn select(out: &mut BytesMut, db: u32) {
    let db = itoa::Buffer::new().format(db).to_owned();
    words(out, &[b"SELECT", db.as_bytes()]);
}

/// Encodes a small command.
pub(in crate::target) fn words(out: &mut BytesMut, words: &[&[u8]]) {
    resp::command_start(out, words.len());
    words.iter().for_each(|word| resp::bulk(out, word));
}
