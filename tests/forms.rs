//! Values in every form, given to a real Redis and read back with ordinary commands.

#[path = "support/mod.rs"]
mod support;

mod forms {
    pub mod captured;
    pub mod generated;
    pub mod random;
    pub mod server;
    pub mod view;
}

use std::path::Path;

use df2redis::commands::{Features, Flavour, MemberExpiry};
use df2redis::entry::{Spill, SpillWriter};
use df2redis::rdb::string::{write_packed, write_raw};
use df2redis::target::Outgoing;
use df2redis::target::form::{
    Bytes, FormError, Formed, Limits, Notes, Settings, Step, Value, form,
};
use forms::captured::{Captured, types};
use forms::server::{Server, features};
use forms::view::{View, expected, view};
use support::{Target, on_every_target};

/// When the values of these tests were received: 2026-11-22, when they were recorded.
const NOW: i64 = 1_795_380_000_000;

fn redis(major: u16, minor: u16) -> Features {
    Features {
        flavour: Flavour::Redis,
        version: (major, minor, 15),
        json: false,
        bloom: false,
    }
}

fn settings(features: &Features) -> Settings<'_> {
    Settings {
        features,
        on_member_expiry: MemberExpiry::Drop,
        task: "test",
        of_cluster: false,
        spill_dir: Path::new("/tmp"),
        now_ms: NOW,
        limits: Limits::default(),
    }
}

/// Limits that make every value large.
fn tiny() -> Limits {
    Limits {
        restore: 0,
        command: 256,
        elements: 7,
        whole: 0,
        ..Limits::default()
    }
}

fn spilled(bytes: &[u8]) -> Spill {
    let mut writer = SpillWriter::create_in(Path::new("/tmp")).unwrap();
    writer.write(bytes).unwrap();
    writer.finish()
}

/// Forms one value and has the server execute its commands; how many steps it took beyond one.
fn give(
    server: &mut Server,
    value: &Value<'_>,
    settings: &Settings<'_>,
) -> Result<(Notes, usize), FormError> {
    let mut out = Outgoing::new();
    match form(value, settings, None, &mut out)? {
        Formed::Whole(notes) => {
            server.run(&out);
            Ok((notes, 0))
        }
        Formed::Steps(mut build) => {
            assert!(out.is_empty(), "nothing is sent before the first step");
            for steps in 1.. {
                let step = build.step(&mut out)?;
                let most = 3 * settings.limits.command.max(1 << 15);
                assert!(
                    out.in_memory() <= most,
                    "a step of {} bytes",
                    out.in_memory()
                );
                server.run(&out);
                out.clear();
                if let Step::Done(notes) = step {
                    return Ok((notes, steps));
                }
            }
            unreachable!("the loop ends with the value")
        }
    }
}

/// How values are handed over in one run over a capture.
struct Run {
    target: Target,
    features: Features,
    limits: Limits,
    in_files: bool,
}

/// Gives every value of a capture to a server and compares what it then holds.
fn compare(release: &str, run: &Run) -> usize {
    let mut server = Server::start_of(run.target);
    let mut settings = settings(&run.features);
    settings.limits = run.limits;
    let records = types(release);
    let expected = expected();
    let (mut unsupported, mut stepped) = (Vec::new(), 0);
    for record in &records {
        let spill = spilled(&record.value);
        let value = Value {
            bytes: if run.in_files {
                Bytes::Spilled(&spill)
            } else {
                Bytes::Inline(&record.value)
            },
            ..record.value()
        };
        server.select(record.db);
        // What was there before must not shine through.
        server.ok(&[b"DEL", &record.key]);
        server.ok(&[b"SET", &record.key, b"old", b"EX", b"1000"]);
        match give(&mut server, &value, &settings) {
            Ok((_, steps)) => stepped += usize::from(steps > 1),
            Err(FormError::Unsupported(what)) => {
                unsupported.push((record.name(), what.kind.as_str()));
                assert_eq!(
                    server.ok(&[b"GET", &record.key]),
                    View::Text(b"old".to_vec())
                );
                continue;
            }
            Err(error) => panic!("{}: {error}", record.name()),
        }
        compare_one(&mut server, record, &expected, release, run);
    }
    unsupported.sort();
    let mut refused = vec![("bloom:grown", "bloom"), ("bloom:small", "bloom")];
    if release == "v1.40.1" {
        refused.extend([("cms", "cms"), ("cuckoo", "cuckoo"), ("topk", "topk")]);
    }
    refused.push(("json:doc", "json"));
    refused.sort();
    let unsupported: Vec<_> = unsupported
        .iter()
        .map(|(name, kind)| (&name[..], *kind))
        .collect();
    assert_eq!(unsupported, refused);
    for db in 0..2 {
        server.select(db);
        assert_eq!(server.ok(&[b"KEYS", b"df2redis:*"]), View::List(vec![]));
    }
    stepped
}

