//! Where one value ends, while it is still arriving in pieces.
//!
//! A [`Walker`] follows the outer structure of a value (counts, string lengths, fixed-size fields)
//! and passes over what is inside the strings by count. It finds the end, not the meaning: a value
//! it has walked can still hold a broken listpack.
//!
//! Invariants: `walk` consumes every byte it is given until the value ends, so a caller never has
//! to present a byte twice; the walker's memory is its own size, whatever the value's; a count or
//! length from the wire is compared or decremented, never added to an offset unchecked.
//! Facts: the layouts of the value types Dragonfly v1.14 to v1.40 sends, and Redis' stream types.

use super::string::LZF_EXPANSION;
use super::{Cursor, Halt};

/// A string longer than this is refused: no server can hold it, so the length is corrupt, and
/// waiting for so many bytes would be waiting for ever. 16 GiB.
pub const STRING_LIMIT: u64 = 1 << 34;

/// Most elements of one value: far more than any server holds, and few enough that a damaged count is
/// refused instead of being waited for.
pub const COUNT_LIMIT: u64 = 1 << 34;

/// Reads how many elements follow; more than [`COUNT_LIMIT`] is invalid.
pub(super) fn count(cursor: &mut Cursor<'_>) -> Result<u64, Halt> {
    let over = cursor.invalid(TOO_MANY);
    let count = cursor.packed()?;
    if count > COUNT_LIMIT {
        Err(over)
    } else {
        Ok(count)
    }
}

/// What is wrong with a count over the limit.
const TOO_MANY: &str = "more elements than any server holds";

/// The longest head of a string: `C3` and two packed integers of 9 bytes.
const HEAD_MAX: usize = 19;

/// The value type is not one whose layout is known, and so its end cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("value type {0} is not known")]
pub struct UnknownType(pub u8);

/// How far one call of [`Walker::walk`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    /// Bytes of the slice that belong to the value: all of them unless `done`.
    pub consumed: usize,
    /// Whether the value's last byte was among them (or came earlier).
    pub done: bool,
    /// Bytes the value needs at least beyond those seen so far; 0 exactly when `done`.
    pub missing: usize,
}

/// What to do when everything that was asked for has passed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing follows.
    End,
    /// `last` counted groups of this many strings.
    Strings(u8),
    /// `last` counted pairs of a string and a binary score.
    Scores,
    /// `last` counted list nodes.
    Nodes,
    /// At a border between list nodes.
    Node,
    /// `last` is a list node's container.
    Container,
    /// `last` counted stream nodes.
    StreamNodes,
    /// The stream's own fields come next.
    StreamFields,
    /// `last` counted groups.
    Groups,
    /// At a border between groups.
    Group,
    /// `last` counted a group's pending entries.
    Pending,
    /// At a border between pending entries.
    PendingEntry,
    /// `last` counted consumers.
    Consumers,
    /// At a border between consumers.
    Consumer,
    /// `last` counted a consumer's pending entries.
    OwnPending,
    /// A Bloom filter's options passed.
    Bloom,
    /// `last` counted filters.
    Filters,
    /// At a border between filters.
    Filter,
    /// One filter's hash count passed; its bits are one string.
    FilterString,
    /// `last` is a filter's size.
    FilterSize,
    /// At a border between chunks.
    Chunk,
    /// `last` is a chunk's size.
    ChunkSize,
    /// `last` is a sketch's width.
    SketchWidth,
    /// `last` is a sketch's depth.
    SketchDepth,
    /// A sketch's total passed; `outer` is its size.
    SketchCells,
    /// The four parameters of a top-k passed.
    TopK,
    /// `last` is the heap's size.
    Heap,
    /// At a border between heap items.
    HeapItem,
    /// `last` is the size of the counters.
    HeapCounters,
}

/// Finds the end of one value. Cheap to make and to keep: about 80 bytes, no heap.
///
/// It is always waiting for, in this order, `skip` bytes, `strings` strings (each followed by
/// `tail` bytes) and `packed` packed integers; when these have passed, `step` says what is next.
#[derive(Debug, Clone)]
pub struct Walker {
    kind: u8,
    step: Step,
    /// Bytes after each string of the run.
    tail: u8,
    /// Packed integers still to come.
    packed: u8,
    /// How much of `carry` is in use.
    carried: u8,
    /// The start of a length whose end has not arrived.
    carry: [u8; HEAD_MAX],
    skip: u64,
    strings: u64,
    /// The last packed integer.
    last: u64,
    outer: u64,
    inner: u64,
}

