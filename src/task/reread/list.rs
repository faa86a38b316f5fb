//! The keys of one flow whose value on the target is not to be trusted, until they are read again from the source.
//!
//! ```text
//!            add                 ask                  answer: read within [from, to)
//!   (nothing) ──► waiting ─────────────► asked ──────────────────────────► read ── flow reaches `to` ──► written
//!                    ▲   touched at or after `from` │                       │ touched within [from, to)
//!                    └──────────────────────────────┴───────────────────────┘
//! ```
//!
//! Why that is exact: an entry before `from` had taken effect at the source when the value was read, so the value holds
//! it; one at or after `to` had not, so it is applied on top. An entry between may or may not be in the value: then the
//! key is read once more. Entries for the key are not applied while it is here, only noted, so that nothing is applied
//! twice. An entry that was taken before the question was asked is before `from`, since the source had sent it.
//!
//! Invariants: a key is here once; what is due is written before any entry from `to` on is taken.
//! Units: positions are LSNs of the flow, "the next entry".

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::source::dragonfly::{Found, Payload};

/// Bytes of values that wait until the flow is where they were read; then no more are asked for. A flow that is far behind
/// would have many of them wait for long.
const MOST_WAITING: u64 = 4 << 20;

/// A key of a database of the source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Database at the source.
    pub db: u32,
    /// The key.
    pub key: Box<[u8]>,
}

/// A value as the source had it, or none: between two positions of the flow.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Position before the first question.
    pub from: u64,
    /// Position after the last answer.
    pub to: u64,
    /// In the order in which they were asked.
    pub values: Vec<(Place, Option<Found>)>,
}

#[derive(Debug)]
enum State {
    Waiting,
    Asked {
        /// The last entry for it that came since.
        touched: Option<u64>,
    },
    Read {
        from: u64,
        to: u64,
        value: Option<Found>,
    },
}

impl State {
    /// Bytes of memory of a value that was read.
    fn bytes(&self) -> u64 {
        match self {
            Self::Read {
                value: Some(found), ..
            } => match &found.payload {
                Payload::Inline(bytes) => bytes.len() as u64,
                Payload::Spilled(_) => 0,
            },
            Self::Waiting | Self::Asked { .. } | Self::Read { .. } => 0,
        }
    }
}

#[derive(Debug)]
struct Held {
    state: State,
    /// Everything before is on the target; 0 if the snapshot is not.
    since: u64,
}

/// One flow's list.
#[derive(Debug, Default)]
pub(crate) struct List {
    keys: HashMap<u32, HashMap<Box<[u8]>, Held>>,
    count: usize,
    /// Bytes of the values that were read.
    bytes: u64,
    /// To be asked for, in order. May name keys that are no longer here.
    waiting: VecDeque<Place>,
    /// The same for keys that were written while they were read: each is asked for alone, which is quicker.
    busy: VecDeque<Place>,
    /// Whether the last question was for several.
    asked_several: bool,
    /// By the position where they are written. May name keys that are no longer here.
    due: BTreeMap<u64, Vec<Place>>,
    /// How many keys are here since a position.
    since: BTreeMap<u64, usize>,
}

impl List {
    /// How many keys are here.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The position before which everything is on the target, as far as this list knows.
    #[inline]
    pub fn oldest(&self) -> Option<u64> {
        self.since.first_key_value().map(|(since, _)| *since)
    }

    /// Whether a key is here.
    pub fn has(&self, db: u32, key: &[u8]) -> bool {
        self.keys
            .get(&db)
            .is_some_and(|keys| keys.contains_key(key))
    }

    /// Puts a key here, unless it is. `since` is the position before the entry that is to blame.
    pub fn add(&mut self, db: u32, key: &[u8], since: u64) -> bool {
        if self.has(db, key) {
            return false;
        }
        let key: Box<[u8]> = key.into();
        let held = Held {
            state: State::Waiting,
            since,
        };
        self.keys.entry(db).or_default().insert(key.clone(), held);
        self.count += 1;
        *self.since.entry(since).or_default() += 1;
        self.waiting.push_back(Place { db, key });
        true
    }

