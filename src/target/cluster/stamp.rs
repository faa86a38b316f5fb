//! What a flow leaves on every node of a cluster, and what that means to whoever goes on.
//!
//! A **stamp** is in one hash for each node, in the first slot of that node. For each flow it holds two fields, whose names
//! end in the full sync they belong to, its epoch, and in the node's id: a slot that is the first of one node now, and of
//! another one later, has the stamps of both until the old one is removed.
//!
//! ```text
//!  lsn:<flow>:<epoch>:<node>   every entry of the flow before this one is in the cluster
//!  at:<flow>:<epoch>:<node>    node id, run id, replication id, slots, number: whose stamp it is, and which slots it is
//!                              about; of two stamps of a node, the one with the greater number is newer
//! ```
//!
//! Invariant: [`judge`] yields nothing rather than positions that a slot may not have reached. The proof is in
//!   [`super::writer`].

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use crate::target::fence::ServerId;
use crate::target::slot::SLOTS;

/// What the names of a stamp's fields begin with.
const LSN: &str = "lsn:";
const AT: &str = "at:";

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
    /// The field `at`, which names these slots too.
    pub fn text(&self, others: &[RangeInclusive<u16>], number: u64) -> String {
        let slots = self.slots.iter().chain(others);
        let slots: Vec<_> = slots
            .map(|slots| format!("{}-{}", slots.start(), slots.end()))
            .collect();
        format!(
            "{} {} {} {} {number}",
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
    pub number: u64,
    pub of: Present,
}

/// Names of a flow's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::target) struct FieldNames {
    /// In the hash of a slot: its position.
    pub slot: String,
}

impl FieldNames {
    pub fn of(flow: u32, epoch: &str) -> Self {
        Self {
            slot: format!("{flow}:{epoch}"),
        }
    }

    /// In a stamp: the position, and whose stamp it is.
    pub fn of_node(&self, id: &str) -> [String; 2] {
        [LSN, AT].map(|kind| format!("{kind}{}:{id}", self.slot))
    }

    /// The flow's position in a stamp: the field for it, and what stands there.
    pub fn lsns<'f>(&self, fields: &'f Fields) -> impl Iterator<Item = (&'f [u8], u64)> {
        let begin = format!("{LSN}{}:", self.slot);
        fields.iter().filter_map(move |(field, text)| {
            let field = field.strip_prefix(begin.as_bytes()).and(Some(field))?;
            Some((&field[..], std::str::from_utf8(text).ok()?.parse().ok()?))
        })
    }
}

/// The nodes of which there is a stamp, of whichever flow and full sync.
pub(in crate::target) fn nodes_of(fields: &Fields) -> HashSet<String> {
    let id = |field: &Vec<u8>| {
        let field = std::str::from_utf8(field).ok()?;
        Some(field.strip_prefix(AT)?.rsplit_once(':')?.1.to_owned())
    };
    fields.keys().filter_map(id).collect()
}

impl Stamp {
    /// A flow's stamps among these fields, but for what is none.
    pub fn read_all<'f>(
        fields: &'f Fields,
        names: &'f FieldNames,
    ) -> impl Iterator<Item = Self> + 'f {
        let ids = nodes_of(fields);
        ids.into_iter()
            .filter_map(|id| Self::read(fields, &names.of_node(&id)))
    }

    fn read(fields: &Fields, [lsn, at]: &[String; 2]) -> Option<Self> {
        let text = |name: &str| std::str::from_utf8(fields.get(name.as_bytes())?).ok();
        let lsn = text(lsn)?.parse().ok()?;
        let mut words = text(at)?.split(' ');
        let mut word = || words.next().map(str::to_owned);
        let (id, run_id, replication_id, slots) = (word()?, word()?, word()?, word()?);
        let number = word().and_then(|number| number.parse().ok()).unwrap_or(0);
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
            number,
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

    /// Whether it is about this slot.
    fn names(&self, slot: u16) -> bool {
        self.of.slots.iter().any(|slots| slots.contains(&slot))
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
    /// By the name of a node, the slots that its stamp is about.
    pub named: HashMap<String, Vec<RangeInclusive<u16>>>,
    /// The number of the next stamps.
    pub number: u64,
}

/// Where a flow goes on, by what was found on each node, and what stands in the slots; or why nobody can tell.
pub(in crate::target) fn judge(
    nodes: &[(Present, Option<Stamp>)],
    positions: HashMap<u16, u64>,
) -> Result<Resumed, &'static str> {
    const NOBODY: usize = usize::MAX;
    let slots = usize::from(SLOTS);
    let mut owners = vec![NOBODY; slots];
    let (mut next, mut named, mut number) = (u64::MAX, HashMap::new(), 0);
    for (index, (node, stamp)) in nodes.iter().enumerate() {
        let stamp = stamp.as_ref().ok_or("a node has no stamp of a flow")?;
        if !stamp.is_of(node) {
            return Err("a node has the stamp of another one");
        }
        next = next.min(stamp.lsn);
        number = stamp.number.max(number);
        mark(&mut owners, &node.slots, index);
        named.insert(node.id.clone(), stamp.of.slots.clone());
    }
    let mut by_slot = Vec::with_capacity(slots);
    for (slot, owner) in (0_u16..).zip(&owners) {
        let (node, stamp) = nodes
            .get(*owner)
            .and_then(|(node, stamp)| Some((node, stamp.as_ref()?)))
            .ok_or("no master owns a slot")?;
        let base = match stamp.names(slot) {
            true => stamp.lsn,
            false => moved(nodes, slot, (node, stamp))?,
        };
        by_slot.push(positions.get(&slot).map_or(base, |at| base.max(*at)));
    }
    let caught_up = by_slot.iter().copied().max().unwrap_or(next);
    Ok(Resumed {
        next,
        by_slot,
        caught_up,
        positions,
        named,
        number: number + 1,
    })
}