impl Walker {
    /// A walker for the value that follows a key of type `kind`.
    pub fn new(kind: u8) -> Result<Self, UnknownType> {
        let (strings, packed, step) = match kind {
            // 20 is JSON in Dragonfly v1.14; Redis' own 20 (a set's listpack) is one string too.
            0 | 11 | 12 | 13 | 16 | 17 | 20 | 30 => (1, 0, Step::End),
            2 | 14 => (0, 1, Step::Strings(1)),
            4 | 32 => (0, 1, Step::Strings(2)),
            31 => (0, 1, Step::Strings(3)),
            5 => (0, 1, Step::Scores),
            18 => (0, 1, Step::Nodes),
            15 | 19 | 21 => (0, 1, Step::StreamNodes),
            33 | 34 => (0, 1, Step::Bloom),
            35 => (0, 1, Step::SketchWidth),
            36 => (0, 4, Step::TopK),
            37 => (0, 7, Step::Filters),
            _ => return Err(UnknownType(kind)),
        };
        Ok(Self {
            kind,
            step,
            packed,
            strings,
            ..Self::string()
        })
    }

    /// A walker for one string, such as a key.
    pub fn string() -> Self {
        Self {
            kind: 0,
            step: Step::End,
            tail: 0,
            packed: 0,
            carried: 0,
            carry: [0; HEAD_MAX],
            skip: 0,
            strings: 1,
            last: 0,
            outer: 0,
            inner: 0,
        }
    }

    /// Passes over the bytes that belong to the value.
    ///
    /// All of `bytes` is consumed unless the value ends before their end; a length cut in two is
    /// kept by the walker itself. Presents no `Incomplete`: more bytes are needed when not `done`.
    /// After an error the walker must not be used again. `at` of [`Halt::Invalid`] is an offset
    /// into this call's `bytes`.
    pub fn walk(&mut self, bytes: &[u8]) -> Result<Walked, Halt> {
        let mut at = self.resume(bytes)?;
        let mut done = false;
        while self.carried == 0 {
            let passed = self.skip.min((bytes.len() - at) as u64);
            self.skip -= passed;
            at += passed as usize;
            if self.skip > 0 {
                break;
            }
            if self.strings > 0 {
                at = self.pass_strings(bytes, at)?;
                if self.strings > 0 || self.skip > 0 {
                    break;
                }
            } else if self.packed > 0 {
                at = self.pass_packed(bytes, at)?;
                if self.packed > 0 {
                    break;
                }
            } else if !self.advance(at)? {
                done = true;
                break;
            }
        }
        Ok(Walked {
            consumed: at,
            done,
            missing: if done { 0 } else { self.missing() },
        })
    }

    /// Completes a length of which only the start had arrived. Returns the bytes used.
    fn resume(&mut self, bytes: &[u8]) -> Result<usize, Halt> {
        if self.carried == 0 {
            return Ok(0);
        }
        for (at, byte) in bytes.iter().enumerate() {
            let used = usize::from(self.carried);
            let Some(free) = self.carry.get_mut(used) else {
                return Err(invalid(at, "a length without end"));
            };
            *free = *byte;
            self.carried += 1;
            let carry = self.carry;
            let head = carry.get(..=used).unwrap_or_default();
            let whole = if self.strings > 0 {
                string_head(head).map(|(_, len)| self.enter_string(len))
            } else {
                Cursor::new(head).packed().map(|value| {
                    self.last = value;
                    self.packed -= 1;
                })
            };
            match whole {
                Ok(()) => {
                    self.carried = 0;
                    return Ok(at + 1);
                }
                Err(Halt::Incomplete { .. }) => {}
                Err(Halt::Invalid { what, .. }) => return Err(invalid(at, what)),
            }
        }
        Ok(bytes.len())
    }

    fn enter_string(&mut self, len: u64) {
        self.strings -= 1;
        self.skip = len + u64::from(self.tail); // len <= STRING_LIMIT
    }

