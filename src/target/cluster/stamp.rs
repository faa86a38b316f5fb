//! What a flow leaves on every node of a cluster, and what that means to whoever goes on.
//!
//! A **stamp** is in one hash for each node, in a slot of that node. For each flow it holds two fields, whose names end
//! in the full sync they belong to, its epoch:
//!
//! ```text
//!  lsn:<flow>:<epoch>   every entry of the flow before this one is in the cluster
//!  at:<flow>:<epoch>    node id, run id, replication id, slots: whose stamp it is, and which slots it is about
//! ```
//!
//! Invariant: [`judge`] yields nothing rather than positions that a slot may not have reached. The proof is in
//!   [`super::writer`].

use std::collections::HashMap;
use std::ops::RangeInclusive;

use crate::target::fence::ServerId;
use crate::target::slot::SLOTS;

/// Fields of a hash.
pub(in crate::target) type Fields = HashMap<Vec<u8>, Vec<u8>>;

/// A master, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::target) struct Present {
    /// Its name in the cluster.
    pub id: String,
    pub server: ServerId,
    /// The replication id it had before it was promoted, or restarted.
    pub before: String,
    /// What it owns.
    pub slots: Vec<RangeInclusive<u16>>,
}

impl Present {
    /// The field `at`.
    pub fn text(&self) -> String {
        let slots: Vec<_> = self
            .slots
            .iter()
            .map(|slots| format!("{}-{}", slots.start(), slots.end()))
            .collect();
        format!(
            "{} {} {} {}",
            self.id,
            self.server.run_id,
            self.server.replication_id,
            slots.join(",")
        )
    }
}

/// A flow's stamp on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::target) struct Stamp {
    pub lsn: u64,
    pub of: Present,
}

/// Names of a flow's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::target) struct FieldNames {
    /// In a stamp: the position.
    pub lsn: String,
    /// In a stamp: whose it is.
    pub at: String,
    /// In the hash of a slot: its position.
    pub slot: String,
}

impl FieldNames {
    pub fn of(flow: u32, epoch: &str) -> Self {
        Self {
            lsn: format!("lsn:{flow}:{epoch}"),
            at: format!("at:{flow}:{epoch}"),
            slot: format!("{flow}:{epoch}"),
        }
    }
}

impl Stamp {
    /// A flow's stamp among the fields of a node's; `None` if it is not there, or is none.
    pub fn read(fields: &Fields, names: &FieldNames) -> Option<Self> {
        let text = |name: &str| std::str::from_utf8(fields.get(name.as_bytes())?).ok();
        let lsn = text(&names.lsn)?.parse().ok()?;
        let mut words = text(&names.at)?.split(' ');
        let mut word = || words.next().map(str::to_owned);
        let (id, run_id, replication_id, slots) = (word()?, word()?, word()?, word()?);
        let slots: Option<Vec<_>> = slots
            .split(',')
            .map(|range| {
                let (first, last) = range.split_once('-')?;
                let (first, last) = (first.parse().ok()?, last.parse().ok()?);
                (last < SLOTS).then_some(first..=last)
            })
            .collect();
        Some(Self {
            lsn,
            of: Present {
                id,
                server: ServerId {
                    run_id,
                    replication_id,
                },
                before: String::new(),
                slots: slots?,
            },
        })
    }

    /// Whether the node has been this stamp's all the time, or has taken its dataset over.
    pub fn is_of(&self, node: &Present) -> bool {
        let known = &self.of.server.replication_id;
        self.of.id == node.id || node.before == *known || node.server.replication_id == *known
    }

    /// Whether the node was restarted since, or another one was promoted in its place.
    pub fn is_of_another_life(&self, node: &Present) -> bool {
        self.of.id != node.id || self.of.server != node.server
    }
}

/// Where one flow goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::target) struct Resumed {
    /// The first entry that some slot may lack.
    pub next: u64,
    /// By slot, the first entry that it may lack: those before it are skipped.
    pub by_slot: Vec<u64>,
    /// The greatest of these: a stamp before it would say less than is known.
    pub caught_up: u64,
    /// What stands in the slots.
    pub positions: HashMap<u16, u64>,
}

