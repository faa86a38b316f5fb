//! How many bytes the peer of a loopback connection has received and not read yet.
//!
//! Facts: `/proc/net/tcp` lists every socket with its receive queue; on loopback the peer's socket is there too.

use std::fs;
use std::net::{SocketAddr, TcpStream};

/// Bytes that wait at the other end; 0 where that cannot be known.
#[must_use]
pub fn unread_by_peer(stream: &TcpStream) -> u64 {
    let (Ok(SocketAddr::V4(ours)), Ok(SocketAddr::V4(theirs))) =
        (stream.local_addr(), stream.peer_addr())
    else {
        return 0;
    };
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else {
        return 0;
    };
    let written = |addr: std::net::SocketAddrV4| {
        format!(
            "{:08X}:{:04X}",
            u32::from_ne_bytes(addr.ip().octets()),
            addr.port()
        )
    };
    let (local, remote) = (written(theirs), written(ours));
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, from, to, _, queues, ..] = words[..] else {
                return None;
            };
            let receive = queues.split_once(':')?.1;
            (from == local && to == remote)
                .then(|| u64::from_str_radix(receive, 16).ok())
                .flatten()
        })
        .next()
        .unwrap_or(0)
}
