//! One shard of the simulated master: its journal, its ring, its replicas, and the writers it holds up.
//!
//! Invariants: positions move by one per entry; an entry reaches the ring and every replica under one lock, so
//!   that all see the same order; a writer waits while any replica has `output_limit` bytes unsent.

use super::link::{Link, Phase};
use super::ring::Ring;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Writers that were held up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockedWrites {
    /// How many writes had to wait.
    pub count: u64,
    /// How long all of them together waited.
    pub total: Duration,
    /// How long the longest waited.
    pub longest: Duration,
}

/// What a shard's lock protects.
pub struct ShardState {
    /// The journal's last entries and its next position.
    pub ring: Ring,
    /// Whether a replica has ever come: only then is there a journal.
    pub running: bool,
    /// The replicas.
    pub links: Vec<Link>,
    /// The last acknowledged position, of whatever session.
    pub acked: Option<u64>,
    /// Set when the simulator ends: nobody waits any more.
    pub stopping: bool,
    blocked: BlockedWrites,
}

/// One shard.
pub struct Shard {
    state: Mutex<ShardState>,
    room: Condvar,
}

impl Shard {
    /// A shard whose first entry will have the position `next`.
    #[must_use]
    pub fn new(ring: u64, next: u64) -> Self {
        let (ring, blocked) = (Ring::new(ring, next), BlockedWrites::default());
        let state = ShardState {
            ring,
            running: false,
            links: Vec::new(),
            acked: None,
            stopping: false,
            blocked,
        };
        Self {
            state: Mutex::new(state),
            room: Condvar::new(),
        }
    }

    /// Its state, also after a panic elsewhere.
    pub fn lock(&self) -> MutexGuard<'_, ShardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its state once no replica has `limit` bytes unsent. A session that leaves no room for `timeout` is handed
    /// to `drop_session`, as the real master drops it.
    pub fn lock_with_room(
        &self,
        limit: usize,
        timeout: Duration,
        drop_session: impl Fn(u32),
    ) -> MutexGuard<'_, ShardState> {
        let mut state = self.lock();
        if state.full(limit).is_none() {
            return state;
        }
        let started = Instant::now();
        while let Some(session) = state.full(limit) {
            let waited = started.elapsed();
            if waited >= timeout {
                drop(state);
                drop_session(session);
                state = self.lock();
                continue;
            }
            let rest = (timeout - waited).min(Duration::from_secs(1));
            state = self
                .room
                .wait_timeout(state, rest)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let waited = started.elapsed();
        state.blocked.count += 1;
        state.blocked.total += waited;
        state.blocked.longest = state.blocked.longest.max(waited);
        state
    }

    /// Tells waiting writers to look again.
    pub fn room_made(&self) {
        self.room.notify_all();
    }
}

impl ShardState {
    /// Adds one entry to the journal and to what every replica gets; answers its position. Without a journal
    /// (before the first replica) it goes nowhere and has none.
    pub fn append(&mut self, entry: &[u8], keys: &[u64], now: Instant) -> Option<u64> {
        if !self.running {
            return None;
        }
        let lsn = self.ring.next();
        self.ring.push(entry);
        for link in &mut self.links {
            link.deliver(entry, lsn, keys, now);
        }
        Some(lsn)
    }

    /// A session that has `limit` bytes unsent here.
    fn full(&self, limit: usize) -> Option<u32> {
        let full =
            |link: &&Link| link.phase != Phase::Registered && !link.closed && link.unsent >= limit;
        self.links
            .iter()
            .find(full)
            .filter(|_| !self.stopping)
            .map(|link| link.session)
    }

    /// The flow with this id.
    pub fn link(&mut self, id: u64) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    /// Ends and forgets the flows of a session.
    pub fn drop_session(&mut self, session: u32) {
        for link in self.links.iter_mut().filter(|link| link.session == session) {
            link.closed = true;
            link.rouse();
        }
        self.links.retain(|link| link.session != session);
    }

    /// Writers held up so far.
    #[must_use]
    pub fn blocked(&self) -> BlockedWrites {
        self.blocked
    }
}
