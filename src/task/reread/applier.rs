//! A flow's side of it: which entries are withheld, what is asked, what is written.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use super::expiring::Expiring;
use super::late::{LATE_MS, LateKey, MARGIN_MS, expiry_in};
use super::list::{Answer, Place};
use super::reader::{AT_ONCE, Ask};
use super::{Settling, Suspects};
use crate::commands::{self, KeyIter, KeyUse};
use crate::entry::{Args, Batch, Command, Item, unix_ms};
use crate::fail_point;
use crate::target::{Fence, Kind, Outgoing, Tolerate};
use crate::task::applier::Applier;
use crate::task::error::TaskError;

/// Keys withheld by one flow: they take memory, and each has to be read. Where there would be more, everything is copied.
/// A session that has just done that, and has not caught up yet, would only come here again: it applies what comes after
/// them as it comes, and counts it. The audit then compares everything without delay.
const MOST: usize = 200_000;

impl Applier {
    /// Whether a command is not applied, since what the target has of its keys is not to be trusted. Its keys are
    /// withheld then.
    pub(in crate::task) fn withholds(
        &mut self,
        batch: &Batch,
        command: &Command,
        args: &Args<'_>,
        uses: &KeyIter<'_>,
    ) -> bool {
        let ended = self.note_ends(batch, command, args);
        if self.next.is_some() {
            self.forget_baselines();
        }
        if !ended && self.list.is_empty() && !self.late.is_late() && self.baselines.is_none() {
            return false;
        }
        let keeps = keeps_something(args);
        let uses = uses.clone().map(|mut used| {
            used.whole &= !keeps;
            used
        });
        let db = command.db;
        let depends = |used: &KeyUse<'_>| used.read || !used.whole;
        let counts = self.late.is_late()
            && self.context.features.hash_field_expiry()
            && commands::depends_on_field(args);
        let doubted = uses.clone().any(|used| {
            depends(&used)
                && (ended || self.is_doubted(db, &used) || counts && self.may_expire(used.key))
        });
        let since = command.lsn.unwrap_or_default();
        if doubted {
            for used in uses.clone() {
                if used.written || self.is_doubted(db, &used) {
                    self.withhold(db, used.key, since);
                    self.list.touch(db, used.key, command.lsn);
                }
            }
            let mut uses = uses;
            return uses.all(|used| !used.written || self.list.has(db, used.key));
        }
        let expires = match self.late.is_late() {
            true => expiry_in(args, batch.received_at_ms),
            false => None,
        };
        let expires_soon =
            expires.is_some_and(|at| at <= self.source_now_ms().saturating_add(MARGIN_MS));
        for used in uses.filter(|used| used.written) {
            self.late.written(db, used.key, expires_soon, used.whole);
            self.applied_to(command, args, &used, since);
        }
        false
    }

    /// Whether the target may not have the value that the source had before the command.
    fn is_doubted(&self, db: u32, used: &KeyUse<'_>) -> bool {
        self.list.has(db, used.key)
            || self.late.has_lost(db, used.key)
            || self.context.is_unreconciled.load(Ordering::Relaxed)
                && self
                    .baselines
                    .as_ref()
                    .is_some_and(|seen| !seen.has(db, used.key))
    }

    /// Beyond the snapshot, which keys are of it matters only as long as the target may have older ones.
    pub(in crate::task) fn forget_baselines(&mut self) {
        if !self.context.is_unreconciled.load(Ordering::Relaxed) {
            self.baselines = None;
        }
    }

    /// A command that is applied writes this key.
    fn applied_to(&mut self, command: &Command, args: &Args<'_>, used: &KeyUse<'_>, since: u64) {
        let db = command.db;
        if self.next.is_some() {
            // Replaced whole: what it held does not matter any more.
            if self.list.remove(db, used.key) {
                self.unlist(db, used.key);
            }
            if let Some(seen) = self.baselines.as_mut().filter(|_| used.whole) {
                seen.note(db, used.key);
            }
            return;
        }
        self.list.touch(db, used.key, None);
        let Some(seen) = &mut self.baselines else {
            return;
        };
        // The source may leave the deletion of a key out of the journal that it counts on being left out of the
        // snapshot, although it has journalled what made it: then only asking tells.
        let is_told = ["SET", "DEL", "UNLINK"]
            .iter()
            .any(|name| args.name().eq_ignore_ascii_case(name.as_bytes()));
        let may_vanish = self.context.omits_deletions && !is_told && !seen.has(db, used.key);
        if used.whole {
            seen.note(db, used.key);
        }
        if may_vanish {
            self.withhold(db, used.key, since);
        }
    }

