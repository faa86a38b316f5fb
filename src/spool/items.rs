//! A batch's items as compact descriptors: what remains of them when their bytes stand elsewhere.
//!
//! ```text
//! descriptor = tag (low three bits: which item; the others: flags), then per item:
//!   Command     [db] [txid] words body        Script       span
//!   Nothing                                   SnapshotEnd
//!   Record      kind [db] [expiry] flags key body          Stable       next
//! span = start less the end of the span before (zigzag), length      body = span | length of the spilled bytes
//! ```
//!
//! Numbers are LEB128. An absent database is that of the item before; LSNs are counted, not stored.
//!
//! Invariants: what [`decode`] yields lies inside the batch's bytes and has the LSNs that the record claims, or it
//!   yields nothing. It never reserves by a number it read.

use crate::entry::{Body, Command, Item, Record, Span, Spill, Text};

/// What an item is.
const COMMAND: u8 = 0;
const NOTHING: u8 = 1;
const RECORD: u8 = 2;
const SCRIPT: u8 = 3;
const SNAPSHOT_END: u8 = 4;
const STABLE: u8 = 5;
const WHICH: u8 = 0b111;

/// Flags of several items.
const SAME_DB: u8 = 0x08;
const SPILLED: u8 = 0x20;
/// Of commands and entries without effect: it is counted.
const COUNTED: u8 = 0x40;
/// Of commands: the transaction id is not 0.
const TXID: u8 = 0x10;
/// Of entries without effect.
const ACKNOWLEDGE: u8 = 0x08;
/// Of records.
const EXPIRES: u8 = 0x10;
const STICKY: u8 = 0x40;
const OWNED_KEY: u8 = 0x80;

/// Items decoded before their vector grows by itself.
const RESERVE: usize = 1024;

/// What is in a batch, besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lsns {
    /// The first entry's LSN.
    pub(super) first: u64,
    /// The LSN after the last entry's.
    pub(super) next: u64,
}

/// Appends the descriptors of `items` to `out`, and their spilled bodies to `spills`. The LSNs they carry, which must
/// follow each other; `Ok(None)` if there are none. An error says what is wrong.
pub(super) fn encode(
    items: &[Item],
    out: &mut Vec<u8>,
    spills: &mut Vec<Spill>,
) -> Result<Option<Lsns>, &'static str> {
    let mut writer = Writer {
        out,
        spills,
        db: 0,
        end: 0,
    };
    let mut lsns: Option<Lsns> = None;
    for (before, item) in items.iter().enumerate() {
        let lsn = match item {
            Item::Command(command) => {
                writer.command(command);
                command.lsn
            }
            Item::Nothing { lsn, acknowledge } => {
                let flags = flag(lsn.is_some(), COUNTED) | flag(*acknowledge, ACKNOWLEDGE);
                writer.out.push(NOTHING | flags);
                *lsn
            }
            Item::Record(record) => {
                writer.record(record);
                None
            }
            Item::Script(span) => {
                let mut few = Few::default();
                few.byte(SCRIPT);
                writer.span(&mut few, *span);
                writer.out.extend_from_slice(few.bytes());
                None
            }
            Item::SnapshotEnd => {
                writer.out.push(SNAPSHOT_END);
                None
            }
            Item::Stable { next } => {
                let mut few = Few::default();
                few.byte(STABLE);
                few.number(*next);
                writer.out.extend_from_slice(few.bytes());
                None
            }
        };
        match (lsn, &mut lsns) {
            (None, None) => {}
            (None, Some(_)) => return Err("an item without an LSN between journal entries"),
            (Some(lsn), None) if before == 0 => {
                let next = lsn.checked_add(1).ok_or("an LSN out of range")?;
                lsns = Some(Lsns { first: lsn, next });
            }
            (Some(_), None) => return Err("a journal entry behind items of a snapshot"),
            (Some(lsn), Some(run)) if lsn == run.next => {
                run.next = lsn.checked_add(1).ok_or("an LSN out of range")?;
            }
            (Some(_), Some(_)) => return Err("journal entries that do not follow each other"),
        }
    }
    Ok(lsns)
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    spills: &'a mut Vec<Spill>,
    /// The database of the item before.
    db: u32,
    /// Where the span before ended.
    end: u32,
}

