//! Records that arrive in tagged chunks, several at a time.
//!
//! Invariants: the chunks of one id, joined, are exactly one record; the bytes of unfinished records
//!   in memory stay under the threshold plus one piece: before more would come in, the largest goes to a file;
//!   nothing allocates by a length on the wire.
//! Facts: Dragonfly v1.38.2 and later. There is no last-chunk mark: a record is whole when its
//!   value's own counts say so. The database is the one in force at the first chunk.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use crate::entry::{Body, Record, SpillWriter, Text};
use crate::rdb::{Halt, Walker};

use super::ReadSettings;
use super::fault::Fault;
use super::head::{RecordHead, record_head, span};

/// Most records that may be unfinished at once; a real master has at most a few. Each can hold a file.
const OPEN_MAX: usize = 256;

/// A record of which not all chunks have come.
struct Pending {
    db: u32,
    /// The head, once it is whole, and who follows the value.
    value: Option<(RecordHead, Walker)>,
    /// Head and value so far; of a spilled record only what cannot be read yet.
    bytes: BytesMut,
    /// Bytes needed before reading the head is tried again.
    need: usize,
    spill: Option<SpillWriter>,
    done: bool,
}

/// The unfinished records of one flow.
pub(super) struct Chunks {
    open: HashMap<u32, Pending>,
    in_memory: usize,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            open: HashMap::new(),
            in_memory: 0,
        }
    }

    /// Records whose end has not come.
    pub(super) fn unfinished(&self) -> usize {
        self.open.len()
    }

    /// A chunk of `len` bytes starts.
    pub(super) fn begin(
        &mut self,
        id: u32,
        db: u32,
        len: usize,
        settings: &ReadSettings,
    ) -> Result<(), Fault> {
        if !self.open.contains_key(&id) {
            if self.open.len() >= OPEN_MAX {
                return Err(Fault::invalid("too many unfinished chunked records"));
            }
            self.open.insert(id, Pending::new(db));
        }
        self.make_room(id, len, settings)
    }

    /// Spills the largest records until `more` bytes for `id` fit under the threshold.
    fn make_room(&mut self, id: u32, more: usize, settings: &ReadSettings) -> Result<(), Fault> {
        loop {
            let spilled = |open: &HashMap<u32, Pending>| {
                open.get(&id).is_none_or(|pending| pending.spill.is_some())
            };
            let incoming = if spilled(&self.open) { 0 } else { more };
            if self.in_memory.saturating_add(incoming) <= settings.threshold() {
                return Ok(());
            }
            let weight = |key: u32, pending: &Pending| {
                let coming = if key == id { incoming } else { 0 };
                pending.bytes.len().saturating_add(coming)
            };
            let largest = self
                .open
                .iter_mut()
                .filter(|(_, pending)| pending.spill.is_none())
                .max_by_key(|(key, pending)| (weight(**key, pending), **key));
            let Some((_, pending)) = largest else {
                return Ok(());
            };
            let before = pending.bytes.len();
            let file = SpillWriter::create_in(&settings.spill_dir).map_err(Fault::Spill)?;
            pending.spill = Some(file);
            pending.move_to_file()?;
            self.in_memory -= before - pending.bytes.len();
        }
    }

    /// The next bytes of the current chunk of `id`.
    pub(super) fn feed(
        &mut self,
        id: u32,
        piece: &[u8],
        settings: &ReadSettings,
    ) -> Result<(), Fault> {
        self.make_room(id, piece.len(), settings)?;
        let Some(pending) = self.open.get_mut(&id) else {
            return Err(Fault::invalid("a chunk that never began"));
        };
        let before = pending.bytes.len();
        let fed = pending.feed(piece);
        self.in_memory = self.in_memory + pending.bytes.len() - before.min(self.in_memory);
        fed
    }

    /// The current chunk of `id` has ended. If it was the last, the record and the bytes of its spans.
    pub(super) fn end(&mut self, id: u32) -> Option<(Bytes, Record)> {
        if !self.open.get(&id).is_some_and(|pending| pending.done) {
            return None;
        }
        let pending = self.open.remove(&id)?;
        self.in_memory = self.in_memory.saturating_sub(pending.bytes.len());
        let (head, _) = pending.value?;
        let bytes = pending.bytes.freeze();
        let value = match pending.spill {
            Some(writer) => Body::Spilled(writer.finish()),
            None => Body::Inline(span(head.len..bytes.len())),
        };
        let record = Record {
            db: pending.db,
            kind: head.kind,
            expire_at_ms: head.expire_at_ms,
            sticky: head.sticky,
            memcache_flags: head.memcache_flags,
            key: head.key,
            value,
        };
        Some((bytes, record))
    }
}

impl Pending {
    fn new(db: u32) -> Self {
        Self {
            db,
            value: None,
            bytes: BytesMut::new(),
            need: 1,
            spill: None,
            done: false,
        }
    }

