//! From what was pushed to what each node gets: commands by slot, slots by node.
//!
//! Invariants: commands of one slot leave in the order in which they were pushed, on one lane, and are either one
//!   transaction with the slot's position, or all safe to repeat; those that are safe only by their elements come behind a
//!   stamp that is no further back than [`AHEAD`](super::flow).

use std::ops::Range;

use super::by_slot::{BySlot, OfSlot};
use super::flight::{Flight, Open};
use super::flow::Flow;
use super::lane::Role;
use super::parked::Behind;
use super::writer::Writer;
use crate::target::answer::Tolerate;
use crate::target::outgoing::{Outgoing, Word};
use crate::target::position::of_slot;
use crate::target::slot::{LONGEST_TAG, Tag, first_key_at, slot_of, tag_of};
use crate::target::writer::Kind;
use crate::target::writer::missed::LONGEST_KEY;

/// One item's commands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    /// Its first command.
    pub first: usize,
    pub kind: Kind,
    pub tolerate: Tolerate,
}

/// A slot's commands of one batch. There are many of them: kept small.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub slot: u16,
    /// The index of its owner's lane.
    lane: u16,
    tag: Tag,
    /// Where they begin in the order of the flight.
    first: u32,
    /// How many they are.
    count: u32,
    /// Whether they are one transaction.
    pub atomic: bool,
    /// Whether any of them takes a value for granted.
    pub depends: bool,
    /// Whether any of them deletes a key.
    pub deletes: bool,
    /// Whether any of them tells by the answer 0 that its key is missing.
    tells: bool,
    /// The position that goes with it, or 0, before which nothing is.
    reaches: u64,
    /// Nothing of its transaction was executed, and what was refused for good is taken out: it is to be sent again.
    pub again: bool,
    /// It was not executed, or not all of it: the slot is on the move.
    pub redirected: bool,
}

impl Group {
    /// Where its commands are in the order of the flight.
    #[inline]
    pub fn commands(&self) -> Range<usize> {
        let first = self.first as usize;
        first..first + self.count as usize
    }

    /// Does without all commands but the first ones.
    pub fn keep(&mut self, count: usize) {
        self.count = self.count.min(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// The position that goes with it.
    #[inline]
    pub fn reaches(&self) -> Option<u64> {
        Some(self.reaches).filter(|reaches| *reaches > 0)
    }
}

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// The command that stores a slot's position, encoded but for the slot and the position: there is one in every transaction.
#[derive(Debug)]
pub(super) struct StoresPosition {
    /// All before the slot's tag, by the tag's length.
    heads: Vec<Vec<u8>>,
    /// All between the tag and the position.
    field: Vec<u8>,
}

impl StoresPosition {
    /// Of slots of this name, in this field.
    pub fn new(name: &str, field: &str) -> Self {
        let head = |tag: usize| {
            let key = of_slot(name, 0).len() - tag_of(0).len() + tag;
            format!("*4\r\n$4\r\nHSET\r\n${key}\r\n{name}:{{").into_bytes()
        };
        Self {
            heads: (0..=LONGEST_TAG).map(head).collect(),
            field: format!("}}\r\n${}\r\n{field}\r\n", field.len()).into_bytes(),
        }
    }

    /// What stands behind the tag, for this position.
    pub fn at(&self, position: u64) -> Vec<u8> {
        let text = position.to_string();
        let word = format!("${}\r\n{text}\r\n", text.len());
        [&self.field, word.as_bytes()].concat()
    }

    /// The whole of it, for the slot with this tag.
    #[inline]
    pub fn of<'a>(&'a self, tag: &'a Tag, at: &'a [u8]) -> [&'a [u8]; 3] {
        let tag = tag.bytes();
        let head = self.heads.get(tag.len()).map_or(&[][..], Vec::as_slice);
        [head, tag, at]
    }
}

/// How a command of the journal stands being repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    /// Whatever came behind it, as long as that is repeated too: it reads nothing and leaves its one key whole, as a value
    /// of its own or gone.
    Whole,
    /// Likewise: it deletes its one key.
    Gone,
    /// The same of the elements that it names, as long as the key is of their type, and is refused else: it makes them
    /// what they are from then on, whatever they were, and takes none away.
    Elements,
    /// Whatever came behind it: it gives its one key an end, if that is there, which the answer 0 denies.
    End,
    /// It has an effect each time.
    Never,
}

