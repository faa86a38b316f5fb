//! Values read on an ordinary connection, between two positions of every flow.
//!
//! `MULTI` would not make value and position one moment: a real master's positions ran ahead of the value. So positions
//! are read before and after; what lies between is for the flow to judge. Of one key all is asked at once, which leaves
//! least time between: requests of a connection are executed in their order, and `DFLY` among them is never executed
//! beside others.
//! Facts: Dragonfly v1.40.1 answers DUMP of a key that is not there with no value and PEXPIRETIME with -2; its payloads
//! have the form of `RESTORE` (reference, rdb §8). Releases without PEXPIRETIME are asked for PTTL and TIME.

use std::io;
use std::path::Path;

use super::error::SourceError;
use super::handshake::accepted;
use super::monitor::{Monitor, OFFSETS, positions};
use super::reply::Reply;
use super::wire::Piece;
use crate::entry::{Spill, SpillWriter};

/// Bytes of values of one reading that are held in memory; what comes after them goes to files.
const IN_MEMORY: usize = 8 << 20;

/// Values up to this size stay in memory in any case.
const SMALL: usize = 4 << 10;

/// What the source has under a key.
#[derive(Debug)]
pub struct Found {
    /// Type, value, version and checksum, as `RESTORE` takes them. Not checked.
    pub payload: Payload,
    /// Absolute expiry in Unix milliseconds.
    pub expire_at_ms: Option<i64>,
}

/// A serialised value.
#[derive(Debug)]
pub enum Payload {
    /// In memory.
    Inline(Vec<u8>),
    /// In a file without a name.
    Spilled(Spill),
}

impl Payload {
    /// Its bytes.
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Spilled(spill) => spill.len(),
        }
    }
}

/// Values, and where the source stood.
#[derive(Debug)]
pub struct Reading {
    /// By flow, the next entry's LSN before the first value was read.
    pub from: Vec<u64>,
    /// By flow, the next entry's LSN after the last value was read.
    pub to: Vec<u64>,
    /// In the order of the keys; none for a key that is not there.
    pub values: Vec<Option<Found>>,
}

impl Monitor {
    /// Reads values and expiries of keys, each with its database. Large values go to unlinked files in `spill_dir`. Not
    /// cancel safe: drop the monitor then.
    ///
    /// # Errors
    /// Of the connection; `Refused` and `NoPermission` if the source does not give a value away; `Spill` for a file.
    pub async fn read(
        &mut self,
        keys: &[(u32, &[u8])],
        spill_dir: &Path,
    ) -> Result<Reading, SourceError> {
        let alone = keys.len() == 1;
        let offsets: Vec<&[u8]> = vec![b"DFLY", b"REPLICAOFFSET"];
        let mut from = Vec::new();
        if !alone {
            from = self.offsets().await?;
        }
        let absolute = self.knows_pexpiretime;
        let expiry: &[u8] = if absolute { b"PEXPIRETIME" } else { b"PTTL" };
        let mut requests: Vec<Vec<&[u8]>> = Vec::with_capacity(keys.len() * 3);
        let numbers: Vec<String> = keys.iter().map(|(db, _)| db.to_string()).collect();
        if alone {
            requests.push(offsets.clone());
        }
        let mut selects = Vec::with_capacity(keys.len());
        let mut selected = None;
        for ((db, key), number) in keys.iter().zip(&numbers) {
            let select = selected != Some(*db);
            if select {
                requests.push(vec![b"SELECT", number.as_bytes()]);
                selected = Some(*db);
            }
            selects.push(select);
            requests.push(vec![b"DUMP", key]);
            requests.push(vec![expiry, key]);
        }
        if alone {
            requests.push(offsets);
        }
        self.send_all(&requests).await?;
        if alone {
            from = positions(self.next(OFFSETS).await?)?;
        }
        let mut values = Vec::with_capacity(keys.len());
        let mut room = IN_MEMORY;
        let mut unknown = false;
        for select in selects {
            if select {
                self.next("SELECT")
                    .await
                    .and_then(|reply| accepted("SELECT", reply))?;
            }
            let payload = self.payload(&mut room, spill_dir).await?;
            let reply = self.next("PEXPIRETIME").await?;
            if matches!(&reply, Reply::Error(text) if absolute && text.contains("unknown command"))
            {
                unknown = true;
                continue;
            }
            let expiry = expiry_of(accepted("PEXPIRETIME", reply)?)?;
            values.push(found(payload, expiry));
        }
        let mut to = Vec::new();
        if alone {
            to = positions(self.next(OFFSETS).await?)?;
        }
        if unknown {
            self.knows_pexpiretime = false;
            return Box::pin(self.read(keys, spill_dir)).await;
        }
        if !absolute {
            self.make_absolute(&mut values).await?;
        }
        if !alone {
            to = self.offsets().await?;
        }
        Ok(Reading { from, to, values })
    }

