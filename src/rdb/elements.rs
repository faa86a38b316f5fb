//! The elements of a value, one at a time, from memory or through a window that slides over it.
//!
//! The caller holds a window: bytes of the value from some place on. [`Elements::next`] yields the
//! element there, or `Incomplete`; then the caller drops what [`Elements::shift`] says, appends
//! more, and calls again. Nothing is decoded twice but the head of the element that was cut. A
//! caller may stop behind any element and go on later, so commands of bounded size are a loop that
//! stops at so many elements or bytes of output.
//!
//! Invariants: a halted call has consumed nothing; packed nodes must lie in the window whole and
//! stay there until their last element; nothing recurses; nothing is allocated but the decompressed
//! bytes of an LZF string.
//! Units: expiry is Unix milliseconds.
//! Facts: the value types of Dragonfly v1.14 to v1.40. Up to v1.23 a list's node may be a bare
//! element, which only its not being a ziplist tells.

use super::intset::Intset;
use super::listpack::{Listpack, Place};
use super::stream::{self, Entry, Found, StreamId, StreamInfo};
use super::stream_tail::StreamTail;
use super::string::{self, Item, Text};
use super::walk::count;
use super::ziplist::Ziplist;
use super::{Cursor, Halt, kind};

/// Values of this type have no elements that Redis knows (Bloom filters and the like).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value of type {0} has no elements that redis knows")]
pub struct NoElements(pub u8);