/// Where a flow goes on, by what was found on each node, and what stands in the slots; or why nobody can tell.
pub(in crate::target) fn judge(
    nodes: &[(Present, Option<Stamp>)],
    positions: HashMap<u16, u64>,
) -> Result<Resumed, &'static str> {
    const NOBODY: usize = usize::MAX;
    let slots = usize::from(SLOTS);
    let (mut owners, mut named_by) = (vec![NOBODY; slots], vec![NOBODY; slots]);
    let mut next = u64::MAX;
    for (index, (node, stamp)) in nodes.iter().enumerate() {
        let stamp = stamp.as_ref().ok_or("a node has no stamp of a flow")?;
        if !stamp.is_of(node) {
            return Err("a node has the stamp of another one");
        }
        next = next.min(stamp.lsn);
        mark(&mut owners, &node.slots, index);
        mark(&mut named_by, &stamp.of.slots, index);
    }
    let mut by_slot = Vec::with_capacity(slots);
    for (slot, (owner, named_by)) in (0_u16..).zip(owners.iter().zip(&named_by)) {
        let (node, stamp) = nodes
            .get(*owner)
            .and_then(|(node, stamp)| Some((node, stamp.as_ref()?)))
            .ok_or("no master owns a slot")?;
        let is_named = |stamp: &Stamp| stamp.of.slots.iter().any(|slots| slots.contains(&slot));
        let base = if *named_by == *owner || is_named(stamp) {
            stamp.lsn
        } else {
            // The slot has moved while nobody looked. With what it had, if both sides have lived since.
            let (from, before) = nodes
                .get(*named_by)
                .and_then(|(node, stamp)| Some((node, stamp.as_ref()?)))
                .ok_or("no stamp is about a slot")?;
            if before.is_of_another_life(from) || stamp.is_of_another_life(node) {
                return Err("a slot has moved, and one of its nodes was restarted or replaced");
            }
            before.lsn
        };
        by_slot.push(positions.get(&slot).map_or(base, |at| base.max(*at)));
    }
    let caught_up = by_slot.iter().copied().max().unwrap_or(next);
    Ok(Resumed {
        next,
        by_slot,
        caught_up,
        positions,
    })
}