    fn feed(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let piece = match &mut self.value {
            Some((_, walker)) => {
                walk(walker, piece, &mut self.done)?;
                piece
            }
            None => {
                self.bytes.extend_from_slice(piece);
                if !self.read_head()? {
                    return Ok(());
                }
                return self.move_to_file();
            }
        };
        match &mut self.spill {
            Some(file) => file.write(piece).map_err(Fault::Spill)?,
            None => self.bytes.extend_from_slice(piece),
        }
        Ok(())
    }

    /// Reads the head, and walks the value bytes behind it. `false` when it is not whole yet.
    fn read_head(&mut self) -> Result<bool, Fault> {
        if self.bytes.len() < self.need {
            return Ok(false);
        }
        let head = match record_head(&self.bytes) {
            Ok(head) => head,
            Err(Fault::Halt(Halt::Incomplete { missing })) => {
                self.need = self.bytes.len().saturating_add(missing);
                return Ok(false);
            }
            Err(fault) => return Err(fault),
        };
        let mut walker = Walker::new(head.kind).map_err(|unknown| Fault::Kind(unknown.0))?;
        let value = self.bytes.get(head.len..).unwrap_or_default();
        walk(&mut walker, value, &mut self.done)?;
        self.value = Some((head, walker));
        Ok(true)
    }

    /// If the record goes to a file: moves what is in memory there, except an unfinished head.
    fn move_to_file(&mut self) -> Result<(), Fault> {
        let (Some(file), Some((head, _))) = (&mut self.spill, &mut self.value) else {
            return Ok(());
        };
        if let Text::Raw(key) = &head.key {
            let start = key.start as usize;
            let key = self.bytes.get(start..start + key.len as usize);
            head.key = Text::Owned(key.unwrap_or_default().into());
        }
        file.write(self.bytes.get(head.len..).unwrap_or_default())
            .map_err(Fault::Spill)?;
        self.bytes = BytesMut::new();
        Ok(())
    }
}

/// Follows the value; what comes after its end is an error.
fn walk(walker: &mut Walker, piece: &[u8], done: &mut bool) -> Result<(), Fault> {
    let walked = walker.walk(piece)?;
    *done = walked.done;
    if walked.consumed < piece.len() {
        return Err(Fault::invalid("bytes after the end of a chunked record"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &tempfile::TempDir, threshold: usize) -> ReadSettings {
        ReadSettings::new(dir.path(), threshold)
    }

    /// A set of `count` members of 10 bytes.
    fn set(key: &str, count: u8) -> Vec<u8> {
        let mut bytes = vec![2, key.len() as u8];
        bytes.extend_from_slice(key.as_bytes());
        bytes.push(count);
        for member in 0..count {
            bytes.push(10);
            bytes.extend_from_slice(&[member; 10]);
        }
        bytes
    }

    fn value(bytes: &Bytes, record: &Record) -> Vec<u8> {
        match &record.value {
            Body::Inline(span) => bytes[span.start as usize..][..span.len as usize].to_vec(),
            Body::Spilled(spill) => {
                let mut value = vec![0; spill.len() as usize];
                assert_eq!(spill.read_at(&mut value, 0).unwrap(), value.len());
                value
            }
        }
    }

    #[test]
    fn interleaved_records_are_joined_whatever_goes_to_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for threshold in [0, 40, 200, 10_000] {
            let settings = settings(&dir, threshold);
            let (one, two) = (set("one", 12), set("two", 30));
            let mut chunks = Chunks::new();
            let (mut found, mut spilled) = (Vec::new(), 0);
            for at in (0..400).step_by(7) {
                for (id, bytes, db) in [(5, &one, 0), (900, &two, 1)] {
                    let piece = &bytes[at.min(bytes.len())..(at + 7).min(bytes.len())];
                    if piece.is_empty() {
                        continue;
                    }
                    chunks
                        .begin(id, db + at as u32, piece.len(), &settings)
                        .unwrap();
                    for byte in piece {
                        chunks.feed(id, &[*byte], &settings).unwrap();
                    }
                    assert!(chunks.in_memory <= threshold.max(16), "{threshold}");
                    if let Some((bytes, record)) = chunks.end(id) {
                        spilled += usize::from(matches!(record.value, Body::Spilled(_)));
                        found.push((record.db, value(&bytes, &record)));
                    }
                }
            }
            assert_eq!(found, [(0, one[5..].to_vec()), (1, two[5..].to_vec())]);
            assert_eq!(chunks.unfinished(), 0);
            assert_eq!(chunks.in_memory, 0);
            assert_eq!(spilled > 0, threshold < 10_000);
        }
    }

    #[test]
    fn bytes_after_a_record_and_endless_ids_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, 1_000);
        let mut chunks = Chunks::new();
        chunks.begin(1, 0, 1, &settings).unwrap();
        let mut more = set("k", 2);
        more.push(0);
        assert!(chunks.feed(1, &more, &settings).is_err());
        let mut chunks = Chunks::new();
        let refused = (1..=1_000).find(|id| chunks.begin(*id, 0, 1, &settings).is_err());
        assert_eq!(refused, Some(OPEN_MAX as u32 + 1));
    }
}