fn compare_one(
    server: &mut Server,
    record: &Captured,
    expected: &serde_json::Value,
    release: &str,
    run: &Run,
) {
    let name = record.name();
    let wanted = &expected[record.db.to_string()][&name];
    assert!(wanted.is_object(), "{name} is not expected");
    // Random bytes, made anew for each release: these two are compared with the record only.
    if release != "v1.40.1" && name.starts_with("str:binary") {
        let text = df2redis::rdb::string::read(&mut df2redis::rdb::Cursor::new(&record.value));
        let got = server.ok(&[b"GET", &record.key]);
        assert_eq!(got, View::Text(text.unwrap().to_vec()), "{name}");
        return;
    }
    let full = run.features.version >= (7, 0, 0)
        && run.target.counts_stream_entries()
        && release == "v1.40.1";
    let got = view(server, &record.key, full);
    let mut wanted = forms::view::of_expected(wanted, full);
    if name == "hash:fieldttl" && run.features.hash_field_expiry() {
        // The other fields were to live a day, which is over.
        let left =
            serde_json::json!({"type": "hash", "expire_at_ms": -1, "value": [["noexp", "3"]]});
        wanted = forms::view::of_expected(&left, full);
    }
    assert_eq!(got, wanted, "{name} of type {}", record.kind);
}

fn every_type_arrives_in_its_cheapest_form(target: Target, release: &str) {
    let run = Run {
        target,
        features: features(target),
        limits: Limits::default(),
        in_files: false,
    };
    assert_eq!(compare(release, &run), 0, "small values take no steps");
}

fn every_type_arrives_in_the_forms_for_older_targets(target: Target, release: &str) {
    for version in [(7, 0), (6, 2), (6, 0)] {
        let features = redis(version.0, version.1);
        if features.version > forms::server::features(target).version {
            continue;
        }
        let run = Run {
            target,
            features,
            limits: Limits::default(),
            in_files: false,
        };
        compare(release, &run);
    }
}

fn every_type_arrives_from_files_and_in_many_small_steps(target: Target, release: &str) {
    for (limits, in_files, steps) in [
        (Limits::default(), true, false),
        (tiny(), true, true),
        (tiny(), false, true),
    ] {
        let run = Run {
            target,
            features: features(target),
            limits,
            in_files,
        };
        let stepped = compare(release, &run);
        if release == "v1.40.1" && target.counts_stream_entries() {
            assert_eq!(stepped >= 5, steps, "{stepped} values took steps");
        }
    }
}

on_every_target!(every_type_arrives_in_its_cheapest_form:
    from_a_recent_release = "v1.40.1",
    from_an_older_release = "v1.27.4",
);
on_every_target!(every_type_arrives_in_the_forms_for_older_targets:
    from_a_recent_release = "v1.40.1",
    from_an_older_release = "v1.27.4",
);
on_every_target!(every_type_arrives_from_files_and_in_many_small_steps:
    from_a_recent_release = "v1.40.1",
    from_an_older_release = "v1.27.4",
);

