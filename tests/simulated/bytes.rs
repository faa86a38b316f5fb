//! What the simulator encodes equals what real masters sent.

use crate::recordings::{journal_of, recorded_flow, records};
use crate::support::dragonfly::encode::{command_entry, lsn_marker};
use crate::support::dragonfly::release::Release;
use crate::support::dragonfly::{Consumer, Group, Pending, Record, Stream, StreamId, Value, value};
use crate::support::recorded::{Entry, entries};
use std::collections::BTreeMap;

fn pairs<'a>(words: &[(&'a str, &'a str)]) -> Vec<(&'a [u8], &'a [u8])> {
    words
        .iter()
        .map(|(field, value)| (field.as_bytes(), value.as_bytes()))
        .collect()
}

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
