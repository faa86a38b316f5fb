//! Listpacks: many small elements in one string, read forward and written.
//!
//! Invariants: the header's size and end mark are checked when one is opened; every element's
//! length, back-length and the count are checked as it is read, and nothing outside is touched.
//! Facts: Redis' listpack format (u32 LE bytes, u16 LE count with 65535 for unknown, elements,
//! `FF`); each element is followed by its own length, written backwards in 7-bit groups. Servers
//! compute that size from the length when they read, so one that is a byte longer than they expect
//! is damage to them: measured with dumps of Redis 7.0 and Valkey 9.1.2.

use super::string::{Item, canonical};
use super::{Cursor, Halt};

const HEADER: usize = 6;
const END: u8 = 0xFF;
const UNKNOWN: u16 = u16::MAX;

/// A place between two elements, kept while the bytes are elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub(super) at: usize,
    pub(super) seen: usize,
    /// Length of the element before, where the format records it.
    pub(super) previous: usize,
}

impl Place {
    /// Before the first element, behind a header of `at` bytes.
    pub(super) fn first(at: usize) -> Self {
        Self {
            at,
            seen: 0,
            previous: 0,
        }
    }
}

/// Reads one listpack from its start or from a place in it. Iterates over its elements, and stops
/// after the first error.
#[derive(Debug, Clone)]
pub struct Listpack<'a> {
    bytes: &'a [u8],
    place: Place,
}

impl<'a> Listpack<'a> {
    /// Opens the listpack that `bytes` are, all of them.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Halt> {
        let mut cursor = Cursor::new(bytes);
        let total = cursor.array().map(u32::from_le_bytes);
        if total.map(u64::from) != Ok(bytes.len() as u64) || bytes.len() <= HEADER {
            return Err(invalid(0, "listpack of another size than it says"));
        }
        if bytes.last() != Some(&END) {
            return Err(invalid(bytes.len() - 1, "listpack without an end"));
        }
        Ok(Self::resume(bytes, Place::first(HEADER)))
    }

    /// Goes on in a listpack that was opened before.
    pub(super) fn resume(bytes: &'a [u8], place: Place) -> Self {
        Self { bytes, place }
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether all elements were read; then their number must be what the header says.
    pub(super) fn at_end(&self) -> Result<bool, Halt> {
        if self.place.at + 1 < self.bytes.len() {
            return Ok(false);
        }
        let count = match self.bytes {
            [_, _, _, _, low, high, ..] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        };
        if count != UNKNOWN && usize::from(count) != self.place.seen {
            return Err(invalid(4, "listpack with another count than it says"));
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
        let rest = inside.get(at..).unwrap_or_default();
        let cut = |_| invalid(at, "listpack element goes over the end");
        let mut cursor = Cursor::new(rest);
        let item = read_item(&mut cursor).map_err(|halt| match halt {
            Halt::Incomplete { .. } => cut(halt),
            Halt::Invalid { what, .. } => invalid(at, what),
        })?;
        let len = cursor.position() as u64;
        let fits = [Back::Wide, Back::Narrow].into_iter().any(|back| {
            let mut expected = [0; 5];
            let size = back_length(&mut expected, len, back);
            let mut behind = cursor.clone();
            let found = behind.take(size as u64, 5).ok();
            let fits = found.is_some() && found == expected.get(..size);
            if fits {
                cursor = behind;
            }
            fits
        });
        if !fits {
            return Err(invalid(
                at,
                "listpack element with a wrong length behind it",
            ));
        }
        self.place.at += cursor.position();
        self.place.seen += 1;
        Ok(Some(item))
    }
}

impl<'a> Iterator for Listpack<'a> {
    type Item = Result<Item<'a>, Halt>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.next_item();
        if item.is_err() {
            // Nothing behind an error can be trusted: stand at the end, with the count it says.
            self.place.at = self.bytes.len();
            self.bytes = &[];
            self.place.seen = 0;
        }
        item.transpose()
    }
}

