//! Comparing two Redis servers by ordinary commands, independently of how the copy was made.
//!
//! Invariants: every database and every key is looked at, but for df2redis' own `df2redis:*` keys; a value
//!   is compared in a form that does not depend on its encoding; scores are compared to the last bit.
//! Units: expiry is Unix milliseconds, -1 for none.

use super::client::{Client, Reply};
use std::collections::BTreeMap;

/// Commands in flight at once while reading keys.
const BATCH: usize = 400;
/// Differences listed before the rest is only counted.
const LISTED: usize = 50;

/// One key as the commands show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What `TYPE` says.
    pub kind: String,
    /// What `PEXPIRETIME` says.
    pub expire_at_ms: i64,
    /// The value in a normal form: sets and hashes sorted, scores with their bits, streams without clocks.
    pub value: Vec<String>,
}

/// Every key of one database.
pub type Database = BTreeMap<Vec<u8>, Seen>;

/// What differs between the servers on two ports of 127.0.0.1; empty when they hold the same.
///
/// # Panics
/// When one of them cannot be read.
#[must_use]
#[track_caller]
pub fn compare(source: u16, target: u16) -> Vec<String> {
    compare_clients(&mut Client::connect(source), &mut Client::connect(target))
}

/// As [`compare`], over connections that may have authenticated before. They change their database.
///
/// # Panics
/// When one of them cannot be read.
#[must_use]
#[track_caller]
pub fn compare_clients(source: &mut Client, target: &mut Client) -> Vec<String> {
    let (left, right) = (databases(source), databases(target));
    let mut differences = Vec::new();
    for db in left
        .iter()
        .chain(&right)
        .copied()
        .collect::<std::collections::BTreeSet<u32>>()
    {
        differences.extend(differences_of(
            db,
            &read_database(source, db),
            &read_database(target, db),
        ));
    }
    shorten(differences)
}

/// The differences of one database, one line for each key.
#[must_use]
pub fn differences_of(db: u32, left: &Database, right: &Database) -> Vec<String> {
    let mut found = Vec::new();
    for (key, seen) in left {
        let name = format!("db {db} \"{}\"", key.escape_ascii());
        match right.get(key) {
            None => found.push(format!("{name}: a {} is missing", seen.kind)),
            Some(other) if other.kind != seen.kind => {
                found.push(format!("{name}: {} became {}", seen.kind, other.kind))
            }
            Some(other) => {
                if other.expire_at_ms != seen.expire_at_ms {
                    found.push(format!(
                        "{name}: expires at {} instead of {}",
                        other.expire_at_ms, seen.expire_at_ms
                    ));
                }
                if other.value != seen.value {
                    found.push(format!(
                        "{name}: {} differs, {}",
                        seen.kind,
                        first_difference(&seen.value, &other.value)
                    ));
                }
            }
        }
    }
    let extra = right.iter().filter(|(key, _)| !left.contains_key(*key));
    found.extend(extra.map(|(key, seen)| {
        format!(
            "db {db} \"{}\": a {} too many",
            key.escape_ascii(),
            seen.kind
        )
    }));
    found
}

/// The databases that hold keys.
#[must_use]
#[track_caller]
pub fn databases(client: &mut Client) -> Vec<u32> {
    let info = client.ok(&["INFO", "keyspace"]).text();
    info.lines()
        .filter_map(|line| line.strip_prefix("db")?.split(':').next()?.parse().ok())
        .collect()
}

/// Reads every key of a database. Keys that vanish while it reads are left out.
#[track_caller]
pub fn read_database(client: &mut Client, db: u32) -> Database {
    client.ok(&["SELECT", &db.to_string()]);
    let mut keys = Vec::new();
    let mut cursor = b"0".to_vec();
    loop {
        let page = client.ok(&[b"SCAN".as_slice(), &cursor, b"COUNT", b"1000"]);
        let [next, found] = page.items() else {
            panic!("SCAN was answered {page:?}")
        };
        keys.extend(
            found
                .items()
                .iter()
                .map(Reply::bytes)
                .filter(|key| !key.starts_with(b"df2redis:")),
        );
        cursor = next.bytes();
        if cursor == b"0" {
            break;
        }
    }
    keys.sort();
    keys.dedup();
    keys.chunks(BATCH)
        .flat_map(|part| read_keys(client, part))
        .collect()
}

