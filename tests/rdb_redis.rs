//! The encodings of `df2redis::rdb` against a real Redis: what we encode it restores and shows, what
//! it dumps we decode, on every target server.

#[path = "forms/generated.rs"]
mod generated;
#[path = "support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use df2redis::rdb::encode::{self, ListNode};
use df2redis::rdb::{
    Consumer, Group, Stream, StreamId, StreamInfo, Value, convert, decode, kind, payload,
};
use generated::stream_of;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use redis::{Connection, FromRedisValue};
use support::{RedisServer, Target, on_every_target};

/// A server of our own, ended with the test.
struct Server {
    _redis: RedisServer,
    target: Target,
    connection: RefCell<Connection>,
}

impl Server {
    fn start(target: Target) -> Self {
        let options = ["--rdbcompression", "no", "--sanitize-dump-payload", "yes"];
        let redis = target.start_with(&options);
        let client = redis::Client::open(format!("redis://{}", redis.address())).unwrap();
        let connection = RefCell::new(client.get_connection().unwrap());
        let server = Self {
            _redis: redis,
            target,
            connection,
        };
        // Redis 7.2 and later would pack small sets as type 20, which is not Dragonfly's
        // 20; earlier ones do not know the setting.
        let unpacked = server.try_ask("CONFIG SET set-max-listpack-entries 0", &[]);
        drop::<redis::RedisResult<()>>(unpacked);
        server
    }

