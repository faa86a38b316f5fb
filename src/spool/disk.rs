//! The file system under a spool. Tests make it slow, full or broken here.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

/// A spool's directory.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    #[cfg(test)]
    pub(super) faults: super::tests::faults::Faults,
}

impl Disk {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            #[cfg(test)]
            faults: Default::default(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that anybody but root can still write to this file system.
    pub(super) fn free(&self) -> io::Result<u64> {
        #[cfg(test)]
        if let Some(free) = self.faults.free(&self.dir) {
            return Ok(free);
        }
        free_bytes(&self.dir)
    }

    /// Writes all of `parts` at the file's own position, in as few calls as it takes.
    pub(super) fn write(&self, mut file: &File, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut left = parts;
        // Empty parts would look like a device that takes nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            #[cfg(test)]
            self.faults.before_write()?;
            match file.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts a file's bytes on the device.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        self.faults.before_sync()?;
        file.sync_data()
    }

    /// Puts the names in the directory on the device.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Removes a file that may be gone already.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Bytes that anybody but root can still write to the file system of `dir`.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = statvfs(dir)?;
    // Some targets have narrower types.
    #[expect(clippy::useless_conversion, reason = "the types differ by platform")]
    let (blocks, size) = (
        u64::from(stat.blocks_available()),
        u64::from(stat.fragment_size()),
    );
    Ok(blocks.saturating_mul(size))
}

/// Bytes in the files of a spool's directory, which need not exist.
pub fn used_bytes(dir: &Path) -> io::Result<u64> {
    let files = super::identity::files(dir)?;
    let lengths = files.iter().map(|file| Ok(file.metadata()?.len()));
    lengths.sum()
}

/// Whether there was no room: the device is full, or the user's part of it.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