fn read_item<'a>(cursor: &mut Cursor<'a>) -> Result<Item<'a>, Halt> {
    let first = cursor.byte()?;
    Ok(match first {
        0..0x80 => Item::Int(i64::from(first)),
        0x80..0xC0 => Item::Bytes(cursor.take(u64::from(first & 0x3F), usize::MAX)?),
        0xC0..0xE0 => {
            let low = cursor.byte()?;
            // 13 bits, signed: shift the sign to the top and back.
            let bits = u16::from_be_bytes([first & 0x1F, low]) << 3;
            Item::Int(i64::from(bits.cast_signed() >> 3))
        }
        0xE0..0xF0 => {
            let low = cursor.byte()?;
            let len = u16::from_be_bytes([first & 0x0F, low]);
            Item::Bytes(cursor.take(u64::from(len), usize::MAX)?)
        }
        0xF0 => {
            let len = u32::from_le_bytes(cursor.array()?);
            Item::Bytes(cursor.take(u64::from(len), usize::MAX)?)
        }
        0xF1 => Item::Int(i64::from(i16::from_le_bytes(cursor.array()?))),
        0xF2 => {
            let [a, b, c] = cursor.array()?;
            Item::Int(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8))
        }
        0xF3 => Item::Int(i64::from(i32::from_le_bytes(cursor.array()?))),
        0xF4 => Item::Int(i64::from_le_bytes(cursor.array()?)),
        _ => return Err(cursor.invalid("unknown listpack encoding")),
    })
}

/// How many bytes the greatest length of so many 7-bit groups takes: the one thing in which listpacks differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// One more than it needs: 16383 takes three. Dragonfly, Redis to 8.2 and Valkey to 9.0, which take nothing else.
    Wide,
    /// No more than it needs. Valkey 9.1, which takes nothing else.
    Narrow,
}

/// The lengths of elements that the two write differently.
const GREATEST: [u64; 3] = [16_383, 2_097_151, 268_435_455];

/// Writes the back-length of an element of `len` bytes into the front of `out`; its size.
fn back_length(out: &mut [u8; 5], len: u64, back: Back) -> usize {
    let more = usize::from(back == Back::Wide && GREATEST.contains(&len));
    let size = more
        + match len {
            0..=127 => 1,
            128..=16_383 => 2,
            16_384..=2_097_151 => 3,
            2_097_152..=268_435_455 => 4,
            _ => 5,
        };
    for (place, slot) in out.iter_mut().take(size).enumerate() {
        let group = (len >> (7 * (size - 1 - place))) as u8 & 0x7F;
        *slot = if place == 0 { group } else { group | 0x80 };
    }
    size
}

/// The listpack as Valkey 9.1 takes it, if that is not as it is. Its elements are the same.
pub fn narrowed(bytes: &[u8]) -> Result<Option<Vec<u8>>, Halt> {
    let [shortest, ..] = GREATEST;
    if (bytes.len() as u64) < shortest {
        return Ok(None);
    }
    let mut pack = Listpack::new(bytes)?;
    let mut narrow: Option<Vec<u8>> = None;
    loop {
        let start = pack.place.at;
        if pack.next_item()?.is_none() {
            break;
        }
        let element = bytes.get(start..pack.place.at).unwrap_or_default();
        let mut cursor = Cursor::new(element);
        read_item(&mut cursor)?;
        let len = cursor.position();
        let mut back = [0; 5];
        let size = back_length(&mut back, len as u64, Back::Narrow);
        if len + size < element.len() {
            let kept = || bytes.get(..start).unwrap_or_default().to_vec();
            let out = narrow.get_or_insert_with(kept);
            out.extend_from_slice(element.get(..len).unwrap_or_default());
            out.extend(back.iter().take(size));
        } else if let Some(out) = &mut narrow {
            out.extend_from_slice(element);
        }
    }
    Ok(narrow.map(|mut out| {
        out.push(END);
        let total = u32::try_from(out.len()).unwrap_or(u32::MAX);
        for (slot, byte) in out.iter_mut().zip(total.to_le_bytes()) {
            *slot = byte;
        }
        out
    }))
}