#[track_caller]
fn read_keys(client: &mut Client, keys: &[Vec<u8>]) -> Vec<(Vec<u8>, Seen)> {
    let about: Vec<_> = keys
        .iter()
        .flat_map(|key| {
            [
                vec![b"TYPE".to_vec(), key.clone()],
                vec![b"PEXPIRETIME".to_vec(), key.clone()],
            ]
        })
        .collect();
    let about = client.pipeline(&about);
    let expiry = |key: &[u8], reply: &Reply, client: &mut Client| match reply {
        Reply::Error(_) => expire_time(client, key),
        reply => reply.int().unwrap_or(i64::MIN),
    };
    let kinds: Vec<(String, i64)> = keys
        .iter()
        .zip(about.chunks(2))
        .map(|(key, pair)| (pair[0].text(), expiry(key, &pair[1], client)))
        .collect();
    let queries: Vec<_> = keys
        .iter()
        .zip(&kinds)
        .flat_map(|(key, (kind, _))| queries(kind, key))
        .collect();
    let mut replies = client.pipeline(&queries).into_iter();
    let mut seen = Vec::with_capacity(keys.len());
    for (key, (kind, expire_at_ms)) in keys.iter().zip(kinds) {
        let answers: Vec<Reply> = replies.by_ref().take(queries_of(&kind).len()).collect();
        if kind != "none" {
            let value = normal(&kind, &answers);
            seen.push((
                key.clone(),
                Seen {
                    kind,
                    expire_at_ms,
                    value,
                },
            ));
        }
    }
    seen
}

/// What `PEXPIRETIME` would say, of a server of before Redis 7.0: its clock and the time to live, read in one
/// millisecond.
#[track_caller]
pub fn expire_time(client: &mut Client, key: &[u8]) -> i64 {
    let time = || vec![b"TIME".to_vec()];
    let left = vec![b"PTTL".to_vec(), key.to_vec()];
    let ms = |reply: &Reply| match reply.items() {
        [seconds, micros] => Some(seconds.int()? * 1000 + micros.int()? / 1000),
        _ => None,
    };
    for _ in 0..10_000 {
        let replies = client.pipeline(&[time(), left.clone(), time()]);
        let [before, left, after] = &replies[..] else {
            unreachable!("as many replies as commands")
        };
        match (left.int(), ms(before), ms(after)) {
            (Some(none), ..) if none < 0 => return none,
            (Some(left), Some(before), Some(after)) if before == after => return before + left,
            (Some(_), Some(_), Some(_)) => {}
            _ => panic!("TIME and PTTL were answered {replies:?}"),
        }
    }
    panic!("the server never answered TIME, PTTL and TIME within a millisecond")
}

/// The commands that show a value of this type; `KEY` stands for the key.
fn queries_of(kind: &str) -> &'static [&'static [&'static str]] {
    match kind {
        "string" => &[&["GET", "KEY"]],
        "list" => &[&["LRANGE", "KEY", "0", "-1"]],
        "set" => &[&["SMEMBERS", "KEY"]],
        "hash" => &[&["HGETALL", "KEY"]],
        "zset" => &[&["ZRANGE", "KEY", "0", "-1", "WITHSCORES"]],
        "stream" => &[
            &["XRANGE", "KEY", "-", "+"],
            &["XINFO", "STREAM", "KEY", "FULL", "COUNT", "0"],
        ],
        "none" => &[],
        _ => &[&["DUMP", "KEY"]],
    }
}

