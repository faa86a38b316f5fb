//! Encoded commands, sent to a server as fast as it takes them.

use crate::support::client::encode_request;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// The commands of one connection, one after the other.
#[derive(Default, Clone)]
pub struct Lane {
    /// As they go over the wire.
    pub bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    pub ends: Vec<usize>,
}

impl Lane {
    /// Adds a command that is answered with one line.
    pub fn push<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        encode_request(args, &mut self.bytes);
        self.ends.push(self.bytes.len());
    }
}

/// Sends each lane over a connection of its own; answers the time until every command is answered.
///
/// # Errors
/// When a connection fails, or a command is answered with an error.
pub fn blast(port: u16, lanes: &[Lane]) -> io::Result<Duration> {
    let streams = lanes
        .iter()
        .map(|_| connect(port))
        .collect::<io::Result<Vec<TcpStream>>>()?;
    let start = Barrier::new(lanes.len() + 1);
    std::thread::scope(|scope| {
        let mut drains = Vec::new();
        for (lane, stream) in lanes.iter().zip(&streams) {
            let start = &start;
            scope.spawn(move || {
                let mut stream = stream;
                start.wait();
                if stream.write_all(&lane.bytes).is_err() {
                    // The reading side then ends too, and says why.
                    let _ = stream.shutdown(Shutdown::Both);
                }
            });
            drains.push(scope.spawn(move || drain(stream, lane.ends.len())));
        }
        start.wait();
        let started = Instant::now();
        for drain in drains {
            drain
                .join()
                .map_err(|_| io::Error::other("a reader panicked"))??;
        }
        Ok(started.elapsed())
    })
}

/// A connection to a port of 127.0.0.1.
///
/// # Errors
/// When nothing listens there.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads so many replies of one line each.
///
/// # Errors
/// When one of them is an error, or the connection ends before.
pub fn drain(mut stream: &TcpStream, replies: usize) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let (mut left, mut at_start) = (replies, true);
    while left > 0 {
        let read = stream.read(&mut buffer)?;
        let bytes = buffer.get(..read).filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        if at_start && bytes.starts_with(b"-") {
            return Err(refused(bytes));
        }
        for end in memchr::memchr_iter(b'\n', bytes) {
            left = left.saturating_sub(1);
            let next = bytes.get(end + 1..).unwrap_or_default();
            if next.starts_with(b"-") {
                return Err(refused(next));
            }
        }
        at_start = bytes.ends_with(b"\n");
    }
    Ok(())
}

fn refused(reply: &[u8]) -> io::Error {
    let line = reply
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    io::Error::other(format!("a command was refused: {}", line.escape_ascii()))
}