/// Of a slot that its owner's stamp is not about: it has moved while nobody looked, or the owner was not told yet. With
/// what it had, if everybody has lived since who may have had it: during a move, two stamps are about it.
fn moved(
    nodes: &[(Present, Option<Stamp>)],
    slot: u16,
    (owner, of_owner): (&Present, &Stamp),
) -> Result<u64, &'static str> {
    let mut base = None;
    for (node, stamp) in nodes {
        let Some(stamp) = stamp.as_ref().filter(|stamp| stamp.names(slot)) else {
            continue;
        };
        if stamp.is_of_another_life(node) || of_owner.is_of_another_life(owner) {
            return Err("a slot has moved, and one of its nodes was restarted or replaced");
        }
        base = Some(base.map_or(stamp.lsn, |base: u64| base.min(stamp.lsn)));
    }
    base.ok_or("no stamp is about a slot")
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
        (node.clone(), Some(Stamp { lsn, number: 1, of }))
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
            number: 1,
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
    fn a_slot_that_two_stamps_are_about_is_trusted_only_if_both_nodes_have_lived_on() {
        let [a, b, c] = three();
        let (from, mut over, mut to) = (stamped(&a, 20), stamped(&b, 10), stamped(&c, 30));
        // It has been moved from the first to the second, and then to the third, which nobody has seen.
        over.1.as_mut().unwrap().of.slots = vec![0..=0, 5000..=9999];
        let mut left = from.clone();
        left.0.slots = vec![1..=4999];
        to.0.slots = vec![0..=0, 10000..=16383];
        let nodes = [left, over, to];
        assert_eq!(judge(&nodes, HashMap::new()).unwrap().by_slot[0], 10);
        for restarted in 0..3 {
            let mut nodes = nodes.clone();
            nodes[restarted].0.server.run_id = "new".to_owned();
            assert!(judge(&nodes, HashMap::new()).is_err(), "{restarted}");
        }
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
            let read = |fields: &Fields, names: &FieldNames| -> Vec<Stamp> {
                Stamp::read_all(fields, names).collect()
            };
            let put = |fields: &mut Fields, of: &Present, lsn: u64| {
                let [name_of_lsn, at] = names.of_node(&of.id);
                fields.insert(name_of_lsn.into_bytes(), lsn.to_string().into_bytes());
                fields.insert(at.into_bytes(), of.text(&[], 1).into_bytes());
            };
            put(&mut fields, &of, lsn);
            let stamp = Stamp { lsn, number: 1, of: of.clone() };
            prop_assert_eq!(read(&fields, &names), vec![stamp.clone()]);
            prop_assert_eq!(read(&fields, &FieldNames::of(3, "f")), vec![]);
            prop_assert_eq!(names.lsns(&fields).map(|(_, lsn)| lsn).collect::<Vec<_>>(), vec![lsn]);
            // Beside another node's, it is read all the same.
            put(&mut fields, &node("other", "y", &slots), 7);
            prop_assert_eq!(nodes_of(&fields).len(), 2);
            prop_assert!(read(&fields, &names).contains(&stamp));
            fields.insert(names.of_node(&id)[1].clone().into_bytes(), noise.into_bytes());
            let _ = read(&fields, &names);
        }
    }
}
