//! Which commands a task can send to a target, and what for: a row each, with words that the target accepts.
//!
//! Invariant: each command that the journal may bring to a target has a row; a test holds that to the table of
//!   [`crate::commands`].

use super::Purpose;
use crate::commands::{Features, Needs};
use crate::target::position::Names;

/// One command of the target, with words that it accepts.
pub(super) struct Row {
    /// `K` stands for a key. The name has as many words as stand before the first space that is followed
    /// by something in lower case, a digit or `K`.
    words: &'static str,
    needs: Needs,
}

pub(super) const fn row(words: &'static str) -> Row {
    since(words, 0, 0)
}

const fn since(words: &'static str, major: u16, minor: u16) -> Row {
    let needs = Needs::Release(major, minor);
    Row { words, needs }
}

const fn json(words: &'static str) -> Row {
    let needs = Needs::Json;
    Row { words, needs }
}

const fn bloom(words: &'static str) -> Row {
    let needs = Needs::Bloom;
    Row { words, needs }
}

const RECORDS: &[Row] = &[
    row("HSET K f v"),
    row("HGET K f"),
    row("HDEL K f"),
    row("HKEYS K"),
    row("HGETALL K"),
    row("SCAN 0"),
    row("SADD K m"),
    row("SREM K m"),
    row("SCARD K"),
    row("SMEMBERS K"),
    row("ZADD K 1 m"),
    row("ZREM K m"),
    row("ZRANGE K 0 -1"),
    since("SMISMEMBER K m", 6, 2),
    row("UNLINK K"),
];

const FENCE: &[Row] = &[row("SET K v"), row("GET K")];

const FAILED: &[Row] = &[row("HSET K f v"), row("HGETALL K")];

const SNAPSHOT: &[Row] = &[
    row("SET K v"),
    row("RESTORE K 0 v"),
    row("DEL K"),
    row("PEXPIREAT K 1"),
    row("RPUSH K v"),
    row("SADD K m"),
    row("HSET K f v"),
    row("ZADD K 1 m"),
    row("RENAME K K"),
    row("SCRIPT LOAD v"),
    json("JSON.SET K $ 1"),
];

/// In the order of the table of commands in [`crate::commands`], without what the snapshot needs too.
const JOURNAL: &[Row] = &[
    row("PTTL K"),
    row("MSET K v"),
    row("GETSET K v"),
    since("GETDEL K", 6, 2),
    row("APPEND K v"),
    row("INCR K"),
    row("DECR K"),
    row("INCRBY K 1"),
    row("DECRBY K 1"),
    row("INCRBYFLOAT K 1"),
    row("SETRANGE K 0 v"),
    row("SETBIT K 0 1"),
    row("BITFIELD K"),
    row("BITOP not K K"),
    row("PFADD K"),
    row("PFMERGE K"),
    row("UNLINK K"),
    row("EXPIREAT K 1"),
    row("PERSIST K"),
    row("RENAMENX K K"),
    since("COPY K K", 6, 2),
    row("MOVE K 0"),
    row("SORT K"),
    row("LPUSH K v"),
    row("LPUSHX K v"),
    row("RPUSHX K v"),
    row("LINSERT K before v v"),
    row("LSET K 0 v"),
    row("LTRIM K 0 0"),
    row("LREM K 0 v"),
    row("LPOP K"),
    row("RPOP K"),
    since("LMOVE K K left left", 6, 2),
    row("RPOPLPUSH K K"),
    since("LMPOP 1 K left", 7, 0),
    row("SREM K m"),
    row("SMOVE K K m"),
    row("SUNIONSTORE K K"),
    row("SINTERSTORE K K"),
    row("SDIFFSTORE K K"),
    row("ZINCRBY K 1 m"),
    row("ZREM K m"),
    row("ZREMRANGEBYRANK K 0 0"),
    row("ZREMRANGEBYSCORE K 0 0"),
    row("ZREMRANGEBYLEX K - -"),
    row("ZPOPMIN K"),
    row("ZPOPMAX K"),
    since("ZMPOP 1 K min", 7, 0),
    row("ZUNIONSTORE K 1 K"),
    row("ZINTERSTORE K 1 K"),
    since("ZDIFFSTORE K 1 K", 6, 2),
    since("ZRANGESTORE K K 0 0", 6, 2),
    row("HMSET K f v"),
    row("HDEL K f"),
    row("HSETNX K f v"),
    row("HINCRBY K f 1"),
    row("HINCRBYFLOAT K f 1"),
    row("GEOADD K 0 0 m"),
    row("GEORADIUS K 0 0 1 m"),
    row("GEORADIUSBYMEMBER K m 1 m"),
    row("XADD K 1-1 f v"),
    row("XTRIM K maxlen 1"),
    row("XDEL K 1-1"),
    row("XACK K g 1-1"),
    row("XSETID K 1-1"),
    row("XGROUP CREATE K g 0"),
    row("XGROUP SETID K g 0"),
    since("XINFO GROUPS K", 7, 0),
    row("XGROUP DESTROY K g"),
    row("XGROUP DELCONSUMER K g c"),
    since("XGROUP CREATECONSUMER K g c", 6, 2),
    row("XCLAIM K g c 0 1-1"),
    since("XAUTOCLAIM K g c 0 0", 6, 2),
    row("EVAL return 1 K"),
    json("JSON.DEL K"),
    json("JSON.FORGET K"),
    json("JSON.MERGE K $ 1"),
    json("JSON.CLEAR K"),
    json("JSON.NUMINCRBY K $ 1"),
    json("JSON.NUMMULTBY K $ 1"),
    json("JSON.STRAPPEND K $ v"),
    json("JSON.ARRAPPEND K $ 1"),
    json("JSON.ARRINSERT K $ 0 1"),
    json("JSON.ARRPOP K"),
    json("JSON.ARRTRIM K $ 0 0"),
    json("JSON.TOGGLE K $"),
    json("JSON.MSET K $ 1"),
    bloom("BF.RESERVE K 0.1 1"),
    bloom("BF.ADD K m"),
    bloom("BF.MADD K m"),
    bloom("BF.INSERT K items m"),
    bloom("CMS.INITBYDIM K 1 1"),
    bloom("CMS.INITBYPROB K 0.1 0.1"),
    bloom("CMS.INCRBY K m 1"),
    bloom("CMS.MERGE K 1 K"),
    bloom("TOPK.RESERVE K 1"),
    bloom("TOPK.ADD K m"),
    bloom("TOPK.INCRBY K m 1"),
    bloom("CF.RESERVE K 1"),
    bloom("CF.ADD K m"),
    bloom("CF.ADDNX K m"),
    bloom("CF.INSERT K items m"),
    bloom("CF.INSERTNX K items m"),
    bloom("CF.DEL K m"),
];

