//! Entries in which the source's journal is known not to tell the truth, and what is done instead of applying them.
//!
//! The cure is one and the same wherever the entry does not hold what came of the command: nothing is applied, the keys
//! that it wrote are withheld, and read again by the bracket of [`reread`](super). That is exact, since the bracket's value
//! is what the source itself has at a position of the flow, whatever the journal says before it. A key that was suspected
//! for nothing is read once more than needed, and comes out as it is. How often that happens is bounded as for all
//! withheld keys: a flow asks for [`AT_ONCE`](super::reader::AT_ONCE) keys, and waits for the answer; large values are
//! read at 50 MB/s, of all flows together.
//!
//! | defect of the master | recognised by | cure |
//! |---|---|---|
//! | `SORT … STORE`, `GEORADIUS … STORE` over several shards: result lost | the name with nothing but a key, on the flow of each key; a plain `SORT k` in a transaction looks the same | the keys it names are read again: one of them is the result's |
//! | `SORT … STORE`, `GEORADIUS … STORE` in one shard: the target computes it anew, with equal elements in another order, and distances that differ in the last bits | `STORE`, `STOREDIST` | the result is read again |
//! | `ZUNIONSTORE` and its kin, `LMPOP`, `ZMPOP`, `COPY` over several shards, up to v1.33: result lost | words are missing | the keys it writes are read again |
//! | `Z…STORE` from v1.34 on: scores cut to six digits | `DEL k` and `ZADD k` with one transaction id; with none, one right behind the other. A client may write that itself | `k` is read again |
//! | `LMPOP … COUNT n`: one element taken | `LPOP k` or `RPOP k` in a transaction, without a push into another list in the same one, which would make it a move | `k` is read again, once the other flows have had time to bring that push |
//! | `BLMPOP … COUNT n`, if it need not wait: likewise | not: it looks like `LPOP k` | the audit finds it |
//! | `GETEX k` that only reads, up to v1.39: the key ends now | `PEXPIREAT` that is past when it comes; a true one in the past is journalled as `DEL`, except that of `GETEX` | `k` is read again: it is there, or it is not |
//! | rotation of a list of one element: the expiry is lost with the list | a push into the list that the last pop took from | pushed with `LPUSHX`: its answer 0 says that the list had gone, and it is read again, also by whoever resumes before the answer. Lists of more elements need nothing |
//! | `XADD k *`, up to v1.26: ids of the target's choice | the `*` | `k` is read again |
//! | relative times (`HEXPIRE`, `HSETEX`, `FIELDEXPIRE`, `RESTORE`): they count from when the source executed them | always | members: the source counts from the whole second, and so does the plan, from the receipt; what comes late, or so shortly after a second's end that it may be of the one before, is read again, the latter at no more than 1 MB/s. Keys of a `RESTORE` are |
//! | `XCLAIM`, `XAUTOCLAIM` by clients: what they claim depends on times that the entry does not hold | always | applied: they are frequent, and reading whole streams again would burden the source. The audit finds what came out otherwise |
//! | memcache `incr` and `decr`: the amount is lost; `SET … EXAT` in the past: no `DEL`; `XREADGROUP` up to v1.36: no entry; keys left out of a snapshot under load, and elements that are in it and in an entry too | not | the audit finds them |
//! | `PFMERGE` over several shards: copies of the result on each | a HyperLogLog on a flow that does not own its key | left out, see [`ghosts`](crate::task::ghosts) |
//! | deletions left out of the journal of a snapshot (`journal_omit_redundant_writes`) | a key made by the journal that the snapshot has not brought, where the release may do so | the key is read again |
//! | `CMS.MERGE` over several shards | words are missing | none: there is no form of the value |
//!
//! Facts: the entries of v1.40.1 and v1.27.4 as observed; `BLMPOP`, moves within a shard and single commands have the
//! transaction id 0 there, `LMPOP` has another one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ends::Counted;
use crate::commands::{self, Circumstances, Defect};
use crate::entry::{Args, Batch, Command};
use crate::task::applier::Applier;

