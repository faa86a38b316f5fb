//! Ziplists: what listpacks were before, in values of older Dragonfly releases. Read only.
//!
//! Invariants: size, end mark, tail offset, count and every element's record of its predecessor's
//! length are checked as they are passed.
//! Facts: Redis' ziplist format (u32 LE bytes, u32 LE offset of the last element, u16 LE count
//! with 65535 for unknown, elements, `FF`).

use super::listpack::Place;
use super::string::Item;
use super::{Cursor, Halt};

const HEADER: usize = 10;
const END: u8 = 0xFF;

/// Reads one ziplist from its start or from a place in it.
#[derive(Debug, Clone)]
pub struct Ziplist<'a> {
    bytes: &'a [u8],
    place: Place,
}

impl<'a> Ziplist<'a> {
    /// Opens the ziplist that `bytes` are, all of them.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Halt> {
        let total = Cursor::new(bytes).array().map(u32::from_le_bytes);
        if total.map(u64::from) != Ok(bytes.len() as u64) || bytes.len() <= HEADER {
            return Err(invalid(0, "ziplist of another size than it says"));
        }
        if bytes.last() != Some(&END) {
            return Err(invalid(bytes.len() - 1, "ziplist without an end"));
        }
        Ok(Self::resume(bytes, Place::first(HEADER)))
    }

    /// Whether `bytes` are a ziplist from end to end.
    pub fn is_valid(bytes: &'a [u8]) -> bool {
        Self::new(bytes).is_ok_and(|mut list| {
            loop {
                match list.next_item() {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
        })
    }

    /// Goes on in a ziplist that was opened before.
    pub(super) fn resume(bytes: &'a [u8], place: Place) -> Self {
        Self { bytes, place }
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether all elements were read; then count and tail must be what the header says.
    pub(super) fn at_end(&self) -> Result<bool, Halt> {
        if self.place.at + 1 < self.bytes.len() {
            return Ok(false);
        }
        let mut cursor = Cursor::new(self.bytes);
        let [_, _, _, _, a, b, c, d] = cursor.array()?;
        let count = u16::from_le_bytes(cursor.array()?);
        if count != u16::MAX && usize::from(count) != self.place.seen {
            return Err(invalid(8, "ziplist with another count than it says"));
        }
        let tail = u64::from(u32::from_le_bytes([a, b, c, d]));
        if tail != (self.place.at - self.place.previous) as u64 {
            return Err(invalid(4, "ziplist with its last element elsewhere"));
        }
        Ok(true)
    }

    /// The next element; `None` at the end.
    pub fn next_item(&mut self) -> Result<Option<Item<'a>>, Halt> {
        if self.at_end()? {
            return Ok(None);
        }
        let at = self.place.at;
        // The end mark is no part of an element.
        let inside = self
            .bytes
            .get(..self.bytes.len().saturating_sub(1))
            .unwrap_or_default();
        let mut cursor = Cursor::new(inside.get(at..).unwrap_or_default());
        let (previous, item) = read_item(&mut cursor).map_err(|halt| match halt {
            Halt::Incomplete { .. } => invalid(at, "ziplist element goes over the end"),
            Halt::Invalid { what, .. } => invalid(at, what),
        })?;
        if previous != self.place.previous as u64 {
            return Err(invalid(at, "ziplist element with a wrong length before it"));
        }
        self.place.previous = cursor.position();
        self.place.at += cursor.position();
        self.place.seen += 1;
        Ok(Some(item))
    }
}

fn read_item<'a>(cursor: &mut Cursor<'a>) -> Result<(u64, Item<'a>), Halt> {
    let previous = match cursor.byte()? {
        0xFE => u64::from(u32::from_le_bytes(cursor.array()?)),
        END => return Err(cursor.invalid("end of a ziplist inside it")),
        short => u64::from(short),
    };
    let first = cursor.byte()?;
    let item = match first {
        0..0x40 => Item::Bytes(cursor.take(u64::from(first), usize::MAX)?),
        0x40..0x80 => {
            let low = cursor.byte()?;
            let len = u16::from_be_bytes([first & 0x3F, low]);
            Item::Bytes(cursor.take(u64::from(len), usize::MAX)?)
        }
        0x80 => {
            let len = u32::from_be_bytes(cursor.array()?);
            Item::Bytes(cursor.take(u64::from(len), usize::MAX)?)
        }
        0xC0 => Item::Int(i64::from(i16::from_le_bytes(cursor.array()?))),
        0xD0 => Item::Int(i64::from(i32::from_le_bytes(cursor.array()?))),
        0xE0 => Item::Int(i64::from_le_bytes(cursor.array()?)),
        0xF0 => {
            let [a, b, c] = cursor.array()?;
            Item::Int(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8))
        }
        0xFE => Item::Int(i64::from(i8::from_le_bytes(cursor.array()?))),
        0xF1..=0xFD => Item::Int(i64::from(first & 0x0F) - 1),
        _ => return Err(cursor.invalid("unknown ziplist encoding")),
    };
    Ok((previous, item))
}

fn invalid(at: usize, what: &'static str) -> Halt {
    Halt::Invalid { at, what }
}