    /// The tight loop: passes whole strings until the run or the bytes end. Returns the new place.
    fn pass_strings(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, Halt> {
        let tail = u64::from(self.tail);
        let mut left = self.strings;
        while left > 0 {
            let rest = bytes.get(at..).unwrap_or_default();
            let (head, len) = match rest {
                [] => break,
                [first, ..] if *first < 0x40 => (1, u64::from(*first)),
                [first, second, ..] if *first < 0x80 => {
                    (2, u64::from(u16::from_be_bytes([first & 0x3F, *second])))
                }
                _ => match string_head(rest) {
                    Ok(head) => head,
                    Err(Halt::Incomplete { .. }) => {
                        self.strings = left;
                        return Ok(self.keep(rest, bytes.len()));
                    }
                    Err(Halt::Invalid { what, .. }) => return Err(invalid(at, what)),
                },
            };
            left -= 1;
            let whole = head as u64 + len + tail; // len <= STRING_LIMIT
            if whole > rest.len() as u64 {
                self.strings = left;
                self.skip = whole - rest.len() as u64;
                return Ok(bytes.len());
            }
            at += whole as usize;
        }
        self.strings = left;
        Ok(at)
    }

    fn pass_packed(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, Halt> {
        while self.packed > 0 {
            let rest = bytes.get(at..).unwrap_or_default();
            let mut cursor = Cursor::new(rest);
            match cursor.packed() {
                Ok(value) => self.last = value,
                Err(Halt::Incomplete { .. }) => return Ok(self.keep(rest, bytes.len())),
                Err(Halt::Invalid { what, .. }) => return Err(invalid(at, what)),
            }
            self.packed -= 1;
            at += cursor.position();
        }
        Ok(at)
    }

    /// Keeps the start of a length for the next call. Returns the place, which is the end.
    fn keep(&mut self, rest: &[u8], end: usize) -> usize {
        for (slot, byte) in self.carry.iter_mut().zip(rest) {
            *slot = *byte;
        }
        self.carried = rest.len().min(HEAD_MAX) as u8;
        end
    }

    /// Asks for what the layout has next. `false` at the end of the value.
    fn advance(&mut self, at: usize) -> Result<bool, Halt> {
        self.tail = 0;
        let counted = matches!(
            self.step,
            Step::Strings(_)
                | Step::Scores
                | Step::Nodes
                | Step::StreamNodes
                | Step::Groups
                | Step::Pending
                | Step::Consumers
                | Step::OwnPending
                | Step::Filters
        );
        if counted && self.last > COUNT_LIMIT {
            return Err(invalid(at, TOO_MANY));
        }
        match self.step {
            Step::End => return Ok(false),
            Step::Strings(each) => {
                self.ask(Step::End, self.last.saturating_mul(u64::from(each)), 0, 0);
            }
            Step::Scores => self.ask(Step::End, self.last, 8, 0),
            Step::Nodes => {
                self.outer = self.last;
                self.step = Step::Node;
            }
            Step::Node => self.each(Step::Container, 0, 1),
            Step::Container if matches!(self.last, 1 | 2) => self.ask(Step::Node, 1, 0, 0),
            Step::Container => return Err(invalid(at, "not a container of a list node")),
            Step::StreamNodes
            | Step::StreamFields
            | Step::Groups
            | Step::Group
            | Step::Pending
            | Step::PendingEntry
            | Step::Consumers
            | Step::Consumer
            | Step::OwnPending => self.advance_stream(),
            Step::Bloom
            | Step::Filters
            | Step::Filter
            | Step::FilterString
            | Step::FilterSize
            | Step::Chunk
            | Step::ChunkSize
            | Step::SketchWidth
            | Step::SketchDepth
            | Step::SketchCells
            | Step::TopK
            | Step::Heap
            | Step::HeapItem
            | Step::HeapCounters => self.advance_sketch(at)?,
        }
        Ok(true)
    }

    fn advance_stream(&mut self) {
        let newer = u8::from(self.kind != 15);
        match self.step {
            Step::StreamNodes => self.ask(Step::StreamFields, self.last.saturating_mul(2), 0, 0),
            // Length, last id, then from 19 on first id, greatest deleted id and entries added;
            // and the count of groups.
            Step::StreamFields => self.ask(Step::Groups, 0, 0, 4 + 5 * newer),
            Step::Groups => {
                self.outer = self.last;
                self.step = Step::Group;
            }
            // Name, last delivered id, from 19 on entries read; and the count of pending entries.
            Step::Group => self.each(Step::Pending, 1, 3 + newer),
            Step::Pending => {
                self.inner = self.last;
                self.step = Step::PendingEntry;
            }
            Step::PendingEntry if self.inner == 0 => self.ask(Step::Consumers, 0, 0, 1),
            Step::PendingEntry => {
                self.inner -= 1;
                self.skip = 24; // id and delivery time
                self.packed = 1; // delivery count
            }
            Step::Consumers => {
                self.inner = self.last;
                self.step = Step::Consumer;
            }
            Step::Consumer if self.inner == 0 => self.step = Step::Group,
            Step::Consumer => {
                self.inner -= 1;
                let times = if self.kind == 21 { 16 } else { 8 };
                self.ask(Step::OwnPending, 1, times, 1);
            }
            _ => {
                self.skip = self.last.saturating_mul(16);
                self.step = Step::Consumer;
            }
        }
    }

    fn advance_sketch(&mut self, at: usize) -> Result<(), Halt> {
        let too_large = invalid(at, "a sketch larger than memory can be");
        match self.step {
            Step::Bloom => {
                self.skip = 16; // growth factor and probability
                self.ask(Step::Filters, 0, 0, 4);
            }
            Step::Filters => {
                self.outer = self.last;
                self.step = Step::Filter;
            }
            Step::Filter => match self.kind {
                33 => self.each(Step::FilterString, 0, 1),
                34 => self.each(Step::FilterSize, 0, 2),
                _ => self.each(Step::FilterSize, 0, 1),
            },
            Step::FilterString => self.ask(Step::Filter, 1, 0, 0),
            Step::FilterSize => {
                self.inner = self.last;
                self.step = Step::Chunk;
            }
            Step::Chunk if self.inner == 0 => self.step = Step::Filter,
            Step::Chunk => self.ask(Step::ChunkSize, 0, 0, 1),
            Step::ChunkSize if self.last == 0 || self.last > self.inner => {
                return Err(invalid(at, "a chunk that does not fit its filter"));
            }
            Step::ChunkSize => {
                self.inner -= self.last;
                self.skip = self.last;
                self.step = Step::Chunk;
            }
            Step::SketchWidth => {
                self.outer = self.last.checked_mul(8).ok_or(too_large)?;
                self.ask(Step::SketchDepth, 0, 0, 1);
            }
            Step::SketchDepth => {
                self.outer = self.outer.checked_mul(self.last).ok_or(too_large)?;
                self.ask(Step::SketchCells, 0, 0, 1);
            }
            Step::SketchCells => {
                self.skip = self.outer;
                self.step = Step::End;
            }
            Step::TopK => {
                self.skip = 8; // decay
                self.ask(Step::Heap, 0, 0, 1);
            }
            Step::Heap => {
                self.outer = self.last;
                self.step = Step::HeapItem;
            }
            Step::HeapItem if self.outer == 0 => self.ask(Step::HeapCounters, 0, 0, 1),
            Step::HeapItem => self.each(Step::HeapItem, 1, 1),
            _ => {
                self.skip = self.last;
                self.step = Step::End;
            }
        }
        Ok(())
    }

    fn ask(&mut self, step: Step, strings: u64, tail: u8, packed: u8) {
        (self.step, self.strings, self.tail, self.packed) = (step, strings, tail, packed);
    }

    /// Asks for one of the `outer` parts, or ends when none is left.
    fn each(&mut self, step: Step, strings: u64, packed: u8) {
        if self.outer == 0 {
            self.step = Step::End;
        } else {
            self.outer -= 1;
            self.ask(step, strings, 0, packed);
        }
    }

    /// A lower bound of what is to come: every string has a head, every integer a byte.
    fn missing(&self) -> usize {
        let heads = self.strings.saturating_mul(1 + u64::from(self.tail));
        let missing = self.skip.saturating_add(heads);
        let missing = missing.saturating_add(u64::from(self.packed));
        usize::try_from(missing.max(1)).unwrap_or(usize::MAX)
    }
}

/// The head of a string: its own length, and that of what follows it, at most [`STRING_LIMIT`].
fn string_head(bytes: &[u8]) -> Result<(usize, u64), Halt> {
    let mut cursor = Cursor::new(bytes);
    let len = match cursor.peek()? {
        0xC0 => (1, 1),
        0xC1 => (1, 2),
        0xC2 => (1, 4),
        0xC3 => {
            cursor.byte()?;
            let packed = cursor.packed()?;
            let whole = cursor.packed()?;
            if whole > packed.saturating_mul(LZF_EXPANSION) {
                return Err(cursor.invalid("compressed string cannot become so long"));
            }
            (cursor.position(), packed)
        }
        0xC4.. => return Err(cursor.invalid("unknown string encoding")),
        _ => {
            let len = cursor.packed()?;
            (cursor.position(), len)
        }
    };
    if len.1 > STRING_LIMIT {
        return Err(cursor.invalid("string longer than any server holds"));
    }
    Ok(len)
}

fn invalid(at: usize, what: &'static str) -> Halt {
    Halt::Invalid { at, what }
}
