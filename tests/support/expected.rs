//! Comparing a Redis server with the `expected.json` of a recorded capture: what the master held at the end.
//!
//! Facts: `expected.json` is database -> key -> `{type, expire_at_ms, value}`; bytes that are not UTF-8 are
//!   `{"b64": ...}` as values and `\xNN` in keys; scores are decimal text that reads back to the same double.

use super::Target;
use super::client::Client;
use super::compare::{Database, Seen, read_database, shorten};
use base64::Engine;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One key as the capture describes it.
#[derive(Debug, Clone)]
pub struct ExpectedKey {
    /// Dragonfly's name of the type: `string`, ..., `ReJSON-RL`, `MBbloom--`, `MBbloomCF`, `CMSk-TYPE`, `TopK-TYPE`.
    pub kind: String,
    /// Unix milliseconds, -1 for none.
    pub expire_at_ms: i64,
    value: Value,
    pending: Vec<String>,
}

/// What a stream of before Redis 7.0 does not hold.
const SINCE_7_0: [&str; 2] = ["max-deleted-entry-id", "entries-added"];

/// The state that a capture's master had when the recording ended.
#[derive(Debug, Clone)]
pub struct Expected {
    keys: BTreeMap<(u32, String), ExpectedKey>,
}

impl Expected {
    /// Reads an `expected.json`.
    ///
    /// # Panics
    /// When it is missing or not of the recorder's form.
    #[must_use]
    #[track_caller]
    pub fn load(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let text = fs::read(path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let json: Value = serde_json::from_slice(&text).expect("expected.json is JSON");
        let mut keys = BTreeMap::new();
        for (db, content) in json.as_object().expect("expected.json is an object") {
            let db: u32 = db.parse().expect("a database number");
            for (key, about) in content.as_object().expect("a database is an object") {
                keys.insert((db, key.clone()), ExpectedKey::from(about));
            }
        }
        Self { keys }
    }

    /// The same without keys of types that a plain Redis has no equivalent for.
    #[must_use]
    pub fn plain_types_only(mut self) -> Self {
        const PLAIN: [&str; 6] = ["string", "list", "set", "hash", "zset", "stream"];
        self.keys
            .retain(|_, key| PLAIN.contains(&key.kind.as_str()));
        self
    }

    /// The same without these keys, in whatever database.
    #[must_use]
    pub fn without(mut self, keys: &[&str]) -> Self {
        self.keys
            .retain(|(_, key), _| !keys.contains(&key.as_str()));
        self
    }

    /// As this target can hold it.
    #[must_use]
    pub fn on(mut self, target: Target) -> Self {
        if target.counts_stream_entries() {
            return self;
        }
        for key in self.keys.values_mut() {
            key.pending
                .retain(|line| !SINCE_7_0.iter().any(|name| line.starts_with(name)));
            for line in &mut key.pending {
                if let Some((group, _)) = line.rsplit_once(" read ") {
                    *line = format!("{group} read ");
                }
            }
        }
        self
    }

    /// The same with other members of a set, or other fields and values of a hash.
    #[must_use]
    pub fn with_value(mut self, key: &str, value: Value) -> Self {
        let found = self.keys.get_mut(&(0, key.to_owned()));
        found.expect("a key that is expected in database 0").value = value;
        self
    }

    /// The same without keys that have expired at a moment, Unix milliseconds.
    #[must_use]
    pub fn alive_at(mut self, now_ms: i64) -> Self {
        self.keys
            .retain(|_, key| key.expire_at_ms == -1 || key.expire_at_ms > now_ms);
        self
    }

    /// Writes all this to the server on this port, streams and values of modules excepted.
    #[track_caller]
    pub fn fill(&self, port: u16) {
        let mut client = Client::connect(port);
        for ((db, key), about) in &self.keys {
            let command: &[u8] = match about.kind.as_str() {
                "string" => b"SET",
                "list" => b"RPUSH",
                "set" => b"SADD",
                "hash" => b"HSET",
                "zset" => b"ZADD",
                _ => continue,
            };
            let mut words = vec![command.to_vec(), key.clone().into_bytes()];
            words.extend(about.words());
            client.ok(&["SELECT", &db.to_string()]);
            client.ok(&words);
            if about.expire_at_ms != -1 {
                client.ok(&["PEXPIREAT", key, &about.expire_at_ms.to_string()]);
            }
        }
    }

    /// How many keys are expected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What the server on this port holds otherwise; empty when it holds exactly this.
    ///
    /// # Panics
    /// When the server cannot be read.
    #[must_use]
    #[track_caller]
    pub fn differences(&self, port: u16) -> Vec<String> {
        let mut client = Client::connect(port);
        let mut found = Vec::new();
        let mut dbs: Vec<u32> = super::compare::databases(&mut client);
        dbs.extend(self.keys.keys().map(|(db, _)| *db));
        dbs.sort_unstable();
        dbs.dedup();
        for db in dbs {
            let seen = by_text(read_database(&mut client, db));
            for ((_, key), expected) in self
                .keys
                .range((db, String::new())..(db + 1, String::new()))
            {
                match seen.get(key) {
                    None => found.push(format!("db {db} {key:?}: a {} is missing", expected.kind)),
                    Some((raw, seen)) => found.extend(
                        expected
                            .differences(&mut client, raw, seen)
                            .map(|what| format!("db {db} {key:?}: {what}")),
                    ),
                }
            }
            let extra = seen
                .keys()
                .filter(|key| !self.keys.contains_key(&(db, (*key).clone())));
            found.extend(extra.map(|key| format!("db {db} {key:?}: a key too many")));
        }
        shorten(found)
    }
}

impl ExpectedKey {
    fn from(about: &Value) -> Self {
        Self {
            kind: about["type"].as_str().unwrap_or_default().to_owned(),
            expire_at_ms: about["expire_at_ms"].as_i64().unwrap_or(-1),
            value: about["value"].clone(),
            pending: expected_groups(about),
        }
    }

