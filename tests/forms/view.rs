//! A value as ordinary commands show it, comparable with what the source showed.

use base64::Engine;
use serde_json::Value as Json;

use super::server::Server;

/// A reply, or a value made of such.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// A null.
    Nothing,
    /// An integer.
    Number(i64),
    /// Bytes.
    Text(Vec<u8>),
    /// Several.
    List(Vec<View>),
}

impl View {
    fn list(self) -> Vec<View> {
        match self {
            Self::List(items) => items,
            other => panic!("not a list: {other:?}"),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).unwrap(),
            other => panic!("not a text: {other:?}"),
        }
    }
}

/// The state of every key at the end, as the source showed it.
pub fn expected() -> Json {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/captures/dragonfly/v1.40.1/types/expected.json"
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The score with this text, as its bits.
fn bits(score: &str) -> View {
    View::Number(score.parse::<f64>().unwrap().to_bits() as i64)
}

/// Pairs, sorted: what has no order of its own is compared in this one.
fn pairs(items: Vec<View>, score: bool) -> View {
    let mut pairs: Vec<_> = items
        .chunks(2)
        .map(|pair| {
            let second = if score {
                bits(pair[1].text())
            } else {
                pair[1].clone()
            };
            View::List(vec![pair[0].clone(), second])
        })
        .collect();
    pairs.sort();
    View::List(pairs)
}

/// Type, expiry and value of a key. `full`: with what a stream of before Redis 7.0 does not hold.
pub fn view(server: &mut Server, key: &[u8], full: bool) -> View {
    let kind = server.ok(&[b"TYPE", key]);
    let expiry = View::Number(server.expire_time(key));
    let value = match kind.text() {
        "string" => server.ok(&[b"GET", key]),
        "list" => server.ok(&[b"LRANGE", key, b"0", b"-1"]),
        "set" => {
            let mut members = server.ok(&[b"SMEMBERS", key]).list();
            members.sort();
            View::List(members)
        }
        "hash" => pairs(server.ok(&[b"HGETALL", key]).list(), false),
        "zset" => {
            let scores = server.ok(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]);
            pairs(scores.list(), true)
        }
        "stream" => stream(server, key, full),
        other => panic!("{} is a {other}", String::from_utf8_lossy(key)),
    };
    View::List(vec![kind, expiry, value])
}

/// What follows `name` in a flat list of names and values.
fn named(items: &[View], name: &str) -> View {
    let at = items
        .iter()
        .position(|item| *item == View::Text(name.into()));
    items[at.unwrap() + 1].clone()
}

const INFO: [&str; 5] = [
    "length",
    "last-generated-id",
    "max-deleted-entry-id",
    "entries-added",
    "recorded-first-entry-id",
];

const GROUP: [&str; 5] = [
    "name",
    "consumers",
    "pending",
    "last-delivered-id",
    "entries-read",
];

fn stream(server: &mut Server, key: &[u8], full: bool) -> View {
    let entries = server.ok(&[b"XRANGE", key, b"-", b"+"]);
    let info = server.ok(&[b"XINFO", b"STREAM", key]).list();
    let known = if full { 5 } else { 2 };
    let mut parts = vec![entries];
    parts.extend(INFO.iter().take(known).map(|name| named(&info, name)));
    for group in server.ok(&[b"XINFO", b"GROUPS", key]).list() {
        let group = group.list();
        let known = if full { 5 } else { 4 };
        parts.extend(GROUP.iter().take(known).map(|name| named(&group, name)));
        let name = named(&group, "name");
        let pending = [b"XPENDING", key, name.text().as_bytes(), b"-", b"+", b"100"];
        for entry in server.ok(&pending).list() {
            // Id, consumer, idle time, deliveries: all but the third.
            let mut entry = entry.list();
            entry.remove(2);
            parts.extend(entry);
        }
    }
    View::List(parts)
}

fn text(json: &Json) -> View {
    match json {
        Json::String(text) => View::Text(text.clone().into_bytes()),
        Json::Null => View::Nothing,
        Json::Number(number) => View::Number(number.as_i64().unwrap()),
        Json::Object(binary) => {
            let encoded = binary["b64"].as_str().unwrap();
            let decoder = base64::engine::general_purpose::STANDARD;
            View::Text(decoder.decode(encoded).unwrap())
        }
        other => panic!("not a text: {other}"),
    }
}

fn texts(json: &Json) -> Vec<View> {
    json.as_array().unwrap().iter().map(text).collect()
}

/// The view of what the source showed of a key.
pub fn of_expected(json: &Json, full: bool) -> View {
    let kind = json["type"].as_str().unwrap();
    let value = &json["value"];
    let flat = || value.as_array().unwrap().iter().flat_map(texts).collect();
    let value = match kind {
        "string" => text(value),
        "list" => View::List(texts(value)),
        "set" => {
            let mut members = texts(value);
            members.sort();
            View::List(members)
        }
        "hash" => pairs(flat(), false),
        "zset" => pairs(flat(), true),
        "stream" => expected_stream(json, full),
        other => panic!("type {other}"),
    };
    View::List(vec![
        View::Text(kind.into()),
        text(&json["expire_at_ms"]),
        value,
    ])
}

fn expected_stream(json: &Json, full: bool) -> View {
    let entry = |entry: &Json| {
        let fields = entry[1].as_array().unwrap().iter().flat_map(texts);
        View::List(vec![text(&entry[0]), View::List(fields.collect())])
    };
    let entries = json["value"].as_array().unwrap().iter().map(entry);
    let mut parts = vec![View::List(entries.collect())];
    let known = if full { 5 } else { 2 };
    parts.extend(
        INFO.iter()
            .take(known)
            .map(|name| text(&json["info"][name])),
    );
    for group in json["groups"].as_array().unwrap() {
        let known = if full { 5 } else { 4 };
        parts.extend(GROUP.iter().take(known).map(|name| text(&group[name])));
        for pending in group["pending_entries"].as_array().unwrap() {
            let fields = ["message_id", "consumer", "times_delivered"];
            parts.extend(fields.iter().map(|name| text(&pending[name])));
        }
    }
    View::List(parts)
}