impl Writer<'_> {
    fn command(&mut self, command: &Command) {
        let same = command.db == self.db;
        let spilled = matches!(command.args, Body::Spilled(_));
        let mut few = Few::default();
        few.byte(
            COMMAND
                | flag(same, SAME_DB)
                | flag(command.txid != 0, TXID)
                | flag(spilled, SPILLED)
                | flag(command.lsn.is_some(), COUNTED),
        );
        if !same {
            self.db = command.db;
            few.number(u64::from(command.db));
        }
        if command.txid != 0 {
            few.number(command.txid);
        }
        few.number(u64::from(command.words));
        self.body(&mut few, &command.args);
        self.out.extend_from_slice(few.bytes());
    }

    fn record(&mut self, record: &Record) {
        let same = record.db == self.db;
        let mut few = Few::default();
        few.byte(
            RECORD
                | flag(same, SAME_DB)
                | flag(record.expire_at_ms.is_some(), EXPIRES)
                | flag(matches!(record.value, Body::Spilled(_)), SPILLED)
                | flag(record.sticky, STICKY)
                | flag(matches!(record.key, Text::Owned(_)), OWNED_KEY),
        );
        few.byte(record.kind);
        if !same {
            self.db = record.db;
            few.number(u64::from(record.db));
        }
        if let Some(at) = record.expire_at_ms {
            few.number(zigzag(at));
        }
        few.number(u64::from(record.memcache_flags));
        match &record.key {
            Text::Raw(span) => self.span(&mut few, *span),
            Text::Owned(key) => {
                few.number(key.len() as u64);
                self.out.extend_from_slice(few.bytes());
                self.out.extend_from_slice(key);
                few = Few::default();
            }
        }
        self.body(&mut few, &record.value);
        self.out.extend_from_slice(few.bytes());
    }

    fn body(&mut self, few: &mut Few, body: &Body) {
        match body {
            Body::Inline(span) => self.span(few, *span),
            Body::Spilled(spill) => {
                few.number(spill.len());
                self.spills.push(spill.clone());
            }
        }
    }

    fn span(&mut self, few: &mut Few, span: Span) {
        few.number(zigzag(i64::from(span.start) - i64::from(self.end)));
        few.number(u64::from(span.len));
        self.end = span.start.wrapping_add(span.len);
    }
}

/// The fixed part of one descriptor: at most two bytes and six numbers.
struct Few {
    bytes: [u8; FEW],
    len: usize,
}

const FEW: usize = 2 + 6 * 10;

impl Default for Few {
    fn default() -> Self {
        Self {
            bytes: [0; FEW],
            len: 0,
        }
    }
}

impl Few {
    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    /// LEB128.
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// The items that `descriptors` stand for, over `bytes` bytes. `count` and `lsns` are the record's word and compared;
/// `spill` gives the next spilled body of this length.
pub(super) fn decode(
    descriptors: &[u8],
    bytes: usize,
    count: u32,
    lsns: Lsns,
    spill: &mut dyn FnMut(u64) -> Option<Spill>,
) -> Result<Vec<Item>, &'static str> {
    let mut reader = Reader {
        rest: descriptors,
        bytes,
        lsn: lsns.first,
        db: 0,
        end: 0,
        spill,
    };
    let mut items = Vec::with_capacity((count as usize).min(descriptors.len()).min(RESERVE));
    while !reader.rest.is_empty() {
        items.push(reader.item()?);
    }
    if items.len() != count as usize {
        return Err("another number of items than the record claims");
    }
    if reader.lsn != lsns.next {
        return Err("other LSNs than the record claims");
    }
    Ok(items)
}

struct Reader<'a> {
    rest: &'a [u8],
    bytes: usize,
    /// Of the next entry.
    lsn: u64,
    db: u32,
    end: u32,
    spill: &'a mut dyn FnMut(u64) -> Option<Spill>,
}

