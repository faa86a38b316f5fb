//! Where a flow's batches go in.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::entry::{Batch, Budget, Item, Share};

use super::error::PushError;
use super::flow::Flow;
use super::record::{Encoded, is_of_snapshot};
use super::shared::{Offered, Shared, Staged};

/// Room is looked for again after this long even if nobody said that there is some: others use the disk too.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Takes the batches of one flow, in order. Dropped, it closes the flow: the outlet yields what was taken, then ends.
#[derive(Debug)]
pub struct Inlet {
    shared: Arc<Shared>,
    flow: u32,
    arrived: Arc<Notify>,
    direct: Budget,
    writing: Budget,
    /// Batches not taken yet.
    staged: VecDeque<Staged>,
}

/// Up to which LSN a flow is on disk.
#[derive(Debug, Clone)]
pub struct OnDisk(watch::Receiver<u64>);

impl OnDisk {
    /// Every entry before this LSN is on disk and survives a kill of the process; with [`Durability::Always`] a power
    /// cut too. 0 if there is none. It moves over entries that were [passed](Inlet::pass) with the next one written.
    ///
    /// [`Durability::Always`]: super::Durability::Always
    pub fn get(&self) -> u64 {
        *self.0.borrow()
    }

    /// Waits until every entry before `next` is on disk. `false` if the spool or the flow's content is gone. Cancel
    /// safe.
    pub async fn reached(&mut self, next: u64) -> bool {
        self.0.wait_for(|there| *there >= next).await.is_ok()
    }
}

impl Inlet {
    pub(super) fn new(shared: Arc<Shared>, flow: u32, of: &Flow) -> Self {
        Self {
            shared,
            flow,
            arrived: of.arrived.clone(),
            direct: of.direct.clone(),
            writing: of.writing.clone(),
            staged: VecDeque::new(),
        }
    }

    /// The flow's number.
    pub fn flow(&self) -> u32 {
        self.flow
    }

    /// Takes a batch; its share of a budget is replaced by one of the spool's own. Waits only while the disk does not
    /// keep up and memory is used up. Cancel safe: a batch that was not taken, also because of an error, stays in the
    /// inlet and goes before the next one; [`Self::flush`] tries again.
    pub fn push(
        &mut self,
        batch: Batch,
    ) -> impl Future<Output = Result<(), PushError>> + Send + '_ {
        self.stage(batch);
        self.flush()
    }

    /// Splits a batch where the snapshot ends and the journal begins.
    fn stage(&mut self, mut batch: Batch) {
        batch.share = Share::none();
        let stable = |item: &Item| matches!(item, Item::Stable { .. });
        if let Some(at) = batch.items.iter().position(stable) {
            let items = batch.items.split_off(at + 1);
            let bytes = batch.bytes.clone();
            let received_at_ms = batch.received_at_ms;
            self.stage_whole(batch);
            batch = Batch {
                bytes,
                items,
                received_at_ms,
                share: Share::none(),
            };
        }
        self.stage_whole(batch);
    }

    fn stage_whole(&mut self, batch: Batch) {
        if !batch.items.is_empty() {
            self.staged.push_back(Staged {
                batch,
                record: None,
                lsns: None,
            });
        }
    }

    /// Takes the batches that were not taken before.
    pub async fn flush(&mut self) -> Result<(), PushError> {
        let mut share = None;
        while let Some(first) = self.staged.front_mut() {
            encode_journal(first)?;
            match self.shared.offer(self.flow, first, &mut share)? {
                Offered::Taken { wake } => {
                    self.staged.pop_front();
                    self.arrived.notify_one();
                    if wake {
                        // The outlet first: it does not wait for the thread, which is woken in any case.
                        let _woken = Woken(&self.shared);
                        tokio::task::yield_now().await;
                    }
                }
                Offered::NeedsRecord => encode(first)?,
                Offered::NeedsWriting(bytes) => share = Some(self.writing.take(bytes).await),
                Offered::NeedsMemory(_) | Offered::Behind => self.room().await,
            }
        }
        Ok(())
    }

    /// Hands the batches that were not taken to the outlet through memory alone, past the disk: what follows them on
    /// disk can no longer be reached from what was there before, which is then removed. Waits until the outlet is
    /// level and has memory. Cancel safe, as [`Self::push`].
    pub async fn pass(&mut self) -> Result<(), PushError> {
        let mut share = None;
        while let Some(first) = self.staged.front_mut() {
            encode_journal(first)?;
            match self.shared.pass(self.flow, first, &mut share)? {
                Offered::Taken { .. } => {
                    self.staged.pop_front();
                    self.arrived.notify_one();
                }
                Offered::NeedsMemory(bytes) | Offered::NeedsWriting(bytes) => {
                    share = Some(self.direct.take(bytes).await);
                }
                Offered::Behind | Offered::NeedsRecord => self.room().await,
            }
        }
        Ok(())
    }

    /// Waits until pushing may work again after [`PushError::Full`], at most a moment: then [`Self::flush`]. Cancel
    /// safe.
    pub async fn room(&self) {
        let told = self.shared.room.notified();
        // Whichever comes first.
        drop(tokio::time::timeout(LOOK_AGAIN, told).await);
    }

    /// Whether batches were not taken yet.
    pub fn is_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// The LSN with which the flow goes on; `None` until its journal has begun.
    pub fn next_lsn(&self) -> Option<u64> {
        let state = self.shared.lock();
        state.flows.get(self.flow as usize)?.next
    }

    /// Up to which LSN the flow is on disk.
    pub fn on_disk(&self) -> Option<OnDisk> {
        let state = self.shared.lock();
        let flow = state.flows.get(self.flow as usize)?;
        Some(OnDisk(flow.on_disk.subscribe()))
    }
}

/// Wakes the thread when dropped.
struct Woken<'a>(&'a Shared);

impl Drop for Woken<'_> {
    fn drop(&mut self) {
        self.0.wake.notify_one();
    }
}

/// Makes the record of a staged batch.
fn encode(staged: &mut Staged) -> Result<(), PushError> {
    let malformed = |what| PushError::Malformed { what };
    let (record, lsns) = Encoded::of(&staged.batch).map_err(malformed)?;
    staged.record = Some(record);
    staged.lsns = lsns.map(|lsns| (lsns.first, lsns.next));
    Ok(())
}

/// Makes the record of a staged batch of the journal, which is written in any case.
fn encode_journal(staged: &mut Staged) -> Result<(), PushError> {
    match &staged.record {
        None if !staged.batch.items.iter().all(is_of_snapshot) => encode(staged),
        _ => Ok(()),
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(flow) = state.flows.get_mut(self.flow as usize) {
            flow.has_inlet = false;
            flow.arrived.notify_one();
        }
    }
}