/// How long a pop waits for the push that belongs to it: flows are rarely further apart, and where they are, a list is
/// read again for nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Pops that wait, of one flow.
const MOST_POPS: usize = 10_000;

/// Transactions remembered with their pops and pushes, of all flows.
const MOST_MOVES: usize = 100_000;

/// The source may have executed an entry so long before it was received, and its clock be so much ahead of what is
/// known of it.
const ON_THE_WAY_MS: i64 = 50;
const CLOCK_MS: i64 = 5;

/// How much is read again, by one flow, for less than a second of a member's life: 1 MB/s.
const SPARED_BYTES_PER_MS: u64 = 1_000;

/// What is done about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::task) enum Suspicion {
    /// Its keys are read again.
    ReadAgain(Defect),
    /// It is applied, and its list read again if no push follows.
    Pop,
    /// It is pushed only if its list is there.
    PushIfThere,
}

/// A key, and what wrote to it last.
#[derive(Debug)]
struct Last {
    txid: u64,
    db: u32,
    key: Box<[u8]>,
    /// No entry of the flow came since.
    is_previous: bool,
}

impl Last {
    fn is(&self, txid: u64, db: u32, key: &[u8]) -> bool {
        self.txid == txid && self.db == db && *self.key == *key && (txid != 0 || self.is_previous)
    }
}

/// What one flow remembers of the entries before.
#[derive(Debug, Default)]
pub(in crate::task) struct Before {
    deleted: Option<Last>,
    popped: Option<Last>,
    /// No key is read again for a mere second before.
    rests_until: Option<Instant>,
    /// Pops that may have been more than they say.
    pops: VecDeque<Popped>,
    popped_keys: Counted,
}

#[derive(Debug)]
struct Popped {
    at: Instant,
    txid: u64,
    db: u32,
    key: Box<[u8]>,
}

/// Elements that transactions took from lists and put into lists, in all flows.
#[derive(Debug, Default)]
pub(in crate::task) struct Moves(Mutex<(HashMap<u64, Counts>, VecDeque<u64>)>);

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    pops: u32,
    pushes: u32,
}

impl Moves {
    fn count(&self, txid: u64, what: impl Fn(&mut Counts) -> &mut u32) {
        let mut moves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (counts, order) = &mut *moves;
        let known = counts.entry(txid).or_insert_with(|| {
            order.push_back(txid);
            Counts::default()
        });
        let number = what(known);
        *number = number.saturating_add(1);
        if order.len() > MOST_MOVES
            && let Some(oldest) = order.pop_front()
        {
            counts.remove(&oldest);
        }
    }

    /// Whether everything that the transaction took was put somewhere.
    fn all_arrived(&self, txid: u64) -> bool {
        let moves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = moves.0.get(&txid);
        counts.is_some_and(|counts| counts.pushes >= counts.pops)
    }
}

