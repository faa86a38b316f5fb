//! Recorded journals, planned and executed by a real Redis, against what the source then held.

#[path = "support/mod.rs"]
mod support;

#[allow(dead_code, reason = "shared with the tests of values")]
mod forms {
    pub mod rows;
    pub mod server;
    pub mod view;
}

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use df2redis::commands::{Circumstances, Context, Features, MemberExpiry, Nothing, Plan, plan};
use df2redis::entry::{Args, ArgsWriter, unix_ms};
use df2redis::rdb::Cursor;
use df2redis::target::Outgoing;
use df2redis::target::form::{Formed, Limits, Settings, form, restored};
use forms::server::{Server, features};
use forms::view::{View, of_expected, view};
use support::{Target, on_every_target};

fn context(features: &Features) -> Context<'_> {
    Context {
        features,
        received_at_ms: unix_ms(),
        on_member_expiry: MemberExpiry::Drop,
        db: 0,
        txid: 0,
        circumstances: Circumstances::default(),
        map_db: &Some,
    }
}

/// Plans a command and has the server execute it. What was not sent as planned, in a word.
fn execute(server: &mut Server, args: &Args<'_>, context: &Context<'_>) -> Option<&'static str> {
    let mut out = Outgoing::new();
    match plan(args, context) {
        Plan::AsIs(_) => {
            out.command(args.len(), None);
            args.iter().for_each(|word| out.word(word));
        }
        Plan::Words(commands, _) => {
            for words in commands.iter() {
                out.command(words.len(), None);
                words.iter().for_each(|word| out.word(word));
            }
        }
        Plan::Restore(restore) => {
            let settings = Settings {
                features: context.features,
                on_member_expiry: context.on_member_expiry,
                task: "test",
                of_cluster: false,
                spill_dir: Path::new("/tmp"),
                now_ms: context.received_at_ms,
                limits: Limits::default(),
            };
            let value = restored(&restore).unwrap();
            let formed = form(&value, &settings, None, &mut out).unwrap();
            assert!(matches!(formed, Formed::Whole(_)));
        }
        Plan::Nothing(Nothing::PerhapsLost) => return Some("lost"),
        Plan::Nothing(_) => {}
        Plan::Global(global) => panic!("{global:?} in a journal without any"),
        Plan::ReadAgain(defect) => panic!("{defect:?} where nothing can be read again"),
        Plan::Unsupported(what) => return Some(what.kind.as_str()),
    }
    server.run(&out);
    None
}

/// A recorded command with its absolute expiry moved: keys were given a few seconds to live then, and days have passed.
fn later(args: &Args<'_>, by_ms: i64) -> (Bytes, u32) {
    let at = match args.name() {
        b"PEXPIREAT" => Some(2),
        b"RESTORE" => args.iter().any(|word| word == b"ABSTTL").then_some(2),
        _ => args
            .iter()
            .position(|word| word.eq_ignore_ascii_case(b"PXAT"))
            .map(|option| option + 1),
    };
    let mut moved = ArgsWriter::default();
    for (n, word) in args.iter().enumerate() {
        let number = std::str::from_utf8(word)
            .ok()
            .and_then(|text| text.parse::<i64>().ok());
        match number.filter(|number| at == Some(n) && *number > 0) {
            Some(number) => moved.word((number + by_ms).to_string().as_bytes()),
            None => moved.word(word),
        };
    }
    moved.finish()
}

