//! One flow between inlet and outlet: what is in memory, what is on disk, what is on its way there.
//!
//! ```text
//!  oldest                                                                    newest
//!  memory: batches kept  │  extents: batches that   │  unwritten: batches that are
//!  for the outlet        │  are on disk only        │  being written and then dropped
//! ```
//!
//! Invariants: what the outlet still has to yield is memory, then extents, then unwritten, in order of arrival;
//!   something is added to memory only while the other two are empty (memory mode). Journal batches are written
//!   whether or not they are in memory. The segments of a flow hold one run of LSNs without a gap, except for what
//!   was found at a start and not yet placed.
//!
//! Nothing here waits, writes or reads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::entry::{Batch, Budget, Share};

use super::segment::SegmentFile;

/// Receipt times are remembered this far apart, in milliseconds.
const RECEIPTS_APART: i64 = 1000;

/// Bytes a batch holds in memory.
pub(super) fn held(batch: &Batch) -> usize {
    Batch::in_memory(&batch.bytes, &batch.items)
}

/// A batch on its way to the outlet.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) number: u64,
    /// `None` if it has to be read back.
    pub(super) batch: Option<Batch>,
}

/// A stretch of records in one segment, still to be read.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) segment: Arc<SegmentFile>,
    pub(super) at: u64,
    pub(super) end: u64,
    /// Of the record at `at`: its first LSN, or the batch's number.
    pub(super) first: u64,
}

/// One journal segment.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) named: Arc<SegmentFile>,
    pub(super) first: u64,
    pub(super) next: u64,
    /// Where its records end.
    pub(super) end: u64,
    /// Length of the file.
    pub(super) bytes: u64,
    pub(super) records: u64,
    /// Of its first record.
    pub(super) received_at_ms: i64,
    /// When everything in it was applied.
    pub(super) applied_at: Option<Instant>,
}

/// One overflow segment.
#[derive(Debug)]
pub(super) struct Overflow {
    pub(super) named: Arc<SegmentFile>,
    pub(super) bytes: u64,
}

/// A batch that is being written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) number: u64,
    /// Its first LSN; `None` for part of a snapshot.
    pub(super) first: Option<u64>,
}

/// What the outlet does next.
pub(super) enum Taken {
    Batch(Batch),
    Read(Extent),
    Wait,
    End,
}

/// One flow.
#[derive(Debug)]
pub(super) struct Flow {
    /// What is written for an earlier run is not wanted any more.
    pub(super) run: u64,
    pub(super) memory: VecDeque<Held>,
    pub(super) extents: VecDeque<Extent>,
    pub(super) unwritten: VecDeque<Held>,
    /// Number of the next batch.
    pub(super) number: u64,
    /// Batches that are being written.
    pub(super) pending: VecDeque<Pending>,
    /// LSN of the next entry, once there is one.
    pub(super) next: Option<u64>,
    /// Up to this LSN everything is on disk; 0 for nothing.
    pub(super) on_disk: watch::Sender<u64>,
    /// Journal segments, oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// Journal segment that is appended to.
    pub(super) journal: Option<u64>,
    /// Overflow segments, oldest first.
    pub(super) overflows: VecDeque<Overflow>,
    /// Overflow segment that is appended to.
    pub(super) overflow: Option<u64>,
    pub(super) applied: u64,
    /// Entries before the LSN, not before the receipt time: for what is not applied.
    receipts: VecDeque<(u64, i64)>,
    /// The segments are of an earlier start, and nobody has said yet what is needed.
    pub(super) unplaced: bool,
    /// Entries have been passed by the disk: what comes next there begins a new run.
    pub(super) passed: bool,
    pub(super) has_inlet: bool,
    pub(super) has_outlet: bool,
    /// For the outlet: there is something new.
    pub(super) arrived: Arc<Notify>,
    /// For batches that go to the outlet.
    pub(super) direct: Budget,
    /// For batches that are being written.
    pub(super) writing: Budget,
}

/// Where a written record stands.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) number: u64,
    pub(super) segment: Arc<SegmentFile>,
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) first: u64,
}

