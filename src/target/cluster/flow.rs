//! What ties a writer to its task: the fence, the flow's positions, and what slots have.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::round::StoresPosition;
use super::stamp::FieldNames;
use super::takeover::Resumed;
use crate::target::failed::Numbers;
use crate::target::fence::Fence;
use crate::target::slot::SLOTS;
use crate::target::writer::Fenced;

/// Entries behind a stamp among which some may be done that no position tells of, and that are not whole.
const AHEAD: u64 = 1 << 20;

/// Positions that stand in slots: one is noted for every other entry.
#[derive(Debug)]
pub(super) struct Positions(Box<[Option<NonZeroU64>]>);

impl Default for Positions {
    fn default() -> Self {
        Self(vec![None; usize::from(SLOTS)].into())
    }
}

impl Positions {
    fn of(found: &HashMap<u16, u64>) -> Self {
        let mut all = Self::default();
        found.iter().for_each(|(slot, at)| all.note(*slot, *at));
        all
    }

    /// This stands in a slot now.
    #[inline]
    pub fn note(&mut self, slot: u16, at: u64) {
        if let Some(noted) = self.0.get_mut(usize::from(slot)) {
            // Nothing is before entry 1.
            *noted = NonZeroU64::new(at.max(1));
        }
    }

    /// Forgets some that are at or before this one, and answers in which slots they stand.
    pub fn take_old(&mut self, most: usize, at: u64) -> Vec<u16> {
        let mut old = Vec::new();
        for (slot, noted) in (0_u16..).zip(&mut self.0) {
            if old.len() == most {
                break;
            }
            if noted.is_some_and(|noted| noted.get() <= at) {
                *noted = None;
                old.push(slot);
            }
        }
        old
    }
}

/// What ties a writer to its task's positions.
#[derive(Debug)]
pub(super) struct Flow {
    pub fence: Fence,
    pub flow: u32,
    pub names: FieldNames,
    pub position: StoresPosition,
    /// What slots have already.
    pub resumed: Option<Arc<Resumed>>,
    /// The stamp on every node.
    pub stored: Option<u64>,
    /// The last one that was sent to all of them, or was there before.
    pub stamped: Option<u64>,
    /// Of the next stamps that say whose they are.
    pub number: u64,
    /// Whether its stamps say whose they are.
    pub is_introduced: bool,
    pub positions: Positions,
    /// Those at or before this one are removed at the next occasion.
    pub removable: Option<u64>,
    /// Whether the nodes are to be told again of a position that they have.
    pub restamps: bool,
    /// Stamps that no node's is any more: where they are, and the node.
    pub stale: Vec<(String, String)>,
    /// Moves of slots that some flow has seen, up to the last look.
    pub moves: u64,
    /// Of refused commands.
    pub numbers: Numbers,
}

impl Flow {
    pub fn new(fenced: Fenced) -> Self {
        let resumed = fenced.fence.resumed(fenced.flow);
        let resumed = resumed.filter(|_| fenced.stored.is_some());
        let names = FieldNames::of(fenced.flow, &fenced.fence.epoch());
        Self {
            position: StoresPosition::new(&fenced.fence.names().position, &names.slot),
            names,
            flow: fenced.flow,
            stored: fenced.stored,
            stamped: resumed.as_ref().map(|resumed| resumed.next),
            number: resumed.as_ref().map_or(1, |resumed| resumed.number),
            is_introduced: false,
            positions: resumed
                .as_ref()
                .map(|resumed| Positions::of(&resumed.positions))
                .unwrap_or_default(),
            removable: None,
            resumed,
            restamps: false,
            moves: fenced.fence.moves(),
            stale: fenced.fence.stale_stamps(),
            fence: fenced.fence,
            numbers: Numbers::default(),
        }
    }

    /// What a slot had when it was taken over: every entry before this one.
    pub fn known(&self, slot: u16) -> Option<u64> {
        let resumed = self.resumed.as_ref()?;
        resumed.by_slot.get(usize::from(slot)).copied()
    }

    /// Whether an entry is so near behind the last stamp that whoever goes on there knows that it may have been done.
    pub fn is_near(&self, lsn: u64) -> bool {
        let stamped = self.stamped;
        stamped.is_some_and(|at| lsn < at.saturating_add(AHEAD))
    }

    /// Whether an entry may have been done before the slots were taken over, without a position that says so.
    pub fn may_be_done(&self, lsn: u64) -> bool {
        let resumed = self.resumed.as_ref();
        resumed.is_some_and(|resumed| lsn < resumed.caught_up.saturating_add(AHEAD))
    }

    /// Whether a stamp of this position says no less than what is known.
    fn may_stamp(&self, at: u64) -> bool {
        let resumed = self.resumed.as_ref();
        resumed.is_none_or(|resumed| at >= resumed.caught_up)
    }

    /// Whether all nodes are to be told of this position.
    pub fn is_due(&self, at: u64) -> bool {
        (self.restamps || self.stored != Some(at)) && self.may_stamp(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_taken_when_they_are_old_and_some_at_a_time() {
        let mut positions = Positions::of(&[(3, 5), (0, 0), (16383, 9)].into());
        positions.note(3, 7);
        positions.note(8, 6);
        assert_eq!(positions.take_old(10, 5), [0]);
        assert_eq!(positions.take_old(1, 9), [3]);
        assert_eq!(positions.take_old(10, 9), [8, 16383]);
        assert!(positions.take_old(10, u64::MAX).is_empty());
    }
}
