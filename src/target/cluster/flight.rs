//! What is under way: from what was pushed to the moment when every node has answered for it.
//!
//! Invariant: one flight is unanswered at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::lane::{Lane, Role};
use super::parked::{Taken, Was};
use super::round::{Group, Item, Placed};
use super::writer::Writer;
use crate::fail_point::{self, Place};
use crate::target::answer::Tolerate;
use crate::target::error::TargetError;
use crate::target::failed::Failed;
use crate::target::outgoing::Outgoing;
use crate::target::slot_of;
use crate::target::writer::Kind;
use crate::target::writer::missed::came_late;

/// How often a busy flow stamps the nodes.
const STAMP_EVERY: Duration = Duration::from_millis(20);
/// Memory kept for reuse with what was sent.
const KEPT: usize = 2 << 20;
/// Positions of slots that are removed at a time.
const REMOVED_AT_ONCE: usize = 512;

/// What is pushed and not sent.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub out: Outgoing,
    pub items: Vec<Item>,
    /// Of its commands, all but those of the last item.
    pub placed: Vec<Placed>,
    /// When its first item was begun, and how long after that its answers may come before its keys are doubted.
    pub begun: Option<(Instant, Duration)>,
    /// Whether the answer 0 to some of its commands means that a key is missing.
    pub watches: bool,
}

/// What is sent, and not all answered.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub out: Outgoing,
    pub items: Vec<Item>,
    /// Of each command.
    pub placed: Vec<Placed>,
    /// Of each that is not left out, its group and its number.
    pub places: Vec<(u32, u32)>,
    /// Its commands, slot by slot.
    pub order: Vec<u32>,
    pub groups: Vec<Group>,
    /// The position reached when everything is answered.
    pub reaches: Option<u64>,
    /// What the nodes are told before anything else.
    pub stamp: Option<u64>,
    pub stamped: bool,
    pub at: Option<Instant>,
    pub begun: Option<(Instant, Duration)>,
    pub watches: bool,
    /// Slots that were parked.
    pub parked: BTreeMap<u16, Taken>,
    /// Refused entries that are to be recorded.
    pub records: Vec<Failed>,
    /// The error that follows when they are.
    pub then: Option<Box<TargetError>>,
}

impl Flight {
    /// Forgets what it was, and keeps the memory.
    fn emptied(mut self) -> Self {
        self.items.clear();
        self.placed.clear();
        self.places.clear();
        self.order.clear();
        self.groups.clear();
        if self.out.in_memory() > KEPT {
            self.out = Outgoing::new();
        }
        self.out.clear();
        Self {
            out: self.out,
            items: self.items,
            placed: self.placed,
            places: self.places,
            order: self.order,
            groups: self.groups,
            ..Self::default()
        }
    }

    /// The item of a command.
    pub fn item_of(&self, command: usize) -> Item {
        let behind = self.items.partition_point(|item| item.first <= command);
        let item = behind.checked_sub(1).and_then(|item| self.items.get(item));
        item.copied().unwrap_or(Item {
            first: command,
            kind: Kind::Entry,
            tolerate: Tolerate::Nothing,
        })
    }

    /// What is known of a slot. If it was not parked before, all before `applied` is in the cluster.
    pub fn was(&self, slot: u16, applied: Option<u64>) -> Was {
        match self.parked.get(&slot).map(|taken| taken.was) {
            Some(was) => Was {
                begun: was.begun.or(self.begun),
                watches: was.watches || self.watches,
                ..was
            },
            None => Was {
                since: applied,
                begun: self.begun,
                watches: self.watches,
            },
        }
    }

    /// Commands that take values for granted and have taken effect late, and those that went with them.
    pub fn came_late(&self) -> Vec<u32> {
        let bytes = self.out.len();
        let all = came_late(self.begun, bytes);
        if !all && self.parked.is_empty() {
            return Vec::new();
        }
        let is_late = |slot| match self.parked.contains_key(&slot) {
            true => came_late(self.was(slot, None).begun, bytes),
            false => all,
        };
        let groups = self.groups.iter();
        groups
            .filter(|group| (group.atomic || group.depends) && is_late(group.slot))
            .flat_map(|group| self.order.get(group.commands()))
            .flatten()
            .copied()
            .collect()
    }
}

