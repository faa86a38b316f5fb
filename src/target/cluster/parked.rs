//! Slots that nobody takes entries of just now: they are on the move.
//!
//! Invariants: of a parked slot nothing is under way, and nothing is sent that comes behind what is parked of it; what
//!   is applied is never behind the oldest entry of a parked slot.

use std::collections::BTreeMap;

use super::round::Item;
use super::writer::Flight;
use crate::target::outgoing::Outgoing;

/// One slot's commands, in order.
#[derive(Debug, Default)]
struct Parked {
    out: Outgoing,
    items: Vec<Item>,
    /// Everything before it is in the cluster, of this slot too; none within a snapshot.
    since: Option<u64>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Parking {
    slots: BTreeMap<u16, Parked>,
}

impl Parking {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes held in memory.
    pub fn in_memory(&self) -> usize {
        self.slots.values().map(|slot| slot.out.in_memory()).sum()
    }

    pub fn has(&self, slot: u16) -> bool {
        self.slots.contains_key(&slot)
    }

    /// The slots.
    pub fn slots(&self) -> impl Iterator<Item = u16> {
        self.slots.keys().copied()
    }

    /// What may be said to be applied, if all else is up to there.
    pub fn bounded(&self, applied: Option<u64>) -> Option<u64> {
        let oldest = self.slots.values().map(|slot| slot.since).min();
        match oldest {
            None => applied,
            Some(since) => since.min(applied),
        }
    }

    /// Parks commands of a flight behind what is parked of their slot; `applied` is what was before the flight.
    pub fn park(&mut self, slot: u16, flight: &Flight, commands: &[u32], applied: Option<u64>) {
        let parked = self.slots.entry(slot).or_insert_with(|| Parked {
            since: applied,
            ..Parked::default()
        });
        for n in commands {
            let n = *n as usize;
            parked.items.push(Item {
                first: parked.out.commands(),
                ..flight.item_of(n)
            });
            parked.out.append(&flight.out, n);
        }
    }

    /// Moves all that is parked to the front of what is to be sent next. What it is about stays as it was.
    pub fn take_into(
        &mut self,
        out: &mut Outgoing,
        items: &mut Vec<Item>,
    ) -> BTreeMap<u16, Option<u64>> {
        let (newer, newer_items) = (std::mem::take(out), std::mem::take(items));
        let slots = std::mem::take(&mut self.slots);
        let mut since = BTreeMap::new();
        let mut append = |from: &Outgoing, of: &[Item]| {
            let base = out.commands();
            (0..from.commands()).for_each(|n| out.append(from, n));
            items.extend(of.iter().map(|item| Item {
                first: item.first + base,
                ..*item
            }));
        };
        for (slot, parked) in slots {
            append(&parked.out, &parked.items);
            since.insert(slot, parked.since);
        }
        append(&newer, &newer_items);
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::answer::Tolerate;
    use crate::target::writer::Kind;

    fn flight(keys: &[&str]) -> Flight {
        let mut flight = Flight::default();
        for (n, key) in keys.iter().enumerate() {
            flight.items.push(Item {
                first: n,
                kind: if n % 2 == 0 {
                    Kind::Entry
                } else {
                    Kind::Record
                },
                tolerate: Tolerate::Nothing,
            });
            flight.out.command(2, Some(n as u64));
            flight.out.word(b"INCR");
            flight.out.word(key.as_bytes());
        }
        flight
    }

    #[test]
    fn what_is_parked_comes_first_and_in_order_and_holds_back_what_is_applied() {
        let mut parking = Parking::default();
        assert_eq!(parking.bounded(Some(9)), Some(9));
        let first = flight(&["a", "b", "c"]);
        parking.park(7, &first, &[0, 2], Some(5));
        parking.park(3, &first, &[1], Some(5));
        parking.park(7, &flight(&["d"]), &[0], Some(8));
        assert_eq!(parking.bounded(Some(9)), Some(5));
        assert!(parking.has(7) && !parking.has(8));
        let newest = flight(&["e"]);
        let (mut out, mut items) = (newest.out, newest.items);
        let since = parking.take_into(&mut out, &mut items);
        assert_eq!(since, [(3, Some(5)), (7, Some(5))].into());
        assert!(parking.is_empty());
        let keys: Vec<_> = (0..out.commands())
            .map(|n| out.describe(n).words[0].clone())
            .collect();
        assert_eq!(keys.concat(), b"bacde");
        let first: Vec<_> = items.iter().map(|item| item.first).collect();
        assert_eq!(first, [0, 1, 2, 3, 4]);
        assert_eq!(items[0].kind, Kind::Record);
        parking.park(3, &first_of_snapshot(), &[0], None);
        assert_eq!(parking.bounded(Some(9)), None);
    }

    fn first_of_snapshot() -> Flight {
        flight(&["z"])
    }
}
