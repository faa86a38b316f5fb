//! Recorded streams, replayed by the simulated Dragonfly, end in the state that the recorded master had.

use crate::df2redis::Task;
use crate::support::expected::Expected;
use crate::support::{RedisServer, SimulatedDragonfly, Target, on_every_target};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// When the recordings were made: single members of sets and hashes were to live a day from then.
const RECORDED: i64 = 1_795_380_000_000;

fn capture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/captures/dragonfly")
        .join(name)
}

fn expected(name: &str, target: Target) -> Expected {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a clock").as_millis();
    Expected::load(capture(name).join("expected.json"))
        .plain_types_only()
        .alive_at(i64::try_from(now).expect("a date"))
        .on(target)
}

/// Copies a recorded master, of which these keys can be read, as they were in the end; the target, everything acknowledged and df2redis stopped.
#[track_caller]
fn copied(name: &str, target: Target, held: &Expected) -> RedisServer {
    let holds = RedisServer::start();
    held.fill(holds.port());
    let source = crate::support::dragonfly::Options::replay(capture(name))
        .clock(RECORDED)
        .holds(holds.port())
        .start();
    let target = target.start();
    let task = Task::between(&source.address(), &target.address())
        .skipping_unsupported()
        .with("policy.on_member_expiry = \"drop\"");
    let running = task.start_stable();
    source.wait_acked();
    running.stop();
    assert_eq!(source.full_syncs(), 1);
    assert_eq!(task.state_files(), Vec::<String>::new());
    drop::<SimulatedDragonfly>(source);
    target
}

/// The keys that differ from what was expected.
fn differing(expected: &Expected, target: &RedisServer) -> Vec<String> {
    let key = |line: String| line.split(": ").next().unwrap_or_default().to_owned();
    expected
        .differences(target.port())
        .into_iter()
        .map(key)
        .collect()
}

/// A recording of all types, with the two random strings of its own.
#[track_caller]
fn every_type_arrives(target: Target, release: &str) {
    const RANDOM: [&str; 2] = ["str:binary", "str:binary64k"];
    let mut expected = expected("v1.40.1/types", target);
    assert!(expected.len() > 40, "{}", expected.len());
    if target.lets_fields_expire() {
        // The two others were to live a day longer than the recording.
        let left = serde_json::json!([["noexp", "3"]]);
        expected = expected.with_value("hash:fieldttl", left);
    }
    let target = copied(&format!("{release}/types"), target, &expected);
    let without = expected.without(&RANDOM).differences(target.port());
    let extra = RANDOM.map(|key| format!("db 0 {key:?}: a key too many"));
    assert_eq!(without, extra);
    let known = std::fs::read(capture(release).join("types/random.json")).expect("random.json");
    let known: BTreeMap<String, String> = serde_json::from_slice(&known).expect("JSON");
    for key in RANDOM {
        let value = target.client().ok(&["GET", key]).bytes();
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &value);
        let about = format!("{} bytes, CRC-32 {crc:08x}", value.len());
        assert_eq!(known.get(key), Some(&about), "{key}");
    }
}

on_every_target!(every_type_arrives:
    from_lz4_blobs = "v1.40.1",
    from_zstandard_blobs = "v1.40.1-zstd",
    from_lzf_strings = "v1.40.1-lzf",
    uncompressed = "v1.40.1-uncompressed",
    from_an_older_release = "v1.27.4",
);

/// A recording of every command family, after which these keys differ for the reasons given. Fields of the hash `ha`
/// that were to live a day are gone where fields expire; what is left of it comes last.
#[track_caller]
fn every_command_family_has_its_effect(target: Target, (release, explained, left): Journal) {
    let name = format!("{release}/journal");
    let mut expected = expected(&name, target);
    if target.lets_fields_expire() {
        let left = serde_json::from_str(left).expect("fields and values");
        expected = expected.with_value("ha", left);
    }
    let target = copied(&name, target, &expected);
    assert_eq!(differing(&expected, &target), explained);
}

/// XREADGROUP is not in the journal of this release.
const IN_AN_OLDER_RELEASE: &[&str] = &["db 0 \"xk\"", "db 0 \"xs\""];

/// Release, differences, and what is left of `ha`.
type Journal = (&'static str, &'static [&'static str], &'static str);

const TWO_FLOWS: Journal = ("v1.40.1", &[], r#"[["d", "4"], ["f", "1.25"]]"#);
const ONE_FLOW: Journal = ("v1.40.1-1flow", &[], TWO_FLOWS.2);
// Without HGETEX, which this release does not have.
const OLDER: Journal = (
    "v1.27.4",
    IN_AN_OLDER_RELEASE,
    r#"[["d", "4"], ["f", "1.25"], ["n", "5"]]"#,
);

on_every_target!(every_command_family_has_its_effect:
    in_two_flows = super::super::TWO_FLOWS,
    in_one_flow = super::super::ONE_FLOW,
    in_an_older_release = super::super::OLDER,
);

fn recorded_flushes_leave_what_was_written_after_them(target: Target) {
    for release in ["v1.40.1", "v1.27.4"] {
        let name = format!("{release}/journal-flush");
        let expected = expected(&name, target);
        let differences = expected.differences(copied(&name, target, &expected).port());
        assert_eq!(differences, Vec::<String>::new(), "{release}");
    }
}

on_every_target!(recorded_flushes_leave_what_was_written_after_them);
