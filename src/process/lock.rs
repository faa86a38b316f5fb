//! One process for each task: a lock in the task's state directory, and how others find who holds it.
//!
//! The lock is the kernel's, so it ends with the process however that ends, and the kernel tells who holds it. The file
//! stays behind. Its content, line by line: the PID of the last holder; once known, the path of its control socket.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::record_lock::{Access, OpenError, OpenFile, RecordLock, Taken, open};

/// What the names of lock files end with.
const SUFFIX: &str = ".lock";

/// Longer than a PID and a path can be.
const LONGEST: usize = 8192;

/// How often a lock is tried for whose holder lets go each time before it can be named.
const ATTEMPTS: u32 = 100;

/// The right to run one task, until dropped. Neither children nor what is executed inherit it.
#[derive(Debug)]
pub struct TaskLock {
    lock: RecordLock,
    path: PathBuf,
}

/// Who runs a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskHolder {
    /// `None`: a process that cannot be seen from here, in another PID namespace or on another machine.
    pub pid: Option<u32>,
    /// Its control socket; `None`: it has none, or not yet.
    pub control: Option<PathBuf>,
}

/// Why a task cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody runs the task.
    #[error("task {task} is already running{}\nits lock is {}", pid_text(*.pid), .path.display())]
    Held {
        /// The task.
        task: String,
        /// Who runs it; `None`: a process that cannot be seen from here.
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
    /// Others could change what is in the state directory, or whom they find there.
    #[error("cannot use the state directory {}: {what}\n{remedy}", .path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// How it shows.
        what: String,
        /// What to do.
        remedy: &'static str,
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

fn lock_path(state_dir: &Path, task: &str) -> PathBuf {
    state_dir.join(format!("{task}{SUFFIX}"))
}

impl TaskLock {
    /// Locks `<state_dir>/<task>.lock`, at once or not at all. Directory (0700) and file (0600) are created as
    /// needed; a symbolic link in place of the file is not followed, and a directory or file of somebody other than
    /// this user or root is refused, as is a directory where others may write.
    ///
    /// To be called by the process that stays, as the user it stays: a child made by fork does not hold the lock.
    pub fn acquire(state_dir: &Path, task: &str) -> Result<Self, LockError> {
        let mut builder = DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(state_dir);
        let about = created.and_then(|()| fs::metadata(state_dir));
        let about = about.map_err(|cause| LockError::Directory {
            path: state_dir.to_owned(),
            cause,
        })?;
        trusted(state_dir, about.uid(), about.mode())?;
        let path = lock_path(state_dir, task);
        let failed = |cause| LockError::File {
            path: path.clone(),
            cause,
        };
        let lock = take(&path, task)?;
        let owner = lock.file().and_then(File::metadata).map_err(failed)?.uid();
        // In a directory such as /tmp anybody can have made it.
        if !is_trusted(owner) {
            let foreign = io::Error::other(format!("it belongs to user {owner}"));
            return Err(failed(foreign));
        }
        let locked = Self {
            lock,
            path: path.clone(),
        };
        locked.write(&[]).map_err(failed)?;
        Ok(locked)
    }

    /// Has others find the control socket of this process by its task.
    pub fn announce(&mut self, control_socket: &Path) -> Result<(), LockError> {
        let name = control_socket.as_os_str().as_bytes();
        let written = match name.contains(&b'\n') {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path of the control socket has a line break",
            )),
            false => self.write(name),
        };
        written.map_err(|cause| LockError::File {
            path: self.path.clone(),
            cause,
        })
    }

    /// The content: our PID, and the control socket's path if there is one. Readers trust only lines that are
    /// whole, and the second only below the holder's PID.
    fn write(&self, control: &[u8]) -> io::Result<()> {
        let mut content = format!("{}\n", std::process::id()).into_bytes();
        if !control.is_empty() {
            content.extend_from_slice(control);
            content.push(b'\n');
        }
        let file = self.lock.file()?;
        file.set_len(0)?;
        file.write_all_at(&content, 0)
    }
}

/// Whether what this user owns is as good as ours.
fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == geteuid().as_raw()
}

/// Refuses a state directory of somebody else, or in which somebody else could replace files.
fn trusted(state_dir: &Path, owner: u32, mode: u32) -> Result<(), LockError> {
    let refused = |what, remedy| LockError::Unsafe {
        path: state_dir.to_owned(),
        what,
        remedy,
    };
    if !is_trusted(owner) {
        return Err(refused(
            format!("it belongs to user {owner}"),
            "give it to the user that runs the task, or run the task as that user",
        ));
    }
    // Where the sticky bit is set only the owner of a file may remove or rename it.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(refused(
            format!("others may write there (mode {:03o})", mode & 0o777),
            "chmod go-w it, or name a directory below it, which is then made private",
        ));
    }
    Ok(())
}

