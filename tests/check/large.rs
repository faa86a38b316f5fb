//! Values much larger than the memory that may be used.

use crate::asked::{self, Checked, IDLE, Pair, send};
use crate::df2redis::Task;
use crate::support::{Client, RedisServer, Target, on_every_target, peak_memory, within};
use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// Elements of each collection, and bytes of each.
const ELEMENTS: usize = 60_000;
const BYTES: usize = 400;

fn fill(client: &mut Client) {
    let text = |n: usize| format!("{n:07}{}", "x".repeat(BYTES)).into_bytes();
    asked::fill(client, ELEMENTS, text, |n| format!("{n}.5"));
    client.ok(&["XGROUP", "CREATE", "stream", "g", "0"]);
    client.ok(&["SETRANGE", "string", "60000000", "x"]);
    // One element as large as a whole collection.
    client.ok(&[
        b"HSET".as_slice(),
        b"giant",
        b"small",
        b"v",
        b"f",
        &vec![b'y'; 30_000_000],
    ]);
}

/// Compares with a memory of 8 MiB; also what it used at most, in bytes.
#[track_caller]
fn measured(pair: &Pair, arguments: &[&str]) -> (Checked, u64) {
    let report = pair.task.dir().join("report.jsonl");
    let mut child = pair
        .task
        .asked("check")
        .args(["--max-memory", "8MiB", "--report"])
        .arg(&report)
        .args(IDLE)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("df2redis starts");
    let mut peak = 0;
    let ended = within(Duration::from_secs(100), || {
        peak = peak.max(peak_memory(child.id()).unwrap_or(0));
        child.try_wait().expect("the state of df2redis").is_some()
    });
    assert!(ended, "still comparing");
    let output = child.wait_with_output().expect("its output");
    let lines = fs::read_to_string(&report).unwrap_or_default();
    (Checked::read(&output, &lines), peak)
}

#[test]
fn one_element_of_a_huge_value_is_found_in_bounded_memory() {
    let pair = Pair::start();
    fill(&mut pair.source.client());
    fill(&mut pair.target.client());
    let (equal, peak) = measured(&pair, &[]);
    equal.assert_equal();
    assert_eq!(equal.summary()["keys"], 7);
    // Program, runtime and threads are about 20 MiB of it; the values are 240 MB.
    assert!(peak > 0 && peak < 48 << 20, "{peak}");
    let member = format!("{:07}{}", 77, "x".repeat(BYTES));
    for spoil in [
        vec!["HSET", "hash", &member, "other"],
        vec!["SREM", "set", &member],
        vec!["SADD", "set", "other"],
        vec!["LSET", "list", "30000", "other"],
        vec!["ZADD", "zset", "77.25", &member],
        vec!["XDEL", "stream", "1-78"],
        vec!["XGROUP", "CREATECONSUMER", "stream", "g", "c"],
        vec!["SETRANGE", "string", "44444444", "y"],
        vec!["HSET", "giant", "small", "w"],
    ] {
        pair.target.client().ok(&spoil);
    }
    let (found, peak) = measured(&pair, &[]);
    let expected = [
        ("giant", "value"),
        ("hash", "value"),
        ("list", "value"),
        ("set", "value"),
        ("stream", "value length stream_metadata"),
        ("string", "value"),
        ("zset", "value"),
    ];
    let expected = expected.map(|(key, class)| (key.to_owned(), class.to_owned()));
    assert_eq!(found.events("different"), BTreeMap::from(expected));
    assert!(peak < 48 << 20, "{peak}");
}

#[test]
fn smart_mode_looks_at_lengths_and_samples_of_what_is_huge() {
    let pair = Pair::start();
    fill(&mut pair.source.client());
    fill(&mut pair.target.client());
    let (equal, _) = measured(&pair, &["--mode", "smart"]);
    equal.assert_equal();
    pair.target
        .client()
        .ok(&["LSET", "list", "30010", "in a sample"]);
    pair.target
        .client()
        .ok(&["LSET", "list", "100", "between samples"]);
    pair.target
        .client()
        .ok(&["ZADD", "zset", "3.25", "one more"]);
    pair.target
        .client()
        .ok(&["SETRANGE", "string", "30000000", "y"]);
    pair.target.client().ok(&["HSET", "hash", "one more", "v"]);
    // The element that the scan of the source shows first.
    let scanned = pair.source.client().ok(&["SSCAN", "set", "0"]);
    let first = scanned.items()[1].items()[0].bytes();
    let remove: [&[u8]; 3] = [b"SREM", b"set", &first];
    pair.target.client().ok(&remove);
    pair.target.client().ok(&["SADD", "set", "another"]);
    let (found, _) = measured(&pair, &["--mode", "smart"]);
    let classes = found.events("different");
    let keys: Vec<_> = classes.keys().map(String::as_str).collect();
    assert_eq!(keys, ["hash", "list", "set", "string", "zset"]);
    assert_eq!(classes["list"], "value");
    assert_eq!(classes["string"], "value");
    assert_eq!(classes["hash"], "length");
    assert_eq!(classes["set"], "value");
}

