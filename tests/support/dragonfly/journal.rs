//! Writing to the simulated master's journal.
//!
//! Invariants: an entry goes to the flow that owns its first key; a global command goes to every flow with one
//!   transaction id, and no other entry lies between its copies.

use super::encode::{OP_COMMAND, OP_PING, OP_SELECT, command_entry, packed};
use super::hub::Hub;
use super::shard::ShardState;
use super::snapshot::key_hash;
use std::sync::MutexGuard;
use std::time::Instant;

/// What goes with a command into the journal.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// The opcode.
    pub op: u8,
    /// The database.
    pub db: u32,
    /// The transaction id; 0 for single-shard commands.
    pub txid: u64,
    /// How many shards the transaction touches.
    pub shards: u64,
}

impl Stamp {
    /// A command that touches one shard.
    #[must_use]
    pub fn single(db: u32) -> Self {
        Self {
            op: OP_COMMAND,
            db,
            txid: 0,
            shards: 1,
        }
    }

    /// A command that belongs to a transaction.
    #[must_use]
    pub fn of(db: u32, txid: u64, shards: usize) -> Self {
        Self {
            op: OP_COMMAND,
            db,
            txid,
            shards: shards as u64,
        }
    }
}

impl Hub {
    /// The flow that owns a key.
    #[must_use]
    pub fn flow_of(&self, key: &[u8]) -> usize {
        self.options.framing.flow_of(key, self.shards.len())
    }

    /// Appends a command to a flow's journal, once the flow has room; answers its position, or 0 when there is no
    /// journal yet because no replica has ever come.
    pub fn journal_on<A: AsRef<[u8]>>(&self, flow: usize, stamp: Stamp, args: &[A]) -> u64 {
        let mut entry = Vec::with_capacity(64);
        let shards = if self.options.release.counts_shards() {
            stamp.shards
        } else {
            1
        };
        command_entry(stamp.op, stamp.db, stamp.txid, shards, args, &mut entry);
        let mut state = self.room_on(flow);
        let hashes = Self::hashes(&state, args);
        state.append(&entry, &hashes, Instant::now()).unwrap_or(0)
    }

    /// Appends a command to every flow's journal at one moment; answers the positions.
    pub fn journal_global<A: AsRef<[u8]>>(&self, db: u32, args: &[A]) -> Vec<u64> {
        let stamp = Stamp::of(db, self.next_txid(), self.shards.len());
        let shards = if self.options.release.counts_shards() {
            stamp.shards
        } else {
            1
        };
        let mut entry = Vec::new();
        command_entry(stamp.op, stamp.db, stamp.txid, shards, args, &mut entry);
        self.everywhere(&entry)
    }

    /// Appends a PING to every flow's journal.
    pub fn ping(&self) -> Vec<u64> {
        let mut entry = Vec::new();
        if self.options.release.selects_before_ping() {
            entry.push(OP_SELECT);
            packed(0, &mut entry);
        }
        entry.push(OP_PING);
        self.everywhere(&entry)
    }

    /// Appends an entry of many that were encoded beforehand; `ends` are their ends in `bytes`. Room is looked for
    /// once in a while, so that it costs little per entry; answers the position after the last one.
    pub fn journal_prepared(&self, flow: usize, bytes: &[u8], ends: &[usize]) -> u64 {
        let mut start = 0;
        let mut state = self.room_on(flow);
        let mut since_look = 0;
        let mut now = Instant::now();
        for end in ends {
            if since_look > 16 << 10 {
                drop(state);
                state = self.room_on(flow);
                since_look = 0;
                now = Instant::now();
            }
            state.append(bytes.get(start..*end).unwrap_or_default(), &[], now);
            since_look += end - start;
            start = *end;
        }
        state.ring.next()
    }

    fn everywhere(&self, entry: &[u8]) -> Vec<u64> {
        (0..self.shards.len()).for_each(|flow| drop(self.room_on(flow)));
        let mut states: Vec<MutexGuard<'_, ShardState>> =
            self.shards.iter().map(super::shard::Shard::lock).collect();
        let now = Instant::now();
        states
            .iter_mut()
            .map(|state| state.append(entry, &[], now).unwrap_or(0))
            .collect()
    }

    /// A flow's shard once it has room.
    fn room_on(&self, flow: usize) -> MutexGuard<'_, ShardState> {
        let options = &self.options;
        self.shards[flow].lock_with_room(
            options.output_limit,
            options.replication_timeout,
            |session| {
                self.drop_session(session, "its output was full for too long");
            },
        )
    }

    /// The hashes of all words, any of which may be a key, while a snapshot wants to know.
    fn hashes<A: AsRef<[u8]>>(state: &ShardState, args: &[A]) -> Vec<u64> {
        let snapshot = state
            .links
            .iter()
            .any(|link| link.phase == super::link::Phase::Snapshot);
        if snapshot {
            args.iter()
                .skip(1)
                .map(|arg| key_hash(arg.as_ref()))
                .collect()
        } else {
            Vec::new()
        }
    }
}
