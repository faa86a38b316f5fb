//! Values to bytes, in the forms Dragonfly puts on the wire: each function appends one value,
//! without type byte and key.
//!
//! Units: expiry is Unix milliseconds, and is written in whole seconds, rounded up: an element
//! never goes sooner than it should.
//! Facts: Dragonfly v1.24 to v1.40. It stores an integral score in a listpack as an integer, any
//! other as the shortest text that reads back as the same number.

use super::listpack::ListpackWriter;
use super::stream::StreamId;
use super::string::{write, write_packed, write_raw};
use super::value::{Group, Stream, StreamRecord};
use super::{intset, kind};

/// A node of a list.
#[derive(Debug, Clone, Copy)]
pub enum ListNode<'a> {
    /// One element, bare: Dragonfly does so above 4 KiB or so.
    Plain(&'a [u8]),
    /// Several, in a listpack.
    Packed(&'a [&'a [u8]]),
}

/// Entries of a stream's node: as many as Dragonfly and Redis put into one by default.
const NODE_ENTRIES: usize = 100;
/// Bytes of a stream's node, likewise; a node is ended by the entry that passes them.
const NODE_BYTES: usize = 4096;

/// Type 0 or 30: a string, or a JSON text.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    write(out, text);
}

/// Type 2: a set.
pub fn set<T: AsRef<[u8]>>(out: &mut Vec<u8>, members: &[T]) {
    write_packed(out, members.len() as u64);
    members
        .iter()
        .for_each(|member| write(out, member.as_ref()));
}

/// Type 11: a set of integers.
pub fn set_intset(out: &mut Vec<u8>, members: &[i64]) {
    write_raw(out, &intset::write(members));
}

/// Type 4: a hash.
pub fn hash<T: AsRef<[u8]>>(out: &mut Vec<u8>, fields: &[(T, T)]) {
    write_packed(out, fields.len() as u64);
    for (field, value) in fields {
        write(out, field.as_ref());
        write(out, value.as_ref());
    }
}

/// Type 16: a hash in a listpack.
pub fn hash_listpack<T: AsRef<[u8]>>(out: &mut Vec<u8>, fields: &[(T, T)]) {
    let mut pack = ListpackWriter::new();
    for (field, value) in fields {
        pack.push(field.as_ref());
        pack.push(value.as_ref());
    }
    write_raw(out, &pack.finish());
}

/// Type 5: a sorted set.
pub fn sorted<T: AsRef<[u8]>>(out: &mut Vec<u8>, members: &[(T, f64)]) {
    write_packed(out, members.len() as u64);
    for (member, score) in members {
        write(out, member.as_ref());
        out.extend_from_slice(&score.to_le_bytes());
    }
}

/// Type 17: a sorted set in a listpack. Servers expect ascending scores there: sort before.
pub fn sorted_listpack<T: AsRef<[u8]>>(out: &mut Vec<u8>, members: &[(T, f64)]) {
    let mut pack = ListpackWriter::new();
    for (member, score) in members {
        pack.push(member.as_ref());
        pack.push(score_text(*score).as_bytes());
    }
    write_raw(out, &pack.finish());
}

/// The shortest text that reads back as the same score, as Dragonfly writes it.
pub fn score_text(score: f64) -> String {
    let size = score.abs();
    if size == 0.0 || size.is_infinite() || (1e-6..1e21).contains(&size) {
        score.to_string()
    } else {
        format!("{score:e}")
    }
}

