//! Standard output or standard error as a place that may stop taking anything at any time.
//!
//! A terminal that hangs up (EIO) or a reader that is gone (EPIPE) is final: nothing is written there any more, and
//! whoever asked is told once. One that is slow, or stopped with Ctrl-S, makes the writer wait; so writers are
//! threads that nobody waits for.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};

/// Told of the first error.
type OnFailure = Box<dyn FnOnce(&io::Error) + Send>;

/// An open stream.
pub(super) struct Outlet {
    file: File,
    failed: AtomicBool,
    on_failure: Mutex<Option<OnFailure>>,
}

impl Outlet {
    /// A stream that is open; a duplicate of it is used, without any buffer.
    pub fn of(stream: impl AsFd, on_failure: OnFailure) -> io::Result<Self> {
        Ok(Self {
            file: File::from(stream.as_fd().try_clone_to_owned()?),
            failed: AtomicBool::new(false),
            on_failure: Mutex::new(Some(on_failure)),
        })
    }

    /// Writes all of it, or nothing more for ever. May wait.
    pub fn write(&self, bytes: &[u8]) {
        if self.has_failed() {
            return;
        }
        if let Err(error) = self.write_all(bytes) {
            self.failed.store(true, Ordering::Relaxed);
            let mut on_failure = self
                .on_failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(on_failure) = on_failure.take() {
                on_failure(&error);
            }
        }
    }

    /// Whether nothing is written any more.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The stream, to be asked about.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&self.file).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody who shares the stream, a shell or ssh, has made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut stream = [PollFd::new(&self.file, PollFlags::OUT)];
                    // However it ends, the next write says what is the matter.
                    let _ = poll(&mut stream, None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