impl Flow {
    pub(super) fn new(run: u64, memory: u64) -> Self {
        Self {
            run,
            memory: VecDeque::new(),
            extents: VecDeque::new(),
            unwritten: VecDeque::new(),
            number: 0,
            pending: VecDeque::new(),
            next: None,
            on_disk: watch::Sender::new(0),
            segments: VecDeque::new(),
            journal: None,
            overflows: VecDeque::new(),
            overflow: None,
            applied: 0,
            receipts: VecDeque::new(),
            unplaced: false,
            passed: false,
            has_inlet: false,
            has_outlet: false,
            arrived: Arc::default(),
            direct: Budget::new(memory / 2),
            writing: Budget::new(memory / 2),
        }
    }

    /// Whether the outlet has to read from disk before it is level with the inlet.
    pub(super) fn is_behind(&self) -> bool {
        !self.extents.is_empty() || !self.unwritten.is_empty()
    }

    /// Hands a batch to the outlet through memory. Only while it is not behind. The outlet is still to be told.
    pub(super) fn keep(&mut self, number: u64, mut batch: Batch, share: Share) {
        batch.share = share;
        let batch = Some(batch);
        self.memory.push_back(Held { number, batch });
    }

    /// What the outlet gets next.
    pub(super) fn take(&mut self) -> Taken {
        if let Some(batch) = self.memory.pop_front().and_then(|held| held.batch) {
            return Taken::Batch(batch);
        }
        if let Some(extent) = self.extents.front() {
            return Taken::Read(extent.clone());
        }
        if let Some(batch) = self.catch_up() {
            return Taken::Batch(batch);
        }
        match self.has_inlet || self.is_behind() {
            true => Taken::Wait,
            false => Taken::End,
        }
    }

    /// The outlet is level with the disk: what is being written is still in memory, and stays there as far as it fits.
    fn catch_up(&mut self) -> Option<Batch> {
        let first = self.unwritten.front_mut()?.batch.take()?;
        self.unwritten.pop_front();
        while let Some(batch) = self.unwritten.front().and_then(|held| held.batch.as_ref()) {
            let Some(share) = self.direct.try_take(held(batch)) else {
                break;
            };
            if let Some(Held { number, batch }) = self.unwritten.pop_front()
                && let Some(mut batch) = batch
            {
                batch.share = share;
                let batch = Some(batch);
                self.memory.push_back(Held { number, batch });
            }
        }
        Some(first)
    }

    /// A batch has been written.
    pub(super) fn written(&mut self, written: Written) {
        self.pending.pop_front();
        if self.unwritten.front().map(|held| held.number) != Some(written.number) {
            return;
        }
        self.unwritten.pop_front();
        let end = written.at + written.len;
        match self.extents.back_mut() {
            Some(last)
                if last.segment.number == written.segment.number && last.end == written.at =>
            {
                last.end = end;
            }
            _ => self.extents.push_back(Extent {
                segment: written.segment,
                at: written.at,
                end,
                first: written.first,
            }),
        }
        self.arrived.notify_one();
    }

    /// The outlet has read the first extent up to `at`, where the record `first` begins.
    pub(super) fn consumed(&mut self, at: u64, first: u64) {
        if let Some(extent) = self.extents.front_mut() {
            (extent.at, extent.first) = (at, first);
            if at >= extent.end {
                self.extents.pop_front();
            }
        }
    }

    /// Overflow segments that nothing is left in for the outlet, nor being written into.
    pub(super) fn unused_overflows(&mut self) -> Vec<Overflow> {
        if self.overflows.is_empty() || self.pending.iter().any(|it| it.first.is_none()) {
            return Vec::new();
        }
        let extents = &self.extents;
        let needed = |overflow: &Overflow| {
            let number = overflow.named.number;
            extents.iter().any(|extent| extent.segment.number == number)
        };
        let (needed, unused) = self.overflows.drain(..).partition(needed);
        self.overflows = needed;
        let active = self.overflow;
        if !self
            .overflows
            .iter()
            .any(|it| Some(it.named.number) == active)
        {
            self.overflow = None;
        }
        unused.into()
    }