    /// From now on nothing is applied to a key before it was read again.
    pub(in crate::task) fn withhold(&mut self, db: u32, key: &[u8], since: u64) {
        if self.list.len() >= fail_point::most_withheld(MOST) && !self.list.has(db, key) {
            let status = &self.context.status;
            let has_copied = !self.context.expiring.is_empty();
            if self.next.is_none() || has_copied && !status.caught_up.load(Ordering::Relaxed) {
                status.unverified.fetch_add(1, Ordering::Relaxed);
            } else {
                self.is_overwhelmed = true;
            }
            return;
        }
        if self.list.add(db, key, since) && self.next.is_some() {
            self.enlist(db, key);
        }
    }

    /// # Errors
    /// When a key should be withheld, and too many are.
    pub(in crate::task) fn endure(&self) -> Result<(), TaskError> {
        match self.is_overwhelmed {
            true => Err(TaskError::Overwhelmed {
                flow: self.flow,
                keys: self.list.len(),
            }),
            false => Ok(()),
        }
    }

    /// Puts a key on the list on the target, with what is applied next.
    pub(super) fn enlist(&mut self, db: u32, key: &[u8]) {
        self.keep(|fence, out, flow| fence.enlist(out, flow, db, key));
    }

    /// Takes it off there.
    pub(super) fn unlist(&mut self, db: u32, key: &[u8]) {
        self.keep(|fence, out, flow| fence.unlist(out, flow, db, key));
    }

    /// Has something kept on the target beside the positions, with what is applied next. Without a fence there are none.
    pub(super) fn keep(&mut self, command: impl FnOnce(&Fence, &mut Outgoing, u32)) {
        let position_db = self.context.task.target.position_db;
        if let Some(fence) = &self.context.fence {
            let out = self
                .writer
                .begin(Kind::Entry, position_db, Tolerate::Nothing);
            command(fence, out, self.flow);
        }
    }

    /// Stable sync begins: what is withheld is put on the list on the target, before the flow's first position.
    pub(in crate::task) fn enlist_all(&mut self) {
        self.forget_baselines();
        let places: Vec<Place> = self
            .list
            .places()
            .map(|(db, key)| Place {
                db,
                key: key.into(),
            })
            .collect();
        places
            .iter()
            .for_each(|place| self.enlist(place.db, &place.key));
        self.schedule_all();
    }

    /// A flush has emptied a database, or all of them.
    pub(in crate::task) fn forget_withheld(&mut self, db: Option<u32>) {
        let gone: Vec<Place> = self
            .list
            .places()
            .filter(|(of, _)| db.is_none_or(|db| db == *of))
            .map(|(db, key)| Place {
                db,
                key: key.into(),
            })
            .collect();
        gone.iter()
            .for_each(|place| self.unlist(place.db, &place.key));
        self.list.clear(db);
        self.forget_schedule(db);
        self.late.end();
    }

    /// Keys that somebody else does not trust. They go on the list on the target too: who suspects them may find them
    /// unsuspicious after a kill, and entries for them that were not applied would be lost.
    pub(in crate::task) fn suspect(&mut self, suspects: Suspects) {
        let since = self.next.unwrap_or_default();
        for place in &suspects.places {
            if self.list.add(place.db, &place.key, since) && self.next.is_some() {
                self.enlist(place.db, &place.key);
            }
        }
        self.settling.push(Settling {
            suspects,
            handed: None,
        });
    }

    /// Tells those who suspected keys that they are settled.
    pub(in crate::task) fn settled(&mut self) {
        for mut settling in std::mem::take(&mut self.settling) {
            match self.is_settled(&mut settling) {
                false => self.settling.push(settling),
                // Nobody listens when the session ends.
                true => drop(settling.suspects.done.send(())),
            }
        }
    }

    fn is_settled(&self, settling: &mut Settling) -> bool {
        let Some(next) = self.next else {
            return false;
        };
        let Suspects { places, reach, .. } = &settling.suspects;
        let mut places = places.iter();
        if next < *reach || places.any(|place| self.list.has(place.db, &place.key)) {
            settling.handed = None;
            return false;
        }
        let handed = *settling.handed.get_or_insert(next);
        // Under load something is unanswered all the time: then a later position tells.
        self.writer.is_settled() || self.writer.applied().is_some_and(|at| at > handed)
    }

    /// Entries that came late found keys missing, or may have.
    pub(in crate::task) fn missed(&mut self) {
        for missed in self.writer.take_missed() {
            let since = self.writer.applied().or(self.next).unwrap_or_default();
            if let Some(db) = self.context.source_db(missed.db)
                && (missed.certain || self.may_expire(&missed.key))
            {
                self.withhold(db, &missed.key, since);
            }
        }
    }

