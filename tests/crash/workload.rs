//! Writes that make a difference when they are lost or repeated, and what they must come to.
//!
//! Invariants: the counters of a workload are its own: no other writes to its databases; after each round `counts` is
//!   what every counter must hold, whatever the source says.

use crate::sink::Sink;
use crate::support::{Client, Reply};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Names of each kind of key, in each database.
const KEYS: usize = 11;
/// Values that grow are shortened after each of their keys had its turn so often, or long runs would only move them.
const SHORTENED_EVERY: usize = 20;
/// Names that share a hash tag, where names have one.
const TAGGED_ALIKE: usize = 3;
/// Keys with a turn so rare that the position of their slot is removed before the next.
const RARE: usize = 499;
/// A flush comes after so many rounds.
const FLUSH_EVERY: usize = 101;

/// How far away ends are: no test sees them, and no source refuses them.
const FAR: Duration = Duration::from_secs(10_000_000);

/// One client's writes.
pub struct Workload {
    databases: Vec<u32>,
    round: usize,
    keys: usize,
    tagged: bool,
    counts: BTreeMap<(u32, usize), i64>,
    /// Bytes of a further value in each round.
    large: usize,
    /// The first end that a key is given, in Unix milliseconds.
    far_ms: u128,
}

impl Workload {
    /// Writes to these databases, nobody else does.
    #[must_use]
    pub fn on(databases: &[u32]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a time after 1970");
        Self {
            far_ms: (now + FAR).as_millis(),
            databases: databases.to_vec(),
            round: 0,
            keys: KEYS,
            tagged: false,
            counts: BTreeMap::new(),
            large: 0,
        }
    }

    /// To the only database of a cluster, with so many names of each kind of key. Some share a hash tag, so that of the
    /// commands with two keys some are in one slot and some in two.
    #[must_use]
    pub fn on_slots(keys: usize) -> Self {
        Self {
            keys,
            tagged: true,
            ..Self::on(&[0])
        }
    }

    /// With a value of so many bytes in each round.
    #[must_use]
    pub fn with_large(self, bytes: usize) -> Self {
        Self {
            large: bytes,
            ..self
        }
    }

