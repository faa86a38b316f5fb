//! Writes that make a difference when they are lost or repeated, and what they must come to.
//!
//! Invariants: the counters of a workload are its own: no other writes to its databases; after each round `counts` is
//!   what every counter must hold, whatever the source says.

use crate::support::{Client, Reply};
use std::collections::BTreeMap;

/// Names of each kind of key, in each database.
const KEYS: usize = 11;
/// Values that grow are shortened after so many rounds, or long runs would only move them.
const SHORTENED_EVERY: usize = 20 * KEYS;
/// A flush comes after so many rounds.
const FLUSH_EVERY: usize = 101;

/// One client's writes.
pub struct Workload {
    databases: Vec<u32>,
    round: usize,
    counts: BTreeMap<(u32, usize), i64>,
    /// Bytes of a further value in each round.
    large: usize,
}

impl Workload {
    /// Writes to these databases, nobody else does.
    #[must_use]
    pub fn on(databases: &[u32]) -> Self {
        Self {
            databases: databases.to_vec(),
            round: 0,
            counts: BTreeMap::new(),
            large: 0,
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

    /// One round: a command of each kind, some of them in a transaction.
    ///
    /// # Panics
    /// When one of them fails, or a counter is not what it must be at the source itself.
    #[track_caller]
    pub fn round(&mut self, client: &mut Client) {
        let round = self.round;
        self.round += 1;
        let db = self.databases[round % self.databases.len()];
        let (n, next) = (round % KEYS, (round + 1) % KEYS);
        let mut lines = vec![
            format!("SELECT {db}"),
            format!("INCR count:{n}"),
            format!("APPEND text:{n} {round},"),
            format!("SETRANGE text:{n} 3 {round}"),
            format!("LPUSH list:{n} {round} a b"),
            format!("RPOP list:{n}"),
            format!("LMOVE list:{n} list:{next} LEFT RIGHT"),
            format!("HINCRBY hash:{n} field 3"),
            format!("ZINCRBY zset:{n} 0.1 member"),
            format!("XADD stream:{n} * round {round}"),
            format!("APPEND moved:{n} {round},"),
            format!("COPY text:{n} copy:{next} REPLACE"),
            "MULTI".to_owned(),
            format!("INCR count:{n}"),
            format!("APPEND both:{n} {round},"),
            format!("RPUSH both:list:{next} {round}"),
            "EXEC".to_owned(),
        ];
        if round % SHORTENED_EVERY < KEYS {
            lines.extend(["text", "both", "moved"].map(|kind| format!("SET {kind}:{n} {round},")));
            lines.extend(["list", "both:list"].map(|kind| format!("LTRIM {kind}:{n} 0 9")));
            lines.push(format!("XTRIM stream:{n} MAXLEN 9"));
        }
        lines.push(format!("RENAME moved:{n} moved:{next}"));
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

    /// Counters of a server that are not what was counted here: one that is lower was lost, one that is higher was
    /// repeated.
    #[must_use]
    pub fn miscounted(&self, port: u16) -> Vec<String> {
        let mut client = Client::connect(port);
        let mut wrong = Vec::new();
        for db in &self.databases {
            client.ok(&["SELECT", &db.to_string()]);
            for n in 0..KEYS {
                let counted = self.counts.get(&(*db, n)).copied();
                let there = client.ok(&["GET", &format!("count:{n}")]).int();
                if there != counted {
                    wrong.push(format!("db {db} count:{n} is {there:?}, not {counted:?}"));
                }
            }
        }
        wrong
    }
}
