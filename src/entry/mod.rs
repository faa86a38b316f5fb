//! What a source yields: batches of items in flow order, over one shared buffer.
//!
//! Invariants: items leave a flow in the order they arrived; every [`Span`] of a batch lies inside
//!   its `bytes` and was checked by the decoder that made it; a batch's share of the memory budget
//!   is given back when the batch is dropped.
//! Units: LSNs count journal entries per flow, not bytes; times are Unix milliseconds by the
//!   source's clock.

mod args;
mod budget;
mod spill;

pub use args::{Args, ArgsIter, ArgsWriter, MalformedArgs};
pub use budget::{Budget, Share};
pub use spill::{Spill, SpillWriter};

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// A stretch of a batch's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

/// A key, or another short string, of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// As it stands in the batch.
    Raw(Span),
    /// Decoded from an integer or LZF form.
    Owned(Box<[u8]>),
}

/// Bytes of any size: in the batch, or in a file when they passed the flow's threshold.
#[derive(Debug, Clone)]
pub enum Body {
    /// As it stands in the batch.
    Inline(Span),
    /// In an unlinked file of the task's state directory.
    Spilled(Spill),
}

impl Body {
    /// Size in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(span) => u64::from(span.len),
            Self::Spilled(spill) => spill.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One key of a snapshot.
#[derive(Debug, Clone)]
pub struct Record {
    /// Database at the source.
    pub db: u32,
    /// RDB type number, as on the wire.
    pub kind: u8,
    /// Absolute expiry in Unix milliseconds.
    pub expire_at_ms: Option<i64>,
    /// Exempt from eviction at the source; Redis has no counterpart.
    pub sticky: bool,
    /// Memcache flags other than zero; Redis has no counterpart.
    pub memcache_flags: u32,
    /// The key.
    pub key: Text,
    /// The value as serialised by the source, without type and key.
    pub value: Body,
}

/// One command of the journal.
#[derive(Debug, Clone)]
pub struct Command {
    /// Database at the source.
    pub db: u32,
    /// Its sequence number; none inside a snapshot, where entries cannot be counted.
    pub lsn: Option<u64>,
    /// Transaction id, 0 for most single-shard commands.
    pub txid: u64,
    /// Number of words, the command's name included; at least 1.
    pub words: u32,
    /// The words, each as packed length and bytes: read them with [`Args`].
    pub args: Body,
}

/// One thing a flow carries.
#[derive(Debug, Clone)]
pub enum Item {
    /// A key of the snapshot: replaces whatever the target holds under that key.
    Record(Record),
    /// A journal entry with an effect.
    Command(Command),
    /// A journal entry without one (PING, EXEC): it only moves the position.
    Nothing {
        /// Its sequence number; none inside a snapshot.
        lsn: Option<u64>,
        /// Whether the source wants the applied position acknowledged at once.
        acknowledge: bool,
    },
    /// The body of a Lua script known to the source.
    Script(Span),
    /// End of the flow's snapshot part. Journal entries may still come before [`Item::Stable`].
    SnapshotEnd,
    /// The snapshot is complete; the next entry of this flow has this LSN.
    Stable {
        /// LSN of the first entry that follows.
        next: u64,
    },
}

/// A run of items over one buffer.
#[derive(Debug)]
pub struct Batch {
    /// What the items' spans point into.
    pub bytes: Bytes,
    /// In the order they arrived.
    pub items: Vec<Item>,
    /// When the bytes were received.
    pub received_at_ms: i64,
    /// Held until the batch is dropped.
    pub share: Share,
}

impl Batch {
    /// The bytes of a span of this batch.
    pub fn slice(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes
            .get(start..start.saturating_add(span.len as usize))
            .unwrap_or_default()
    }

    /// Bytes in memory and in files.
    pub fn size(&self) -> u64 {
        let spilled = self.items.iter().map(|item| match item {
            Item::Record(Record { value: body, .. })
            | Item::Command(Command { args: body, .. }) => match body {
                Body::Inline(_) => 0,
                Body::Spilled(spill) => spill.len(),
            },
            _ => 0,
        });
        self.bytes.len() as u64 + spilled.sum::<u64>()
    }

    /// Bytes of memory that such a batch takes, queued: few of tiny ones would be many times their bytes.
    pub fn in_memory(bytes: &Bytes, items: &Vec<Item>) -> usize {
        /// What allocators and queues add.
        const BESIDES: usize = 64;
        let own = size_of::<Self>() + BESIDES;
        own + bytes.len() + items.capacity() * size_of::<Item>()
    }

    /// The bytes of a text of this batch.
    pub fn text<'a>(&'a self, text: &'a Text) -> &'a [u8] {
        match text {
            Text::Raw(span) => self.slice(*span),
            Text::Owned(bytes) => bytes,
        }
    }
}

/// The local clock, in the unit of this module; 0 before 1970.
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