    /// Whether it has such values.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.large > 0
    }

    /// A key.
    fn key(&self, kind: &str, n: usize) -> String {
        match self.tagged {
            true => format!("{kind}:{{{}}}{n}", n / TAGGED_ALIKE),
            false => format!("{kind}:{n}"),
        }
    }

    /// One round: a command of each kind, some of them in a transaction.
    ///
    /// # Panics
    /// When one of them fails, or a counter is not what it must be at the source itself.
    #[track_caller]
    pub fn round(&mut self, client: &mut Client) {
        let round = self.round;
        self.round += 1;
        let db = self.databases[round % self.databases.len()];
        let (n, next) = (round % self.keys, (round + 1) % self.keys);
        let [count, text, list, hash, zset] =
            ["count", "text", "list", "hash", "zset"].map(|kind| self.key(kind, n));
        let [stream, moved, both] = ["stream", "moved", "both"].map(|kind| self.key(kind, n));
        let [next_list, next_copy, next_moved, next_both] =
            ["list", "copy", "moved", "both:list"].map(|kind| self.key(kind, next));
        let mut lines = vec![
            format!("SELECT {db}"),
            format!("INCR {count}"),
            format!("APPEND {text} {round},"),
            format!("SETRANGE {text} 3 {round}"),
            format!("LPUSH {list} {round} a b"),
            format!("RPOP {list}"),
            format!("LMOVE {list} {next_list} LEFT RIGHT"),
            format!("HINCRBY {hash} field 3"),
            format!("ZINCRBY {zset} 0.1 member"),
            format!("XADD {stream} * round {round}"),
            format!("APPEND {moved} {round},"),
            format!("COPY {text} {next_copy} REPLACE"),
            "MULTI".to_owned(),
            format!("INCR {count}"),
            format!("APPEND {both} {round},"),
            format!("RPUSH {next_both} {round}"),
            "EXEC".to_owned(),
        ];
        if round % (SHORTENED_EVERY * self.keys) < self.keys {
            lines.extend([&text, &both, &moved].map(|key| format!("SET {key} {round},")));
            let both_list = self.key("both:list", n);
            lines.extend([&list, &both_list].map(|key| format!("LTRIM {key} 0 9")));
            lines.push(format!("XTRIM {stream} MAXLEN 9"));
        }
        lines.push(format!("RENAME {moved} {next_moved}"));
        if self.tagged {
            lines.push(format!("APPEND rare:{} {round},", round % RARE));
        }
        let turn = round / self.databases.len();
        lines.extend(of_elements(turn, self.far_ms + turn as u128));
        if self.large > 0 {
            let letter = char::from(b'a' + u8::try_from(round % 26).unwrap_or_default());
            let value = letter.to_string().repeat(self.large);
            // The last few rounds' values, each appended to once: small enough to be compared.
            lines.push(format!("DEL large:{}", round % 3));
            lines.push(format!("SET large:{} {round},", round % 3));
            lines.push(format!("APPEND large:{} {value}", round % 3));
        }
        let flush = round % FLUSH_EVERY == FLUSH_EVERY - 1;
        if flush {
            lines.push("FLUSHDB".to_owned());
        }
        let replies = client.lines(&lines);
        for (line, reply) in lines.iter().zip(&replies) {
            assert!(!reply.is_error(), "{line} was answered {reply:?}");
        }
        let count = self.counts.entry((db, n)).or_default();
        *count += 2;
        assert_eq!(replies[1].int(), Some(*count - 1), "nobody else counts");
        assert_eq!(replies[16].items()[0], Reply::Int(*count));
        if flush {
            self.counts.retain(|(of, _), _| *of != db);
        }
    }

    /// So many rounds.
    #[track_caller]
    pub fn rounds(&mut self, client: &mut Client, rounds: usize) {
        (0..rounds).for_each(|_| self.round(client));
    }

    /// Counters of a target that are not what was counted here: one that is lower was lost, one that is higher was
    /// repeated.
    #[must_use]
    pub fn miscounted(&self, target: &impl Sink) -> Vec<String> {
        let mut wrong = Vec::new();
        for db in &self.databases {
            for n in 0..self.keys {
                let key = self.key("count", n);
                let counted = self.counts.get(&(*db, n)).copied();
                let there = target.number(*db, &key);
                if there != counted {
                    wrong.push(format!("db {db} {key} is {there:?}, not {counted:?}"));
                }
            }
        }
        wrong
    }
}

/// Writes of single elements and of ends, which may be repeated, on keys that nothing else is written to. One becomes a
/// set, and a string at once: when both are repeated, the first finds a string.
fn of_elements(turn: usize, end_ms: u128) -> Vec<String> {
    let changing = format!("changing:{}", turn / 2 % 7);
    let (n, element) = (turn % 7, turn % 5);
    let mut lines = vec![
        format!("HSET fields:{n} {element} {turn} last {turn}"),
        format!("ZADD scores:{n} 0.{turn} {element} {turn} last"),
        format!("SADD members:{n} {element}"),
    ];
    match turn % 2 {
        0 => lines.extend([
            format!("SADD {changing} {turn}"),
            format!("SET {changing} {turn}"),
            format!("PEXPIREAT {changing} {end_ms}"),
            format!("PEXPIREAT fields:{n} {end_ms}"),
        ]),
        _ => lines.push(format!("DEL {changing}")),
    }
    if turn % 13 == 12 {
        // What ends later is made anew without an end.
        lines.push(format!("DEL scores:{n}"));
        lines.push(format!("ZADD scores:{n} {turn} last"));
    } else if turn % 3 == 2 {
        lines.push(format!("PEXPIREAT scores:{n} {end_ms}"));
    }
    if turn % 11 == 10 {
        lines.push(format!("SREM members:{n} {element}"));
    }
    lines
}
