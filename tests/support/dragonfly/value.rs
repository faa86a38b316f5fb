//! Values of every type as Dragonfly puts them into a snapshot, with the places where it may cut them.
//!
//! Invariants: `cuts` are ascending byte offsets into `bytes`, each at an element border.
//! Units: element expiry is Unix seconds; on the wire it counts from 2023-02-01.
//! Facts: recorded streams of v1.40.1 (`types`, `big`); thresholds between encodings are Dragonfly's defaults
//!   as far as those recordings show them.

use super::encode::{intset, listpack, packed, raw_string, string};
use super::release::Release;

/// Seconds between the Unix epoch and the one that element expiry counts from.
const ELEMENT_EPOCH: i64 = 1_675_209_600;
/// Bytes of a list node.
const NODE_BYTES: usize = 8192;
/// Bytes up to which a hash or sorted set is a listpack.
const LISTPACK_BYTES: usize = 1024;
/// Members up to which a set of integers is an intset.
const INTSET_MEMBERS: usize = 256;

/// One encoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The type number of the snapshot.
    pub kind: u8,
    /// What follows the key.
    pub bytes: Vec<u8>,
    /// Where a tagged chunk may end.
    pub cuts: Vec<usize>,
}

impl Value {
    /// A value that is never cut, given as its bytes.
    #[must_use]
    pub fn raw(kind: u8, bytes: Vec<u8>) -> Self {
        Self {
            kind,
            bytes,
            cuts: Vec::new(),
        }
    }

    /// A string; integers in their short form.
    #[must_use]
    pub fn string(bytes: &[u8]) -> Self {
        let mut out = Vec::with_capacity(bytes.len() + 9);
        string(bytes, &mut out);
        Self::raw(0, out)
    }

    /// A set: an intset when its members allow it, else members in the given order.
    #[must_use]
    pub fn set<A: AsRef<[u8]>>(members: &[A]) -> Self {
        if members.len() <= INTSET_MEMBERS
            && let Some(bytes) = intset(members)
        {
            let mut out = Vec::new();
            raw_string(&bytes, &mut out);
            return Self::raw(11, out);
        }
        Self::members(members)
    }

    /// A set of type 2 whatever its members are.
    #[must_use]
    pub fn members<A: AsRef<[u8]>>(members: &[A]) -> Self {
        Self::build(2, members.len(), members.iter(), |member, out| {
            string(member.as_ref(), out)
        })
    }

    /// A hash: a listpack when it is small, else a table.
    #[must_use]
    pub fn hash<A: AsRef<[u8]>>(fields: &[(A, A)], release: Release) -> Self {
        let size: usize = fields
            .iter()
            .map(|(field, value)| field.as_ref().len() + value.as_ref().len())
            .sum();
        if release.sends_listpacks() && (size <= LISTPACK_BYTES || fields.len() == 1) {
            let flat: Vec<&[u8]> = fields
                .iter()
                .flat_map(|(f, v)| [f.as_ref(), v.as_ref()])
                .collect();
            return Self::packed_list(16, &flat);
        }
        Self::hash_table(fields)
    }

    /// A hash of type 4 whatever its size.
    #[must_use]
    pub fn hash_table<A: AsRef<[u8]>>(fields: &[(A, A)]) -> Self {
        Self::build(4, fields.len(), fields.iter(), |(field, value), out| {
            string(field.as_ref(), out);
            string(value.as_ref(), out);
        })
    }

    /// A hash with expiring fields: field, value and Unix seconds, `None` for a field that stays.
    #[must_use]
    pub fn hash_with_expiry<A: AsRef<[u8]>>(fields: &[(A, A, Option<i64>)]) -> Self {
        Self::build(
            31,
            fields.len(),
            fields.iter(),
            |(field, value, at), out| {
                string(field.as_ref(), out);
                string(value.as_ref(), out);
                element_expiry(*at, out);
            },
        )
    }