    fn differences(&self, client: &mut Client, key: &[u8], seen: &Seen) -> Option<String> {
        if seen.kind != self.kind {
            return Some(format!("{} became {}", self.kind, seen.kind));
        }
        if seen.expire_at_ms != self.expire_at_ms {
            return Some(format!(
                "expires at {} instead of {}",
                seen.expire_at_ms, self.expire_at_ms
            ));
        }
        let (mut ours, mut theirs) = (self.lines(), seen_lines(client, key, seen));
        if matches!(self.kind.as_str(), "set" | "hash" | "zset") {
            ours.sort();
            theirs.sort();
        }
        if self.kind == "stream" {
            ours.extend(self.pending.iter().cloned());
        }
        let at = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        let at =
            at.or_else(|| (ours.len() != theirs.len()).then(|| ours.len().min(theirs.len())))?;
        let show = |lines: &[String]| {
            lines.get(at).map_or("nothing".into(), |line| {
                line.chars().take(160).collect::<String>()
            })
        };
        Some(format!(
            "{} elements instead of {}; at {at}: {} instead of {}",
            theirs.len(),
            ours.len(),
            show(&theirs),
            show(&ours)
        ))
    }

    /// The value as the words of the command that writes it.
    fn words(&self) -> Vec<Vec<u8>> {
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self.kind.as_str() {
            "list" | "set" => items.iter().map(bytes).collect(),
            "hash" => items
                .iter()
                .flat_map(|pair| [bytes(&pair[0]), bytes(&pair[1])])
                .collect(),
            "zset" => items
                .iter()
                .flat_map(|pair| [bytes(&pair[1]), bytes(&pair[0])])
                .collect(),
            _ => vec![bytes(&self.value)],
        }
    }

