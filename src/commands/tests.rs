//! Every form of the journal, planned for targets of several releases.

use super::testing::Words;
use super::*;

mod expiry;
mod properties;

/// When the entries of these tests were received.
const NOW: i64 = 1_000_000_000_000;

fn target(name: &str) -> Features {
    let (flavour, version) = match name {
        "6.0" => (Flavour::Redis, (6, 0, 16)),
        "6.2" => (Flavour::Redis, (6, 2, 5)),
        "7.0" => (Flavour::Redis, (7, 0, 15)),
        "7.4" => (Flavour::Redis, (7, 4, 0)),
        "8.2" => (Flavour::Redis, (8, 2, 0)),
        "v9" => (Flavour::Valkey, (9, 0, 0)),
        _ => panic!("no such target: {name}"),
    };
    Features {
        flavour,
        version,
        json: name == "8.2",
        bloom: name == "8.2",
    }
}

/// Database 5 is not copied, 7 becomes 2 and 8 becomes 0.
fn map_db(db: u32) -> Option<u32> {
    match db {
        5 => None,
        7 => Some(2),
        8 => Some(0),
        other => Some(other),
    }
}

fn show(plan: &Plan<'_>) -> String {
    let noted = |text: String, note: &Option<Note>| match note {
        None => text,
        Some(note) => format!("{text} [{note:?}]"),
    };
    match plan {
        Plan::AsIs(note) => noted("as is".into(), note),
        Plan::Words(commands, note) => {
            let lines: Vec<_> = commands
                .iter()
                .map(|words| {
                    let words: Vec<_> = words.iter().map(|w| String::from_utf8_lossy(w)).collect();
                    words.join(" ")
                })
                .collect();
            assert_eq!(lines.len(), commands.count());
            let text = lines.join("; ");
            // Scripts are proved where they run; here only their arguments matter.
            match text
                .strip_prefix("EVAL ")
                .and_then(|t| t.rsplit_once(" 1 k"))
            {
                Some((_, rest)) => noted(format!("EVAL … 1 k{rest}"), note),
                None => noted(text, note),
            }
        }
        Plan::Nothing(why) => format!("nothing: {why:?}"),
        Plan::Global(global) => format!("{global:?}"),
        Plan::Restore(restore) => format!(
            "restore {} {} {:?}",
            String::from_utf8_lossy(restore.key),
            String::from_utf8_lossy(restore.payload),
            restore.expire_at_ms
        ),
        Plan::ReadAgain(defect) => format!("again: {defect:?}"),
        Plan::Unsupported(what) => format!("{}: {}", what.kind.as_str(), what.reason),
    }
}