/// Executes a recorded flow, `since` milliseconds after it was recorded, from its end-of-file token on.
fn replay(
    server: &mut Server,
    flow: &[u8],
    since: i64,
    target: Target,
    unsupported: &mut BTreeSet<(String, &'static str)>,
) {
    let features = features(target);
    let mut context = context(&features);
    let end_of_file = |window: &[u8]| {
        window.starts_with(&[0xFF, 0, 0, 0, 0, 0, 0, 0, 0])
            && window[9..].iter().all(u8::is_ascii_hexdigit)
    };
    let start = flow.windows(49).position(end_of_file).unwrap() + 49;
    let mut cursor = Cursor::new(&flow[start..]);
    while !cursor.is_empty() {
        match cursor.packed().unwrap() {
            6 => {
                context.db = cursor.packed().unwrap() as u32;
                server.select(context.db);
            }
            15 => _ = cursor.packed().unwrap(),
            13 => {}
            9..=11 => {
                context.txid = cursor.packed().unwrap();
                cursor.packed().unwrap();
                let words = cursor.packed().unwrap();
                cursor.packed().unwrap();
                let begin = start + cursor.position();
                for _ in 0..words {
                    let len = cursor.packed().unwrap();
                    cursor.take(len, usize::MAX).unwrap();
                }
                let packed = &flow[begin..start + cursor.position()];
                let args = Args::check(packed, words as u32).unwrap();
                let (packed, words) = later(&args, since);
                let args = Args::check(&packed, words).unwrap();
                if let Some(why) = execute(server, &args, &context) {
                    unsupported.insert((String::from_utf8(args.name().to_vec()).unwrap(), why));
                }
            }
            other => panic!("opcode {other}"),
        }
    }
}

/// The keys that differ after a journal whose recording ended at that time, and the commands that could not be had.
fn differing(
    target: Target,
    release: &str,
    recorded_ms: i64,
) -> (Vec<String>, BTreeSet<(String, &'static str)>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/dragonfly");
    let dir = dir.join(release).join("journal");
    let mut server = Server::start_of(target);
    let mut unsupported = BTreeSet::new();
    let since = unix_ms() - recorded_ms;
    for flow in ["flow-0.bin", "flow-1.bin"] {
        replay(
            &mut server,
            &std::fs::read(dir.join(flow)).unwrap(),
            since,
            target,
            &mut unsupported,
        );
    }
    let expected = std::fs::read(dir.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let full = target.counts_stream_entries();
    let mut differing = Vec::new();
    let mut compared = 0;
    for db in 0..16u32 {
        server.select(db);
        let View::List(there) = server.ok(&[b"KEYS", b"*"]) else {
            panic!("no list of keys");
        };
        let there: BTreeSet<_> = there
            .into_iter()
            .map(|key| match key {
                View::Text(key) => String::from_utf8(key).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        let empty = serde_json::Map::new();
        let wanted = expected
            .get(db.to_string())
            .and_then(|keys| keys.as_object());
        let mut wanted = wanted.unwrap_or(&empty).clone();
        for about in wanted.values_mut() {
            if let Some(at) = about["expire_at_ms"].as_i64().filter(|at| *at != -1) {
                about["expire_at_ms"] = (at + since).into();
            }
        }
        let names: BTreeSet<_> = there.iter().chain(wanted.keys()).collect();
        for name in names {
            let type_name = wanted.get(name).map(|json| json["type"].as_str().unwrap());
            let same = match type_name {
                Some("string" | "list" | "set" | "hash" | "zset" | "stream") => {
                    let json = &wanted[name];
                    compared += 1;
                    there.contains(name)
                        && view(&mut server, name.as_bytes(), full) == of_expected(json, full)
                }
                // Modules: their commands could not be had.
                Some(_) => !there.contains(name),
                None => false,
            };
            if !same {
                differing.push(format!("{db}:{name}"));
            }
        }
    }
    assert!(compared > 40, "{compared}");
    (differing, unsupported)
}

on_every_target!(a_recorded_journal_leads_to_the_state_of_the_source);

fn a_recorded_journal_leads_to_the_state_of_the_source(target: Target) {
    let (differing, unsupported) = differing(target, "v1.40.1", 1_795_379_757_000);
    let explained = [
        // Written before the journal began.
        "0:pre",
        // SORT … STORE over two shards: the journal does not hold the result.
        "0:sorted",
        // CL.THROTTLE has no counterpart.
        "0:throttle",
    ];
    assert_eq!(differing, explained);
    let kinds: BTreeSet<_> = unsupported.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["bloom", "cms", "command", "cuckoo", "json", "lost", "topk"]
    );
}

on_every_target!(a_journal_of_an_older_release_differs_only_where_it_lost_results);

fn a_journal_of_an_older_release_differs_only_where_it_lost_results(target: Target) {
    let (differing, unsupported) = differing(target, "v1.27.4", 1_795_380_656_000);
    let explained = [
        "0:pre",
        "0:throttle",
        // XREADGROUP is not in the journal of this release.
        "0:xk",
        "0:xs",
        // ZRANGESTORE and ZUNIONSTORE over two shards: the journal does not hold the result.
        "0:zsr",
        "0:zsu",
    ];
    assert_eq!(differing, explained);
    assert!(unsupported.contains(&("ZUNIONSTORE".into(), "lost")));
}

/// Executes a line, divided by blanks.
fn line(server: &mut Server, target: Target, line: &str) {
    let mut writer = ArgsWriter::default();
    line.split(' ')
        .for_each(|word| _ = writer.word(word.as_bytes()));
    let (packed, words) = writer.finish();
    let args = Args::check(&packed, words).unwrap();
    assert_eq!(
        execute(server, &args, &context(&features(target))),
        None,
        "{line}"
    );
}

on_every_target!(scripts_do_what_the_source_did);

fn scripts_do_what_the_source_did(target: Target) {
    let mut server = Server::start_of(target);
    let text = |text: &str| View::Text(text.into());
    line(&mut server, target, "PREPEND new a");
    assert_eq!(server.ok(&[b"GET", b"new"]), text("a"));
    line(&mut server, target, "SET k b PXAT 9795380000000");
    line(&mut server, target, "PREPEND k a");
    assert_eq!(server.ok(&[b"GET", b"k"]), text("ab"));
    assert_eq!(
        View::Number(server.expire_time(b"k")),
        View::Number(9_795_380_000_000)
    );

    // As the source spelt each of them.
    for (number, by, sum) in [
        ("0.1", "0.2", "0.30000000000000004"),
        ("1.0", "0", "1"),
        ("100", "0.1", "100.1"),
        ("3", "1e-7", "3.0000001"),
        ("0.00001", "0", "0.00001"),
        ("1e-6", "0", "0.000001"),
        ("0.0000001234", "0", "1.234e-7"),
        ("5e-324", "0", "5e-324"),
        ("0.30000000000000004", "1e20", "100000000000000000000"),
        ("123456789012345680000", "0", "123456789012345680000"),
        ("1e21", "0", "1e+21"),
        ("123456789012345678901234", "0", "1.2345678901234569e+23"),
        ("-0.5", "0.5", "0"),
        ("5", "+1", "6"),
        ("-12.5", "0.25", "-12.25"),
    ] {
        line(
            &mut server,
            target,
            &format!("SET n {number} PXAT 9795380000000"),
        );
        line(&mut server, target, &format!("INCRBYFLOAT n {by}"));
        assert_eq!(server.ok(&[b"GET", b"n"]), text(sum), "{number} and {by}");
        line(&mut server, target, &format!("HSET numbers f {number}"));
        line(&mut server, target, &format!("HINCRBYFLOAT numbers f {by}"));
        let found = server.ok(&[b"HGET", b"numbers", b"f"]);
        assert_eq!(found, text(sum), "{number} and {by}");
    }
    assert_eq!(server.expire_time(b"n"), 9_795_380_000_000);
    line(&mut server, target, "INCRBYFLOAT none 3.5e2");
    assert_eq!(server.ok(&[b"GET", b"none"]), text("350"));
    line(&mut server, target, "HINCRBYFLOAT numbers none 10");
    assert_eq!(server.ok(&[b"HGET", b"numbers", b"none"]), text("10"));
    if target.lets_fields_expire() {
        line(
            &mut server,
            target,
            "HSETEX numbers PXAT 9795380000000 FIELDS 1 f 1.5",
        );
        line(&mut server, target, "HINCRBYFLOAT numbers f 0.1");
        let at = server.ok(&[b"HPEXPIRETIME", b"numbers", b"FIELDS", b"2", b"f", b"none"]);
        let never = View::Number(-1);
        assert_eq!(at, View::List(vec![View::Number(9_795_380_000_000), never]));
    }

    // And any other in the shortest digits.
    let digits = |number: &str| {
        let mantissa = number.split('e').next().unwrap_or_default();
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').to_owned()
    };
    let mut bits = 1u64;
    for _ in 0..300 {
        bits = bits
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let number = f64::from_bits(bits);
        if !number.is_finite() {
            continue;
        }
        // A half goes to the even digit, unlike in "{:e}".
        let spelt = (0..17).map(|digits| format!("{number:.digits$e}"));
        let mut same = spelt.filter(|text| text.parse() == Ok(number));
        let shortest = same.next().unwrap();
        line(&mut server, target, &format!("SET n {shortest}"));
        line(&mut server, target, "INCRBYFLOAT n 0");
        let View::Text(sum) = server.ok(&[b"GET", b"n"]) else {
            panic!("no text");
        };
        let sum = String::from_utf8(sum).unwrap();
        assert_eq!(
            sum.parse::<f64>().unwrap().to_bits(),
            bits,
            "{sum} of {shortest}"
        );
        assert_eq!(digits(&sum), digits(&shortest));
    }

    // Fields have no order of their own.
    let hash = |server: &mut Server| {
        let View::List(items) = server.ok(&[b"HGETALL", b"h"]) else {
            panic!("no list of fields");
        };
        let mut pairs: Vec<_> = items.chunks(2).map(<[View]>::to_vec).collect();
        pairs.sort();
        View::List(pairs.concat())
    };
    let fields = |words: &[&str]| View::List(words.iter().map(|word| text(word)).collect());
    line(&mut server, target, "HSETEX h FXX 100 f 1");
    assert_eq!(hash(&mut server), fields(&[]));
    line(&mut server, target, "HSETEX h FNX 100 f 1 g 2");
    assert_eq!(hash(&mut server), fields(&["f", "1", "g", "2"]));
    line(&mut server, target, "HSETEX h FNX 100 g 3 h 3");
    line(&mut server, target, "HSETEX h FXX EX 100 FIELDS 2 g 3 h 3");
    assert_eq!(hash(&mut server), fields(&["f", "1", "g", "2"]));
    line(&mut server, target, "HSETEX h NX 100 g 3 h 3");
    assert_eq!(hash(&mut server), fields(&["f", "1", "g", "2", "h", "3"]));
    line(&mut server, target, "HSETEX h FXX 100 f 9 h 9");
    assert_eq!(hash(&mut server), fields(&["f", "9", "g", "2", "h", "9"]));
}
