//! Every command of the table, executed as it is planned for each target, and what the target then shows.
//!
//! Questions that begin with `fields?` are for targets whose fields expire, those with `7.0?` for all but Redis 6.2;
//! `EXPIRY key` is when a key expires, in Unix milliseconds.

use std::collections::BTreeSet;

use df2redis::commands::{Features, Global, Kind, Plan, names, plan};
use df2redis::entry::{Args, ArgsWriter};
use df2redis::rdb::{encode, payload};

use crate::forms::server::{Server, features};
use crate::forms::view::View;
use crate::support::{Target, on_every_target};
use crate::{context, execute};

/// When the entries of these tests are received: long after the tests run, so that nothing expires meanwhile.
const NOW: i64 = 9_000_000_000_000;

/// Entries of the journal, and questions with their answers.
type Row = (
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

const STRINGS: &[Row] = &[
    (
        &["SET k v STICK _MCFLAGS 5 PXAT 9795380000000"],
        &[("GET k", "v"), ("EXPIRY k", "9795380000000")],
    ),
    (
        &["SET k v PXAT 9795380000000", "SET k w KEEPTTL"],
        &[("GET k", "w"), ("EXPIRY k", "9795380000000")],
    ),
    (
        &["SET k v PXAT 9795380000000", "SET k w"],
        &[("EXPIRY k", "-1")],
    ),
    (&["SET k v", "SETNX k w"], &[("GET k", "w")]),
    (
        &["MSET a 1 b 2", "MSETNX c 3"],
        &[("MGET a b c", "[1, 2, 3]")],
    ),
    (&["GETSET k v", "GETSET k w"], &[("GET k", "w")]),
    (&["SET k v", "GETDEL k"], &[("EXISTS k", "0")]),
    (
        &["APPEND k a", "APPEND k b", "PREPEND k c"],
        &[("GET k", "cab")],
    ),
    (
        &[
            "INCR n",
            "INCRBY n 10",
            "DECR n",
            "DECRBY n 3",
            "INCRBYFLOAT f 0.5",
        ],
        &[("GET n", "7"), ("GET f", "0.5")],
    ),
    (
        &["SETRANGE k 2 ab", "SETBIT k 1 1"],
        &[("STRLEN k", "4"), ("GETBIT k 1", "1")],
    ),
    (
        &[
            "BITFIELD k SET u8 0 65",
            "BITFIELD k GET u8 0",
            "BITFIELD k INCRBY u8 0 1",
        ],
        &[("GET k", "B")],
    ),
    (&["SET a a", "SET b b", "BITOP OR d a b"], &[("GET d", "c")]),
    (
        &["PFADD a 1 2", "PFADD b 2 3", "PFMERGE d a b"],
        &[("PFCOUNT d", "3")],
    ),
];

const KEYS: &[Row] = &[
    (
        &[
            "MSET a 1 b 1 c 1 d 1",
            "DEL a b",
            "UNLINK c",
            "DELEX d IFEQ 1",
        ],
        &[("DBSIZE", "0")],
    ),
    (
        &["SET k v", "EXPIRE k 10"],
        &[("EXPIRY k", "9000000010000")],
    ),
    (
        &["SET k v", "PEXPIRE k 10"],
        &[("EXPIRY k", "9000000000010")],
    ),
    (
        &["SET k v", "EXPIREAT k 9000000001"],
        &[("EXPIRY k", "9000000001000")],
    ),
    (
        &[
            "SET k v",
            "PEXPIREAT k 9000000000001",
            "SET l v",
            "PEXPIREAT l 9000000000001",
            "PERSIST l",
        ],
        &[("EXPIRY k", "9000000000001"), ("EXPIRY l", "-1")],
    ),
    (
        &["SET k v", "RENAME k l", "RENAMENX l m"],
        &[("KEYS *", "[m]")],
    ),
    (&["SET k v", "COPY k l"], &[("GET l", "v")]),
    (&["SET k v", "MOVE k 1"], &[("DBSIZE", "0")]),
    (
        &["SET k v", "STICK k", "SHRINK k", "PING"],
        &[("GET k", "v")],
    ),
    (
        &["RPUSH l 3 1 2", "SORT l STORE d", "SORT l"],
        &[("LRANGE d 0 -1", "[1, 2, 3]")],
    ),
    (
        &["SCRIPT LOAD return", "SCRIPT FLAGS x y"],
        &[(
            "SCRIPT EXISTS 63143b6f8007b98c53ca2149822777b3566f9241",
            "[1]",
        )],
    ),
];

const LISTS: &[Row] = &[
    (
        &[
            "RPUSH l b",
            "LPUSH l a",
            "RPUSHX l c",
            "LPUSHX l _",
            "RPUSHX none x",
            "LPUSHX none x",
        ],
        &[("LRANGE l 0 -1", "[_, a, b, c]"), ("EXISTS none", "0")],
    ),
    (
        &["RPUSH l a c", "LINSERT l BEFORE c b", "LSET l 0 x"],
        &[("LRANGE l 0 -1", "[x, b, c]")],
    ),
    (
        &["RPUSH l a b a c", "LREM l 1 a", "LTRIM l 0 1"],
        &[("LRANGE l 0 -1", "[b, a]")],
    ),
    (
        &["RPUSH l a b c d", "LPOP l", "RPOP l 2"],
        &[("LRANGE l 0 -1", "[b]")],
    ),
    (
        &["RPUSH l a b c", "LMOVE l m LEFT RIGHT", "RPOPLPUSH l m"],
        &[("LRANGE l 0 -1", "[b]"), ("LRANGE m 0 -1", "[c, a]")],
    ),
    (
        &[
            "RPUSH l a b c d",
            "LMPOP 1 l LEFT COUNT 2",
            "LMPOP 1 l RIGHT",
        ],
        &[("LRANGE l 0 -1", "[c]")],
    ),
];

const SETS: &[Row] = &[
    (
        &["SADD s a b c", "SREM s a", "SMOVE s d b"],
        &[("SMEMBERS s", "[c]"), ("SMEMBERS d", "[b]")],
    ),
    (
        &[
            "SADD a 1 2",
            "SADD b 2 3",
            "SUNIONSTORE u a b",
            "SINTERSTORE i a b",
            "SDIFFSTORE d a b",
        ],
        &[
            ("SCARD u", "3"),
            ("SMEMBERS i", "[2]"),
            ("SMEMBERS d", "[1]"),
        ],
    ),
    (
        &[
            "SADDEX s 100 a",
            "SADDEX s KEEPTTL 100 b",
            "FIELDEXPIRE s 100 a",
        ],
        &[("SCARD s", "2"), ("TYPE s", "set")],
    ),
];

const SORTED_SETS: &[Row] = &[
    (
        &[
            "ZADD z 1 a 2.5 b 3 c",
            "ZADD z XX GT CH 7 a",
            "ZINCRBY z 0.25 b",
            "ZREM z c",
        ],
        &[("ZRANGE z 0 -1 WITHSCORES", "[b, 2.75, a, 7]")],
    ),
    (
        &[
            "ZADD z 1 a 2 b 3 c 4 d 5 e 6 f",
            "ZREMRANGEBYRANK z 0 0",
            "ZREMRANGEBYSCORE z 2 2",
            "ZPOPMIN z",
            "ZPOPMAX z 1",
        ],
        &[("ZRANGE z 0 -1", "[d, e]")],
    ),
    (
        &["ZADD z 0 a 0 b 0 c", "ZREMRANGEBYLEX z [a [b"],
        &[("ZRANGE z 0 -1", "[c]")],
    ),
    (
        &["ZADD z 1 a 2 b 3 c", "ZMPOP 1 z MIN COUNT 2"],
        &[("ZRANGE z 0 -1", "[c]")],
    ),
    (
        &[
            "ZADD a 1 x 2 y",
            "ZADD b 10 y",
            "ZUNIONSTORE u 2 a b",
            "ZINTERSTORE i 2 a b AGGREGATE MAX",
            "ZDIFFSTORE d 2 a b",
            "ZRANGESTORE r a 0 0",
        ],
        &[
            ("ZRANGE u 0 -1 WITHSCORES", "[x, 1, y, 12]"),
            ("ZRANGE i 0 -1 WITHSCORES", "[y, 10]"),
            ("ZRANGE d 0 -1", "[x]"),
            ("ZRANGE r 0 -1", "[x]"),
        ],
    ),
    (
        &[
            "GEOADD g 13.361389 38.115556 p",
            "GEORADIUS g 15 37 200 km STORE d",
            "GEORADIUSBYMEMBER g p 1 km STOREDIST e",
            "GEORADIUS g 15 37 200 km",
        ],
        &[("ZCARD d", "1"), ("ZRANGE e 0 -1 WITHSCORES", "[p, 0]")],
    ),
];

const HASHES: &[Row] = &[
    (
        &[
            "HSET h a 1 b 2",
            "HMSET h c 3",
            "HSETNX h d 4",
            "HSETNX h d 5",
            "HDEL h a",
            "HINCRBY h c 2",
            "HINCRBYFLOAT h b 0.5",
        ],
        &[("HMGET h a b c d", "[nil, 2.5, 5, 4]")],
    ),
    (
        &[
            "HSETEX h 100 a 1",
            "HSETEX h FNX EX 200 FIELDS 1 b 2",
            "HSETEX h NX 300 a 9 c 3",
        ],
        &[
            ("HMGET h a b c", "[1, 2, 3]"),
            (
                "fields? HPEXPIRETIME h FIELDS 3 a b c",
                "[9000000100000, 9000000200000, 9000000300000]",
            ),
        ],
    ),
    (
        &[
            "HSETEX h 100 a 1",
            "HSETEX h KEEPTTL 200 a 2 b 2",
            "HSET h b 3",
        ],
        &[
            ("HMGET h a b", "[2, 3]"),
            ("fields? HPEXPIRETIME h FIELDS 2 a b", "[9000000100000, -1]"),
        ],
    ),
    (
        &[
            "HSET h a 1 b 2 c 3 d 4",
            "HEXPIRE h 100 FIELDS 1 a",
            "HEXPIRE h 50 GT FIELDS 1 a",
            "HEXPIRE h 0 FIELDS 1 d",
            "FIELDEXPIRE h 200 b",
        ],
        &[
            ("HMGET h a b c d", "[1, 2, 3, nil]"),
            (
                "fields? HPEXPIRETIME h FIELDS 3 a b c",
                "[9000000100000, 9000000200000, -1]",
            ),
        ],
    ),
    (
        &[
            "HSET h a 1 b 2",
            "HGETEX h EX 100 FIELDS 2 a b",
            "HGETEX h PERSIST FIELDS 1 b",
        ],
        &[
            ("HLEN h", "2"),
            ("fields? HPEXPIRETIME h FIELDS 2 a b", "[9000000100000, -1]"),
        ],
    ),
];

const STREAMS: &[Row] = &[
    (
        &[
            "XADD s 1-1 a b",
            "XADD s NOMKSTREAM 2-1 a b",
            "XADD s MINID 2-1 3-1 a b",
            "XDEL s 3-1",
            "XADD s 4-1 a b",
            "XTRIM s MINID 4-1",
        ],
        &[("XRANGE s - +", "[[4-1, [a, b]]]")],
    ),
    (
        &["XADD s 1-1 a b", "XSETID s 9-9"],
        &[("XADD s 9-10 a b", "9-10")],
    ),
    (
        &[
            "XADD s 1-1 a b",
            "XADD s 2-1 a b",
            "XGROUP CREATE s g 0",
            "XGROUP CREATECONSUMER s g c",
            "XCLAIM s g c 0 1-1 TIME 1000 RETRYCOUNT 1 FORCE JUSTID LASTID 1-1",
            "XGROUP SETID s g 1-1 ENTRIESREAD 1",
            "XCLAIM s g c 0 2-1 TIME 1000 RETRYCOUNT 3 FORCE JUSTID LASTID 2-1",
            "XACK s g 1-1",
            "XAUTOCLAIM s g e 0 0 JUSTID",
            "XGROUP SETID s g 0",
        ],
        &[
            ("XPENDING s g", "[1, 2-1, 2-1, [[e, 1]]]"),
            (
                "7.0? EVAL return(redis.call('XINFO','GROUPS','s')[1][10]) 0",
                "1",
            ),
        ],
    ),
    (
        &[
            "XGROUP CREATE s g $ MKSTREAM",
            "XGROUP CREATE s h 0",
            "XGROUP CREATECONSUMER s h c",
            "XGROUP DELCONSUMER s h c",
            "XGROUP DESTROY s g",
        ],
        &[
            ("EVAL return(#redis.call('XINFO','GROUPS','s')) 0", "1"),
            ("XINFO CONSUMERS s h", "[]"),
        ],
    ),
];

const JSON: &[Row] = &[
    (
        &[
            r#"JSON.SET k $ {"n":1,"s":"a","l":[1,2,3,4],"b":true,"o":{"x":1},"z":0,"f":0}"#,
            "JSON.NUMINCRBY k $.n 2",
            "JSON.NUMMULTBY k $.n 5",
            r#"JSON.STRAPPEND k $.s "b""#,
            "JSON.ARRAPPEND k $.l 5",
            "JSON.ARRINSERT k $.l 0 0",
            "JSON.ARRPOP k $.l",
            "JSON.ARRTRIM k $.l 1 2",
            "JSON.TOGGLE k $.b",
            "JSON.CLEAR k $.o",
            "JSON.DEL k $.z",
            "JSON.FORGET k $.f",
            r#"JSON.MERGE k $ {"m":7}"#,
        ],
        &[(
            "JSON.GET k",
            r#"{"n":15,"s":"ab","l":[1,2],"b":false,"o":{},"m":7}"#,
        )],
    ),
    (
        &["JSON.MSET a $ 1 b $ 2"],
        &[("JSON.GET a", "1"), ("JSON.GET b", "2")],
    ),
];

const FILTERS: &[Row] = &[
    (
        &[
            "BF.RESERVE b 0.01 100",
            "BF.ADD b x",
            "BF.MADD b y",
            "BF.INSERT b ITEMS z",
        ],
        &[("BF.MEXISTS b x y z none", "[1, 1, 1, 0]")],
    ),
    (
        &[
            "CMS.INITBYDIM c 100 5",
            "CMS.INITBYPROB d 0.01 0.01",
            "CMS.INITBYDIM e 100 5",
            "CMS.INCRBY c x 3",
            "CMS.INCRBY d x 4",
            "CMS.MERGE e 1 c",
        ],
        &[
            ("CMS.QUERY c x", "[3]"),
            ("CMS.QUERY d x", "[4]"),
            ("CMS.QUERY e x", "[3]"),
        ],
    ),
    (
        &["TOPK.RESERVE t 2", "TOPK.ADD t a", "TOPK.INCRBY t b 5"],
        &[("TOPK.LIST t", "[b, a]")],
    ),
    (
        &[
            "CF.RESERVE f 100",
            "CF.ADD f a",
            "CF.ADDNX f b",
            "CF.INSERT f ITEMS c",
            "CF.INSERTNX f ITEMS d",
            "CF.DEL f a",
        ],
        &[("CF.MEXISTS f a b c d", "[0, 1, 1, 1]")],
    ),
];

/// What has no counterpart on any target, and whose policy it is.
const REFUSED: &[(&str, Kind)] = &[
    ("CL.THROTTLE k 1 1 1", Kind::Command),
    ("BF.LOADCHUNK k 1 x", Kind::Bloom),
    ("FT.CREATE i SCHEMA t TEXT", Kind::Search),
    ("FT.ALTER i SCHEMA ADD u TEXT", Kind::Search),
    ("FT.DROPINDEX i", Kind::Search),
    ("FT.SYNUPDATE i g t", Kind::Search),
];

/// What all flows meet at.
const GLOBAL: &[&str] = &["FLUSHALL", "FLUSHDB", "DFLYCLUSTER FLUSHSLOTS 0 5"];

fn with_words<T>(line: &str, then: impl FnOnce(&Args<'_>) -> T) -> T {
    let mut writer = ArgsWriter::default();
    line.split(' ')
        .for_each(|word| _ = writer.word(word.as_bytes()));
    let (packed, words) = writer.finish();
    then(&Args::check(&packed, words).unwrap())
}

/// A reply as a short text.
fn text(view: &View) -> String {
    match view {
        View::Nothing => "nil".to_owned(),
        View::Number(number) => number.to_string(),
        View::Text(text) => String::from_utf8_lossy(text).into_owned(),
        View::List(items) => format!(
            "[{}]",
            items.iter().map(text).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn answer(server: &mut Server, question: &str) -> String {
    if let Some(key) = question.strip_prefix("EXPIRY ") {
        return server.expire_time(key.as_bytes()).to_string();
    }
    let words: Vec<_> = question.split(' ').map(str::as_bytes).collect();
    text(&server.ok(&words))
}

/// Executes rows, each on an empty server, and asks what they ask.
fn execute_rows(server: &mut Server, target: Target, features: &Features, rows: &[Row]) {
    let mut context = context(features);
    context.received_at_ms = NOW;
    for (entries, questions) in rows {
        server.ok(&[b"FLUSHALL"]);
        for entry in *entries {
            let refused = with_words(entry, |args| execute(server, args, &context));
            assert_eq!(refused, None, "{entry} on {target:?}");
        }
        for (question, expected) in *questions {
            let (asked, question) = match question.split_once("? ") {
                Some(("fields", question)) => (target.lets_fields_expire(), question),
                Some(("7.0", question)) => (target.counts_stream_entries(), question),
                _ => (true, *question),
            };
            if asked {
                let answer = answer(server, question);
                assert_eq!(
                    answer, *expected,
                    "{question} after {entries:?} on {target:?}"
                );
            }
        }
    }
}

const PLAIN: [&[Row]; 7] = [STRINGS, KEYS, LISTS, SETS, SORTED_SETS, HASHES, STREAMS];

fn every_command_has_its_effect(target: Target) {
    let mut server = Server::start_of(target);
    let features = features(target);
    for rows in PLAIN {
        execute_rows(&mut server, target, &features, rows);
    }
}

on_every_target!(every_command_has_its_effect);

#[test]
fn every_command_of_a_module_has_its_effect_where_the_module_is() {
    for target in [Target::Redis70, Target::Redis82] {
        let mut server = Server::around(target.start_with_modules());
        let features = Features {
            json: true,
            bloom: true,
            ..features(target)
        };
        for rows in [JSON, FILTERS] {
            execute_rows(&mut server, target, &features, rows);
        }
    }
}

fn a_restored_value_takes_the_form_of_the_target(target: Target) {
    let mut server = Server::start_of(target);
    let features = features(target);
    let mut context = context(&features);
    context.received_at_ms = NOW;
    let mut hash = Vec::new();
    encode::hash_listpack(&mut hash, &[("f", "v")]);
    let mut sealed = Vec::new();
    payload::seal(&mut sealed, 16, &hash);
    for (time, option, expected) in [
        ("0", "ABSTTL", -1),
        ("9795380000000", "ABSTTL", 9_795_380_000_000),
        ("5000", "STICK", NOW + 5000),
    ] {
        let mut writer = ArgsWriter::default();
        let words = [
            &b"RESTORE"[..],
            b"k",
            time.as_bytes(),
            &sealed,
            b"REPLACE",
            option.as_bytes(),
        ];
        words.iter().for_each(|word| _ = writer.word(word));
        let (packed, count) = writer.finish();
        let args = Args::check(&packed, count).unwrap();
        assert_eq!(execute(&mut server, &args, &context), None);
        assert_eq!(answer(&mut server, "HGETALL k"), "[f, v]");
        assert_eq!(server.expire_time(b"k"), expected);
    }
}

on_every_target!(a_restored_value_takes_the_form_of_the_target);

#[test]
fn what_has_no_counterpart_is_the_policys_and_what_is_global_is_no_command() {
    for target in [Target::Redis62, Target::Valkey91] {
        let features = features(target);
        let context = context(&features);
        for (line, kind) in REFUSED {
            with_words(line, |args| match plan(args, &context) {
                Plan::Unsupported(refused) => assert_eq!(refused.kind, *kind, "{line}"),
                other => panic!("{line}: {other:?}"),
            });
        }
        for line in GLOBAL {
            with_words(line, |args| match plan(args, &context) {
                Plan::Global(Global::FlushAll | Global::FlushDb | Global::FlushSlots(_)) => {}
                other => panic!("{line}: {other:?}"),
            });
        }
    }
}

#[test]
fn every_command_of_the_table_is_in_a_row() {
    let rows = PLAIN.into_iter().chain([JSON, FILTERS]).flatten();
    let entries = rows.flat_map(|(entries, _)| *entries).copied();
    let others = REFUSED
        .iter()
        .map(|(line, _)| *line)
        .chain(GLOBAL.iter().copied());
    let tested: BTreeSet<&str> = entries
        .chain(others)
        .chain(["RESTORE"])
        .filter_map(|line| line.split(' ').next())
        .collect();
    let missing: Vec<_> = names().filter(|name| !tested.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
