//! What the simulator's tests share: captures, and a data set of their own.

use crate::support::Dataset;
use crate::support::dragonfly::{Record, Value};
use crate::support::recorded::{Item, RawRecord, items};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A capture's directory.
pub fn capture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/captures/dragonfly")
        .join(name)
}

/// What a flow of a capture received.
pub fn recorded_flow(scenario: &str, flow: usize) -> Vec<u8> {
    std::fs::read(capture(scenario).join(format!("flow-{flow}.bin"))).expect("a recorded flow")
}

/// The records of a stream by database and key.
pub fn records(stream: &[u8]) -> BTreeMap<(u32, Vec<u8>), RawRecord> {
    let records = items(stream).0.into_iter().filter_map(|item| match item {
        Item::Record(record) => Some(((record.db, record.key.clone()), record)),
        _ => None,
    });
    records.collect()
}

/// What follows the snapshot in a stream.
pub fn journal_of(stream: &[u8]) -> &[u8] {
    &stream[items(stream).1..]
}

/// A thousand strings around a set that is big enough to be cut, and a key in another database.
pub fn mixed() -> Dataset {
    let mut dataset = Dataset::new();
    for n in 0..500 {
        dataset.string(format!("s:{n}"), format!("value {n}"));
    }
    dataset.set(
        "big:set",
        &(0..20_000)
            .map(|n| format!("member-{n}"))
            .collect::<Vec<_>>(),
    );
    dataset.push(Record::new("other", Value::string(b"1")).in_db(3));
    for n in 500..1000 {
        dataset.string(format!("s:{n}"), format!("value {n}"));
    }
    dataset
}

/// All records of a snapshot, chunks joined.
pub fn joined(items: &[Item]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut chunks: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for item in items {
        match item {
            Item::Record(record) => drop(found.insert(record.key.clone(), record.bytes.clone())),
            Item::Chunk(id, payload) => chunks.entry(*id).or_default().extend(payload),
            _ => {}
        }
    }
    for bytes in chunks.into_values() {
        let stream = [b"REDIS0009".as_slice(), &bytes].concat();
        let record = records(&stream)
            .into_values()
            .next()
            .expect("a whole record in the chunks of an id");
        found.insert(record.key, record.bytes);
    }
    found
}
