//! How much a spool has on disk, and may have.
//!
//! Invariants: `used` is the length of all segments, `queued` what is set apart for records that wait to be written; the
//!   file system's free space is looked at now and then, and what was written since is taken off.

use std::path::PathBuf;
use std::time::Duration;

use super::error::Full;

/// Applied segments are kept up to this many bytes, over all flows.
pub(super) const KEEP_MAX: u64 = 256 << 20;

/// When an entry counts as spooled. A kill of the process alone loses nothing that counts, under any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it was written; it is put on the device within about a second, in the background.
    Interval,
    /// When it is on the device.
    Always,
    /// When it was written; the system decides when it is put on the device.
    Never,
}

/// How a spool is to be kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most bytes on disk, kept ones included.
    pub max_size: u64,
    /// Bytes that are left free on the file system.
    pub min_free: u64,
    /// How long applied entries are kept, for a target that comes back older; up to 256 MiB.
    pub keep: Duration,
    /// When an entry counts as spooled.
    pub sync: Durability,
    /// Bytes that each flow may have in memory: half for what the outlet has not dropped yet, half for what is being
    /// written. Reading back from disk adds one stretch of at most 512 KiB, or one batch.
    pub memory: u64,
}

/// The smallest and largest segments. Small enough that one is checked in a moment after a kill, and that what is
/// kept can be given up piece by piece; large enough that a backlog is not thousands of files.
const SEGMENT: std::ops::RangeInclusive<u64> = 64 << 10..=16 << 20;

impl Settings {
    /// Length from which on a segment is not appended to.
    pub(super) fn segment(&self, flows: u32) -> u64 {
        let flows = u64::from(flows.max(1));
        let part = (self.max_size / 8).min(KEEP_MAX / 2) / flows;
        part.clamp(*SEGMENT.start(), *SEGMENT.end())
    }
}

/// What is used and what is left, in bytes.
#[derive(Debug, Default)]
pub(super) struct Space {
    pub(super) used: u64,
    pub(super) queued: u64,
    /// Free on the file system when last looked at.
    free: u64,
    /// Written since, less what was removed.
    since: i64,
    /// The system refuses to write.
    pub(super) refused: bool,
    /// Files to be removed.
    pub(super) doomed: Vec<PathBuf>,
}

impl Space {
    pub(super) fn looked(&mut self, free: u64) {
        (self.free, self.since) = (free, 0);
    }

    /// `bytes` that waited, or a segment's head or seal, were written.
    pub(super) fn grew(&mut self, bytes: u64) {
        self.used += bytes;
        self.since = self.since.saturating_add_unsigned(bytes);
    }

    /// A file of `bytes` bytes is not needed.
    pub(super) fn remove(&mut self, path: PathBuf, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        self.since = self.since.saturating_sub_unsigned(bytes);
        self.doomed.push(path);
    }

    /// Free on the file system, as far as known.
    pub(super) fn free(&self) -> u64 {
        match u64::try_from(self.since) {
            Ok(written) => self.free.saturating_sub(written),
            Err(_) => self.free.saturating_add(self.since.unsigned_abs()),
        }
    }

    /// Why `needed` more bytes cannot be taken, if they cannot.
    pub(super) fn refuses(&self, needed: u64, settings: &Settings) -> Option<Full> {
        let used = self.used.saturating_add(self.queued);
        let free = self.free().saturating_sub(self.queued);
        let over = used.saturating_add(needed) > settings.max_size;
        let tight = free < settings.min_free.saturating_add(needed);
        (over || tight || self.refused).then_some(Full {
            needed,
            used,
            max_size: settings.max_size,
            free,
            min_free: settings.min_free,
            refused: self.refused,
        })
    }
}
