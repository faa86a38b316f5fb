//! One connection: requests in, replies out, and how it ends.
//!
//! Invariants: requests are answered in order; what the peer did to end the connection (an orderly end or a
//!   reset) is told from what we did ourselves.
//! Facts: inline requests and RESP arrays are both accepted on every connection.

use super::commands::Peer;
use super::faults::Met;
use super::hub::Hub;
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a read waits before it is looked whether the connection is still wanted.
const LOOK_AROUND: Duration = Duration::from_millis(50);
/// How long we wait for the peer's end after ours.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes a request may have.
const REQUEST_BYTES: usize = 600 << 20;

/// A connection that several threads share.
pub struct Conn {
    /// Its socket.
    pub stream: TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    closing: AtomicBool,
    reset: AtomicBool,
}

impl Conn {
    /// A connection that was just accepted.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_AROUND))?;
        let peer = stream.peer_addr()?;
        Ok(Self {
            stream,
            peer,
            closing: AtomicBool::new(false),
            reset: AtomicBool::new(false),
        })
    }

    /// Makes [`Conn::close`] reset the connection instead of ending it in order.
    pub fn will_reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
    }

    /// Ends our side. The reading thread then waits for the peer's end.
    pub fn close(&self) {
        if self.closing.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.reset.load(Ordering::SeqCst) {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        } else {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }
}

/// Serves a connection until it ends.
pub fn serve(hub: &Arc<Hub>, conn: &Arc<Conn>) {
    let mut peer = Peer::new(hub, conn);
    let ended = read_requests(hub, conn, &mut peer);
    if let Err(error) = ended
        && error.kind() == io::ErrorKind::ConnectionReset
        && !conn.closing()
    {
        peer.reset();
    }
    peer.gone();
    conn.close();
    if !conn.reset.load(Ordering::SeqCst) {
        drain(conn);
    }
}

fn read_requests(hub: &Arc<Hub>, conn: &Arc<Conn>, peer: &mut Peer<'_>) -> io::Result<()> {
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let mut chunk = vec![0; 64 << 10];
    loop {
        let mut used = 0;
        while let Some((request, taken)) = parse(input.get(used..).unwrap_or_default())? {
            used += taken;
            if request.is_empty() {
                continue;
            }
            match hub.meet(&request) {
                None => peer.answer(&request, &mut output),
                Some(Met::Line(line)) => output.extend_from_slice(format!("{line}\r\n").as_bytes()),
                Some(Met::Nothing) => {}
                Some(Met::Close) => return Ok(()),
            }
            if output.len() > 1 << 20 {
                send(conn, &mut output)?;
            }
            if peer.quits() {
                return send(conn, &mut output);
            }
        }
        input.drain(..used);
        send(conn, &mut output)?;
        match (&conn.stream).read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => input.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            // What was sent before this side closed still counts: the last acknowledgements.
            Err(error) if patient(&error) && conn.closing() => return Ok(()),
            Err(error) if patient(&error) => {}
            Err(error) => return Err(error),
        }
        if hub.stopping() {
            return Ok(());
        }
    }
}

fn patient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Writes what is to be answered, with patience for a peer that reads slowly.
pub(super) fn send(conn: &Conn, output: &mut Vec<u8>) -> io::Result<()> {
    let mut rest = output.as_slice();
    while !rest.is_empty() {
        match (&conn.stream).write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(error) if patient(&error) && !conn.closing() => {}
            Err(error) => return Err(error),
        }
    }
    output.clear();
    Ok(())
}

/// Reads until the peer ends too, so that our end is an end and not a reset.
fn drain(conn: &Conn) {
    let started = Instant::now();
    let mut sink = [0; 4096];
    while started.elapsed() < LINGER {
        match (&conn.stream).read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if patient(&error) => {}
            Err(_) => return,
        }
    }
}

/// A request: its words, and the bytes they took.
type Request = (Vec<Vec<u8>>, usize);

/// The first request of these bytes; `None` when it is not whole yet.
fn parse(input: &[u8]) -> io::Result<Option<Request>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let Some((line, mut at)) = line_at(input, 0) else {
        return Ok(None);
    };
    let Some(count) = line.strip_prefix(b"*") else {
        let words = line
            .split(|byte| *byte == b' ')
            .filter(|word| !word.is_empty());
        return Ok(Some((words.map(<[u8]>::to_vec).collect(), at)));
    };
    let count = number(count).ok_or_else(invalid)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let Some((line, next)) = line_at(input, at) else {
            return Ok(None);
        };
        let len = line
            .strip_prefix(b"$")
            .and_then(number)
            .filter(|len| *len <= REQUEST_BYTES)
            .ok_or_else(invalid)?;
        let Some(word) = input.get(next..next + len) else {
            return Ok(None);
        };
        if input.len() < next + len + 2 {
            return Ok(None);
        }
        words.push(word.to_vec());
        at = next + len + 2;
    }
    Ok(Some((words, at)))
}

fn line_at(input: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let rest = input.get(from..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), from + end + 1))
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
