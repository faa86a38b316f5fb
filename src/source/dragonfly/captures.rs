//! The decoder against what real masters sent, however the bytes are cut, and against damage.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::{ReadSettings, SourceError, StreamDecoder, shard};
use crate::entry::{Args, Batch, Body, Item, Share, Text};

const MEGABYTE: usize = 1 << 20;

/// One flow of a capture.
struct Capture {
    flow: u32,
    flows: u32,
    token: [u8; 40],
    bytes: Vec<u8>,
    lsn_end: u64,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/captures/dragonfly")
        .join(name)
}

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn captured(name: &str) -> Vec<Capture> {
    let dir = folder(name);
    let meta = json(&dir.join("meta.json"));
    let flows = meta["flows"].as_u64().unwrap() as u32;
    (0..flows)
        .map(|flow| {
            let at = flow as usize;
            let token = meta["flow_replies"][at][1].as_str().unwrap().as_bytes();
            Capture {
                flow,
                flows,
                token: token[1..].try_into().unwrap(),
                bytes: std::fs::read(dir.join(format!("flow-{flow}.bin"))).unwrap(),
                lsn_end: meta["lsn_end"][at].as_u64().unwrap(),
            }
        })
        .collect()
}

/// An item with its bytes, comparable whatever buffer or file they are in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Record {
        db: u32,
        kind: u8,
        expire_at_ms: Option<i64>,
        key: Vec<u8>,
        value: Vec<u8>,
        spilled: bool,
    },
    Command {
        db: u32,
        lsn: Option<u64>,
        words: Vec<Vec<u8>>,
    },
    Nothing {
        lsn: Option<u64>,
        acknowledge: bool,
    },
    Script(Vec<u8>),
    SnapshotEnd,
    Stable(u64),
}

fn body(batch: &Batch, body: &Body) -> Vec<u8> {
    match body {
        Body::Inline(span) => batch.slice(*span).to_vec(),
        Body::Spilled(spill) => {
            let mut bytes = vec![0; spill.len() as usize];
            let mut at = 0;
            while at < bytes.len() {
                at += spill.read_at(&mut bytes[at..], at as u64).unwrap();
            }
            bytes
        }
    }
}

fn seen(batch: &Batch, item: &Item) -> Seen {
    match item {
        Item::Record(record) => {
            if let Text::Raw(key) = &record.key {
                assert_eq!(
                    batch.slice(*key).len(),
                    key.len as usize,
                    "a key outside its batch"
                );
            }
            Seen::Record {
                db: record.db,
                kind: record.kind,
                expire_at_ms: record.expire_at_ms,
                key: batch.text(&record.key).to_vec(),
                value: body(batch, &record.value),
                spilled: matches!(record.value, Body::Spilled(_)),
            }
        }
        Item::Command(command) => {
            let packed = body(batch, &command.args);
            let args = Args::check(&packed, command.words).unwrap();
            Seen::Command {
                db: command.db,
                lsn: command.lsn,
                words: args.iter().map(<[u8]>::to_vec).collect(),
            }
        }
        Item::Nothing { lsn, acknowledge } => Seen::Nothing {
            lsn: *lsn,
            acknowledge: *acknowledge,
        },
        Item::Script(span) => Seen::Script(batch.slice(*span).to_vec()),
        Item::SnapshotEnd => Seen::SnapshotEnd,
        Item::Stable { next } => Seen::Stable(*next),
    }
}

/// Feeds `bytes` in pieces of the given sizes, over and over, and collects the items.
fn feed(
    decoder: &mut StreamDecoder,
    bytes: &[u8],
    sizes: &[usize],
) -> Result<Vec<Seen>, SourceError> {
    let (mut all, mut rest, mut sizes) = (Vec::new(), bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = (*sizes.next().unwrap()).clamp(1, rest.len());
        decoder.buffer().extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        while let Some(decoded) = decoder.decode()? {
            assert!(!decoded.items.is_empty() && decoded.items.len() <= 4096);
            let batch = Batch {
                bytes: decoded.bytes,
                items: decoded.items,
                received_at_ms: 0,
                share: Share::none(),
            };
            all.extend(batch.items.iter().map(|item| seen(&batch, item)));
        }
    }
    Ok(all)
}

fn decoder(capture: &Capture, dir: &Path, threshold: usize) -> StreamDecoder {
    let settings = ReadSettings::new(dir, threshold);
    StreamDecoder::new(capture.flow, capture.flows, capture.token, settings)
}

fn decode(capture: &Capture, threshold: usize, sizes: &[usize]) -> Result<Vec<Seen>, SourceError> {
    let dir = tempfile::tempdir().unwrap();
    feed(
        &mut decoder(capture, dir.path(), threshold),
        &capture.bytes,
        sizes,
    )
}

