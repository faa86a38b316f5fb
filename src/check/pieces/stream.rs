//! A stream in pieces: its entries, its numbers, its groups and their consumers.

use crate::check::access::text;
use crate::check::dump::Digesting;
use crate::check::link::Head;
use crate::rdb::StreamId;

use super::{Halted, Reader, SAMPLE, Step};

impl Reader<'_> {
    /// A stream of which at most so many entries are looked at.
    pub(super) async fn stream(&mut self, most: u64, into: &mut Digesting) -> Result<(), Halted> {
        self.entries(most, into).await?;
        self.about_stream(into).await
    }

    /// Entries of a stream, from the first on.
    async fn entries(&mut self, most: u64, into: &mut Digesting) -> Result<(), Halted> {
        let (mut from, mut step) = (b"-".to_vec(), Step(SAMPLE));
        while into.reading.length < most {
            let count = text(step.0.min(most - into.reading.length));
            let key = self.key;
            self.ask(&[b"XRANGE", key, &from, b"+", b"COUNT", count.as_bytes()])
                .await?;
            let entries = self.array("XRANGE").await?;
            if entries == 0 {
                return Ok(());
            }
            let mut bytes = 0;
            for _ in 0..entries {
                self.access.link.array("XRANGE").await?;
                let id = self.id("XRANGE").await?;
                from = text(next(id)).into_bytes();
                let words = self.access.link.array("XRANGE").await?;
                into.entry(id, words);
                for _ in 0..words {
                    bytes += self.part(into.ordered(), "XRANGE").await? + 16;
                }
            }
            step.after(bytes);
        }
        Ok(())
    }

    async fn id(&mut self, command: &str) -> Result<StreamId, Halted> {
        let text = self.access.link.text(command).await?;
        match stream_id(&text) {
            Some(id) => Ok(id),
            None => Err(self.access.link.strange(command, &text).into()),
        }
    }

    /// The stream's numbers, its groups, their consumers and what is pending.
    async fn about_stream(&mut self, into: &mut Digesting) -> Result<(), Halted> {
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
                _ => {
                    let head = self.access.link.head().await?;
                    self.access.link.skip(head).await?;
                }
            }
        }
        into.stream_numbers(last, deleted, added);
        self.ask(&[b"XINFO", b"GROUPS", key]).await?;
        let groups = self.array("XINFO GROUPS").await?;
        let mut names = Vec::new();
        for _ in 0..groups {
            names.push(self.group(into).await?);
        }
        for name in names {
            self.of_group(&name, into).await?;
        }
        Ok(())
    }

    /// One element of `XINFO GROUPS`. Yields its name.
    async fn group(&mut self, into: &mut Digesting) -> Result<Vec<u8>, Halted> {
        let words = self.access.link.array("XINFO GROUPS").await?;
        let (mut name, mut delivered, mut read) = (Vec::new(), StreamId::default(), None);
        for _ in 0..words / 2 {
            let field = self.access.link.text("XINFO GROUPS").await?;
            match field.as_slice() {
                b"name" => name = self.access.link.text("XINFO GROUPS").await?,
                b"last-delivered-id" => delivered = self.id("XINFO GROUPS").await?,
                b"entries-read" => {
                    read = Some(match self.access.link.head().await? {
                        Head::Integer(read) => read,
                        _ => -1,
                    });
                }
                _ => {
                    let head = self.access.link.head().await?;
                    self.access.link.skip(head).await?;
                }
            }
        }
        into.group(&name, delivered, read);
        Ok(name)
    }

    async fn of_group(&mut self, group: &[u8], into: &mut Digesting) -> Result<(), Halted> {
        let key = self.key;
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
                    _ => {
                        let head = self.access.link.head().await?;
                        self.access.link.skip(head).await?;
                    }
                }
            }
            into.named_consumer(&name);
            into.pending_count(&name, pending);
        }
        Ok(())
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