fn mark(all: &mut [usize], slots: &[RangeInclusive<u16>], index: usize) {
    for slots in slots {
        let range = usize::from(*slots.start())..=usize::from(*slots.end());
        all.get_mut(range)
            .into_iter()
            .flatten()
            .for_each(|of| *of = index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(id: &str, life: &str, slots: &[RangeInclusive<u16>]) -> Present {
        Present {
            id: id.to_owned(),
            server: ServerId {
                run_id: format!("run-{life}"),
                replication_id: format!("repl-{life}"),
            },
            before: String::new(),
            slots: slots.to_vec(),
        }
    }

    fn stamped(node: &Present, lsn: u64) -> (Present, Option<Stamp>) {
        let of = node.clone();
        (node.clone(), Some(Stamp { lsn, of }))
    }

    fn three() -> [Present; 3] {
        [
            node("a", "a", &[0..=4999]),
            node("b", "b", &[5000..=9999]),
            node("c", "c", &[10000..=16383]),
        ]
    }

    #[test]
    fn a_flow_goes_on_at_the_minimum_and_skips_what_nodes_and_slots_have() {
        let [a, b, c] = three();
        let nodes = [stamped(&a, 20), stamped(&b, 10), stamped(&c, 20)];
        let positions = [(7000, 17), (1, 25), (2, 5)].into();
        let resumed = judge(&nodes, positions).unwrap();
        assert_eq!((resumed.next, resumed.caught_up), (10, 25));
        for (slot, at) in [
            (0, 20),
            (1, 25),
            (2, 20),
            (7000, 17),
            (7001, 10),
            (16383, 20),
        ] {
            assert_eq!(resumed.by_slot[slot], at, "slot {slot}");
        }
    }

    #[test]
    fn a_promoted_replica_has_the_stamp_of_its_master() {
        let [a, b, c] = three();
        let mut promoted = node("d", "d", &[5000..=9999]);
        let old = Some(Stamp {
            lsn: 8,
            of: b.clone(),
        });
        let nodes = |promoted: &Present| {
            let promoted = (promoted.clone(), old.clone());
            [stamped(&a, 20), promoted, stamped(&c, 20)]
        };
        let judged = judge(&nodes(&promoted), HashMap::new());
        assert_eq!(judged, Err("a node has the stamp of another one"));
        promoted.before = b.server.replication_id;
        let resumed = judge(&nodes(&promoted), HashMap::new()).unwrap();
        assert_eq!((resumed.next, resumed.by_slot[6000]), (8, 8));
    }

    #[test]
    fn a_slot_that_moved_is_trusted_only_between_nodes_that_lived_on() {
        let [a, b, c] = three();
        let (mut from, mut to) = (stamped(&a, 20), stamped(&b, 10));
        from.0.slots = vec![0..=3999];
        to.0.slots = vec![4000..=9999];
        let judged = judge(&[from.clone(), to.clone(), stamped(&c, 20)], HashMap::new());
        let resumed = judged.unwrap();
        assert_eq!(resumed.by_slot[4500], 20, "what it had where it came from");
        assert_eq!(resumed.by_slot[5500], 10);
        for restarted in [&mut from, &mut to] {
            let run_id = std::mem::replace(&mut restarted.0.server.run_id, "new".to_owned());
            let nodes = [restarted.clone(), stamped(&c, 20)];
            assert!(judge(&nodes, HashMap::new()).is_err());
            restarted.0.server.run_id = run_id;
        }
        to.0.server.run_id = "new".to_owned();
        let judged = judge(&[from, to, stamped(&c, 20)], HashMap::new());
        let why = "a slot has moved, and one of its nodes was restarted or replaced";
        assert_eq!(judged, Err(why));
    }

    #[test]
    fn what_is_missing_is_never_guessed() {
        let [a, b, c] = three();
        let mut nodes = [stamped(&a, 20), stamped(&b, 10), stamped(&c, 20)];
        nodes[1].1 = None;
        let judged = judge(&nodes, HashMap::new());
        assert_eq!(judged, Err("a node has no stamp of a flow"));
        // A node is gone, and its slots are another one's.
        let mut all = stamped(&a, 20);
        all.0.slots = vec![0..=9999];
        let judged = judge(&[all, stamped(&c, 20)], HashMap::new());
        assert_eq!(judged, Err("no stamp is about a slot"));
        let judged = judge(&[stamped(&a, 20), stamped(&b, 20)], HashMap::new());
        assert_eq!(judged, Err("no master owns a slot"));
    }

    proptest! {
        #[test]
        fn a_stamp_is_read_as_it_was_written(
            lsn: u64,
            id in "[0-9a-f]{1,40}",
            ranges in prop::collection::vec((0_u16..SLOTS, 0_u16..SLOTS), 1..9),
            noise in "\\PC{0,40}",
        ) {
            let slots: Vec<_> = ranges.into_iter().map(|(a, b)| a.min(b)..=a.max(b)).collect();
            let of = node(&id, "x", &slots);
            let names = FieldNames::of(3, "e");
            let mut fields: Fields = HashMap::new();
            fields.insert(names.lsn.clone().into_bytes(), lsn.to_string().into_bytes());
            fields.insert(names.at.clone().into_bytes(), of.text().into_bytes());
            prop_assert_eq!(Stamp::read(&fields, &names), Some(Stamp { lsn, of }));
            prop_assert_eq!(Stamp::read(&fields, &FieldNames::of(3, "f")), None);
            fields.insert(names.at.clone().into_bytes(), noise.into_bytes());
            let _ = Stamp::read(&fields, &names);
        }
    }
}
