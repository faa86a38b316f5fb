//! What stands before a snapshot value: expiry, flags, type and key; and short RDB strings.
//! Facts: the opcodes Dragonfly v1.14 to v1.40 writes before a type byte, and those of Redis that a
//!   reader of the format may skip. Expiry is little endian, in Unix milliseconds.

use std::borrow::Cow;
use std::ops::Range;

use crate::entry::{Span, Text};
use crate::rdb::{Cursor, Halt};

use super::fault::Fault;

/// Longest key, script or other text that must fit in memory. 64 MiB.
pub(super) const TEXT_LIMIT: usize = 64 << 20;

/// Opcodes start here; what is below is a value type.
pub(super) const FIRST_OPCODE: u8 = 200;

const DF_MASK: u8 = 220;
const IDLE: u8 = 248;
const FREQ: u8 = 249;
const EXPIRETIME_MS: u8 = 252;
const EXPIRETIME: u8 = 253;

const MASK_STICKY: u32 = 1;
const MASK_MEMCACHE: u32 = 2;

/// Whether a record starts with this byte.
pub(super) fn starts_record(first: u8) -> bool {
    first < FIRST_OPCODE || matches!(first, DF_MASK | IDLE | FREQ | EXPIRETIME_MS | EXPIRETIME)
}

/// Everything of a record but its database and value.
#[derive(Debug)]
pub(super) struct RecordHead {
    pub(super) kind: u8,
    pub(super) expire_at_ms: Option<i64>,
    pub(super) sticky: bool,
    pub(super) memcache_flags: u32,
    /// A raw key's span counts from the record's first byte.
    pub(super) key: Text,
    /// Bytes from the record's first to the value's first.
    pub(super) len: usize,
}

/// Reads a record up to its value.
pub(super) fn record_head(bytes: &[u8]) -> Result<RecordHead, Fault> {
    let mut cursor = Cursor::new(bytes);
    let (mut expire_at_ms, mut mask, mut memcache_flags) = (None, 0, 0);
    let mut prefixes = 0;
    let kind = loop {
        match cursor.byte()? {
            EXPIRETIME_MS => expire_at_ms = Some(i64::from_le_bytes(cursor.array()?)),
            EXPIRETIME => {
                let seconds = i32::from_le_bytes(cursor.array()?);
                expire_at_ms = Some(i64::from(seconds) * 1_000);
            }
            DF_MASK => {
                mask = u32::from_le_bytes(cursor.array()?);
                if mask & !(MASK_STICKY | MASK_MEMCACHE) != 0 {
                    let what = format!("unknown key flags {mask:#x}");
                    return Err(Fault::Invalid(Cow::Owned(what)));
                }
                if mask & MASK_MEMCACHE != 0 {
                    memcache_flags = u32::from_le_bytes(cursor.array()?);
                }
            }
            FREQ => {
                cursor.byte()?;
            }
            IDLE => {
                cursor.packed()?;
            }
            kind if kind < FIRST_OPCODE => break kind,
            opcode => return Err(Fault::Opcode(opcode)),
        }
        prefixes += 1;
        if prefixes > 8 {
            return Err(Fault::invalid("a key with more than 8 properties"));
        }
    };
    let key = match read_text(&mut cursor)? {
        Read::Raw(range) => Text::Raw(span(range)),
        Read::Decoded(bytes) => Text::Owned(bytes),
    };
    Ok(RecordHead {
        kind,
        expire_at_ms,
        sticky: mask & MASK_STICKY != 0,
        memcache_flags,
        key,
        len: cursor.position(),
    })
}

/// A short string: where it stands, or what it decodes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Raw(Range<usize>),
    Decoded(Box<[u8]>),
}

impl Read {
    /// The bytes, given those it was read from.
    pub(super) fn bytes<'a>(&'a self, from: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Raw(range) => from.get(range.clone()).unwrap_or_default(),
            Self::Decoded(bytes) => bytes,
        }
    }
}

