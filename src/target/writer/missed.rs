//! Keys that an entry took for granted and the target no longer had: it had let them expire before the entry came.
//!
//! Invariant: nothing is noted unless somebody said with [`Writer::note_missing`] that he will read such keys again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Writer;
use super::refused::Site;
use crate::commands;
use crate::entry::{Args, ArgsWriter};
use crate::target::answer::Tolerate;
use crate::target::outgoing::{Outgoing, Word};
use crate::target::position::PREFIX;

/// A slow network: 10 MB/s.
const BYTES_PER_US: u64 = 10;

/// How long the target may be silent before nothing more is handed to it.
pub(in crate::target) const HELD_UP: Duration = Duration::from_millis(100);

/// A key that was to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// Database of the target.
    pub db: u32,
    /// The key.
    pub key: Vec<u8>,
    /// It was missing. Else it may have expired before the entry came.
    pub certain: bool,
}

/// Gives single fields of a hash an end.
const EXPIRES_FIELDS: &[u8] = b"HPEXPIREAT";

/// Commands whose answer 0 means that their key is missing; `HPEXPIREAT`'s -2, a field.
pub const ANSWERS_MISSING: [&[u8]; 5] = [
    b"PEXPIREAT",
    b"PERSIST",
    b"LPUSHX",
    b"RPUSHX",
    EXPIRES_FIELDS,
];

/// Whether a key may expire on the target.
pub type MayExpire = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// What is noted, and what has been.
#[derive(Default)]
pub(in crate::target) struct Missing {
    /// How long after they were begun entries may take effect; none while nothing is noted.
    patience: Option<Duration>,
    /// Of others than these nothing is noted that may only have been missing.
    may_expire: Option<MayExpire>,
    /// Until somebody asks.
    found: Vec<Missed>,
}

impl std::fmt::Debug for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Missing")
            .field("patience", &self.patience)
            .field("found", &self.found.len())
            .finish_non_exhaustive()
    }
}

impl Missing {
    /// See [`Writer::note_missing`].
    pub fn note_from_now_on(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// See [`Writer::may_expire`].
    pub fn are_among(&mut self, may_expire: MayExpire) {
        self.may_expire = Some(may_expire);
    }

    /// Whether anything is noted.
    #[inline]
    pub fn is_noted(&self) -> bool {
        self.patience.is_some()
    }

    /// For what is begun now: when that was, and how long after it its answers may come.
    pub fn begin(&self) -> Option<(Instant, Duration)> {
        let patience = self.patience?;
        Some((Instant::now(), patience))
    }

    pub fn take(&mut self) -> Vec<Missed> {
        std::mem::take(&mut self.found)
    }

    /// Notes the keys that a command took for granted, if its name is one that is meant; whether they were certainly
    /// missing, and in which database.
    pub fn note(
        &mut self,
        out: &Outgoing,
        command: usize,
        certain: bool,
        of: impl Fn(&[u8]) -> bool,
        db: impl Fn() -> Option<u32>,
    ) {
        // Few are meant, and only those are copied.
        let name = out.word_at(command, 0).and_then(|word| word.in_memory());
        if !name.is_some_and(of) {
            return;
        }
        // Its keys are among its words.
        let may_expire = |word: Word<'_>| match (&self.may_expire, word.in_memory()) {
            (Some(may_expire), Some(word)) => may_expire(word),
            _ => true,
        };
        if !certain && !out.words(command).skip(1).any(may_expire) {
            return;
        }
        if let Some(db) = db() {
            self.found.extend(keys_of(out, command, (db, certain)));
        }
    }
}

impl Writer {
    /// From now on a journal entry that finds its key missing is no error: its keys are noted, and so are those of
    /// entries that have taken effect later than `patience` after they were begun.
    pub fn note_missing(&mut self, patience: Duration) {
        self.missing.note_from_now_on(patience);
    }

    /// Only keys for which this holds may be missing because they have expired.
    pub fn may_expire(&mut self, may_expire: MayExpire) {
        self.missing.are_among(may_expire);
    }