    /// An entry for the key was taken, and not applied. `lsn` is none inside a snapshot.
    pub fn touch(&mut self, db: u32, key: &[u8], lsn: Option<u64>) {
        let Some(held) = self.keys.get_mut(&db).and_then(|keys| keys.get_mut(key)) else {
            return;
        };
        match &mut held.state {
            State::Waiting => {}
            State::Asked { touched } => *touched = lsn.or(*touched),
            State::Read { from, .. } if lsn.is_some_and(|lsn| lsn < *from) => {}
            State::Read { .. } => {
                self.bytes -= held.state.bytes();
                held.state = State::Waiting;
                let key = key.into();
                self.busy.push_back(Place { db, key });
            }
        }
    }

    /// Takes a key off, since what the target has is right again.
    pub fn remove(&mut self, db: u32, key: &[u8]) -> bool {
        self.take(db, key).is_some()
    }

    fn take(&mut self, db: u32, key: &[u8]) -> Option<Held> {
        let keys = self.keys.get_mut(&db)?;
        let held = keys.remove(key)?;
        if keys.is_empty() {
            self.keys.remove(&db);
        }
        self.count -= 1;
        self.bytes -= held.state.bytes();
        if let Some(count) = self.since.get_mut(&held.since) {
            *count -= 1;
            if *count == 0 {
                self.since.remove(&held.since);
            }
        }
        Some(held)
    }

    /// Takes off all keys, or those of one database.
    pub fn clear(&mut self, db: Option<u32>) {
        let Some(db) = db else {
            *self = Self::default();
            return;
        };
        let keys = self.keys.get(&db).into_iter().flat_map(|keys| keys.keys());
        for key in keys.cloned().collect::<Vec<_>>() {
            self.take(db, &key);
        }
    }

    /// All keys, in no order.
    pub fn places(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.keys
            .iter()
            .flat_map(|(db, keys)| keys.keys().map(|key| (*db, key.as_ref())))
    }

    /// The next keys to be read, at most `most`. They count as asked for from now on. One that was written while it was
    /// read comes alone. None while much that was read waits to be written.
    pub fn ask(&mut self, most: usize) -> Vec<Place> {
        if self.bytes >= MOST_WAITING {
            return Vec::new();
        }
        self.asked_several = !self.asked_several;
        let asked = match self.asked_several {
            true => self.ask_several(most),
            false => self.ask_busy(),
        };
        match (asked.is_empty(), self.asked_several) {
            (false, _) => asked,
            (true, true) => self.ask_busy(),
            (true, false) => self.ask_several(most),
        }
    }

    fn ask_several(&mut self, most: usize) -> Vec<Place> {
        let mut asked = Vec::new();
        while asked.len() < most
            && let Some(place) = self.waiting.pop_front()
        {
            asked.extend(self.asked(place));
        }
        asked
    }

    fn ask_busy(&mut self) -> Vec<Place> {
        while let Some(place) = self.busy.pop_front() {
            if let Some(place) = self.asked(place) {
                return vec![place];
            }
        }
        Vec::new()
    }

    fn asked(&mut self, place: Place) -> Option<Place> {
        let keys = self.keys.get_mut(&place.db)?;
        let held = keys.get_mut(&place.key)?;
        let waits = matches!(held.state, State::Waiting);
        waits.then(|| {
            held.state = State::Asked { touched: None };
            place
        })
    }

    /// Takes what was read. Keys that were taken off meanwhile, or put here anew, are left out.
    pub fn answer(&mut self, answer: Answer) {
        let Answer { from, to, values } = answer;
        for (place, value) in values {
            let keys = self.keys.get_mut(&place.db);
            let Some(held) = keys.and_then(|keys| keys.get_mut(&place.key)) else {
                continue;
            };
            let State::Asked { touched } = held.state else {
                continue;
            };
            if touched.is_some_and(|lsn| lsn >= from) {
                held.state = State::Waiting;
                self.busy.push_back(place);
            } else {
                held.state = State::Read { from, to, value };
                self.bytes += held.state.bytes();
                self.due.entry(to).or_default().push(place);
            }
        }
    }