    /// Remembers when the entries before `next` were received.
    pub(super) fn received(&mut self, next: u64, at_ms: i64) {
        match self.receipts.back_mut() {
            Some((last, since)) if at_ms.saturating_sub(*since) < RECEIPTS_APART => *last = next,
            _ => self.receipts.push_back((next, at_ms)),
        }
    }

    /// Everything before `next` is in the target.
    pub(super) fn applied(&mut self, next: u64) {
        if next <= self.applied {
            return;
        }
        self.applied = next;
        while self
            .receipts
            .front()
            .is_some_and(|(before, _)| *before <= next)
        {
            self.receipts.pop_front();
        }
        let now = Instant::now();
        for segment in &mut self.segments {
            if segment.next > next {
                break;
            }
            segment.applied_at.get_or_insert(now);
        }
    }

    /// Whether a segment is not needed but kept for a target that comes back older: complete, and all applied.
    pub(super) fn is_kept(&self, segment: &Segment) -> bool {
        segment.applied_at.is_some() && self.journal != Some(segment.named.number)
    }

    /// When the oldest entry that is not applied was received, to the second before it.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        self.receipts.front().map(|(_, since)| *since)
    }

    /// The runs of LSNs that can be read again.
    pub(super) fn runs(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for segment in &self.segments {
            match runs.last_mut() {
                Some(last) if last.end == segment.first => last.end = segment.next,
                _ => runs.push(segment.first..segment.next),
            }
        }
        if self.unplaced {
            return runs;
        }
        // What is being written goes on where the segments end.
        match (self.next, runs.last_mut()) {
            (Some(_), _) if self.passed => {}
            (Some(next), Some(last)) => last.end = next,
            (Some(next), None) => {
                let first = self.pending.iter().find_map(|pending| pending.first);
                runs.push(first.unwrap_or(next)..next);
            }
            (None, _) => {}
        }
        runs
    }

    /// Starts again at `lsn`: all that was for the outlet is dropped, and what is on disk from there on comes again,
    /// from the record that holds `lsn`. Segments that are of no use; or `None` if the entry is not there.
    pub(super) fn restart(&mut self, lsn: u64) -> Option<Vec<Segment>> {
        let mut useless = Vec::new();
        if self.passed && self.next != Some(lsn) {
            return None;
        }
        if self.next.is_none() && self.segments.is_empty() {
            self.next = Some(lsn);
            self.on_disk.send_replace(lsn);
        } else if !self.passed {
            let mut runs = self.runs().into_iter().rev();
            let run = runs.find(|run| run.contains(&lsn) || run.end == lsn)?;
            if std::mem::take(&mut self.unplaced) {
                let segments = self.segments.drain(..);
                let (inside, outside): (VecDeque<_>, _) =
                    segments.partition(|segment| run.contains(&segment.first));
                (self.segments, useless) = (inside, outside.into());
                self.next = Some(run.end);
                self.on_disk.send_replace(run.end);
            }
        }
        self.memory.clear();
        self.extents.clear();
        for segment in &mut self.segments {
            if segment.next <= lsn {
                segment.applied_at.get_or_insert_with(Instant::now);
                continue;
            }
            segment.applied_at = None;
            self.extents.push_back(Extent {
                segment: segment.named.clone(),
                at: super::segment::HEAD as u64,
                end: segment.end,
                first: segment.first,
            });
        }
        let written = self.segments.back().map_or(lsn, |last| last.next);
        let unapplied = self.segments.iter().filter(|segment| segment.next > lsn);
        let unapplied = unapplied.map(|segment| (segment.next, segment.received_at_ms));
        let unwritten = self.receipts.iter().filter(|(next, _)| *next > written);
        self.receipts = unapplied.chain(unwritten.copied()).collect();
        // What is being written is read back when it is there.
        let wanted = |pending: &&Pending| pending.first.is_some() && !self.passed;
        let pending = self.pending.iter().filter(wanted);
        self.unwritten = pending
            .map(|pending| Held {
                number: pending.number,
                batch: None,
            })
            .collect();
        self.applied = lsn;
        self.arrived.notify_one();
        Some(useless)
    }
}
