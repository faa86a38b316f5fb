//! Values as real Dragonfly servers sent them, against what those servers then answered for them.

use base64::Engine;
use serde_json::Value as Json;

use super::super::{Stream, StreamId, Value, convert, decode, encode, kind};
use super::{decode_sliding, find_end};

/// One line of a file of captured values.
struct Captured {
    name: String,
    kind: u8,
    bytes: Vec<u8>,
    expected: Json,
}

fn captured() -> Vec<Captured> {
    let mut all = Vec::new();
    for release in ["v1.27.4", "v1.40.1", "v1.40.1-lzf"] {
        let path = format!(
            "{}/tests/captures/values/{release}.jsonl",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        for line in text.lines() {
            let line: Json = serde_json::from_str(line).unwrap();
            all.push(Captured {
                name: format!("{release} {}", line["key"].as_str().unwrap()),
                kind: u8::try_from(line["kind"].as_u64().unwrap()).unwrap(),
                bytes: unhex(line["value"].as_str().unwrap()),
                expected: line["expected"].clone(),
            });
        }
    }
    assert!(all.len() > 80, "all captured values are there");
    all
}

fn unhex(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// Types whose values no Redis can hold.
fn is_sketch(kind: u8) -> bool {
    (33..=37).contains(&kind)
}

fn bytes(json: &Json) -> Vec<u8> {
    match json {
        Json::String(text) => text.as_bytes().to_vec(),
        other => base64::engine::general_purpose::STANDARD
            .decode(other["b64"].as_str().unwrap())
            .unwrap(),
    }
}

fn pairs(json: &Json) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs = json.as_array().unwrap().iter();
    pairs
        .map(|pair| (bytes(&pair[0]), bytes(&pair[1])))
        .collect()
}

fn id(json: &Json) -> StreamId {
    let (ms, seq) = json.as_str().unwrap().split_once('-').unwrap();
    StreamId {
        ms: ms.parse().unwrap(),
        seq: seq.parse().unwrap(),
    }
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

fn assert_is(name: &str, value: Value, expected: &Json) {
    let answer = &expected["value"];
    match value {
        Value::String(text) => assert_eq!(text, bytes(answer), "{name}"),
        Value::Json(text) => {
            let parse = |text: &[u8]| serde_json::from_slice::<Json>(text).unwrap();
            assert_eq!(parse(&text), parse(&bytes(answer)), "{name}");
        }
        Value::List(list) => {
            let items: Vec<_> = answer.as_array().unwrap().iter().map(bytes).collect();
            assert_eq!(list, items, "{name}");
        }
        Value::Set(set) => {
            let members = answer.as_array().unwrap().iter().map(bytes);
            let found = set.into_iter().map(|(member, _)| member);
            assert_eq!(sorted(found), sorted(members), "{name}");
        }
        Value::Hash(hash) => {
            let found = hash.into_iter().map(|(field, value, _)| (field, value));
            assert_eq!(sorted(found), sorted(pairs(answer)), "{name}");
        }
        Value::Sorted(members) => {
            let found = members
                .into_iter()
                .map(|(member, score)| (member, score.to_bits()));
            let said = pairs(answer).into_iter().map(|(member, score)| {
                let score: f64 = String::from_utf8(score).unwrap().parse().unwrap();
                (member, score.to_bits())
            });
            assert_eq!(sorted(found), sorted(said), "{name}");
        }
        Value::Stream(stream) => assert_stream(name, &stream, expected),
    }
}

fn assert_stream(name: &str, stream: &Stream, expected: &Json) {
    let entries: Vec<_> = expected["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (id(&entry[0]), pairs(&entry[1])))
        .collect();
    assert_eq!(stream.entries, entries, "{name}");
    let (info, said) = (&stream.info, &expected["info"]);
    assert_eq!(Some(info.length), said["length"].as_u64(), "{name}");
    assert_eq!(info.last, id(&said["last-generated-id"]), "{name}");
    assert_eq!(
        info.max_deleted,
        Some(id(&said["max-deleted-entry-id"])),
        "{name}"
    );
    assert_eq!(info.added, said["entries-added"].as_u64(), "{name}");
    let groups = expected["groups"].as_array().unwrap();
    assert_eq!(stream.groups.len(), groups.len(), "{name}");
    for (group, said) in stream.groups.iter().zip(groups) {
        assert_eq!(group.name, bytes(&said["name"]), "{name}");
        assert_eq!(group.delivered, id(&said["last-delivered-id"]), "{name}");
        let read = said["entries-read"].as_i64().unwrap_or(-1);
        assert_eq!(group.read, Some(read), "{name}");
        assert_eq!(
            Some(group.consumers.len() as u64),
            said["consumers"].as_u64(),
            "{name}"
        );
        let pending = said["pending_entries"].as_array().unwrap();
        assert_eq!(group.pending.len(), pending.len(), "{name}");
        for (entry, said) in group.pending.iter().zip(pending) {
            assert_eq!(entry.0, id(&said["message_id"]), "{name}");
            assert_eq!(Some(entry.2), said["times_delivered"].as_u64(), "{name}");
            let owner = bytes(&said["consumer"]);
            let owner = group.consumers.iter().find(|found| found.name == owner);
            assert!(owner.unwrap().pending.contains(&entry.0), "{name}");
        }
    }
}

#[test]
fn captured_values_decode_to_what_their_server_answered_for_them() {
    for value in captured()
        .into_iter()
        .filter(|value| !is_sketch(value.kind))
    {
        let name = &value.name;
        let (decoded, used) = decode(value.kind, &value.bytes).unwrap_or_else(|error| {
            panic!("{name}: {error}");
        });
        assert_eq!(used, value.bytes.len(), "{name}");
        assert_is(name, decoded, &value.expected);
    }
}

#[test]
fn captured_values_decode_the_same_through_a_sliding_window() {
    for value in captured()
        .into_iter()
        .filter(|value| !is_sketch(value.kind))
    {
        let whole = decode(value.kind, &value.bytes).unwrap();
        for step in [1, 7, 64, 4096] {
            let slid = decode_sliding(value.kind, &value.bytes, step);
            assert_eq!(slid.as_ref(), Ok(&whole), "{} by {step}", value.name);
        }
    }
}

#[test]
fn the_walker_finds_the_end_of_every_captured_value_however_it_is_cut() {
    for value in captured() {
        let followed = [&value.bytes[..], b"\xFE\x00"].concat();
        for step in [1, 2, 3, 19, 1000, usize::MAX] {
            let end = find_end(value.kind, &followed, step);
            assert_eq!(end, Ok(Some(value.bytes.len())), "{} by {step}", value.name);
        }
        let cut = find_end(value.kind, &value.bytes[..value.bytes.len() - 1], 50);
        assert_eq!(cut, Ok(None), "{}", value.name);
    }
}

#[test]
fn what_we_encode_is_byte_for_byte_what_dragonfly_sent() {
    let mut compared = Vec::new();
    for value in captured() {
        if is_sketch(value.kind) || value.name.contains("lzf ") {
            continue;
        }
        let (decoded, _) = decode(value.kind, &value.bytes).unwrap();
        let Some(encoded) = encode_as(value.kind, &decoded) else {
            continue;
        };
        assert_eq!(encoded, value.bytes, "{}", value.name);
        compared.push(value.kind);
    }
    for kind in [0, 2, 4, 11, 16, 17, 18, 21, 30, 31, 32] {
        assert!(compared.contains(&kind), "some value of type {kind}");
    }
}

/// The value in the given type, where that is determined by the value alone.
fn encode_as(kind: u8, value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match (kind, value) {
        (kind::STRING, Value::String(text)) | (kind::JSON, Value::Json(text)) => {
            encode::string(&mut out, text);
        }
        (kind::SET, Value::Set(set)) => {
            let members: Vec<_> = set.iter().map(|(member, _)| member).collect();
            encode::set(&mut out, &members);
        }
        (kind::SET_INTSET, Value::Set(set)) => {
            let members: Vec<i64> = set
                .iter()
                .map(|(member, _)| std::str::from_utf8(member).unwrap().parse().unwrap())
                .collect();
            encode::set_intset(&mut out, &members);
        }
        (kind::SET_EXPIRING, Value::Set(set)) => encode::set_expiring(&mut out, set),
        (kind::HASH_EXPIRING, Value::Hash(hash)) => encode::hash_expiring(&mut out, hash),
        (kind::HASH | kind::HASH_LISTPACK, Value::Hash(hash)) => {
            let fields: Vec<_> = hash
                .iter()
                .map(|(field, value, _)| (field, value))
                .collect();
            match kind {
                kind::HASH => encode::hash(&mut out, &fields),
                _ => encode::hash_listpack(&mut out, &fields),
            }
        }
        (kind::SORTED, Value::Sorted(members)) => encode::sorted(&mut out, members),
        (kind::SORTED_LISTPACK, Value::Sorted(members)) => {
            encode::sorted_listpack(&mut out, members);
        }
        // Only a list of one packed node: how others are divided is not in the value.
        (kind::LIST, Value::List(list)) if list.iter().all(|item| item.len() < 100) => {
            let items: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
            encode::list(&mut out, &[encode::ListNode::Packed(&items)]);
        }
        // Deleted entries are no longer in the value.
        (kind::STREAM, Value::Stream(stream))
            if stream.info.max_deleted == Some(StreamId::default()) =>
        {
            encode::stream(&mut out, stream);
        }
        _ => return None,
    }
    Some(out)
}

#[test]
fn captured_streams_convert_to_older_types_and_keep_what_those_hold() {
    let mut seen = 0;
    for value in captured() {
        if value.kind != kind::STREAM {
            continue;
        }
        seen += 1;
        let (Value::Stream(mut expected), _) = decode(kind::STREAM, &value.bytes).unwrap() else {
            panic!("{} is a stream", value.name);
        };
        let convert = |from, to, bytes: &[u8]| {
            convert::stream(convert::StreamConverter::new(from, to).unwrap(), bytes).unwrap()
        };
        let as_19 = convert(kind::STREAM, kind::STREAM_19, &value.bytes);
        for group in &mut expected.groups {
            group
                .consumers
                .iter_mut()
                .for_each(|consumer| consumer.active = None);
        }
        let whole = |stream: &Stream, bytes: &[u8]| (Value::Stream(stream.clone()), bytes.len());
        assert_eq!(
            decode(kind::STREAM_19, &as_19),
            Ok(whole(&expected, &as_19)),
            "{}",
            value.name
        );
        let as_15 = convert(kind::STREAM_19, kind::STREAM_15, &as_19);
        assert_eq!(convert(kind::STREAM, kind::STREAM_15, &value.bytes), as_15);
        expected
            .groups
            .iter_mut()
            .for_each(|group| group.read = None);
        (expected.info.first, expected.info.max_deleted) = (None, None);
        expected.info.added = None;
        assert_eq!(
            decode(kind::STREAM_15, &as_15),
            Ok(whole(&expected, &as_15)),
            "{}",
            value.name
        );
    }
    assert!(seen >= 6, "streams of every release");
}