/// When entries were delivered.
const DELIVERED: &str = "1700000000000";

/// Entries of each stream that is too large to be read whole, of which the first half is pending.
const ENTRIES: usize = 1_000;
/// Of those too large to tell what is pending.
const MANY_ENTRIES: usize = 60_000;

/// A stream with two groups, whose entries were delivered once, to one of two consumers, at a time that is the same on
/// every server.
fn deliver(client: &mut Client, key: &str, entries: usize, text: &str) {
    let words = |line: String| line.split(' ').map(|word| word.into()).collect::<Vec<_>>();
    let mut row = Vec::new();
    for n in 1..=entries {
        row.push(words(format!("XADD {key} 1-{n} f {text}")));
    }
    for group in ["g", "h"] {
        row.push(words(format!("XGROUP CREATE {key} {group} 0")));
        for n in 1..=entries / 2 {
            let consumer = ["c", "d"][n % 2];
            let claim = format!("XCLAIM {key} {group} {consumer} 0 1-{n}");
            let how = format!("TIME {DELIVERED} RETRYCOUNT 1 FORCE JUSTID");
            row.push(words(format!("{claim} {how}")));
        }
    }
    for row in row.chunks(500) {
        for reply in client.pipeline(row) {
            assert!(!reply.is_error(), "{reply:?}");
        }
    }
}

/// One pending entry of another consumer, delivered more often, at another time, or another one pending.
const OTHERWISE: &[&str] = &[
    "XCLAIM stream:owner g d 0 1-70 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID",
    "XCLAIM stream:owner g c 0 1-71 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID",
    "XCLAIM stream:deliveries h c 0 1-70 TIME 1700000000000 RETRYCOUNT 2 FORCE JUSTID",
    "XCLAIM stream:time g c 0 1-70 TIME 1700000000001 RETRYCOUNT 1 FORCE JUSTID",
    "XACK stream:entry h 1-70",
    "XCLAIM stream:entry h c 0 1-700 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID",
];

fn what_is_pending_in_a_large_stream_is_compared(target: Target) {
    const KEYS: [&str; 4] = [
        "stream:owner",
        "stream:deliveries",
        "stream:time",
        "stream:entry",
    ];
    let (source, server) = (RedisServer::start(), target.start());
    for client in [&mut source.client(), &mut server.client()] {
        for key in KEYS.into_iter().chain(["stream:same"]) {
            deliver(client, key, ENTRIES, &"x".repeat(150));
        }
    }
    let task = Task::between(&source.address(), &server.address());
    let check = |memory| Checked::of(&task, &[IDLE, &["--max-memory", memory]].concat());
    check("8MiB").assert_equal();
    send(&mut server.client(), OTHERWISE);
    let pieces = check("8MiB");
    let expected = KEYS.map(|key| (key.to_owned(), "stream_metadata".to_owned()));
    let different = pieces.events("different");
    assert_eq!(different, BTreeMap::from(expected), "{}", pieces.text);
    // What is pending is told as by the whole value.
    let whole = check("64MiB");
    for key in KEYS {
        let (pieces, whole) = (&pieces.line(key)["source"], &whole.line(key)["source"]);
        assert!(pieces["stream"]["pending_counts"].is_string(), "{pieces}");
        assert!(whole["stream"]["pending_counts"].is_null(), "{whole}");
        assert_eq!(pieces["digest"], whole["digest"]);
        for part in ["pending", "pending_owners", "pending_times"] {
            assert!(whole["stream"][part].is_string(), "{whole}");
            assert_eq!(pieces["stream"][part], whole["stream"][part], "{part}");
        }
    }
}

on_every_target!(what_is_pending_in_a_large_stream_is_compared);

