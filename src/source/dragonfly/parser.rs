//! Items out of one layer's bytes: the snapshot's opcodes. Journal entries and bodies that
//! outgrow a window are in `entries.rs`.
//!
//! ```text
//! Header ─▶ Snapshot ─FULLSYNC_END▶ Ended ─JOURNAL_OFFSET▶ Offset ─EOF, token▶ Journal
//! ```
//!
//! Invariants: an item is read whole or not at all, so that more bytes can be appended and reading
//!   tried again; what was decided about an open item is kept in its layer, never read twice.
//! Facts: Dragonfly v1.14 to v1.40. Everything but header, AUX, EOF and token may be inside a blob;
//!   after FULLSYNC_END come journal blobs only. Unknown opcodes have no length: they are errors.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::entry::{Body, Item, Record, Text};
use crate::rdb::{Cursor, Halt, Walker};

use super::ReadSettings;
use super::blob::{Codec, Packed};
use super::chunks::Chunks;
use super::error::{Phase, Place, SourceError};
use super::fault::Fault;
use super::head::{Read, read_text, record_head, span, starts_record};
use super::journal::{Count, database};
use super::layer::{BodyHead, BodyWalker, Layer, Open, OpenBlob, OpenBody};

/// Most items of one batch: bounds their memory when they are tiny.
pub(super) const ITEMS_MAX: usize = 4096;

/// Longest compressed or journal blob. 16 GiB: a longer one would be waited for without end.
pub(super) const BLOB_LIMIT: u64 = 1 << 34;

/// Length of the token at a snapshot's end, in bytes.
pub(super) const TOKEN_LEN: usize = 40;

const FULLSYNC_END: u8 = 200;
const JOURNAL_BLOB: u8 = 210;
const JOURNAL_OFFSET: u8 = 211;
const TAGGED_CHUNK: u8 = 224;
const SLOT_INFO: u8 = 244;
const AUX: u8 = 250;
const RESIZEDB: u8 = 251;
const SELECTDB: u8 = 254;
const EOF: u8 = 255;

/// Items over one buffer, in the order they arrived.
#[derive(Debug)]
pub struct Decoded {
    /// What the items' spans point into.
    pub bytes: Bytes,
    /// The items.
    pub items: Vec<Item>,
}

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Header,
    Snapshot,
    Ended,
    Offset(u64),
    Journal,
}

/// Why parsing paused.
pub(super) enum Event {
    /// More bytes are needed.
    More,
    /// A batch is full.
    Full,
    /// A compressed blob is complete and must be unpacked before anything after it.
    Blob(WholeBlob),
}

/// A blob that has arrived.
pub(super) struct WholeBlob {
    pub(super) codec: Codec,
    pub(super) packed: Packed,
    pub(super) chunk: Option<u32>,
    pub(super) place: Place,
}

/// What both layers of a flow share.
pub(super) struct Parser {
    pub(super) flow: u32,
    flows: u32,
    token: [u8; TOKEN_LEN],
    pub(super) settings: ReadSettings,
    pub(super) stage: Stage,
    db: u32,
    pub(super) journal_db: u32,
    pub(super) count: Count,
    pub(super) chunks: Chunks,
    pub(super) items: Vec<Item>,
    /// Which layer the items' spans point into.
    inside: bool,
    pub(super) ready: VecDeque<Decoded>,
    pub(super) release: Option<String>,
}

impl Parser {
    pub(super) fn new(
        flow: u32,
        flows: u32,
        token: [u8; TOKEN_LEN],
        settings: ReadSettings,
    ) -> Self {
        Self {
            flow,
            flows,
            token,
            settings,
            stage: Stage::Header,
            db: 0,
            journal_db: 0,
            count: Count::default(),
            chunks: Chunks::new(),
            items: Vec::new(),
            inside: false,
            ready: VecDeque::new(),
            release: None,
        }
    }

    /// Starts in the journal, at the entry `next`.
    pub(super) fn resume(&mut self, next: u64) {
        self.stage = Stage::Journal;
        self.count = Count::from(next);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.stage {
            Stage::Journal => Phase::Stable,
            _ => Phase::Snapshot,
        }
    }

