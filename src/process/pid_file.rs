//! The PID file: one process at a time, and who it is.
//!
//! What holds always:
//! - Whoever holds the lock on the file that has the name is the one process. A number alone proves nothing: after a
//!   `kill -9` it stays behind, and may by now belong to somebody else.
//! - Only the holder changes or removes the file. So once it is locked and still has its name it is ours, and a stale
//!   one is taken over as it is, never removed first.
//! - The lock is this process's alone: no child inherits it, so it is to be made by the process that stays.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess};

use super::record_lock::{Access, OpenError, OpenFile, RecordLock, Taken, open};

/// Whoever wants to know may read it.
const MODE: u32 = 0o644;

/// The longest content that can be a PID file's: a number, and what little else people write around it.
const LONGEST: usize = 32;

/// How often a file is locked only to find that its name now belongs to another one. Each time some other process has
/// come and gone in between.
const ATTEMPTS: u32 = 10_000;

/// The right to be the one process of a PID file, until dropped. Dropping removes the file, if it is still this one.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    lock: RecordLock,
}

/// Who holds a PID file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Running(u32),
    /// Nobody. A number was left behind by a process that could not clean up; none, by one that ended in order but was
    /// not allowed to remove the file.
    Stale(Option<u32>),
    /// There is no such file.
    Absent,
}

