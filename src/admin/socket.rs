//! The listening end of the control socket: where it is, who may open it, and that it is gone afterwards.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

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
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        if is_ours && entry.file_type()?.is_socket() && !is_listened_to(&entry.path()) {
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
    }
    Ok(())
}