/// Builds a listpack. Bytes that spell an i64 become integers, as Redis does it.
#[derive(Debug, Clone)]
pub struct ListpackWriter {
    bytes: Vec<u8>,
    count: usize,
}

impl Default for ListpackWriter {
    fn default() -> Self {
        Self {
            bytes: vec![0; HEADER],
            count: 0,
        }
    }
}

impl ListpackWriter {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes it would have if finished now.
    pub fn size(&self) -> usize {
        self.bytes.len() + 1
    }

    /// Appends an element.
    pub fn push(&mut self, bytes: &[u8]) {
        match canonical(bytes) {
            Some(value) => self.push_int(value),
            None => self.push_bytes(bytes),
        }
    }

    /// Appends an element as bytes, whatever it spells. At most 4 GiB of it.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        let start = self.bytes.len();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match len {
            0..0x40 => self.bytes.push(0x80 | len as u8),
            0x40..0x1000 => self
                .bytes
                .extend_from_slice(&(0xE000 | len as u16).to_be_bytes()),
            _ => {
                self.bytes.push(0xF0);
                self.bytes.extend_from_slice(&len.to_le_bytes());
            }
        }
        self.bytes
            .extend_from_slice(bytes.get(..len as usize).unwrap_or(bytes));
        self.close(start);
    }

    /// Appends an integer in its shortest form.
    pub fn push_int(&mut self, value: i64) {
        let start = self.bytes.len();
        match value {
            0..=127 => self.bytes.push(value as u8),
            -4096..=4095 => {
                let bits = value as u16 & 0x1FFF | 0xC000;
                self.bytes.extend_from_slice(&bits.to_be_bytes());
            }
            _ => {
                let (code, size) = match value {
                    -0x8000..0x8000 => (0xF1, 2),
                    -0x80_0000..0x80_0000 => (0xF2, 3),
                    -0x8000_0000..0x8000_0000 => (0xF3, 4),
                    _ => (0xF4, 8),
                };
                self.bytes.push(code);
                self.bytes.extend(value.to_le_bytes().iter().take(size));
            }
        }
        self.close(start);
    }

    /// Appends all elements of another.
    pub fn append(&mut self, other: Self) {
        self.bytes
            .extend_from_slice(other.bytes.get(HEADER..).unwrap_or_default());
        self.count += other.count;
    }

    /// The listpack's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(END);
        let total = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let count = u16::try_from(self.count).unwrap_or(UNKNOWN);
        let header = total.to_le_bytes().into_iter().chain(count.to_le_bytes());
        for (slot, byte) in self.bytes.iter_mut().zip(header) {
            *slot = byte;
        }
        self.bytes
    }

    fn close(&mut self, start: usize) {
        let mut back = [0; 5];
        let size = back_length(&mut back, (self.bytes.len() - start) as u64, Back::Wide);
        self.bytes.extend(back.iter().take(size));
        self.count += 1;
    }
}

fn invalid(at: usize, what: &'static str) -> Halt {
    Halt::Invalid { at, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrowed_listpack_holds_the_same_in_fewer_bytes() {
        for (len, saved) in [(16_377, 0), (16_378, 2), (16_379, 0), (2_097_146, 2)] {
            let mut pack = ListpackWriter::new();
            let items = [&b"a"[..], &vec![b'x'; len], b"7", &vec![b'y'; len], b"z"];
            items.iter().for_each(|item| pack.push(item));
            let wide = pack.finish();
            let narrow = narrowed(&wide).unwrap();
            assert_eq!(narrow.is_some(), saved > 0, "{len}");
            let narrow = narrow.unwrap_or_else(|| wide.clone());
            assert_eq!(narrow.len() + saved, wide.len(), "{len}");
            let read = |bytes: &[u8]| -> Vec<Vec<u8>> {
                let items = Listpack::new(bytes).unwrap();
                items.map(|item| item.unwrap().text().to_vec()).collect()
            };
            assert_eq!(read(&narrow), items);
            assert_eq!(read(&wide), items);
            assert_eq!(narrowed(&narrow).unwrap(), None, "once is enough");
        }
    }
}
