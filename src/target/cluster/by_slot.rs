//! What a writer looks up for each command: whose its slot is, and what it is called.
//!
//! A batch touches slots at random, so all of it stands together, and is looked up once.

use super::round::Group;
use crate::target::slot::{Tag, tags};

/// Of one slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfSlot {
    /// The index of its owner's lane.
    pub lane: u16,
    /// The index of its group in the flight that is being sorted, or [`OfSlot::NONE`].
    group: u16,
    pub tag: Tag,
}

impl OfSlot {
    /// There are fewer groups.
    const NONE: u16 = u16::MAX;
}

/// Of all slots.
#[derive(Debug)]
pub(super) struct BySlot(Box<[OfSlot]>);

impl BySlot {
    /// With these owners.
    pub fn new(owners: &[u16]) -> Self {
        let of = |(lane, tag): (&u16, &Tag)| OfSlot {
            lane: *lane,
            group: OfSlot::NONE,
            tag: *tag,
        };
        Self(owners.iter().zip(tags()).map(of).collect())
    }

    /// The index of the owner's lane.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        let of_slot = self.0.get(usize::from(slot))?;
        Some(usize::from(of_slot.lane))
    }

    /// The index of the slot's group among these. If it has none yet, one is made.
    #[inline]
    pub fn group(
        &mut self,
        slot: u16,
        groups: &mut Vec<Group>,
        made: impl FnOnce(&OfSlot) -> Group,
    ) -> Option<usize> {
        let of_slot = self.0.get_mut(usize::from(slot))?;
        if of_slot.group == OfSlot::NONE {
            of_slot.group = u16::try_from(groups.len()).ok()?;
            groups.push(made(of_slot));
        }
        Some(usize::from(of_slot.group))
    }

    /// Forgets these groups, which are all.
    pub fn forget(&mut self, groups: &[Group]) {
        for group in groups {
            if let Some(of_slot) = self.0.get_mut(usize::from(group.slot)) {
                of_slot.group = OfSlot::NONE;
            }
        }
    }
}
