//! A value from the payload that `DUMP` gives: decoded and digested without building it.
//!
//! Facts: Redis' type bytes, of which Dragonfly emits a part, with 30 to 37 its own (see [`rdb`](crate::rdb)). The
//!   footer is not looked at: the bytes came over a connection that vouches for them, and servers newer than this
//!   program number their format on without changing the types that are known.

use serde_json::Value as Json;

use crate::rdb::{Cursor, Element, Elements, Halt, Listpack, StreamId, kind, payload, string};

use super::digest::{Digest, Parts};
use super::reading::{Kind, MemberExpiry, Reading, StreamParts};
use super::settings::Side;

/// Redis' type of a small set in one listpack, which Dragonfly never emits.
const SET_LISTPACK: u8 = 20;

/// Decodes a payload. `None` if its type is not known, so that the value has to be read by commands.
///
/// `now_ms` is the time of the server it came from: members that have expired by then are no members any more.
/// `Err` if the bytes are no such value.
pub(super) fn read(payload: &[u8], side: Side, now_ms: i64) -> Result<Option<Reading>, Halt> {
    let Some(len) = payload.len().checked_sub(payload::FOOTER) else {
        return Err(Halt::Incomplete { missing: 1 });
    };
    let body = payload.get(..len).unwrap_or_default();
    let Some((type_byte, value)) = body.split_first() else {
        return Err(Halt::Incomplete { missing: 1 });
    };
    if *type_byte == SET_LISTPACK && side == Side::Target {
        return set_listpack(value).map(Some);
    }
    let Some(kind) = known(*type_byte) else {
        return Ok(other(*type_byte));
    };
    let Ok(mut elements) = Elements::new(*type_byte) else {
        return Ok(None);
    };
    let mut digesting = Digesting::new(kind, now_ms);
    digesting.reading.members_expire =
        matches!(*type_byte, kind::HASH_EXPIRING | kind::SET_EXPIRING);
    while let Some(element) = elements.next(value)? {
        digesting.add(&element);
    }
    if digesting.reading.kind == Kind::Stream {
        digesting.tells_pending();
    }
    Ok(Some(digesting.finish()))
}

fn known(type_byte: u8) -> Option<Kind> {
    Some(match type_byte {
        kind::STRING => Kind::String,
        kind::LIST | kind::LIST_ZIPLISTS => Kind::List,
        kind::SET | kind::SET_INTSET | kind::SET_EXPIRING => Kind::Set,
        kind::HASH | kind::HASH_LISTPACK | kind::HASH_ZIPLIST | kind::HASH_EXPIRING => Kind::Hash,
        kind::SORTED | kind::SORTED_LISTPACK | kind::SORTED_ZIPLIST => Kind::Sorted,
        kind::STREAM_15 | kind::STREAM_19 | kind::STREAM => Kind::Stream,
        kind::JSON | kind::JSON_OLD => Kind::Json,
        _ => return None,
    })
}

/// Dragonfly's types without a counterpart, by the names that its `TYPE` gives.
fn other(type_byte: u8) -> Option<Reading> {
    let name = match type_byte {
        33 | 34 => "MBbloom--",
        35 => "CMSk-TYPE",
        36 => "TopK-TYPE",
        37 => "MBbloomCF",
        _ => return None,
    };
    Some(Reading::new(Kind::Other(name.to_owned())))
}

/// A string that was read by itself.
pub(super) fn of_string(value: &[u8]) -> Reading {
    let mut reading = Reading::new(Kind::String);
    reading.length = value.len() as u64;
    reading.value = Some(Digest::of(value));
    reading
}

fn set_listpack(value: &[u8]) -> Result<Reading, Halt> {
    let packed = string::read(&mut Cursor::new(value))?;
    let mut members = Listpack::new(&packed)?;
    let mut digesting = Digesting::new(Kind::Set, 0);
    while let Some(member) = members.next_item()? {
        digesting.add(&Element::Member {
            member: member.text(),
            expires: None,
        });
    }
    Ok(digesting.finish())
}

/// A reading that grows by elements.
pub(super) struct Digesting {
    pub reading: Reading,
    /// Everything that has an order.
    ordered: Parts,
    /// One element.
    element: Parts,
    /// The sum of those without an order.
    sum: Digest,
    members: MemberExpiry,
    group: Vec<u8>,
    consumer: Vec<u8>,
    now_ms: i64,
}

impl Digesting {
    pub fn new(kind: Kind, now_ms: i64) -> Self {
        Self {
            reading: Reading::new(kind),
            ordered: Parts::default(),
            element: Parts::default(),
            sum: Digest::default(),
            members: MemberExpiry::default(),
            group: Vec::new(),
            consumer: Vec::new(),
            now_ms,
        }
    }

    fn stream(&mut self) -> &mut StreamParts {
        self.reading.stream.get_or_insert_default()
    }

