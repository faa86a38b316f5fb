//! What a running task knows of itself. Flows write their own counters; everybody else reads.
//!
//! One struct feeds the summary line and the terminal. Counters only grow within a session; a new
//! session starts with new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::commands::Kind;

/// Where a task is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Reaching both servers.
    #[default]
    #[serde(rename = "connecting")]
    Connecting,
    /// Copying every key, with the writes that arrive meanwhile.
    #[serde(rename = "snapshot")]
    Snapshot,
    /// Following the writes.
    #[serde(rename = "stable sync")]
    Stable,
    /// Waiting before the next attempt.
    #[serde(rename = "waiting")]
    Waiting,
    /// Finishing what is in flight.
    #[serde(rename = "stopping")]
    Stopping,
    /// Ended, on request.
    #[serde(rename = "stopped")]
    Stopped,
    /// Ended by an error that trying again at once does not mend.
    #[serde(rename = "failed")]
    Failed,
}

impl Phase {
    /// The name in logs and on the terminal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Snapshot => "snapshot",
            Self::Stable => "stable sync",
            Self::Waiting => "waiting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// One flow's counters.
#[derive(Debug, Default)]
pub struct FlowStatus {
    /// Snapshot keys handed to the target.
    pub keys: AtomicU64,
    /// Bytes of keys, values and commands taken from the source, uncompressed.
    pub bytes: AtomicU64,
    /// Bytes that the source has sent, uncompressed, whether the target has them or not.
    pub received: AtomicU64,
    /// The end of the flow's snapshot was seen.
    pub snapshot_ended: AtomicBool,
    /// LSN of the first entry of stable sync; 0 before.
    pub base: AtomicU64,
    /// The flow's next LSN in the target; 0 before stable sync.
    pub applied: AtomicU64,
    /// Receipt to reply of the newest batch, in microseconds.
    pub latency_us: AtomicU64,
    /// Entries left out by `on_error` or `on_unsupported`.
    pub skipped: AtomicU64,
    /// Keys that are not written before they are read again from the source, at this moment.
    pub withheld: AtomicU64,
    /// Keys that will be read again when members of them expire.
    pub scheduled: AtomicU64,
    /// Slots of the target that are on the move, so that their entries wait, at this moment.
    moving: Mutex<BTreeSet<u16>>,
    /// Entries before this LSN were written at the source long before they came here.
    pub late_until: AtomicU64,
    /// The source's own next LSN, when it was last asked; 0 before.
    pub source_next: AtomicU64,
}

impl FlowStatus {
    /// Notes which slots of the target are on the move, so that their entries wait.
    pub fn set_moving(&self, slots: BTreeSet<u16>) {
        *self.moving.lock().unwrap_or_else(PoisonError::into_inner) = slots;
    }

    /// Slots of the target that are on the move, so that their entries wait.
    pub fn moving(&self) -> BTreeSet<u16> {
        let moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        moving.clone()
    }
}

/// One session's counters.
#[derive(Debug)]
pub struct Status {
    /// By flow number.
    pub flows: Vec<FlowStatus>,
    /// Source clock minus ours, in milliseconds.
    pub clock_offset_ms: std::sync::Arc<AtomicI64>,
    /// Keys the source said it has; 0 when it did not say.
    pub expected_keys: AtomicU64,
    /// Keys and entries left out because the target cannot hold or do them.
    pub unsupported: AtomicU64,
    /// The same by kind, in the order of [`Kind::ALL`].
    pub unsupported_kinds: [AtomicU64; Kind::ALL.len()],
    /// Keys and entries copied with less than the source has.
    pub reduced: AtomicU64,
    /// Keys that were read again and written.
    pub reread: AtomicU64,
    /// Keys that should have been withheld, and were not, since there were too many.
    pub unverified: AtomicU64,
    /// Entries of stable sync have come in time.
    pub caught_up: AtomicBool,
    /// How many times the source's positions have been asked for and stored in `flows`.
    pub offsets_read: AtomicU64,
}

/// Sums over flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// See [`FlowStatus::keys`].
    pub keys: u64,
    /// See [`FlowStatus::bytes`].
    pub bytes: u64,
    /// See [`FlowStatus::received`].
    pub received: u64,
    /// Flows whose snapshot ended.
    pub flows_done: u64,
    /// Entries of stable sync that the target has confirmed.
    pub applied: u64,
    /// See [`FlowStatus::skipped`].
    pub skipped: u64,
}

impl Status {
    /// For a session of `flows` flows.
    pub fn new(flows: u32) -> Self {
        Self {
            flows: (0..flows).map(|_| FlowStatus::default()).collect(),
            clock_offset_ms: std::sync::Arc::default(),
            expected_keys: AtomicU64::new(0),
            unsupported: AtomicU64::new(0),
            unsupported_kinds: Default::default(),
            reduced: AtomicU64::new(0),
            reread: AtomicU64::new(0),
            unverified: AtomicU64::new(0),
            caught_up: AtomicBool::new(false),
            offsets_read: AtomicU64::new(0),
        }
    }

    /// A flow has received `bytes` more.
    pub fn count_received(&self, flow: u32, bytes: u64) {
        if let Some(flow) = self.flows.get(flow as usize) {
            flow.received.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts something of this kind that was left out.
    pub fn count_unsupported(&self, kind: Kind) {
        self.unsupported.fetch_add(1, Ordering::Relaxed);
        let kinds = Kind::ALL.iter().zip(&self.unsupported_kinds);
        for (_, counter) in kinds.filter(|(counted, _)| **counted == kind) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many of each kind were left out, by its name; only kinds of which there were some.
    pub fn unsupported_by_kind(&self) -> BTreeMap<String, u64> {
        let kinds = Kind::ALL.iter().zip(&self.unsupported_kinds);
        kinds
            .map(|(kind, counter)| (kind.as_str().to_owned(), counter.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Sums over flows.
    pub fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.flows
            .iter()
            .fold(Totals::default(), |sum, flow| Totals {
                keys: sum.keys + read(&flow.keys),
                bytes: sum.bytes + read(&flow.bytes),
                received: sum.received + read(&flow.received),
                flows_done: sum.flows_done + u64::from(flow.snapshot_ended.load(Ordering::Relaxed)),
                applied: sum.applied + read(&flow.applied).saturating_sub(read(&flow.base)),
                skipped: sum.skipped + read(&flow.skipped),
            })
    }
}
