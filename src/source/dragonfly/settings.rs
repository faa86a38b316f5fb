//! What a session and its readers are told.

use std::path::PathBuf;

/// Spans are 32 bits wide; nothing near that stays in memory.
const THRESHOLD_MAX: usize = 1 << 30;

/// How a flow's bytes are held.
#[derive(Debug, Clone)]
pub struct ReadSettings {
    /// Where values go that are too large for memory.
    pub spill_dir: PathBuf,
    threshold: usize,
}

impl ReadSettings {
    /// Values, commands and blobs over `threshold` bytes (at most 1 GiB) go to files in `spill_dir`.
    pub fn new(spill_dir: impl Into<PathBuf>, threshold: usize) -> Self {
        Self {
            spill_dir: spill_dir.into(),
            threshold: threshold.min(THRESHOLD_MAX),
        }
    }

    /// Bytes over which a value goes to a file.
    pub fn threshold(&self) -> usize {
        self.threshold
    }
}
