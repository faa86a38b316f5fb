//! Streams: entries in listpack nodes, then the stream's own numbers, groups and consumers.
//!
//! Invariants: entries come in strictly ascending order of their ids; every count (live and deleted
//! entries of a node, items of an entry, live entries of the stream) is compared with what was read.
//! Units: times are Unix milliseconds.
//! Facts: Redis' stream types 15, 19 and 21. A node's listpack begins with its master entry (live
//! count, deleted count, field names, 0); an entry is flags, the difference of its id to the node's,
//! its fields (only the values when they are the master's) and the number of its items.

use super::Halt;
use super::listpack::{Listpack, Place};
use super::string::{Item, Text};

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// The id of a stream entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId {
    /// Milliseconds.
    pub ms: u64,
    /// Sequence number within the millisecond.
    pub seq: u64,
}

impl StreamId {
    /// From the form in which node keys and pending entries hold it: two u64 BE.
    pub fn from_be_bytes(bytes: [u8; 16]) -> Self {
        let whole = u128::from_be_bytes(bytes);
        Self {
            ms: (whole >> 64) as u64,
            seq: whole as u64,
        }
    }

    /// Two u64 BE.
    pub fn to_be_bytes(self) -> [u8; 16] {
        (u128::from(self.ms) << 64 | u128::from(self.seq)).to_be_bytes()
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// A stream's own numbers. What older types do not hold is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamInfo {
    /// Live entries.
    pub length: u64,
    /// The id of the entry added last, deleted or not.
    pub last: StreamId,
    /// From type 19 on: the id of the first live entry.
    pub first: Option<StreamId>,
    /// From type 19 on: the greatest id that was deleted.
    pub max_deleted: Option<StreamId>,
    /// From type 19 on: entries ever added.
    pub added: Option<u64>,
}

/// A live entry of a stream.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Its id.
    pub id: StreamId,
    /// Its fields and values. Checked already: the iterator yields all of them.
    pub fields: Fields<'a>,
}

/// The fields and values of one entry, in their order.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    names: Option<Listpack<'a>>,
    values: Listpack<'a>,
    left: u64,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (Text<'a>, Text<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = match &mut self.names {
            Some(names) => names.next_item(),
            None => self.values.next_item(),
        };
        let name = name.ok().flatten()?;
        let value = self.values.next_item().ok().flatten()?;
        Some((name.text(), value.text()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// One node of a stream, and how far it has been read. Its bytes are kept by the caller.
#[derive(Debug, Clone)]
pub(super) struct Node {
    id: StreamId,
    place: Place,
    /// The first field name of the master entry.
    names: Place,
    fields: u64,
    live: i64,
    deleted: i64,
    /// Greatest id so far, of earlier nodes too.
    above: Option<StreamId>,
}

/// Where a checked entry lies in its node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    id: StreamId,
    place: Place,
    fields: u64,
    same: bool,
}

impl Node {
    /// Opens a node: its key, its listpack, and the greatest id before it.
    pub(super) fn open(key: &[u8], bytes: &[u8], above: Option<StreamId>) -> Result<Self, Halt> {
        let key = <[u8; 16]>::try_from(key);
        let key = key.map_err(|_| invalid(0, "stream node key is not 16 bytes"))?;
        let mut list = Listpack::new(bytes)?;
        let live = integer(&mut list)?;
        let deleted = integer(&mut list)?;
        let fields = count(&mut list)?;
        let names = list.place();
        for _ in 0..fields {
            item(&mut list)?;
        }
        if integer(&mut list)? != 0 {
            return Err(invalid(names.at, "stream node whose head does not end"));
        }
        Ok(Self {
            id: StreamId::from_be_bytes(key),
            place: list.place(),
            names,
            fields,
            live,
            deleted,
            above,
        })
    }

    /// The greatest id read so far.
    pub(super) fn above(&self) -> Option<StreamId> {
        self.above
    }

    /// Passes to the next live entry and over it, checking it. `None` at the end of the node.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<Found>, Halt> {
        let mut list = Listpack::resume(bytes, self.place);
        while !list.at_end()? {
            let start = list.place();
            let (found, deleted) = self.check_entry(&mut list)?;
            self.place = list.place();
            let left = if deleted {
                &mut self.deleted
            } else {
                &mut self.live
            };
            *left = left
                .checked_sub(1)
                .filter(|left| *left >= 0)
                .ok_or(invalid(
                    start.at,
                    "stream node with more entries than it says",
                ))?;
            if !deleted {
                return Ok(Some(found));
            }
        }
        if self.live != 0 || self.deleted != 0 {
            return Err(invalid(6, "stream node with fewer entries than it says"));
        }
        Ok(None)
    }

    fn check_entry(&mut self, list: &mut Listpack<'_>) -> Result<(Found, bool), Halt> {
        let at = list.place().at;
        let flags = integer(list)?;
        if flags & !(DELETED | SAME_FIELDS) != 0 {
            return Err(invalid(at, "stream entry with unknown flags"));
        }
        // Differences are signed, and wrap as the sender's arithmetic does.
        let ms = self.id.ms.wrapping_add(integer(list)?.cast_unsigned());
        let seq = self.id.seq.wrapping_add(integer(list)?.cast_unsigned());
        let id = StreamId { ms, seq };
        if self.above.is_some_and(|above| above >= id) {
            return Err(invalid(at, "stream entries out of order"));
        }
        self.above = Some(id);
        let same = flags & SAME_FIELDS != 0;
        let fields = if same { self.fields } else { count(list)? };
        let found = Found {
            id,
            place: list.place(),
            fields,
            same,
        };
        // `fields` was counted in this listpack, or is cut off by its end: no count runs away.
        let items = if same {
            fields
        } else {
            fields.saturating_mul(2)
        };
        for _ in 0..items {
            item(list)?;
        }
        let said = integer(list)?.cast_unsigned();
        if said != items.saturating_add(if same { 3 } else { 4 }) {
            return Err(invalid(at, "stream entry with another count than it says"));
        }
        Ok((found, flags & DELETED != 0))
    }

    /// The entry that `advance` found, over the same bytes.
    pub(super) fn entry<'a>(&self, bytes: &'a [u8], found: Found) -> Entry<'a> {
        Entry {
            id: found.id,
            fields: Fields {
                names: found.same.then(|| Listpack::resume(bytes, self.names)),
                values: Listpack::resume(bytes, found.place),
                left: found.fields,
            },
        }
    }
}

fn item<'a>(list: &mut Listpack<'a>) -> Result<Item<'a>, Halt> {
    let at = list.place().at;
    let short = invalid(at, "stream node ends inside an entry");
    list.next_item()?.ok_or(short)
}

fn integer(list: &mut Listpack<'_>) -> Result<i64, Halt> {
    let wrong = invalid(list.place().at, "stream node with text for a number");
    item(list)?.integer().ok_or(wrong)
}

fn count(list: &mut Listpack<'_>) -> Result<u64, Halt> {
    let wrong = invalid(list.place().at, "stream node with a negative count");
    u64::try_from(integer(list)?).map_err(|_| wrong)
}

fn invalid(at: usize, what: &'static str) -> Halt {
    Halt::Invalid { at, what }
}
