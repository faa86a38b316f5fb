//! A stream in pieces: its entries, its numbers, its groups, their consumers and what is pending.
//!
//! Facts: in Dragonfly v1.40.1 `XPENDING`, which has pieces, counts as a write for who watches the key, so nothing could
//!   be proved behind it. `XINFO STREAM FULL` only reads, as other `XINFO`; it tells the same and exact times, but only
//!   from the first on: so many pending entries of each group and consumer, and as many entries of the stream.

use crate::check::access::text;
use crate::check::dump::Digesting;
use crate::check::link::Head;
use crate::rdb::StreamId;

use super::{Halted, Reader, SAMPLE, Step};

/// The largest reply that tells which entries are pending, which has no pieces.
const TOLD: u64 = 8 << 20;
/// About what each takes in it, told once for its group and once for its consumer, beside the consumer's name.
const PENDING: u64 = 128;
/// About what the ends of an entry of the stream take, and each of its words.
const ENTRY: u64 = 48;
const WORD: u64 = 16;
const FULL: &str = "XINFO STREAM FULL";

/// How much is pending.
#[derive(Default)]
struct Pending {
    /// In all groups.
    count: u64,
    /// In one of them, at most.
    most: u64,
    /// About how many bytes tell all of it.
    bytes: u64,
}

