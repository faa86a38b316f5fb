//! Whole values in memory: what a server would show for a key, whatever form it came in.
//!
//! Units: expiry is Unix milliseconds; a stream's times too.

use super::elements::{Element, Elements, NoElements};
use super::stream::{StreamId, StreamInfo};
use super::{Halt, kind};

/// A value, owned. Order is that of the bytes it came from; sets, hashes and sorted sets have none
/// of their own.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string.
    String(Vec<u8>),
    /// A JSON document, as text.
    Json(Vec<u8>),
    /// A list, from its head on.
    List(Vec<Vec<u8>>),
    /// Members, and when each expires.
    Set(Vec<(Vec<u8>, Option<u64>)>),
    /// Fields, values, and when each expires.
    Hash(Vec<(Vec<u8>, Vec<u8>, Option<u64>)>),
    /// Members and scores.
    Sorted(Vec<(Vec<u8>, f64)>),
    /// A stream.
    Stream(Stream),
}

/// A stream with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stream {
    /// Live entries in the order of their ids: id, and fields with values.
    pub entries: Vec<StreamRecord>,
    /// The stream's own numbers.
    pub info: StreamInfo,
    /// Its groups.
    pub groups: Vec<Group>,
}

/// One entry: its id, and its fields with their values.
pub type StreamRecord = (StreamId, Vec<(Vec<u8>, Vec<u8>)>);

/// A group of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Its name.
    pub name: Vec<u8>,
    /// The id delivered last.
    pub delivered: StreamId,
    /// Entries read, -1 for unknown; `None` where the type does not hold it.
    pub read: Option<i64>,
    /// Entries delivered and not acknowledged: id, time, count.
    pub pending: Vec<(StreamId, i64, u64)>,
    /// Its consumers.
    pub consumers: Vec<Consumer>,
}

/// A consumer of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consumer {
    /// Its name.
    pub name: Vec<u8>,
    /// When it last tried to read.
    pub seen: i64,
    /// When it last got something, -1 for never; `None` where the type does not hold it.
    pub active: Option<i64>,
    /// The group's pending entries that are its.
    pub pending: Vec<StreamId>,
}

/// Why bytes could not be decoded to a [`Value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The type has no elements.
    #[error(transparent)]
    Type(#[from] NoElements),
    /// The bytes end inside the value.
    #[error("value ends {missing} or more bytes too soon")]
    Short {
        /// A lower bound.
        missing: usize,
    },
    /// The bytes are no value of this type.
    #[error("invalid data at byte {at} of a value: {what}")]
    Invalid {
        /// Offset into the value's bytes.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl From<Halt> for ValueError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Incomplete { missing } => Self::Short { missing },
            Halt::Invalid { at, what } => Self::Invalid { at, what },
        }
    }
}

/// Decodes the value that `bytes` begin with. Returns it and its length.
pub fn decode(kind: u8, bytes: &[u8]) -> Result<(Value, usize), ValueError> {
    let mut elements = Elements::new(kind)?;
    let mut value = empty(kind);
    while let Some(element) = elements.next(bytes)? {
        value.add(element);
    }
    Ok((value, elements.shift()))
}

/// The value of this type that has no elements.
pub(super) fn empty(kind: u8) -> Value {
    match kind {
        kind::LIST | kind::LIST_ZIPLISTS => Value::List(Vec::new()),
        kind::SET | kind::SET_INTSET | kind::SET_EXPIRING => Value::Set(Vec::new()),
        kind::HASH | kind::HASH_LISTPACK | kind::HASH_ZIPLIST | kind::HASH_EXPIRING => {
            Value::Hash(Vec::new())
        }
        kind::SORTED | kind::SORTED_LISTPACK | kind::SORTED_ZIPLIST => Value::Sorted(Vec::new()),
        kind::JSON | kind::JSON_OLD => Value::Json(Vec::new()),
        kind::STREAM_15 | kind::STREAM_19 | kind::STREAM => Value::Stream(Stream::default()),
        _ => Value::String(Vec::new()),
    }
}

impl Value {
    /// Adds an element of a value of the same type; others are not for it.
    pub(super) fn add(&mut self, element: Element<'_>) {
        match (self, element) {
            (Self::String(text), Element::String(whole))
            | (Self::Json(text), Element::Json(whole)) => *text = whole.into_bytes(),
            (Self::List(list), Element::Item(item)) => list.push(item.into_bytes()),
            (Self::Set(set), Element::Member { member, expires }) => {
                set.push((member.into_bytes(), expires));
            }
            (
                Self::Hash(hash),
                Element::Field {
                    field,
                    value,
                    expires,
                },
            ) => hash.push((field.into_bytes(), value.into_bytes(), expires)),
            (Self::Sorted(sorted), Element::Scored { member, score }) => {
                sorted.push((member.into_bytes(), score));
            }
            (Self::Stream(stream), element) => stream.add(element),
            _ => {}
        }
    }
}

impl Stream {
    fn add(&mut self, element: Element<'_>) {
        let group = self.groups.last_mut();
        match (element, group) {
            (Element::Entry(entry), _) => {
                let fields = entry.fields;
                let fields = fields.map(|(name, value)| (name.into_bytes(), value.into_bytes()));
                self.entries.push((entry.id, fields.collect()));
            }
            (Element::Info(info), _) => self.info = info,
            (
                Element::Group {
                    name,
                    delivered,
                    read,
                },
                _,
            ) => self.groups.push(Group {
                name: name.into_bytes(),
                delivered,
                read,
                ..Group::default()
            }),
            (
                Element::Pending {
                    id,
                    delivered_at,
                    deliveries,
                },
                Some(group),
            ) => group.pending.push((id, delivered_at, deliveries)),
            (Element::Consumer { name, seen, active }, Some(group)) => {
                group.consumers.push(Consumer {
                    name: name.into_bytes(),
                    seen,
                    active,
                    pending: Vec::new(),
                });
            }
            (Element::Owned(id), Some(group)) => {
                if let Some(consumer) = group.consumers.last_mut() {
                    consumer.pending.push(id);
                }
            }
            _ => {}
        }
    }
}
