//! The snapshot half of a flow as bytes: header, framed records, end, and the order in which they may be sent.
//!
//! Invariants: a unit can be sent at any time after the header, whatever was sent before it, except that the
//!   units of one key keep their order; every key's units are known, so that they can be sent before a journal
//!   entry that touches the key.
//! Facts: recorded streams of v1.40.1: a flush of 256 bytes to 1 MiB is compressed when that saves a twentieth;
//!   SELECTDB stands at the head of every flush but not before a later chunk.

use super::dataset::{Dataset, Record};
use super::encode::{hash_tag, packed, shard_of, string};
use super::release::Release;
use bytes::Bytes;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// `FULLSYNC_END`: no more records on this flow.
pub const FULLSYNC_END: [u8; 9] = [0xC8, 0, 0, 0, 0, 0, 0, 0, 0];

/// How flushes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all (`--compression_mode=0`).
    None,
    /// LZ4 frames, the default.
    Lz4,
    /// Zstandard frames (`--compression_mode=2`).
    Zstd,
}

/// How records are put into flushes.
#[derive(Debug, Clone, Copy)]
pub struct Framing {
    /// How flushes are compressed.
    pub compression: Compression,
    /// Whether big values are cut into tagged chunks.
    pub tagged: bool,
    /// Whether other keys may stand between the chunks of one key.
    pub interleaved: bool,
    /// Size of a chunk, reached or passed at an element's end.
    pub chunk_bytes: usize,
    /// Size of a flush, reached or passed at a record's end.
    pub flush_bytes: usize,
    /// Whether keys with a hash tag are on the flow of the tag.
    pub by_tag: bool,
}

impl Framing {
    /// A release's defaults.
    #[must_use]
    pub fn of(release: Release) -> Self {
        let tagged = release.tags_chunks();
        Self {
            compression: Compression::Lz4,
            tagged,
            interleaved: true,
            chunk_bytes: 64 << 10,
            flush_bytes: 8 << 10,
            by_tag: false,
        }
    }

    /// The flow that owns a key.
    #[must_use]
    pub fn flow_of(&self, key: &[u8], flows: usize) -> usize {
        shard_of(if self.by_tag { hash_tag(key) } else { key }, flows)
    }

    /// A flush as it goes out: compressed when that is worth it.
    #[must_use]
    pub fn frame(&self, items: Vec<u8>) -> Bytes {
        if !(256..=1 << 20).contains(&items.len()) {
            return items.into();
        }
        match compressed(self.compression, &items) {
            Some(blob) if blob.len() * 20 <= items.len() * 19 => blob.into(),
            _ => items.into(),
        }
    }
}

/// Items as one compressed blob, whatever that saves; `None` without compression.
#[must_use]
pub fn compressed(compression: Compression, items: &[u8]) -> Option<Vec<u8>> {
    let (opcode, frame) = match compression {
        Compression::None => return None,
        Compression::Lz4 => (0xCA, lz4_frame(items)?),
        Compression::Zstd => (0xC9, zstd::bulk::compress(items, 2).ok()?),
    };
    let mut out = Vec::with_capacity(frame.len() + 6);
    out.push(opcode);
    packed(frame.len() as u64, &mut out);
    out.extend_from_slice(&frame);
    Some(out)
}

/// As recorded: blocks of 64 KiB, content size, no checksums, linked blocks when there are several.
fn lz4_frame(items: &[u8]) -> Option<Vec<u8>> {
    let mode = if items.len() <= 64 << 10 {
        BlockMode::Independent
    } else {
        BlockMode::Linked
    };
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(mode)
        .content_size(Some(items.len() as u64));
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::with_capacity(items.len() / 2 + 64));
    encoder.write_all(items).ok()?;
    encoder.finish().ok()
}

/// What one flow has to send, ready to be written.
#[derive(Debug, Default)]
pub struct FlowPlan {
    /// Byte strings of whole items.
    pub units: Vec<Bytes>,
    /// First and last unit of each key, by the key's hash.
    index: HashMap<u64, (usize, usize)>,
    /// Keys in it.
    pub keys: usize,
}

impl FlowPlan {
    /// A plan that sends these bytes and knows no keys.
    #[must_use]
    pub fn raw(bytes: Vec<u8>) -> Self {
        Self {
            units: vec![bytes.into()],
            ..Self::default()
        }
    }

    /// The units that must be out before an entry for the key with this hash.
    #[must_use]
    pub fn units_of(&self, hash: u64) -> Option<(usize, usize)> {
        self.index.get(&hash).copied()
    }

    /// All bytes of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.units.iter().map(|unit| unit.len() as u64).sum()
    }
}

/// The hash by which plans know keys.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(key, 0)
}

/// One plan for each flow: the dataset's records on the flows that own them.
#[must_use]
pub fn plans(dataset: &Dataset, flows: usize, framing: Framing) -> Vec<FlowPlan> {
    let mut writers: Vec<PlanWriter> = (0..flows).map(|_| PlanWriter::new(framing)).collect();
    for record in &dataset.records {
        if let Some(writer) = writers.get_mut(framing.flow_of(&record.key, flows)) {
            writer.record(record);
        }
    }
    writers.into_iter().map(PlanWriter::finish).collect()
}