/// No command that may be repeated has a longer name.
const LONGEST_NAME: usize = 16;
/// Options behind the key of a `ZADD`, with which it depends on what is there.
const OF_ZADD: [&[u8]; 6] = [b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"];

/// How the `n`th command, which has this name and so many words, stands being repeated.
fn repeats_as(out: &Outgoing, n: usize, (count, name): (usize, &[u8])) -> Repeats {
    let word = |index: usize, expected: &[u8]| {
        let word = out.word_at(n, index);
        word.is_some_and(|word| is(&word, expected))
    };
    let mut upper = [0; LONGEST_NAME];
    let Some(upper) = upper.get_mut(..name.len()) else {
        return Repeats::Never;
    };
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    match (&*upper, count) {
        (b"SET", 3) => Repeats::Whole,
        (b"SET", 5) if word(3, b"PXAT") || word(3, b"EXAT") => Repeats::Whole,
        (b"RESTORE", 5) if word(2, b"0") && word(4, b"REPLACE") => Repeats::Whole,
        (b"RESTORE", 6) if word(4, b"REPLACE") && word(5, b"ABSTTL") => Repeats::Whole,
        (b"DEL" | b"UNLINK", 2) => Repeats::Gone,
        (b"PEXPIREAT", 3) => Repeats::End,
        (b"SADD", 3..) => Repeats::Elements,
        (b"HSET", 4..) if count.is_multiple_of(2) => Repeats::Elements,
        (b"ZADD", 4..) if count.is_multiple_of(2) => {
            let score = out.word_at(n, 2);
            let is_score = |word: Word<'_>| !OF_ZADD.iter().any(|option| is(&word, option));
            match score.is_some_and(is_score) {
                true => Repeats::Elements,
                false => Repeats::Never,
            }
        }
        _ => Repeats::Never,
    }
}

pub(super) fn repeats(out: &Outgoing, n: usize, name: &[u8]) -> Repeats {
    repeats_as(out, n, (out.word_count(n), name))
}

/// Whether a word is this one, in any case. One that is in a file is longer.
fn is(word: &Word<'_>, expected: &[u8]) -> bool {
    let word = word.in_memory();
    word.is_some_and(|word| word.eq_ignore_ascii_case(expected))
}

/// The name, and the slot of the first key; `None` for a command without keys.
pub(super) fn place(out: &Outgoing, n: usize) -> (&[u8], Option<u16>) {
    let mut words = out.words(n);
    // It is no value, so it is in memory.
    let name = words.next().and_then(|word| word.in_memory());
    let name = name.unwrap_or_default();
    let slot = |word: Word<'_>| match word.in_memory() {
        Some(key) => slot_of(key),
        None => slot_of(&word.head(LONGEST_KEY)),
    };
    // Behind the name.
    let key = words.nth(first_key_at(name).saturating_sub(1));
    (name, key.map(slot))
}

/// A command as it is sorted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// None of a command without keys.
    slot: Option<u16>,
    repeats: Repeats,
}

impl Open {
    /// Places the commands of the last item. That is done before the next one is begun, while they are in the
    /// processor's cache.
    pub(super) fn place(&mut self) {
        let kind = self.items.last().map(|item| item.kind);
        let first = self.placed.len();
        self.placed
            .extend((first..self.out.commands()).map(|n| placed(&self.out, n, kind)));
    }

    /// Places all of them anew.
    pub(super) fn place_all(&mut self) {
        self.placed.clear();
        let mut items = self.items.iter().peekable();
        let mut kind = None;
        for n in 0..self.out.commands() {
            while let Some(item) = items.next_if(|item| item.first <= n) {
                kind = Some(item.kind);
            }
            self.placed.push(placed(&self.out, n, kind));
        }
    }
}

