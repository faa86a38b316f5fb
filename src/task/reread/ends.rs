//! Ends of keys that are put off: in time, or when the target has let the key expire a moment before?
//!
//! A key that had gone answers 0 to `PEXPIREAT`, and is read again. The answer may be lost with the process, so a key whose
//! end may be near is on the list on the target from the same transaction on, until the answer is there.
//!
//! An entry before that, such as an `INCR`, may have come when the key had just gone on the target, and have made it anew
//! from nothing, which no answer tells. If the source put the end off after that, the old end is near or has just passed
//! when we learn of it: then the key is read again too. If it did not, it deletes the key, and so does the target.
//!
//! Invariant: a key that is said to live on has been given that end by the last entry that gave it one.
//! Units: ends are Unix milliseconds by the source's clock.

use std::collections::{HashMap, VecDeque};

use xxhash_rust::xxh64::xxh64;

use super::expiring::{Gives, gives};
use super::late::{LATE_MS, MARGIN_MS, expiry_in};
use crate::commands;
use crate::entry::{Args, Batch, Command};
use crate::task::applier::Applier;

/// No clock goes so wrong that a target lets a key expire so long before its end.
const FAR_MS: i64 = 600_000;

/// Keys remembered of each flow: 1 MiB.
const KEYS: usize = 1 << 16;

/// When keys end, of those that were given an end last.
#[derive(Debug)]
pub(in crate::task) struct Ends(Box<[(u64, i64)]>);

impl Default for Ends {
    fn default() -> Self {
        // Untouched, it takes no memory.
        Self(vec![(0, 0); KEYS].into())
    }
}

impl Ends {
    fn note(&mut self, db: u32, key: &[u8], at_ms: i64) {
        let (place, hash) = place(db, key);
        if let Some(known) = self.0.get_mut(place) {
            *known = (hash, at_ms);
        }
    }

    fn forget(&mut self, db: u32, key: &[u8]) {
        let (place, hash) = place(db, key);
        if let Some(known) = self.0.get_mut(place).filter(|known| known.0 == hash) {
            *known = (0, 0);
        }
    }

    fn of(&self, db: u32, key: &[u8]) -> Option<i64> {
        let (place, hash) = place(db, key);
        let known = self.0.get(place).filter(|known| known.0 == hash);
        known.map(|known| known.1)
    }
}

fn place(db: u32, key: &[u8]) -> (usize, u64) {
    let hash = xxh64(key, u64::from(db));
    let place = hash % KEYS as u64;
    (usize::try_from(place).unwrap_or_default(), hash)
}

/// Keys, each with its database, and how often.
#[derive(Debug, Default)]
pub(super) struct Counted(HashMap<(u32, Box<[u8]>), usize>);

impl Counted {
    /// Whether it is the first time.
    pub(super) fn add(&mut self, db: u32, key: &[u8]) -> bool {
        let count = self.0.entry((db, key.into())).or_default();
        *count += 1;
        *count == 1
    }

    /// Once less. The key if that was the last time.
    pub(super) fn remove(&mut self, db: u32, key: Box<[u8]>) -> Option<(u32, Box<[u8]>)> {
        let of = (db, key);
        let count = self.0.get_mut(&of)?;
        *count -= 1;
        (*count == 0).then(|| {
            self.0.remove(&of);
            of
        })
    }

    pub(super) fn has(&self, db: u32, key: &[u8]) -> bool {
        !self.0.is_empty() && self.0.contains_key(&(db, key.into()))
    }
}

/// Keys that are on the list on the target until their entries are answered for.
#[derive(Debug, Default)]
pub(in crate::task) struct Doubts {
    /// The position behind each entry.
    order: VecDeque<(u64, u32, Box<[u8]>)>,
    keys: Counted,
}

impl Doubts {
    /// Whether the key was not there.
    fn add(&mut self, behind: u64, db: u32, key: &[u8]) -> bool {
        self.order.push_back((behind, db, key.into()));
        self.keys.add(db, key)
    }

    /// The next key none of whose entries is unanswered any more.
    fn settled(&mut self, applied: u64) -> Option<(u32, Box<[u8]>)> {
        while self.order.front().is_some_and(|first| first.0 <= applied) {
            let (_, db, key) = self.order.pop_front()?;
            let settled = self.keys.remove(db, key);
            if settled.is_some() {
                return settled;
            }
        }
        None
    }
}

impl Applier {
    /// A key is written with this end, or none, perhaps with fields that have ends of their own.
    pub(in crate::task) fn note_end(
        &mut self,
        db: u32,
        key: &[u8],
        at_ms: Option<i64>,
        has_fields: bool,
    ) {
        if at_ms.is_none() && !has_fields {
            return;
        }
        if let Some(expiring) = &self.expiring {
            expiring.note(key);
        }
        match at_ms {
            Some(at_ms) => self.ends.note(db, key, at_ms),
            None => self.ends.forget(db, key),
        }
    }

