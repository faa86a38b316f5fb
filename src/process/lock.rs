//! One process for each task: a lock in the task's state directory.
//!
//! The lock is the kernel's (flock), so it ends with the process however that ends. The file stays behind; its
//! content, the PID of the last holder, only serves the message to whoever is refused.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

/// How often, and how far apart, a holder's PID is looked for that it has not written yet.
const PID_ATTEMPTS: u32 = 20;
const PID_PAUSE: Duration = Duration::from_millis(5);

/// The right to run one task, until dropped. Nobody inherits it through exec.
#[derive(Debug)]
pub struct TaskLock {
    /// Open as long as the lock is held.
    _file: File,
}

/// Why a task cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody runs the task.
    #[error("task {task} is already running{}\nits lock is {}", pid_text(*.pid), .path.display())]
    Held {
        /// The task.
        task: String,
        /// Who runs it, as far as the lock file says.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// The state directory cannot be made.
    #[error("cannot create the state directory {}: {cause}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The lock file cannot be opened, locked or written.
    #[error("cannot lock {}: {cause}", .path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// Something else has the lock file's name: a symbolic link, a directory, a device.
    #[error("cannot lock {}: it is not a regular file\nremove it and start again", .path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(", PID {pid}")).unwrap_or_default()
}

impl TaskLock {
    /// Locks `<state_dir>/<task>.lock`, at once or not at all. Directory (0700) and file (0600) are created as
    /// needed; a symbolic link in place of the file is not followed.
    pub fn acquire(state_dir: &Path, task: &str) -> Result<Self, LockError> {
        let mut builder = DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(state_dir);
        created.map_err(|cause| LockError::Directory {
            path: state_dir.to_owned(),
            cause,
        })?;
        let path = state_dir.join(format!("{task}.lock"));
        let failed = |cause| LockError::File {
            path: path.clone(),
            cause,
        };
        let mut file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    task: task.to_owned(),
                    pid: holder(&mut file),
                    path,
                });
            }
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    let not_a_file = || LockError::NotAFile {
        path: path.to_owned(),
    };
    let failed = |cause| LockError::File {
        path: path.to_owned(),
        cause,
    };
    // O_NONBLOCK: opening must not wait for the other end of a FIFO with that name.
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|cause| match cause.raw_os_error() {
        Some(libc::ELOOP | libc::EISDIR) => not_a_file(),
        _ => failed(cause),
    })?;
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(file),
        false => Err(not_a_file()),
    }
}

/// The PID in a lock file that somebody holds: written right after locking, so perhaps not yet there.
fn holder(file: &mut File) -> Option<u32> {
    for _ in 0..PID_ATTEMPTS {
        let mut text = String::new();
        // No PID has more digits than this.
        file.take(16).read_to_string(&mut text).ok()?;
        if let Some(pid) = text.strip_suffix('\n') {
            return pid.parse().ok();
        }
        std::thread::sleep(PID_PAUSE);
        io::Seek::rewind(file).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_holder_is_refused_with_the_firsts_pid_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        let first = TaskLock::acquire(&state, "orders").unwrap();
        let _other_task = TaskLock::acquire(&state, "users").unwrap();
        let refused = TaskLock::acquire(&state, "orders").unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "task orders is already running, PID {}\nits lock is {}/orders.lock",
                std::process::id(),
                state.display()
            )
        );
        drop(first);
        TaskLock::acquire(&state, "orders").unwrap();
    }

    #[test]
    fn directory_and_lock_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let _lock = TaskLock::acquire(&state, "orders").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join("orders.lock")), 0o600);
    }

    #[test]
    fn a_symbolic_link_is_not_followed_and_its_end_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("orders.lock")).unwrap();
        let refused = TaskLock::acquire(dir.path(), "orders").unwrap_err();
        assert!(matches!(refused, LockError::NotAFile { .. }), "{refused}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_fifo_or_a_directory_in_place_of_the_lock_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo.lock");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::create_dir(dir.path().join("dir.lock")).unwrap();
        for task in ["fifo", "dir"] {
            let refused = TaskLock::acquire(dir.path(), task).unwrap_err();
            assert!(matches!(refused, LockError::NotAFile { .. }), "{refused}");
        }
    }

    #[test]
    fn the_pid_of_a_longer_past_holder_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.lock");
        std::fs::write(&path, "4194304\nand more\n").unwrap();
        let _lock = TaskLock::acquire(dir.path(), "orders").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