fn placed(out: &Outgoing, n: usize, kind: Option<Kind>) -> Placed {
    let is_entry = kind == Some(Kind::Entry);
    // Nearly all.
    if let Some(begins) = out.beginning(n)
        && first_key_at(begins.name) == 1
    {
        return Placed {
            slot: begins.second.map(slot_of),
            repeats: match is_entry {
                true => repeats_as(out, n, (begins.words, begins.name)),
                false => Repeats::Whole,
            },
        };
    }
    let (name, slot) = place(out, n);
    let repeats = match is_entry {
        true => repeats(out, n, name),
        false => Repeats::Whole,
    };
    Placed { slot, repeats }
}

impl Flight {
    /// Sorts its commands into groups, in the order of their first commands; leaves out those that their slot has.
    /// Whether any is a sign of life.
    pub(super) fn sort(&mut self, flow: Option<&Flow>, slots: &mut BySlot) -> bool {
        let mut pings = false;
        let mut groups = std::mem::take(&mut self.groups);
        let mut places = std::mem::take(&mut self.places);
        for (n, Placed { slot, repeats }) in self.placed.iter().copied().enumerate() {
            let Some(slot) = slot else {
                pings = true;
                continue;
            };
            let lsn = || self.out.lsn(n);
            let known = flow.and_then(|flow| flow.known(slot));
            if known.is_some_and(|next| lsn().is_some_and(|lsn| lsn < next)) {
                continue;
            }
            let is_near = || flow.is_some_and(|flow| lsn().is_some_and(|lsn| flow.is_near(lsn)));
            let is_safe = match repeats {
                Repeats::Whole | Repeats::Gone | Repeats::End => true,
                Repeats::Elements => is_near(),
                Repeats::Never => false,
            };
            let made = |of_slot: &OfSlot| self.group_of(slot, of_slot);
            let Some(index) = slots.group(slot, &mut groups, made) else {
                continue;
            };
            if let Some(group) = groups.get_mut(index) {
                group.deletes |= repeats == Repeats::Gone;
                group.tells |= repeats == Repeats::End;
                group.depends |= !matches!(repeats, Repeats::Whole | Repeats::Gone);
                // A key that is deleted and filled at once, such as the result of a SUNIONSTORE, is never seen to be gone.
                group.atomic |= !is_safe || group.deletes && repeats == Repeats::Elements;
                group.count += 1;
            }
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            places.push((number(index), number(n)));
        }
        slots.forget(&groups);
        self.groups = groups;
        self.lay_out(&places);
        self.places = places;
        pings
    }

    /// A slot's, without commands.
    fn group_of(&self, slot: u16, of_slot: &OfSlot) -> Group {
        Group {
            slot,
            lane: of_slot.lane,
            tag: of_slot.tag,
            first: 0,
            count: 0,
            atomic: false,
            depends: false,
            deletes: false,
            tells: false,
            reaches: match self.parked.get(&slot).map(|taken| taken.behind) {
                Some(Behind::More(first)) => first,
                Some(Behind::Nothing) | None => self.reaches,
            }
            .unwrap_or(0),
            again: true,
            redirected: false,
        }
    }

    /// Puts the commands in order, group by group. `places` says of each, in the order in which they were pushed, which
    /// group it is in.
    fn lay_out(&mut self, places: &[(u32, u32)]) {
        let mut start = 0;
        for group in &mut self.groups {
            group.first = start;
            start += std::mem::take(&mut group.count);
        }
        self.order.clear();
        self.order.resize(places.len(), 0);
        for (index, n) in places {
            if let Some(group) = self.groups.get_mut(*index as usize)
                && let Some(place) = self.order.get_mut(group.commands().end)
            {
                *place = *n;
                group.count += 1;
            }
        }
    }
}