/// One element, in the order in which commands must make it.
#[derive(Debug, Clone)]
pub enum Element<'a> {
    /// The whole of a string value.
    String(Text<'a>),
    /// The whole of a JSON value, as text.
    Json(Text<'a>),
    /// An element of a list, from its head on.
    Item(Text<'a>),
    /// A member of a set.
    Member {
        /// The member.
        member: Text<'a>,
        /// When it expires, if ever. May be past.
        expires: Option<u64>,
    },
    /// A field of a hash.
    Field {
        /// Its name.
        field: Text<'a>,
        /// Its value.
        value: Text<'a>,
        /// When it expires, if ever. May be past.
        expires: Option<u64>,
    },
    /// A member of a sorted set. The score keeps its bits and is never NaN.
    Scored {
        /// The member.
        member: Text<'a>,
        /// Its score.
        score: f64,
    },
    /// A live entry of a stream. Deleted ones are passed over.
    Entry(Entry<'a>),
    /// A stream's own numbers; once, behind its entries.
    Info(StreamInfo),
    /// A group of a stream. What follows, up to the next, is its.
    Group {
        /// Its name.
        name: Text<'a>,
        /// The id delivered last.
        delivered: StreamId,
        /// From type 19 on: entries read, -1 where the source does not know.
        read: Option<i64>,
    },
    /// An entry delivered to some consumer of the group and not acknowledged.
    Pending {
        /// Its id.
        id: StreamId,
        /// When it was delivered.
        delivered_at: i64,
        /// How often it was.
        deliveries: u64,
    },
    /// A consumer of the group; behind the group's pending entries.
    Consumer {
        /// Its name.
        name: Text<'a>,
        /// When it last tried to read.
        seen: i64,
        /// In type 21: when it last got something; -1 for never.
        active: Option<i64>,
    },
    /// A pending entry of the group that is this consumer's.
    Owned(StreamId),
}

/// What an element is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Item,
    Member,
    Field,
    Scored,
}

/// How a string packs elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Listpack,
    Ziplist,
    Intset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One string that is the element.
    String { json: bool },
    /// A count, and elements of strings.
    Counted { shape: Shape, expiring: bool },
    /// One string that packs all elements.
    Packed(Packing, Shape),
    /// A count, and ziplists or bare elements.
    Ziplists,
    /// A count, and listpacks or bare elements, told apart.
    Listpacks,
    /// A count, and stream nodes; then the tail.
    Stream,
}

/// A packed string under way.
#[derive(Debug, Clone)]
struct Pack {
    packing: Packing,
    held: Held,
    place: Place,
}

/// A stream node under way.
#[derive(Debug, Clone)]
struct StreamNode {
    held: Held,
    node: stream::Node,
}

/// Where the bytes of a packed string are, and how many bytes of the value it takes.
#[derive(Debug, Clone)]
struct Held {
    /// Behind `at`, its first byte in the window; when `owned` is `None`.
    start: usize,
    len: usize,
    /// Decompressed.
    owned: Option<Vec<u8>>,
    total: usize,
}

impl Held {
    fn bytes<'a>(&'a self, window: &'a [u8], at: usize) -> Result<&'a [u8], Halt> {
        if let Some(owned) = &self.owned {
            return Ok(owned);
        }
        let from = window.get(at + self.start..).unwrap_or_default();
        from.get(..self.len).ok_or(Halt::Incomplete {
            missing: self.len.saturating_sub(from.len()),
        })
    }
}

#[derive(Debug, Clone)]
enum Inside {
    Nothing,
    Pack(Pack),
    StreamNode(Box<StreamNode>),
    Tail(StreamTail),
}

/// The elements of one value.
#[derive(Debug, Clone)]
pub struct Elements {
    layout: Layout,
    kind: u8,
    /// Bytes of the window that are done with.
    at: usize,
    /// Elements or nodes still to come, once counted.
    left: Option<u64>,
    inside: Inside,
    /// Greatest stream id so far.
    above: Option<StreamId>,
    /// Live stream entries so far.
    live: u64,
}

/// What stands at the current place.
enum Ready {
    Done,
    Element,
    Packed,
    Entry(Found),
    Tail,
}

impl Elements {
    /// The elements of a value of this type, none of them read.
    pub fn new(kind: u8) -> Result<Self, NoElements> {
        let counted = |shape, expiring| Layout::Counted { shape, expiring };
        let layout = match kind {
            kind::STRING => Layout::String { json: false },
            kind::JSON | kind::JSON_OLD => Layout::String { json: true },
            kind::SET => counted(Shape::Member, false),
            kind::HASH => counted(Shape::Field, false),
            kind::SORTED => counted(Shape::Scored, false),
            kind::SET_EXPIRING => counted(Shape::Member, true),
            kind::HASH_EXPIRING => counted(Shape::Field, true),
            kind::SET_INTSET => Layout::Packed(Packing::Intset, Shape::Member),
            kind::SORTED_ZIPLIST => Layout::Packed(Packing::Ziplist, Shape::Scored),
            kind::HASH_ZIPLIST => Layout::Packed(Packing::Ziplist, Shape::Field),
            kind::HASH_LISTPACK => Layout::Packed(Packing::Listpack, Shape::Field),
            kind::SORTED_LISTPACK => Layout::Packed(Packing::Listpack, Shape::Scored),
            kind::LIST_ZIPLISTS => Layout::Ziplists,
            kind::LIST => Layout::Listpacks,
            kind::STREAM_15 | kind::STREAM_19 | kind::STREAM => Layout::Stream,
            _ => return Err(NoElements(kind)),
        };
        let single = matches!(layout, Layout::String { .. } | Layout::Packed(..));
        Ok(Self {
            layout,
            kind,
            at: 0,
            left: single.then_some(1),
            inside: Inside::Nothing,
            above: None,
            live: 0,
        })
    }

    /// How many bytes at the front of the window are done with. The caller drops exactly so many
    /// before the next call (or none, by not asking).
    pub fn shift(&mut self) -> usize {
        std::mem::take(&mut self.at)
    }

    /// The next element; `None` behind the last, again and again.
    ///
    /// `window` must be the one of the call before, without what [`Self::shift`] said, and possibly
    /// longer. `Incomplete` when the element (or the packed node that holds it) is not in it whole;
    /// nothing is lost, call again with more. `Invalid` is final; its `at` is an offset into `window`.
    pub fn next<'a>(&'a mut self, window: &'a [u8]) -> Result<Option<Element<'a>>, Halt> {
        loop {
            let ready = match &mut self.inside {
                Inside::Nothing => match self.enter(window)? {
                    Some(ready) => ready,
                    None => continue,
                },
                Inside::Pack(pack) => {
                    if pack.at_end(window, self.at)? {
                        self.at += pack.held.total;
                        self.inside = Inside::Nothing;
                        continue;
                    }
                    Ready::Packed
                }
                Inside::StreamNode(inside) => {
                    let at = self.at;
                    let bytes = inside.held.bytes(window, at)?;
                    match inside
                        .node
                        .advance(bytes)
                        .map_err(|halt| nested(halt, at))?
                    {
                        Some(found) => Ready::Entry(found),
                        None => {
                            self.above = inside.node.above();
                            self.at += inside.held.total;
                            self.inside = Inside::Nothing;
                            continue;
                        }
                    }
                }
                Inside::Tail(tail) if tail.is_done() => Ready::Done,
                Inside::Tail(_) => Ready::Tail,
            };
            return self.yield_ready(ready, window);
        }
    }

    fn yield_ready<'a>(
        &'a mut self,
        ready: Ready,
        window: &'a [u8],
    ) -> Result<Option<Element<'a>>, Halt> {
        let at = self.at;
        if matches!(ready, Ready::Element) {
            let mut cursor = cursor_at(window, at);
            let element = self.read_element(&mut cursor)?;
            self.at = cursor.position();
            self.left = self.left.map(|left| left.saturating_sub(1));
            return Ok(Some(element));
        }
        match (ready, &mut self.inside) {
            (Ready::Packed, Inside::Pack(pack)) => {
                let shape = match self.layout {
                    Layout::Packed(_, shape) => shape,
                    _ => Shape::Item,
                };
                pack.read(window, at, shape).map(Some)
            }
            (Ready::Entry(found), Inside::StreamNode(inside)) => {
                self.live = self.live.saturating_add(1);
                let bytes = inside.held.bytes(window, at)?;
                Ok(Some(Element::Entry(inside.node.entry(bytes, found))))
            }
            (Ready::Tail, Inside::Tail(tail)) => {
                let mut cursor = cursor_at(window, at);
                let element = tail.next(&mut cursor)?;
                self.at = cursor.position();
                Ok(element)
            }
            _ => Ok(None),
        }
    }

    /// At a border between outer parts: what is there, or `None` when something was entered.
    fn enter(&mut self, window: &[u8]) -> Result<Option<Ready>, Halt> {
        let mut cursor = cursor_at(window, self.at);
        let Some(left) = self.left else {
            self.left = Some(count(&mut cursor)?);
            self.at = cursor.position();
            return Ok(None);
        };
        if left == 0 {
            if self.layout == Layout::Stream {
                self.inside = Inside::Tail(StreamTail::new(self.kind, self.live));
                return Ok(None);
            }
            return Ok(Some(Ready::Done));
        }
        let packing = match self.layout {
            Layout::String { .. } | Layout::Counted { .. } => return Ok(Some(Ready::Element)),
            Layout::Packed(packing, _) => packing,
            Layout::Ziplists => Packing::Ziplist,
            Layout::Listpacks => match cursor.packed()? {
                1 => return Ok(Some(Ready::Element)),
                2 => Packing::Listpack,
                _ => return Err(cursor.invalid("not a container of a list node")),
            },
            Layout::Stream => {
                self.enter_stream_node(&mut cursor)?;
                return Ok(None);
            }
        };
        let held = hold(&mut cursor, self.at)?;
        if self.layout == Layout::Ziplists && !Ziplist::is_valid(held.bytes(window, self.at)?) {
            return Ok(Some(Ready::Element));
        }
        let pack = Pack::open(packing, held, window, self.at)?;
        self.left = Some(left - 1);
        self.inside = Inside::Pack(pack);
        Ok(None)
    }

    fn enter_stream_node(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Halt> {
        let at = self.at;
        let whole = cursor.clone();
        let key = string::read(cursor)?;
        let held = hold(cursor, at)?;
        let window = whole.rest();
        let node = stream::Node::open(&key, held.bytes(window, 0)?, self.above)
            .map_err(|halt| nested(halt, at))?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.inside = Inside::StreamNode(Box::new(StreamNode { held, node }));
        Ok(())
    }

    fn read_element<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Element<'a>, Halt> {
        let (shape, expiring) = match self.layout {
            Layout::String { json: false } => return string::read(cursor).map(Element::String),
            Layout::String { json: true } => return string::read(cursor).map(Element::Json),
            Layout::Counted { shape, expiring } => (shape, expiring),
            Layout::Listpacks => {
                cursor.packed()?;
                (Shape::Item, false)
            }
            _ => (Shape::Item, false),
        };
        let first = string::read(cursor)?;
        Ok(match shape {
            Shape::Item => Element::Item(first),
            Shape::Member => Element::Member {
                member: first,
                expires: read_expiry(cursor, expiring)?,
            },
            Shape::Field => Element::Field {
                field: first,
                value: string::read(cursor)?,
                expires: read_expiry(cursor, expiring)?,
            },
            Shape::Scored => {
                let score = f64::from_le_bytes(cursor.array()?);
                if score.is_nan() {
                    return Err(cursor.invalid("score is not a number"));
                }
                Element::Scored {
                    member: first,
                    score,
                }
            }
        })
    }
}