/// A key that is being sent in chunks, between other keys.
struct Open {
    hash: u64,
    chunks: VecDeque<Vec<u8>>,
}

struct PlanWriter {
    framing: Framing,
    plan: FlowPlan,
    /// The flush that is being filled, its database and its keys.
    flush: Vec<u8>,
    db: Option<u32>,
    hashes: Vec<u64>,
    open: Vec<Open>,
    next_id: u32,
}

impl PlanWriter {
    fn new(framing: Framing) -> Self {
        let (flush, hashes) = (Vec::new(), Vec::new());
        Self {
            framing,
            plan: FlowPlan::default(),
            flush,
            db: None,
            hashes,
            open: Vec::new(),
            next_id: 0,
        }
    }

    fn record(&mut self, record: &Record) {
        self.next_id += 1;
        self.plan.keys += 1;
        let hash = key_hash(&record.key);
        self.hashes.push(hash);
        self.select(record.db);
        let mut chunks = if self.framing.tagged {
            self.chunks(record)
        } else {
            VecDeque::new()
        };
        if chunks.len() > 1 {
            self.flush.extend(chunks.pop_front().into_iter().flatten());
            self.close();
            self.open.push(Open { hash, chunks });
            if !self.framing.interleaved || self.open.len() > 3 {
                self.drain();
            }
            return;
        }
        record.encode_head(&mut self.flush);
        self.flush.extend_from_slice(&record.value.bytes);
        if self.flush.len() >= self.framing.flush_bytes {
            self.close();
            self.one_chunk_each();
        }
    }

    fn select(&mut self, db: u32) {
        if self.flush.is_empty() || self.db != Some(db) {
            self.flush.push(0xFE);
            packed(u64::from(db), &mut self.flush);
            self.db = Some(db);
        }
    }

    /// The record as tagged chunks; a single one when it is not big enough to be cut.
    fn chunks(&self, record: &Record) -> VecDeque<Vec<u8>> {
        let mut chunks = VecDeque::new();
        if record.value.bytes.len() < self.framing.chunk_bytes || record.value.cuts.is_empty() {
            return chunks;
        }
        let bytes = &record.value.bytes;
        let mut payload = Vec::new();
        record.encode_head(&mut payload);
        let mut from = 0;
        for cut in record.value.cuts.iter().copied().chain([bytes.len()]) {
            if payload.len() + (cut - from) >= self.framing.chunk_bytes || cut == bytes.len() {
                payload.extend_from_slice(&bytes[from..cut]);
                from = cut;
                let mut chunk = vec![0xE0];
                chunk.extend_from_slice(&self.next_id.to_le_bytes());
                chunk.extend_from_slice(&(payload.len() as u32).to_le_bytes());
                chunk.append(&mut payload);
                chunks.push_back(chunk);
            }
        }
        chunks
    }

    /// Ends the flush and notes where its keys are.
    fn close(&mut self) {
        if self.flush.is_empty() {
            return;
        }
        let at = self.plan.units.len();
        let items = std::mem::take(&mut self.flush);
        self.plan.units.push(self.framing.frame(items));
        for hash in self.hashes.drain(..) {
            self.plan
                .index
                .entry(hash)
                .and_modify(|range| range.1 = at)
                .or_insert((at, at));
        }
    }

    /// Between two flushes: the next chunk of every key that is being cut.
    fn one_chunk_each(&mut self) {
        for open in &mut self.open {
            if let Some(chunk) = open.chunks.pop_front() {
                let at = self.plan.units.len();
                self.plan.units.push(self.framing.frame(chunk));
                self.plan
                    .index
                    .entry(open.hash)
                    .and_modify(|range| range.1 = at);
            }
        }
        self.open.retain(|open| !open.chunks.is_empty());
    }

    fn drain(&mut self) {
        while !self.open.is_empty() {
            self.one_chunk_each();
        }
    }

    fn finish(mut self) -> FlowPlan {
        self.close();
        self.drain();
        self.plan
    }
}

/// What every flow begins with: magic and fields, in the order of v1.40.1.
#[must_use]
pub fn header(release: Release, shard: usize, flows: usize, scripts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"REDIS0009".to_vec();
    let mut field = |name: &str, value: &[u8]| {
        out.push(0xFA);
        string(name.as_bytes(), &mut out);
        string(value, &mut out);
    };
    field("redis-ver", b"6.2.11");
    if release.has_version_field() {
        field("df-ver", release.name().as_bytes());
    }
    field("redis-bits", b"64");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    field("ctime", now.to_string().as_bytes());
    field("used-mem", b"1130808");
    field("aof-preamble", b"0");
    if shard == 0 {
        scripts.iter().for_each(|body| field("lua", body));
    }
    if release.has_shard_fields() {
        if shard == 0 {
            field("shard-count", flows.to_string().as_bytes());
            field("table-mem", b"1033728");
        }
        field("shard-id", shard.to_string().as_bytes());
    }
    out
}

/// What ends a snapshot once stable sync was asked for: the first position of the journal, EOF, the token.
#[must_use]
pub fn trailer(next: u64, token: &str) -> (Vec<u8>, Vec<u8>) {
    let mut offset = vec![0xD3];
    offset.extend_from_slice(&next.to_le_bytes());
    let mut end = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0];
    end.extend_from_slice(token.as_bytes());
    (offset, end)
}