impl Reader<'_> {
    /// A stream of which at most so many entries are looked at.
    pub(super) async fn stream(&mut self, most: u64, into: &mut Digesting) -> Result<(), Halted> {
        let pending = self.about_stream(into).await?;
        let entries = self.entries(most, pending.most, into).await?;
        match pending.bytes.saturating_add(entries) {
            0..=TOLD => self.pending(&pending, into).await,
            _ => Ok(()),
        }
    }

    /// Entries of a stream, from the first on. Yields about how many bytes tell the first `heads` of them.
    async fn entries(
        &mut self,
        most: u64,
        heads: u64,
        into: &mut Digesting,
    ) -> Result<u64, Halted> {
        let (mut from, mut step) = (b"-".to_vec(), Step(SAMPLE));
        let mut told = 0;
        while into.reading.length < most {
            let count = text(step.0.min(most - into.reading.length));
            let key = self.key;
            self.ask(&[b"XRANGE", key, &from, b"+", b"COUNT", count.as_bytes()])
                .await?;
            let entries = self.array("XRANGE").await?;
            if entries == 0 {
                return Ok(told);
            }
            let mut bytes = 0;
            for _ in 0..entries {
                self.access.link.array("XRANGE").await?;
                let id = self.id("XRANGE").await?;
                from = text(next(id)).into_bytes();
                let words = self.access.link.array("XRANGE").await?;
                into.entry(id, words);
                let mut entry = ENTRY;
                for _ in 0..words {
                    entry += self.part(into.ordered(), "XRANGE").await? + WORD;
                }
                bytes += entry;
                if into.reading.length <= heads {
                    told += entry;
                }
            }
            step.after(bytes);
        }
        // The others are taken to be like those that were looked at.
        Ok(match heads > most {
            true => told.saturating_mul(heads) / most.max(1),
            false => told,
        })
    }

    async fn id(&mut self, command: &str) -> Result<StreamId, Halted> {
        let text = self.access.link.text(command).await?;
        match stream_id(&text) {
            Some(id) => Ok(id),
            None => Err(self.access.link.strange(command, &text).into()),
        }
    }

    /// The stream's numbers, its groups, and how much is pending for their consumers.
    async fn about_stream(&mut self, into: &mut Digesting) -> Result<Pending, Halted> {
        let key = self.key;
        self.ask(&[b"XINFO", b"STREAM", key]).await?;
        let words = self.array("XINFO STREAM").await?;
        let (mut last, mut deleted, mut added) = (StreamId::default(), None, None);
        for _ in 0..words / 2 {
            let name = self.access.link.text("XINFO STREAM").await?;
            match name.as_slice() {
                b"last-generated-id" => last = self.id("XINFO STREAM").await?,
                b"max-deleted-entry-id" => deleted = Some(self.id("XINFO STREAM").await?),
                b"entries-added" => {
                    let number = self.access.link.integer("XINFO STREAM").await?;
                    added = Some(number.unsigned_abs());
                }
                _ => self.skip().await?,
            }
        }
        into.stream_numbers(last, deleted, added);
        self.ask(&[b"XINFO", b"GROUPS", key]).await?;
        let groups = self.array("XINFO GROUPS").await?;
        let (mut names, mut pending) = (Vec::new(), Pending::default());
        for _ in 0..groups {
            names.push(self.group(into, &mut pending).await?);
        }
        for name in names {
            pending.bytes += self.of_group(&name, into).await?;
        }
        Ok(pending)
    }

    /// One element of `XINFO GROUPS`. Yields its name.
    async fn group(
        &mut self,
        into: &mut Digesting,
        pending: &mut Pending,
    ) -> Result<Vec<u8>, Halted> {
        let words = self.access.link.array("XINFO GROUPS").await?;
        let (mut name, mut delivered, mut read) = (Vec::new(), StreamId::default(), None);
        for _ in 0..words / 2 {
            let field = self.access.link.text("XINFO GROUPS").await?;
            match field.as_slice() {
                b"name" => name = self.access.link.text("XINFO GROUPS").await?,
                b"last-delivered-id" => delivered = self.id("XINFO GROUPS").await?,
                b"pending" => {
                    let count = self.access.link.integer("XINFO GROUPS").await?;
                    pending.count += count.unsigned_abs();
                    pending.most = pending.most.max(count.unsigned_abs());
                }
                b"entries-read" => {
                    read = Some(match self.access.link.head().await? {
                        Head::Integer(read) => read,
                        _ => -1,
                    });
                }
                _ => self.skip().await?,
            }
        }
        into.group(&name, delivered, read);
        Ok(name)
    }

    /// Consumers of a group. Yields about how many bytes tell what is pending for them.
    async fn of_group(&mut self, group: &[u8], into: &mut Digesting) -> Result<u64, Halted> {
        let key = self.key;
        let mut bytes = 0;
        into.enter_group(group);
        self.ask(&[b"XINFO", b"CONSUMERS", key, group]).await?;
        for _ in 0..self.array("XINFO CONSUMERS").await? {
            let words = self.access.link.array("XINFO CONSUMERS").await?;
            let (mut name, mut pending) = (Vec::new(), 0);
            for _ in 0..words / 2 {
                let field = self.access.link.text("XINFO CONSUMERS").await?;
                match field.as_slice() {
                    b"name" => name = self.access.link.text("XINFO CONSUMERS").await?,
                    b"pending" => pending = self.access.link.integer("XINFO CONSUMERS").await?,
                    _ => self.skip().await?,
                }
            }
            into.named_consumer(&name);
            into.pending_count(&name, pending);
            let each = name.len() as u64 + PENDING;
            bytes += pending
                .unsigned_abs()
                .saturating_add(1)
                .saturating_mul(each);
        }
        Ok(bytes)
    }

    /// Which entries are pending, for whom, since when, and how often they were delivered.
    async fn pending(&mut self, pending: &Pending, into: &mut Digesting) -> Result<(), Halted> {
        into.tells_pending();
        if pending.count == 0 {
            return Ok(());
        }
        let (key, count) = (self.key, text(pending.most));
        let count = count.as_bytes();
        self.ask(&[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", count])
            .await?;
        let (mut for_groups, mut for_consumers) = (0, 0);
        for _ in 0..self.array(FULL).await? / 2 {
            if self.access.link.text(FULL).await? != b"groups" {
                self.skip().await?;
                continue;
            }
            for _ in 0..self.access.link.array(FULL).await? {
                let (of_group, of_consumers) = self.pending_in_group(into).await?;
                for_groups += of_group;
                for_consumers += of_consumers;
            }
        }
        // Something was delivered or acknowledged meanwhile.
        match (for_groups, for_consumers) == (pending.count, pending.count) {
            true => Ok(()),
            false => Err(Halted::Changed),
        }
    }

    /// A group of the full reply. Yields how many entries are pending in it, and how many for its consumers.
    async fn pending_in_group(&mut self, into: &mut Digesting) -> Result<(u64, u64), Halted> {
        let (mut pending, mut owned) = (0, 0);
        for _ in 0..self.access.link.array(FULL).await? / 2 {
            match self.access.link.text(FULL).await?.as_slice() {
                b"name" => into.enter_group(&self.access.link.text(FULL).await?),
                b"pending" => {
                    pending = self.access.link.array(FULL).await?;
                    for _ in 0..pending {
                        self.access.link.array(FULL).await?;
                        let id = self.id(FULL).await?;
                        self.skip().await?;
                        let delivered_at = self.access.link.integer(FULL).await?;
                        let deliveries = self.access.link.integer(FULL).await?;
                        into.pending(id, delivered_at, deliveries.unsigned_abs());
                    }
                }
                b"consumers" => {
                    for _ in 0..self.access.link.array(FULL).await? {
                        owned += self.owned_by_consumer(into).await?;
                    }
                }
                _ => self.skip().await?,
            }
        }
        Ok((pending, owned))
    }

    /// A consumer of the full reply. Yields how many entries are pending for it.
    async fn owned_by_consumer(&mut self, into: &mut Digesting) -> Result<u64, Halted> {
        let mut owned = 0;
        for _ in 0..self.access.link.array(FULL).await? / 2 {
            match self.access.link.text(FULL).await?.as_slice() {
                b"name" => into.enter_consumer(&self.access.link.text(FULL).await?),
                b"pending" => {
                    owned = self.access.link.array(FULL).await?;
                    for _ in 0..owned {
                        self.access.link.array(FULL).await?;
                        into.owned(self.id(FULL).await?);
                        // When, and how often: told with its group.
                        self.skip().await?;
                        self.skip().await?;
                    }
                }
                _ => self.skip().await?,
            }
        }
        Ok(owned)
    }

    /// Passes over a part of a reply.
    async fn skip(&mut self) -> Result<(), Halted> {
        let head = self.access.link.head().await?;
        Ok(self.access.link.skip(head).await?)
    }
}

/// The id behind this one.
fn next(id: StreamId) -> StreamId {
    match id.seq.checked_add(1) {
        Some(seq) => StreamId { ms: id.ms, seq },
        None => StreamId {
            ms: id.ms.saturating_add(1),
            seq: 0,
        },
    }
}

fn stream_id(text: &[u8]) -> Option<StreamId> {
    let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some(StreamId {
        ms: ms.parse().ok()?,
        seq: seq.parse().ok()?,
    })
}
