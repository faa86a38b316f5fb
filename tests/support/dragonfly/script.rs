//! Many journal entries, encoded beforehand, to be played at full speed or at a rate.
//!
//! Played while a snapshot runs, a script must not touch the data set's keys: their records are not sent first.
//! Invariants: the entries of a flow keep their order; playing costs two copies of each entry and no allocation.

use super::SimulatedDragonfly;
use super::encode::{OP_COMMAND, command_entry, first_key, shard_of};
use std::time::{Duration, Instant};

/// Entries of one flow, one after the other.
#[derive(Debug, Default, Clone)]
struct Part {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    played: usize,
}

/// Entries for all flows.
#[derive(Debug, Clone)]
pub struct Script {
    parts: Vec<Part>,
}

impl Script {
    /// An empty script for a master with so many flows.
    #[must_use]
    pub fn new(flows: usize) -> Self {
        Self {
            parts: vec![Part::default(); flows],
        }
    }

    /// Adds a command to the flow that owns its first key.
    pub fn push<A: AsRef<[u8]>>(&mut self, db: u32, args: &[A]) -> &mut Self {
        let flow = first_key(args).map_or(0, |key| shard_of(key, self.parts.len()));
        let part = &mut self.parts[flow];
        command_entry(OP_COMMAND, db, 0, 1, args, &mut part.bytes);
        part.ends.push(part.bytes.len());
        self
    }

    /// `count` times `SET key:<n> <value>` over `keys` keys, with values of `len` bytes.
    #[must_use]
    pub fn sets(flows: usize, count: usize, keys: usize, len: usize) -> Self {
        let mut script = Self::new(flows);
        let value = "v".repeat(len);
        for n in 0..count {
            let key = format!("key:{}", n % keys.max(1));
            let value = format!("{n}:{value}");
            script.push(
                0,
                &["SET", key.as_str(), value.get(..len).unwrap_or(&value)],
            );
        }
        script
    }

    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.ends.len()).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Plays all of it as fast as the replicas take it; flows at the same time.
    pub fn play(&self, source: &SimulatedDragonfly) {
        std::thread::scope(|scope| {
            for (flow, part) in self.parts.iter().enumerate() {
                scope.spawn(move || source.hub.journal_prepared(flow, &part.bytes, &part.ends));
            }
        });
    }

    /// Plays all of it at `per_second` entries over all flows together, a millisecond's worth at a time; `played`
    /// gets each slice's flow, the position after it, and when it was journalled.
    pub fn play_at(
        &self,
        source: &SimulatedDragonfly,
        per_second: u64,
        mut played: impl FnMut(usize, u64, Instant),
    ) {
        let started = Instant::now();
        let mut parts = self.parts.clone();
        let total = self.len();
        let mut done = 0;
        while done < total {
            let elapsed = started.elapsed();
            let due = (elapsed.as_secs_f64() * per_second as f64) as usize;
            let due = due.clamp(done, total);
            let share = (due - done) as f64 / (total - done) as f64;
            for (flow, part) in parts.iter_mut().enumerate() {
                let left = part.ends.len() - part.played;
                let count = if due == total {
                    left
                } else {
                    ((left as f64) * share).round() as usize
                };
                if count > 0 {
                    let next = part.play(source, flow, count);
                    played(flow, next, Instant::now());
                    done += count;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Part {
    /// Plays the next `count` entries; answers the position after them.
    fn play(&mut self, source: &SimulatedDragonfly, flow: usize, count: usize) -> u64 {
        let start = self.played.checked_sub(1).map_or(0, |last| self.ends[last]);
        let ends: Vec<usize> = self.ends[self.played..self.played + count]
            .iter()
            .map(|end| end - start)
            .collect();
        self.played += count;
        source
            .hub
            .journal_prepared(flow, self.bytes.get(start..).unwrap_or_default(), &ends)
    }
}