impl Reader<'_> {
    fn item(&mut self) -> Result<Item, &'static str> {
        let tag = self.byte()?;
        let has = |flag: u8| tag & flag != 0;
        let known = match tag & WHICH {
            COMMAND => SAME_DB | TXID | SPILLED | COUNTED,
            NOTHING => COUNTED | ACKNOWLEDGE,
            RECORD => SAME_DB | EXPIRES | SPILLED | STICKY | OWNED_KEY,
            _ => 0,
        };
        if tag & !(WHICH | known) != 0 {
            return Err("an unknown flag");
        }
        Ok(match tag & WHICH {
            COMMAND => {
                let db = self.db(has(SAME_DB))?;
                let txid = if has(TXID) { self.number()? } else { 0 };
                let words = self.small()?;
                let args = self.body(has(SPILLED))?;
                Item::Command(Command {
                    db,
                    lsn: self.count(has(COUNTED))?,
                    txid,
                    words,
                    args,
                })
            }
            NOTHING => Item::Nothing {
                lsn: self.count(has(COUNTED))?,
                acknowledge: has(ACKNOWLEDGE),
            },
            RECORD => {
                let kind = self.byte()?;
                let db = self.db(has(SAME_DB))?;
                let expire_at_ms = match has(EXPIRES) {
                    true => Some(unzigzag(self.number()?)),
                    false => None,
                };
                let memcache_flags = self.small()?;
                let key = match has(OWNED_KEY) {
                    true => Text::Owned(self.owned()?),
                    false => Text::Raw(self.span()?),
                };
                Item::Record(Record {
                    db,
                    kind,
                    expire_at_ms,
                    sticky: has(STICKY),
                    memcache_flags,
                    key,
                    value: self.body(has(SPILLED))?,
                })
            }
            SCRIPT => Item::Script(self.span()?),
            SNAPSHOT_END => Item::SnapshotEnd,
            STABLE => Item::Stable {
                next: self.number()?,
            },
            _ => return Err("an unknown item"),
        })
    }

    fn count(&mut self, counted: bool) -> Result<Option<u64>, &'static str> {
        if !counted {
            return Ok(None);
        }
        let lsn = self.lsn;
        self.lsn = lsn.checked_add(1).ok_or("an LSN out of range")?;
        Ok(Some(lsn))
    }

    fn db(&mut self, same: bool) -> Result<u32, &'static str> {
        if !same {
            self.db = self.small()?;
        }
        Ok(self.db)
    }

    fn owned(&mut self) -> Result<Box<[u8]>, &'static str> {
        let len = self.number()?;
        let len = usize::try_from(len).map_err(|_| "a key that is too long")?;
        let (key, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or("a key reaches past the descriptors")?;
        self.rest = rest;
        Ok(key.into())
    }

    fn body(&mut self, spilled: bool) -> Result<Body, &'static str> {
        if !spilled {
            return self.span().map(Body::Inline);
        }
        let len = self.number()?;
        (self.spill)(len)
            .map(Body::Spilled)
            .ok_or("a spilled body reaches past the record")
    }

    fn span(&mut self) -> Result<Span, &'static str> {
        const OUTSIDE: &str = "a span reaches past the batch's bytes";
        let gap = unzigzag(self.number()?);
        let start = i64::from(self.end).checked_add(gap);
        let start = start.and_then(|start| u32::try_from(start).ok());
        let (start, len) = (start.ok_or(OUTSIDE)?, self.small()?);
        let end = start.checked_add(len).ok_or(OUTSIDE)?;
        if end as usize > self.bytes {
            return Err(OUTSIDE);
        }
        self.end = end;
        Ok(Span { start, len })
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self
            .rest
            .split_first()
            .ok_or("a descriptor that is cut off")?;
        self.rest = rest;
        Ok(*first)
    }

    fn small(&mut self) -> Result<u32, &'static str> {
        u32::try_from(self.number()?).map_err(|_| "a number out of range")
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            if shift == 63 && part > 1 {
                return Err("a number out of range");
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number out of range")
    }
}
