//! Members of sets and fields of hashes expire at the source, and the target lets them stay: when the first one of a key
//! is due, the key is read again.
//!
//! The source journals nothing when a member expires, and what else happens to it (another `SADD`, `HSET` or `HINCRBY`;
//! the key deleted and made anew) is not to be guessed from here. So what is remembered is only when a key has to be
//! looked at. By then it is withheld, and read by the bracket of [`reread`](super): what the source has of it then is
//! right whatever happened, takes its place in the flow's order, and says when the next member expires. A look that was
//! needless changes nothing. (v1.40: `HSET` ends a field's expiry, `HINCRBY` does not, nor does `SADD` of a member that is
//! there; `RENAME` and `COPY` take them along, `SMOVE` does not.)
//!
//! Which keys come in: values of the snapshot and of `RESTORE` that say so themselves, also those that were read again;
//! `SADDEX`, `HSETEX`, `HEXPIRE`, `HGETEX`, `FIELDEXPIRE`; what `RENAME`, `COPY` and `MOVE` make of a key that is in here.
//!
//! When: the time of a member is the source's, and so is the clock that says that it has come, as far as that is known
//! from here. Before an entry is taken that was received by then, the key is withheld, so no entry of after the expiry
//! meets a member of before it. If the clock here is fast, a member may be removed that the source has yet, by as much:
//! so a key from which one was left out by the clock alone is looked at once more, [`LATER_MS`](crate::target::form::LATER_MS) later.
//!
//! Invariants: a key that has members with an expiry on the target is in here, with no later time than the first of
//!   them, in the target too, from the transaction on that brings them; it leaves in the transaction that withholds it.
//!   Only beyond [`MOST`] keys of a flow none comes in: that is counted as dropped.
//! Units: times are Unix milliseconds by the source's clock.
//! Cost: a key is read whole, at most once in [`APART_MS`] and at no more than [`BYTES_PER_MS`], for all members that have
//!   expired meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::commands::Note;
use crate::entry::{Args, Command};
use crate::target;
use crate::task::applier::Applier;
use crate::task::items::show;

/// A key is not read again earlier than so long after the last time.
const APART_MS: i64 = 1_000;

/// A key of 50 MB is read once a second, one of 500 MB every ten.
const BYTES_PER_MS: u64 = 50_000;

/// No more become due while so many keys are withheld.
const MOST_WITHHELD: usize = 10_000;

/// Keys of one flow: some 40 MB.
const MOST: usize = 200_000;

/// A key of a database of the source.
type Of = (u32, Arc<[u8]>);

/// Keys of which members expire, by time.
#[derive(Debug, Default)]
pub(in crate::task) struct Schedule {
    times: HashMap<Of, i64>,
    order: BTreeSet<(i64, Of)>,
}

impl Schedule {
    /// Members of the key expire at this time. Whether none was known to expire so early; `None` if there is no room.
    fn add(&mut self, db: u32, key: &[u8], at_ms: i64) -> Option<bool> {
        let of: Of = (db, key.into());
        if let Some(known) = self.times.get(&of).copied() {
            if known <= at_ms {
                return Some(false);
            }
            self.order.remove(&(known, of.clone()));
        } else if self.times.len() >= MOST {
            return None;
        }
        self.times.insert(of.clone(), at_ms);
        self.order.insert((at_ms, of));
        Some(true)
    }

    /// How many keys there are.
    pub(in crate::task) fn len(&self) -> usize {
        self.times.len()
    }

    /// When the first member of a key expires.
    fn time(&self, db: u32, key: &[u8]) -> Option<i64> {
        let known = |times: &HashMap<Of, i64>| times.get(&(db, key.into())).copied();
        (!self.times.is_empty()).then(|| known(&self.times))?
    }

    /// Takes out the first key that is due.
    fn take_due(&mut self, now_ms: i64) -> Option<Of> {
        let (at_ms, _) = self.order.first()?;
        if *at_ms > now_ms {
            return None;
        }
        let (_, of) = self.order.pop_first()?;
        self.times.remove(&of);
        Some(of)
    }

    /// Takes out the keys of a database, or all.
    fn take(&mut self, db: Option<u32>) -> Vec<Of> {
        let gone = |of: &Of| db.is_none_or(|db| db == of.0);
        self.order.retain(|(_, of)| !gone(of));
        self.times
            .extract_if(|of, _| gone(of))
            .map(|(of, _)| of)
            .collect()
    }
}

impl Applier {
    /// Members of a key of the source expire at this time.
    pub(in crate::task) fn expires(&mut self, db: u32, key: &[u8], at_ms: i64) {
        self.expires_apart(db, key, at_ms, 0);
    }

    /// Members of a key expire at this time, which has just been read, and has so many bytes.
    pub(in crate::task) fn expires_apart(&mut self, db: u32, key: &[u8], at_ms: i64, bytes: u64) {
        let apart = i64::try_from(bytes / BYTES_PER_MS).unwrap_or(i64::MAX);
        let apart = self.source_now_ms().saturating_add(apart.max(APART_MS));
        let at_ms = at_ms.max(apart);
        match self.members.add(db, key, at_ms) {
            Some(true) if self.next.is_some() => self.schedule(db, key, at_ms),
            Some(_) => {}
            None => {
                let note = Note::MemberExpiryDropped;
                self.context.note(&self.log, db, &show(key), note);
            }
        }
    }

