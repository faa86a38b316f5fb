//! Slots that nobody takes entries of just now: they are on the move.
//!
//! Invariants: of a parked slot nothing is under way that is behind what is parked of it, and nothing is sent that comes
//!   behind that; what is applied is never behind the oldest entry of a parked slot. What waits for long waits in a file,
//!   so that others have the memory.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::flight::Flight;
use super::overflow::{Filed, Overflow};
use super::round::Item;
use crate::target::outgoing::Outgoing;

/// Bytes of commands after which the next piece is begun: that much is sent of a slot at a time.
const PIECE: usize = 256 << 10;

/// What is known of a slot that waits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Was {
    /// Everything before it is in the cluster, of this slot too; none within a snapshot.
    pub since: Option<u64>,
    /// When the first of its commands was begun, and how long after that its answers may come before its keys are
    /// doubted.
    pub begun: Option<(Instant, Duration)>,
    /// Whether the answer 0 to some of its commands means that a key is missing.
    pub watches: bool,
}

/// What is to be sent again of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub was: Was,
    pub behind: Behind,
}

/// What waits on behind that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Nothing,
    /// Commands, the first of them of this entry.
    More(Option<u64>),
}

/// One slot's commands, in order.
#[derive(Debug, Default)]
struct Parked {
    pieces: VecDeque<Piece>,
    was: Was,
    /// Until somebody has looked who owns the slot.
    waits: bool,
}

#[derive(Debug)]
struct Piece {
    held: Held,
    /// The entries of its first command and its last one.
    first: Option<u64>,
    last: Option<u64>,
}