#[test]
fn an_element_too_large_for_memory_makes_the_value_go_as_a_whole() {
    let mut server = Server::start();
    let features = redis(7, 0);
    let mut settings = settings(&features);
    settings.limits = Limits {
        element: 1 << 16,
        ..tiny()
    };
    let mut value = Vec::new();
    write_packed(&mut value, 40);
    for n in 0..40 {
        write_raw(&mut value, format!("field {n}").as_bytes());
        write_raw(
            &mut value,
            &vec![b'v'; if n == 30 { 1 << 20 } else { 2000 }],
        );
    }
    let spill = spilled(&value);
    let value = Value {
        key: b"h",
        kind: 4,
        bytes: Bytes::Spilled(&spill),
        expire_at_ms: Some(NOW + 1_000_000_000_000),
    };
    let (_, steps) = give(&mut server, &value, &settings).unwrap();
    assert!(steps > 1, "it was found out half-way");
    assert_eq!(server.ok(&[b"HLEN", b"h"]), View::Number(40));
    assert_eq!(
        server.ok(&[b"HSTRLEN", b"h", b"field 30"]),
        View::Number(1 << 20)
    );
    assert_eq!(server.expire_time(b"h"), NOW + 1_000_000_000_000);
    assert_eq!(server.ok(&[b"DBSIZE"]), View::Number(1));
}

#[test]
fn scores_arrive_bit_for_bit_in_both_forms() {
    let scores = [
        0.0,
        1.5,
        -1e300,
        5e-324,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.1 + 0.2,
        1.0 / 3.0,
        1234567.0,
        9007199254740993.0,
        1e17,
        1e16,
        1e-5,
        9.999e-6,
        2.5e-7,
    ];
    let mut server = Server::start();
    let features = redis(7, 0);
    // Redis tells -0 from 0 only in a sorted set of more than 128 members, so it comes last.
    let many = (0..200).map(f64::from);
    let scores: Vec<f64> = scores.into_iter().chain(many).chain([-0.0]).collect();
    let mut value = Vec::new();
    write_packed(&mut value, scores.len() as u64);
    for (n, score) in scores.iter().enumerate() {
        write_raw(&mut value, format!("m{n}").as_bytes());
        value.extend_from_slice(&score.to_le_bytes());
    }
    let whole_by_commands = Limits {
        restore: 0,
        ..Limits::default()
    };
    for limits in [Limits::default(), whole_by_commands, tiny()] {
        let mut settings = settings(&features);
        settings.limits = limits;
        let value = Value {
            key: b"z",
            kind: 5,
            bytes: Bytes::Inline(&value),
            expire_at_ms: None,
        };
        give(&mut server, &value, &settings).unwrap();
        for (n, score) in scores.iter().enumerate() {
            let View::Text(text) = server.ok(&[b"ZSCORE", b"z", format!("m{n}").as_bytes()]) else {
                panic!("no score");
            };
            let got: f64 = String::from_utf8(text).unwrap().parse().unwrap();
            assert_eq!(got.to_bits(), score.to_bits(), "{score}");
        }
    }
}

/// A hash of type 31, or a set of type 32, of members with these expiries in seconds.
fn expiring(kind: u8, members: &[(&str, i64)]) -> Vec<u8> {
    let mut value = Vec::new();
    write_packed(&mut value, members.len() as u64);
    for (name, seconds) in members {
        write_raw(&mut value, name.as_bytes());
        if kind == 31 {
            write_raw(&mut value, b"v");
        }
        let offset = if *seconds < 0 {
            -1
        } else {
            seconds - 1_675_209_600
        };
        write_raw(&mut value, offset.to_string().as_bytes());
    }
    value
}

