//! From Redis' `DUMP` to Dragonfly's records and `DUMP`s.
//!
//! Facts: the types 0, 2, 4, 5, 11, 16, 17, 18 and 21 are the same in both; a Redis 7.0 stream (19) lacks each
//!   consumer's active time; a Redis 7.2 small set (20) is a listpack, which Dragonfly does not send.

use super::super::client::Reply;
use super::encode::{dump, packed, string};
use super::value::Value;

/// The value of a Redis `DUMP`; `None` for types that Dragonfly does not have.
#[must_use]
pub fn from_redis_dump(payload: &[u8]) -> Option<Value> {
    let (kind, rest) = payload.split_first()?;
    let body = rest.get(..rest.len().checked_sub(10)?)?;
    match kind {
        0 | 2 | 4 | 5 | 11 | 16 | 17 | 21 => Some(Value::raw(*kind, body.to_vec())),
        18 => Some(list(body)),
        19 => stream_19(body).map(|bytes| Value::raw(21, bytes)),
        20 => set_20(body),
        _ => None,
    }
}

/// A `DUMP` reply of Redis as Dragonfly would give it.
#[must_use]
pub fn dump_reply(reply: Reply) -> Reply {
    match &reply {
        Reply::Bulk(payload) => match from_redis_dump(payload) {
            Some(value) => Reply::Bulk(dump(value.kind, &value.bytes)),
            None => reply,
        },
        _ => reply,
    }
}

/// A list with a cut after each node.
fn list(body: &[u8]) -> Value {
    let mut value = Value::raw(18, body.to_vec());
    let mut reader = Reader { bytes: body, at: 0 };
    let nodes = reader.length().unwrap_or(0);
    for _ in 1..nodes {
        if reader.length().and_then(|_| reader.string()).is_none() {
            break;
        }
        value.cuts.push(reader.at);
    }
    value
}

/// A stream of Redis 7.0 with the consumers' active times that 7.2 has: the times they were seen.
fn stream_19(body: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { bytes: body, at: 0 };
    for _ in 0..reader.length()? {
        reader.string()?;
        reader.string()?;
    }
    for _ in 0..8 {
        reader.length()?;
    }
    let groups = reader.length()?;
    let mut out = body.get(..reader.at)?.to_vec();
    for _ in 0..groups {
        let from = reader.at;
        reader.string()?;
        for _ in 0..3 {
            reader.length()?;
        }
        for _ in 0..reader.length()? {
            reader.take(24)?;
            reader.length()?;
        }
        let consumers = reader.length()?;
        out.extend_from_slice(body.get(from..reader.at)?);
        for _ in 0..consumers {
            let from = reader.at;
            reader.string()?;
            let seen = reader.take(8)?;
            out.extend_from_slice(body.get(from..reader.at)?);
            out.extend_from_slice(seen);
            let from = reader.at;
            for _ in 0..reader.length()? {
                reader.take(16)?;
            }
            out.extend_from_slice(body.get(from..reader.at)?);
        }
    }
    (reader.at == body.len()).then_some(out)
}

/// A small set as Dragonfly sends it.
fn set_20(body: &[u8]) -> Option<Value> {
    let mut reader = Reader { bytes: body, at: 0 };
    let members = listpack_elements(reader.string()?)?;
    let mut out = Vec::new();
    packed(members.len() as u64, &mut out);
    members.iter().for_each(|member| string(member, &mut out));
    Some(Value::raw(2, out))
}

/// The elements of a listpack as text.
#[must_use]
pub fn listpack_elements(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut reader = Reader { bytes, at: 6 };
    let mut elements = Vec::new();
    loop {
        let start = reader.at;
        let first = *reader.take(1)?.first()?;
        if first == 0xFF {
            return Some(elements);
        }
        let mut little = |len: usize| -> Option<i64> {
            let mut value = [0; 8];
            let bytes = reader.take(len)?;
            value.get_mut(..len)?.copy_from_slice(bytes);
            let shift = 64 - 8 * u32::try_from(len).ok()?;
            Some((i64::from_le_bytes(value) << shift) >> shift)
        };
        let element = match first {
            0x00..=0x7F => i64::from(first).to_string().into_bytes(),
            0x80..=0xBF => reader.take(usize::from(first & 0x3F))?.to_vec(),
            0xC0..=0xDF => {
                let value = (i64::from(first & 0x1F) << 8) | i64::from(*reader.take(1)?.first()?);
                (if value >= 4096 { value - 8192 } else { value })
                    .to_string()
                    .into_bytes()
            }
            0xE0..=0xEF => {
                let len = (usize::from(first & 0x0F) << 8) | usize::from(*reader.take(1)?.first()?);
                reader.take(len)?.to_vec()
            }
            0xF0 => {
                let len = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
                reader.take(usize::try_from(len).ok()?)?.to_vec()
            }
            0xF1 => little(2)?.to_string().into_bytes(),
            0xF2 => little(3)?.to_string().into_bytes(),
            0xF3 => little(4)?.to_string().into_bytes(),
            0xF4 => little(8)?.to_string().into_bytes(),
            _ => return None,
        };
        elements.push(element);
        let back = match reader.at - start {
            0..=127 => 1,
            128..=16_383 => 2,
            16_384..=2_097_151 => 3,
            2_097_152..=268_435_455 => 4,
            _ => 5,
        };
        reader.take(back)?;
    }
}

/// Reads what Redis dumped without LZF compression.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn length(&mut self) -> Option<u64> {
        let first = *self.take(1)?.first()?;
        match first {
            0x00..=0x3F => Some(u64::from(first)),
            0x40..=0x7F => {
                Some((u64::from(first & 0x3F) << 8) | u64::from(*self.take(1)?.first()?))
            }
            0x80 => Some(u64::from(u32::from_be_bytes(
                self.take(4)?.try_into().ok()?,
            ))),
            0x81 => Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?)),
            _ => None,
        }
    }

    /// A string's bytes; for one in integer form, its encoded bytes are skipped and nothing is answered but that.
    fn string(&mut self) -> Option<&'a [u8]> {
        let integer = match self.bytes.get(self.at)? {
            0xC0 => Some(1),
            0xC1 => Some(2),
            0xC2 => Some(4),
            _ => None,
        };
        match integer {
            Some(len) => self.take(1 + len),
            None => {
                let len = usize::try_from(self.length()?).ok()?;
                self.take(len)
            }
        }
    }
}
