//! Locks that say who holds them: POSIX record locks over whole files.
//!
//! Of the kernel's locks only these are right for a file that names a process: they end with the process however that
//! ends, a child made by fork does not hold them, and `F_GETLK` tells the holder's PID, whatever the file says.
//!
//! Their trap: closing *any* descriptor of a file lets go of all the process's locks on it. So files that may be locked
//! are opened through [`open`] only, which refuses what this process holds itself; and an [`OpenFile`] is the only one
//! in the process while it lives.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// What this process holds.
static HELD: Mutex<BTreeSet<FileId>> = Mutex::new(BTreeSet::new());

/// How often a file is looked for that comes and goes while it is being opened.
const ATTEMPTS: u32 = 10_000;

fn held() -> MutexGuard<'static, BTreeSet<FileId>> {
    // Whoever panicked has left a set that is still right.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(about: &Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
        }
    }

    /// Whether `path`, itself and not what it points to, is this file.
    fn is_at(self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|about| Self::of(&about) == self)
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// To see who holds it.
    Look,
    /// To lock it, should it be there.
    Lock,
    /// To lock it; made with these permissions, less the umask, where it is not there.
    Create(u32),
}

/// Why a file could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// This process holds it.
    Ours,
    /// It is a symbolic link, a directory, a FIFO, a socket or a device.
    NotAFile,
    /// Anything else.
    Failed(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(cause: io::Error) -> Self {
        match cause.raw_os_error() {
            Some(libc::ELOOP | libc::EISDIR | libc::ENXIO) => Self::NotAFile,
            _ => Self::Failed(cause),
        }
    }
}

/// Who holds a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    /// `None`: a process that cannot be seen from here, in another PID namespace or on another machine.
    pub(super) pid: Option<u32>,
    /// Only whoever may write the file can hold it so; anybody who may read it can hold it otherwise.
    pub(super) exclusive: bool,
}

/// A regular file, open and not yet locked by this process.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    id: FileId,
    /// Field order: the file is closed while no one else in this process can lock it.
    held: MutexGuard<'static, BTreeSet<FileId>>,
}

/// How locking ended.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is ours.
    Yes(RecordLock),
    /// Somebody else holds it.
    No(OpenFile),
}

/// Opens `path`; `None`: there is nothing, and nothing was asked to be made.
///
/// Never follows a symbolic link, never waits for the other end of a FIFO, and is inherited by nobody through exec.
pub(super) fn open(path: &Path, access: Access) -> Result<Option<OpenFile>, OpenError> {
    let held = held();
    for _ in 0..ATTEMPTS {
        let opened = match fs::symlink_metadata(path) {
            // Not even opened: closing it again would be the trap, and opening a device can do things.
            Ok(about) if held.contains(&FileId::of(&about)) => return Err(OpenError::Ours),
            Ok(about) if !about.is_file() => return Err(OpenError::NotAFile),
            Ok(_) => options(access).open(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match access {
                Access::Create(mode) => options(access).create_new(true).mode(mode).open(path),
                Access::Look | Access::Lock => return Ok(None),
            },
            Err(error) => return Err(error.into()),
        };
        match opened {
            Ok(file) => return regular(file, held).map(Some),
            // It came or went since it was looked for.
            Err(error) if is_race(&error, path) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(OpenError::Failed(io::Error::other(
        "it is made and removed all the time",
    )))
}

/// Whether `path` came or went since it was looked for; a missing directory is missing for good.
fn is_race(error: &io::Error, path: &Path) -> bool {
    match error.kind() {
        io::ErrorKind::AlreadyExists => true,
        io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.exists(),
            _ => true,
        },
        _ => false,
    }
}

fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(!matches!(access, Access::Look))
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
    options
}

fn regular(file: File, held: MutexGuard<'static, BTreeSet<FileId>>) -> Result<OpenFile, OpenError> {
    let about = file.metadata()?;
    let id = FileId::of(&about);
    if held.contains(&id) {
        // Somebody gave the file we hold this name just now. To close it would be to let go.
        std::mem::forget(file);
        return Err(OpenError::Ours);
    }
    match about.is_file() {
        true => Ok(OpenFile { file, id, held }),
        false => Err(OpenError::NotAFile),
    }
}

impl OpenFile {
    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether `path` is still this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.id.is_at(path)
    }

    /// Locks it, at once or not at all. Needs write access.
    pub(super) fn lock(mut self) -> io::Result<Taken> {
        match fcntl(&self.file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(Taken::No(self)),
            Err(error) => return Err(error.into()),
        }
        self.held.insert(self.id);
        Ok(Taken::Yes(RecordLock {
            file: Some(self.file),
            id: self.id,
            pid: std::process::id(),
        }))
    }

    /// Who holds it, exclusively or not; `None`: nobody.
    pub(super) fn holder(&self) -> io::Result<Option<Holding>> {
        let mut lock = whole(libc::F_WRLCK);
        fcntl(&self.file, FcntlArg::F_GETLK(&mut lock))?;
        if lock.l_type == kind(libc::F_UNLCK) {
            return Ok(None);
        }
        Ok(Some(Holding {
            pid: u32::try_from(lock.l_pid).ok().filter(|pid| *pid > 0),
            exclusive: lock.l_type == kind(libc::F_WRLCK),
        }))
    }
}

