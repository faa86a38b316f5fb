//! Batches to put in, and what they look like, whichever way they come out.

use bytes::Bytes;
use proptest::prelude::*;

use crate::entry::{Batch, Body, Command, Item, Record, Share, Span, Spill, SpillWriter, Text};

/// What tells an item from another: everything, bytes instead of places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Flat {
    Command(u32, Option<u64>, u64, u32, Vec<u8>),
    Nothing(Option<u64>, bool),
    Record(u32, u8, Option<i64>, bool, u32, Vec<u8>, Vec<u8>),
    Script(Vec<u8>),
    SnapshotEnd,
    Stable(u64),
}

impl Flat {
    pub(in super::super) fn lsn(&self) -> Option<u64> {
        match self {
            Self::Command(_, lsn, ..) | Self::Nothing(lsn, _) => *lsn,
            _ => None,
        }
    }
}

fn body(batch: &Batch, body: &Body) -> Vec<u8> {
    match body {
        Body::Inline(span) => batch.slice(*span).to_vec(),
        Body::Spilled(spill) => spill.read_all().unwrap(),
    }
}

pub(in super::super) fn flat(batch: &Batch) -> Vec<Flat> {
    let items = batch.items.iter();
    items
        .map(|item| match item {
            Item::Command(it) => {
                Flat::Command(it.db, it.lsn, it.txid, it.words, body(batch, &it.args))
            }
            Item::Nothing { lsn, acknowledge } => Flat::Nothing(*lsn, *acknowledge),
            Item::Record(it) => Flat::Record(
                it.db,
                it.kind,
                it.expire_at_ms,
                it.sticky,
                it.memcache_flags,
                batch.text(&it.key).to_vec(),
                body(batch, &it.value),
            ),
            Item::Script(span) => Flat::Script(batch.slice(*span).to_vec()),
            Item::SnapshotEnd => Flat::SnapshotEnd,
            Item::Stable { next } => Flat::Stable(*next),
        })
        .collect()
}

/// Builds a batch item by item.
#[derive(Default)]
pub(in super::super) struct Building {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Building {
    fn span(&mut self, bytes: &[u8]) -> Span {
        // A gap, as heads of entries leave one.
        self.bytes.extend_from_slice(b"..");
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        let len = bytes.len() as u32;
        Span { start, len }
    }

    pub(in super::super) fn command(&mut self, lsn: Option<u64>, args: &[u8]) -> &mut Self {
        let args = Body::Inline(self.span(args));
        self.push_command(0, lsn, 0, args)
    }

    pub(in super::super) fn push_command(
        &mut self,
        db: u32,
        lsn: Option<u64>,
        txid: u64,
        args: Body,
    ) -> &mut Self {
        self.push(Item::Command(Command {
            db,
            lsn,
            txid,
            words: 3,
            args,
        }))
    }

    pub(in super::super) fn push(&mut self, item: Item) -> &mut Self {
        self.items.push(item);
        self
    }