#[test]
fn of_what_is_pending_only_numbers_are_compared_where_all_is_too_much_for_a_reply() {
    let pair = Pair::start();
    for client in [&mut pair.source.client(), &mut pair.target.client()] {
        deliver(client, "stream", MANY_ENTRIES, "x");
    }
    let spoil = |line: &str| send(&mut pair.target.client(), &[line]);
    let claim = "XCLAIM stream g c 0 1-70 TIME 1700000000000 FORCE JUSTID";
    spoil(&format!("{claim} RETRYCOUNT 2"));
    let (equal, peak) = measured(&pair, &[]);
    equal.assert_equal();
    assert!(peak > 0 && peak < 48 << 20, "{peak}");
    spoil("XACK stream g 1-70");
    let (found, _) = measured(&pair, &[]);
    let acknowledged = ("stream".to_owned(), "stream_metadata".to_owned());
    assert_eq!(found.events("different"), BTreeMap::from([acknowledged]));
}

/// A hash of which every third field expires.
fn expiring(client: &mut Client, key: &str, count: usize, expires: bool) {
    let word = |word: &str| word.as_bytes().to_vec();
    let name = |n: usize| format!("field{n}").into_bytes();
    let mut fields = vec![word("HSET"), word(key)];
    for n in 0..count {
        fields.extend([name(n), vec![b'x'; 150]]);
    }
    client.ok(&fields.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for n in (0..count).step_by(3).filter(|_| expires) {
        let at = (4_000_000_000_000 + n).to_string();
        let words: [&[u8]; 6] = [
            b"HPEXPIREAT",
            key.as_bytes(),
            at.as_bytes(),
            b"FIELDS",
            b"1",
            &name(n),
        ];
        client.ok(&words);
    }
}

fn when_fields_of_a_hash_expire_is_compared(target: Target) {
    // Servers that let fields expire serialise such hashes in forms of their own, so that small ones are read by commands
    // as well.
    const SIZES: [(&str, usize); 5] = [
        ("hash:same", ENTRIES),
        ("hash:later", ENTRIES),
        ("hash:never", ENTRIES),
        ("hash:too", ENTRIES),
        ("hash:small", 4),
    ];
    let (source, server) = (Target::Redis82.start(), target.start());
    for (key, count) in SIZES {
        expiring(&mut source.client(), key, count, true);
        let expires = target.lets_fields_expire();
        expiring(&mut server.client(), key, count, expires);
    }
    let task = Task::between(&source.address(), &server.address());
    let check = || Checked::of(&task, &[IDLE, &["--max-memory", "8MiB"]].concat());
    let classes = |keys: &[(&str, usize)], class: &str| {
        let keys = keys.iter();
        keys.map(|(key, _)| ((*key).to_owned(), class.to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let equal = check();
    equal.assert_equal();
    if !target.lets_fields_expire() {
        let dropped = classes(&SIZES, "dropped_member_expiry");
        assert_eq!(equal.events("expected"), dropped);
        return;
    }
    assert_eq!(equal.events("expected"), BTreeMap::new());
    send(
        &mut server.client(),
        &[
            "HPEXPIREAT hash:later 4000000000301 FIELDS 1 field300",
            "HPERSIST hash:never FIELDS 1 field300",
            "HPEXPIREAT hash:too 4000000000301 FIELDS 1 field301",
            "HPEXPIREAT hash:small 4000000000001 FIELDS 1 field0",
        ],
    );
    let found = check();
    let different = classes(&SIZES[1..], "member_expiry");
    assert_eq!(found.events("different"), different, "{}", found.text);
    let counts = |key: &str| {
        let line = found.line(key);
        ["source", "target"].map(|side| line[side]["member_expiry"]["count"].as_u64())
    };
    assert_eq!(counts("hash:later"), [Some(334), Some(334)]);
    assert_eq!(counts("hash:never"), [Some(334), Some(333)]);
    assert_eq!(counts("hash:too"), [Some(334), Some(335)]);
}

on_every_target!(when_fields_of_a_hash_expire_is_compared);

#[test]
fn a_user_that_may_not_ask_when_fields_expire_compares_the_rest() {
    let (source, target) = (Target::Redis82.start(), Target::Redis82.start());
    expiring(&mut source.client(), "hash", ENTRIES, true);
    let mut client = target.client();
    expiring(&mut client, "hash", ENTRIES, true);
    client.ok(&["HPERSIST", "hash", "FIELDS", "1", "field0"]);
    let task = Task::between(&source.address(), &target.address());
    client.ok(&["ACL", "SETUSER", "default", "-hpexpiretime"]);
    let untold = Checked::of(&task, IDLE);
    untold.assert_equal();
    assert_eq!(untold.events("expected"), BTreeMap::new());
    client.ok(&["HSET", "hash", "field7", "other"]);
    let value = BTreeMap::from([("hash".to_owned(), "value".to_owned())]);
    assert_eq!(Checked::of(&task, IDLE).events("different"), value);
}