#[test]
fn members_that_expired_are_left_out_and_others_lose_only_their_expiry() {
    let mut server = Server::start();
    let features = redis(7, 0);
    let past = NOW / 1000;
    for kind in [31, 32] {
        let bytes = expiring(kind, &[("never", -1), ("past", past), ("later", past + 1)]);
        let value = Value {
            key: b"k",
            kind,
            bytes: Bytes::Inline(&bytes),
            expire_at_ms: None,
        };
        let (notes, _) = give(&mut server, &value, &settings(&features)).unwrap();
        assert_eq!((notes.members_expired, notes.expiry_dropped), (1, 1));
        let (names, len): (&[u8], &[u8]) = if kind == 31 {
            (b"HEXISTS", b"HLEN")
        } else {
            (b"SISMEMBER", b"SCARD")
        };
        assert_eq!(server.ok(&[len, b"k"]), View::Number(2));
        assert_eq!(server.ok(&[names, b"k", b"past"]), View::Number(0));

        let mut stop = settings(&features);
        stop.on_member_expiry = MemberExpiry::Stop;
        let mut out = Outgoing::new();
        let refused = form(&value, &stop, None, &mut out).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the target cannot let single members of this key expire"
        );
        assert!(out.is_empty());

        let bytes = expiring(kind, &[("past", past)]);
        for limits in [Limits::default(), tiny()] {
            let mut settings = settings(&features);
            settings.limits = limits;
            server.ok(&[b"SET", b"k", b"old"]);
            let value = Value {
                bytes: Bytes::Inline(&bytes),
                ..value
            };
            give(&mut server, &value, &settings).unwrap();
            assert_eq!(
                server.ok(&[b"DBSIZE"]),
                View::Number(0),
                "nothing is left of the key"
            );
        }
    }
}

#[test]
fn fields_that_expire_together_share_a_command_where_the_target_knows_it() {
    let features = redis(7, 4);
    let soon = NOW / 1000 + 5;
    let bytes = expiring(31, &[("a", soon), ("b", -1), ("c", soon + 1), ("d", soon)]);
    let value = Value {
        key: b"h",
        kind: 31,
        bytes: Bytes::Inline(&bytes),
        expire_at_ms: None,
    };
    let mut out = Outgoing::new();
    let mut settings = settings(&features);
    settings.limits.restore = 0;
    let formed = form(&value, &settings, Some(7), &mut out).unwrap();
    assert!(matches!(formed, Formed::Whole(notes) if notes == Notes::default()));
    let lines: Vec<String> = (0..out.commands())
        .map(|n| {
            let words = out.words(n);
            let words: Vec<_> = words
                .map(|word| String::from_utf8(word.head(99)).unwrap())
                .collect();
            assert_eq!(out.lsn(n), Some(7));
            words.join(" ")
        })
        .collect();
    let at = |seconds: i64| seconds * 1000;
    assert_eq!(
        lines,
        [
            "DEL h".to_string(),
            "HSET h a v b v c v d v".to_string(),
            format!("HPEXPIREAT h {} FIELDS 2 a d", at(soon)),
            format!("HPEXPIREAT h {} FIELDS 1 c", at(soon + 1)),
        ]
    );
}

#[test]
fn a_list_with_bare_elements_between_ziplists_is_built_by_commands() {
    // One ziplist of "a", and one element that is no ziplist.
    let ziplist = b"\x0e\0\0\0\x0a\0\0\0\x01\0\x00\x01a\xff";
    let mut value = vec![2];
    write_raw(&mut value, ziplist);
    write_raw(&mut value, &[b'x'; 9000]);
    let mut server = Server::start();
    let features = redis(7, 0);
    let spill = spilled(&value);
    for bytes in [Bytes::Inline(&value), Bytes::Spilled(&spill)] {
        let value = Value {
            key: b"l",
            kind: 14,
            bytes,
            expire_at_ms: None,
        };
        give(&mut server, &value, &settings(&features)).unwrap();
        let elements = vec![View::Text(b"a".to_vec()), View::Text(vec![b'x'; 9000])];
        assert_eq!(
            server.ok(&[b"LRANGE", b"l", b"0", b"-1"]),
            View::List(elements)
        );
    }
}