/// Type 18: a list.
pub fn list(out: &mut Vec<u8>, nodes: &[ListNode<'_>]) {
    write_packed(out, nodes.len() as u64);
    for node in nodes {
        match node {
            ListNode::Plain(item) => {
                write_packed(out, 1);
                write_raw(out, item);
            }
            ListNode::Packed(items) => {
                let mut pack = ListpackWriter::new();
                items.iter().for_each(|item| pack.push(item));
                write_packed(out, 2);
                write_raw(out, &pack.finish());
            }
        }
    }
}

/// Type 31: a hash of which fields may expire.
pub fn hash_expiring<T: AsRef<[u8]>>(out: &mut Vec<u8>, fields: &[(T, T, Option<u64>)]) {
    write_packed(out, fields.len() as u64);
    for (field, value, expires) in fields {
        write(out, field.as_ref());
        write(out, value.as_ref());
        write_expiry(out, *expires);
    }
}

/// Type 32: a set of which members may expire.
pub fn set_expiring<T: AsRef<[u8]>>(out: &mut Vec<u8>, members: &[(T, Option<u64>)]) {
    write_packed(out, members.len() as u64);
    for (member, expires) in members {
        write(out, member.as_ref());
        write_expiry(out, *expires);
    }
}

fn write_expiry(out: &mut Vec<u8>, expires: Option<u64>) {
    let text = match expires {
        None => "-1".to_owned(),
        Some(ms) => ms
            .div_ceil(1000)
            .saturating_sub(kind::EXPIRY_EPOCH)
            .to_string(),
    };
    write(out, text.as_bytes());
}

/// Type 21: a stream, in nodes of the default size. What `info` does not hold is derived.
pub fn stream(out: &mut Vec<u8>, stream: &Stream) {
    let mut nodes = Vec::new();
    let mut rest = &stream.entries[..];
    while let Some((first, _)) = rest.split_first() {
        let (pack, used) = stream_node(rest);
        nodes.push((first.0, pack));
        rest = rest.get(used..).unwrap_or_default();
    }
    write_packed(out, nodes.len() as u64);
    for (id, pack) in &nodes {
        write_raw(out, &id.to_be_bytes());
        write_raw(out, pack);
    }
    let info = &stream.info;
    let first = stream
        .entries
        .first()
        .map_or_else(StreamId::default, |entry| entry.0);
    write_packed(out, info.length);
    write_id(out, info.last);
    write_id(out, info.first.unwrap_or(first));
    write_id(out, info.max_deleted.unwrap_or_default());
    write_packed(out, info.added.unwrap_or(info.length));
    write_packed(out, stream.groups.len() as u64);
    stream
        .groups
        .iter()
        .for_each(|group| write_group(out, group));
}

/// One node of the entries at the front, and how many it took, at least one.
fn stream_node(entries: &[StreamRecord]) -> (Vec<u8>, usize) {
    let Some((first, master)) = entries.first() else {
        return (ListpackWriter::new().finish(), 0);
    };
    let names = |fields: &[(Vec<u8>, Vec<u8>)]| -> Vec<Vec<u8>> {
        fields.iter().map(|(name, _)| name.clone()).collect()
    };
    let master = names(master);
    let mut body = ListpackWriter::new();
    let mut used = 0;
    for (id, fields) in entries.iter().take(NODE_ENTRIES) {
        if used > 0 && body.size() >= NODE_BYTES {
            break;
        }
        used += 1;
        let same = names(fields) == master;
        body.push_int(if same { 2 } else { 0 });
        body.push_int(id.ms.wrapping_sub(first.ms).cast_signed());
        body.push_int(id.seq.wrapping_sub(first.seq).cast_signed());
        if !same {
            body.push_int(fields.len() as i64);
        }
        for (name, value) in fields {
            if !same {
                body.push(name);
            }
            body.push(value);
        }
        let items = fields.len() as i64;
        body.push_int(if same { items + 3 } else { 2 * items + 4 });
    }
    let mut pack = ListpackWriter::new();
    pack.push_int(used as i64);
    pack.push_int(0);
    pack.push_int(master.len() as i64);
    master.iter().for_each(|name| pack.push(name));
    pack.push_int(0);
    pack.append(body);
    (pack.finish(), used)
}

fn write_group(out: &mut Vec<u8>, group: &Group) {
    write(out, &group.name);
    write_id(out, group.delivered);
    write_packed(out, group.read.unwrap_or(-1).cast_unsigned());
    write_packed(out, group.pending.len() as u64);
    for (id, delivered_at, deliveries) in &group.pending {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&delivered_at.to_le_bytes());
        write_packed(out, *deliveries);
    }
    write_packed(out, group.consumers.len() as u64);
    for consumer in &group.consumers {
        write(out, &consumer.name);
        out.extend_from_slice(&consumer.seen.to_le_bytes());
        let active = consumer.active.unwrap_or(consumer.seen);
        out.extend_from_slice(&active.to_le_bytes());
        write_packed(out, consumer.pending.len() as u64);
        for id in &consumer.pending {
            out.extend_from_slice(&id.to_be_bytes());
        }
    }
}

fn write_id(out: &mut Vec<u8>, id: StreamId) {
    write_packed(out, id.ms);
    write_packed(out, id.seq);
}
