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

    /// Whether the shard function does not hold here.
    pub fn are_refuted(&self) -> bool {
        self.refuted.load(Ordering::Relaxed)
    }

    /// Keys seen on a flow that should not own them, and kept.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }
}

/// What to do with a key of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the flow's own, or nobody can tell: apply it.
    Keep,
    /// It is certainly a copy: leave it out.
    Drop,
    /// It looks like a copy, and no other key has told yet whether the shard function holds here.
    /// Put it aside until [`GhostFilter::is_settled`].
    Doubt,
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
            confirmed: flows == 1,
        }
    }

    /// Whether the flow's keys have told if the shard function holds.
    pub fn is_settled(&self) -> bool {
        self.confirmed || self.is_refuted()
    }

    fn is_refuted(&self) -> bool {
        self.shared.refuted.load(Ordering::Relaxed)
    }

    /// Judges a key. `is_hyperloglog` is asked only when the key is not this flow's.
    pub fn judge(&mut self, key: &[u8], is_hyperloglog: impl FnOnce() -> bool) -> Verdict {
        if self.flows == 1 || shard(key, self.flows) == self.flow {
            self.confirmed = true;
            return Verdict::Keep;
        }
        if !is_hyperloglog() {
            self.shared.refuted.store(true, Ordering::Relaxed);
        }
        if !self.is_settled() {
            return Verdict::Doubt;
        }
        self.settle()
    }

    /// The verdict on a key that looks like a copy, now that no more is to be learnt.
    pub fn settle(&self) -> Verdict {
        if self.confirmed && !self.is_refuted() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            Verdict::Drop
        } else {
            self.shared.kept.fetch_add(1, Ordering::Relaxed);
            Verdict::Keep
        }
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
        assert_eq!(flow.judge(b"foo", || true), Verdict::Doubt);
        let own = flow.judge(b"bar", || panic!("own keys are not looked into"));
        assert_eq!(own, Verdict::Keep);
        assert!(flow.is_settled());
        assert_eq!(flow.settle(), Verdict::Drop, "the one put aside");
        assert_eq!(flow.judge(b"foo", || true), Verdict::Drop);
        assert_eq!(flow.judge(b"foo", || false), Verdict::Keep, "refutes it");
        assert_eq!(flow.judge(b"foo", || true), Verdict::Keep, "from now on");
        assert_eq!((shared.dropped(), shared.kept()), (2, 2));
    }

    #[test]
    fn without_any_other_key_nothing_is_dropped() {
        let shared = Arc::<Ghosts>::default();
        let mut flow = GhostFilter::new(shared.clone(), 0, 2);
        assert_eq!(flow.judge(b"foo", || true), Verdict::Doubt);
        assert!(!flow.is_settled());
        assert_eq!(flow.settle(), Verdict::Keep);
        assert_eq!((shared.dropped(), shared.kept()), (0, 1));
    }
}
