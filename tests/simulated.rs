//! The simulated Dragonfly itself: its bytes equal recorded ones, its manners equal a real master's.

#[path = "support/mod.rs"]
mod support;

use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::client::Reply;
use support::dragonfly::encode::{command_entry, lsn_marker};
use support::dragonfly::{
    Compression, Consumer, Fault, Group, Options, Pending, Record, Script, Stream, StreamId, Value,
};
use support::dragonfly::{release::Release, value};
use support::expected::Expected;
use support::recorded::{Entry, Item, RawRecord, entries, items};
use support::replica::Replica;
use support::{Client, Dataset, RedisServer, SimulatedDragonfly, compare, eventually, within};

fn capture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/captures/dragonfly")
        .join(name)
}

fn recorded_flow(scenario: &str, flow: usize) -> Vec<u8> {
    std::fs::read(capture(scenario).join(format!("flow-{flow}.bin"))).expect("a recorded flow")
}

fn records(stream: &[u8]) -> BTreeMap<(u32, Vec<u8>), RawRecord> {
    let records = items(stream).0.into_iter().filter_map(|item| match item {
        Item::Record(record) => Some(((record.db, record.key.clone()), record)),
        _ => None,
    });
    records.collect()
}

fn journal_of(stream: &[u8]) -> &[u8] {
    &stream[items(stream).1..]
}

fn pairs<'a>(words: &[(&'a str, &'a str)]) -> Vec<(&'a [u8], &'a [u8])> {
    words
        .iter()
        .map(|(field, value)| (field.as_bytes(), value.as_bytes()))
        .collect()
}

// --- bytes

#[test]
fn every_recorded_journal_entry_is_encoded_to_the_very_same_bytes() {
    let scenarios = [
        "v1.40.1/journal",
        "v1.40.1/journal-flush",
        "v1.40.1/partial",
        "v1.27.4/journal",
        "v1.27.4/partial",
    ];
    let mut compared = 0;
    for (scenario, flow) in scenarios
        .iter()
        .flat_map(|scenario| [(scenario, 0), (scenario, 1)])
    {
        let stream = recorded_flow(scenario, flow);
        let (found, used) = entries(journal_of(&stream));
        assert_eq!(
            used,
            journal_of(&stream).len(),
            "{scenario} is decoded to its end"
        );
        let mut again = Vec::new();
        for entry in found {
            match entry {
                Entry::Command {
                    op,
                    db,
                    txid,
                    shards,
                    args,
                    bytes,
                } => {
                    let from = again.len();
                    command_entry(op, db, txid, shards, &args, &mut again);
                    assert_eq!(again[from..], bytes, "{scenario}: {args:?}");
                    compared += 1;
                }
                Entry::Ping => again.push(13),
                Entry::Lsn(lsn) => lsn_marker(lsn, &mut again),
            }
        }
        assert_eq!(again, journal_of(&stream), "{scenario} flow {flow}");
    }
    assert!(compared > 600, "only {compared} entries were compared");
}