#[derive(Debug)]
enum Held {
    InMemory(Outgoing, Vec<Item>),
    InFile(Filed),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Parking {
    slots: BTreeMap<u16, Parked>,
    overflow: Overflow,
    /// Bytes of commands held in memory, and how many may be.
    in_memory: usize,
    most: usize,
    /// Where to begin next time.
    turn: u16,
}

impl Parking {
    /// Nothing waits. About `most` bytes will be held in memory, and others in files in `dir`.
    pub fn new(dir: PathBuf, most: usize) -> Self {
        Self {
            slots: BTreeMap::new(),
            overflow: Overflow::new(dir),
            in_memory: 0,
            most,
            turn: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes held in memory.
    pub fn in_memory(&self) -> usize {
        self.in_memory
    }

    pub fn has(&self, slot: u16) -> bool {
        self.slots.contains_key(&slot)
    }

    /// The slots.
    pub fn slots(&self) -> impl Iterator<Item = u16> {
        self.slots.keys().copied()
    }

    /// Whether something is to be tried again.
    pub fn is_due(&self) -> bool {
        self.slots.values().any(|slot| !slot.waits)
    }

    /// Somebody has looked who owns what: all are tried again.
    pub fn go_on(&mut self) {
        self.slots.values_mut().for_each(|slot| slot.waits = false);
    }

    /// What may be said to be applied, if all else is up to there.
    pub fn bounded(&self, applied: Option<u64>) -> Option<u64> {
        let oldest = self.slots.values().map(|slot| slot.was.since).min();
        match oldest {
            None => applied,
            Some(since) => since.min(applied),
        }
    }

    /// Parks commands of a flight that were not executed, before what is parked of their slot.
    pub fn park(&mut self, slot: u16, flight: &Flight, commands: &[u32], was: Was) {
        let mut pieces = VecDeque::new();
        for n in commands {
            self.in_memory += append(&mut pieces, flight, *n as usize);
        }
        let parked = self.slots.entry(slot).or_default();
        pieces.append(&mut parked.pieces);
        (parked.pieces, parked.was, parked.waits) = (pieces, was, true);
        self.file();
    }

    /// Parks commands of a flight behind what is parked of their slot.
    pub fn queue(&mut self, slot: u16, flight: &Flight, commands: &[u32]) {
        let Some(parked) = self.slots.get_mut(&slot) else {
            return;
        };
        for n in commands {
            self.in_memory += append(&mut parked.pieces, flight, *n as usize);
        }
        parked.was.watches |= flight.watches;
        parked.was.begun = parked.was.begun.or(flight.begun);
        self.file();
    }

    /// Everything of a slot before this entry is in the cluster.
    pub fn advance(&mut self, slot: u16, since: u64) {
        if let Some(parked) = self.slots.get_mut(&slot) {
            parked.was.since = parked.was.since.max(Some(since));
        }
    }

    /// Moves what is due to the front of what is to be sent next: how many commands that are, and of which slots. Not all
    /// at once, and of each slot the first piece.
    ///
    /// # Errors
    /// When it cannot be read again.
    pub fn take_into(
        &mut self,
        out: &mut Outgoing,
        items: &mut Vec<Item>,
    ) -> io::Result<(usize, BTreeMap<u16, Taken>)> {
        let newer = (std::mem::take(out), std::mem::take(items));
        let mut to = (std::mem::take(out), std::mem::take(items));
        let mut taken = BTreeMap::new();
        let is_due = |(slot, parked): (&u16, &Parked)| (!parked.waits).then_some(*slot);
        let later = self.slots.range(self.turn..).filter_map(is_due);
        let due: Vec<u16> = later
            .chain(self.slots.range(..self.turn).filter_map(is_due))
            .collect();
        self.turn = 0;
        for slot in due {
            if to.0.in_memory() >= self.most {
                self.turn = slot;
                break;
            }
            if let Some(of_slot) = self.take(slot, &mut to)? {
                taken.insert(slot, of_slot);
            }
        }
        let commands = to.0.commands();
        join(&mut to, &newer);
        (*out, *items) = to;
        if self.is_empty() {
            self.overflow.is_empty_now();
        }
        Ok((commands, taken))
    }

    fn take(&mut self, slot: u16, to: &mut (Outgoing, Vec<Item>)) -> io::Result<Option<Taken>> {
        let Some(parked) = self.slots.get_mut(&slot) else {
            return Ok(None);
        };
        let mut last = None;
        while let Some(piece) = parked.pieces.pop_front() {
            last = piece.last.or(last);
            match piece.held {
                Held::InMemory(out, items) => {
                    self.in_memory = self.in_memory.saturating_sub(out.in_memory());
                    join(to, &(out, items));
                }
                Held::InFile(filed) => join(to, &filed.read()?),
            }
            // What belongs to one entry, and what we have to say of it, stays together.
            let goes_with = |next: &Piece| next.first.is_none() || next.first == last;
            let next = parked.pieces.front();
            if parked.was.since.is_none() || !next.is_some_and(goes_with) {
                break;
            }
        }
        let was = parked.was;
        let behind = match parked.pieces.front() {
            Some(next) => Behind::More(next.first),
            None => {
                self.slots.remove(&slot);
                Behind::Nothing
            }
        };
        Ok(Some(Taken { was, behind }))
    }

    /// Writes to a file what is too much for memory. Where that fails, memory has it, and the flow waits in the end.
    fn file(&mut self) {
        if self.in_memory <= self.most {
            return;
        }
        let pieces = self.slots.values_mut().flat_map(|slot| &mut slot.pieces);
        for piece in pieces {
            if let Held::InMemory(out, items) = &piece.held
                && out.is_in_memory()
            {
                let Ok(filed) = self.overflow.write(out, items) else {
                    return;
                };
                self.in_memory = self.in_memory.saturating_sub(out.in_memory());
                piece.held = Held::InFile(filed);
            }
        }
    }
}

/// Appends a command of a flight to the last piece, or to a new one; by how much that is more in memory.
fn append(pieces: &mut VecDeque<Piece>, flight: &Flight, n: usize) -> usize {
    let lsn = flight.out.lsn(n);
    let fits = |piece: &&mut Piece| match &piece.held {
        // A value in a file is no commands to be filed.
        Held::InMemory(out, _) => {
            out.in_memory() < PIECE && out.is_in_memory() && flight.out.in_one(n).is_some()
        }
        Held::InFile(_) => false,
    };
    if pieces
        .back_mut()
        .as_ref()
        .filter(|piece| fits(piece))
        .is_none()
    {
        pieces.push_back(Piece {
            held: Held::InMemory(Outgoing::new(), Vec::new()),
            first: lsn,
            last: None,
        });
    }
    let Some(piece) = pieces.back_mut() else {
        return 0;
    };
    piece.last = lsn.or(piece.last);
    let Held::InMemory(out, items) = &mut piece.held else {
        return 0;
    };
    let before = out.in_memory();
    items.push(Item {
        first: out.commands(),
        ..flight.item_of(n)
    });
    out.append(&flight.out, n);
    out.in_memory() - before
}

/// Appends commands to others.
fn join(to: &mut (Outgoing, Vec<Item>), from: &(Outgoing, Vec<Item>)) {
    let base = to.0.commands();
    (0..from.0.commands()).for_each(|n| to.0.append(&from.0, n));
    to.1.extend(from.1.iter().map(|item| Item {
        first: item.first + base,
        ..*item
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::answer::Tolerate;
    use crate::target::writer::Kind;

    fn parking(most: usize) -> Parking {
        Parking::new(std::env::temp_dir(), most)
    }

    fn since(since: u64) -> Was {
        Was {
            since: Some(since),
            ..Was::default()
        }
    }

    /// Commands with these keys, of these entries.
    fn flight(keys: &[(&str, Option<u64>)]) -> Flight {
        let mut flight = Flight::default();
        for (n, (key, lsn)) in keys.iter().enumerate() {
            flight.items.push(Item {
                first: n,
                kind: if n % 2 == 0 {
                    Kind::Entry
                } else {
                    Kind::Record
                },
                tolerate: Tolerate::Nothing,
            });
            flight.out.command(2, *lsn);
            flight.out.word(b"INCR");
            flight.out.word(key.as_bytes());
        }
        flight
    }

    /// The keys of what is taken before these, and of which slots.
    fn taken(parking: &mut Parking, newest: Flight) -> (String, usize, BTreeMap<u16, Taken>) {
        let (mut out, mut items) = (newest.out, newest.items);
        let (commands, slots) = parking.take_into(&mut out, &mut items).unwrap();
        let firsts: Vec<_> = items.iter().map(|item| item.first).collect();
        assert_eq!(firsts, (0..out.commands()).collect::<Vec<_>>());
        let keys = (0..out.commands()).map(|n| out.describe(n).words[0].clone());
        let keys = keys.map(|key| String::from_utf8(key[..1].to_vec()).unwrap());
        (keys.collect(), commands, slots)
    }

    #[test]
    fn what_is_parked_comes_first_and_in_order_and_holds_back_what_is_applied() {
        let mut parking = parking(1 << 20);
        assert_eq!(parking.bounded(Some(9)), Some(9));
        let first = flight(&[("a", Some(5)), ("b", Some(6)), ("c", Some(7))]);
        parking.park(7, &first, &[0, 2], since(5));
        parking.park(3, &first, &[1], since(5));
        parking.queue(7, &flight(&[("d", Some(8))]), &[0]);
        assert_eq!(parking.bounded(Some(9)), Some(5));
        assert!(parking.has(7) && !parking.has(8));
        assert!(!parking.is_due());
        let newest = || flight(&[("e", Some(9))]);
        assert_eq!(taken(&mut parking, newest()).0, "e", "nobody has looked");
        parking.go_on();
        let (keys, commands, slots) = taken(&mut parking, newest());
        assert_eq!((&*keys, commands), ("bacde", 4));
        assert_eq!(slots[&3].was.since, Some(5));
        assert_eq!(slots[&7].behind, Behind::Nothing);
        assert!(parking.is_empty() && parking.in_memory() == 0);
        parking.park(3, &flight(&[("z", None)]), &[0], Was::default());
        assert_eq!(parking.bounded(Some(9)), None);
    }

    #[test]
    fn a_slot_goes_on_piece_by_piece_and_what_is_redirected_again_comes_before_the_rest() {
        let mut parking = parking(1_000);
        let long = "a".repeat(PIECE);
        let keys = [
            (&*long, Some(5)),
            ("b", Some(6)),
            (&*long.replace('a', "c"), Some(6)),
            ("d", None),
            ("e", Some(8)),
        ];
        let all = flight(&keys.map(|(key, lsn)| (key, lsn)));
        parking.park(7, &all, &[0], since(5));
        assert_eq!(parking.in_memory(), 0, "it is in a file");
        parking.queue(7, &all, &[1, 2]);
        parking.queue(7, &all, &[3, 4]);
        assert!(parking.in_memory() < 1_000, "{}", parking.in_memory());
        parking.go_on();
        let (keys, commands, slots) = taken(&mut parking, flight(&[("z", Some(9))]));
        assert_eq!((&*keys, commands), ("az", 1));
        assert_eq!(slots[&7].behind, Behind::More(Some(6)));
        // It was redirected again.
        let again = flight(&[("a", Some(5))]);
        parking.park(7, &again, &[0], slots[&7].was);
        assert!(!parking.is_due());
        parking.go_on();
        let (keys, _, slots) = taken(&mut parking, Flight::default());
        assert_eq!((&*keys, slots[&7].was.since), ("a", Some(5)));
        parking.advance(7, 6);
        assert_eq!(parking.bounded(Some(9)), Some(6));
        // Both commands of one entry, and what is ours behind them.
        let (keys, _, slots) = taken(&mut parking, Flight::default());
        assert_eq!((&*keys, slots[&7].was.since), ("bcde", Some(6)));
        assert!(parking.is_empty());
    }

    #[test]
    fn slots_take_turns_where_not_all_fit() {
        let mut parking = parking(20);
        for (slot, key) in [(1, "a"), (2, "b"), (3, "c")] {
            parking.park(slot, &flight(&[(key, Some(5))]), &[0], since(5));
        }
        parking.go_on();
        assert_eq!(taken(&mut parking, Flight::default()).0, "a");
        parking.park(1, &flight(&[("a", Some(5))]), &[0], since(5));
        parking.go_on();
        assert_eq!(taken(&mut parking, Flight::default()).0, "b");
        assert_eq!(taken(&mut parking, Flight::default()).0, "c");
        assert_eq!(taken(&mut parking, Flight::default()).0, "a");
    }
}
