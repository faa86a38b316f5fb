//! Asking a process over its control socket.

use std::io;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::address::ShortDir;

/// Whether somebody listens; `true` where that cannot be told.
pub(super) fn is_listened_to(path: &Path) -> bool {
    !matches!(connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn connect(path: &Path) -> io::Result<Socket> {
    let (_dir, short) = ShortDir::of(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.connect(&SockAddr::unix(short)?)?;
    Ok(socket)
}