#[test]
fn a_key_that_has_expired_is_deleted_instead_of_sent() {
    let mut server = Server::start();
    let features = redis(7, 0);
    server.ok(&[b"SET", b"k", b"old"]);
    let value = Value {
        key: b"k",
        kind: 0,
        bytes: Bytes::Inline(b"\x03new"),
        expire_at_ms: Some(NOW),
    };
    let (notes, _) = give(&mut server, &value, &settings(&features)).unwrap();
    assert!(notes.key_expired);
    assert_eq!(server.ok(&[b"EXISTS", b"k"]), View::Number(0));
}

#[test]
fn what_is_over_every_limit_names_its_size() {
    let features = redis(7, 0);
    let mut settings = settings(&features);
    settings.limits.word = 1000;
    let mut string = Vec::new();
    write_raw(&mut string, &[b'x'; 1001]);
    let spill = spilled(&string);
    for bytes in [Bytes::Inline(&string), Bytes::Spilled(&spill)] {
        let value = Value {
            key: b"k",
            kind: 0,
            bytes,
            expire_at_ms: None,
        };
        let mut out = Outgoing::new();
        let error = form(&value, &settings, None, &mut out).unwrap_err();
        assert_eq!(error.to_string(), "a value of 1001 bytes is too large");
        assert!(out.is_empty());
    }
    let stream = types("v1.40.1")
        .into_iter()
        .find(|record| record.name() == "stream:long")
        .unwrap();
    let mut out = Outgoing::new();
    let error = form(&stream.value(), &settings, None, &mut out).unwrap_err();
    assert!(error.to_string().contains("bytes is too large"), "{error}");
    assert!(out.is_empty());
}

#[test]
fn a_damaged_value_leaves_nothing_behind() {
    let features = redis(6, 2);
    let mut damaged = 0;
    for record in types("v1.40.1")
        .iter()
        .filter(|record| record.value.len() < 600)
    {
        for at in 0..record.value.len() {
            for how in 0..3 {
                let mut bytes = record.value.clone();
                match how {
                    0 => bytes.truncate(at),
                    1 => bytes[at] ^= 0xFF,
                    _ => bytes[at] = bytes[at].wrapping_add(1),
                }
                let spill = spilled(&bytes);
                for (bytes, limits) in [
                    (Bytes::Inline(&bytes), Limits::default()),
                    (Bytes::Spilled(&spill), tiny()),
                ] {
                    let mut settings = settings(&features);
                    settings.limits = limits;
                    damaged += usize::from(survives(
                        &Value {
                            bytes,
                            ..record.value()
                        },
                        &settings,
                    ));
                }
            }
        }
    }
    assert!(damaged > 1000, "{damaged}");
}

/// Forms a value that may be damaged; whether it was found to be.
fn survives(value: &Value<'_>, settings: &Settings<'_>) -> bool {
    let mut out = Outgoing::new();
    match form(value, settings, None, &mut out) {
        Ok(Formed::Whole(_)) => false,
        Ok(Formed::Steps(mut build)) => loop {
            out.clear();
            match build.step(&mut out) {
                Ok(Step::More) => {}
                Ok(Step::Done(_)) => return false,
                Err(_) => {
                    assert_eq!(out.commands(), 1, "only what was built so far is deleted");
                    assert_eq!(out.words(0).nth(1).unwrap().head(999), build.temporary());
                    return true;
                }
            }
        },
        Err(_) => {
            assert!(out.is_empty());
            true
        }
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_of_any_type_never_panic(
        kind in 0u8..40,
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        old in proptest::prelude::any::<bool>(),
    ) {
        let features = redis(if old { 6 } else { 7 }, 2);
        let spill = spilled(&bytes);
        for (bytes, limits) in [
            (Bytes::Inline(&bytes[..]), Limits::default()),
            (Bytes::Spilled(&spill), tiny()),
            (Bytes::Spilled(&spill), Limits::default()),
        ] {
            let mut settings = settings(&features);
            settings.limits = limits;
            survives(&Value { key: b"k", kind, bytes, expire_at_ms: None }, &settings);
        }
    }
}