impl Before {
    /// Whether a key may be read again for less than a second of a member's life.
    fn may_ask(&self) -> bool {
        self.rests_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Whether a pop from this list is to be judged yet.
    pub(super) fn waits(&self, db: u32, key: &[u8]) -> bool {
        self.popped_keys.has(db, key)
    }

    /// A key of so many bytes was read again.
    pub(super) fn has_read(&mut self, bytes: u64) {
        let rest = Duration::from_millis(bytes / SPARED_BYTES_PER_MS);
        self.rests_until = Instant::now().checked_add(rest);
    }

    /// Whether an entry is not to be trusted by what came before it. `args` may be the first words only.
    fn look(&mut self, args: &Args<'_>, command: &Command, moves: &Moves) -> Option<Suspicion> {
        let (txid, db) = (command.txid, command.db);
        let name = args.name();
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        let key = args.get(1).unwrap_or_default();
        let last = || Last {
            txid,
            db,
            key: key.into(),
            is_previous: true,
        };
        let pops = command.words == 2 && (is(b"LPOP") || is(b"RPOP"));
        let pushes = command.words == 3 && (is(b"LPUSH") || is(b"RPUSH"));
        let suspicion = if is(b"ZADD") {
            let after_del = self.deleted.as_ref();
            let stored = after_del.is_some_and(|deleted| deleted.is(txid, db, key));
            stored.then_some(Suspicion::ReadAgain(Defect::ScoresCut))
        } else if pops && txid != 0 {
            moves.count(txid, |counts| &mut counts.pops);
            Some(Suspicion::Pop)
        } else if pushes {
            if txid != 0 {
                moves.count(txid, |counts| &mut counts.pushes);
            }
            let after_pop = self.popped.as_ref();
            let rotates = after_pop.is_some_and(|popped| popped.is(txid, db, key));
            rotates.then_some(Suspicion::PushIfThere)
        } else {
            None
        };
        for last in [&mut self.deleted, &mut self.popped].into_iter().flatten() {
            last.is_previous = false;
        }
        if pops {
            self.popped = Some(last());
        } else if command.words == 2 && is(b"DEL") {
            self.deleted = Some(last());
        }
        suspicion
    }
}

impl Applier {
    /// Whether an entry is not to be trusted by what came before it in the flow.
    pub(in crate::task) fn look_back(&mut self, args: &Args<'_>, command: &Command) {
        self.suspicion = self.before.look(args, command, &self.context.moves);
    }

    /// Whether the keys of an entry are withheld because of what came before it.
    pub(in crate::task) fn distrusts(&mut self, command: &Command, args: &Args<'_>) -> bool {
        matches!(self.suspicion, Some(Suspicion::ReadAgain(_))) && self.distrust(command, args)
    }

    /// In which circumstances an entry was journalled and received.
    pub(in crate::task) fn circumstances(&self, batch: &Batch) -> Circumstances {
        let within = batch.received_at_ms.rem_euclid(1_000);
        Circumstances {
            reads_again: true,
            is_vague: self.next.is_none()
                || self.was_written_unseen()
                || self.late.is_late()
                || !(ON_THE_WAY_MS..1_000 - CLOCK_MS).contains(&within) && self.before.may_ask(),
            reads_end_keys: self.context.reads_end_keys,
        }
    }

    /// Withholds the keys that an entry writes, or if it names none that it writes all its keys. Whether they are: else it
    /// is applied as it is.
    pub(in crate::task) fn distrust(&mut self, command: &Command, args: &Args<'_>) -> bool {
        let since = command.lsn.unwrap_or_default();
        let writes = commands::keys(args).any(|used| used.written);
        let mut all = true;
        for used in commands::keys(args).filter(|used| used.written == writes) {
            self.withhold(command.db, used.key, since);
            self.list.touch(command.db, used.key, command.lsn);
            all &= self.list.has(command.db, used.key);
        }
        all
    }

    /// An element was taken from a list, and perhaps more than one. Until that is known the key is on the list on the
    /// target: who resumes does not know what came before.
    pub(in crate::task) fn popped(&mut self, command: &Command, key: &[u8]) {
        if self.next.is_none() {
            return self.withhold(command.db, key, 0);
        }
        self.enlist(command.db, key);
        self.before.popped_keys.add(command.db, key);
        self.before.pops.push_back(Popped {
            at: Instant::now(),
            txid: command.txid,
            db: command.db,
            key: key.into(),
        });
        if self.before.pops.len() > MOST_POPS {
            self.judge_first();
        }
    }

    /// Judges the pops that have waited long enough.
    pub(in crate::task) fn judge_pops(&mut self) {
        let waited = |popped: &Popped| popped.at.elapsed() > PATIENCE;
        while self.before.pops.front().is_some_and(waited) {
            self.judge_first();
        }
    }

