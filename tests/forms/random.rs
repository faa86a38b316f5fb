//! Random values of every type, written to every target by every form, and read back by commands and by `DUMP`.

use std::path::Path;

use df2redis::commands::MemberExpiry;
use df2redis::rdb::encode::{self, ListNode};
use df2redis::rdb::{Stream, StreamId, StreamInfo, Value as Whole, decode, kind, payload};
use df2redis::target::form::{Bytes, Limits, Settings, Value};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::generated::{self, Fields, stream_of};
use super::server::{Server, features};
use super::view::{View, view};
use crate::support::{Target, on_every_target};
use crate::{NOW, give, spilled, tiny};

/// Years after these tests run, in Unix milliseconds and whole seconds.
const LATER: u64 = 9_795_380_000_000;

/// A value, its bytes and their type.
type Sample = (Whole, u8, Vec<u8>);

fn text() -> impl Strategy<Value = Vec<u8>> {
    generated::text(5000)
}

/// Elements of the lengths at which Valkey 9.1 writes a listpack otherwise than everybody else, in every packed type
/// and among others, by every form.
fn elements_of_the_lengths_that_servers_pack_differently_arrive(target: Target) {
    let mut server = Server::start_of(target);
    server.try_words(&[b"CONFIG", b"SET", b"set-max-listpack-entries", b"0"]);
    for len in [16_377, 16_378, 16_379] {
        let long = vec![b'x'; len];
        let items = [&b"a"[..], &long, b"b", &long, b"7"];
        let list = bytes_of(|out| encode::list(out, &[ListNode::Packed(&items)]));
        let fields = [(&b"f"[..], &long[..]), (b"g", b"1")];
        let hash = bytes_of(|out| encode::hash_listpack(out, &fields));
        let members = [(&long[..], 1.5), (b"m", 2.0)];
        let sorted = bytes_of(|out| encode::sorted_listpack(out, &members));
        let (at, then) = (StreamId { ms: 5, seq: 1 }, StreamId { ms: 6, seq: 1 });
        let field = |value: &[u8]| {
            vec![
                (b"f".to_vec(), value.to_vec()),
                (b"g".to_vec(), b"1".to_vec()),
            ]
        };
        let stream = Stream {
            entries: vec![(at, field(&long)), (then, field(b"v"))],
            info: StreamInfo {
                length: 2,
                last: then,
                first: Some(at),
                max_deleted: Some(StreamId { ms: 2, seq: 1 }),
                added: Some(5),
            },
            groups: Vec::new(),
        };
        let streamed = bytes_of(|out| encode::stream(out, &stream));
        let owned = |text: &[u8]| text.to_vec();
        for (value, kind, bytes) in [
            (
                Whole::List(items.iter().map(|item| owned(item)).collect()),
                kind::LIST,
                list,
            ),
            (
                Whole::Hash(
                    fields
                        .iter()
                        .map(|(f, v)| (owned(f), owned(v), None))
                        .collect(),
                ),
                kind::HASH_LISTPACK,
                hash,
            ),
            (
                Whole::Sorted(
                    members
                        .iter()
                        .map(|(m, score)| (owned(m), *score))
                        .collect(),
                ),
                kind::SORTED_LISTPACK,
                sorted,
            ),
            (Whole::Stream(stream.clone()), kind::STREAM, streamed),
        ] {
            by_every_form(&mut server, target, &value, kind, &bytes);
        }
    }
}

on_every_target!(elements_of_the_lengths_that_servers_pack_differently_arrive);

fn score() -> impl Strategy<Value = f64> {
    let edges = [
        f64::INFINITY,
        f64::NEG_INFINITY,
        5e-324,
        2.5e-310,
        f64::MAX,
        1e21,
        1e-7,
        0.1 + 0.2,
        1_234_567.0,
        9_007_199_254_740_993.0,
    ];
    prop_oneof![
        // Servers spell a -0 that is packed as 0, so it is none of these.
        any::<f64>().prop_filter("a number other than -0", |score| {
            !score.is_nan() && score.to_bits() != (-0f64).to_bits()
        }),
        prop::sample::select(edges.to_vec()),
        any::<i16>().prop_map(f64::from),
    ]
}