    fn of(&mut self, parts: &[&[u8]]) -> Digest {
        for part in parts {
            self.element.part(part);
        }
        self.element.finish()
    }

    fn is_over(&self, expires: Option<u64>) -> bool {
        let now = u64::try_from(self.now_ms).unwrap_or(0);
        expires.is_some_and(|at| at <= now)
    }

    pub fn add(&mut self, element: &Element<'_>) {
        match element {
            Element::String(text) => {
                self.reading.length = text.len() as u64;
                self.ordered.go_on(text);
            }
            Element::Json(text) => self.json(text),
            Element::Item(item) => {
                self.reading.length += 1;
                self.ordered.part(item);
            }
            Element::Member { member, expires } if !self.is_over(*expires) => {
                self.reading.length += 1;
                let digest = self.of(&[member]);
                self.sum.add(digest);
                self.expiry(member, *expires);
            }
            Element::Field {
                field,
                value,
                expires,
            } if !self.is_over(*expires) => {
                self.reading.length += 1;
                let digest = self.of(&[field, value]);
                self.sum.add(digest);
                self.expiry(field, *expires);
            }
            Element::Member { .. } | Element::Field { .. } => {}
            Element::Scored { member, score } => self.scored(member, *score),
            Element::Entry(entry) => {
                self.entry(entry.id, entry.fields.len() as u64 * 2);
                for (field, value) in entry.fields.clone() {
                    self.ordered.part(&field);
                    self.ordered.part(&value);
                }
            }
            Element::Info(_)
            | Element::Group { .. }
            | Element::Pending { .. }
            | Element::Consumer { .. }
            | Element::Owned(_) => self.of_stream(element),
        }
    }

    /// When a member expires.
    pub fn expiry(&mut self, member: &[u8], expires: Option<u64>) {
        if let Some(at) = expires {
            self.members.count += 1;
            let digest = self.of(&[member, &at.to_le_bytes()]);
            self.members.digest.add(digest);
        }
    }

    /// A member of a sorted set.
    pub fn scored(&mut self, member: &[u8], score: f64) {
        let mut parts = std::mem::take(&mut self.element);
        parts.part(member);
        self.element = self.scored_parts(parts, score);
    }

    /// The same, of a member that passed by in pieces. Gives the parts back, empty.
    ///
    /// Zero of either sign counts as 0: Dragonfly shows both so, and no server keeps them apart in small sorted sets.
    pub fn scored_parts(&mut self, mut parts: Parts, score: f64) -> Parts {
        parts.part(&(score + 0.0).to_bits().to_le_bytes());
        self.sum(parts.finish());
        parts
    }

    /// The beginning of a stream's entry of so many fields and values.
    pub fn entry(&mut self, id: StreamId, words: u64) {
        self.reading.length += 1;
        self.ordered.part(&id.to_be_bytes());
        self.ordered.go_on(&words.to_le_bytes());
    }

    /// The parts of what has an order, for whoever reads them in pieces.
    pub fn ordered(&mut self) -> &mut Parts {
        &mut self.ordered
    }

    /// One more element without an order.
    pub fn sum(&mut self, digest: Digest) {
        self.reading.length += 1;
        self.sum.add(digest);
    }

    fn of_stream(&mut self, element: &Element<'_>) {
        match element {
            Element::Info(info) => {
                self.reading.length = info.length;
                self.stream_numbers(info.last, info.max_deleted, info.added);
            }
            Element::Group {
                name,
                delivered,
                read,
            } => self.group(name, *delivered, *read),
            Element::Pending {
                id,
                delivered_at,
                deliveries,
            } => self.pending(*id, *delivered_at, *deliveries),
            Element::Consumer { name, seen, active } => self.consumer(name, *seen, *active),
            Element::Owned(id) => self.owned(*id),
            _ => {}
        }
    }

    /// A stream's own numbers.
    pub fn stream_numbers(
        &mut self,
        last: StreamId,
        max_deleted: Option<StreamId>,
        added: Option<u64>,
    ) {
        let last = self.of(&[&last.to_be_bytes()]);
        let deleted = max_deleted.map(|id| self.of(&[&id.to_be_bytes()]));
        let stream = self.stream();
        (stream.last, stream.max_deleted, stream.added) = (last, deleted, added);
    }

    /// What follows is this group's, which was there before.
    pub fn enter_group(&mut self, name: &[u8]) {
        self.group = name.to_vec();
    }

    /// A group; what follows is its.
    pub fn group(&mut self, name: &[u8], delivered: StreamId, read: Option<i64>) {
        self.group = name.to_vec();
        let digest = self.of(&[name, &delivered.to_be_bytes()]);
        self.stream().groups.add(digest);
        if let Some(read) = read {
            let digest = self.of(&[name, &read.to_le_bytes()]);
            self.stream().read.get_or_insert_default().add(digest);
        }
    }