    /// Whether something is to be written before the entry `next` is taken.
    #[inline]
    pub fn is_due(&self, next: u64) -> bool {
        self.due
            .first_key_value()
            .is_some_and(|(to, _)| *to <= next)
    }

    /// Takes off what is to be written before the entry `next` is taken.
    pub fn take_due(&mut self, next: u64) -> Vec<(Place, Option<Found>)> {
        let mut due = Vec::new();
        while self.is_due(next)
            && let Some((reached, places)) = self.due.pop_first()
        {
            for place in places {
                let keys = self.keys.get(&place.db);
                let is_read = keys.and_then(|keys| keys.get(&place.key)).is_some_and(
                    |held| matches!(held.state, State::Read { to, .. } if to == reached),
                );
                if is_read
                    && let Some(Held {
                        state: State::Read { value, .. },
                        ..
                    }) = self.take(place.db, &place.key)
                {
                    due.push((place, value));
                }
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::dragonfly::Payload;
    use proptest::prelude::*;

    fn found(text: u64) -> Option<Found> {
        Some(Found {
            payload: Payload::Inline(text.to_string().into_bytes()),
            expire_at_ms: None,
        })
    }

    fn number(found: Option<Found>) -> u64 {
        match found.expect("a value").payload {
            Payload::Inline(bytes) => String::from_utf8(bytes).unwrap().parse().unwrap(),
            Payload::Spilled(_) => unreachable!("values of this test are short"),
        }
    }

    #[test]
    fn a_key_is_written_where_it_was_read_unless_an_entry_came_between() {
        let mut list = List::default();
        assert!(list.add(0, b"k", 5) && !list.add(0, b"k", 6));
        assert_eq!((list.len(), list.oldest()), (1, Some(5)));
        let asked = list.ask(9);
        assert!(list.ask(9).is_empty());
        let answer = |asked: &[Place], from, to, value| Answer {
            from,
            to,
            values: asked
                .iter()
                .map(|place| (place.clone(), found(value)))
                .collect(),
        };
        list.touch(0, b"k", Some(7));
        list.answer(answer(&asked, 7, 9, 1));
        assert!(
            !list.is_due(100),
            "the entry came behind the first position"
        );
        let asked = list.ask(9);
        list.answer(answer(&asked, 10, 12, 2));
        list.touch(0, b"k", Some(9));
        assert!(!list.is_due(11) && list.is_due(12));
        list.touch(0, b"k", Some(11));
        assert!(list.take_due(12).is_empty());
        let asked = list.ask(9);
        list.answer(answer(&asked, 12, 12, 3));
        let due = list.take_due(12);
        assert_eq!(
            due.into_iter()
                .map(|(_, value)| number(value))
                .collect::<Vec<_>>(),
            [3]
        );
        assert!(list.is_empty() && list.oldest().is_none());
    }

    #[test]
    fn no_more_is_asked_for_while_much_that_was_read_waits() {
        let mut list = List::default();
        let large = |_: &Place| {
            Some(Found {
                payload: Payload::Inline(vec![0; 1 << 20]),
                expire_at_ms: None,
            })
        };
        let read = |list: &mut List, to: u64| {
            let asked = list.ask(1);
            let values = asked
                .into_iter()
                .map(|place| (place.clone(), large(&place)));
            let values: Vec<_> = values.collect();
            let count = values.len();
            let from = to;
            list.answer(Answer { from, to, values });
            count
        };
        (0..9).for_each(|n| _ = list.add(0, &[n], 1));
        assert_eq!((0..9).map(|n| read(&mut list, 10 + n)).sum::<usize>(), 4);
        list.touch(0, &[0], Some(12));
        assert_eq!(read(&mut list, 20), 1, "one of them has to be read again");
        assert_eq!(read(&mut list, 21), 0);
        assert_eq!(list.take_due(12).len(), 2);
        assert_eq!((0..9).map(|n| read(&mut list, 30 + n)).sum::<usize>(), 2);
        assert_eq!(list.take_due(100).len(), 4);
        list.clear(Some(0));
        assert_eq!((list.len(), list.bytes), (0, 0));
    }

    #[test]
    fn what_is_taken_off_and_put_back_is_not_answered_by_an_older_question() {
        let mut list = List::default();
        list.add(1, b"k", 5);
        let asked = list.ask(1);
        assert!(list.remove(1, b"k"));
        list.add(1, b"k", 8);
        let values = asked.into_iter().map(|place| (place, None)).collect();
        list.answer(Answer {
            from: 6,
            to: 7,
            values,
        });
        assert!(!list.is_due(u64::MAX));
        list.clear(Some(0));
        assert_eq!(list.places().collect::<Vec<_>>(), [(1, &b"k"[..])]);
        list.clear(None);
        assert!(list.is_empty() && list.ask(1).is_empty());
    }

    /// A source with one counter per key, and a target that gets its entries late.
    #[derive(Debug, Clone)]
    enum Step {
        /// The source adds 1 to a key.
        Write(u8),
        /// The target takes the next entry.
        Take,
        /// The target no longer trusts a key, and has a wrong value.
        Distrust(u8),
        /// A question is asked: the first position is read.
        Ask,
        /// The values are read, one at each step.
        Read,
        /// The second position is read, and the answer arrives.
        Answer,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..4u8).prop_map(Step::Write),
            3 => Just(Step::Take),
            1 => (0..4u8).prop_map(Step::Distrust),
            1 => Just(Step::Ask),
            1 => Just(Step::Read),
            1 => Just(Step::Answer),
        ]
    }

    #[derive(Default)]
    struct World {
        journal: Vec<u8>,
        source: [u64; 4],
        taken: usize,
        target: [u64; 4],
        list: List,
        question: Option<Question>,
    }

    struct Question {
        from: u64,
        asked: Vec<Place>,
        read: Vec<(Place, Option<Found>)>,
    }

    impl World {
        fn write_due(&mut self) {
            for (place, value) in self.list.take_due(self.taken as u64) {
                self.target[usize::from(place.key[0])] = number(value);
            }
        }

        fn act(&mut self, step: &Step) {
            match step {
                Step::Write(key) => {
                    self.source[usize::from(*key)] += 1;
                    self.journal.push(*key);
                }
                Step::Take => {
                    self.write_due();
                    let Some(key) = self.journal.get(self.taken).copied() else {
                        return;
                    };
                    match self.list.has(0, &[key]) {
                        true => self.list.touch(0, &[key], Some(self.taken as u64)),
                        false => self.target[usize::from(key)] += 1,
                    }
                    self.taken += 1;
                }
                Step::Distrust(key) => {
                    self.target[usize::from(*key)] = 1_000_000;
                    self.list.add(0, &[*key], self.taken as u64);
                }
                Step::Ask if self.question.is_none() => {
                    let asked = self.list.ask(2);
                    self.question = Some(Question {
                        from: self.journal.len() as u64,
                        asked,
                        read: Vec::new(),
                    });
                }
                Step::Read => {
                    if let Some(question) = &mut self.question
                        && let Some(place) = question.asked.pop()
                    {
                        let value = found(self.source[usize::from(place.key[0])]);
                        question.read.push((place, value));
                    }
                }
                Step::Answer
                    if self
                        .question
                        .as_ref()
                        .is_some_and(|question| question.asked.is_empty()) =>
                {
                    if let Some(question) = self.question.take() {
                        self.list.answer(Answer {
                            from: question.from,
                            to: self.journal.len() as u64,
                            values: question.read,
                        });
                    }
                    self.write_due();
                }
                Step::Ask | Step::Answer => {}
            }
        }
    }

    proptest! {
        #[test]
        fn in_the_end_every_key_is_what_the_source_has(steps in prop::collection::vec(step(), 0..200)) {
            let mut world = World::default();
            steps.iter().for_each(|step| world.act(step));
            for _ in 0..1_000 {
                if world.list.is_empty() && world.taken == world.journal.len() {
                    break;
                }
                for step in [Step::Read, Step::Read, Step::Answer, Step::Ask, Step::Take] {
                    world.act(&step);
                }
            }
            prop_assert!(world.list.is_empty());
            prop_assert_eq!(world.target, world.source);
        }
    }
}
