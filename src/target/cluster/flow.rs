//! What ties a writer to its task: the fence, the flow's positions, and what slots have.

use std::collections::HashMap;
use std::sync::Arc;

use super::round::StoresPosition;
use super::stamp::FieldNames;
use super::takeover::Resumed;
use crate::target::failed::Numbers;
use crate::target::fence::Fence;
use crate::target::writer::Fenced;

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
    /// Of the next stamps that say whose they are.
    pub number: u64,
    /// Whether its stamps say whose they are.
    pub is_introduced: bool,
    /// Positions that stand in slots.
    pub positions: HashMap<u16, u64>,
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
            number: resumed.as_ref().map_or(1, |resumed| resumed.number),
            is_introduced: false,
            positions: resumed
                .as_ref()
                .map(|resumed| resumed.positions.clone())
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

    /// Whether a slot has this entry.
    pub fn has(&self, slot: u16, lsn: u64) -> bool {
        self.known(slot).is_some_and(|next| lsn < next)
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
