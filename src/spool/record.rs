//! One record: a batch in a segment.
//!
//! ```text
//!  0  magic, 4 bytes "DFs1"         36  bytes of the batch, u32
//!  4  kind, u32                     40  spilled bytes with their checksums, u64
//!  8  checksum of what follows up   48  first, u64     ┐ journal: LSNs; overflow: the
//!     to the descriptors, u64       56  next, u64      ┘ batch's number, twice
//! 16  checksum of descriptors and   64  received at, i64, ms by the source's clock
//!     bytes, u64                    72  descriptors; bytes; for each spilled body
//! 24  items, u32                        its bytes and their checksum, u64
//! 28  descriptors, u32
//! 32  spilled bodies, u32
//! ```
//!
//! Little-endian; checksums are CRC-64/NVME. A seal is a record of kind 3 without anything behind its head: the
//! segment ends there, `items` counts its records.
//!
//! Invariants: nothing is taken from a head whose checksum is wrong, nor from a record whose checksum is wrong; a
//!   length is compared with what is there before it is used.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest, checksum};

use crate::entry::{Batch, Item, Share, Spill};
use crate::rdb::Cursor;

use super::items::{self, Lsns};

/// Length of a record's head.
pub(super) const HEAD: usize = 72;

pub(super) const MAGIC: [u8; 4] = *b"DFs1";
/// Where the covered part of the head begins.
const COVERED: usize = 16;
const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;
/// Length of a spilled body's checksum.
pub(super) const SUM: u64 = 8;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Journal entries, which survive a restart.
    Journal,
    /// Part of a snapshot, which does not.
    Overflow,
    /// The end of a segment.
    Seal,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Journal => 1,
            Self::Overflow => 2,
            Self::Seal => 3,
        }
    }

    fn of(number: u32) -> Option<Self> {
        [Self::Journal, Self::Overflow, Self::Seal]
            .into_iter()
            .find(|kind| kind.number() == number)
    }
}

/// A record's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) sum: u64,
    pub(super) items: u32,
    pub(super) descriptors: u32,
    pub(super) spills: u32,
    pub(super) bytes: u32,
    pub(super) spilled: u64,
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) received_at_ms: i64,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// They end before it does.
    Short,
    /// They are something else, or were changed.
    Wrong(&'static str),
}

impl Head {
    /// The head that `bytes` begin with.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let head = bytes.get(..HEAD).ok_or(Damage::Short)?;
        let mut cursor = Cursor::new(head);
        let mut read = || -> Result<_, crate::rdb::Halt> {
            Ok((
                cursor.array::<4>()?,
                u32::from_le_bytes(cursor.array()?),
                u64::from_le_bytes(cursor.array()?),
                Self {
                    kind: Kind::Seal,
                    sum: u64::from_le_bytes(cursor.array()?),
                    items: u32::from_le_bytes(cursor.array()?),
                    descriptors: u32::from_le_bytes(cursor.array()?),
                    spills: u32::from_le_bytes(cursor.array()?),
                    bytes: u32::from_le_bytes(cursor.array()?),
                    spilled: u64::from_le_bytes(cursor.array()?),
                    first: u64::from_le_bytes(cursor.array()?),
                    next: u64::from_le_bytes(cursor.array()?),
                    received_at_ms: i64::from_le_bytes(cursor.array()?),
                },
            ))
        };
        let (magic, kind, sum, fields) = read().map_err(|_| Damage::Short)?;
        if magic != MAGIC {
            return Err(Damage::Wrong("no record begins here"));
        }
        if sum != head_sum(head) {
            return Err(Damage::Wrong("the checksum of a record's head is wrong"));
        }
        let kind = Kind::of(kind).ok_or(Damage::Wrong("a record of an unknown kind"))?;
        Ok(Self { kind, ..fields })
    }

    /// Writes the head to where `out` begins, at least [`HEAD`] bytes.
    fn write(&self, out: &mut [u8]) {
        let mut head = [0; HEAD];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(place) = head.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&MAGIC);
        put(&self.kind.number().to_le_bytes());
        put(&[0; 8]);
        put(&self.sum.to_le_bytes());
        put(&self.items.to_le_bytes());
        put(&self.descriptors.to_le_bytes());
        put(&self.spills.to_le_bytes());
        put(&self.bytes.to_le_bytes());
        put(&self.spilled.to_le_bytes());
        put(&self.first.to_le_bytes());
        put(&self.next.to_le_bytes());
        put(&self.received_at_ms.to_le_bytes());
        let sum = head_sum(&head).to_le_bytes();
        if let Some(place) = head.get_mut(8..COVERED) {
            place.copy_from_slice(&sum);
        }
        if let Some(place) = out.get_mut(..HEAD) {
            place.copy_from_slice(&head);
        }
    }

    /// Descriptors and bytes: what is in memory when the record is read.
    pub(super) fn body(&self) -> u64 {
        u64::from(self.descriptors) + u64::from(self.bytes)
    }

    /// The whole record; `None` for a length that cannot be.
    pub(super) fn total(&self) -> Option<u64> {
        (HEAD as u64 + self.body()).checked_add(self.spilled)
    }

    /// Whether `body`, descriptors and bytes, is what was written.
    pub(super) fn covers(&self, body: &[u8]) -> bool {
        checksum(ALGORITHM, body) == self.sum
    }

    fn lsns(&self) -> Lsns {
        Lsns {
            first: self.first,
            next: self.next,
        }
    }
}