    pub(in super::super) fn batch(&mut self, received_at_ms: i64) -> Batch {
        let Self { bytes, items } = std::mem::take(self);
        Batch {
            bytes: bytes.into(),
            items,
            received_at_ms,
            share: Share::none(),
        }
    }
}

/// Journal entries `first..first + entries` of `size` bytes each, which differ.
pub(in super::super) fn journal(first: u64, entries: u64, size: usize) -> Batch {
    let mut building = Building::default();
    for lsn in first..first + entries {
        let seed = format!("SET key:{lsn} ");
        let args: Vec<u8> = seed.bytes().cycle().take(size.max(1)).collect();
        building.command(Some(lsn), &args);
    }
    building.batch(1_000_000 + first.cast_signed())
}

/// Part of a snapshot: one key, which no other number has.
pub(in super::super) fn part(number: u64, size: usize) -> Batch {
    let key = format!("key:{number}").into_bytes();
    let mut building = Building::default();
    let value = Body::Inline(building.span(&vec![b'v'; size]));
    let record = Record {
        db: 0,
        kind: 0,
        expire_at_ms: None,
        sticky: false,
        memcache_flags: 0,
        key: Text::Owned(key.into()),
        value,
    };
    building.push(Item::Record(record)).batch(0)
}

/// A body in a file.
pub(in super::super) fn spill(bytes: &[u8]) -> Spill {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SpillWriter::create_in(dir.path()).unwrap();
    writer.write(bytes).unwrap();
    writer.finish()
}

/// One item, without its LSN and place.
#[derive(Debug, Clone)]
pub(in super::super) enum Sketch {
    Command(u32, u64, Vec<u8>, bool),
    Nothing(bool),
    Record(u32, Option<i64>, bool, Vec<u8>, Vec<u8>, bool),
    Script(Vec<u8>),
    SnapshotEnd,
}

/// A batch of these items; counted from `first` on if there is one.
pub(in super::super) fn batch_of(sketches: &[Sketch], first: Option<u64>) -> Batch {
    let mut building = Building::default();
    let place = |building: &mut Building, bytes: &[u8], spilled: bool| match spilled {
        true => Body::Spilled(spill(bytes)),
        false => Body::Inline(building.span(bytes)),
    };
    for (sketch, before) in sketches.iter().zip(0..) {
        let lsn = first.map(|first| first + before);
        match sketch {
            Sketch::Command(db, txid, args, spilled) => {
                let args = place(&mut building, args, *spilled);
                building.push_command(*db, lsn, *txid, args)
            }
            Sketch::Nothing(acknowledge) => building.push(Item::Nothing {
                lsn,
                acknowledge: *acknowledge,
            }),
            Sketch::Record(db, expire_at_ms, sticky, key, value, spilled) => {
                let value = place(&mut building, value, *spilled);
                let key = match *sticky {
                    true => Text::Owned(key.as_slice().into()),
                    false => Text::Raw(building.span(key)),
                };
                building.push(Item::Record(Record {
                    db: *db,
                    kind: 4,
                    expire_at_ms: *expire_at_ms,
                    sticky: *sticky,
                    memcache_flags: db.wrapping_mul(77),
                    key,
                    value,
                }))
            }
            Sketch::Script(body) => {
                let body = building.span(body);
                building.push(Item::Script(body))
            }
            Sketch::SnapshotEnd => building.push(Item::SnapshotEnd),
        };
    }
    building.batch(77)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..80)
}

fn of_journal() -> BoxedStrategy<Sketch> {
    let db = prop_oneof![4 => Just(0), 1 => any::<u32>()];
    let txid = prop_oneof![4 => Just(0), 1 => any::<u64>()];
    prop_oneof![
        4 => (db, txid, bytes(), prop::bool::weighted(0.1))
            .prop_map(|(db, txid, args, spilled)| Sketch::Command(db, txid, args, spilled)),
        1 => any::<bool>().prop_map(Sketch::Nothing),
    ]
    .boxed()
}

/// Items of a journal batch.
pub(in super::super) fn journal_sketches() -> impl Strategy<Value = Vec<Sketch>> {
    prop::collection::vec(of_journal(), 1..12)
}

/// Items of a snapshot batch.
pub(in super::super) fn snapshot_sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let record = (
        any::<u32>(),
        any::<Option<i64>>(),
        any::<bool>(),
        bytes(),
        bytes(),
        prop::bool::weighted(0.1),
    );
    let item = prop_oneof![
        3 => record.prop_map(|(db, expiry, sticky, key, value, spilled)| {
            Sketch::Record(db, expiry, sticky, key, value, spilled)
        }),
        1 => of_journal(),
        1 => bytes().prop_map(Sketch::Script),
        1 => Just(Sketch::SnapshotEnd),
    ];
    prop::collection::vec(item, 1..12)
}

/// The batch over its own copy of its bytes.
pub(in super::super) fn again(batch: &Batch) -> Batch {
    Batch {
        bytes: Bytes::copy_from_slice(&batch.bytes),
        items: batch.items.clone(),
        received_at_ms: batch.received_at_ms,
        share: Share::none(),
    }
}
