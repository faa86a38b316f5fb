//! Intsets: a set of integers as one sorted array of equally wide numbers.
//!
//! Invariants: width, count and size agree when one is opened; the order is checked as it is read.
//! Facts: Redis' intset format (u32 LE width of 2, 4 or 8 bytes, u32 LE count, numbers LE).

use super::listpack::Place;
use super::{Cursor, Halt};

const HEADER: usize = 8;

/// Reads one intset from its start or from a place in it.
#[derive(Debug, Clone)]
pub struct Intset<'a> {
    bytes: &'a [u8],
    place: Place,
}

impl<'a> Intset<'a> {
    /// Opens the intset that `bytes` are, all of them.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Halt> {
        let short = |_| invalid(0, "intset shorter than its header");
        let mut cursor = Cursor::new(bytes);
        let width = u32::from_le_bytes(cursor.array().map_err(short)?);
        let count = u32::from_le_bytes(cursor.array().map_err(short)?);
        if !matches!(width, 2 | 4 | 8) {
            return Err(invalid(0, "intset of an unknown width"));
        }
        if u64::from(width) * u64::from(count) != cursor.rest().len() as u64 {
            return Err(invalid(4, "intset with another count than it says"));
        }
        Ok(Self::resume(bytes, Place::first(HEADER)))
    }

    /// Goes on in an intset that was opened before.
    pub(super) fn resume(bytes: &'a [u8], place: Place) -> Self {
        Self { bytes, place }
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether all members were read.
    pub(super) fn at_end(&self) -> bool {
        self.place.at >= self.bytes.len()
    }

    /// The next member; `None` at the end.
    pub fn next_member(&mut self) -> Result<Option<i64>, Halt> {
        if self.at_end() {
            return Ok(None);
        }
        let at = self.place.at;
        let member = self.member(at)?;
        if at > HEADER && self.member(at - self.width())? >= member {
            return Err(invalid(at, "intset out of order"));
        }
        self.place.at += self.width();
        Ok(Some(member))
    }

    fn width(&self) -> usize {
        usize::from(self.bytes.first().copied().unwrap_or(2))
    }

    fn member(&self, at: usize) -> Result<i64, Halt> {
        let mut cursor = Cursor::new(self.bytes.get(at..).unwrap_or_default());
        Ok(match self.width() {
            2 => i64::from(i16::from_le_bytes(cursor.array()?)),
            4 => i64::from(i32::from_le_bytes(cursor.array()?)),
            _ => i64::from_le_bytes(cursor.array()?),
        })
    }
}

/// The intset of these members, in the narrowest width that holds them all.
pub fn write(members: &[i64]) -> Vec<u8> {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let fits = |bits: u32| {
        sorted.iter().all(|member| {
            let top = member >> (bits - 1);
            top == 0 || top == -1
        })
    };
    let width = [2u32, 4]
        .into_iter()
        .find(|width| fits(width * 8))
        .unwrap_or(8);
    let mut out = Vec::with_capacity(HEADER + sorted.len() * width as usize);
    out.extend_from_slice(&width.to_le_bytes());
    out.extend_from_slice(&(sorted.len() as u32).to_le_bytes());
    for member in sorted {
        out.extend(member.to_le_bytes().iter().take(width as usize));
    }
    out
}

fn invalid(at: usize, what: &'static str) -> Halt {
    Halt::Invalid { at, what }
}