    /// Whether a key was given an end that is so far away that the target need not be asked whether it has the key.
    pub(super) fn ends_far_away(&self, db: u32, key: &[u8]) -> bool {
        let end = self.ends.of(db, key);
        end.is_some_and(|end| end.saturating_sub(self.source_now_ms()) > FAR_MS)
    }

    /// Notes what an entry does about the ends of keys, and whether its own may have come on the target. Whether that is
    /// likely.
    pub(super) fn note_ends(&mut self, batch: &Batch, command: &Command, args: &Args<'_>) -> bool {
        self.may_have_ended = false;
        let gives = gives(args);
        let ended = self.look_at_ends(&gives, batch, command, args) && self.next.is_some();
        if let Some(expiring) = &self.expiring {
            expiring.note_given(&gives, args);
        }
        ended
    }

    fn look_at_ends(
        &mut self,
        gives: &Gives,
        batch: &Batch,
        command: &Command,
        args: &Args<'_>,
    ) -> bool {
        let (db, key) = (command.db, args.get(1).unwrap_or_default());
        match gives {
            Gives::Nothing => false,
            Gives::End | Gives::Life => {
                // Of late ones the target is asked.
                let is_doubtful = !self.late.is_late() && self.may_expire(key);
                let left = self.ends.of(db, key);
                let left = left.map(|end| end.saturating_sub(self.source_now_ms()));
                self.may_have_ended = is_doubtful && left.is_none_or(|left| left <= MARGIN_MS);
                match expiry_in(args, batch.received_at_ms) {
                    Some(at_ms) => self.ends.note(db, key, at_ms),
                    None => self.ends.forget(db, key),
                }
                if args.name().eq_ignore_ascii_case(b"MOVE")
                    && let Some(to) = args.get(2).and_then(|db| std::str::from_utf8(db).ok())
                    && let Ok(to) = to.parse()
                {
                    self.ends.forget(to, key);
                }
                // An entry takes effect that soon after it was taken, or its delay is noticed.
                is_doubtful && left.is_some_and(|left| (-MARGIN_MS..LATE_MS).contains(&left))
            }
            Gives::OthersEnd => {
                let written = commands::keys(args).filter(|used| used.written);
                written.for_each(|used| self.ends.forget(db, used.key));
                false
            }
        }
    }

    /// An entry was handed to the writer whose answer tells whether its key was there. Until it has come the key is on the
    /// list on the target.
    pub(in crate::task) fn doubt(&mut self, command: &Command, args: &Args<'_>) {
        if let (Some(lsn), Some(key)) = (command.lsn, args.get(1))
            && self.next.is_some()
            && self.doubts.add(lsn.saturating_add(1), command.db, key)
        {
            self.enlist(command.db, key);
        }
    }

    /// The target has answered for what is before this position, and what it missed is withheld.
    pub(in crate::task) fn end_doubts(&mut self, applied: u64) {
        while let Some((db, key)) = self.doubts.settled(applied) {
            if !self.is_enlisted(db, &key) {
                self.unlist(db, &key);
                self.writer.store();
            }
        }
    }

    /// Whether a key has to stay on the list on the target.
    pub(super) fn is_enlisted(&self, db: u32, key: &[u8]) -> bool {
        self.list.has(db, key) || self.doubts.keys.has(db, key) || self.before.waits(db, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_until_it_is_forgotten_or_another_key_takes_its_place() {
        let mut ends = Ends::default();
        assert_eq!(ends.of(0, b"k"), None);
        ends.note(0, b"k", 500);
        assert_eq!((ends.of(0, b"k"), ends.of(1, b"k")), (Some(500), None));
        ends.forget(1, b"k");
        assert_eq!(ends.of(0, b"k"), Some(500));
        ends.forget(0, b"k");
        assert_eq!(ends.of(0, b"k"), None);
        (0..4 * KEYS).for_each(|n| ends.note(0, n.to_string().as_bytes(), 500));
        let known = (0..4 * KEYS).filter(|n| ends.of(0, n.to_string().as_bytes()).is_some());
        let known = known.count();
        assert!((KEYS / 2..=KEYS).contains(&known), "{known}");
    }

    #[test]
    fn a_doubt_ends_with_the_last_entry_of_its_key() {
        let mut doubts = Doubts::default();
        assert!(doubts.add(5, 0, b"k"));
        assert!(doubts.add(6, 1, b"k"));
        assert!(!doubts.add(8, 0, b"k"));
        assert_eq!(doubts.settled(4), None);
        assert_eq!(doubts.settled(7), Some((1, b"k"[..].into())));
        assert_eq!(doubts.settled(7), None);
        assert!(doubts.keys.has(0, b"k") && !doubts.keys.has(1, b"k"));
        assert_eq!(doubts.settled(8), Some((0, b"k"[..].into())));
        assert!(!doubts.keys.has(0, b"k"));
        assert_eq!(doubts.settled(9), None);
    }
}