fn head_sum(head: &[u8]) -> u64 {
    let mut digest = Digest::new(ALGORITHM);
    digest.update(head.get(4..8).unwrap_or_default());
    digest.update(head.get(COVERED..HEAD).unwrap_or_default());
    digest.finalize()
}

/// Bytes of a spilled body that are read at once.
const PIECE: usize = 256 << 10;

/// Memory for a spilled body, piece by piece.
pub(super) fn piece_of(spill: &Spill) -> Vec<u8> {
    let len = usize::try_from(spill.len()).unwrap_or(PIECE);
    vec![0; PIECE.min(len).max(1)]
}

/// Sums up a spilled body while it passes.
pub(super) fn spill_sum() -> Digest {
    Digest::new(ALGORITHM)
}

/// The seal of a segment of `records` records that end before `next`.
pub(super) fn seal(records: u32, first: u64, next: u64, received_at_ms: i64) -> [u8; HEAD] {
    let head = Head {
        kind: Kind::Seal,
        sum: 0,
        items: records,
        descriptors: 0,
        spills: 0,
        bytes: 0,
        spilled: 0,
        first,
        next,
        received_at_ms,
    };
    let mut out = [0; HEAD];
    head.write(&mut out);
    out
}

/// A batch on its way into a segment: everything but its checksums.
#[derive(Debug)]
pub(super) struct Encoded {
    head: Head,
    /// Room for the head, then the descriptors.
    front: Vec<u8>,
    bytes: Bytes,
    pub(super) spills: Vec<Spill>,
}

impl Encoded {
    /// Encodes a batch without copying its bytes. LSNs only if there are some. An error says what is wrong with it.
    pub(super) fn of(batch: &Batch) -> Result<(Self, Option<Lsns>), &'static str> {
        // Most items take less than this.
        let mut front = Vec::with_capacity(HEAD + 8 * batch.items.len() + 16);
        front.resize(HEAD, 0);
        let mut spills = Vec::new();
        let lsns = items::encode(&batch.items, &mut front, &mut spills)?;
        const LARGE: &str = "a batch over 4 GiB";
        let spilled = spills.iter().map(|spill| spill.len() + SUM).sum();
        let kind = match lsns {
            Some(_) => Kind::Journal,
            None => Kind::Overflow,
        };
        let Lsns { first, next } = lsns.unwrap_or(Lsns { first: 0, next: 0 });
        let head = Head {
            kind,
            sum: 0,
            items: u32::try_from(batch.items.len()).map_err(|_| LARGE)?,
            descriptors: u32::try_from(front.len() - HEAD).map_err(|_| LARGE)?,
            spills: u32::try_from(spills.len()).map_err(|_| LARGE)?,
            bytes: u32::try_from(batch.bytes.len()).map_err(|_| LARGE)?,
            spilled,
            first,
            next,
            received_at_ms: batch.received_at_ms,
        };
        let encoded = Self {
            head,
            front,
            bytes: batch.bytes.clone(),
            spills,
        };
        Ok((encoded, lsns))
    }

    /// The number of a batch that has no LSNs.
    pub(super) fn set_number(&mut self, number: u64) {
        if self.head.kind == Kind::Overflow {
            (self.head.first, self.head.next) = (number, number);
        }
    }

    /// Computes the checksums.
    pub(super) fn finish(&mut self) {
        let mut digest = Digest::new(ALGORITHM);
        digest.update(self.front.get(HEAD..).unwrap_or_default());
        digest.update(&self.bytes);
        self.head.sum = digest.finalize();
        self.head.write(&mut self.front);
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes on disk.
    pub(super) fn len(&self) -> u64 {
        (self.front.len() + self.bytes.len()) as u64 + self.head.spilled
    }

    /// What stands in memory, in order: after it come the spilled bodies.
    pub(super) fn parts(&self) -> [&[u8]; 2] {
        [&self.front, &self.bytes]
    }
}

