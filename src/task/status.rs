//! What a running task knows of itself. Flows write their own counters; everybody else reads.
//!
//! One struct feeds the summary line and the terminal. Counters only grow within a session; a new
//! session starts with new ones.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Reaching both servers.
    Connecting = 0,
    /// Copying every key, with the writes that arrive meanwhile.
    Snapshot = 1,
    /// Following the writes.
    Stable = 2,
    /// Waiting before the next attempt.
    Waiting = 3,
    /// Finishing what is in flight.
    Stopping = 4,
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
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Snapshot,
            2 => Self::Stable,
            3 => Self::Waiting,
            4 => Self::Stopping,
            _ => Self::Connecting,
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
}

/// One session's counters.
#[derive(Debug)]
pub struct Status {
    phase: AtomicU8,
    /// By flow number.
    pub flows: Vec<FlowStatus>,
    /// Source clock minus ours, in milliseconds.
    pub clock_offset_ms: std::sync::Arc<AtomicI64>,
    /// Keys the source said it has; 0 when it did not say.
    pub expected_keys: AtomicU64,
}

/// Sums over flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// See [`FlowStatus::keys`].
    pub keys: u64,
    /// See [`FlowStatus::bytes`].
    pub bytes: u64,
    /// Flows whose snapshot ended.
    pub flows_done: u64,
    /// See [`FlowStatus::skipped`].
    pub skipped: u64,
}

impl Status {
    /// For a session of `flows` flows.
    pub fn new(flows: u32) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Connecting as u8),
            flows: (0..flows).map(|_| FlowStatus::default()).collect(),
            clock_offset_ms: std::sync::Arc::default(),
            expected_keys: AtomicU64::new(0),
        }
    }

    /// Where the session is.
    pub fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Relaxed))
    }

    /// Moves to another phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Sums over flows.
    pub fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.flows
            .iter()
            .fold(Totals::default(), |sum, flow| Totals {
                keys: sum.keys + read(&flow.keys),
                bytes: sum.bytes + read(&flow.bytes),
                flows_done: sum.flows_done + u64::from(flow.snapshot_ended.load(Ordering::Relaxed)),
                skipped: sum.skipped + read(&flow.skipped),
            })
    }
}
