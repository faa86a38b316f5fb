//! Sockets by paths of any length.
//!
//! A socket address holds 107 bytes. A longer path is reached through its directory: opened, it has a short name under
//! `/proc/self/fd`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

/// The longest path that fits a socket address, less the byte that ends it.
const LONGEST: usize = 107;

/// A directory under a name so short that, with the name of a socket in it, it fits a socket address.
#[derive(Debug)]
pub(super) struct ShortDir {
    path: PathBuf,
    /// Keeps the short name valid, where it is not the directory's own.
    _open: Option<File>,
}

impl ShortDir {
    /// For sockets in `dir` whose names have at most `name` bytes.
    pub(super) fn open(dir: &Path, name: usize) -> io::Result<Self> {
        if dir.as_os_str().len() + 1 + name <= LONGEST {
            return Ok(Self {
                path: dir.to_owned(),
                _open: None,
            });
        }
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(dir)?;
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())),
            _open: Some(open),
        })
    }

    /// The directory of the socket `path`, and the short path of that socket.
    pub(super) fn of(path: &Path) -> io::Result<(Self, PathBuf)> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path names no file",
            ));
        };
        let short = Self::open(dir, name.len())?;
        let path = short.path.join(name);
        Ok((short, path))
    }

    /// The directory's short name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