fn take(path: &Path, task: &str) -> Result<RecordLock, LockError> {
    let failed = |cause| LockError::File {
        path: path.to_owned(),
        cause,
    };
    let held = |pid| LockError::Held {
        task: task.to_owned(),
        pid,
        path: path.to_owned(),
    };
    for _ in 0..ATTEMPTS {
        let opened = match open(path, Access::Create(0o600)) {
            Ok(Some(opened)) => opened,
            Ok(None) => continue,
            Err(OpenError::Ours) => return Err(held(Some(std::process::id()))),
            Err(OpenError::NotAFile) => {
                return Err(LockError::NotAFile {
                    path: path.to_owned(),
                });
            }
            Err(OpenError::Failed(cause)) => return Err(failed(cause)),
        };
        match opened.lock().map_err(failed)? {
            Taken::Yes(lock) if lock.is_at(path) => return Ok(lock),
            // Somebody removed it meanwhile.
            Taken::Yes(_) => {}
            Taken::No(opened) => {
                // None: the holder has just let go.
                if let Some(holding) = opened.holder().map_err(failed)? {
                    return Err(held(holding.pid));
                }
            }
        }
    }
    Err(failed(io::Error::other(
        "it is taken and left all the time",
    )))
}

/// Who runs the task; `None`: nobody. Disturbs neither whoever runs it nor whoever is about to.
pub fn task_holder(state_dir: &Path, task: &str) -> io::Result<Option<TaskHolder>> {
    let path = lock_path(state_dir, task);
    match open(&path, Access::Look) {
        Ok(Some(opened)) => look(&opened),
        Ok(None) => Ok(None),
        // Our own file must not even be opened beside the lock; the other process that asks can be told more.
        Err(OpenError::Ours) => Ok(Some(TaskHolder {
            pid: Some(std::process::id()),
            control: None,
        })),
        Err(OpenError::NotAFile) => Err(io::Error::other(format!(
            "{} is not a regular file",
            path.display()
        ))),
        Err(OpenError::Failed(cause)) => Err(cause),
    }
}

fn look(opened: &OpenFile) -> io::Result<Option<TaskHolder>> {
    let Some(holding) = opened.holder()?.filter(|holding| holding.exclusive) else {
        return Ok(None);
    };
    let mut content = vec![0; LONGEST];
    let length = opened.file().read_at(&mut content, 0)?;
    content.truncate(length);
    Ok(Some(TaskHolder {
        pid: holding.pid,
        control: control(&content, holding.pid),
    }))
}

/// The control socket's path, if this is what the holder has written, and has written whole.
fn control(content: &[u8], holder: Option<u32>) -> Option<PathBuf> {
    let mut lines = content.split_inclusive(|byte| *byte == b'\n');
    let pid = std::str::from_utf8(lines.next()?).ok()?;
    let pid: u32 = pid.strip_suffix('\n')?.parse().ok()?;
    let path = lines.next()?.strip_suffix(b"\n")?;
    // Whoever cannot be seen has another number there than here.
    let is_holders = holder.is_none_or(|holder| holder == pid);
    is_holders.then(|| PathBuf::from(OsStr::from_bytes(path)))
}

/// The control socket of the process `pid`, found by the task locks that it holds; `None`: it holds none, or has no
/// control socket. Only root and the process's own user may look.
pub fn control_of(pid: u32) -> io::Result<Option<PathBuf>> {
    let descriptors = PathBuf::from(format!("/proc/{pid}/fd"));
    for descriptor in fs::read_dir(descriptors)? {
        let descriptor = descriptor?.path();
        let name = match fs::read_link(&descriptor) {
            Ok(name) => name,
            // To list them takes the right user, to see what they are the right group, too.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // It is closed by now.
            Err(_) => continue,
        };
        if !name.as_os_str().as_bytes().ends_with(SUFFIX.as_bytes()) {
            continue;
        }
        // By its name here; where the process sees other files under that name, its lock is not found on this one.
        let Ok(Some(opened)) = open(&name, Access::Look) else {
            continue;
        };
        match look(&opened) {
            Ok(Some(found)) if found.pid == Some(pid) && found.control.is_some() => {
                return Ok(found.control);
            }
            _ => {}
        }
    }
    Ok(None)
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