    /// Whether items wait that point into the inner layer.
    pub(super) fn holds_inner_items(&self) -> bool {
        self.inside && !self.items.is_empty()
    }

    /// Hands out the items that point into `layer`, and its bytes up to the current place.
    pub(super) fn settle(&mut self, layer: &mut Layer) {
        if self.items.is_empty() || self.inside != layer.is_inside() {
            layer.forget();
            return;
        }
        let expected = Vec::with_capacity(self.items.len());
        let items = std::mem::replace(&mut self.items, expected);
        let bytes = layer.release();
        self.ready.push_back(Decoded { bytes, items });
    }

    /// Reads on in `layer` until something has to happen elsewhere.
    pub(super) fn parse(&mut self, layer: &mut Layer) -> Result<Event, SourceError> {
        if self.items.is_empty() {
            self.inside = layer.is_inside();
        }
        loop {
            let there = layer.rest().len();
            if there < layer.need {
                return Ok(Event::More);
            }
            if self.items.len() >= ITEMS_MAX {
                self.settle(layer);
                return Ok(Event::Full);
            }
            match self.step(layer) {
                Ok(None) => layer.need = 1,
                Ok(Some(blob)) => {
                    layer.need = 1;
                    return Ok(Event::Blob(blob));
                }
                Err(Fault::Halt(Halt::Incomplete { missing })) => {
                    layer.need = layer.rest().len().saturating_add(missing);
                }
                Err(fault) => return Err(fault.at(self.flow, layer.place())),
            }
        }
    }

    fn step(&mut self, layer: &mut Layer) -> Result<Option<WholeBlob>, Fault> {
        match std::mem::replace(&mut layer.open, Open::Border) {
            Open::Border if layer.journal.is_some() => self.entry(layer)?,
            Open::Border => match self.stage {
                Stage::Journal => self.entry(layer)?,
                Stage::Header => self.header(layer)?,
                _ => self.item(layer)?,
            },
            Open::Body(open) => self.body(layer, open)?,
            Open::Chunk { id, left, fresh } => self.chunk(layer, id, left, fresh)?,
            Open::Blob(open) => return self.blob(layer, open).map(Some),
        }
        Ok(None)
    }

    fn header(&mut self, layer: &mut Layer) -> Result<(), Fault> {
        let [name @ .., a, b, c, d] = Cursor::new(layer.rest()).array::<9>()?;
        if &name != b"REDIS" || ![a, b, c, d].iter().all(u8::is_ascii_digit) {
            return Err(Fault::invalid("the snapshot has no RDB header"));
        }
        layer.consume(9);
        self.stage = Stage::Snapshot;
        Ok(())
    }

    fn item(&mut self, layer: &mut Layer) -> Result<(), Fault> {
        let mut cursor = Cursor::new(layer.rest());
        let first = cursor.peek()?;
        if starts_record(first) {
            return self.record(layer);
        }
        cursor.byte()?;
        match first {
            SELECTDB => self.db = database(&mut cursor)?,
            JOURNAL_BLOB => return self.journal_blob(layer),
            TAGGED_CHUNK => return self.start_chunk(layer),
            FULLSYNC_END => {
                if cursor.array::<8>()? != [0; 8] {
                    return Err(Fault::invalid(
                        "an end of the snapshot that is not all zeros",
                    ));
                }
                self.end_snapshot()?;
            }
            JOURNAL_OFFSET => {
                let next = u64::from_le_bytes(cursor.array()?);
                if self.stage != Stage::Ended {
                    return Err(Fault::invalid("a journal offset before the snapshot's end"));
                }
                self.stage = Stage::Offset(next);
            }
            RESIZEDB => {
                cursor.packed()?;
                cursor.packed()?;
            }
            SLOT_INFO => {
                cursor.packed()?;
                cursor.packed()?;
                cursor.packed()?;
            }
            AUX if !layer.is_inside() => return self.aux(layer),
            EOF if !layer.is_inside() => return self.end_of_file(layer),
            opcode => match Codec::of(opcode) {
                Some(codec) => return self.start_blob(layer, codec),
                None => return Err(Fault::Opcode(opcode)),
            },
        }
        let len = cursor.position();
        layer.consume(len);
        Ok(())
    }