impl Pack {
    fn open(packing: Packing, held: Held, window: &[u8], at: usize) -> Result<Self, Halt> {
        let bytes = held.bytes(window, at)?;
        let place = match packing {
            Packing::Listpack => Listpack::new(bytes).map(|list| list.place()),
            Packing::Ziplist => Ziplist::new(bytes).map(|list| list.place()),
            Packing::Intset => Intset::new(bytes).map(|set| set.place()),
        };
        Ok(Self {
            packing,
            place: place.map_err(|halt| nested(halt, at))?,
            held,
        })
    }

    fn at_end(&self, window: &[u8], at: usize) -> Result<bool, Halt> {
        let bytes = self.held.bytes(window, at)?;
        match self.packing {
            Packing::Listpack => Listpack::resume(bytes, self.place).at_end(),
            Packing::Ziplist => Ziplist::resume(bytes, self.place).at_end(),
            Packing::Intset => Ok(Intset::resume(bytes, self.place).at_end()),
        }
        .map_err(|halt| nested(halt, at))
    }

    fn read<'a>(
        &'a mut self,
        window: &'a [u8],
        at: usize,
        shape: Shape,
    ) -> Result<Element<'a>, Halt> {
        let Self {
            packing,
            held,
            place,
        } = self;
        let bytes = held.bytes(window, at)?;
        let mut next = || {
            let item = match packing {
                Packing::Listpack => {
                    let mut list = Listpack::resume(bytes, *place);
                    let item = list.next_item()?;
                    *place = list.place();
                    item
                }
                Packing::Ziplist => {
                    let mut list = Ziplist::resume(bytes, *place);
                    let item = list.next_item()?;
                    *place = list.place();
                    item
                }
                Packing::Intset => {
                    let mut set = Intset::resume(bytes, *place);
                    let member = set.next_member()?;
                    *place = set.place();
                    member.map(Item::Int)
                }
            };
            item.ok_or(invalid(at, "packed element without its other half"))
        };
        let mut read = || {
            let first = next()?;
            Ok(match shape {
                Shape::Item => Element::Item(first.text()),
                Shape::Member => Element::Member {
                    member: first.text(),
                    expires: None,
                },
                Shape::Field => Element::Field {
                    field: first.text(),
                    value: next()?.text(),
                    expires: None,
                },
                Shape::Scored => Element::Scored {
                    member: first.text(),
                    score: next()?
                        .score()
                        .ok_or(invalid(at, "score is not a number"))?,
                },
            })
        };
        read().map_err(|halt| nested(halt, at))
    }
}

