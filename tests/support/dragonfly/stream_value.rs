//! Streams as values: entries in nodes, metadata, consumer groups with their pending entries.
//!
//! Invariants: entries are in ascending order of their ids.
//! Units: times are Unix milliseconds.
//! Facts: the recorded streams of v1.40.1 (`types`); the node layout of Redis 7, which is the same.

use super::encode::{listpack_element, packed, raw_string};
use super::release::Release;
use super::value::Value;

/// Bytes of a stream node before the next one is begun.
const NODE_BYTES: usize = 4096;
/// Entries of a stream node before the next one is begun.
const NODE_ENTRIES: usize = 100;
/// The flag of an entry whose fields are those of its node's first entry.
const SAME_FIELDS: i64 = 2;

/// The id of a stream entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct StreamId(pub u64, pub u64);

impl StreamId {
    fn bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.0.to_be_bytes());
        out[8..].copy_from_slice(&self.1.to_be_bytes());
        out
    }

    fn packed(self, out: &mut Vec<u8>) {
        packed(self.0, out);
        packed(self.1, out);
    }
}

/// An entry that was delivered and not acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// Which entry.
    pub id: StreamId,
    /// When it was delivered.
    pub delivered_ms: i64,
    /// How often.
    pub count: u64,
}

/// A consumer with the entries it holds.
#[derive(Debug, Clone, Default)]
pub struct Consumer {
    /// Its name.
    pub name: Vec<u8>,
    /// When it last asked.
    pub seen_ms: i64,
    /// When it last got something, -1 for never.
    pub active_ms: i64,
    /// Its pending entries, in order.
    pub pending: Vec<Pending>,
}

/// A consumer group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Its name.
    pub name: Vec<u8>,
    /// The last entry it delivered.
    pub last_delivered: StreamId,
    /// How many entries it has read; `None` where the server does not know.
    pub entries_read: Option<u64>,
    /// Its consumers.
    pub consumers: Vec<Consumer>,
}

/// One entry: its id, and fields with their values.
pub type StreamEntry = (StreamId, Vec<(Vec<u8>, Vec<u8>)>);

/// A stream with everything that belongs to it.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// The entries that are left, ascending.
    pub entries: Vec<StreamEntry>,
    /// The last id ever given.
    pub last_id: StreamId,
    /// The highest id ever deleted.
    pub max_deleted: StreamId,
    /// How many entries were ever added.
    pub entries_added: u64,
    /// The consumer groups.
    pub groups: Vec<Group>,
}

impl Stream {
    /// A stream of these entries from which nothing was ever deleted.
    #[must_use]
    pub fn of(entries: Vec<StreamEntry>) -> Self {
        let last_id = entries.last().map(|entry| entry.0).unwrap_or_default();
        Self {
            last_id,
            entries_added: entries.len() as u64,
            entries,
            ..Self::default()
        }
    }

    /// The value as this release sends it: type 21, or 15 without the newer fields up to v1.26.
    #[must_use]
    pub fn value(&self, release: Release) -> Value {
        let newer = release.sends_stream_3();
        let nodes = self.nodes();
        let mut value = Value::build(
            if newer { 21 } else { 15 },
            nodes.len(),
            nodes.iter(),
            |(id, node), out| {
                raw_string(&id.bytes(), out);
                raw_string(node, out);
            },
        );
        let out = &mut value.bytes;
        packed(self.entries.len() as u64, out);
        self.last_id.packed(out);
        if newer {
            self.entries
                .first()
                .map(|entry| entry.0)
                .unwrap_or_default()
                .packed(out);
            self.max_deleted.packed(out);
            packed(self.entries_added, out);
        }
        packed(self.groups.len() as u64, out);
        self.groups
            .iter()
            .for_each(|group| group.encode(newer, out));
        value
    }

    fn nodes(&self) -> Vec<(StreamId, Vec<u8>)> {
        let mut nodes = Vec::new();
        let mut rest = self.entries.as_slice();
        while let Some((first, _)) = rest.first() {
            let (node, taken) = node(rest);
            nodes.push((*first, node));
            rest = &rest[taken..];
        }
        nodes
    }
}

impl Group {
    fn encode(&self, newer: bool, out: &mut Vec<u8>) {
        raw_string(&self.name, out);
        self.last_delivered.packed(out);
        if newer {
            packed(self.entries_read.unwrap_or(u64::MAX), out);
        }
        let mut pending: Vec<&Pending> = self
            .consumers
            .iter()
            .flat_map(|consumer| &consumer.pending)
            .collect();
        pending.sort_by_key(|entry| entry.id);
        packed(pending.len() as u64, out);
        for entry in pending {
            out.extend_from_slice(&entry.id.bytes());
            out.extend_from_slice(&entry.delivered_ms.to_le_bytes());
            packed(entry.count, out);
        }
        packed(self.consumers.len() as u64, out);
        for consumer in &self.consumers {
            raw_string(&consumer.name, out);
            out.extend_from_slice(&consumer.seen_ms.to_le_bytes());
            if newer {
                out.extend_from_slice(&consumer.active_ms.to_le_bytes());
            }
            packed(consumer.pending.len() as u64, out);
            consumer
                .pending
                .iter()
                .for_each(|entry| out.extend_from_slice(&entry.id.bytes()));
        }
    }
}

/// A node of the first of these entries, and how many it took.
fn node(entries: &[StreamEntry]) -> (Vec<u8>, usize) {
    let (base, master) = &entries[0];
    let mut body = Vec::new();
    let (mut elements, mut taken) = (4 + master.len(), 0);
    for (id, fields) in entries {
        if taken == NODE_ENTRIES || body.len() >= NODE_BYTES {
            break;
        }
        let same =
            fields.len() == master.len() && fields.iter().zip(master).all(|(a, b)| a.0 == b.0);
        elements += entry(*base, *id, fields, same, &mut body);
        taken += 1;
    }
    let mut out = vec![0; 6];
    for number in [taken, 0, master.len()] {
        listpack_element(number.to_string().as_bytes(), &mut out);
    }
    master
        .iter()
        .for_each(|(field, _)| listpack_element(field, &mut out));
    listpack_element(b"0", &mut out);
    out.extend_from_slice(&body);
    out.push(0xFF);
    let total = out.len() as u32;
    out[..4].copy_from_slice(&total.to_le_bytes());
    out[4..6].copy_from_slice(&u16::try_from(elements).unwrap_or(u16::MAX).to_le_bytes());
    (out, taken)
}

/// One entry of a node; answers how many listpack elements it took.
fn entry(
    base: StreamId,
    id: StreamId,
    fields: &[(Vec<u8>, Vec<u8>)],
    same: bool,
    out: &mut Vec<u8>,
) -> usize {
    let mut elements = 0;
    let mut put = |bytes: &[u8]| {
        listpack_element(bytes, out);
        elements += 1;
    };
    put(if same { SAME_FIELDS } else { 0 }.to_string().as_bytes());
    put(id
        .0
        .wrapping_sub(base.0)
        .cast_signed()
        .to_string()
        .as_bytes());
    put(id
        .1
        .wrapping_sub(base.1)
        .cast_signed()
        .to_string()
        .as_bytes());
    if !same {
        put(fields.len().to_string().as_bytes());
    }
    for (field, value) in fields {
        if !same {
            put(field);
        }
        put(value);
    }
    // How many elements to step back over to reach the entry's flags.
    let back = if same {
        fields.len() + 3
    } else {
        fields.len() * 2 + 4
    };
    put(back.to_string().as_bytes());
    elements
}
