//! Where a flow's batches come out, in the order they went in.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::entry::{Batch, Budget, Item};

use super::error::{ReadError, SpoolError};
use super::flow::{Extent, Flow, Taken, held};
use super::reading::{ReadFault, Records};
use super::record::Damage;
use super::shared::Shared;

/// Bytes read from disk at once: many records where they are small.
const STRETCH: usize = 512 << 10;

/// Batches taken out of one read, where they are tiny.
const BATCHES: usize = 256;

/// What one reading ended with.
#[derive(Debug)]
struct Read {
    open: Option<Open>,
    /// In order, and how much memory each holds.
    batches: Vec<Batch>,
    /// Where the next record begins, and which it is.
    at: u64,
    next: u64,
    /// After these batches.
    error: Option<ReadError>,
}

/// The segment that is being read.
#[derive(Debug)]
struct Open {
    number: u64,
    records: Records,
}

/// Yields the batches of one flow, in order. Dropped, the flow goes on without it.
#[derive(Debug)]
pub struct Outlet {
    shared: Arc<Shared>,
    flow: u32,
    arrived: Arc<Notify>,
    direct: Budget,
    /// Read ahead.
    ready: VecDeque<Batch>,
    /// Where the record after them begins, and which it is. The flow is told when they are gone: until then nothing
    /// may take memory that they need.
    after_ready: Option<(u64, u64)>,
    open: Option<Open>,
    reading: Option<JoinHandle<Read>>,
    /// Entries before are left out.
    from: u64,
    error: Option<ReadError>,
}

impl Outlet {
    pub(super) fn new(shared: Arc<Shared>, flow: u32, of: &Flow) -> Self {
        Self {
            shared,
            flow,
            arrived: of.arrived.clone(),
            direct: of.direct.clone(),
            ready: VecDeque::new(),
            after_ready: None,
            open: None,
            reading: None,
            from: 0,
            error: None,
        }
    }

    /// The flow's number.
    pub fn flow(&self) -> u32 {
        self.flow
    }

    /// The next batch, with its share of the spool's memory; `None` when the inlet is gone and nothing is left. Waits
    /// while there is none, and, when it has to be read from disk, while the batches that were yielded and not dropped
    /// hold all of the flow's memory. Cancel safe. After an error the same error comes again, until
    /// [`Self::read_from`].
    pub async fn next(&mut self) -> Result<Option<Batch>, ReadError> {
        loop {
            if let Some(first) = self.ready.front() {
                let share = self.direct.take(held(first)).await;
                if let Some(mut batch) = self.ready.pop_front() {
                    batch.share = share;
                    if self.ready.is_empty() {
                        self.was_yielded();
                    }
                    return Ok(Some(batch));
                }
            }
            self.was_yielded();
            if let Some(reading) = &mut self.reading {
                let read = reading.await;
                self.reading = None;
                self.was_read(read.unwrap_or_else(|lost| Read {
                    open: None,
                    batches: Vec::new(),
                    at: 0,
                    next: 0,
                    error: Some(ReadError::Failed(Arc::new(io::Error::other(lost)))),
                }));
                continue;
            }
            if let Some(error) = &self.error {
                return Err(error.clone());
            }
            match self.shared.take(self.flow)? {
                Taken::Batch(batch) => {
                    self.open = None;
                    if let Some(batch) = trim(batch, self.from) {
                        return Ok(Some(batch));
                    }
                }
                Taken::Read(extent) => self.read(extent),
                Taken::Wait => self.arrived.notified().await,
                Taken::End => return Ok(None),
            }
        }
    }

    fn read(&mut self, extent: Extent) {
        let open = self.open.take();
        let open = open
            .filter(|open| open.number == extent.segment.number && open.records.at() == extent.at);
        let (flow, from) = (self.flow, self.from);
        self.reading = Some(spawn_blocking(move || read(flow, open, &extent, from)));
    }

    fn was_read(&mut self, read: Read) {
        self.open = read.open;
        self.after_ready = (read.at > 0).then_some((read.at, read.next));
        let bytes: usize = read.batches.iter().map(|batch| batch.bytes.len()).sum();
        self.shared
            .count_read(read.batches.len() as u64, bytes as u64);
        self.ready.extend(read.batches);
        self.error = read.error;
    }

    /// What was read ahead has been yielded.
    fn was_yielded(&mut self) {
        let Some((at, next)) = self.after_ready.take() else {
            return;
        };
        let mut state = self.shared.lock();
        if let Some(flow) = state.flows.get_mut(self.flow as usize) {
            flow.consumed(at, next);
        }
        if state.remove_overflows(self.flow) {
            self.shared.wake(&mut state);
            self.open = None;
        }
        drop(state);
        // Level with the inlet, perhaps.
        self.shared.room.notify_waiters();
    }

