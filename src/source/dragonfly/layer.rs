//! Bytes waiting to be decoded, and how far decoding has come in them.
//!
//! A flow has two layers: what came over the wire, and what comes out of its compressed blobs.
//! Invariants: `at <= window.len()`; spans of items not yet handed out count from the window's first
//!   byte, so only [`Layer::release`] and [`Layer::discard`] move that, once nothing refers to it.

use bytes::{Buf, Bytes, BytesMut};

use crate::entry::SpillWriter;
use crate::rdb::{Halt, Walked, Walker};

use super::blob::Codec;
use super::error::Place;
use super::head::RecordHead;
use super::words::Words;

/// What a window holds when it is new: a few reads, and many small records.
const WINDOW: usize = 256 << 10;

/// The value or the words that are still arriving.
pub(super) enum BodyWalker {
    Value(Walker),
    Words(Words),
}

impl BodyWalker {
    pub(super) fn walk(&mut self, bytes: &[u8]) -> Result<Walked, Halt> {
        match self {
            Self::Value(walker) => walker.walk(bytes),
            Self::Words(words) => words.walk(bytes),
        }
    }
}

/// What stands before a body.
pub(super) enum BodyHead {
    Record { db: u32, head: RecordHead },
    Command { db: u32, txid: u64, words: u32 },
}

/// A record or command whose body has not arrived, or is too long to stay in memory.
pub(super) struct OpenBody {
    pub(super) head: BodyHead,
    pub(super) walker: BodyWalker,
    /// Offset of the body from the item's start; 0 once spilled.
    pub(super) body: usize,
    /// Offset of the first byte not yet walked; 0 once spilled.
    pub(super) walked: usize,
    pub(super) file: Option<SpillWriter>,
}

/// A compressed blob of which not all has arrived.
pub(super) struct OpenBlob {
    pub(super) codec: Codec,
    pub(super) left: u64,
    /// The chunked record its content belongs to; none for items.
    pub(super) chunk: Option<u32>,
    pub(super) file: Option<SpillWriter>,
    pub(super) place: Place,
}

/// What is between its start and its end.
pub(super) enum Open {
    Border,
    Body(Box<OpenBody>),
    Chunk { id: u32, left: u32, fresh: bool },
    Blob(Box<OpenBlob>),
}

/// One window and the state of decoding in it.
pub(super) struct Layer {
    pub(super) window: BytesMut,
    /// Where the current item starts; what is before belongs to items not yet handed out.
    pub(super) at: usize,
    /// Bytes from `at` below which trying again is useless.
    pub(super) need: usize,
    pub(super) open: Open,
    /// Bytes left of the journal blob the window is in.
    pub(super) journal: Option<u64>,
    /// Offset of the window's first byte, wrapping.
    base: u64,
    /// For the inner layer: where on the wire its blob starts.
    blob: Option<u64>,
    inside: bool,
}

impl Layer {
    pub(super) fn new(inside: bool) -> Self {
        Self {
            window: BytesMut::new(),
            at: 0,
            need: 1,
            open: Open::Border,
            journal: None,
            base: 0,
            blob: None,
            inside,
        }
    }

    /// Whether this is the content of compressed blobs.
    pub(super) fn is_inside(&self) -> bool {
        self.inside
    }

    /// A new blob's content follows.
    pub(super) fn enter(&mut self, blob: Place) {
        self.blob = Some(blob.byte);
        self.base = 0_u64.wrapping_sub(self.at as u64);
    }

    /// The current item's place.
    pub(super) fn place(&self) -> Place {
        let here = self.base.wrapping_add(self.at as u64);
        match self.blob {
            Some(byte) => Place {
                byte,
                inside: Some(here),
            },
            None => Place {
                byte: here,
                inside: None,
            },
        }
    }

    /// Whether nothing is open and nothing is left over.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.open, Open::Border) && self.journal.is_none() && self.rest().is_empty()
    }

    /// What has not been consumed.
    pub(super) fn rest(&self) -> &[u8] {
        self.window.get(self.at..).unwrap_or_default()
    }

    /// What has not been consumed and belongs to the journal blob, if in one; and whether that is
    /// all of the blob's.
    pub(super) fn bounded(&self) -> (&[u8], bool) {
        let rest = self.rest();
        let Some(left) = self.journal else {
            return (rest, false);
        };
        match usize::try_from(left).ok().and_then(|left| rest.get(..left)) {
            Some(all) => (all, true),
            None => (rest, false),
        }
    }

    /// Moves past `len` bytes, which stay where they are.
    pub(super) fn consume(&mut self, len: usize) {
        self.at = self.at.saturating_add(len).min(self.window.len());
        self.left_journal(len);
    }

    /// Drops `len` bytes at the current place. The window must have been released before.
    pub(super) fn discard(&mut self, len: usize) {
        self.base = self.base.wrapping_add(len as u64);
        self.window.advance(len.min(self.window.len()));
        self.left_journal(len);
    }

    /// Takes `len` bytes at the current place. The window must have been released before.
    pub(super) fn take(&mut self, len: usize) -> Bytes {
        let len = len.min(self.window.len());
        self.base = self.base.wrapping_add(len as u64);
        self.window.split_to(len).freeze()
    }

    fn left_journal(&mut self, len: usize) {
        self.journal = self
            .journal
            .map(|left| left.saturating_sub(len as u64))
            .filter(|left| *left > 0);
    }

    /// Hands out the bytes before the current place; it becomes the window's start.
    pub(super) fn release(&mut self) -> Bytes {
        let len = std::mem::take(&mut self.at);
        self.take(len)
    }

    /// As [`Self::release`], when no item refers to the bytes.
    pub(super) fn forget(&mut self) {
        let len = std::mem::take(&mut self.at);
        self.base = self.base.wrapping_add(len as u64);
        self.window.advance(len);
    }

    /// Bytes that can be appended without moving.
    pub(super) fn room(&self) -> usize {
        self.window.capacity() - self.window.len()
    }

    /// Makes room for `more` bytes. Doubles, so that an item growing over many reads is not moved
    /// for each; never by a length on the wire.
    pub(super) fn reserve(&mut self, more: usize) {
        if self.room() >= more || self.window.try_reclaim(more) {
            return;
        }
        let len = self.window.len();
        let capacity = (len + more.max(len)).max(WINDOW);
        let mut fresh = BytesMut::with_capacity(capacity);
        fresh.extend_from_slice(&self.window);
        self.window = fresh;
    }
}
