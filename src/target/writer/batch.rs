//! What is sent and answered as one: a run of items, and how far its replies have come.
//!
//! Invariants: items are in order of their first command; a batch that is atomic, or does not start
//!   in the connection's database, is sent as a transaction, so that no refused `SELECT` can let
//!   the commands behind it act on another database.

use bytes::BytesMut;

use super::Kind;
use crate::resp;
use crate::target::answer::Tolerate;
use crate::target::outgoing::Outgoing;

/// Memory kept for reuse with an emptied batch.
const KEPT: usize = 1 << 20;

/// One item's commands, or one `SELECT` between items.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    /// Its first command.
    pub first: usize,
    pub db: u32,
    pub tolerate: Tolerate,
    /// Whether it is a `SELECT` of ours.
    pub select: bool,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
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
    pub sending: Sending,
}

/// One attempt to send a batch, and its replies.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Commands before this one were answered in an earlier attempt.
    pub from: usize,
    /// Whether it travels between `MULTI` and `EXEC`.
    pub transaction: bool,
    pub prelude: BytesMut,
    pub epilogue: BytesMut,
    /// Replies to the commands of the prelude.
    pub prelude_replies: usize,
    /// Replies in all.
    pub expected: usize,
    pub answered: usize,
    /// Errors before `EXEC`: command and text. `None` for the prelude's.
    pub queue_errors: Vec<(Option<usize>, Vec<u8>)>,
    /// Whether `MULTI` itself was refused.
    pub multi_refused: bool,
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
        self.out.is_empty()
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
    pub fn prepare(&mut self, db: Option<u32>) {
        let starts_elsewhere = !self.probe && db != Some(self.first_db);
        let from = self.sending.from;
        let sending = &mut self.sending;
        sending.prelude.clear();
        sending.epilogue.clear();
        sending.queue_errors.clear();
        sending.multi_refused = false;
        sending.answered = 0;
        sending.prelude_replies = 0;
        sending.transaction = self.atomic || starts_elsewhere;
        sending.expected = self.out.commands() - from;
        if sending.transaction {
            words(&mut sending.prelude, &[b"MULTI"]);
            sending.prelude_replies = 1;
            if !self.probe {
                let db = itoa::Buffer::new().format(self.first_db).to_owned();
                words(&mut sending.prelude, &[b"SELECT", db.as_bytes()]);
                sending.prelude_replies = 2;
            }
            close_transaction(&mut sending.epilogue);
            sending.expected += sending.prelude_replies + 1;
        }
    }

    /// Whether it will be sent as a transaction on a connection whose database is `db`.
    pub fn needs_transaction(&self, db: Option<u32>) -> bool {
        self.atomic || db != Some(self.first_db)
    }

    /// Prepares for another attempt, from command `from` on.
    pub fn rewind(&mut self, from: usize) {
        self.sending.from = from;
        self.sending.answered = 0;
        self.sending.expected = 0;
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
        self.rewind(0);
    }
}

/// Ends a transaction. What must commit together with its writes is encoded here, before `EXEC`.
fn close_transaction(out: &mut BytesMut) {
    words(out, &[b"EXEC"]);
}

/// Encodes a small command.
pub(super) fn words(out: &mut BytesMut, words: &[&[u8]]) {
    resp::command_start(out, words.len());
    words.iter().for_each(|word| resp::bulk(out, word));
}