impl Writer {
    /// Fills the lanes with the groups that are to be sent, and what else is due.
    pub(super) fn fill(&mut self, flight: &mut Flight, pings: bool) {
        self.lanes.iter_mut().for_each(super::lane::Lane::clear);
        if let Some(stamp) = flight.stamp
            && !std::mem::replace(&mut flight.stamped, true)
        {
            self.fill_stamps(stamp);
        }
        if pings {
            let lanes = self.lanes.iter_mut();
            lanes.for_each(|lane| lane.words(Role::Ping, &[b"PING"]));
        }
        for record in std::mem::take(&mut flight.records) {
            self.fill_record(&record);
        }
        let Flight {
            out,
            order,
            groups,
            reaches: of_most,
            ..
        } = flight;
        let at = match (&self.flow, *of_most) {
            (Some(flow), Some(reaches)) => flow.position.at(reaches),
            _ => Vec::new(),
        };
        for (index, group) in (0_u32..).zip(groups) {
            let Some(lane) = self.lanes.get_mut(usize::from(group.lane)) else {
                continue;
            };
            if !std::mem::take(&mut group.again) {
                continue;
            }
            let commands = order.get(group.commands()).unwrap_or_default();
            if !group.atomic {
                let tells = group.tells;
                for n in commands.iter().copied() {
                    lane.batch.out.append_unlisted(out, n as usize);
                    lane.roles.push(Role::Plain { n, tells });
                }
                continue;
            }
            let multi = lane.roles.len();
            lane.encoded(Role::Multi(0), &[MULTI]);
            for n in commands.iter().filter(|n| !self.dropped.contains(n)) {
                lane.batch.out.append_unlisted(out, *n as usize);
                lane.roles.push(Role::Queued(*n));
            }
            if let (Some(flow), Some(reaches)) = (&mut self.flow, group.reaches()) {
                // What the slot had already is not taken back.
                let reaches = reaches.max(flow.known(group.slot).unwrap_or(0));
                let other = (Some(reaches) != *of_most).then(|| flow.position.at(reaches));
                let at = other.as_ref().unwrap_or(&at);
                let position = flow.position.of(&group.tag, at);
                lane.encoded(Role::Position(index), &position);
                flow.positions.note(group.slot, reaches);
            }
            let count = lane.roles.len() - multi - 1;
            if let Some(role) = lane.roles.get_mut(multi) {
                *role = Role::Multi(u32::try_from(count).unwrap_or(u32::MAX));
            }
            lane.encoded(Role::Exec(index), &[EXEC]);
        }
    }

    fn fill_stamps(&mut self, stamp: u64) {
        let Some(flow) = &mut self.flow else {
            return;
        };
        flow.stamped = Some(stamp);
        let lsn = itoa::Buffer::new().format(stamp).to_owned();
        for lane in &mut self.lanes {
            let key = lane.stamp_key.clone();
            let [name_of_lsn, name_of_at] = lane.stamp_fields.clone();
            let mut words = vec![
                &b"HSET"[..],
                key.as_bytes(),
                name_of_lsn.as_bytes(),
                lsn.as_bytes(),
            ];
            let at = match flow.is_introduced {
                true => String::new(),
                false => lane.now.text(&lane.had, flow.number),
            };
            if !flow.is_introduced {
                words.extend([name_of_at.as_bytes(), at.as_bytes()]);
            }
            lane.words(Role::Stamp(flow.is_introduced), &words);
        }
        flow.number += u64::from(!flow.is_introduced);
    }

