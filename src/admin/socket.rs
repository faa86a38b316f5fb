//! The listening end of the control socket: where it is, who may open it, and that it is gone afterwards.

use std::fs::{self, DirEntry, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::Builder;

use super::Managed;
use super::address::ShortDir;
use super::client::is_listened_to;

/// What the names of control sockets begin with; the PID and something random follow.
const PREFIX: &str = "control.";
/// What they end with once somebody listens.
const SUFFIX: &str = ".sock";
/// And before: a socket of that name may be about to be listened to.
const SUFFIX_BEFORE: &str = ".new";
/// Longer than a name gets: prefix, PID, a dot, six random letters, suffix.
const LONGEST_NAME: usize = 40;

/// Longer than a socket has that name.
const BINDING: Duration = Duration::from_secs(60);

/// Its owner may connect.
const PRIVATE: u32 = 0o600;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on a control socket in {}: {cause}", .dir.display())]
pub struct ControlError {
    dir: PathBuf,
    cause: io::Error,
}

/// The listening end. Dropping it removes the socket, if it is still ours.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    name: Name,
}

/// Its name, to be given back.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    id: FileId,
}

impl ControlSocket {
    /// Makes `<state_dir>/control.<pid>.<random>.sock`, mode 0600 from the first moment, and removes those there that
    /// nobody listens to any more. The directory is there, and nobody else may write in it: whoever holds a task's
    /// lock there has seen to that.
    ///
    /// To be called by the process that stays, as the user it stays. Needs no runtime.
    pub fn bind(state_dir: &Path) -> Result<Self, ControlError> {
        let bound = bind(state_dir);
        let bound = bound.and_then(|bound| remove_deserted(state_dir).map(|()| bound));
        bound.map_err(|cause| ControlError {
            dir: state_dir.to_owned(),
            cause,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.name.path
    }

    /// Answers until dropped, which also removes the socket. Ends by itself, with the error, only where there is no
    /// runtime that could take the socket in.
    pub async fn serve(self, tasks: Vec<Managed>) -> ControlError {
        let Self { listener, name } = self;
        let cause = super::serve::serve(listener, tasks).await;
        ControlError {
            dir: name.path.parent().map(Path::to_owned).unwrap_or_default(),
            cause,
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if FileId::at(&self.path).is_ok_and(|found| found == self.id) {
            // Nobody is left to tell; the next one that binds there removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A name's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn at(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|about| Self {
            device: about.dev(),
            inode: about.ino(),
        })
    }
}

/// Under another name first, so that whoever finds a control socket that nobody listens to may remove it.
fn bind(state_dir: &Path) -> io::Result<ControlSocket> {
    let short = ShortDir::open(state_dir, LONGEST_NAME)?;
    let prefix = format!("{PREFIX}{}.", std::process::id());
    let made = Builder::new()
        .prefix(&prefix)
        .suffix(SUFFIX_BEFORE)
        .make_in(short.path(), listen)?;
    let id = FileId::at(made.path())?;
    let mut name = made.path().with_extension("");
    name.as_mut_os_string().push(SUFFIX);
    // A name that is taken is the one case in which the random letters were not enough.
    let listener = made.persist_noclobber(&name).map_err(|error| error.error)?;
    let name = name.file_name().unwrap_or_default();
    let name = Name {
        path: state_dir.join(name),
        id,
    };
    Ok(ControlSocket { listener, name })
}

/// A socket that is listened to, for nobody but its owner.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file that binding makes takes the socket's own mode, less the umask.
    fchmod(&socket, Mode::from_bits_truncate(PRIVATE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    // And gets back here what a strange umask has taken from its owner.
    fs::set_permissions(path, Permissions::from_mode(PRIVATE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Removes the control sockets that killed processes have left in the directory.
fn remove_deserted(state_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(state_dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_socket() || !is_deserted(&entry) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => {}
            // Another process has just tidied up, or it belongs to somebody else and stays.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether it is a control socket that nobody listens to, nor is about to.
fn is_deserted(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    if !name.starts_with(PREFIX) {
        return false;
    }
    let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
    let is_settled = name.ends_with(SUFFIX)
        || name.ends_with(SUFFIX_BEFORE) && age().is_some_and(|age| age > BINDING);
    is_settled && !is_listened_to(&entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// A socket whose process was killed.
    fn deserted(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        drop(UnixListener::bind(&path).unwrap());
        path
    }

    #[test]
    fn the_socket_is_private_named_after_its_process_and_removed_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let socket = ControlSocket::bind(dir.path()).unwrap();
        let name = socket.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("control.{}.", std::process::id())));
        assert!(name.ends_with(".sock") && name.len() <= LONGEST_NAME);
        assert_eq!(names(dir.path()), [name]);
        let mode = fs::metadata(socket.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn only_what_is_still_ours_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = ControlSocket::bind(dir.path()).unwrap();
        let path = socket.path().to_owned();
        fs::remove_file(&path).unwrap();
        symlink("elsewhere", &path).unwrap();
        drop(socket);
        assert_eq!(names(dir.path()).len(), 1);
    }

    #[test]
    fn deserted_sockets_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let used = ControlSocket::bind(dir).unwrap();
        deserted(dir, "control.1.aaaaaa.sock");
        let old = deserted(dir, "control.1.bbbbbb.new");
        let day = nix::sys::time::TimeSpec::new(86_400, 0);
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            &old,
            &day,
            &day,
            nix::sys::stat::UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
        assert!(old.metadata().unwrap().modified().unwrap() < SystemTime::now() - BINDING);
        // Its process may be about to listen.
        deserted(dir, "control.1.cccccc.new");
        deserted(dir, "other.sock");
        fs::write(dir.join("control.1.dddddd.sock"), "precious").unwrap();
        let new = ControlSocket::bind(dir).unwrap();
        let name = |socket: &ControlSocket| {
            let name = socket.path().file_name().unwrap();
            name.to_str().unwrap().to_owned()
        };
        let mut left = vec![
            name(&used),
            name(&new),
            "control.1.cccccc.new".to_owned(),
            "control.1.dddddd.sock".to_owned(),
            "other.sock".to_owned(),
        ];
        left.sort();
        assert_eq!(names(dir), left);
    }

    #[test]
    fn a_directory_that_is_not_there_is_said() {
        let refused = ControlSocket::bind(Path::new("/nowhere")).unwrap_err();
        let text = refused.to_string();
        let expected = "cannot listen on a control socket in /nowhere: ";
        assert!(text.starts_with(expected), "{text}");
    }
}