#[test]
fn records_of_every_ordinary_type_are_encoded_to_the_recorded_bytes() {
    let release = Release::parse("df-v1.40.1");
    let recorded: BTreeMap<_, _> = (0..2)
        .flat_map(|flow| records(&recorded_flow("v1.40.1/types", flow)))
        .collect();
    let same = |record: Record| {
        let raw = &recorded[&(record.db, record.key.clone())];
        let name = record.key.escape_ascii().to_string();
        assert_eq!(
            record.encode().escape_ascii().to_string(),
            raw.bytes.escape_ascii().to_string(),
            "{name}"
        );
    };
    for (key, text) in [
        ("str:empty", ""),
        ("str:int8", "7"),
        ("str:int8neg", "-120"),
        ("str:int16", "30000"),
        ("str:float", "3.25"),
        ("str:int32", "2000000000"),
        ("str:int64", "9223372036854775807"),
        ("str:intmin", "-9223372036854775808"),
        ("str:leadingzero", "007"),
        ("str:raw", "plain text value"),
    ] {
        same(Record::new(key, Value::string(text.as_bytes())));
    }
    let at = 1_924_992_000_000;
    same(Record::new("str:ttl", Value::string(b"expires")).expiring(at));
    same(Record::new("sticky", Value::string(b"s")).sticky());
    same(Record::new("db1:key", Value::string(b"in db one")).in_db(1));
    same(Record::new(
        b"key\x00with\r\ncrlf\xff",
        Value::string(b"val\x00\xff\r\n"),
    ));
    same(Record::new(
        "str:100k",
        Value::string("0123456789abcdef".repeat(6250).as_bytes()),
    ));
    same(Record::new("list:small", Value::list(&["a", "b", "1", "-5", "70000"])).expiring(at));
    same(Record::new(
        "list:long",
        Value::list(&(0..3000).map(|n| format!("item-{n}")).collect::<Vec<_>>()),
    ));
    let xs = "x".repeat(36);
    same(Record::new(
        "list:bigelems",
        Value::list(&(0..5).map(|n| format!("{n}-{xs}")).collect::<Vec<_>>()),
    ));
    same(Record::new(
        "list:plainnode",
        Value::list(&["0123456789abcdef".repeat(1250)]),
    ));
    same(Record::new("set:int16", Value::set(&["1", "2", "300"])));
    same(Record::new("set:int32", Value::set(&["1", "100000"])));
    same(Record::new(
        "set:int64",
        Value::set(&["1", "5000000000", "-5000000000"]),
    ));
    same(Record::new("set:strings", Value::set(&["a", "", "b", "c"])));
    same(Record::new(
        "hash:small",
        Value::hash(
            &pairs(&[("f", "v"), ("n", "12"), ("neg", "-7"), ("", " ")]),
            release,
        ),
    ));
    let long = "0123456789abcdef".repeat(313);
    same(Record::new(
        "hash:longvalue",
        Value::hash(&pairs(&[("f", &long[..5000])]), release),
    ));
    same(
        Record::new("db1:hash", Value::hash(&pairs(&[("f", "v")]), release))
            .in_db(1)
            .expiring(at),
    );
    let small = [
        ("lo", f64::NEG_INFINITY),
        ("tenth", 0.1),
        ("a", 1.0),
        ("b", 2.5),
        ("huge", 1e300),
        ("hi", f64::INFINITY),
    ];
    same(Record::new("zset:small", Value::zset(&small, release)));
    let large: Vec<(String, f64)> = (0..1500)
        .map(|n| (format!("m-{n}"), f64::from(n) + 0.25))
        .collect();
    same(Record::new("zset:large", Value::zset(&large, release)));
    let geo = [
        ("Palermo", 3_479_099_956_230_698.0),
        ("Catania", 3_479_447_370_796_909.0),
    ];
    same(Record::new("geo", Value::zset(&geo, release)));
    same(Record::new(
        "json:doc",
        Value::json(
            r#"{"a":1,"b":[1,2.5,"x",null,true],"c":{"d":"e"}}"#,
            release,
        ),
    ));
}

#[test]
fn collections_with_expiring_elements_are_encoded_to_the_recorded_bytes() {
    let recorded: BTreeMap<_, _> = (0..2)
        .flat_map(|flow| records(&recorded_flow("v1.40.1/types", flow)))
        .collect();
    // The recorder's `100000` seconds from the moment it wrote them, which the record itself tells.
    let set = &recorded[&(0, b"set:memberttl".to_vec())].bytes;
    let seconds = i32::from_le_bytes(set[set.len() - 4..].try_into().expect("four bytes"));
    let at = Some(i64::from(seconds) + 1_675_209_600);
    let value = Value::set_with_expiry(&[("x", at), ("y", at)]);
    assert_eq!(&Record::new("set:memberttl", value).encode(), set);
    let hash = &recorded[&(0, b"hash:fieldttl".to_vec())].bytes;
    let value = Value::hash_with_expiry(&[("a", "1", at), ("b", "2", at), ("noexp", "3", None)]);
    assert_eq!(&Record::new("hash:fieldttl", value).encode(), hash);
}

#[test]
fn streams_with_groups_and_pending_entries_are_encoded_to_the_recorded_bytes() {
    let recorded: BTreeMap<_, _> = (0..2)
        .flat_map(|flow| records(&recorded_flow("v1.40.1/types", flow)))
        .collect();
    let release = Release::parse("df-v1.40.1");
    let small = &recorded[&(0, b"stream:small".to_vec())].bytes;
    // Times are the recording's own: g1's pending entry and consumer, then g2's consumer.
    let time = |back: usize| {
        i64::from_le_bytes(
            small[small.len() - back..][..8]
                .try_into()
                .expect("eight bytes"),
        )
    };
    let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let entries = vec![
        (StreamId(1, 1), vec![field("a", "1"), field("b", "2")]),
        (StreamId(2, 1), vec![field("a", "3"), field("b", "4")]),
        (StreamId(3, 5), vec![field("c", "5")]),
    ];
    let delivered = time(87);
    let pending = Pending {
        id: StreamId(2, 1),
        delivered_ms: delivered,
        count: 1,
    };
    let alice = Consumer {
        name: b"alice".into(),
        seen_ms: time(71),
        active_ms: time(63),
        pending: vec![pending],
    };
    let idle = Consumer {
        name: b"idle".into(),
        seen_ms: time(17),
        active_ms: time(9),
        pending: Vec::new(),
    };
    let g1 = Group {
        name: b"g1".into(),
        last_delivered: StreamId(2, 1),
        entries_read: Some(2),
        consumers: vec![alice],
    };
    let g2 = Group {
        name: b"g2".into(),
        last_delivered: StreamId(3, 5),
        entries_read: None,
        consumers: vec![idle],
    };
    let stream = Stream {
        groups: vec![g1, g2],
        ..Stream::of(entries)
    };
    let ours = Record::new("stream:small", stream.value(release)).encode();
    assert_eq!(
        ours.escape_ascii().to_string(),
        small.escape_ascii().to_string()
    );
    let emptied = Stream {
        last_id: StreamId(5, 5),
        max_deleted: StreamId(5, 5),
        entries_added: 1,
        groups: vec![Group {
            name: b"g".into(),
            last_delivered: StreamId(5, 5),
            ..Group::default()
        }],
        ..Stream::default()
    };
    let ours = Record::new("stream:emptied", emptied.value(release)).encode();
    assert_eq!(ours, recorded[&(0, b"stream:emptied".to_vec())].bytes);
}