    /// A set with expiring members: member and Unix seconds, `None` for a member that stays.
    #[must_use]
    pub fn set_with_expiry<A: AsRef<[u8]>>(members: &[(A, Option<i64>)]) -> Self {
        Self::build(32, members.len(), members.iter(), |(member, at), out| {
            string(member.as_ref(), out);
            element_expiry(*at, out);
        })
    }

    /// A sorted set, given in ascending order: a listpack when it is small, else pairs with the score's bits.
    #[must_use]
    pub fn zset<A: AsRef<[u8]>>(members: &[(A, f64)], release: Release) -> Self {
        let size: usize = members
            .iter()
            .map(|(member, _)| member.as_ref().len() + 8)
            .sum();
        if release.sends_listpacks() && size <= LISTPACK_BYTES {
            let flat: Vec<Vec<u8>> = members
                .iter()
                .flat_map(|(m, score)| [m.as_ref().to_vec(), score_text(*score).into_bytes()])
                .collect();
            return Self::packed_list(17, &flat);
        }
        Self::build(5, members.len(), members.iter(), |(member, score), out| {
            string(member.as_ref(), out);
            out.extend_from_slice(&score.to_le_bytes());
        })
    }

    /// A list of nodes of up to 8 KiB; an element larger than that is a node of its own.
    #[must_use]
    pub fn list<A: AsRef<[u8]>>(elements: &[A]) -> Self {
        let mut nodes: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut open: Vec<&[u8]> = Vec::new();
        let mut size = 7;
        for element in elements.iter().map(AsRef::as_ref) {
            let plain = element.len() >= NODE_BYTES;
            // What the element may take, as the server estimates it before it packs it.
            if plain || size + element.len() + 8 > NODE_BYTES {
                close_node(&mut open, &mut nodes);
                size = 7;
            }
            if plain {
                nodes.push((1, element.to_vec()));
                continue;
            }
            open.push(element);
            size += listpack(&[element]).len() - 7;
        }
        close_node(&mut open, &mut nodes);
        Self::build(18, nodes.len(), nodes.iter(), |(container, node), out| {
            packed(*container, out);
            raw_string(node, out);
        })
    }

    /// A JSON document.
    #[must_use]
    pub fn json(text: &str, release: Release) -> Self {
        Self {
            kind: release.json_type(),
            ..Self::string(text.as_bytes())
        }
    }

    /// A count and that many elements, with a cut before each element but the first.
    pub(super) fn build<T>(
        kind: u8,
        count: usize,
        elements: impl Iterator<Item = T>,
        mut encode: impl FnMut(T, &mut Vec<u8>),
    ) -> Self {
        let mut value = Self::raw(kind, Vec::new());
        packed(count as u64, &mut value.bytes);
        for element in elements {
            encode(element, &mut value.bytes);
            value.cuts.push(value.bytes.len());
        }
        value.cuts.pop();
        value
    }

    fn packed_list<A: AsRef<[u8]>>(kind: u8, elements: &[A]) -> Self {
        let mut out = Vec::new();
        raw_string(&listpack(elements), &mut out);
        Self::raw(kind, out)
    }
}

fn close_node(open: &mut Vec<&[u8]>, nodes: &mut Vec<(u64, Vec<u8>)>) {
    if !open.is_empty() {
        nodes.push((2, listpack(open)));
        open.clear();
    }
}

fn element_expiry(at: Option<i64>, out: &mut Vec<u8>) {
    string(
        at.map_or(-1, |at| at - ELEMENT_EPOCH)
            .to_string()
            .as_bytes(),
        out,
    );
}

/// A score as small sorted sets hold it: the shortest decimal text that reads back to the same double.
#[must_use]
pub fn score_text(score: f64) -> String {
    if score.is_infinite() {
        return if score > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = score.abs();
    if score == 0.0 || (1e-6..1e21).contains(&magnitude) {
        return score.to_string();
    }
    format!("{score:e}")
}
