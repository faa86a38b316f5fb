//! Slots that move: looking who owns what, and going by it.

use std::task::{Context, Poll};
use std::time::Duration;

use super::by_slot::BySlot;
use super::lane::Lane;
use super::refresh::{self, Fresh, Known};
use super::writer::Writer;
use crate::fail_point::{self, Place};
use crate::target::error::TargetError;
use crate::target::writer::Notice;

/// After so many looks, which is more than a second, a slot is on the move for longer than usual.
const LONG: u32 = 9;
/// The first wait for a slot that is on the move, which doubles, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

impl Writer {
    /// Begins to look at who owns what, and goes by what was found when nothing is under way.
    pub(super) fn poll_refresh(&mut self, cx: &mut Context<'_>) -> Result<(), TargetError> {
        if let Some(flow) = &mut self.flow {
            let moves = flow.fence.moves();
            self.must_look |= std::mem::replace(&mut flow.moves, moves) != moves;
        }
        if self.must_look && self.refreshing.is_none() && self.fresh.is_none() {
            let (first, most) = WAIT;
            let doubled = first.saturating_mul(1 << self.looks.min(10)).min(most);
            let wait = match self.looks {
                0 => Duration::ZERO,
                _ => doubled,
            };
            self.looks = self.looks.saturating_add(1);
            if self.looks == LONG {
                let slots = self.parking.slots().collect();
                self.notices.push_back(Notice::Moving { slots });
                self.stirred = true;
            }
            let masters = self.lanes.iter();
            let masters = masters.map(|lane| (lane.settings.endpoint.clone(), lane.now.clone()));
            let known = Known {
                masters: masters.collect(),
                votes: self.votes.clone(),
            };
            let flow = self.flow.as_ref();
            let ours = flow.map(|flow| (flow.fence.clone(), flow.names.clone()));
            let settings = self.settings.clone();
            self.refreshing = Some(Box::pin(refresh::look(settings, known, ours.unzip(), wait)));
        }
        if let Some(refreshing) = &mut self.refreshing
            && let Poll::Ready(fresh) = refreshing.as_mut().poll(cx)
        {
            self.refreshing = None;
            self.fresh = Some(fresh?);
        }
        if self.flight.is_none()
            && let Some(fresh) = self.fresh.take()
        {
            self.go_by(fresh);
        }
        Ok(())
    }

    /// From now on slots are where they are now. Every node is told so before anything else.
    fn go_by(&mut self, fresh: Fresh) {
        self.must_look = false;
        self.parking.go_on();
        let Fresh { topology, opened } = fresh;
        let mut lanes: Vec<Lane> = std::mem::take(&mut self.lanes);
        let mut is_new = !opened.is_empty();
        lanes.extend(opened);
        for master in &topology.masters {
            let Some(at) = lanes.iter().position(|lane| lane.now.id == master.now.id) else {
                continue;
            };
            let mut lane = lanes.swap_remove(at);
            let key = master.stamp_key(&self.settings.task);
            is_new |= lane.now.server != master.now.server;
            if lane.now.slots != master.now.slots {
                is_new = true;
                lane.had.append(&mut lane.now.slots);
            }
            if lane.stamp_key != key
                && let Some(flow) = &mut self.flow
            {
                let old = std::mem::replace(&mut lane.stamp_key, key);
                flow.stale.push((old, lane.now.id.clone()));
            }
            lane.now = master.now.clone();
            self.lanes.push(lane);
        }
        // What a node without slots had is in its slots' new owners.
        if let Some(flow) = &mut self.flow {
            if is_new {
                flow.is_introduced = false;
                flow.restamps = self.applied.is_some();
                flow.moves = flow.fence.note_move();
            }
            let left = lanes.into_iter();
            flow.stale
                .extend(left.map(|lane| (lane.stamp_key, lane.now.id)));
            let current = |(key, id): &(String, String)| {
                let mut lanes = self.lanes.iter();
                lanes.any(|lane| lane.stamp_key == *key && lane.now.id == *id)
            };
            flow.stale.retain(|stamp| !current(stamp));
            flow.removable = flow.removable.or(flow.stored);
        }
        self.slots = BySlot::new(&topology.owners);
        self.votes = topology.votes;
        self.last_stamp = None;
        fail_point::pass(Place::SlotsMoved);
    }
}