    /// Whether the target has not answered for a transaction for 100 ms. More would only wait.
    pub fn is_held_up(&self) -> bool {
        let sent = self.queue.front().filter(|_| self.sent > 0);
        let sent = sent.filter(|batch| batch.sending.transaction);
        let at = sent.and_then(|batch| batch.sending.at);
        at.is_some_and(|at| at.elapsed() > HELD_UP)
    }

    /// The item that was begun is one of [`ANSWERS_MISSING`].
    #[inline]
    pub fn watch(&mut self) {
        self.open.watches |= self.missing.is_noted();
    }

    /// The keys noted since the last call.
    pub fn take_missed(&mut self) -> Vec<Missed> {
        self.missing.take()
    }

    /// Whether zeros in the next reply mean something.
    #[inline]
    pub(super) fn is_watching(&self) -> bool {
        self.missing.is_noted()
            && self.awaiting < self.sent
            && self
                .queue
                .get(self.awaiting)
                .is_some_and(|batch| batch.watches)
    }

    /// An executed transaction has answered: those of its commands that answered 0 and should not have.
    pub(super) fn take_missed_of_zeros(&mut self) {
        if !self.is_watching() {
            return;
        }
        for zero in self.scanner.take_zeros() {
            let Ok(element) = usize::try_from(zero) else {
                continue;
            };
            if let Site::Command(command) = self.site(element) {
                self.note_keys(command, true, |name| ANSWERS_MISSING.contains(&name));
            }
        }
    }

    /// An executed transaction has answered: the keys of entries that came too late.
    pub(super) fn take_missed_of_delay(&mut self) {
        let batch = self.queue.get(self.awaiting);
        let Some(batch) = batch.filter(|batch| batch.atomic && !batch.probe && !batch.arming)
        else {
            return;
        };
        if self.missing.is_noted() && came_late(batch.begun, batch.out.len()) {
            (0..batch.out.commands()).for_each(|command| self.note_keys(command, false, |_| true));
        }
    }

    /// Whether an error of an executed entry says no more than that its key is missing. Then its keys are noted.
    pub(super) fn is_missing(&mut self, command: usize, error: &[u8]) -> bool {
        let noted = self.missing.is_noted() && Tolerate::NoSuchKey.covers(error);
        if noted {
            self.note_keys(command, true, |_| true);
        }
        noted
    }

    fn note_keys(&mut self, command: usize, certain: bool, of: impl Fn(&[u8]) -> bool) {
        let Some(batch) = self.queue.get(self.awaiting) else {
            return;
        };
        let db = || batch.item_of(command).map(|item| item.db);
        self.missing.note(&batch.out, command, certain, of, db);
    }
}

/// Whether so many bytes took longer than they may, from when they were begun.
pub(in crate::target) fn came_late(begun: Option<(Instant, Duration)>, bytes: u64) -> bool {
    // What is large takes its time on the way.
    let on_the_way = Duration::from_micros(bytes / BYTES_PER_US);
    begun.is_some_and(|(at, patience)| at.elapsed() > patience.saturating_add(on_the_way))
}

/// The keys that a command took for granted.
fn keys_of(out: &Outgoing, command: usize, (db, certain): (u32, bool)) -> Vec<Missed> {
    let mut words = ArgsWriter::default();
    for word in out.words(command) {
        // What is longer is no key.
        words.word(&word.head(LONGEST_KEY));
    }
    let (packed, count) = words.finish();
    let Ok(args) = Args::check(&packed, count) else {
        return Vec::new();
    };
    let depends = |used: commands::KeyUse<'_>| used.read || !used.whole;
    // What the source does not journal under this name.
    let ours = match args.name() {
        EXPIRES_FIELDS => args.get(1),
        b"EVAL" => args.get(3),
        _ => None,
    };
    if ours.is_none() && !commands::keys(&args).any(depends) {
        return Vec::new();
    }
    let keys = commands::keys(&args).map(|used| used.key).chain(ours);
    let keys = keys.filter(|key| !key.starts_with(PREFIX));
    keys.map(|key| Missed {
        db,
        key: key.to_vec(),
        certain,
    })
    .collect()
}

/// The longest key of Redis is 512 MiB, and nobody has one; longer words of one command are values.
pub(in crate::target) const LONGEST_KEY: usize = 64 << 20;