fn bytes_of(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

fn lists() -> BoxedStrategy<Sample> {
    let list = |list: Vec<Vec<u8>>| {
        let items: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
        let nodes: Vec<_> = items
            .chunks(3)
            .map(|items| match items {
                [item] if !item.is_empty() => ListNode::Plain(item),
                items => ListNode::Packed(items),
            })
            .collect();
        let bytes = bytes_of(|out| encode::list(out, &nodes));
        (Whole::List(list), kind::LIST, bytes)
    };
    vec(text(), 1..30).prop_map(list).boxed()
}

fn sets() -> BoxedStrategy<Sample> {
    let whole = |members: &[Vec<u8>]| {
        Whole::Set(
            members
                .iter()
                .map(|member| (member.clone(), None))
                .collect(),
        )
    };
    let members = btree_set(text(), 1..30).prop_map(move |set| {
        let set: Vec<_> = set.into_iter().collect();
        let bytes = bytes_of(|out| encode::set(out, &set));
        (whole(&set), kind::SET, bytes)
    });
    let integers = btree_set(any::<i64>(), 1..30).prop_map(move |set| {
        let set: Vec<i64> = set.into_iter().collect();
        let bytes = bytes_of(|out| encode::set_intset(out, &set));
        let set: Vec<_> = set.iter().map(|n| n.to_string().into_bytes()).collect();
        (whole(&set), kind::SET_INTSET, bytes)
    });
    let expiring = btree_map(text(), proptest::option::of(0u64..99), 1..30).prop_map(|set| {
        let seconds = |at: Option<u64>| at.map(|at| LATER + at * 1000);
        let set: Vec<_> = set.into_iter().map(|(m, at)| (m, seconds(at))).collect();
        let bytes = bytes_of(|out| encode::set_expiring(out, &set));
        // No server keeps the expiry of a member.
        let set = set.into_iter().map(|(member, _)| (member, None));
        (Whole::Set(set.collect()), kind::SET_EXPIRING, bytes)
    });
    prop_oneof![members, integers, expiring].boxed()
}

fn hashes() -> BoxedStrategy<Sample> {
    let plain = (btree_map(text(), text(), 1..30), any::<bool>()).prop_map(|(hash, packed)| {
        let fields: Vec<_> = hash.into_iter().collect();
        let (kind, bytes) = match packed {
            true => (
                kind::HASH_LISTPACK,
                bytes_of(|out| encode::hash_listpack(out, &fields)),
            ),
            false => (kind::HASH, bytes_of(|out| encode::hash(out, &fields))),
        };
        let fields = fields
            .into_iter()
            .map(|(field, value)| (field, value, None));
        (Whole::Hash(fields.collect()), kind, bytes)
    });
    let field = (text(), proptest::option::of(0u64..99));
    let expiring = btree_map(text(), field, 1..30).prop_map(|hash| {
        let fields: Vec<_> = hash
            .into_iter()
            .map(|(field, (value, at))| (field, value, at.map(|at| LATER + at * 1000)))
            .collect();
        let bytes = bytes_of(|out| encode::hash_expiring(out, &fields));
        (Whole::Hash(fields), kind::HASH_EXPIRING, bytes)
    });
    prop_oneof![plain, expiring].boxed()
}

fn sorted_sets() -> BoxedStrategy<Sample> {
    let sample = |(sorted, packed): (std::collections::BTreeMap<Vec<u8>, f64>, bool)| {
        let mut sorted: Vec<_> = sorted.into_iter().collect();
        sorted.sort_by(|left, right| left.1.total_cmp(&right.1));
        let (kind, bytes) = match packed {
            true => (
                kind::SORTED_LISTPACK,
                bytes_of(|out| encode::sorted_listpack(out, &sorted)),
            ),
            false => (kind::SORTED, bytes_of(|out| encode::sorted(out, &sorted))),
        };
        (Whole::Sorted(sorted), kind, bytes)
    };
    (btree_map(text(), score(), 1..30), any::<bool>())
        .prop_map(sample)
        .boxed()
}

fn streams() -> BoxedStrategy<Sample> {
    let entry = (1u64..3, vec((text(), text()), 1..3));
    let stream = |entries: Vec<(u64, Fields)>| {
        let stream = stream_of(entries);
        let bytes = bytes_of(|out| encode::stream(out, &stream));
        (Whole::Stream(stream), kind::STREAM, bytes)
    };
    vec(entry, 1..120).prop_map(stream).boxed()
}

fn samples() -> BoxedStrategy<Sample> {
    let strings = text().prop_map(|text| {
        let bytes = bytes_of(|out| encode::string(out, &text));
        (Whole::String(text), kind::STRING, bytes)
    });
    prop_oneof![strings, lists(), sets(), hashes(), sorted_sets(), streams()].boxed()
}

/// What commands show of it: type and value.
fn shown(value: &Whole) -> View {
    let text = |text: &[u8]| View::Text(text.to_vec());
    let pair = |left: View, right: View| View::List(vec![left, right]);
    let sorted = |mut items: Vec<View>| {
        items.sort();
        View::List(items)
    };
    let (name, value) = match value {
        Whole::String(value) | Whole::Json(value) => ("string", text(value)),
        Whole::List(items) => ("list", View::List(items.iter().map(|i| text(i)).collect())),
        Whole::Set(set) => ("set", sorted(set.iter().map(|(m, _)| text(m)).collect())),
        Whole::Hash(hash) => {
            let pairs = hash.iter().map(|(f, v, _)| pair(text(f), text(v)));
            ("hash", sorted(pairs.collect()))
        }
        Whole::Sorted(members) => {
            let bits = |score: &f64| View::Number(score.to_bits().cast_signed());
            let pairs = members.iter().map(|(m, score)| pair(text(m), bits(score)));
            ("zset", sorted(pairs.collect()))
        }
        Whole::Stream(stream) => {
            let entries = stream.entries.iter().map(|(id, fields)| {
                let words = fields.iter().flat_map(|(f, v)| [text(f), text(v)]);
                let id = View::Text(format!("{}-{}", id.ms, id.seq).into());
                pair(id, View::List(words.collect()))
            });
            ("stream", View::List(entries.collect()))
        }
    };
    pair(View::Text(name.into()), value)
}

/// Without the order and the expiry that a dump need not keep.
fn comparable(value: &Whole) -> String {
    let mut value = value.clone();
    match &mut value {
        Whole::Set(set) => set.sort(),
        Whole::Hash(hash) => {
            hash.iter_mut().for_each(|field| field.2 = None);
            hash.sort();
        }
        Whole::Sorted(sorted) => sorted.sort_by(|left, right| left.0.cmp(&right.0)),
        Whole::Stream(stream) => {
            // What the older types do not hold.
            (
                stream.info.first,
                stream.info.max_deleted,
                stream.info.added,
            ) = (None, None, None);
        }
        _ => {}
    }
    format!("{value:?}")
}

/// Compares what a server holds with what it was given.
fn compare(server: &mut Server, target: Target, value: &Whole) {
    let View::List(seen) = view(server, b"k", target.counts_stream_entries()) else {
        panic!("a view is a list");
    };
    let value_seen = match (&seen[2], value) {
        // Its numbers stand behind the entries.
        (View::List(parts), Whole::Stream(stream)) => {
            let Some((entries, info)) = parts.split_first() else {
                panic!("a stream without a list of entries");
            };
            assert_eq!(info[0], View::Number(stream.entries.len() as i64));
            if target.counts_stream_entries() {
                assert_eq!(info[2], View::Text(b"2-1".to_vec()), "greatest deleted id");
                assert_eq!(info[3], View::Number(stream.entries.len() as i64 + 3));
            }
            entries.clone()
        }
        (seen, _) => seen.clone(),
    };
    assert_eq!(View::List(vec![seen[0].clone(), value_seen]), shown(value));
    if let (Whole::Hash(fields), true) = (value, target.lets_fields_expire()) {
        for (field, _, expires) in fields {
            let at = server.ok(&[b"HPEXPIRETIME", b"k", b"FIELDS", b"1", field]);
            let expected = expires.map_or(-1, |at| i64::try_from(at).unwrap());
            assert_eq!(at, View::List(vec![View::Number(expected)]));
        }
    }
    let View::Text(dump) = server.ok(&[b"DUMP", b"k"]) else {
        panic!("no dump");
    };
    let (kind, bytes) = payload::open(&dump).unwrap();
    // Types of their own for hashes of which fields expire, which are compared above.
    if !matches!(kind, 22 | 24 | 25) {
        let (dumped, used) = decode(kind, bytes).unwrap();
        assert_eq!(used, bytes.len());
        assert_eq!(comparable(&dumped), comparable(value));
    }
}

/// Gives a value in every form there is for it, and compares what arrived each time.
fn by_every_form(server: &mut Server, target: Target, value: &Whole, kind: u8, bytes: &[u8]) {
    let by_commands = Limits {
        restore: 0,
        ..Limits::default()
    };
    let features = features(target);
    let spill = spilled(bytes);
    for (place, limits) in [
        (Bytes::Inline(bytes), Limits::default()),
        (Bytes::Inline(bytes), by_commands),
        (Bytes::Inline(bytes), tiny()),
        (Bytes::Spilled(&spill), Limits::default()),
        (Bytes::Spilled(&spill), tiny()),
    ] {
        let settings = Settings {
            features: &features,
            on_member_expiry: MemberExpiry::Drop,
            task: "test",
            of_cluster: false,
            spill_dir: Path::new("/tmp"),
            now_ms: NOW,
            limits,
        };
        let given = Value {
            key: b"k",
            kind,
            bytes: place,
            expire_at_ms: None,
        };
        server.ok(&[b"SET", b"k", b"old"]);
        give(server, &given, &settings).unwrap();
        compare(server, target, value);
    }
}

fn random_values_arrive_equal_by_every_form(target: Target) {
    let mut server = Server::start_of(target);
    // As type 20, sets would be mistaken for Dragonfly's JSON; older releases do not pack them.
    server.try_words(&[b"CONFIG", b"SET", b"set-max-listpack-entries", b"0"]);
    let mut runner = TestRunner::new(Config {
        cases: 100,
        failure_persistence: None,
        ..Config::default()
    });
    let server = std::cell::RefCell::new(server);
    let result = runner.run(&samples(), |(value, kind, bytes)| {
        by_every_form(&mut server.borrow_mut(), target, &value, kind, &bytes);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

on_every_target!(random_values_arrive_equal_by_every_form);