/// Reads an RDB string of at most [`TEXT_LIMIT`] bytes: raw, an integer's digits, or LZF.
pub(super) fn read_text(cursor: &mut Cursor<'_>) -> Result<Read, Halt> {
    let digits = |value: i64| {
        let mut buffer = itoa::Buffer::new();
        Ok(Read::Decoded(buffer.format(value).as_bytes().into()))
    };
    match cursor.peek()? {
        0xC0 => {
            let [_, low] = cursor.array()?;
            digits(i64::from(low.cast_signed()))
        }
        0xC1 => {
            let [_, a, b] = cursor.array()?;
            digits(i64::from(i16::from_le_bytes([a, b])))
        }
        0xC2 => {
            let [_, a, b, c, d] = cursor.array()?;
            digits(i64::from(i32::from_le_bytes([a, b, c, d])))
        }
        0xC3 => {
            cursor.byte()?;
            let packed = cursor.packed()?;
            let whole = cursor.packed()?;
            let over = cursor.invalid("compressed text over the limit");
            let whole = usize::try_from(whole)
                .ok()
                .filter(|whole| *whole <= TEXT_LIMIT)
                .ok_or(over)?;
            let packed = cursor.take(packed, TEXT_LIMIT)?;
            // Nothing expands by more than a back reference does: 264 bytes out of 3.
            if whole / 88 > packed.len() {
                return Err(cursor.invalid("compressed text cannot become so long"));
            }
            lzf::decompress(packed, whole)
                .ok()
                .filter(|bytes| bytes.len() == whole)
                .map(|bytes| Read::Decoded(bytes.into()))
                .ok_or(cursor.invalid("broken LZF text"))
        }
        _ => {
            let len = cursor.packed()?;
            let start = cursor.position();
            let taken = cursor.take(len, TEXT_LIMIT)?;
            Ok(Read::Raw(start..start + taken.len()))
        }
    }
}

/// A span of a window. Windows are far shorter than 4 GiB: they hold at most one item over the
/// spill threshold, which is capped.
pub(super) fn span(range: Range<usize>) -> Span {
    let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Span {
        start: narrow(range.start),
        len: narrow(range.end.saturating_sub(range.start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Result<Vec<u8>, Halt> {
        read_text(&mut Cursor::new(bytes)).map(|read| read.bytes(bytes).to_vec())
    }

    #[test]
    fn texts_of_every_form_decode_as_the_reference_lists_them() {
        assert_eq!(text(b"\x03foo").unwrap(), b"foo");
        assert_eq!(text(&[0xC0, 0x0C]).unwrap(), b"12");
        assert_eq!(text(&[0xC0, 0xFF]).unwrap(), b"-1");
        assert_eq!(text(&[0xC1, 0x48, 0xF4]).unwrap(), b"-3000");
        assert_eq!(text(&[0xC2, 0xA0, 0x86, 1, 0]).unwrap(), b"100000");
        let lzf = [
            0xC3, 0x0C, 0x41, 0x2C, 0x01, 0x61, 0x61, 0xE0, 0xFF, 0x00, 0xE0, 0x17, 0x00, 0x01,
            0x61, 0x61,
        ];
        assert_eq!(text(&lzf).unwrap(), [b'a'; 300]);
    }

    #[test]
    fn an_expiring_sticky_key_with_memcache_flags_keeps_them_all() {
        let bytes = [
            &[0xFC][..],
            &1_800_000_000_000_i64.to_le_bytes(),
            &[0xDC, 3, 0, 0, 0, 7, 0, 0, 0, 4, 1, b'h', 3],
        ]
        .concat();
        let head = record_head(&bytes).unwrap();
        assert_eq!(head.expire_at_ms, Some(1_800_000_000_000));
        assert!(head.sticky);
        assert_eq!(
            (head.memcache_flags, head.kind, head.len),
            (7, 4, bytes.len() - 1)
        );
        for cut in 0..head.len {
            let halted = record_head(&bytes[..cut]).unwrap_err();
            assert!(matches!(halted, Fault::Halt(Halt::Incomplete { .. })));
        }
    }

    #[test]
    fn unknown_flags_endless_properties_and_impossible_lengths_are_refused() {
        for bytes in [
            &[0xDC, 4, 0, 0, 0, 0, 1, b'k'][..],
            &[0xF9, 1].repeat(9),
            &[0, 0x81, 255, 255, 255, 255, 255, 255, 255, 255],
            &[0, 0xC3, 1, 0x80, 0, 1, 0, 0, 0],
            &[0, 0xC3, 2, 3, 0xE0, 0xFF],
            &[0, 0xC4],
            &[0xFC, 0, 0, 0, 0, 0, 0, 0, 0, 0xFE, 0],
        ] {
            let fault = record_head(bytes).unwrap_err();
            assert!(
                !matches!(fault, Fault::Halt(Halt::Incomplete { .. })),
                "{bytes:?}"
            );
        }
    }
}