    /// The value as lines of escaped text.
    fn lines(&self) -> Vec<String> {
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self.kind.as_str() {
            "list" | "set" => items.iter().map(escaped).collect(),
            "hash" => items
                .iter()
                .map(|pair| format!("{} = {}", escaped(&pair[0]), escaped(&pair[1])))
                .collect(),
            "zset" => items
                .iter()
                .map(|pair| score_line(&escaped(&pair[0]), pair[1].as_str().unwrap_or("nan")))
                .collect(),
            "stream" => items.iter().map(entry_line).collect(),
            _ => vec![escaped(&self.value)],
        }
    }
}

fn by_text(database: Database) -> BTreeMap<String, (Vec<u8>, Seen)> {
    database
        .into_iter()
        .map(|(key, seen)| (backslash_replaced(&key), (key, seen)))
        .collect()
}

/// As Python's `decode("utf-8", "backslashreplace")`.
fn backslash_replaced(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk
            .invalid()
            .iter()
            .for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Object(object) => {
            let text = object
                .get("b64")
                .and_then(Value::as_str)
                .unwrap_or_default();
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .expect("base64 in expected.json")
        }
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

fn escaped(value: &Value) -> String {
    bytes(value).escape_ascii().to_string()
}

fn score_line(member: &str, score: &str) -> String {
    format!(
        "{member} {:016x}",
        score.parse::<f64>().map_or(0, f64::to_bits)
    )
}

fn entry_line(entry: &Value) -> String {
    let fields = entry[1].as_array().map(Vec::as_slice).unwrap_or_default();
    let fields: Vec<String> = fields
        .iter()
        .map(|pair| format!("{}={}", escaped(&pair[0]), escaped(&pair[1])))
        .collect();
    format!(
        "{} {}",
        entry[0].as_str().unwrap_or_default(),
        fields.join(" ")
    )
}

/// Length, identifiers and groups of a stream, one line each.
fn expected_groups(about: &Value) -> Vec<String> {
    let info = &about["info"];
    if info.is_null() {
        return Vec::new();
    }
    let mut lines: Vec<String> = [
        "length",
        "last-generated-id",
        "max-deleted-entry-id",
        "entries-added",
    ]
    .iter()
    .map(|name| format!("{name} {}", escaped(&info[*name])))
    .collect();
    for group in about["groups"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    {
        let read = group["entries-read"]
            .as_i64()
            .map_or_else(String::new, |n| n.to_string());
        let names =
            ["name", "consumers", "pending", "last-delivered-id"].map(|name| escaped(&group[name]));
        lines.push(format!("group {} read {read}", names.join(" ")));
        for entry in group["pending_entries"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let parts =
                ["message_id", "consumer", "times_delivered"].map(|name| escaped(&entry[name]));
            lines.push(format!("pending {}", parts.join(" ")));
        }
    }
    lines
}

fn seen_lines(client: &mut Client, key: &[u8], seen: &Seen) -> Vec<String> {
    match seen.kind.as_str() {
        "stream" => stream_seen(client, key),
        _ => seen.value.clone(),
    }
}

fn stream_seen(client: &mut Client, key: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in client.ok(&[b"XRANGE".as_slice(), key, b"-", b"+"]).items() {
        let [id, fields] = entry.items() else {
            continue;
        };
        let fields: Vec<String> = fields
            .items()
            .chunks(2)
            .map(|pair| {
                pair.iter()
                    .map(|part| part.bytes().escape_ascii().to_string())
                    .collect::<Vec<_>>()
                    .join("=")
            })
            .collect();
        lines.push(format!("{} {}", id.text(), fields.join(" ")));
    }
    let info = fields(&client.ok(&[b"XINFO".as_slice(), b"STREAM", key]));
    for name in ["length", "last-generated-id"].iter().chain(&SINCE_7_0) {
        // What it does not hold is missing here too, and in `Expected::on`.
        if let Some(value) = info.get(*name) {
            lines.push(format!("{name} {value}"));
        }
    }
    for group in client.ok(&[b"XINFO".as_slice(), b"GROUPS", key]).items() {
        let group = fields(group);
        let get = |name: &str| group.get(name).cloned().unwrap_or_default();
        let names = ["name", "consumers", "pending", "last-delivered-id"].map(get);
        lines.push(format!(
            "group {} read {}",
            names.join(" "),
            get("entries-read")
        ));
        let name = names[0].clone().into_bytes();
        for entry in client
            .ok(&[b"XPENDING".as_slice(), key, &name, b"-", b"+", b"1000"])
            .items()
        {
            let [id, consumer, _, times] = entry.items() else {
                continue;
            };
            lines.push(format!(
                "pending {} {} {}",
                id.text(),
                consumer.text(),
                times.text()
            ));
        }
    }
    lines
}

fn fields(reply: &super::Reply) -> BTreeMap<String, String> {
    reply
        .items()
        .chunks(2)
        .filter_map(|pair| Some((pair.first()?.text(), pair.get(1)?.text())))
        .collect()
}