/// Reads the string that packs elements and remembers where its bytes are, counted from `at`.
fn hold(cursor: &mut Cursor<'_>, at: usize) -> Result<Held, Halt> {
    let text = string::read(cursor)?;
    let total = cursor.position() - at;
    let len = text.len();
    let owned = match text {
        Text::Borrowed(_) => None,
        other => Some(other.into_bytes()),
    };
    Ok(Held {
        start: total.saturating_sub(len),
        len,
        owned,
        total,
    })
}

fn read_expiry(cursor: &mut Cursor<'_>, expiring: bool) -> Result<Option<u64>, Halt> {
    if !expiring {
        return Ok(None);
    }
    let wrong = cursor.invalid("element expiry is no time");
    match string::read(cursor)?.integer().ok_or(wrong)? {
        -1 => Ok(None),
        seconds => u64::try_from(seconds)
            .ok()
            .and_then(|seconds| seconds.checked_add(kind::EXPIRY_EPOCH)?.checked_mul(1000))
            .map(Some)
            .ok_or(wrong),
    }
}

/// A cursor over the window that stands at `at`, so that its places are the window's.
fn cursor_at(window: &[u8], at: usize) -> Cursor<'_> {
    let mut cursor = Cursor::new(window);
    // Fails only when the caller shortened the window; then there is nothing to read.
    if cursor.take(at as u64, usize::MAX).is_err() {
        return Cursor::new(&[]);
    }
    cursor
}

/// What went wrong inside a packed string is final, and is reported at the string's own place.
fn nested(halt: Halt, at: usize) -> Halt {
    match halt {
        Halt::Incomplete { .. } => invalid(at, "packed string ends too soon"),
        Halt::Invalid { what, .. } => invalid(at, what),
    }
}

fn invalid(at: usize, what: &'static str) -> Halt {
    Halt::Invalid { at, what }
}