    /// Everything before the entry `next` is in the target.
    pub fn applied(&self, next: u64) {
        let mut state = self.shared.lock();
        if let Some(flow) = state.flows.get_mut(self.flow as usize) {
            flow.applied(next);
        }
        drop(state);
        self.shared.room.notify_waiters();
    }

    /// Starts again at the entry `lsn`, which the target has not got, wherever the outlet was. Entries before count as
    /// applied. Of what was found when the spool was opened, the run that holds `lsn` is used, and the rest removed;
    /// the source has to go on where it ends ([`Inlet::next_lsn`](super::Inlet::next_lsn)). An empty flow begins at
    /// `lsn`. An error if the entry is not there; then nothing has changed.
    pub fn read_from(&mut self, lsn: u64) -> Result<(), SpoolError> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let not_there = |there| SpoolError::NotThere {
            flow: self.flow,
            lsn,
            there,
        };
        let Some(flow) = state.flows.get_mut(self.flow as usize) else {
            return Err(not_there(Vec::new()));
        };
        let Some(useless) = flow.restart(lsn) else {
            return Err(not_there(flow.runs()));
        };
        for segment in useless {
            state
                .space
                .remove(segment.named.path.clone(), segment.bytes);
        }
        state.remove_overflows(self.flow);
        self.shared.wake(state);
        // Its result belongs to the past.
        self.reading = None;
        (self.open, self.after_ready) = (None, None);
        (self.error, self.from) = (None, lsn);
        self.ready.clear();
        Ok(())
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(flow) = state.flows.get_mut(self.flow as usize) {
            flow.has_outlet = false;
        }
    }
}

/// Reads batches of one extent, as many as one stretch of the file has.
fn read(flow: u32, open: Option<Open>, extent: &Extent, from: u64) -> Read {
    let mut read = Read {
        open: None,
        batches: Vec::new(),
        at: extent.at,
        next: extent.first,
        error: None,
    };
    let segment = &extent.segment;
    let opened = match open {
        Some(open) => Ok(open),
        None => File::open(&segment.path).map(|file| Open {
            number: segment.number,
            records: Records::new(Arc::new(file), extent.at, STRETCH),
        }),
    };
    let result = opened.map_err(ReadFault::from).and_then(|mut open| {
        while read.at < extent.end {
            let raw = open.records.next(extent.end)?;
            if raw.head.first != read.next || raw.head.kind != segment.kind {
                let damage = Damage::Wrong("another record than the one before leads to");
                return Err(ReadFault::Damaged {
                    at: read.at,
                    damage,
                });
            }
            if raw.head.next > from || segment.kind == super::record::Kind::Overflow {
                let batch = open.records.batch(&raw)?;
                read.batches.extend(trim(batch, from));
            }
            read.at = open.records.at();
            read.next = match segment.kind {
                super::record::Kind::Overflow => raw.head.next + 1,
                _ => raw.head.next,
            };
            let enough = read.batches.len() >= BATCHES || !open.records.holds_more();
            if enough && !read.batches.is_empty() {
                break;
            }
        }
        read.open = Some(open);
        Ok(())
    });
    read.error = result
        .err()
        .map(|fault| read_error(flow, segment.path.clone(), fault));
    read
}

/// Names a damaged file, which is put aside.
fn read_error(flow: u32, file: PathBuf, fault: ReadFault) -> ReadError {
    match fault {
        ReadFault::Io(cause) => {
            let cause = Arc::new(cause);
            ReadError::Io { file, cause }
        }
        ReadFault::Damaged { at, damage } => {
            let aside = super::recovery::put_aside(&file);
            ReadError::Damaged {
                flow,
                file: aside.unwrap_or(file),
                at,
                what: match damage {
                    Damage::Short => "a record is cut off",
                    Damage::Wrong(what) => what,
                },
            }
        }
    }
}

/// A batch without its entries before `from`; `None` if there are no others.
fn trim(mut batch: Batch, from: u64) -> Option<Batch> {
    let lsn = |item: &Item| match item {
        Item::Command(command) => command.lsn,
        Item::Nothing { lsn, .. } => *lsn,
        Item::Record(_) | Item::Script(_) | Item::SnapshotEnd | Item::Stable { .. } => None,
    };
    let early = |item: &Item| lsn(item).is_some_and(|lsn| lsn < from);
    if batch.items.first().is_some_and(early) {
        let kept = batch.items.iter().position(|item| !early(item));
        batch.items.drain(..kept.unwrap_or(batch.items.len()));
    }
    (!batch.items.is_empty()).then_some(batch)
}