fn queries(kind: &str, key: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let filled = |word: &&str| {
        if *word == "KEY" {
            key.to_vec()
        } else {
            word.as_bytes().to_vec()
        }
    };
    queries_of(kind)
        .iter()
        .map(|words| words.iter().map(filled).collect())
        .collect()
}

fn escaped(reply: &Reply) -> String {
    reply.bytes().escape_ascii().to_string()
}

/// The value in a form that two servers with equal contents share.
fn normal(kind: &str, answers: &[Reply]) -> Vec<String> {
    let first = answers.first().map(Reply::items).unwrap_or_default();
    match kind {
        "list" => first.iter().map(escaped).collect(),
        "set" => sorted(first.iter().map(escaped)),
        "hash" => sorted(
            first
                .chunks(2)
                .map(|pair| pair.iter().map(escaped).collect::<Vec<_>>().join(" = ")),
        ),
        "zset" => sorted(first.chunks(2).map(|pair| {
            let score = pair.last().map(Reply::text).unwrap_or_default();
            let bits = score.parse::<f64>().map_or(0, f64::to_bits);
            // Only the bits: servers spell the same score differently.
            format!(
                "{} {bits:016x}",
                pair.first().map(escaped).unwrap_or_default()
            )
        })),
        "stream" => answers.iter().flat_map(stream_lines).collect(),
        _ => answers.iter().map(escaped).collect(),
    }
}

/// `XRANGE` as it is; `XINFO STREAM FULL` without what depends on the clock or on the encoding.
fn stream_lines(reply: &Reply) -> Vec<String> {
    let items = reply.items();
    if !items
        .first()
        .is_some_and(|first| matches!(first, Reply::Bulk(_)))
    {
        return items.iter().map(|entry| format!("{entry:?}")).collect();
    }
    let mut lines = Vec::new();
    for pair in items.chunks(2) {
        match pair {
            [name, Reply::Array(groups)] if *name == "groups" => {
                lines.extend(sorted(
                    groups
                        .iter()
                        .map(|group| format!("group {:?}", without_clocks(group))),
                ));
            }
            [name, value] if *name != "entries" && !name.text().starts_with("radix-tree") => {
                lines.push(format!("{name:?} {value:?}"));
            }
            _ => {}
        }
    }
    lines
}

/// A group or consumer as name and value pairs, without the times at which consumers were last seen.
fn without_clocks(reply: &Reply) -> Reply {
    let mut kept = Vec::new();
    for pair in reply.items().chunks(2) {
        let [name, value] = pair else { continue };
        if *name == "seen-time" || *name == "active-time" {
            continue;
        }
        let value = if *name == "consumers" {
            let mut consumers: Vec<Reply> = value.items().iter().map(without_clocks).collect();
            consumers.sort_by_key(|consumer| format!("{consumer:?}"));
            Reply::Array(consumers)
        } else {
            value.clone()
        };
        kept.extend([name.clone(), value]);
    }
    Reply::Array(kept)
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

/// Where two values part, in few enough characters to read.
fn first_difference(left: &[String], right: &[String]) -> String {
    let cut = |line: Option<&String>| {
        line.map_or_else(
            || "nothing".to_owned(),
            |line| line.chars().take(120).collect::<String>(),
        )
    };
    let at = left
        .iter()
        .zip(right)
        .position(|(a, b)| a != b)
        .unwrap_or(left.len().min(right.len()));
    let sizes = format!("{} and {} elements", left.len(), right.len());
    format!(
        "{sizes}, at {at}: {} | {}",
        cut(left.get(at)),
        cut(right.get(at))
    )
}

/// The first of them, and how many more there are.
#[must_use]
pub fn shorten(mut differences: Vec<String>) -> Vec<String> {
    let more = differences.len().saturating_sub(LISTED);
    if more > 0 {
        differences.truncate(LISTED);
        differences.push(format!("and {more} more"));
    }
    differences
}
