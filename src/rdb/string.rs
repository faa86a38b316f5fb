//! RDB strings: raw, small integers, LZF; read without copying where the bytes allow it.
//!
//! Invariants: a halted read consumes nothing; a compressed string is refused before anything is
//! reserved for it when its claimed length could not come from its bytes.
//! Facts: Redis' `rdbSaveRawString` format. Dragonfly writes a string of at most 11 characters
//! that is the canonical decimal form of an i32 as an integer, and everything else raw.

use std::ops::Deref;

use super::{Cursor, Halt, STRING_LIMIT};

/// One LZF back reference of 3 bytes yields at most 264: nothing expands by more than this.
pub(super) const LZF_EXPANSION: u64 = 88;

/// [`STRING_LIMIT`] as a length in memory.
const LIMIT: usize = if usize::BITS > 34 {
    STRING_LIMIT as usize
} else {
    usize::MAX
};

/// The bytes of a string, borrowed where they lie in the input as they are. Reads as `[u8]`.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    /// Bytes of the input.
    Borrowed(&'a [u8]),
    /// An integer's decimal form.
    Number(Decimal),
    /// Decompressed bytes.
    Owned(Vec<u8>),
}

/// The decimal form of an i64, on the stack.
#[derive(Debug, Clone, Copy)]
pub struct Decimal {
    digits: [u8; 20],
    len: u8,
}

impl From<i64> for Decimal {
    fn from(value: i64) -> Self {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(value).as_bytes();
        let mut digits = [0; 20];
        for (slot, byte) in digits.iter_mut().zip(text) {
            *slot = *byte;
        }
        Self {
            digits,
            len: text.len().min(20) as u8,
        }
    }
}

impl Deref for Decimal {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.digits.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Number(decimal) => decimal,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text<'_> {}

impl Text<'_> {
    /// The bytes, owned; copies unless they already are.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Owned(bytes) => bytes,
            other => other.to_vec(),
        }
    }

    /// The integer these bytes spell, if they do.
    pub fn integer(&self) -> Option<i64> {
        std::str::from_utf8(self).ok()?.parse().ok()
    }
}

/// One element of a listpack or ziplist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// Stored as an integer.
    Int(i64),
    /// Stored as bytes.
    Bytes(&'a [u8]),
}

impl<'a> Item<'a> {
    /// The element's bytes.
    pub fn text(self) -> Text<'a> {
        match self {
            Self::Int(value) => Text::Number(value.into()),
            Self::Bytes(bytes) => Text::Borrowed(bytes),
        }
    }

    /// The score it spells; a text is read to the nearest f64, exactly. Not a number is no score.
    pub fn score(self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(value as f64),
            Self::Bytes(bytes) => {
                let score: f64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
                (!score.is_nan()).then_some(score)
            }
        }
    }

    /// The integer it is stored as or spells.
    pub(super) fn integer(self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(value),
            Self::Bytes(_) => self.text().integer(),
        }
    }
}

/// Reads one string. A halted read consumes nothing.
pub fn read<'a>(cursor: &mut Cursor<'a>) -> Result<Text<'a>, Halt> {
    let mut ahead = cursor.clone();
    let text = match ahead.peek()? {
        0xC0 => {
            let [_, value] = ahead.array()?;
            Text::Number(i64::from(i8::from_le_bytes([value])).into())
        }
        0xC1 => {
            let [_, a, b] = ahead.array()?;
            Text::Number(i64::from(i16::from_le_bytes([a, b])).into())
        }
        0xC2 => {
            let [_, a, b, c, d] = ahead.array()?;
            Text::Number(i64::from(i32::from_le_bytes([a, b, c, d])).into())
        }
        0xC3 => Text::Owned(read_compressed(&mut ahead)?),
        0xC4.. => return Err(ahead.invalid("unknown string encoding")),
        _ => {
            let len = ahead.packed()?;
            Text::Borrowed(ahead.take(len, LIMIT)?)
        }
    };
    *cursor = ahead;
    Ok(text)
}

/// Passes over one string without decompressing it. A halted call consumes nothing.
pub fn pass(cursor: &mut Cursor<'_>) -> Result<(), Halt> {
    if cursor.peek()? != 0xC3 {
        return read(cursor).map(|_| ());
    }
    let mut ahead = cursor.clone();
    ahead.byte()?;
    let packed = ahead.packed()?;
    ahead.packed()?;
    ahead.take(packed, LIMIT)?;
    *cursor = ahead;
    Ok(())
}

fn read_compressed(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, Halt> {
    let corrupt = cursor.invalid("compressed string does not decompress");
    cursor.byte()?;
    let packed = cursor.packed()?;
    let whole = cursor.packed()?;
    if whole > packed.saturating_mul(LZF_EXPANSION) {
        return Err(cursor.invalid("compressed string cannot become so long"));
    }
    let bytes = cursor.take(packed, LIMIT)?;
    let whole = usize::try_from(whole).map_err(|_| corrupt)?;
    match lzf::decompress(bytes, whole) {
        Ok(text) if text.len() == whole => Ok(text),
        _ => Err(corrupt),
    }
}

/// Appends a packed unsigned integer in its shortest form.
pub fn write_packed(out: &mut Vec<u8>, value: u64) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        _ => match u32::try_from(value) {
            Ok(value) => {
                out.push(0x80);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&value.to_be_bytes());
            }
        },
    }
}

/// Appends a string as its length and bytes.
pub fn write_raw(out: &mut Vec<u8>, bytes: &[u8]) {
    write_packed(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a string as Dragonfly does: a small integer as such, everything else raw.
pub fn write(out: &mut Vec<u8>, bytes: &[u8]) {
    match canonical(bytes).and_then(|value| i32::try_from(value).ok()) {
        Some(value) => write_integer(out, value),
        None => write_raw(out, bytes),
    }
}

/// Appends a string as Dragonfly does with `compression_mode=1`: more than 20 bytes as LZF where
/// that is shorter, else as [`write()`] does.
pub fn write_compressed(out: &mut Vec<u8>, bytes: &[u8]) {
    match lzf::compress(bytes) {
        Ok(packed) if bytes.len() > 20 && packed.len() + 4 < bytes.len() => {
            out.push(0xC3);
            write_packed(out, packed.len() as u64);
            write_packed(out, bytes.len() as u64);
            out.extend_from_slice(&packed);
        }
        _ => write(out, bytes),
    }
}

fn write_integer(out: &mut Vec<u8>, value: i32) {
    if let Ok(value) = i8::try_from(value) {
        out.push(0xC0);
        out.extend_from_slice(&value.to_le_bytes());
    } else if let Ok(value) = i16::try_from(value) {
        out.push(0xC1);
        out.extend_from_slice(&value.to_le_bytes());
    } else {
        out.push(0xC2);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// The i64 of which these bytes are the one decimal form: no leading zero, no plus, no `-0`.
pub(super) fn canonical(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let plain = match digits {
        [b'0'] => bytes.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.len() < 19,
        _ => false,
    };
    if !plain {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