    /// Remembers on the target when a key has to be looked at, with what is applied next.
    fn schedule(&mut self, db: u32, key: &[u8], at_ms: i64) {
        self.keep(|fence, out, flow| fence.schedule(out, flow, db, key, at_ms));
    }

    fn unschedule(&mut self, db: u32, key: &[u8]) {
        self.keep(|fence, out, flow| fence.unschedule(out, flow, db, key));
    }

    /// What an earlier session knew.
    pub(in crate::task) fn resume_schedule(&mut self, members: &[(target::Withheld, i64)]) {
        for (key, at_ms) in members.iter().filter(|(key, _)| key.flow == self.flow) {
            self.members.add(key.db, &key.key, *at_ms);
        }
    }

    /// Stable sync begins: what the snapshot brought is noted on the target, before the flow's first position.
    pub(super) fn schedule_all(&mut self) {
        let all: Vec<_> = self.members.order.iter().cloned().collect();
        for (at_ms, (db, key)) in all {
            self.schedule(db, &key, at_ms);
        }
    }

    /// A flush has emptied a database, or all of them.
    pub(super) fn forget_schedule(&mut self, db: Option<u32>) {
        for (db, key) in self.members.take(db) {
            self.unschedule(db, &key);
        }
    }

    /// A command that is about to be applied gives what a key holds to another one: members keep their expiry.
    pub(in crate::task) fn follow_members(&mut self, command: &Command, args: &Args<'_>) {
        if self.members.times.is_empty() {
            return;
        }
        let is = |name: &[u8]| args.name().eq_ignore_ascii_case(name);
        let number = |at: usize| std::str::from_utf8(args.get(at)?).ok()?.parse::<u32>().ok();
        // Where the word of the new key stands, and that of the new database.
        let (to, to_db) = if is(b"RENAME") || is(b"RENAMENX") {
            (2, None)
        } else if is(b"COPY") {
            let mut options = (3..args.len()).rev();
            let named = |at: &usize| {
                args.get(*at)
                    .is_some_and(|it| it.eq_ignore_ascii_case(b"DB"))
            };
            (2, options.find(named).map(|at| at + 1))
        } else if is(b"MOVE") {
            (1, Some(2))
        } else {
            return;
        };
        let from = args.get(1).unwrap_or_default();
        let Some(at_ms) = self.members.time(command.db, from) else {
            return;
        };
        let to = args.get(to).unwrap_or_default();
        let to_db = to_db.and_then(number).unwrap_or(command.db);
        let filter = &self.context.task.filter;
        if filter.allows_db(to_db) && filter.allows(to_db, to) {
            self.expires(to_db, to, at_ms);
        }
    }

    /// How long it is until the first key is due; none if there is none, or no position yet, or no room.
    pub(in crate::task) fn until_due(&self) -> Option<Duration> {
        self.next.filter(|_| self.list.len() < MOST_WITHHELD)?;
        let (at_ms, _) = self.members.order.first()?;
        let left = at_ms.saturating_sub(self.source_now_ms());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// Withholds the keys of which members have expired by now: they are read again. Nothing while there is no position.
    pub(in crate::task) fn expire_members(&mut self) {
        let Some(next) = self.next.filter(|_| !self.members.times.is_empty()) else {
            return;
        };
        let now_ms = self.source_now_ms();
        let mut any = false;
        while self.list.len() < MOST_WITHHELD
            && let Some((db, key)) = self.members.take_due(now_ms)
        {
            any = true;
            // First on the list, then off the schedule: the two may be cut apart.
            self.withhold(db, &key, next);
            self.unschedule(db, &key);
        }
        if any {
            self.writer.store();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_of_a_key_counts_and_keys_come_in_their_order() {
        let mut members = Schedule::default();
        assert_eq!(members.add(0, b"a", 30), Some(true));
        assert_eq!(members.add(0, b"b", 20), Some(true));
        assert_eq!(
            members.add(0, b"a", 40),
            Some(false),
            "later than the first"
        );
        assert_eq!(members.add(0, b"a", 10), Some(true));
        assert_eq!(members.add(1, b"a", 25), Some(true));
        assert_eq!(members.time(0, b"a"), Some(10));
        assert_eq!(members.time(2, b"a"), None);
        let mut due = |now| members.take_due(now).map(|(db, key)| (db, key.to_vec()));
        assert_eq!(due(9), None);
        assert_eq!(due(20), Some((0, b"a".to_vec())));
        assert_eq!(due(20), Some((0, b"b".to_vec())));
        assert_eq!(due(20), None);
        assert_eq!(due(99), Some((1, b"a".to_vec())));
        assert!(members.times.is_empty() && members.order.is_empty());
    }

    #[test]
    fn a_database_that_is_emptied_takes_its_keys_along_and_there_is_room_again() {
        let mut members = Schedule::default();
        for n in 0..MOST {
            let db = u32::from(n % 2 == 0);
            assert_eq!(members.add(db, n.to_string().as_bytes(), 7), Some(true));
        }
        assert_eq!(members.add(0, b"one more", 7), None);
        assert_eq!(members.add(1, b"0", 5), Some(true), "no more than before");
        assert_eq!(members.take(Some(1)).len(), MOST / 2);
        assert_eq!(members.add(0, b"one more", 7), Some(true));
        assert_eq!(members.take_due(6), None);
        assert_eq!(members.take(None).len(), MOST / 2 + 1);
        assert!(members.times.is_empty() && members.order.is_empty());
    }
}
