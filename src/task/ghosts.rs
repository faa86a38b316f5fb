//! Recognises keys that a flow does not own.
//!
//! A master defect: `PFMERGE` stores its result in every shard that owns one of the named keys and
//! journals it there too (reference, commands §7, row 1). The copies are invisible to clients but
//! stand in snapshots, where they can overwrite a newer value from the proper flow. They are
//! dropped only where that is certain: the value is a HyperLogLog string and the shard function
//! has held for every other key seen so far. A master in another mode (hash tags, slots) breaks
//! that, and then everything is kept, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::source::dragonfly::shard;

/// Shared by all flows of a session.
#[derive(Debug, Default)]
pub struct Ghosts {
    refuted: AtomicBool,
    dropped: AtomicU64,
    kept: AtomicU64,
}

impl Ghosts {
    /// Records dropped as ghosts.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Keys seen on a flow that should not own them, and kept.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }
}

/// One flow's view.
#[derive(Debug)]
pub struct GhostFilter {
    shared: Arc<Ghosts>,
    flow: u32,
    flows: u32,
    confirmed: bool,
}

impl GhostFilter {
    /// For flow `flow` of `flows`.
    pub fn new(shared: Arc<Ghosts>, flow: u32, flows: u32) -> Self {
        Self {
            shared,
            flow,
            flows,
            confirmed: false,
        }
    }

    /// Whether [`Self::learn`] could still tell something.
    pub fn is_unsure(&self) -> bool {
        self.flows > 1 && !self.confirmed
    }

    /// Learns from a key that will be met later, so that a copy that comes first is recognised too.
    /// `is_hyperloglog` is asked only when the key is not this flow's.
    pub fn learn(&mut self, key: &[u8], is_hyperloglog: impl FnOnce() -> bool) {
        if shard(key, self.flows) == self.flow {
            self.confirmed = true;
        } else if !is_hyperloglog() {
            self.shared.refuted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the key is to be dropped. `is_hyperloglog` is asked only when the key is not this
    /// flow's.
    pub fn drops(&mut self, key: &[u8], is_hyperloglog: impl FnOnce() -> bool) -> bool {
        if self.flows == 1 || shard(key, self.flows) == self.flow {
            self.confirmed = true;
            return false;
        }
        if !is_hyperloglog() {
            self.shared.refuted.store(true, Ordering::Relaxed);
        }
        let certain = self.confirmed && !self.shared.refuted.load(Ordering::Relaxed);
        let counter = if certain {
            &self.shared.dropped
        } else {
            &self.shared.kept
        };
        counter.fetch_add(1, Ordering::Relaxed);
        certain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Reference vectors: with two flows `foo` belongs to 1, `bar` and `k0` to 0.
    #[test]
    fn only_a_hyperloglog_is_dropped_and_only_while_the_shard_function_holds() {
        let shared = Arc::<Ghosts>::default();
        let mut flow = GhostFilter::new(shared.clone(), 0, 2);
        assert!(!flow.drops(b"foo", || true), "nothing confirmed yet");
        assert!(!flow.drops(b"bar", || panic!("own keys are not looked into")));
        assert!(flow.drops(b"foo", || true));
        assert!(!flow.drops(b"foo", || false), "refutes the function");
        assert!(!flow.drops(b"foo", || true), "refuted: kept from now on");
        assert_eq!((shared.dropped(), shared.kept()), (1, 3));
    }

    #[test]
    fn keys_that_come_later_tell_about_the_first() {
        let filter = || GhostFilter::new(Arc::default(), 0, 2);
        let mut flow = filter();
        flow.learn(b"foo", || true);
        assert!(flow.is_unsure());
        flow.learn(b"bar", || panic!("own keys are not looked into"));
        assert!(!flow.is_unsure() && flow.drops(b"foo", || true));
        let mut flow = filter();
        flow.learn(b"bar", || true);
        flow.learn(b"foo", || false);
        assert!(!flow.drops(b"foo", || true), "refuted before it came");
    }
}