#[test]
fn scores_are_written_so_that_they_read_back_to_the_same_double() {
    for (score, text) in [
        (0.1, "0.1"),
        (1e300, "1e300"),
        (1.5e-7, "1.5e-7"),
        (-2.0, "-2"),
        (f64::INFINITY, "inf"),
    ] {
        assert_eq!(value::score_text(score), text);
        assert_eq!(
            text.parse::<f64>().expect("a number").to_bits(),
            score.to_bits()
        );
    }
}

// --- handshake and streams

/// A request of a transcript, as it was sent.
fn ask(client: &mut Client, words: &str) -> String {
    let reply = client.cmd(&words.split(' ').collect::<Vec<_>>());
    as_recorded(&reply).to_string()
}

/// A reply as transcripts write it.
fn as_recorded(reply: &Reply) -> Json {
    match reply {
        Reply::Simple(text) => Json::from(format!("+{text}")),
        Reply::Error(text) => Json::from(format!("-{text}")),
        Reply::Int(n) => Json::from(*n),
        Reply::Array(items) => items.iter().map(as_recorded).collect(),
        other => panic!("{other:?} is in no transcript"),
    }
}

#[test]
fn a_replayed_capture_answers_every_request_of_its_transcript_as_the_master_did() {
    for scenario in [
        "v1.40.1/types",
        "v1.40.1/partial",
        "v1.27.4/journal",
        "v1.27.4/partial",
        "v1.40.1-1flow/journal",
    ] {
        let source = Options::replay(capture(scenario)).start();
        let transcript =
            std::fs::read_to_string(capture(scenario).join("main.txt")).expect("a transcript");
        let mut control = source.client();
        let mut flows: Vec<Client> = Vec::new();
        let mut lines = transcript.lines();
        while let Some(line) = lines.next() {
            let reply = if let Some(words) = line.strip_prefix("> ") {
                if words.starts_with("DFLY STARTSTABLE") {
                    settle(&source, &mut flows);
                }
                ask(&mut control, words)
            } else if let Some((_, words)) = line.split_once("] > ") {
                flows.push(source.client());
                ask(flows.last_mut().expect("a flow"), words)
            } else {
                assert!(line.starts_with("-- disconnected"), "{line}");
                leave(control, std::mem::take(&mut flows));
                eventually("the end of the session", || source.replicas() == 0);
                control = source.client();
                continue;
            };
            let recorded = lines
                .next()
                .and_then(|line| line.split_once("< "))
                .expect("an answer in the transcript")
                .1;
            let recorded: Json = serde_json::from_str(recorded).expect("an answer in JSON");
            assert_eq!(reply, recorded.to_string(), "{scenario}: {line}");
        }
        leave(control, flows);
    }
}

/// Reads what the flows have sent, so that stable sync may start.
fn settle(source: &SimulatedDragonfly, flows: &mut [Client]) {
    if source.snapshot_bytes() == 0 || source.stable_replicas() > 0 {
        return;
    }
    for client in flows {
        let mut seen = Vec::new();
        let stream = client.stream().try_clone().expect("a second handle");
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("a timeout");
        let mut chunk = [0; 65536];
        while let Ok(n @ 1..) = std::io::Read::read(client.reader(), &mut chunk) {
            seen.extend_from_slice(&chunk[..n]);
        }
    }
}

/// Ends connections in order.
fn leave(control: Client, flows: Vec<Client>) {
    for client in flows.iter().chain([&control]) {
        let _ = client.stream().shutdown(std::net::Shutdown::Write);
    }
    for mut client in flows.into_iter().chain([control]) {
        let _ = std::io::Read::read_to_end(client.reader(), &mut Vec::new());
    }
}