fn planned_in(line: &str, on: &str, change: impl Fn(&mut Context<'_>)) -> String {
    let features = target(on);
    let mut context = Context {
        features: &features,
        received_at_ms: NOW,
        on_member_expiry: MemberExpiry::Drop,
        db: 0,
        txid: 0,
        circumstances: Circumstances::default(),
        map_db: &map_db,
    };
    change(&mut context);
    let words = Words::of(line);
    show(&plan(&words.args(), &context))
}

fn planned(line: &str, on: &str) -> String {
    planned_in(line, on, |_| {})
}

const ALL: [&str; 5] = ["6.2", "7.0", "7.4", "8.2", "v9"];

/// Checks a row: what is planned on each target, where `*` stands for all that are not named.
#[track_caller]
fn row(line: &str, expected: &[(&str, &str)]) {
    for on in ALL {
        let (_, expected) = expected
            .iter()
            .find(|(targets, _)| targets.split(' ').any(|name| name == on || name == "*"))
            .expect("every target has an expectation");
        assert_eq!(planned(line, on), *expected, "{line} on {on}");
    }
}

#[test]
fn what_redis_knows_in_the_same_form_goes_out_as_it_came() {
    for line in [
        "SET k v",
        "set k v",
        "SET k v PXAT 1795379755107",
        "SET k v KEEPTTL",
        "MSET a 1 b 2",
        "GETSET k v",
        "GETDEL k",
        "APPEND k v",
        "INCR k",
        "DECR k",
        "INCRBY k 5",
        "DECRBY k 5",
        "SETRANGE k 2 ZZ",
        "SETBIT k 7 1",
        "BITFIELD k SET u8 0 200 INCRBY u8 0 10",
        "BITFIELD k OVERFLOW SAT GET u8 0 INCRBY u8 0 10",
        "PFADD k a",
        "PFMERGE d a",
        "DEL a b",
        "UNLINK a b",
        "PEXPIREAT k 1",
        "EXPIREAT k 1",
        "PERSIST k",
        "RENAME a b",
        "RENAMENX a b",
        "COPY a b REPLACE",
        "MOVE k 1",
        "SORT a STORE b",
        "LPUSH k a",
        "RPUSH k a",
        "LPUSHX k a",
        "RPUSHX k a",
        "LINSERT k BEFORE a b",
        "LSET k 0 a",
        "LTRIM k 0 5",
        "LREM k 1 a",
        "LPOP k",
        "RPOP k 2",
        "LMOVE a b LEFT RIGHT",
        "RPOPLPUSH a b",
        "SADD k a",
        "SREM k a",
        "SMOVE a b m",
        "SUNIONSTORE d a b",
        "ZADD k GT 1 a",
        "ZADD k INCR 2.5 b",
        "ZINCRBY k 1 a",
        "ZREM k a",
        "ZREMRANGEBYRANK k 0 0",
        "ZREMRANGEBYSCORE k 0 2",
        "ZREMRANGEBYLEX k [a [b",
        "ZPOPMIN k",
        "ZPOPMAX k 1",
        "ZUNIONSTORE d 2 a b",
        "ZINTERSTORE d 1 a WEIGHTS 2",
        "ZDIFFSTORE d 1 a",
        "ZRANGESTORE d a 0 -1",
        "HSET k a 1",
        "HMSET k a 1",
        "HDEL k a",
        "HSETNX k a 1",
        "HINCRBY k a 1",
        "GEOADD k CH 13 38 P",
        "GEORADIUS a 13 38 200 km STORE b",
        "GEORADIUSBYMEMBER a P 200 km STOREDIST b",
        "XADD k 1-1 a b",
        "XADD k MINID 1-0 NOMKSTREAM 2-2 a b",
        "XTRIM k MINID 1-0",
        "XTRIM k MAXLEN 0",
        "XDEL k 1-1",
        "XACK k g 1-1",
        "XSETID k 9-9",
        "XGROUP CREATE k g $ MKSTREAM",
        "XGROUP CREATECONSUMER k g c",
        "XGROUP DESTROY k g",
        "XCLAIM k g c 0 1-1 TIME 1 RETRYCOUNT 1 FORCE JUSTID LASTID 1-1",
        "XAUTOCLAIM k g c 0 0",
        "SCRIPT load body",
    ] {
        row(line, &[("*", "as is")]);
    }
}

#[test]
fn words_that_only_the_source_knows_are_taken_out() {
    row("SET k v STICK", &[("*", "SET k v")]);
    row("SET k v _MCFLAGS 7", &[("*", "SET k v")]);
    row(
        "SET k v PXAT 17 STICK _MCFLAGS 7",
        &[("*", "SET k v PXAT 17")],
    );
    row("SET k v KEEPTTL stick", &[("*", "SET k v KEEPTTL")]);
    row("SET k STICK", &[("*", "as is")]);
    row("SETNX k v", &[("*", "SET k v")]);
    row("MSETNX a 1 b 2", &[("*", "MSET a 1 b 2")]);
    row("DELEX k IFEQ v", &[("*", "DEL k")]);
    row("DELEX k", &[("*", "DEL k")]);
    row("PREPEND k v", &[("*", "EVAL … 1 k v")]);
    row("INCRBYFLOAT k 1.5", &[("*", "EVAL … 1 k 1.5")]);
    row("HINCRBYFLOAT k a 1.5", &[("*", "EVAL … 1 k a 1.5")]);
    row("EXPIRE k 10 NX", &[("*", "PEXPIREAT k 1000000010000 NX")]);
    row("PEXPIRE k 10", &[("*", "PEXPIREAT k 1000000000010")]);
}

#[test]
fn what_changes_nothing_is_not_sent() {
    for line in [
        "PING",
        "BITFIELD k GET u8 0",
        "BITFIELD k OVERFLOW SAT GET u8 0",
        "BITFIELD k",
        "SORT k",
        "SORT k BY store GET STORE",
        "GEORADIUS k 13 38 200 km ASC",
        "GEORADIUSBYMEMBER k STORE 200 km",
        "HGETEX k FIELDS 1 f",
    ] {
        row(line, &[("*", "nothing: NoEffect")]);
    }
    for line in ["STICK k", "SHRINK", "SCRIPT FLAGS sha undeclared-keys"] {
        row(line, &[("*", "nothing: SourceOnly")]);
    }
}

#[test]
fn results_that_the_journal_does_not_carry_are_told_from_what_it_carries() {
    let lost = "lost: its result is lost by the source's journal";
    for line in [
        "GEORADIUS d",
        "GEORADIUSBYMEMBER d",
        "ZUNIONSTORE k1 k0",
        "ZINTERSTORE d",
        "ZRANGESTORE d",
        "LMPOP k",
    ] {
        row(line, &[("*", lost)]);
    }
    row(
        "CMS.MERGE d a",
        &[
            ("8.2", lost),
            ("*", "cms: needs the Bloom filter commands on the target"),
        ],
    );
    let in_transaction = planned_in("SORT k", "7.0", |context| context.txid = 21);
    assert_eq!(in_transaction, "nothing: PerhapsLost");
}

#[test]
fn what_the_journal_does_not_tell_is_asked_for_where_that_can_be() {
    let planned = |line: &str, on, txid, circumstances: (bool, bool)| {
        planned_in(line, on, |context| {
            context.txid = txid;
            context.received_at_ms = NOW + 3;
            context.circumstances = Circumstances {
                reads_again: true,
                is_vague: circumstances.0,
                reads_end_keys: circumstances.1,
            };
        })
    };
    for (line, defect) in [
        ("GEORADIUS d", "ResultLost"),
        ("GEORADIUSBYMEMBER d", "ResultLost"),
        ("ZUNIONSTORE k1 k0", "ResultLost"),
        ("ZRANGESTORE d", "ResultLost"),
        ("LMPOP k", "ResultLost"),
        ("COPY k", "ResultLost"),
        ("SORT k", "ResultLost"),
        ("SORT a LIMIT 0 5 STORE b", "ComputedAnew"),
        ("GEORADIUS a 13 38 200 km STOREDIST b", "ComputedAnew"),
        ("XADD k * a b", "IdOpen"),
        ("RESTORE k 500 payload", "VagueTime"),
    ] {
        for on in ALL {
            let expected = format!("again: {defect}");
            assert_eq!(planned(line, on, 5, (false, false)), expected, "{line}");
        }
    }
    for line in [
        "ZUNIONSTORE d 1 k",
        "XADD k 1-1 a b",
        "PEXPIREAT k 1000000000003",
    ] {
        assert_eq!(planned(line, "7.0", 0, (false, false)), "as is", "{line}");
    }
    let none = "nothing: NoEffect";
    assert_eq!(planned("SORT k", "7.0", 0, (false, false)), none);
    let whole = "restore k payload None";
    assert_eq!(
        planned("RESTORE k 0 payload", "7.0", 0, (true, true)),
        whole
    );
    for (at, expected) in [
        (NOW - 9, "again: ReadEndsKey"),
        (NOW + 400, "again: ReadEndsKey"),
        (NOW + 600, "as is"),
    ] {
        let line = format!("PEXPIREAT k {at}");
        assert_eq!(planned(&line, "7.0", 0, (false, true)), expected);
    }
    for line in [
        "HEXPIRE k 100 FIELDS 1 f",
        "FIELDEXPIRE k 100 f",
        "HSETEX k 100 f v",
        "HGETEX k EX 100 FIELDS 1 f",
    ] {
        let vague = planned(line, "8.2", 0, (true, false));
        assert_eq!(vague, "again: VagueTime", "{line}");
        let clear = planned(line, "8.2", 0, (false, false));
        assert!(clear.contains(" 1000000100000 "), "{clear}");
        // What the target does not keep need not be known to the second.
        let dropped = planned(line, "7.0", 0, (true, false));
        assert!(dropped.contains("MemberExpiryDropped"), "{dropped}");
    }
    let lost = planned("CMS.MERGE d a", "8.2", 0, (false, false));
    assert_eq!(lost, "lost: its result is lost by the source's journal");
}

#[test]
fn restored_values_get_an_absolute_expiry() {
    row(
        "RESTORE k 0 payload REPLACE ABSTTL",
        &[("*", "restore k payload None")],
    );
    row(
        "RESTORE k 500 payload STICK",
        &[("*", "restore k payload Some(1000000000500)")],
    );
    row(
        "RESTORE k 500 p replace absttl stick",
        &[("*", "restore k p Some(500)")],
    );
    row(
        "RESTORE k -1 p",
        &[("*", "command: malformed: RESTORE without a time")],
    );
}

#[test]
fn old_targets_get_what_they_know_or_nothing() {
    row(
        "LMPOP 1 k LEFT COUNT 2",
        &[("6.2", "LPOP k 2"), ("*", "as is")],
    );
    row("LMPOP 1 k RIGHT", &[("6.2", "RPOP k"), ("*", "as is")]);
    row(
        "ZMPOP 1 k MAX COUNT 3",
        &[("6.2", "ZPOPMAX k 3"), ("*", "as is")],
    );
    row(
        "LMPOP 2 k l LEFT",
        &[("6.2", "command: needs Redis 7.0 or later"), ("*", "as is")],
    );
    row(
        "XGROUP SETID k g 0",
        &[("6.2", "as is"), ("*", "EVAL … 1 k g 0")],
    );
    row(
        "XGROUP SETID k g 3-1 ENTRIESREAD 4",
        &[("6.2", "XGROUP SETID k g 3-1"), ("*", "as is")],
    );
    row(
        "XGROUP CREATE k g 0 MKSTREAM ENTRIESREAD 4",
        &[("6.2", "XGROUP CREATE k g 0 MKSTREAM"), ("*", "as is")],
    );
    for line in [
        "LPOP k 2",
        "GETDEL k",
        "LMOVE a b LEFT RIGHT",
        "ZADD k XX GT 1 a",
        "GEOADD k NX 13 38 P",
        "XADD k NOMKSTREAM 1-1 a b",
        "XADD k MINID ~ 1-1 1-2 a b",
        "XTRIM k MINID 1-1",
        "XAUTOCLAIM k g c 0 0",
        "XGROUP CREATECONSUMER k g c",
        "ZDIFFSTORE d 1 a",
        "LMPOP 1 k LEFT COUNT 2",
    ] {
        assert_eq!(
            planned(line, "6.0"),
            "command: needs Redis 6.2 or later",
            "{line}"
        );
    }
    assert_eq!(planned("SET k v PXAT 17", "6.0"), "SET k v; PEXPIREAT k 17");
    assert_eq!(planned("ZADD k XX 1 GT", "6.0"), "as is");
    assert_eq!(
        planned("XADD k MAXLEN ~ 5 1-2 NOMKSTREAM b", "6.0"),
        "as is"
    );
}

#[test]
fn ids_that_the_source_left_open_are_noted() {
    row("XADD k * a b", &[("*", "as is [StreamIdChosen]")]);
    row(
        "XADD k MAXLEN = 5 5-* a b",
        &[("*", "as is [StreamIdChosen]")],
    );
    row("XADD k 5-1 * *", &[("*", "as is")]);
}

#[test]
fn databases_are_renumbered_and_never_guessed() {
    let on = |line: &str, db| planned_in(line, "7.0", |context| context.db = db);
    assert_eq!(on("MOVE k 7", 0), "MOVE k 2");
    assert_eq!(on("MOVE k 1", 0), "as is");
    assert_eq!(on("MOVE k 8", 0), "nothing: NoEffect");
    assert_eq!(on("MOVE k 5", 5), "nothing: NoEffect");
    let crosses = "command: moves a key between a database that is copied and one that is not";
    assert_eq!(on("MOVE k 5", 0), crosses);
    assert_eq!(on("MOVE k 0", 5), crosses);
    assert_eq!(on("COPY a b DB 7 REPLACE", 0), "COPY a b DB 2 REPLACE");
    assert_eq!(on("COPY a b DB 5", 0), crosses);
}

#[test]
fn what_needs_a_module_goes_only_where_it_is() {
    for (commands, lacking) in [
        (
            "JSON.SET JSON.DEL JSON.FORGET JSON.MERGE JSON.CLEAR JSON.NUMINCRBY JSON.NUMMULTBY \
             JSON.STRAPPEND JSON.ARRAPPEND JSON.ARRINSERT JSON.ARRPOP JSON.ARRTRIM JSON.TOGGLE \
             JSON.MSET",
            "json: needs the JSON commands on the target",
        ),
        (
            "BF.RESERVE BF.ADD BF.MADD BF.INSERT",
            "bloom: needs the Bloom filter commands on the target",
        ),
        (
            "CMS.INITBYDIM CMS.INITBYPROB CMS.INCRBY",
            "cms: needs the Bloom filter commands on the target",
        ),
        (
            "TOPK.RESERVE TOPK.ADD TOPK.INCRBY",
            "topk: needs the Bloom filter commands on the target",
        ),
        (
            "CF.RESERVE CF.ADD CF.ADDNX CF.INSERT CF.INSERTNX CF.DEL",
            "cuckoo: needs the Bloom filter commands on the target",
        ),
    ] {
        for command in commands.split_whitespace() {
            row(
                &format!("{command} k $ 1"),
                &[("8.2", "as is"), ("*", lacking)],
            );
        }
    }
    row(
        "CMS.MERGE d 1 a",
        &[
            ("8.2", "as is"),
            ("*", "cms: needs the Bloom filter commands on the target"),
        ],
    );
}

#[test]
fn what_nothing_corresponds_to_names_its_kind() {
    row(
        "BF.LOADCHUNK k 1 x",
        &[("*", "bloom: has no counterpart in Redis")],
    );
    row(
        "CL.THROTTLE k 15 30 60",
        &[("*", "command: has no counterpart in Redis")],
    );
    row(
        "SCRIPT FLUSH",
        &[("*", "command: has no counterpart in Redis")],
    );
    for line in [
        "FT.CREATE i",
        "FT.ALTER i",
        "FT.DROPINDEX i",
        "FT.SYNUPDATE i",
    ] {
        row(line, &[("*", "search: has no counterpart in Redis")]);
    }
    row(
        "NOSUCH k",
        &[("*", "command: not known to this release of df2redis")],
    );
}

#[test]
fn commands_for_the_whole_server_are_global() {
    row("FLUSHALL ASYNC", &[("*", "FlushAll")]);
    row("FLUSHDB", &[("*", "FlushDb")]);
    row(
        "DFLYCLUSTER FLUSHSLOTS 0 5 100 16383",
        &[("*", "FlushSlots([(0, 5), (100, 16383)])")],
    );
    row(
        "DFLYCLUSTER FLUSHSLOTS 0",
        &[("*", "command: malformed: not a range of slots")],
    );
    row(
        "DFLYCLUSTER FLUSHSLOTS 0 16384",
        &[("*", "command: malformed: not a range of slots")],
    );
    row(
        "DFLYCLUSTER FLUSHSLOTS",
        &[("*", "command: malformed: no slots")],
    );
}
