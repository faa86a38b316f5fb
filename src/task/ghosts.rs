//! Recognises keys that a flow does not own.
//!
//! A master defect: `PFMERGE` stores its result in every shard that owns one of the named keys and
//! journals it there too (reference, commands §7, row 1). The copies are invisible to clients but
//! stand in snapshots, where they can overwrite a newer value from the proper flow. They are
//! dropped only where that is certain: the value is a HyperLogLog string and the shard function
//! has held for every other key seen so far. A master in another mode (hash tags, slots) breaks
//! that, and then everything is kept, and counted.
//!
//! The same evidence tells whoever starts from a key which flow it is of ([`Ghosts::owner`]). There
//! a mistake would repeat entries, so enough keys must have been seen where they belong; and for keys
//! with a hash tag that would be elsewhere by it alone, enough of those, all by the whole key or all by the tag.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::source::dragonfly::shard;

/// Keys that must have been seen where they belong. Another function agrees on so many, with two flows, once in 256
/// times; and it is refuted by the next one it does not agree on.
const ENOUGH: usize = 8;

/// Shared by all flows of a session.
#[derive(Debug, Default)]
pub struct Ghosts {
    refuted: AtomicBool,
    dropped: AtomicU64,
    kept: AtomicU64,
    /// A key that no copy can be was on a flow that owns it neither by the whole key nor by its tag.
    elsewhere: AtomicBool,
    /// Flows that have brought a whole snapshot.
    snapshots: AtomicU32,
    /// Keys for which the tag makes no difference.
    plain: Evidence,
    /// Keys for which it does, on the flow of the whole key.
    whole: Evidence,
    /// The same on the flow of the tag.
    tagged: Evidence,
}

/// Keys that were seen where they belong, by hash.
#[derive(Debug, Default)]
struct Evidence {
    seen: Mutex<HashSet<u64>>,
    is_any: AtomicBool,
    is_enough: AtomicBool,
}

impl Evidence {
    fn is_enough(&self) -> bool {
        self.is_enough.load(Ordering::Relaxed)
    }

    fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed)
    }

    fn add(&self, key: &[u8]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(xxhash_rust::xxh64::xxh64(key, 0));
        self.is_any.store(true, Ordering::Relaxed);
        if seen.len() >= ENOUGH {
            self.is_enough.store(true, Ordering::Relaxed);
        }
    }
}

/// The part of a key that alone decides in other modes.
fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = key.get(open + 1..)?;
    let close = rest.iter().position(|byte| *byte == b'}')?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