    fn end_snapshot(&mut self) -> Result<(), Fault> {
        if self.stage != Stage::Snapshot {
            return Err(Fault::invalid("a second end of the snapshot"));
        }
        match self.chunks.unfinished() {
            0 => {}
            open => {
                let what = format!("the snapshot ends with {open} unfinished chunked records");
                return Err(Fault::Invalid(what.into()));
            }
        }
        self.stage = Stage::Ended;
        self.items.push(Item::SnapshotEnd);
        Ok(())
    }

    fn end_of_file(&mut self, layer: &mut Layer) -> Result<(), Fault> {
        let mut cursor = Cursor::new(layer.rest());
        cursor.array::<9>()?; // the opcode and a checksum that is never filled in
        let token = cursor.array::<TOKEN_LEN>()?;
        let Stage::Offset(next) = self.stage else {
            return Err(Fault::invalid("an end of file before the journal offset"));
        };
        if token != self.token {
            return Err(Fault::Token);
        }
        layer.consume(9 + TOKEN_LEN);
        self.resume(next);
        self.items.push(Item::Stable { next });
        self.journal_db = 0;
        Ok(())
    }

    fn aux(&mut self, layer: &mut Layer) -> Result<(), Fault> {
        let rest = layer.rest();
        let mut cursor = Cursor::new(rest);
        cursor.byte()?;
        let name = read_text(&mut cursor)?;
        let value = read_text(&mut cursor)?;
        let len = cursor.position();
        let text = value.bytes(rest);
        match name.bytes(rest) {
            b"shard-id" if number(text) != Some(self.flow) => {
                let what = "the snapshot of another flow (AUX shard-id)";
                return Err(Fault::invalid(what));
            }
            b"shard-count" if number(text) != Some(self.flows) => {
                return Err(Fault::FlowCount {
                    expected: self.flows,
                    got: number(text).unwrap_or(0),
                });
            }
            b"df-ver" => self.release = Some(String::from_utf8_lossy(text).into_owned()),
            b"lua" => return self.script(layer, value, len),
            _ => {}
        }
        layer.consume(len);
        Ok(())
    }

    fn script(&mut self, layer: &mut Layer, body: Read, len: usize) -> Result<(), Fault> {
        match body {
            Read::Raw(range) => {
                let at = layer.at;
                let script = span(at + range.start..at + range.end);
                self.items.push(Item::Script(script));
                layer.consume(len);
            }
            Read::Decoded(body) => {
                layer.consume(len);
                self.settle(layer);
                let bytes = Bytes::from(body);
                let items = vec![Item::Script(span(0..bytes.len()))];
                self.ready.push_back(Decoded { bytes, items });
            }
        }
        Ok(())
    }

    fn record(&mut self, layer: &mut Layer) -> Result<(), Fault> {
        if self.stage != Stage::Snapshot {
            return Err(Fault::invalid("a key after the end of the snapshot"));
        }
        let rest = layer.rest();
        let head = record_head(rest)?;
        let mut walker = new_walker(head.kind)?;
        let value = rest.get(head.len..).unwrap_or_default();
        let walked = walker.walk(value)?;
        let len = walked.consumed;
        if walked.done && len <= self.settings.threshold() {
            let start = layer.at + head.len;
            let whole = head.len + len;
            let value = Body::Inline(span(start..start + len));
            self.push_record(self.db, head, layer.at, value);
            layer.consume(whole);
            return Ok(());
        }
        let open = OpenBody {
            body: head.len,
            walked: head.len,
            walker: BodyWalker::Value(new_walker(head.kind)?),
            head: BodyHead::Record { db: self.db, head },
            file: None,
        };
        self.body(layer, Box::new(open))
    }

    /// A record whose raw key counts from `at`.
    pub(super) fn push_record(
        &mut self,
        db: u32,
        head: super::head::RecordHead,
        at: usize,
        value: Body,
    ) {
        let key = match head.key {
            Text::Raw(key) => {
                let start = at + key.start as usize;
                Text::Raw(span(start..start + key.len as usize))
            }
            owned => owned,
        };
        self.items.push(Item::Record(Record {
            db,
            kind: head.kind,
            expire_at_ms: head.expire_at_ms,
            sticky: head.sticky,
            memcache_flags: head.memcache_flags,
            key,
            value,
        }));
    }