/// Why a PID file is not ours, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Somebody holds it.
    #[error("already running, PID {pid}\nits PID file is {}", .path.display())]
    Running {
        /// Who.
        pid: u32,
        /// The file.
        path: PathBuf,
    },
    /// Somebody holds it who cannot be seen from here.
    #[error(
        "already running, as a process of another machine or another PID namespace\nits PID file is {}",
        .path.display()
    )]
    Elsewhere {
        /// The file.
        path: PathBuf,
    },
    /// Somebody who only reads the file keeps it locked.
    #[error("cannot lock the PID file {}: a process that only reads it has locked it, PID {pid}", .path.display())]
    Blocked {
        /// Who; 0 where it cannot be seen.
        pid: u32,
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link, a directory, a FIFO, a socket or a device has its name.
    #[error("{} cannot be a PID file: it is not a regular file", .path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
    /// A file has its name that holds something else, or has further names.
    #[error("{} is not a PID file: {what}\nname another file, or remove this one", .path.display())]
    Foreign {
        /// What it is called.
        path: PathBuf,
        /// How it shows.
        what: &'static str,
    },
    /// It cannot be opened, locked, written or looked at.
    #[error("cannot {doing} the PID file {}: {cause}", .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The process that holds it cannot be signalled or waited for.
    #[error("cannot {doing} PID {pid}, which holds {}: {cause}", .path.display())]
    Process {
        /// What was being done.
        doing: &'static str,
        /// Which process.
        pid: u32,
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}

impl PidFileError {
    fn file(doing: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::File {
            doing,
            path: path.to_owned(),
            cause,
        }
    }

    fn opening(error: OpenError, path: &Path) -> Self {
        let path = path.to_owned();
        match error {
            OpenError::Ours => Self::Running {
                pid: std::process::id(),
                path,
            },
            OpenError::NotAFile => Self::NotAFile { path },
            OpenError::Failed(cause) => Self::File {
                doing: "open",
                path,
                cause,
            },
        }
    }
}

impl PidFile {
    /// Makes or takes over `path`, locks it and writes this process's PID: one line, permissions 0644 whatever the
    /// umask. Of any number of processes that do so at the same time exactly one succeeds.
    ///
    /// To be called by the process that stays: a child made by fork does not hold the lock.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let failed = |cause| PidFileError::file("lock", path, cause);
        for _ in 0..ATTEMPTS {
            let opened = open(path, Access::Create(MODE))
                .map_err(|error| PidFileError::opening(error, path))?;
            // With Create there is always one.
            let Some(opened) = opened else { continue };
            match opened.lock().map_err(failed)? {
                // Between opening and locking its last holder may have removed it.
                Taken::Yes(lock) if !lock.is_at(path) => {}
                Taken::Yes(lock) => return Self::claim(lock, path),
                Taken::No(opened) => {
                    if let Some(refused) = refusal(&opened, path)? {
                        return Err(refused);
                    }
                }
            }
        }
        Err(failed(io::Error::other("it is replaced all the time")))
    }

    /// The lock is ours and the file has the name: from here on it is removed when anything fails, unless it never
    /// was a PID file.
    fn claim(lock: RecordLock, path: &Path) -> Result<Self, PidFileError> {
        let failed = |cause| PidFileError::file("write", path, cause);
        number(lock.file().map_err(failed)?, path)?;
        let claimed = Self {
            path: path.to_owned(),
            lock,
        };
        claimed.write().map_err(failed)?;
        Ok(claimed)
    }

    fn write(&self) -> io::Result<()> {
        let mut file = self.lock.file()?;
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.set_len(0)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
    }

    /// Makes another user and group the owners of the file: those this process is about to become, so that they may
    /// write it.
    pub fn give_to(&self, uid: u32, gid: u32) -> Result<(), PidFileError> {
        let given = self
            .lock
            .file()
            .and_then(|file| fchown(file, Some(uid), Some(gid)));
        given.map_err(|cause| PidFileError::file("change the owner of", &self.path, cause))
    }

    /// Whether [`PidFile::create`] would succeed now, without changing anything. To be asked before detaching, while
    /// errors can still be shown.
    pub fn check_free(path: &Path) -> Result<(), PidFileError> {
        let opened =
            open(path, Access::Lock).map_err(|error| PidFileError::opening(error, path))?;
        let Some(opened) = opened else {
            let dir = match path.parent() {
                Some(dir) if !dir.as_os_str().is_empty() => dir,
                _ => Path::new("."),
            };
            return eaccess(dir, AccessFlags::W_OK | AccessFlags::X_OK)
                .map_err(|cause| PidFileError::file("create", path, cause.into()));
        };
        match refusal(&opened, path)? {
            Some(refused) => Err(refused),
            None => number(opened.file(), path).map(drop),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A copy of this in a forked child holds nothing and removes nothing.
        if !self.lock.is_ours() {
            return;
        }
        let removed = self.lock.is_at(&self.path) && std::fs::remove_file(&self.path).is_ok();
        if !removed {
            // Who has given up root may not be allowed to. Empty it is recognisably nobody's; if that fails too the
            // lock ends with us, so the number is known to be stale.
            let _ = self.lock.file().and_then(|file| file.set_len(0));
        }
    }
}

/// Why `opened` cannot be locked now; `None`: nobody holds it, or it is not the file of that name any more.
fn refusal(opened: &OpenFile, path: &Path) -> Result<Option<PidFileError>, PidFileError> {
    let holding = opened
        .holder()
        .map_err(|cause| PidFileError::file("look who holds", path, cause))?;
    let Some(holding) = holding.filter(|_| opened.is_at(path)) else {
        return Ok(None);
    };
    let path = path.to_owned();
    Ok(Some(match (holding.exclusive, holding.pid) {
        (true, Some(pid)) => PidFileError::Running { pid, path },
        (true, None) => PidFileError::Elsewhere { path },
        (false, pid) => PidFileError::Blocked {
            pid: pid.unwrap_or_default(),
            path,
        },
    }))
}

/// The number in a PID file; `None`: it is empty. Anything else is not a PID file, and not to be written or removed.
fn number(file: &std::fs::File, path: &Path) -> Result<Option<u32>, PidFileError> {
    let failed = |cause| PidFileError::file("read", path, cause);
    let foreign = |what| PidFileError::Foreign {
        path: path.to_owned(),
        what,
    };
    if file.metadata().map_err(failed)?.nlink() > 1 {
        return Err(foreign("it is also known by another name"));
    }
    let mut content = [0; LONGEST + 1];
    let length = file.read_at(&mut content, 0).map_err(failed)?;
    let text = content.get(..length).unwrap_or_default();
    // Zeros are what a power failure leaves of a file that was being written.
    let is_padding = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    let digits: Vec<u8> = text.iter().copied().filter(|b| !is_padding(b)).collect();
    if length > LONGEST || !digits.iter().all(u8::is_ascii_digit) {
        return Err(foreign("it holds something other than one number"));
    }
    Ok(std::str::from_utf8(&digits)
        .ok()
        .and_then(|digits| digits.parse().ok()))
}

/// Who holds the PID file `path`: the process that has it locked, whatever number stands in it.
///
/// A holder that cannot be seen from here is [`PidFileError::Elsewhere`].
pub fn holder(path: &Path) -> Result<Holder, PidFileError> {
    let opened = match open(path, Access::Look) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(Holder::Absent),
        Err(OpenError::Ours) => return Ok(Holder::Running(std::process::id())),
        Err(error) => return Err(PidFileError::opening(error, path)),
    };
    match refusal(&opened, path)? {
        Some(PidFileError::Running { pid, .. }) => Ok(Holder::Running(pid)),
        Some(PidFileError::Elsewhere { path }) => Err(PidFileError::Elsewhere { path }),
        // A reader's lock makes nobody the holder.
        _ => number(opened.file(), path).map(Holder::Stale),
    }
}

#[cfg(test)]
mod tests;
