//! Walking over all keys of a cluster while slots move.
//!
//! Every master is scanned, and before and after that each says which slots it owns, since when, and which are on the
//! move. A slot of which both say the same was with one node all the time, so its keys have all come. The others are
//! looked at again, until there is none. Keys of a slot that is being moved go from one node to the other only, so with
//! such slots the nodes are scanned twice in a row: a key that left the second node's way before it was scanned there is
//! met on the first, and one that left the first before that is met on the second.
//!
//! Invariant: a key that is there all the time comes at least once, however slots move meanwhile.

use std::collections::{BTreeMap, VecDeque};

use redis::cmd;

use super::nodes::Nodes;
use super::slots::Itself;
use crate::net::Endpoint;
use crate::target::error::TargetError;
use crate::target::slot::{SLOTS, slot_of};

/// Keys listed at a time.
const CHUNK: usize = 1000;

const DOING: &str = "listing keys";

/// Who had a slot, as far as matters here: with the same of it before and after, the slot has not moved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct State {
    owner: Option<(usize, u64)>,
    open: Vec<(usize, String)>,
}

/// What all masters said of themselves.
#[derive(Debug, Default)]
struct View {
    nodes: Vec<(Endpoint, Itself)>,
}

impl View {
    async fn take(nodes: &mut Nodes) -> Result<Self, TargetError> {
        let selves = nodes.selves().await?.into_iter();
        Ok(Self {
            nodes: selves.map(|told| (told.place, told.itself)).collect(),
        })
    }

    /// By slot. Nodes are numbered by `ids`.
    fn states(&self, ids: &mut Vec<String>) -> Vec<State> {
        let mut states = vec![State::default(); usize::from(SLOTS)];
        for (_, node) in &self.nodes {
            let number = ids.iter().position(|id| *id == node.id);
            let number = number.unwrap_or_else(|| {
                ids.push(node.id.clone());
                ids.len() - 1
            });
            for slot in node.slots.iter().cloned().flatten() {
                if let Some(state) = states.get_mut(usize::from(slot)) {
                    state.owner = Some((number, node.epoch));
                }
            }
            for (slot, other) in &node.open {
                if let Some(state) = states.get_mut(usize::from(*slot)) {
                    state.open.push((number, other.clone()));
                }
            }
        }
        states
    }

    fn has_open(&self) -> bool {
        self.nodes.iter().any(|(_, node)| !node.open.is_empty())
    }
}

/// A walk over all keys of a cluster.
#[derive(Debug)]
pub(in crate::target) struct Sweep {
    pattern: Option<String>,
    before: View,
    /// Nodes yet to be scanned in this round, and where in the first.
    places: VecDeque<Endpoint>,
    cursor: u64,
    /// Slots whose keys are yielded; all in the first round.
    wanted: Option<BTreeMap<u16, ()>>,
    begun: bool,
}

impl Sweep {
    pub(in crate::target) fn new(pattern: Option<&str>) -> Self {
        Self {
            pattern: pattern.map(str::to_owned),
            before: View::default(),
            places: VecDeque::new(),
            cursor: 0,
            wanted: None,
            begun: false,
        }
    }

    /// The next keys; none at the end. A key may come several times.
    pub(in crate::target) async fn next(
        &mut self,
        nodes: &mut Nodes,
    ) -> Result<Option<Vec<Vec<u8>>>, TargetError> {
        if self.places.is_empty() && !self.next_round(nodes).await? {
            return Ok(None);
        }
        let Some(place) = self.places.front() else {
            return Ok(None);
        };
        let mut scan = cmd("SCAN");
        scan.arg(self.cursor).arg("COUNT").arg(CHUNK);
        if let Some(pattern) = &self.pattern {
            scan.arg("MATCH").arg(pattern);
        }
        let node = nodes.on(place).await?;
        let (next, mut keys): (u64, Vec<Vec<u8>>) = node.ask(DOING, &scan).await?;
        self.cursor = next;
        if next == 0 {
            self.places.pop_front();
        }
        if let Some(wanted) = &self.wanted {
            keys.retain(|key| wanted.contains_key(&slot_of(key)));
        }
        Ok(Some(keys))
    }

    /// Whether there is another round.
    async fn next_round(&mut self, nodes: &mut Nodes) -> Result<bool, TargetError> {
        let now = View::take(nodes).await?;
        if self.begun {
            let mut ids = Vec::new();
            let before = self.before.states(&mut ids);
            let after = now.states(&mut ids);
            let slots = (0..SLOTS).zip(before.iter().zip(&after));
            let moved = slots.filter(|(slot, (before, after))| {
                let was_wanted = |wanted: &BTreeMap<u16, ()>| wanted.contains_key(slot);
                let concerns = self.wanted.as_ref().is_none_or(was_wanted);
                concerns && (before != after || after.owner.is_none())
            });
            let moved: BTreeMap<u16, ()> = moved.map(|(slot, _)| (slot, ())).collect();
            if moved.is_empty() {
                return Ok(false);
            }
            self.wanted = Some(moved);
        }
        self.begun = true;
        let places = || now.nodes.iter().map(|(place, _)| place.clone());
        self.places = places().collect();
        if now.has_open() {
            self.places.extend(places());
        }
        self.cursor = 0;
        self.before = now;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(nodes: &[&str]) -> View {
        let line = |line: &&str| {
            let place = "a:1".parse().unwrap();
            (place, Itself::read(line).unwrap())
        };
        View {
            nodes: nodes.iter().map(line).collect(),
        }
    }

    #[test]
    fn a_slot_that_went_away_and_came_back_has_moved() {
        let mut ids = Vec::new();
        let before = view(&[
            "a h:1@1 myself,master - 0 0 1 connected 0-9",
            "b h:2@2 myself,master - 0 0 2 connected 10-19",
        ]);
        let before = before.states(&mut ids);
        // Whoever is given a slot counts on.
        let back = view(&[
            "b h:2@2 myself,master - 0 0 3 connected 10-19",
            "a h:1@1 myself,master - 0 0 4 connected 0-9",
        ]);
        let back = back.states(&mut ids);
        assert_ne!(before[5], back[5]);
        let same = view(&[
            "b h:2@2 myself,master - 0 0 2 connected 10-19 [3-<-a]",
            "a h:1@1 myself,master - 0 0 1 connected 0-9 [3->-b]",
        ]);
        let open = same.states(&mut ids);
        assert_eq!((&before[5], &before[15]), (&open[5], &open[15]));
        assert_ne!(before[3], open[3]);
        assert!(same.has_open());
    }
}