    /// How many entries of the group are pending for a consumer.
    pub fn pending_count(&mut self, consumer: &[u8], count: i64) {
        let group = std::mem::take(&mut self.group);
        let digest = self.of(&[&group, consumer, &count.to_le_bytes()]);
        self.group = group;
        let counts = &mut self.stream().pending_counts;
        counts.get_or_insert_default().add(digest);
    }

    /// All that is pending is told: if it is none, that is told from unknown.
    pub fn tells_pending(&mut self) {
        let stream = self.stream();
        stream.pending.get_or_insert_default();
        stream.owners.get_or_insert_default();
    }

    /// A pending entry of the group.
    pub fn pending(&mut self, id: StreamId, delivered_at: i64, deliveries: u64) {
        let group = std::mem::take(&mut self.group);
        let digest = self.of(&[&group, &id.to_be_bytes(), &deliveries.to_le_bytes()]);
        let when = self.of(&[&group, &id.to_be_bytes(), &delivered_at.to_le_bytes()]);
        self.group = group;
        let stream = self.stream();
        stream.pending.get_or_insert_default().add(digest);
        stream.pending_times.get_or_insert_default().add(when);
    }

    fn consumer(&mut self, name: &[u8], seen: i64, active: Option<i64>) {
        self.named_consumer(name);
        let group = std::mem::take(&mut self.group);
        let seen = self.of(&[&group, name, &seen.to_le_bytes()]);
        let active = active.map(|active| self.of(&[&group, name, &active.to_le_bytes()]));
        self.group = group;
        let stream = self.stream();
        stream.seen.get_or_insert_default().add(seen);
        if let Some(active) = active {
            stream.active.get_or_insert_default().add(active);
        }
    }

    /// A consumer of the group; what follows is its.
    pub fn named_consumer(&mut self, name: &[u8]) {
        let group = std::mem::take(&mut self.group);
        let digest = self.of(&[&group, name]);
        self.group = group;
        self.enter_consumer(name);
        self.stream().consumers.add(digest);
    }

    /// What follows is this consumer's, which was there before.
    pub fn enter_consumer(&mut self, name: &[u8]) {
        self.consumer = name.to_vec();
    }

    /// A pending entry of the consumer.
    pub fn owned(&mut self, id: StreamId) {
        let (group, consumer) = (
            std::mem::take(&mut self.group),
            std::mem::take(&mut self.consumer),
        );
        let digest = self.of(&[&group, &consumer, &id.to_be_bytes()]);
        (self.group, self.consumer) = (group, consumer);
        self.stream().owners.get_or_insert_default().add(digest);
    }

    /// A document: keys of objects have no order, and a number has no form.
    pub fn json(&mut self, text: &[u8]) {
        match serde_json::from_slice::<Json>(text) {
            Ok(document) => digest_json(&document, &mut self.ordered),
            // Compared as the bytes it is.
            Err(_) => self.ordered.go_on(text),
        }
    }

    pub fn finish(mut self) -> Reading {
        let ordered = self.ordered.finish();
        let sum = self.sum;
        match self.reading.kind {
            Kind::String | Kind::List | Kind::Json => self.reading.value = Some(ordered),
            Kind::Stream => {
                self.reading.value = Some(ordered);
                self.stream();
            }
            Kind::Set | Kind::Hash => {
                self.reading.value = Some(sum);
                self.reading.member_expiry = Some(self.members);
            }
            Kind::Sorted => self.reading.value = Some(sum),
            Kind::Other(_) => {}
        }
        self.reading
    }
}

fn digest_json(value: &Json, out: &mut Parts) {
    match value {
        Json::Null => out.part(b"null"),
        Json::Bool(true) => out.part(b"true"),
        Json::Bool(false) => out.part(b"false"),
        Json::Number(number) => {
            let (integer, float) = (number.as_i64(), number.as_f64());
            match (integer, float) {
                (Some(integer), _) => out.part(format!("n{integer}").as_bytes()),
                // The same number, written with a point.
                (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e15 => {
                    out.part(format!("n{}", float as i64).as_bytes());
                }
                (None, Some(float)) => out.part(&float.to_bits().to_le_bytes()),
                (None, None) => out.part(number.to_string().as_bytes()),
            }
        }
        Json::String(text) => {
            out.part(b"s");
            out.part(text.as_bytes());
        }
        Json::Array(items) => {
            out.part(b"[");
            out.begin(items.len() as u64);
            for item in items {
                digest_json(item, out);
            }
        }
        Json::Object(fields) => {
            let mut sum = Digest::default();
            for (name, value) in fields {
                let mut field = Parts::default();
                field.part(name.as_bytes());
                digest_json(value, &mut field);
                sum.add(field.finish());
            }
            out.part(b"{");
            out.part(&sum.0.to_le_bytes());
        }
    }
}