/// The constants are as wide as their field on some platforms only.
#[allow(
    clippy::unnecessary_cast,
    clippy::cast_possible_truncation,
    reason = "F_WRLCK, F_UNLCK and SEEK_SET are small numbers"
)]
const fn kind(constant: libc::c_int) -> libc::c_short {
    constant as libc::c_short
}

/// A lock of this kind over a whole file, however long it becomes.
const fn whole(constant: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind(constant),
        l_whence: kind(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// A file that this process, and no child of it, holds until dropped.
#[derive(Debug)]
pub(super) struct RecordLock {
    /// `None` only while being dropped.
    file: Option<File>,
    id: FileId,
    /// Who took it: the memory of a forked child has a copy of this, but the child holds nothing.
    pid: u32,
}

impl RecordLock {
    /// The file. Never to be cloned: closing the clone would let go.
    pub(super) fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| Errno::EBADF.into())
    }

    /// Whether `path` is still this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.id.is_at(path)
    }

    /// Whether this process is the one that took it.
    pub(super) fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }
}

impl Drop for RecordLock {
    fn drop(&mut self) {
        // Closed while nobody else in this process can lock the same file again.
        let mut held = held();
        held.remove(&self.id);
        drop(self.file.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(path: &Path) -> RecordLock {
        let opened = open(path, Access::Create(0o600)).unwrap().unwrap();
        match opened.lock().unwrap() {
            Taken::Yes(lock) => lock,
            Taken::No(_) => panic!("held by somebody"),
        }
    }

    #[test]
    fn what_this_process_holds_is_not_opened_a_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let lock = taken(&path);
        for access in [Access::Look, Access::Lock, Access::Create(0o600)] {
            assert!(matches!(open(&path, access), Err(OpenError::Ours)));
        }
        // Under another name it is the same file.
        let other = dir.path().join("b");
        fs::hard_link(&path, &other).unwrap();
        assert!(matches!(open(&other, Access::Look), Err(OpenError::Ours)));
        drop(lock);
        drop(taken(&path));
    }

    #[test]
    fn a_file_that_was_replaced_is_told_from_the_one_that_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let lock = taken(&path);
        assert!(lock.is_at(&path));
        fs::rename(&path, dir.path().join("b")).unwrap();
        assert!(!lock.is_at(&path));
        fs::write(&path, "").unwrap();
        assert!(!lock.is_at(&path));
    }

    #[test]
    fn a_missing_directory_is_an_error_and_a_missing_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(&dir.path().join("a"), Access::Look).unwrap().is_none());
        let error = open(&dir.path().join("no/a"), Access::Create(0o600)).unwrap_err();
        assert!(matches!(error, OpenError::Failed(_)), "{error:?}");
    }
}