    /// For each key of a database, whether the source has it. No position is read: only a [`read`](Self::read) can tell
    /// for sure. Not cancel safe.
    pub async fn exist(&mut self, db: u32, keys: &[Vec<u8>]) -> Result<Vec<bool>, SourceError> {
        let number = db.to_string();
        let mut requests: Vec<Vec<&[u8]>> = vec![vec![b"SELECT", number.as_bytes()]];
        requests.extend(keys.iter().map(|key| vec![&b"EXISTS"[..], key]));
        self.send_all(&requests).await?;
        self.next("SELECT")
            .await
            .and_then(|reply| accepted("SELECT", reply))?;
        let mut there = Vec::with_capacity(keys.len());
        for _ in keys {
            let reply = self
                .next("EXISTS")
                .await
                .and_then(|reply| accepted("EXISTS", reply))?;
            there.push(match reply {
                Reply::Integer(count) => count > 0,
                other => return Err(unexpected("EXISTS", &other)),
            });
        }
        Ok(there)
    }

    /// The reply to a DUMP.
    async fn payload(
        &mut self,
        room: &mut usize,
        spill_dir: &Path,
    ) -> Result<Option<Payload>, SourceError> {
        const REQUEST: &str = "DUMP";
        let within = self.within;
        let Some(len) = self.conn.bulk_begins(REQUEST, within).await? else {
            return Ok(None);
        };
        if len <= SMALL.max(*room) as u64 {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            *room = room.saturating_sub(len);
            let mut bytes = Vec::with_capacity(len);
            while let Piece::Bytes(piece) = self.conn.bulk_piece(REQUEST, within).await? {
                bytes.extend_from_slice(&piece);
            }
            return Ok(Some(Payload::Inline(bytes)));
        }
        let failed = |cause: io::Error| SourceError::SpillRead(cause);
        let mut file = SpillWriter::create_in(spill_dir).map_err(failed)?;
        while let Piece::Bytes(piece) = self.conn.bulk_piece(REQUEST, within).await? {
            tokio::task::block_in_place(|| file.write(&piece)).map_err(failed)?;
        }
        Ok(Some(Payload::Spilled(file.finish())))
    }

    /// Makes times to live absolute, by the source's clock.
    async fn make_absolute(&mut self, values: &mut [Option<Found>]) -> Result<(), SourceError> {
        let now = self.time_ms().await?.unwrap_or_else(crate::entry::unix_ms);
        for found in values.iter_mut().flatten() {
            if let Some(ttl) = &mut found.expire_at_ms {
                *ttl = ttl.saturating_add(now);
            }
        }
        Ok(())
    }
}

/// A value with its expiry. One that expired between the two questions is gone.
fn found(payload: Option<Payload>, expiry: Expiry) -> Option<Found> {
    let expire_at_ms = match expiry {
        Expiry::Gone => return None,
        Expiry::None => None,
        Expiry::At(ms) => Some(ms),
    };
    Some(Found {
        payload: payload?,
        expire_at_ms,
    })
}

enum Expiry {
    Gone,
    None,
    At(i64),
}

fn expiry_of(reply: Reply) -> Result<Expiry, SourceError> {
    match reply {
        Reply::Integer(-2) => Ok(Expiry::Gone),
        Reply::Integer(-1) => Ok(Expiry::None),
        Reply::Integer(ms) if ms >= 0 => Ok(Expiry::At(ms)),
        other => Err(unexpected("PEXPIRETIME", &other)),
    }
}

fn unexpected(request: &'static str, reply: &Reply) -> SourceError {
    SourceError::Unexpected {
        request,
        answer: reply.describe(),
    }
}
