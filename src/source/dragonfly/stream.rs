//! One flow's bytes, from the RDB header to the journal, as batches of items.
//!
//! Give bytes, then ask for what is whole until there is nothing more:
//!
//! ```text
//! read into `buffer()`  ─▶  decode() = Some(batch), Some(batch), None  ─▶  read …
//! ```
//!
//! Invariants: the items are the same, however the bytes were cut; nothing here waits or reads a
//!   socket; besides the bytes handed out, memory is two windows of 256 KiB, the codecs' own, and at
//!   most one item and the unfinished chunked records under the spill threshold each. What is longer
//!   is written to files as it comes.

use bytes::BytesMut;

use super::ReadSettings;
use super::blob::Inflater;
use super::error::{Phase, Place, SourceError};
use super::fault::Fault;
use super::layer::{Layer, Open};
use super::parser::{Decoded, Event, Parser, Stage, TOKEN_LEN, WholeBlob};

/// Room for one read from the socket.
const READ: usize = 64 << 10;

/// Content unpacked before a batch is handed out.
const BATCH: usize = 256 << 10;

/// Unpacked at a time.
const STEP: usize = 64 << 10;

/// Decodes one flow.
pub struct StreamDecoder {
    parser: Parser,
    /// What came over the wire.
    outer: Layer,
    /// What came out of compressed blobs.
    inner: Layer,
    inflater: Inflater,
    inflating: Option<Inflating>,
}

/// The blob being unpacked.
struct Inflating {
    place: Place,
    chunk: Option<u32>,
    step: usize,
}

impl std::fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamDecoder")
            .field("flow", &self.parser.flow)
            .field("at", &self.outer.place().byte)
            .finish_non_exhaustive()
    }
}

impl StreamDecoder {
    /// For flow `flow` of `flows`, which the source answered with FULL and `token`.
    pub fn new(flow: u32, flows: u32, token: [u8; TOKEN_LEN], settings: ReadSettings) -> Self {
        Self {
            parser: Parser::new(flow, flows, token, settings),
            outer: Layer::new(false),
            inner: Layer::new(true),
            inflater: Inflater::new(),
            inflating: None,
        }
    }

    /// For a flow that starts in the journal, with the entry `next`.
    pub fn resumed(flow: u32, flows: u32, next: u64, settings: ReadSettings) -> Self {
        let mut decoder = Self::new(flow, flows, [0; TOKEN_LEN], settings);
        decoder.parser.resume(next);
        decoder
    }

    /// Where the next bytes of the flow belong: append to it, and never change what is there. It has
    /// room for a read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.outer.reserve(READ);
        &mut self.outer.window
    }

    /// The part of the session the flow is in.
    pub fn phase(&self) -> Phase {
        self.parser.phase()
    }

    /// The source's release by its own word (AUX `df-ver`, v1.26 and later), once read.
    pub fn release(&self) -> Option<&str> {
        self.parser.release.as_deref()
    }

    /// The next batch, or `None` when more bytes are needed. Blocks for disk writes when values
    /// are over the spill threshold. After an error the decoder must not be used again.
    pub fn decode(&mut self) -> Result<Option<Decoded>, SourceError> {
        loop {
            if let Some(decoded) = self.parser.ready.pop_front() {
                return Ok(Some(decoded));
            }
            if let Some(inflating) = self.inflating.take() {
                self.inflate(inflating)?;
                continue;
            }
            if self.parser.holds_inner_items() && !self.at_blob() {
                self.parser.settle(&mut self.inner);
                continue;
            }
            match self.parser.parse(&mut self.outer)? {
                Event::Full => {}
                Event::Blob(blob) => self.begin(blob)?,
                Event::More => {
                    self.parser.settle(&mut self.outer);
                    self.parser.settle(&mut self.inner);
                    if self.parser.ready.is_empty() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Whether a compressed blob comes next: its items can join those of the one before.
    fn at_blob(&self) -> bool {
        let border = matches!(self.outer.open, Open::Border) && self.outer.journal.is_none();
        let journal = self.parser.stage == Stage::Journal;
        border && !journal && matches!(self.outer.rest().first(), Some(201 | 202))
    }

    fn begin(&mut self, blob: WholeBlob) -> Result<(), SourceError> {
        // Small blobs, small steps: clearing the space costs as much as filling it.
        let step = match &blob.packed {
            super::blob::Packed::Memory(bytes) => (bytes.len() * 4).clamp(4 << 10, STEP),
            super::blob::Packed::File { .. } => STEP,
        };
        self.inflater
            .begin(blob.codec, blob.packed)
            .map_err(|fault| fault.at(self.parser.flow, blob.place))?;
        if blob.chunk.is_none() {
            self.inner.enter(blob.place);
        }
        self.inflating = Some(Inflating {
            place: blob.place,
            chunk: blob.chunk,
            step,
        });
        Ok(())
    }

    /// Unpacks one step and reads what it brought.
    fn inflate(&mut self, now: Inflating) -> Result<(), SourceError> {
        if let Some(id) = now.chunk {
            return self.inflate_chunk(now, id);
        }
        if self.inner.at >= BATCH || (self.inner.room() < now.step && self.inner.at > 0) {
            self.parser.settle(&mut self.inner);
        }
        self.inner.reserve(now.step);
        let window = &mut self.inner.window;
        let before = window.len();
        window.resize(before + now.step, 0);
        let read = self
            .inflater
            .read(window.get_mut(before..).unwrap_or_default())
            .map_err(|fault| fault.at(self.parser.flow, now.place))?;
        window.truncate(before + read);
        if read == 0 {
            if !self.inner.is_settled() {
                let fault = Fault::invalid("an item is cut off at the end of its blob");
                return Err(fault.at(self.parser.flow, self.inner.place()));
            }
            return Ok(());
        }
        // A full batch leaves bytes behind, which are read before any more are unpacked.
        while let Event::Full = self.parser.parse(&mut self.inner)? {}
        self.inflating = Some(now);
        Ok(())
    }

    /// A blob whose content is part of one chunked record.
    fn inflate_chunk(&mut self, now: Inflating, id: u32) -> Result<(), SourceError> {
        let mut piece = vec![0; now.step];
        let fed = self.inflater.read(&mut piece).and_then(|read| {
            piece.truncate(read);
            match read {
                0 => Ok(()),
                _ => self.parser.chunks.feed(id, &piece, &self.parser.settings),
            }
        });
        fed.map_err(|fault| fault.at(self.parser.flow, now.place))?;
        if piece.is_empty() {
            self.parser.end_chunk(&mut self.outer, id);
        } else {
            self.inflating = Some(now);
        }
        Ok(())
    }
}