/// Fields of a hash that expire, where the target has that.
const FIELD_EXPIRY: &[Row] = &[
    row("HPEXPIREAT K 1 fields 1 f"),
    row("HPERSIST K fields 1 f"),
];
const SET_WITH_EXPIRY: &[Row] = &[row("HSETEX K fields 1 f v")];

/// What is read to compare values, whatever their size.
const COMPARING: &[Row] = &[
    row("TIME"),
    row("TYPE K"),
    row("EXISTS K"),
    row("PTTL K"),
    since("PEXPIRETIME K", 7, 0),
    row("DUMP K"),
    row("GET K"),
    row("STRLEN K"),
    row("GETRANGE K 0 0"),
    row("LRANGE K 0 0"),
    row("SSCAN K 0"),
    row("HSCAN K 0"),
    row("ZRANGE K 0 0"),
    row("XRANGE K - +"),
    row("XINFO STREAM K"),
    row("XINFO GROUPS K"),
    row("XINFO CONSUMERS K g"),
];

/// What only a cluster needs, of every node.
const NODES: &[Row] = &[
    row("CLUSTER SLOTS"),
    row("CLUSTER SHARDS"),
    row("CLUSTER NODES"),
    row("CLUSTER INFO"),
    row("ASKING"),
    row("CLIENT SETNAME v"),
    row("CLIENT LIST"),
    row("CLIENT KILL id 0"),
    row("EXISTS K"),
];

const FLUSHES: &[Row] = &[row("FLUSHDB async")];

impl Row {
    /// The name, with the subcommand if it has one.
    pub(super) fn name(&self) -> &'static str {
        let is_lower =
            |word: &str| word == "K" || !word.starts_with(|c: char| c.is_ascii_uppercase());
        let rest: usize = self
            .words
            .split(' ')
            .skip_while(|word| !is_lower(word))
            .map(|word| word.len() + 1)
            .sum();
        let end = self.words.len().saturating_sub(rest);
        self.words.get(..end).unwrap_or(self.words)
    }

    pub(super) fn command(&self, key: &[u8]) -> redis::Cmd {
        let mut command = redis::Cmd::new();
        for word in self.words.split(' ') {
            match word {
                "K" => command.arg(key),
                word => command.arg(word),
            };
        }
        command
    }

    fn is_in(&self, features: &Features) -> bool {
        match self.needs {
            Needs::Any => true,
            Needs::Release(major, minor) => features.at_least(major, minor),
            Needs::Json => features.json,
            Needs::Bloom => features.bloom,
        }
    }
}

/// A command to try.
pub(super) struct Attempt<'k> {
    pub(super) row: &'static Row,
    pub(super) purpose: Purpose,
    pub(super) key: &'k [u8],
}