#[test]
fn a_replayed_capture_sends_the_recorded_bytes_and_positions() {
    let source = Options::replay(capture("v1.40.1/partial")).start();
    let replica = Replica::synced(source.port());
    let mut client = source.client();
    for (flow, end) in [(0, 24778), (1, 21834)] {
        let recorded = recorded_flow("v1.40.1/partial", flow);
        eventually("all recorded bytes", || {
            replica.flows[flow].len() == recorded.len()
        });
        assert!(replica.flows[flow].bytes() == recorded, "flow {flow}");
        assert_eq!(
            client.ok(&["DFLY", "REPLICAOFFSET"]).items()[flow],
            Reply::Int(end)
        );
    }
    replica.leave();
    let mut replica = Replica::connect(source.port());
    replica.open_flows_at(&[24778, 21834]);
    assert!(replica.flows.iter().all(|flow| flow.answer.0 == "PARTIAL"));
    replica.stable();
    for flow in 0..2 {
        let path = capture("v1.40.1/partial").join(format!("flow-{flow}.partial.bin"));
        let recorded = std::fs::read(path).expect("a recorded flow");
        eventually("all recorded bytes", || {
            replica.flows[flow].len() == recorded.len()
        });
        assert!(replica.flows[flow].bytes() == recorded, "flow {flow}");
    }
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    replica.leave();
}

#[test]
fn journalling_the_recorded_commands_sends_the_recorded_stream() {
    let source = SimulatedDragonfly::options()
        .initial_lsn(6405)
        .flows(1)
        .start();
    let recorded = recorded_flow("v1.40.1-1flow/journal", 0);
    let (found, _) = entries(journal_of(&recorded));
    let replica = Replica::synced(source.port());
    for entry in &found {
        if let Entry::Command {
            op,
            db,
            txid,
            shards,
            args,
            ..
        } = entry
        {
            let stamp = support::dragonfly::Stamp {
                op: *op,
                db: *db,
                txid: *txid,
                shards: *shards,
            };
            source.journal_stamped(0, stamp, args);
        }
    }
    let count = found
        .iter()
        .filter(|entry| matches!(entry, Entry::Command { .. }))
        .count();
    eventually("all entries", || replica.flows[0].commands().len() == count);
    // LSN opcodes after the first depend on the clock.
    let first = |entries: Vec<Entry>| {
        let lsn = entries
            .iter()
            .position(|entry| matches!(entry, Entry::Lsn(_)));
        let rest: Vec<Entry> = entries
            .iter()
            .filter(|entry| !matches!(entry, Entry::Lsn(_)))
            .cloned()
            .collect();
        (lsn, entries.get(1).cloned(), rest)
    };
    assert_eq!(first(replica.flows[0].journal()), first(found));
    assert_eq!(source.next_lsn(0), 6576);
    replica.leave();
}

fn mixed() -> Dataset {
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
fn joined(items: &[Item]) -> BTreeMap<Vec<u8>, Vec<u8>> {
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

#[test]
fn a_snapshot_holds_every_record_once_however_it_is_framed() {
    let dataset = mixed();
    let expected: BTreeMap<_, _> = dataset
        .records
        .iter()
        .map(|r| (r.key.clone(), r.encode()))
        .collect();
    for (compression, tagged, blob) in [
        (Compression::Lz4, true, 0xCA),
        (Compression::Zstd, true, 0xC9),
        (Compression::None, true, 0),
        (Compression::Lz4, false, 0xCA),
        (Compression::None, false, 0),
    ] {
        let options = SimulatedDragonfly::options()
            .flows(3)
            .dataset(dataset.clone());
        let source = options
            .compression(compression)
            .tagged_chunks(tagged)
            .start();
        let replica = Replica::synced(source.port());
        let mut found = BTreeMap::new();
        for (flow, received) in replica.flows.iter().enumerate() {
            let items = received.items();
            let joined = joined(&items);
            assert!(joined.keys().all(|key| source.flow_of(key) == flow));
            let blobs = items
                .iter()
                .filter(|item| matches!(item, Item::Record(r) if r.blob == blob))
                .count();
            assert!(blobs > 200, "only {blobs} records in blobs of {blob:#x}");
            assert_eq!(
                items.iter().any(|item| matches!(item, Item::Chunk(..))),
                tagged && flow == source.flow_of("big:set")
            );
            assert_eq!(items.last(), Some(&Item::Eof(received.answer.1.clone())));
            found.extend(joined);
        }
        assert!(found == expected, "{compression:?}, tagged {tagged}");
        replica.leave();
    }
}
