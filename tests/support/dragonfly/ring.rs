//! The last entries of a shard's journal, for replicas that come back.
//!
//! Invariants: positions are contiguous; exactly the last `capacity` entries can be read back.

use std::collections::VecDeque;
use std::ops::Range;

/// Bytes after which a new segment is begun.
const SEGMENT_BYTES: usize = 64 << 10;

/// Entries stored one after the other.
struct Segment {
    first: u64,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// A ring of encoded entries.
pub struct Ring {
    segments: VecDeque<Segment>,
    capacity: u64,
    next: u64,
}

impl Ring {
    /// An empty ring whose first entry will have the position `next`.
    #[must_use]
    pub fn new(capacity: u64, next: u64) -> Self {
        Self {
            segments: VecDeque::new(),
            capacity,
            next,
        }
    }

    /// The position of the entry to come.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The oldest position that can be read back.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        let stored = self
            .segments
            .front()
            .map_or(self.next, |segment| segment.first);
        stored.max(self.next.saturating_sub(self.capacity))
    }

    /// Appends one entry.
    pub fn push(&mut self, entry: &[u8]) {
        let segment = match self.segments.back_mut() {
            Some(segment) if segment.bytes.len() < SEGMENT_BYTES => segment,
            _ => {
                let bytes = Vec::with_capacity(SEGMENT_BYTES + 1024);
                self.segments.push_back(Segment {
                    first: self.next,
                    bytes,
                    ends: Vec::new(),
                });
                match self.segments.back_mut() {
                    Some(segment) => segment,
                    None => return,
                }
            }
        };
        segment.bytes.extend_from_slice(entry);
        segment.ends.push(segment.bytes.len());
        self.next += 1;
        let keep = self.next.saturating_sub(self.capacity);
        while self
            .segments
            .front()
            .is_some_and(|segment| segment.first + segment.ends.len() as u64 <= keep)
        {
            self.segments.pop_front();
        }
    }

    /// Forgets all entries and skips positions, as a master does that omits entries from its journal.
    pub fn skip(&mut self, entries: u64) {
        if entries == 0 {
            return;
        }
        self.segments.clear();
        self.next += entries;
    }

    /// The entries from this position on, or `None` when they are not all there.
    #[must_use]
    pub fn since(&self, from: u64) -> Option<Vec<&[u8]>> {
        if from < self.oldest() || from > self.next {
            return None;
        }
        let entries = self.segments.iter().flat_map(|segment| {
            let skipped = usize::try_from(from.saturating_sub(segment.first)).unwrap_or(usize::MAX);
            segment
                .ranges()
                .skip(skipped)
                .filter_map(|range| segment.bytes.get(range))
        });
        Some(entries.collect())
    }
}

impl Segment {
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(self.ends.iter().copied())
            .map(|(start, end)| start..end)
    }
}