/// Applies the LSN rules to what was seen; returns the next LSN.
fn follow_lsns(items: &[Seen]) -> u64 {
    let mut next = None;
    for item in items {
        match item {
            Seen::Stable(start) => assert_eq!(next.replace(*start), None),
            Seen::Command { lsn, .. } | Seen::Nothing { lsn, .. } => {
                assert_eq!(*lsn, next);
                next = next.map(|next| next + 1);
            }
            _ => {}
        }
    }
    next.expect("the flow reaches its journal")
}

/// Snapshot keys per database, and how often the snapshot ended.
fn keys_of(
    captures: &[Capture],
    threshold: usize,
    sizes: &[usize],
) -> BTreeMap<u32, BTreeSet<Vec<u8>>> {
    let mut keys: BTreeMap<u32, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for capture in captures {
        let items = decode(capture, threshold, sizes).unwrap();
        assert_eq!(
            items
                .iter()
                .filter(|item| **item == Seen::SnapshotEnd)
                .count(),
            1
        );
        assert_eq!(
            follow_lsns(&items),
            capture.lsn_end,
            "flow {}",
            capture.flow
        );
        for item in items {
            if let Seen::Record { db, key, .. } = item
                && shard(&key, capture.flows) == capture.flow
            {
                assert!(keys.entry(db).or_default().insert(key), "a key twice");
            }
        }
    }
    keys
}

/// Names of the keys of `expected.json`. Keys that are not UTF-8 only count.
fn expected_counts(name: &str) -> BTreeMap<u32, usize> {
    let expected = json(&folder(name).join("expected.json"));
    let databases = expected.as_object().unwrap().iter();
    databases
        .map(|(db, keys)| (db.parse().unwrap(), keys.as_object().unwrap().len()))
        .collect()
}

fn counts(keys: &BTreeMap<u32, BTreeSet<Vec<u8>>>) -> BTreeMap<u32, usize> {
    keys.iter().map(|(db, keys)| (*db, keys.len())).collect()
}

const TYPES: [&str; 5] = [
    "v1.40.1/types",
    "v1.40.1-zstd/types",
    "v1.40.1-lzf/types",
    "v1.40.1-uncompressed/types",
    "v1.27.4/types",
];

const JOURNALS: [&str; 5] = [
    "v1.40.1/journal",
    "v1.40.1/journal-flush",
    "v1.40.1-1flow/journal",
    "v1.27.4/journal",
    "v1.27.4/journal-flush",
];

#[test]
fn every_snapshot_yields_every_key_and_reaches_the_journal_at_the_masters_count() {
    for name in TYPES {
        // The masters' own count; their lists of values are too long to keep here.
        let first = if name.starts_with("v1.27") { 44 } else { 47 };
        let expected = BTreeMap::from([(0, first), (1, 2)]);
        for threshold in [0, 1_000, MEGABYTE] {
            let found = counts(&keys_of(&captured(name), threshold, &[1 << 16]));
            assert_eq!(
                found, expected,
                "{name}, values over {threshold} bytes in files"
            );
        }
    }
}

#[test]
fn every_journal_is_read_to_the_masters_count_and_ends_in_its_commands() {
    for name in JOURNALS {
        let mut names = BTreeSet::new();
        for capture in captured(name) {
            let items = decode(&capture, MEGABYTE, &[1 << 16]).unwrap();
            assert_eq!(
                follow_lsns(&items),
                capture.lsn_end,
                "{name} flow {}",
                capture.flow
            );
            for item in items {
                if let Seen::Command {
                    words,
                    lsn: Some(_),
                    ..
                } = item
                {
                    names.insert(words[0].clone());
                }
            }
        }
        for command in ["SET", "HSET", "XADD", "DEL"] {
            assert!(
                names.contains(command.as_bytes()),
                "{name} has no {command}"
            );
        }
        assert_eq!(names.contains(&b"FLUSHALL"[..]), name.ends_with("flush"));
    }
}

#[test]
fn a_partial_stream_is_journal_from_the_first_byte_and_its_marker_agrees() {
    let name = "v1.40.1/partial";
    let meta = json(&folder(name).join("meta.json"));
    for flow in 0..2_usize {
        let bytes = std::fs::read(folder(name).join(format!("flow-{flow}.partial.bin"))).unwrap();
        let from = meta["partial"]["from_lsn"][flow].as_u64().unwrap();
        let end = meta["partial"]["lsn_end"][flow].as_u64().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let settings = ReadSettings::new(dir.path(), MEGABYTE);
        let mut decoder = StreamDecoder::resumed(flow as u32, 2, from, settings.clone());
        let items = feed(&mut decoder, &bytes, &[100]).unwrap();
        let lsns: Vec<_> = items
            .iter()
            .map(|item| match item {
                Seen::Command { lsn, .. } | Seen::Nothing { lsn, .. } => lsn.unwrap(),
                other => panic!("{other:?} in a journal"),
            })
            .collect();
        assert_eq!(lsns, (from..end).collect::<Vec<_>>());
        let mut wrong = StreamDecoder::resumed(flow as u32, 2, from + 1, settings);
        let error = feed(&mut wrong, &bytes, &[100]).unwrap_err();
        assert!(matches!(error, SourceError::LsnMismatch { .. }), "{error}");
    }
    for capture in captured(name) {
        decode(&capture, MEGABYTE, &[1 << 16]).unwrap();
    }
}