    fn ask<T: FromRedisValue>(&self, command: &str, arguments: &[&[u8]]) -> T {
        self.try_ask(command, arguments)
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn try_ask<T: FromRedisValue>(&self, name: &str, args: &[&[u8]]) -> redis::RedisResult<T> {
        let mut words = name.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        words.for_each(|word| {
            command.arg(word);
        });
        args.iter().for_each(|arg| {
            command.arg(*arg);
        });
        command.query(&mut *self.connection.borrow_mut())
    }

    /// Whether it loads values of this type, which is what the table of forms says of its release.
    fn loads(&self, kind: u8) -> bool {
        match kind {
            16..=19 => self.target != Target::Redis62,
            kind::STREAM => self.tells_activity(),
            _ => true,
        }
    }

    /// Whether consumers have a time at which they last did something: since Redis 7.2.
    fn tells_activity(&self) -> bool {
        !matches!(self.target, Target::Redis62 | Target::Redis70)
    }

    /// Restores a value; one of a type that it does not load must be refused.
    fn restore(&self, kind: u8, value: &[u8]) -> bool {
        let mut sealed = Vec::new();
        payload::seal(&mut sealed, kind, value);
        let restored = self.try_ask("RESTORE k 0", &[&sealed, b"REPLACE"]);
        match restored {
            Ok(()) => assert!(self.loads(kind), "type {kind} is restored after all"),
            Err(error) => assert!(!self.loads(kind), "type {kind}: {error}"),
        }
        self.loads(kind)
    }

    /// Type and bytes as it dumps them.
    fn dump(&self) -> (u8, Vec<u8>) {
        let dumped: Vec<u8> = self.ask("DUMP k", &[]);
        let (kind, value) = payload::open(&dumped).unwrap();
        (kind, value.to_vec())
    }

    fn decode_dump(&self) -> Value {
        let (kind, bytes) = self.dump();
        let (value, used) = decode(kind, &bytes).unwrap();
        assert_eq!(used, bytes.len());
        value
    }

    /// The value as commands show it.
    fn show(&self, like: &Value) -> Value {
        match like {
            Value::String(_) | Value::Json(_) => Value::String(self.ask("GET k", &[])),
            Value::List(_) => Value::List(self.ask("LRANGE k 0 -1", &[])),
            Value::Set(_) => {
                let members: BTreeSet<Vec<u8>> = self.ask("SMEMBERS k", &[]);
                Value::Set(members.into_iter().map(|member| (member, None)).collect())
            }
            Value::Hash(_) => {
                let hash: BTreeMap<Vec<u8>, Vec<u8>> = self.ask("HGETALL k", &[]);
                let hash = hash.into_iter().map(|(field, value)| (field, value, None));
                Value::Hash(hash.collect())
            }
            Value::Sorted(_) => {
                let sorted: Vec<(Vec<u8>, String)> = self.ask("ZRANGE k 0 -1 WITHSCORES", &[]);
                let sorted = sorted.into_iter();
                Value::Sorted(
                    sorted
                        .map(|(member, score)| (member, score.parse().unwrap()))
                        .collect(),
                )
            }
            Value::Stream(_) => Value::Stream(self.show_stream()),
        }
    }

    fn show_stream(&self) -> Stream {
        type Entries = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;
        let entries: Entries = self.ask("XRANGE k - +", &[]);
        let full: BTreeMap<String, redis::Value> = self.ask("XINFO STREAM k FULL COUNT 0", &[]);
        let number = |name: &str| -> u64 { get(&full, name) };
        let id = |name: &str| parse_id(&get::<String>(&full, name));
        // All that came with Redis 7.0 came together.
        let counts = self.target.counts_stream_entries();
        assert_eq!(full.contains_key("entries-added"), counts);
        let groups: Vec<BTreeMap<String, redis::Value>> = get(&full, "groups");
        Stream {
            entries: entries
                .into_iter()
                .map(|(id, fields)| (parse_id(&id), fields))
                .collect(),
            info: StreamInfo {
                length: number("length"),
                last: id("last-generated-id"),
                first: counts.then(|| id("recorded-first-entry-id")),
                max_deleted: counts.then(|| id("max-deleted-entry-id")),
                added: counts.then(|| number("entries-added")),
            },
            groups: groups.iter().map(|group| self.show_group(group)).collect(),
        }
    }

    fn show_group(&self, group: &BTreeMap<String, redis::Value>) -> Group {
        let pending: Vec<(String, Vec<u8>, i64, u64)> = get(group, "pending");
        let consumers: Vec<BTreeMap<String, redis::Value>> = get(group, "consumers");
        Group {
            name: get(group, "name"),
            delivered: parse_id(&get::<String>(group, "last-delivered-id")),
            read: self
                .target
                .counts_stream_entries()
                .then(|| get::<Option<i64>>(group, "entries-read").unwrap_or(-1)),
            pending: pending
                .into_iter()
                .map(|(id, _, at, count)| (parse_id(&id), at, count))
                .collect(),
            consumers: consumers
                .iter()
                .map(|consumer| {
                    let pending: Vec<(String, i64, u64)> = get(consumer, "pending");
                    Consumer {
                        name: get(consumer, "name"),
                        seen: get(consumer, "seen-time"),
                        active: self.tells_activity().then(|| get(consumer, "active-time")),
                        pending: pending.iter().map(|(id, ..)| parse_id(id)).collect(),
                    }
                })
                .collect(),
        }
    }
}

fn get<T: FromRedisValue>(map: &BTreeMap<String, redis::Value>, name: &str) -> T {
    let value = map.get(name).unwrap_or_else(|| panic!("{name} in {map:?}"));
    redis::from_redis_value(value.clone()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn parse_id(text: &str) -> StreamId {
    let (ms, seq) = text.split_once('-').unwrap();
    StreamId {
        ms: ms.parse().unwrap(),
        seq: seq.parse().unwrap(),
    }
}

/// Without the order that sets and hashes do not have, with the bits of scores, and without the
/// active times of consumers, which older types do not hold and Redis 7.2 makes up for them.
fn comparable(value: &Value) -> String {
    let mut value = value.clone();
    if let Value::Stream(stream) = &mut value {
        let groups = stream.groups.iter_mut();
        let consumers = groups.flat_map(|group| &mut group.consumers);
        consumers.for_each(|consumer| consumer.active = None);
    }
    with_activity(&value)
}

/// As [`comparable`], with the active times.
fn with_activity(value: &Value) -> String {
    let mut value = value.clone();
    match &mut value {
        Value::Set(set) => set.sort(),
        Value::Hash(hash) => hash.sort(),
        Value::Sorted(sorted) => {
            sorted.sort_by(|left, right| left.0.cmp(&right.0));
            let bits: Vec<_> = sorted
                .iter()
                .map(|(member, score)| (member, score.to_bits()))
                .collect();
            return format!("{bits:?}");
        }
        _ => {}
    }
    format!("{value:?}")
}

fn run<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> TestCaseResult) {
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&strategy, test)
        .unwrap_or_else(|error| panic!("{error}"));
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    generated::text(9000)
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("a number", |score| !score.is_nan()),
        prop::sample::select(vec![
            -0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            5e-324,
            2.5e-310,
            f64::MAX,
            1e21,
            1e-7,
            9_007_199_254_740_993.0,
        ]),
        any::<i16>().prop_map(f64::from),
    ]
}