impl Writer {
    /// Sends what was pushed, or what the nodes are to be told, if there is any of it.
    pub(super) fn take_off(&mut self) -> Result<(), TargetError> {
        let due = self.parking.is_due();
        let is_empty = self.open.out.is_empty() && !due;
        let must_stamp = self.must_stamp() && !self.must_look;
        if is_empty && !must_stamp {
            return Ok(());
        }
        let is_time = is_empty
            || self
                .last_stamp
                .is_none_or(|last| last.elapsed() >= STAMP_EVERY);
        let spare = std::mem::take(&mut self.spare);
        let next = Open {
            out: spare.out,
            items: spare.items,
            placed: spare.placed,
            ..Open::default()
        };
        let mut open = std::mem::replace(&mut self.open, next);
        let (parked_commands, parked) = match due {
            true => {
                let (out, items) = (&mut open.out, &mut open.items);
                let taken = self.parking.take_into(out, items);
                let taken = taken.map_err(TargetError::Spill)?;
                open.place_all();
                taken
            }
            false => {
                open.place();
                Default::default()
            }
        };
        let mut flight = Flight {
            out: open.out,
            items: open.items,
            placed: open.placed,
            reaches: self.marked,
            stamp: self.applied.filter(|_| must_stamp && is_time),
            begun: open.begun,
            watches: open.watches || parked.values().any(|taken| taken.was.watches),
            parked,
            at: Some(Instant::now()),
            places: spare.places,
            order: spare.order,
            groups: spare.groups,
            ..Flight::default()
        };
        if flight.stamp.is_some() {
            fail_point::pass(Place::StampSend);
            self.last_stamp = Some(Instant::now());
        }
        let pings = flight.sort(self.flow.as_ref(), &mut self.slots);
        let mut groups = std::mem::take(&mut flight.groups);
        groups.retain_mut(|group| {
            if self.parking.has(group.slot) {
                let commands = flight.order.get(group.commands()).unwrap_or_default();
                let taken = commands.partition_point(|n| (*n as usize) < parked_commands);
                let newer = commands.get(taken..).unwrap_or_default();
                self.parking.queue(group.slot, &flight, newer);
                group.keep(taken);
            }
            !group.commands().is_empty()
        });
        flight.groups = groups;
        self.send(flight, pings);
        Ok(())
    }

    /// Sends what is to be sent of a flight; one of which nothing is, is over.
    pub(super) fn send(&mut self, mut flight: Flight, pings: bool) {
        self.fill(&mut flight, pings);
        self.remove_positions();
        self.lanes.iter_mut().for_each(Lane::start);
        self.flight = Some(flight);
        if self.lanes.iter().all(|lane| lane.unanswered() == 0) {
            self.land();
        }
    }

    /// Appends the removal of positions that the stamps have passed.
    fn remove_positions(&mut self) {
        let Some(flow) = &mut self.flow else {
            return;
        };
        let Some(removable) = flow.removable.take() else {
            return;
        };
        let old = flow.positions.take_old(REMOVED_AT_ONCE, removable);
        let stale = match flow.is_introduced {
            true => std::mem::take(&mut flow.stale),
            false => Vec::new(),
        };
        for (key, id) in stale {
            let owner = self.slots.owner(slot_of(key.as_bytes()));
            let lane = owner.and_then(|owner| self.lanes.get_mut(owner));
            if let Some(lane) = lane {
                let [lsn, at] = flow.names.of_node(&id);
                let words = [&b"HDEL"[..], key.as_bytes(), lsn.as_bytes(), at.as_bytes()];
                lane.words(Role::Removal, &words);
            }
        }
        if !old.is_empty() {
            fail_point::pass(Place::PositionsRemove);
        }
        for slot in old {
            let owner = self.slots.owner(slot);
            let lane = owner.and_then(|owner| self.lanes.get_mut(owner));
            if let Some(lane) = lane {
                let key = crate::target::position::of_slot(&flow.fence.names().position, slot);
                let words = [&b"HDEL"[..], key.as_bytes(), flow.names.slot.as_bytes()];
                lane.words(Role::Removal, &words);
            }
        }
    }

    /// Everything of the flight is answered.
    pub(super) fn land(&mut self) {
        self.stirred = true;
        let Some(flight) = self.flight.take() else {
            return;
        };
        let reached = match self.open.out.is_empty() {
            // What was marked since, with nothing to be sent for it, too.
            true => self.marked,
            false => flight.reaches,
        };
        self.applied = self.parking.bounded(reached.or(self.applied));
        if self.parking.is_empty() {
            self.looks = 0;
        }
        if let (Some(flow), Some(stamp)) = (&mut self.flow, flight.stamp) {
            fail_point::pass(Place::StampStored);
            flow.stored = Some(stamp);
            // Once the owners' stamps are about them, those of the nodes that had them before need not be.
            let had = self.lanes.iter().any(|lane| !lane.had.is_empty());
            self.lanes.iter_mut().for_each(|lane| lane.had.clear());
            flow.is_introduced = !had;
            flow.restamps = had;
        }
        self.counters.commands += flight.order.len() as u64;
        self.counters.bytes += flight.out.len();
        self.dropped.clear();
        self.spare = flight.emptied();
    }
}