    /// Asks for what is to be read next, unless something is asked already or there are no positions yet.
    pub(in crate::task) fn ask(&mut self) {
        if self.asking.is_some() || self.next.is_none() || self.list.is_empty() {
            return;
        }
        let places = self.list.ask(AT_ONCE);
        if places.is_empty() {
            return;
        }
        fail_point::pass(fail_point::Place::RereadAsk);
        let (answer, asking) = oneshot::channel();
        let flow = self.flow;
        // One question for each flow fits: see where the channel is made.
        let asked = self.context.asks.try_send(Ask {
            flow,
            places,
            answer,
        });
        debug_assert!(asked.is_ok(), "a flow asks once at a time");
        self.asking = Some(asking);
    }

    /// Takes an answer.
    pub(in crate::task) fn answered(&mut self, answer: Answer) -> Result<(), TaskError> {
        self.asking = None;
        fail_point::pass(fail_point::Place::RereadAnswered);
        self.list.answer(answer);
        self.write_due()
    }

    /// The source's clock.
    pub(super) fn source_now_ms(&self) -> i64 {
        let offset = self.context.status.clock_offset_ms.load(Ordering::Relaxed);
        unix_ms().saturating_add(offset)
    }

    /// Whether the next entry was written while nobody listened: it was late when it was received.
    pub(super) fn was_written_unseen(&self) -> bool {
        let behind = self.context.status.flows.get(self.flow as usize);
        let until = behind.map_or(0, |flow| flow.late_until.load(Ordering::Relaxed));
        self.next.is_some_and(|next| next < until)
    }

    /// Whether the entries of a batch are late.
    pub(in crate::task) fn comes_late(&self, batch: &Batch) -> bool {
        self.was_written_unseen()
            || self.source_now_ms().saturating_sub(batch.received_at_ms) > LATE_MS
    }

    /// Keys that these entries take for granted, and that may expire: database of the source, and key.
    pub(in crate::task) fn keys_of_late<'a>(
        &self,
        batches: impl Iterator<Item = &'a Batch>,
    ) -> Result<HashSet<LateKey>, TaskError> {
        let mut keys = HashSet::new();
        if self.expiring.as_ref().is_some_and(Expiring::is_empty) {
            return Ok(keys);
        }
        for batch in batches {
            for item in &batch.items {
                if let Item::Command(command) = item {
                    self.collect_keys(batch, command, &mut keys)?;
                }
            }
        }
        Ok(keys)
    }

    /// Asks the target which of these keys of late entries it has lost. Everything before them is answered for.
    pub(in crate::task) async fn look_at_late(
        &mut self,
        keys: HashSet<LateKey>,
    ) -> Result<(), TaskError> {
        let asked_at = Instant::now();
        let keys: Vec<_> = keys.into_iter().collect();
        let task = self.context.task.clone();
        let there = keys.iter().map(|(db, key)| (task.target.db(*db), &**key));
        let ttls = self.context.ttls(there).await?;
        let is_lost = |ttl: &i64| *ttl == -2 || (0..MARGIN_MS).contains(ttl);
        let lost = keys.into_iter().zip(ttls);
        let lost = lost
            .filter_map(|(key, ttl)| is_lost(&ttl).then_some(key))
            .collect();
        self.late.know(asked_at, lost);
        Ok(())
    }

    pub(in crate::task) fn may_expire(&self, key: &[u8]) -> bool {
        let known = self.expiring.as_ref();
        known.is_none_or(|expiring| expiring.may_have(key))
    }

    fn collect_keys(
        &self,
        batch: &Batch,
        command: &Command,
        keys: &mut HashSet<LateKey>,
    ) -> Result<(), TaskError> {
        let filter = &self.context.task.filter;
        self.with_args(batch, command, |args| {
            let keeps = keeps_something(args);
            // A hash is gone when all its fields have expired, whatever its own end is.
            let is_of_hash = self.context.features.hash_field_expiry()
                && args
                    .name()
                    .first()
                    .is_some_and(|first| first.eq_ignore_ascii_case(&b'H'));
            let asked = commands::keys(args)
                .filter(|used| used.read || !used.whole || keeps)
                .filter(|used| filter.allows(command.db, used.key))
                .filter(|used| self.may_expire(used.key))
                .filter(|used| is_of_hash || !self.ends_far_away(command.db, used.key));
            keys.extend(asked.map(|used| (command.db, used.key.into())));
        })
    }
}

/// Whether a command that replaces a value may keep something of the old one, or depend on there being one.
fn keeps_something(args: &Args<'_>) -> bool {
    const KEEPING: [&[u8]; 4] = [b"KEEPTTL", b"XX", b"NX", b"GET"];
    let is_set = args.name().eq_ignore_ascii_case(b"SET");
    is_set && args.len() > 3 && {
        let mut options = args.iter().skip(3);
        options.any(|word| {
            KEEPING
                .iter()
                .any(|keeping| word.eq_ignore_ascii_case(keeping))
        })
    }
}