/// The flow of a key in those modes.
fn shard_by_tag(key: &[u8], flows: u32) -> u32 {
    shard(tag(key).unwrap_or(key), flows)
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

    /// The flow of a key, of so many; none if that is not certain, or not yet.
    pub fn owner(&self, key: &[u8], flows: u32) -> Option<u32> {
        let (by_whole, by_tag) = (shard(key, flows), shard_by_tag(key, flows));
        if flows == 1 {
            return Some(by_whole);
        }
        let decide = |evidence: &Evidence| evidence.is_enough() && !self.is_elsewhere();
        if by_whole == by_tag {
            return decide(&self.plain).then_some(by_whole);
        }
        match (self.whole.is_any(), self.tagged.is_any()) {
            (true, false) => decide(&self.whole).then_some(by_whole),
            (false, true) => decide(&self.tagged).then_some(by_tag),
            _ => None,
        }
    }

    /// As [`Self::owner`] for whoever cannot wait for keys to be written, of which an idle source has none: without any
    /// evidence to the contrary, a key for which the tag makes no difference is where all the usual modes put it. One for
    /// which it does is where the whole key says, once all flows have brought a snapshot: then nothing is known of such
    /// keys only because none are there.
    pub fn likely_owner(&self, key: &[u8], flows: u32) -> Option<u32> {
        let (by_whole, by_tag) = (shard(key, flows), shard_by_tag(key, flows));
        match (self.whole.is_any(), self.tagged.is_any()) {
            _ if flows == 1 => Some(by_whole),
            _ if self.is_elsewhere() => None,
            _ if by_whole == by_tag => Some(by_whole),
            _ if self.snapshots.load(Ordering::Relaxed) < flows => self.owner(key, flows),
            (true, true) => None,
            (false, true) => Some(by_tag),
            (_, false) => Some(by_whole),
        }
    }

    fn is_elsewhere(&self) -> bool {
        self.elsewhere.load(Ordering::Relaxed)
    }

    /// A key that can be no copy was seen on a flow.
    fn seen(&self, key: &[u8], flow: u32, flows: u32) {
        let (by_whole, by_tag) = (shard(key, flows), shard_by_tag(key, flows));
        let evidence = match (by_whole == flow, by_tag == flow) {
            (true, true) => &self.plain,
            (true, false) => &self.whole,
            (false, true) => &self.tagged,
            (false, false) => return self.elsewhere.store(true, Ordering::Relaxed),
        };
        if !evidence.is_enough() {
            evidence.add(key);
        }
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
            self.note(key);
            return Verdict::Keep;
        }
        if !is_hyperloglog() {
            self.shared.refuted.store(true, Ordering::Relaxed);
            self.shared.seen(key, self.flow, self.flows);
        }
        if !self.is_settled() {
            return Verdict::Doubt;
        }
        self.settle()
    }

    /// The flow has brought its whole snapshot.
    pub fn snapshot_ended(&self) {
        self.shared.snapshots.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of a key that the flow writes, and that can be no copy.
    pub fn note(&mut self, key: &[u8]) {
        if self.flows > 1 && (key.contains(&b'{') || !self.shared.plain.is_enough()) {
            self.shared.seen(key, self.flow, self.flows);
        }
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

    fn keys(flow: u32, tag: &str) -> impl Iterator<Item = Vec<u8>> {
        let keys = (0..).map(move |n| format!("{tag}{n}").into_bytes());
        keys.filter(move |key| shard(key, 2) == flow)
    }

    #[test]
    fn the_flow_of_a_key_is_certain_once_enough_others_were_where_they_belong() {
        let shared = Arc::<Ghosts>::default();
        let mut flow = GhostFilter::new(shared.clone(), 0, 2);
        for _ in 0..100 {
            flow.note(b"bar");
        }
        assert_eq!(shared.owner(b"foo", 2), None, "one key is no evidence");
        keys(0, "plain:")
            .take(ENOUGH)
            .for_each(|key| flow.note(&key));
        assert_eq!(shared.owner(b"foo", 2), Some(1));
        // Which of the two decides, nobody has seen yet.
        let tag = keys(1, "")
            .next()
            .map(|tag| String::from_utf8(tag).unwrap());
        let tagged = format!("{{{}}}:", tag.unwrap());
        let key = keys(0, &tagged).next().unwrap();
        assert_eq!(shared.owner(&key, 2), None);
        for key in keys(0, &tagged).take(ENOUGH) {
            assert_eq!(flow.judge(&key, || panic!("it is its own")), Verdict::Keep);
        }
        assert_eq!(shared.owner(&key, 2), Some(0));
        assert_eq!(flow.judge(b"foo", || false), Verdict::Keep, "refutes it");
        assert_eq!(shared.owner(&key, 2), None);
        assert_eq!(shared.likely_owner(&key, 2), None);
    }

    #[test]
    fn where_the_tag_decides_keys_are_of_its_flow() {
        let shared = Arc::<Ghosts>::default();
        let mut flow = GhostFilter::new(shared.clone(), 1, 2);
        let tag = keys(1, "").next().unwrap();
        let tagged = format!("{{{}}}:", String::from_utf8(tag).unwrap());
        let mut ours = keys(0, &tagged);
        let key = ours.next().unwrap();
        assert_eq!(shared.likely_owner(&key, 2), None, "nothing is known");
        assert_eq!(shared.likely_owner(b"foo", 2), Some(1), "in both modes");
        for flow in [0, 1] {
            GhostFilter::new(shared.clone(), flow, 2).snapshot_ended();
        }
        assert_eq!(shared.likely_owner(&key, 2), Some(0), "nothing is there");
        assert_eq!(
            flow.judge(&ours.next().unwrap(), || false),
            Verdict::Keep,
            "it is no copy"
        );
        assert_eq!(shared.owner(&key, 2), None);
        assert_eq!(shared.likely_owner(&key, 2), Some(1));
        ours.take(ENOUGH).for_each(|key| flow.note(&key));
        assert_eq!(shared.owner(&key, 2), Some(1));
        assert!(shared.are_refuted(), "copies are not told any more");
        keys(1, "").take(ENOUGH).for_each(|key| flow.note(&key));
        assert_eq!(shared.owner(b"foo", 2), Some(1));
        let mut other = GhostFilter::new(shared.clone(), 0, 2);
        let plain = keys(0, &tagged).next().unwrap();
        assert_eq!(other.judge(&plain, || false), Verdict::Keep);
        assert_eq!(shared.owner(&key, 2), None, "both cannot be");
    }

    #[test]
    fn a_key_elsewhere_leaves_all_open_and_one_flow_nothing() {
        let shared = Arc::<Ghosts>::default();
        let mut flow = GhostFilter::new(shared.clone(), 0, 2);
        flow.note(b"foo");
        keys(0, "").take(ENOUGH).for_each(|key| flow.note(&key));
        assert_eq!(shared.owner(b"bar", 2), None);
        assert!(!shared.are_refuted(), "copies are told as before");
        assert_eq!(Ghosts::default().owner(b"{a}b", 1), Some(0));
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
