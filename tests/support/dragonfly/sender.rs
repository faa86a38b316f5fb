//! The thread that writes one flow to its connection.
//!
//! Invariants: it alone writes to the connection after the `DFLY FLOW` reply; what the kernel took is counted
//!   at once; a snapshot write that hangs for `replication_timeout` drops the session.

use super::connection::Conn;
use super::faults::Strike;
use super::hub::Hub;
use super::link::Work;
use bytes::Bytes;
use std::io::{self, IoSlice, Write};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How long one write may hang before it is looked whether the flow is still wanted.
const LOOK_AROUND: Duration = Duration::from_millis(50);
/// Slices handed to one system call.
const SLICES: usize = 64;

/// Writes a flow until it ends.
pub fn run(hub: &Hub, shard: usize, link: u64, conn: &Conn) {
    let sender = Sender {
        hub,
        shard,
        link,
        conn,
    };
    if conn.stream.set_write_timeout(Some(LOOK_AROUND)).is_ok() {
        sender.run();
    }
}

struct Sender<'a> {
    hub: &'a Hub,
    shard: usize,
    link: u64,
    conn: &'a Conn,
}

impl Sender<'_> {
    fn run(&self) {
        loop {
            let sent = match self.next() {
                Work::Bytes(bytes, counted) => self.send(&bytes, counted),
                Work::End(bytes) => {
                    let sent = self.send(&[bytes], false);
                    if let Some(link) = self.hub.shards[self.shard].lock().link(self.link) {
                        link.end_at = Some(link.written);
                    }
                    sent
                }
                Work::Wait(_) => Ok(()),
                Work::Stop => return,
            };
            if sent.is_err() {
                self.hub
                    .drop_session_of(self.shard, self.link, "a flow could not be written");
                return;
            }
        }
    }

    /// Waits for something to do.
    fn next(&self) -> Work {
        let mut state = self.hub.shards[self.shard].lock();
        loop {
            let Some(link) = state.link(self.link) else {
                return Work::Stop;
            };
            let wake = Arc::clone(&link.wake);
            match link.work() {
                Work::Wait(None) => {
                    state = wake.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
                Work::Wait(Some(moment)) => {
                    let (woken, timeout) = wake
                        .wait_timeout(state, moment)
                        .unwrap_or_else(PoisonError::into_inner);
                    state = woken;
                    if timeout.timed_out()
                        && let Some(link) = state.link(self.link)
                        && link.gathered()
                    {
                        return link.take_tail();
                    }
                }
                work => return work,
            }
        }
    }

    fn send(&self, bytes: &[Bytes], counted: bool) -> io::Result<()> {
        if self.hub.faulty() {
            return bytes
                .iter()
                .try_for_each(|part| self.send_faultily(part, counted));
        }
        for group in bytes.chunks(SLICES) {
            let mut slices: Vec<IoSlice<'_>> =
                group.iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                let taken = self.write(rest, counted)?;
                IoSlice::advance_slices(&mut rest, taken);
            }
        }
        Ok(())
    }

    /// One write that takes at least a byte, however long it hangs while the flow is wanted.
    fn write(&self, slices: &[IoSlice<'_>], counted: bool) -> io::Result<usize> {
        let started = Instant::now();
        loop {
            let mut stream = &self.conn.stream;
            match stream.write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    self.count(taken, counted)?;
                    return Ok(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    self.still_wanted(started)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn count(&self, taken: usize, counted: bool) -> io::Result<()> {
        let mut state = self.hub.shards[self.shard].lock();
        let Some(link) = state.link(self.link) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let before = link.unsent;
        link.took(taken, counted);
        let limit = self.hub.options.output_limit;
        let made_room = before >= limit && link.unsent < limit;
        drop(state);
        if made_room {
            self.hub.shards[self.shard].room_made();
        }
        Ok(())
    }

    /// Fails when the flow is over, or hangs in its snapshot for too long.
    fn still_wanted(&self, since: Instant) -> io::Result<()> {
        let mut state = self.hub.shards[self.shard].lock();
        let stable = match state.link(self.link) {
            None => return Err(io::ErrorKind::NotConnected.into()),
            Some(link) => link.phase == super::link::Phase::Stable,
        };
        if !stable && since.elapsed() >= self.hub.options.replication_timeout {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Sends with whatever goes wrong on this flow.
    fn send_faultily(&self, bytes: &Bytes, counted: bool) -> io::Result<()> {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let at = self.written()?;
            let strikes = self.hub.faults().strikes(self.shard);
            let mut piece = rest.len().min(64 << 10);
            let mut slow = None;
            let mut changed = None;
            for strike in strikes {
                match strike {
                    Strike::End { at: end, .. } | Strike::Stall { at: end } if end > at => {
                        piece = piece.min(to_len(end - at))
                    }
                    Strike::End { reset, .. } => return self.end(strike, reset),
                    Strike::Stall { .. } => piece = 0,
                    Strike::Corrupt { at: place, xor } if place >= at => {
                        changed = Some((place, xor, strike));
                    }
                    Strike::Corrupt { .. } => {}
                    Strike::Slow { bytes_per_second } => {
                        piece = piece.min(to_len(bytes_per_second / 100).max(1));
                        slow = Some(bytes_per_second);
                    }
                }
            }
            if piece == 0 {
                self.still_wanted(Instant::now())?;
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            let mut now = rest.split_to(piece).to_vec();
            if let Some((place, xor, strike)) = changed
                && let Some(byte) = now.get_mut(to_len(place - at))
            {
                *byte ^= xor;
                self.hub.faults().spend(self.shard, strike);
            }
            self.send_slice(&now, counted)?;
            if let Some(rate) = slow {
                std::thread::sleep(Duration::from_secs_f64(piece as f64 / rate.max(1) as f64));
            }
        }
        Ok(())
    }

    fn send_slice(&self, mut bytes: &[u8], counted: bool) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.write(&[IoSlice::new(bytes)], counted)?;
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    fn written(&self) -> io::Result<u64> {
        let mut state = self.hub.shards[self.shard].lock();
        state
            .link(self.link)
            .map(|link| link.written)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn end(&self, strike: Strike, reset: bool) -> io::Result<()> {
        self.hub.faults().spend(self.shard, strike);
        if reset {
            self.conn.will_reset();
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

fn to_len(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
