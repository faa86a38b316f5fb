//! Putting on the device what was written, now and then, beside the writing.
//!
//! Invariant: what was written before a pass began is on the device when it ends, the files' names included.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::shared::Shared;
use super::space::Durability;

/// How long a pass is waited with after the one before.
const EVERY: Duration = Duration::from_secs(1);

/// What is not on the device.
#[derive(Debug, Default)]
struct Written {
    files: Vec<Arc<File>>,
    /// There are new names in the directory.
    names: bool,
    ended: bool,
}

/// What was written since the last pass.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    written: Mutex<Written>,
    ended: Condvar,
}

impl Unsynced {
    fn lock(&self) -> MutexGuard<'_, Written> {
        // A list of files is right whatever panicked.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file has been written, or is new.
    pub(super) fn add(&self, shared: &Shared, file: &Arc<File>, new: bool) {
        if shared.settings.sync == Durability::Never {
            return;
        }
        let mut written = self.lock();
        written.names |= new;
        if !written.files.iter().any(|known| Arc::ptr_eq(known, file)) {
            written.files.push(file.clone());
        }
    }

    /// One pass.
    pub(super) fn sync(&self, shared: &Shared) -> io::Result<()> {
        let (files, names) = {
            let mut written = self.lock();
            (
                std::mem::take(&mut written.files),
                std::mem::take(&mut written.names),
            )
        };
        for file in files {
            shared.disk.sync(&file)?;
        }
        match names {
            true => shared.disk.sync_names(),
            false => Ok(()),
        }
    }

    /// Passes until [`Self::end`], or an error, which ends the spool: what is not on the device then may never be.
    pub(super) fn run(&self, shared: &Shared) {
        loop {
            let written = self.lock();
            let waited = self
                .ended
                .wait_timeout_while(written, EVERY, |it| !it.ended);
            let ended = waited.unwrap_or_else(PoisonError::into_inner).0.ended;
            if ended {
                return;
            }
            if let Err(error) = self.sync(shared) {
                shared.fail(error);
                return;
            }
        }
    }

    /// Ends the passes.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.ended.notify_all();
    }
}
