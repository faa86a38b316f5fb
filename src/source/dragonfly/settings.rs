//! What a session and its readers are told.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::entry::unix_ms;
use crate::net::{Endpoint, Secret, TlsSettings};

/// Spans are 32 bits wide; nothing near that stays in memory.
const THRESHOLD_MAX: usize = 1 << 30;

/// How to reach a master, and how to introduce oneself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// TLS, on every connection or none.
    pub tls: Option<TlsSettings>,
    /// ACL user; the default user if none.
    pub username: Option<String>,
    /// Nothing is sent without a password: such a source does not ask.
    pub password: Option<Secret>,
    /// For connecting and for each answer of the handshake.
    pub connect_timeout: Duration,
    /// Address to show in the master's `INFO replication`; the peer address if none.
    pub announce_ip: Option<String>,
    /// Port to show there.
    pub announce_port: u16,
    /// The task's name, for `CLIENT LIST` on the master.
    pub task: String,
}

/// How a flow's bytes are held and dated.
#[derive(Debug, Clone)]
pub struct ReadSettings {
    /// Where values go that are too large for memory.
    pub spill_dir: PathBuf,
    /// The source's clock minus the local one in milliseconds; may change at any time.
    pub clock_offset_ms: Arc<AtomicI64>,
    threshold: usize,
}

impl ReadSettings {
    /// Values, commands and blobs over `threshold` bytes (at most 1 GiB) go to files in `spill_dir`.
    /// The clocks count as equal until the offset says otherwise.
    pub fn new(spill_dir: impl Into<PathBuf>, threshold: usize) -> Self {
        Self {
            spill_dir: spill_dir.into(),
            clock_offset_ms: Arc::default(),
            threshold: threshold.min(THRESHOLD_MAX),
        }
    }

    /// Bytes over which a value goes to a file.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Now by the source's clock, in Unix milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        unix_ms().saturating_add(self.clock_offset_ms.load(Ordering::Relaxed))
    }
}
