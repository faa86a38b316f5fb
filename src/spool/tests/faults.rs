//! A disk that fails when it is told to.

use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex};

/// What a disk does wrong.
#[derive(Debug, Default)]
struct What {
    /// Bytes that the file system holds, all in the directory, instead of the truth.
    capacity: Option<u64>,
    /// What writes end with.
    writing: Option<i32>,
    /// Writes wait.
    stalled: bool,
    /// What syncing ends with.
    syncing: Option<i32>,
    /// How often it ended well.
    synced: u64,
}

/// Faults of one disk.
#[derive(Debug, Default)]
pub(in super::super) struct Faults {
    what: Mutex<What>,
    changed: Condvar,
}

impl Faults {
    fn change(&self, change: impl FnOnce(&mut What)) {
        change(&mut self.what.lock().unwrap());
        self.changed.notify_all();
    }

    pub(in super::super) fn set_capacity(&self, capacity: u64) {
        self.change(|what| what.capacity = Some(capacity));
    }

    pub(in super::super) fn fail_writing(&self, errno: Option<i32>) {
        self.change(|what| what.writing = errno);
    }

    pub(in super::super) fn fail_syncing(&self, errno: Option<i32>) {
        self.change(|what| what.syncing = errno);
    }

    pub(in super::super) fn stall(&self, stalled: bool) {
        self.change(|what| what.stalled = stalled);
    }

    pub(in super::super) fn free(&self, dir: &Path) -> Option<u64> {
        let capacity = self.what.lock().unwrap().capacity?;
        let entries = std::fs::read_dir(dir).unwrap();
        // A file may be removed meanwhile.
        let lengths = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        Some(capacity.saturating_sub(lengths.sum()))
    }

    pub(in super::super) fn before_write(&self) -> io::Result<()> {
        let what = self.what.lock().unwrap();
        let what = self.changed.wait_while(what, |what| what.stalled).unwrap();
        what.writing
            .map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    pub(in super::super) fn synced(&self) -> u64 {
        self.what.lock().unwrap().synced
    }

    pub(in super::super) fn before_sync(&self) -> io::Result<()> {
        let mut what = self.what.lock().unwrap();
        what.synced += u64::from(what.syncing.is_none());
        what.syncing
            .map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}