    fn start_chunk(&mut self, layer: &mut Layer) -> Result<(), Fault> {
        let [_, a, b, c, d, e, f, g, h] = Cursor::new(layer.rest()).array()?;
        let id = u32::from_le_bytes([a, b, c, d]);
        let len = u32::from_le_bytes([e, f, g, h]);
        if self.stage != Stage::Snapshot {
            return Err(Fault::invalid("a chunk after the end of the snapshot"));
        }
        if id == 0 || len == 0 {
            return Err(Fault::invalid("a chunk without number or content"));
        }
        let declared = usize::try_from(len).unwrap_or(usize::MAX);
        self.chunks.begin(id, self.db, declared, &self.settings)?;
        layer.consume(9);
        layer.open = Open::Chunk {
            id,
            left: len,
            fresh: true,
        };
        Ok(())
    }

    /// The content of a chunk: part of a record, or one blob with part of a record.
    fn chunk(&mut self, layer: &mut Layer, id: u32, left: u32, fresh: bool) -> Result<(), Fault> {
        let again = Open::Chunk { id, left, fresh };
        let rest = layer.rest();
        let Some(first) = rest.first() else {
            layer.open = again;
            return Err(Halt::Incomplete { missing: 1 }.into());
        };
        // No part of a record starts like this: neither a type nor an element's length.
        if let (true, Some(codec)) = (fresh && !layer.is_inside(), Codec::of(*first)) {
            let mut cursor = Cursor::new(rest);
            cursor.byte()?;
            let len = match cursor.packed() {
                Ok(len) => len,
                Err(halt) => {
                    layer.open = again;
                    return Err(halt.into());
                }
            };
            let head = cursor.position();
            if len.checked_add(head as u64) != Some(u64::from(left)) {
                return Err(Fault::invalid("a blob that does not fill its chunk"));
            }
            return self.open_blob(layer, codec, len, head, Some(id));
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let piece = rest.get(..wanted).unwrap_or(rest);
        self.chunks.feed(id, piece, &self.settings)?;
        let taken = piece.len();
        let left = u32::try_from(wanted - taken).unwrap_or(0); // less than before
        layer.consume(taken);
        if left > 0 {
            let fresh = false;
            layer.open = Open::Chunk { id, left, fresh };
            return Ok(());
        }
        self.end_chunk(layer, id);
        Ok(())
    }

    /// If the chunk was its record's last, hands the record out, after everything before it.
    pub(super) fn end_chunk(&mut self, layer: &mut Layer, id: u32) {
        if let Some((bytes, record)) = self.chunks.end(id) {
            self.settle(layer);
            let items = vec![Item::Record(record)];
            self.ready.push_back(Decoded { bytes, items });
        }
    }

    fn start_blob(&mut self, layer: &mut Layer, codec: Codec) -> Result<(), Fault> {
        if layer.is_inside() {
            return Err(Fault::invalid("a compressed blob inside another"));
        }
        let mut cursor = Cursor::new(layer.rest());
        cursor.byte()?;
        let len = cursor.packed()?;
        if len > BLOB_LIMIT {
            return Err(Fault::invalid("a blob longer than any value"));
        }
        let head = cursor.position();
        self.open_blob(layer, codec, len, head, None)
    }

    fn open_blob(
        &mut self,
        layer: &mut Layer,
        codec: Codec,
        left: u64,
        head: usize,
        chunk: Option<u32>,
    ) -> Result<(), Fault> {
        let place = layer.place();
        layer.consume(head);
        layer.open = Open::Blob(Box::new(OpenBlob {
            codec,
            left,
            chunk,
            file: None,
            place,
        }));
        Ok(())
    }
}

pub(super) fn new_walker(kind: u8) -> Result<Walker, Fault> {
    Walker::new(kind).map_err(|unknown| Fault::Kind(unknown.0))
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