/// Restores a form of the value, and compares what commands show and what is dumped.
fn round_trip(server: &Server, kind: u8, bytes: &[u8], value: &Value) -> TestCaseResult {
    if !server.restore(kind, bytes) {
        return Ok(());
    }
    let comparable = match kind {
        kind::STREAM => with_activity,
        _ => comparable,
    };
    let expected = comparable(value);
    prop_assert_eq!(
        comparable(&server.show(value)),
        &*expected,
        "shown, type {}",
        kind
    );
    prop_assert_eq!(
        comparable(&server.decode_dump()),
        &*expected,
        "dumped, type {}",
        kind
    );
    Ok(())
}

fn form(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

on_every_target!(strings_and_lists_that_we_encode_are_restored_equal);

fn strings_and_lists_that_we_encode_are_restored_equal(target: Target) {
    let server = Server::start(target);
    run(text(), |text| {
        let bytes = form(|out| encode::string(out, &text));
        round_trip(&server, kind::STRING, &bytes, &Value::String(text))
    });
    run(vec(text(), 1..10), |list| {
        let items: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
        let nodes: Vec<_> = items
            .chunks(3)
            .map(|items| match items {
                // No master has an empty element of its own, and no server takes one.
                [item] if !item.is_empty() => ListNode::Plain(item),
                items => ListNode::Packed(items),
            })
            .collect();
        let bytes = form(|out| encode::list(out, &nodes));
        round_trip(&server, kind::LIST, &bytes, &Value::List(list.clone()))
    });
}

on_every_target!(sets_and_hashes_that_we_encode_are_restored_equal);

fn sets_and_hashes_that_we_encode_are_restored_equal(target: Target) {
    let server = Server::start(target);
    run(btree_set(text(), 1..10), |set| {
        let members: Vec<_> = set.iter().collect();
        let bytes = form(|out| encode::set(out, &members));
        let set = set.iter().map(|member| (member.clone(), None)).collect();
        round_trip(&server, kind::SET, &bytes, &Value::Set(set))
    });
    run(btree_set(any::<i64>(), 1..10), |set| {
        let members: Vec<i64> = set.into_iter().collect();
        let bytes = form(|out| encode::set_intset(out, &members));
        let set = members
            .iter()
            .map(|member| (member.to_string().into_bytes(), None));
        round_trip(
            &server,
            kind::SET_INTSET,
            &bytes,
            &Value::Set(set.collect()),
        )
    });
    run(btree_map(text(), text(), 1..10), |hash| {
        let fields: Vec<_> = hash.iter().collect();
        let hash = hash.iter();
        let hash = hash.map(|(field, value)| (field.clone(), value.clone(), None));
        let hash = Value::Hash(hash.collect());
        let bytes = form(|out| encode::hash(out, &fields));
        round_trip(&server, kind::HASH, &bytes, &hash)?;
        let bytes = form(|out| encode::hash_listpack(out, &fields));
        round_trip(&server, kind::HASH_LISTPACK, &bytes, &hash)
    });
}

on_every_target!(sorted_sets_that_we_encode_are_restored_with_every_bit_of_their_scores);

fn sorted_sets_that_we_encode_are_restored_with_every_bit_of_their_scores(target: Target) {
    let server = Server::start(target);
    run(btree_map(text(), score(), 1..10), |sorted| {
        let mut sorted: Vec<_> = sorted.into_iter().collect();
        sorted.sort_by(|left, right| left.1.total_cmp(&right.1));
        let value = Value::Sorted(sorted.clone());
        let bytes = form(|out| encode::sorted_listpack(out, &sorted));
        round_trip(&server, kind::SORTED_LISTPACK, &bytes, &value)?;
        // One member too long for a listpack: the server packs no score, which makes -0 a 0.
        sorted.push((vec![b'l'; 99], f64::INFINITY));
        let bytes = form(|out| encode::sorted(out, &sorted));
        round_trip(&server, kind::SORTED, &bytes, &Value::Sorted(sorted))
    });
}

/// A stream such as a server can hold: each pending entry has one consumer.
fn stream() -> impl Strategy<Value = Stream> {
    let owners = vec((0usize..2, 1u64..5), 0..6);
    let groups = btree_map(text(), (0u64..9, -1i64..3, owners), 0..3);
    (vec((1u64..3, vec((text(), text()), 1..3)), 1..150), groups).prop_map(|(entries, groups)| {
        let stream = stream_of(entries);
        let groups = groups.into_iter().map(|(name, (delivered, read, owners))| {
            let mut consumers = [&b"alice"[..], b"7"].map(|name| Consumer {
                name: name.to_vec(),
                seen: 1_700_000_000_000,
                active: Some(1_650_000_000_000),
                ..Consumer::default()
            });
            let mut pending = Vec::new();
            for (entry, (owner, count)) in stream.entries.iter().zip(owners) {
                pending.push((entry.0, 1_600_000_000_000, count));
                consumers[owner].pending.push(entry.0);
            }
            consumers.reverse(); // servers keep them by name
            Group {
                name,
                delivered: StreamId {
                    ms: delivered,
                    seq: 3,
                },
                read: Some(read),
                pending,
                consumers: consumers.to_vec(),
            }
        });
        let groups = groups.collect();
        Stream { groups, ..stream }
    })
}

on_every_target!(streams_that_we_encode_are_restored_equal_as_every_type);

fn streams_that_we_encode_are_restored_equal_as_every_type(target: Target) {
    let server = Server::start(target);
    run(stream(), |mut stream| {
        let bytes = form(|out| encode::stream(out, &stream));
        let convert = |to| {
            let converter = convert::StreamConverter::new(kind::STREAM, to).unwrap();
            convert::stream(converter, &bytes).unwrap()
        };
        let whole = Value::Stream(stream.clone());
        round_trip(&server, kind::STREAM, &bytes, &whole)?;
        round_trip(&server, kind::STREAM_19, &convert(kind::STREAM_19), &whole)?;
        server.restore(kind::STREAM_15, &convert(kind::STREAM_15));
        // What type 15 does not hold, the server makes up: no deletions, as many added as are there.
        let counts = target.counts_stream_entries();
        stream.info.first = stream.info.first.filter(|_| counts);
        stream.info.max_deleted = counts.then(StreamId::default);
        stream.info.added = counts.then_some(stream.info.length);
        let Value::Stream(mut shown) = server.show(&Value::Stream(stream.clone())) else {
            unreachable!("a stream is shown as one");
        };
        for (group, expected) in shown.groups.iter_mut().zip(&stream.groups) {
            group.read = expected.read; // estimated by the server
        }
        let [shown, stream] = [shown, stream].map(|stream| comparable(&Value::Stream(stream)));
        prop_assert_eq!(shown, stream);
        Ok(())
    });
}

on_every_target!(what_redis_dumps_decodes_to_what_it_was_told);

fn what_redis_dumps_decodes_to_what_it_was_told(target: Target) {
    let server = Server::start(target);
    let push = |command: &str, items: &[Vec<u8>]| {
        let items: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
        server.ask::<()>("DEL k", &[]);
        server.ask::<()>(command, &items);
    };
    let flat = |pairs: &BTreeMap<Vec<u8>, Vec<u8>>| -> Vec<Vec<u8>> {
        let pairs = pairs.iter();
        pairs
            .flat_map(|(left, right)| [left.clone(), right.clone()])
            .collect()
    };
    for compression in ["no", "yes"] {
        server.ask::<()>("CONFIG SET rdbcompression", &[compression.as_bytes()]);
        run(text(), |text| {
            push("SET k", std::slice::from_ref(&text));
            prop_assert_eq!(server.decode_dump(), Value::String(text));
            Ok(())
        });
        run(vec(text(), 1..200), |list| {
            push("RPUSH k", &list);
            prop_assert_eq!(server.decode_dump(), Value::List(list));
            Ok(())
        });
        run(btree_set(text(), 1..20), |set| {
            push("SADD k", &set.iter().cloned().collect::<Vec<_>>());
            let set = Value::Set(set.into_iter().map(|member| (member, None)).collect());
            prop_assert_eq!(comparable(&server.decode_dump()), comparable(&set));
            Ok(())
        });
        run(btree_set(any::<i32>(), 1..20), |set| {
            let set: Vec<_> = set
                .iter()
                .map(|member| member.to_string().into_bytes())
                .collect();
            push("SADD k", &set);
            let set = Value::Set(set.into_iter().map(|member| (member, None)).collect());
            prop_assert_eq!(comparable(&server.decode_dump()), comparable(&set));
            Ok(())
        });
        run(btree_map(text(), text(), 1..20), |hash| {
            push("HSET k", &flat(&hash));
            let hash = hash.into_iter().map(|(field, value)| (field, value, None));
            let hash = Value::Hash(hash.collect());
            prop_assert_eq!(comparable(&server.decode_dump()), comparable(&hash));
            Ok(())
        });
        run(btree_map(text(), score(), 1..20), |sorted| {
            let told: Vec<_> = sorted
                .iter()
                .flat_map(|(member, score)| [format!("{score:e}").into_bytes(), member.clone()])
                .collect();
            push("ZADD k", &told);
            // The server stores -0 as 0 in a listpack, and as it is elsewhere.
            let zero = |value: &Value| match value {
                Value::Sorted(sorted) => {
                    let members = sorted.iter();
                    let members = members.map(|(member, score)| (member.clone(), score + 0.0));
                    comparable(&Value::Sorted(members.collect()))
                }
                other => comparable(other),
            };
            let sorted = Value::Sorted(sorted.into_iter().collect());
            prop_assert_eq!(zero(&server.decode_dump()), zero(&sorted));
            Ok(())
        });
    }
}

on_every_target!(a_stream_made_by_commands_dumps_to_what_commands_show);

fn a_stream_made_by_commands_dumps_to_what_commands_show(target: Target) {
    let server = Server::start(target);
    for entry in 1..=250u32 {
        let id = format!("{}-{entry}", entry / 3 + 1).into_bytes();
        let other = ["a", "b"][usize::from(entry % 7 == 0)].as_bytes();
        let value = vec![b'x'; entry as usize];
        server.ask::<String>(
            "XADD k",
            &[&id, b"n", entry.to_string().as_bytes(), other, &value],
        );
    }
    server.ask::<()>("XDEL k 1-1 4-9 10-28", &[]);
    server.ask::<()>("XTRIM k MAXLEN 230", &[]);
    server.ask::<()>("XGROUP CREATE k g 0", &[]);
    server.ask::<()>("XGROUP CREATE k idle $", &[]);
    server.ask::<()>("XGROUP CREATECONSUMER k idle nobody", &[]);
    for consumer in ["alice", "bob"] {
        let read = ["XREADGROUP GROUP g", consumer, "COUNT 5 STREAMS k >"].join(" ");
        server.ask::<redis::Value>(&read, &[]);
    }
    let dumped = server.decode_dump();
    let shown = server.show(&dumped);
    assert_eq!(comparable(&dumped), comparable(&shown));
    let Value::Stream(dumped) = dumped else {
        panic!("a stream");
    };
    assert_eq!(dumped.entries.len(), 230);
    assert_eq!(dumped.groups[0].pending.len(), 10);
}

#[test]
fn listpacks_are_built_byte_for_byte_as_redis_builds_them() {
    // Lists of Redis 6.2 are of ziplists.
    use Target::{Redis70, Redis82, Valkey81, Valkey91};
    for target in [Redis70, Redis82, Valkey81, Valkey91] {
        listpacks_are_built_as_by(target);
    }
}

fn listpacks_are_built_as_by(target: Target) {
    let server = Server::start(target);
    // The one length of these whose element Valkey 9.1 writes a byte shorter.
    let narrower = |len: usize| target == Target::Valkey91 && len == 16378;
    server.ask::<()>("CONFIG SET list-max-listpack-size -5", &[]);
    let lengths = [
        0, 1, 11, 12, 62, 63, 64, 125, 126, 127, 4094, 4095, 4096, 16377, 16378, 16379,
    ];
    let lengths = lengths.into_iter().filter(|len| !narrower(*len));
    let mut items: Vec<Vec<u8>> = lengths.map(|len| vec![b'x'; len]).collect();
    for edge in [0i64, 128, 4096, 1 << 15, 1 << 23, 1 << 31] {
        for number in [edge - 1, edge, edge + 1, -edge - 1, -edge, -edge + 1] {
            items.push(number.to_string().into_bytes());
        }
    }
    items.push(i64::MAX.to_string().into_bytes());
    items.push(i64::MIN.to_string().into_bytes());
    for part in items.chunks(14) {
        let part: Vec<&[u8]> = part.iter().map(Vec::as_slice).collect();
        server.ask::<()>("DEL k", &[]);
        server.ask::<()>("RPUSH k", &part);
        let ours = form(|out| encode::list(out, &[ListNode::Packed(&part)]));
        assert_eq!(server.dump(), (kind::LIST, ours));
    }
}

on_every_target!(captured_values_that_redis_knows_are_restored_equal);

fn captured_values_that_redis_knows_are_restored_equal(target: Target) {
    let server = Server::start(target);
    let mut kinds = BTreeSet::new();
    for release in ["v1.27.4", "v1.40.1", "v1.40.1-lzf"] {
        let path = format!(
            "{}/tests/captures/values/{release}.jsonl",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let mut kind = u8::try_from(line["kind"].as_u64().unwrap()).unwrap();
            let hex = line["value"].as_str().unwrap();
            let mut bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            if kind >= kind::JSON {
                continue;
            }
            if kind == kind::STREAM {
                let converter = convert::StreamConverter::new(kind, kind::STREAM_19).unwrap();
                (kind, bytes) = (kind::STREAM_19, convert::stream(converter, &bytes).unwrap());
            }
            kinds.insert(kind);
            let (value, _) = decode(kind, &bytes).unwrap();
            round_trip(&server, kind, &bytes, &value)
                .unwrap_or_else(|error| panic!("{release} {}: {error}", line["key"]));
        }
    }
    let all = [0, 2, 4, 11, 12, 13, 16, 17, 18, 19];
    assert!(kinds.iter().eq(&all), "{kinds:?}");
}