    fn judge_first(&mut self) {
        let Some(popped) = self.before.pops.pop_front() else {
            return;
        };
        let key = popped.key.clone();
        self.before.popped_keys.remove(popped.db, key);
        if !self.context.moves.all_arrived(popped.txid) {
            let since = self.next.unwrap_or_default();
            self.withhold(popped.db, &popped.key, since);
        } else if !self.is_enlisted(popped.db, &popped.key) {
            self.unlist(popped.db, &popped.key);
            self.writer.store();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{ArgsWriter, Body, Span};

    /// What is thought of each of these entries, transaction id first.
    fn judged(lines: &[&str]) -> Vec<Option<Suspicion>> {
        let (mut before, moves) = (Before::default(), Moves::default());
        let judge = |line: &&str| {
            let mut words = line.split(' ');
            let txid = words.next().unwrap().parse().unwrap();
            let mut writer = ArgsWriter::default();
            words.for_each(|word| _ = writer.word(word.as_bytes()));
            let (packed, count) = writer.finish();
            let command = Command {
                db: 0,
                txid,
                lsn: Some(1),
                words: count,
                args: Body::Inline(Span { start: 0, len: 0 }),
            };
            let args = Args::check(&packed, count).unwrap();
            before.look(&args, &command, &moves)
        };
        lines.iter().map(judge).collect()
    }

    #[test]
    fn a_stored_sorted_set_is_told_from_one_that_is_written() {
        let cut = Some(Suspicion::ReadAgain(Defect::ScoresCut));
        assert_eq!(judged(&["5 DEL z", "5 ZADD z 1 a"]), [None, cut]);
        assert_eq!(judged(&["5 DEL z", "0 GET x", "5 ZADD z 1 a"])[2], cut);
        assert_eq!(judged(&["0 DEL z", "0 ZADD z 1 a"]), [None, cut]);
        for others in [
            &["0 DEL z", "0 SET x 1", "0 ZADD z 1 a"][..],
            &["5 DEL z", "6 ZADD z 1 a"],
            &["5 DEL y", "5 ZADD z 1 a"],
            &["5 DEL y z", "5 ZADD z 1 a"],
            &["0 ZADD z 1 a"],
        ] {
            assert_eq!(judged(others).last(), Some(&None), "{others:?}");
        }
    }

    #[test]
    fn a_rotation_is_a_push_into_the_list_that_was_popped_from() {
        let there = Some(Suspicion::PushIfThere);
        assert_eq!(judged(&["0 RPOP l", "0 LPUSH l a"]), [None, there]);
        let pop = Some(Suspicion::Pop);
        assert_eq!(judged(&["3 LPOP l", "3 RPUSH l a"]), [pop, there]);
        for others in [
            &["0 RPOP l", "0 LPUSH m a"][..],
            &["0 RPOP l", "0 LPUSH l a b"],
            &["0 RPOP l 2", "0 LPUSH l a"],
            &["0 RPOP l", "0 SET x 1", "0 LPUSH l a"],
        ] {
            assert_eq!(judged(others).last(), Some(&None), "{others:?}");
        }
    }

    #[test]
    fn a_move_is_whole_when_as_much_has_arrived_as_was_taken() {
        let moves = Moves::default();
        assert!(!moves.all_arrived(7));
        moves.count(7, |counts| &mut counts.pops);
        assert!(!moves.all_arrived(7));
        moves.count(8, |counts| &mut counts.pushes);
        assert!(!moves.all_arrived(7));
        moves.count(7, |counts| &mut counts.pushes);
        assert!(moves.all_arrived(7));
        (100..100 + MOST_MOVES as u64)
            .for_each(|txid| moves.count(txid, |counts| &mut counts.pops));
        assert!(!moves.all_arrived(7), "forgotten, so that it is looked at");
    }
}