#[test]
fn keys_of_a_journal_capture_are_those_the_master_lists() {
    let counted = expected_counts("v1.40.1/journal");
    assert_eq!(counted, BTreeMap::from([(0, 56), (1, 3)]));
    let mut touched = BTreeSet::new();
    for capture in captured("v1.40.1/journal") {
        for item in decode(&capture, MEGABYTE, &[1 << 16]).unwrap() {
            match item {
                Seen::Command { words, .. } => touched.extend(words.into_iter().skip(1)),
                Seen::Record { key, .. } => touched.extend([key]),
                _ => {}
            }
        }
    }
    let expected = json(&folder("v1.40.1/journal").join("expected.json"));
    for key in expected["0"].as_object().unwrap().keys() {
        assert!(touched.contains(key.as_bytes()), "{key}");
    }
}

#[test]
fn journal_entries_between_the_records_of_a_live_snapshot_carry_no_count() {
    for capture in captured("v1.27.4/live")
        .into_iter()
        .chain(captured("v1.40.1/live"))
    {
        let items = decode(&capture, MEGABYTE, &[1 << 16]).unwrap();
        assert_eq!(follow_lsns(&items), capture.lsn_end);
        let end = items
            .iter()
            .position(|item| *item == Seen::SnapshotEnd)
            .unwrap();
        let early = items[..end]
            .iter()
            .filter(|item| matches!(item, Seen::Command { lsn: None, .. }));
        let early = early.count();
        assert!(early > 0);
        assert!(items.len() > 10_000);
    }
}

#[test]
fn every_cut_of_a_capture_in_two_yields_the_same_items() {
    for name in ["v1.40.1/partial", "v1.40.1/journal"] {
        for capture in captured(name) {
            let whole = decode(&capture, MEGABYTE, &[usize::MAX]).unwrap();
            let step = if capture.bytes.len() > 2_000 { 97 } else { 1 };
            for at in (1..capture.bytes.len()).step_by(step) {
                assert_eq!(
                    decode(&capture, MEGABYTE, &[at, usize::MAX]).unwrap(),
                    whole,
                    "cut at {at}"
                );
            }
            assert_eq!(decode(&capture, MEGABYTE, &[1]).unwrap(), whole);
        }
    }
}

fn any_small() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "v1.40.1/types",
        "v1.40.1-lzf/types",
        "v1.40.1-zstd/types",
        "v1.27.4/types",
        "v1.40.1/journal",
        "v1.27.4/journal-flush",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn items_are_the_same_however_the_stream_is_cut_into_reads(
        name in any_small(),
        sizes in prop::collection::vec(1usize..5_000, 1..20),
        threshold in prop::sample::select(vec![0, 50, 3_000, MEGABYTE]),
    ) {
        for capture in captured(name) {
            let whole = decode(&capture, threshold, &[usize::MAX]).unwrap();
            let cut = decode(&capture, threshold, &sizes).unwrap();
            prop_assert!(whole == cut);
        }
    }

    #[test]
    fn a_truncated_stream_yields_a_prefix_and_no_error(name in any_small(), at in any::<prop::sample::Index>()) {
        for mut capture in captured(name) {
            let whole = decode(&capture, MEGABYTE, &[usize::MAX]).unwrap();
            capture.bytes.truncate(at.index(capture.bytes.len()));
            let part = decode(&capture, MEGABYTE, &[usize::MAX]).unwrap();
            prop_assert!(whole.starts_with(&part));
        }
    }

    #[test]
    fn a_damaged_stream_never_panics_and_never_grows_without_bound(
        name in any_small(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for mut capture in captured(name) {
            for (at, byte) in &damage {
                let at = at.index(capture.bytes.len());
                capture.bytes[at] = *byte;
            }
            let _ = decode(&capture, 20_000, &[700]);
        }
    }

    #[test]
    fn arbitrary_bytes_after_the_header_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), journal in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let settings = ReadSettings::new(dir.path(), 64);
        if journal {
            let _ = feed(&mut StreamDecoder::resumed(0, 1, 1, settings), &bytes, &[usize::MAX]);
        } else {
            let all = [b"REDIS0009", &bytes[..]].concat();
            let _ = feed(&mut StreamDecoder::new(0, 1, [0; 40], settings), &all, &[usize::MAX]);
        }
    }
}