/// The batch in a record whose checksums were compared. `spill` gives the next spilled body of this length.
pub(super) fn batch(
    head: &Head,
    body: &Bytes,
    spill: &mut dyn FnMut(u64) -> Option<Spill>,
) -> Result<Batch, &'static str> {
    let middle = head.descriptors as usize;
    if body.len() as u64 != head.body() {
        return Err("another length than the record claims");
    }
    let (descriptors, bytes) = (body.slice(..middle), body.slice(middle..));
    let items = items::decode(&descriptors, bytes.len(), head.items, head.lsns(), spill)?;
    // Every entry of a journal is counted, and no part of a snapshot.
    let counted = match head.kind {
        Kind::Journal => head.first.checked_add(u64::from(head.items)),
        Kind::Overflow | Kind::Seal => Some(head.first),
    };
    if counted != Some(head.next) || head.items == 0 {
        return Err("LSNs that do not fit the record's kind");
    }
    Ok(Batch {
        bytes,
        items,
        received_at_ms: head.received_at_ms,
        share: Share::none(),
    })
}

/// A record in memory, for tests and fuzzing: the batch that `bytes` begin with and how long its record is. Only
/// records without spilled bodies.
pub fn decode(bytes: &[u8]) -> Result<(Batch, usize), &'static str> {
    let what = |damage| match damage {
        Damage::Short => "a record that is cut off",
        Damage::Wrong(what) => what,
    };
    let head = Head::read(bytes).map_err(what)?;
    if head.kind == Kind::Seal {
        return Err("a seal");
    }
    let total = head.total().and_then(|total| usize::try_from(total).ok());
    let body = total.and_then(|total| bytes.get(HEAD..total));
    let body = body.ok_or(what(Damage::Short))?;
    if !head.covers(body) {
        return Err("the checksum of a record is wrong");
    }
    let batch = batch(&head, &Bytes::copy_from_slice(body), &mut |_| None)?;
    Ok((batch, HEAD + body.len()))
}

/// The record of a batch without spilled bodies, for tests and fuzzing: the opposite of [`decode`].
pub fn encode(batch: &Batch) -> Result<Vec<u8>, &'static str> {
    let (mut encoded, _) = Encoded::of(batch)?;
    if !encoded.spills.is_empty() {
        return Err("a spilled body");
    }
    encoded.finish();
    Ok(encoded.parts().concat())
}

/// The bytes with the checksums that their record would have, for fuzzing.
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = |at: usize| {
        let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
        field.map_or(0, |field| u32::from_le_bytes(*field) as usize)
    };
    let body = length(28).saturating_add(length(36));
    let body = bytes.get(HEAD..).and_then(|rest| rest.get(..body));
    let sum = checksum(ALGORITHM, body.unwrap_or_default()).to_le_bytes();
    if let Some(place) = bytes.get_mut(COVERED..COVERED + sum.len()) {
        place.copy_from_slice(&sum);
    }
    if bytes.len() >= HEAD {
        let sum = head_sum(&bytes).to_le_bytes();
        bytes.splice(..4, MAGIC);
        bytes.splice(8..COVERED, sum);
    }
    bytes
}

/// Whether an item belongs to the snapshot phase: it has no LSN.
pub(super) fn is_of_snapshot(item: &Item) -> bool {
    match item {
        Item::Command(command) => command.lsn.is_none(),
        Item::Nothing { lsn, .. } => lsn.is_none(),
        Item::Record(_) | Item::Script(_) | Item::SnapshotEnd | Item::Stable { .. } => true,
    }
}