    fn fill_record(&mut self, record: &crate::target::Failed) {
        let Some(flow) = &self.flow else {
            return;
        };
        let key = flow.fence.names().failed.clone();
        let owner = self.slots.owner(slot_of(key.as_bytes()));
        let lane = owner.and_then(|owner| self.lanes.get_mut(owner));
        if let Some(lane) = lane {
            let json = record.json();
            let words = [
                &b"HSET"[..],
                key.as_bytes(),
                record.id.as_bytes(),
                json.as_bytes(),
            ];
            lane.words(Role::Record, &words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::slot::{SLOTS, tags};

    fn out(words: &[&[u8]]) -> Outgoing {
        let mut out = Outgoing::new();
        out.command(words.len(), Some(1));
        words.iter().for_each(|word| out.word(word));
        out
    }

    #[test]
    fn only_what_leaves_a_key_or_elements_whole_is_safe_to_repeat() {
        for (line, expected) in [
            ("SET k v", Repeats::Whole),
            ("set k v", Repeats::Whole),
            ("SET k v PXAT 5", Repeats::Whole),
            ("SET k v PX 5", Repeats::Never),
            ("SET k v NX", Repeats::Never),
            ("SET k v KEEPTTL", Repeats::Never),
            ("SET k v XX PXAT 5", Repeats::Never),
            ("DEL k", Repeats::Gone),
            ("DEL k l", Repeats::Never),
            ("UNLINK k", Repeats::Gone),
            ("RESTORE k 0 x REPLACE", Repeats::Whole),
            ("RESTORE k 7 x REPLACE", Repeats::Never),
            ("RESTORE k 7 x REPLACE ABSTTL", Repeats::Whole),
            ("INCR k", Repeats::Never),
            ("HSET k f v", Repeats::Elements),
            ("hset k f v g w", Repeats::Elements),
            ("HSET k f v g", Repeats::Never),
            ("HSETNX k f v", Repeats::Never),
            ("HDEL k f", Repeats::Never),
            ("SADD k m", Repeats::Elements),
            ("SADD k m n", Repeats::Elements),
            ("SREM k m", Repeats::Never),
            ("ZADD k 1 m", Repeats::Elements),
            ("ZADD k inf m 2 n", Repeats::Elements),
            ("ZADD k NX CH 1 m", Repeats::Never),
            ("ZADD k incr CH 1 m", Repeats::Never),
            ("ZADD k CH 1 m", Repeats::Never),
            ("ZREM k m", Repeats::Never),
            ("PEXPIREAT k 5", Repeats::End),
            ("PEXPIREAT k 5 GT", Repeats::Never),
            ("PERSIST k", Repeats::Never),
            ("COPY k l REPLACE", Repeats::Never),
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let out = out(&words);
            let (name, slot) = place(&out, 0);
            assert_eq!(repeats(&out, 0, name), expected, "{line}");
            assert_eq!(slot, Some(slot_of(b"k")), "{line}");
        }
    }

    #[test]
    fn the_position_of_a_slot_is_stored_as_if_it_were_written_word_by_word() {
        let stores = StoresPosition::new("df2redis:position:orders", "3:0a1b2c3d");
        for (slot, at) in (0..SLOTS).zip([0, 9, 10, 1234, u64::MAX].into_iter().cycle()) {
            let (key, position) = (of_slot("df2redis:position:orders", slot), at.to_string());
            let words = ["HSET", &key, "3:0a1b2c3d", &position].map(str::as_bytes);
            let expected = out(&words);
            let mut encoded = Outgoing::new();
            let tag = &tags()[usize::from(slot)];
            encoded.encoded_unlisted(&stores.of(tag, &stores.at(at)));
            let bytes = |out: &Outgoing| match out.piece(out.place_of(0)) {
                crate::target::outgoing::Piece::Bytes(bytes) => bytes.to_vec(),
                other => panic!("{other:?}"),
            };
            assert_eq!(bytes(&encoded), bytes(&expected), "slot {slot}");
        }
    }

    #[test]
    fn a_command_is_for_the_slot_of_its_first_key() {
        for (line, slot) in [
            ("EVAL script 1 k", Some("k")),
            ("XGROUP CREATE k g 0", Some("k")),
            ("BITOP AND k l m", Some("k")),
            ("SET {k}:1 v", Some("k")),
            ("PING", None),
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let found = place(&out(&words), 0).1;
            assert_eq!(found, slot.map(|key| slot_of(key.as_bytes())), "{line}");
        }
    }
}