/// All that a task can send to such a target, on keys of its own and on those it copies.
pub(super) fn attempts<'k>(
    features: &Features,
    names: &'k Names,
    keys: &'k [Vec<u8>],
    of_cluster: bool,
) -> Vec<Attempt<'k>> {
    let record = names.position.as_bytes();
    let key = keys.first().map_or(record, Vec::as_slice);
    let expiry: [(bool, &'static [Row]); 2] = [
        (features.hash_field_expiry(), FIELD_EXPIRY),
        (features.hash_set_with_expiry(), SET_WITH_EXPIRY),
    ];
    let expiry = expiry.into_iter().filter(|(has, _)| *has);
    let families = [
        (Purpose::Records, RECORDS, record),
        (Purpose::Records, FENCE, names.fence.as_bytes()),
        (Purpose::Records, FAILED, names.failed.as_bytes()),
        (Purpose::Snapshot, SNAPSHOT, key),
        (Purpose::Journal, JOURNAL, key),
        (Purpose::Comparing, COMPARING, key),
        match of_cluster {
            // Never sent there: df2redis' own keys are in the only database.
            true => (Purpose::Nodes, NODES, record),
            false => (Purpose::Flushes, FLUSHES, key),
        },
    ]
    .into_iter()
    .chain(expiry.map(|(_, rows)| (Purpose::Journal, rows, key)));
    let all = families
        .flat_map(|(purpose, rows, key)| rows.iter().map(move |row| Attempt { row, purpose, key }));
    // What is permitted on one key need not be on another.
    let further = keys.iter().skip(1).flat_map(|key| {
        SNAPSHOT.iter().take(1).map(move |row| Attempt {
            row,
            purpose: Purpose::Snapshot,
            key,
        })
    });
    all.chain(further)
        .filter(|attempt| attempt.row.is_in(features))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Flavour;

    #[test]
    fn a_row_has_the_name_that_acl_setuser_knows() {
        let names = [
            ("SET K v", "SET"),
            ("SCRIPT LOAD v", "SCRIPT LOAD"),
            ("XGROUP CREATE K g 0", "XGROUP CREATE"),
            ("LMPOP 1 K left", "LMPOP"),
            ("FLUSHDB async", "FLUSHDB"),
            ("ZREMRANGEBYLEX K - -", "ZREMRANGEBYLEX"),
            ("JSON.SET K $ 1", "JSON.SET"),
            ("BITFIELD K", "BITFIELD"),
        ];
        for (words, name) in names {
            assert_eq!(row(words).name(), name);
        }
    }

    /// Commands of the journal that never go to a target under their own name.
    const OTHERWISE: [&str; 24] = [
        "SETNX",
        "MSETNX",
        "PREPEND",
        "CL.THROTTLE",
        "DELEX",
        "EXPIRE",
        "PEXPIRE",
        "STICK",
        "SADDEX",
        "FIELDEXPIRE",
        "HGETEX",
        "HEXPIRE",
        "HSETEX",
        "BF.LOADCHUNK",
        "FT.CREATE",
        "FT.ALTER",
        "FT.DROPINDEX",
        "FT.SYNUPDATE",
        "FLUSHALL",
        "FLUSHDB",
        "DFLYCLUSTER",
        "SHRINK",
        "PING",
        "SCRIPT",
    ];

    #[test]
    fn every_command_of_the_journal_is_tried() {
        let rows = || SNAPSHOT.iter().chain(JOURNAL).map(Row::name);
        for name in crate::commands::names() {
            let first = |row: &str| row.split(' ').next() == Some(name);
            let tried = rows().any(first);
            assert!(tried || OTHERWISE.contains(&name), "{name}");
        }
        for name in rows() {
            let name = name.split(' ').next().unwrap_or_default();
            let known = crate::commands::lookup(name.as_bytes()).is_some();
            // What a script is, and what one and the task itself ask.
            assert!(known || matches!(name, "EVAL" | "PTTL" | "XINFO"), "{name}");
        }
    }

    #[test]
    fn what_an_old_target_does_not_have_is_not_tried_there() {
        let features = |version, has| Features {
            flavour: Flavour::Redis,
            version,
            json: has,
            bloom: has,
        };
        let names = |features: &Features| -> Vec<&str> {
            let records = Names::of("t");
            let attempts = attempts(features, &records, &[], false);
            attempts.iter().map(|attempt| attempt.row.name()).collect()
        };
        let old = names(&features((6, 0, 0), false));
        let new = names(&features((8, 0, 0), true));
        for name in [
            "LMOVE",
            "ZMPOP",
            "JSON.SET",
            "BF.ADD",
            "HPEXPIREAT",
            "HSETEX",
        ] {
            assert!(!old.contains(&name) && new.contains(&name), "{name}");
        }
        assert!(old.contains(&"RESTORE"));
    }
}
