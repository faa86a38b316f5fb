//! Slots that move from one node to another: all at once, key by key, or half of the way.

use std::ops::RangeInclusive;

use super::super::client::Reply;
use super::super::eventually;
use super::Cluster;

/// Keys that move at a time.
const KEYS_AT_ONCE: &str = "100";

/// How slots move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Slot by slot, key by key, as `redis-cli --cluster reshard` does it.
    Keys,
    /// All at once, which Valkey 9 has.
    Atomic,
}

impl Cluster {
    /// Moves slots, whoever owns them, with their keys, while everything goes on.
    ///
    /// # Panics
    /// When the cluster refuses.
    #[track_caller]
    pub fn move_slots(&self, slots: RangeInclusive<u16>, to: usize, how: Move) {
        match how {
            Move::Keys => {
                for slot in slots {
                    if self.owner_of(slot) != to {
                        self.begin_move(slot, to);
                        self.finish_move(slot, to);
                    }
                }
            }
            Move::Atomic => self.migrate(&slots, to),
        }
        self.wait_agreed();
    }

    fn migrate(&self, slots: &RangeInclusive<u16>, to: usize) {
        for (owned, from) in self.owners() {
            let (first, last) = (
                *slots.start().max(owned.start()),
                *slots.end().min(owned.end()),
            );
            if first > last || from == to {
                continue;
            }
            let (first, last) = (first.to_string(), last.to_string());
            self.node(from).client().ok(&[
                "CLUSTER",
                "MIGRATESLOTS",
                "SLOTSRANGE",
                &first,
                &last,
                "NODE",
                self.id(to),
            ]);
        }
        let is_there = |(owned, owner): &(RangeInclusive<u16>, usize)| {
            *owner == to || owned.end() < slots.start() || owned.start() > slots.end()
        };
        eventually("the slots have moved", || {
            self.owners().iter().all(is_there)
        });
    }

    /// Opens a slot for moving, on both sides. No key moves yet; new ones already go to the other node.
    #[track_caller]
    pub fn begin_move(&self, slot: u16, to: usize) {
        let from = self.owner_of(slot);
        let text = slot.to_string();
        let set = |node: usize, state: &str, other: usize| {
            let words = ["CLUSTER", "SETSLOT", &text, state, self.id(other)];
            self.node(node).client().ok(&words);
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
    }

    /// Moves up to `limit` keys of a slot that was opened for it; how many did.
    #[track_caller]
    pub fn move_keys(&self, slot: u16, to: usize, limit: usize) -> usize {
        let mut from = self.node(self.owner_of(slot)).client();
        let mut moved = 0;
        let port = self.node(to).port().to_string();
        while moved < limit {
            let keys = from.ok(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), KEYS_AT_ONCE]);
            let keys: Vec<_> = keys.items().iter().map(Reply::bytes).collect();
            let keys = keys.get(..keys.len().min(limit - moved)).expect("a prefix");
            if keys.is_empty() {
                break;
            }
            let head = [
                "MIGRATE",
                "127.0.0.1",
                &port,
                "",
                "0",
                "10000",
                "REPLACE",
                "KEYS",
            ];
            let words = head.iter().map(|word| word.as_bytes().to_vec());
            let words: Vec<_> = words.chain(keys.iter().cloned()).collect();
            from.ok(&words);
            moved += keys.len();
        }
        moved
    }

    /// Moves the rest of a slot's keys, and then the slot.
    #[track_caller]
    pub fn finish_move(&self, slot: u16, to: usize) {
        let from = self.owner_of(slot);
        self.move_keys(slot, to, usize::MAX);
        let words = ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", self.id(to)];
        self.node(to).client().ok(&words);
        // The others would hear of it anyway. Replicas refuse, and so does a master that has just become one, since
        // that was its last slot.
        for node in self.living() {
            let _ = self.node(node).client().cmd(&words);
        }
        eventually("both sides know who owns the slot", || {
            let owns = |node: &usize| {
                let mut owners = self.sees(*node).into_iter().flatten();
                owners.any(|(first, last, id)| (first..=last).contains(&slot) && id == self.id(to))
            };
            [from, to].iter().all(owns)
        });
    }

    /// Calls a slot's move off; keys that have moved stay where they are unless they are moved back.
    #[track_caller]
    pub fn call_off_move(&self, slot: u16, to: usize) {
        let words = ["CLUSTER", "SETSLOT", &slot.to_string(), "STABLE"];
        self.node(self.owner_of(slot)).client().ok(&words);
        self.node(to).client().ok(&words);
    }
}
