//! Bytes as Dragonfly writes them: integers, strings, listpacks, journal entries, `RESTORE` payloads.
//!
//! Invariants: what these produce for a recorded value equals the recorded bytes (`tests/simulated.rs`).
//! Facts: recorded streams of v1.40.1 and v1.27.4; the listpack format of Redis 7.

use crc_fast::{CrcAlgorithm, checksum};

/// Journal opcode: the database of the entries that follow.
pub const OP_SELECT: u8 = 6;
/// Journal opcode: a key that expired (up to v1.37).
pub const OP_EXPIRED: u8 = 9;
/// Journal opcode: a command.
pub const OP_COMMAND: u8 = 10;
/// Journal opcode: a command of a transaction (up to v1.20).
pub const OP_MULTI_COMMAND: u8 = 11;
/// Journal opcode: the end of a transaction (up to v1.20).
pub const OP_EXEC: u8 = 12;
/// Journal opcode: an entry without effect that wants an acknowledgement.
pub const OP_PING: u8 = 13;
/// Journal opcode: the position of the entry before it.
pub const OP_LSN: u8 = 15;

/// An unsigned integer as lengths in snapshots and everything in journals are written.
pub fn packed(value: u64, out: &mut Vec<u8>) {
    if value < 1 << 6 {
        out.push(value as u8);
    } else if value < 1 << 14 {
        out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(0x80);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(0x81);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// How many bytes [`packed`] takes.
#[must_use]
pub fn packed_len(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..=0xFFFF_FFFF => 5,
        _ => 9,
    }
}

/// The integer that these bytes spell in canonical decimal, if they do.
#[must_use]
pub fn canonical_int(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value: i64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

/// A string of the snapshot: as an integer when it is the canonical text of one with at most 32 bits.
pub fn string(bytes: &[u8], out: &mut Vec<u8>) {
    let small = if bytes.len() <= 11 {
        canonical_int(bytes).and_then(|value| i32::try_from(value).ok())
    } else {
        None
    };
    match small {
        Some(value) => integer_string(value, out),
        None => raw_string(bytes, out),
    }
}

/// A string of the snapshot in its raw form.
pub fn raw_string(bytes: &[u8], out: &mut Vec<u8>) {
    packed(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn integer_string(value: i32, out: &mut Vec<u8>) {
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

/// One journal entry that carries a command, its SELECT included.
pub fn command_entry<A: AsRef<[u8]>>(
    op: u8,
    db: u32,
    txid: u64,
    shards: u64,
    args: &[A],
    out: &mut Vec<u8>,
) {
    packed(u64::from(OP_SELECT), out);
    packed(u64::from(db), out);
    out.push(op);
    packed(txid, out);
    packed(shards, out);
    packed(args.len() as u64, out);
    packed(args.iter().map(|arg| arg.as_ref().len() as u64).sum(), out);
    for arg in args {
        raw_string(arg.as_ref(), out);
    }
}

/// The LSN opcode with its position.
pub fn lsn_marker(lsn: u64, out: &mut Vec<u8>) {
    out.push(OP_LSN);
    packed(lsn, out);
}

/// A journal entry as the snapshot carries it.
pub fn journal_blob(entry: &[u8], out: &mut Vec<u8>) {
    out.push(0xD2);
    packed(1, out);
    raw_string(entry, out);
}

/// A listpack of these elements; those that spell a canonical integer are stored as integers.
#[must_use]
pub fn listpack<A: AsRef<[u8]>>(elements: &[A]) -> Vec<u8> {
    let mut out = vec![0; 6];
    for element in elements {
        listpack_element(element.as_ref(), &mut out);
    }
    out.push(0xFF);
    let total = out.len() as u32;
    let count = u16::try_from(elements.len()).unwrap_or(u16::MAX);
    out[..4].copy_from_slice(&total.to_le_bytes());
    out[4..6].copy_from_slice(&count.to_le_bytes());
    out
}

/// One element with its back-length.
pub fn listpack_element(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    match if bytes.len() <= 20 {
        canonical_int(bytes)
    } else {
        None
    } {
        Some(value) => listpack_int(value, out),
        None => {
            let len = bytes.len();
            if len < 64 {
                out.push(0x80 | len as u8);
            } else if len < 4096 {
                out.extend_from_slice(&(0xE000 | len as u16).to_be_bytes());
            } else {
                out.push(0xF0);
                out.extend_from_slice(&(len as u32).to_le_bytes());
            }
            out.extend_from_slice(bytes);
        }
    }
    back_length(out.len() - start, out);
}

fn listpack_int(value: i64, out: &mut Vec<u8>) {
    match value {
        0..=127 => out.push(value as u8),
        -4096..=4095 => out.extend_from_slice(&(0xC000 | (value as u16 & 0x1FFF)).to_be_bytes()),
        -32_768..=32_767 => {
            out.push(0xF1);
            out.extend_from_slice(&(value as i16).to_le_bytes());
        }
        -8_388_608..=8_388_607 => {
            out.push(0xF2);
            out.extend_from_slice(&value.to_le_bytes()[..3]);
        }
        -2_147_483_648..=2_147_483_647 => {
            out.push(0xF3);
            out.extend_from_slice(&(value as i32).to_le_bytes());
        }
        _ => {
            out.push(0xF4);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// The length of an element, most significant seven bits first, continued by the high bit of what follows.
fn back_length(len: usize, out: &mut Vec<u8>) {
    let size = match len {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        2_097_152..=268_435_455 => 4,
        _ => 5,
    };
    for at in (0..size).rev() {
        let seven = ((len >> (7 * at)) & 0x7F) as u8;
        out.push(if at == size - 1 { seven } else { seven | 0x80 });
    }
}

/// An intset, or `None` when a member is no canonical integer.
#[must_use]
pub fn intset<A: AsRef<[u8]>>(members: &[A]) -> Option<Vec<u8>> {
    let mut values = members
        .iter()
        .map(|member| canonical_int(member.as_ref()))
        .collect::<Option<Vec<i64>>>()?;
    values.sort_unstable();
    let width = values
        .iter()
        .map(|value| match i16::try_from(*value) {
            Ok(_) => 2_u32,
            Err(_) if i32::try_from(*value).is_ok() => 4,
            Err(_) => 8,
        })
        .max()
        .unwrap_or(2);
    let mut out = width.to_le_bytes().to_vec();
    out.extend_from_slice(&(values.len() as u32).to_le_bytes());
    for value in values {
        out.extend_from_slice(&value.to_le_bytes()[..width as usize]);
    }
    Some(out)
}

/// A `RESTORE` payload as Dragonfly's `DUMP` writes it: type, value, version 9, checksum.
#[must_use]
pub fn dump(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 11);
    out.push(kind);
    out.extend_from_slice(value);
    out.extend_from_slice(&9_u16.to_le_bytes());
    let crc = checksum(CrcAlgorithm::Crc64Redis, &out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The shard that owns a key: XXH64 with Dragonfly's seed, modulo the number of shards.
#[must_use]
pub fn shard_of(key: &[u8], shards: usize) -> usize {
    let hash = xxhash_rust::xxh64::xxh64(key, 120_577_240_643);
    usize::try_from(hash % shards.max(1) as u64).unwrap_or(0)
}

/// The part of a key that decides on its shard in a cluster mode: what stands between the first braces, unless that is
/// nothing.
#[must_use]
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let inner = || {
        let open = key.iter().position(|byte| *byte == b'{')? + 1;
        let len = key[open..].iter().position(|byte| *byte == b'}')?;
        Some(&key[open..open + len])
    };
    inner().filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// Where the first key of a command stands among its words.
#[must_use]
pub fn first_key_at(name: &[u8]) -> usize {
    const SECOND: [&[u8]; 3] = [b"XGROUP", b"BITOP", b"OBJECT"];
    if SECOND
        .iter()
        .any(|second| name.eq_ignore_ascii_case(second))
    {
        2
    } else {
        1
    }
}

/// The first key of a command; nothing for a command without one.
#[must_use]
pub fn first_key<A: AsRef<[u8]>>(args: &[A]) -> Option<&[u8]> {
    let name = args.first()?.as_ref();
    args.get(first_key_at(name)).map(AsRef::as_ref)
}
