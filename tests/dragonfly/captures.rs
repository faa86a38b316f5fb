//! Recorded streams, replayed by the simulated Dragonfly, end in the state that the recorded master had.

use crate::df2redis::Task;
use crate::support::expected::Expected;
use crate::support::{RedisServer, SimulatedDragonfly};
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

fn expected(name: &str) -> Expected {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a clock").as_millis();
    Expected::load(capture(name).join("expected.json"))
        .plain_types_only()
        .alive_at(i64::try_from(now).expect("a date"))
}

/// Copies a recorded master; the target, everything acknowledged and df2redis stopped.
#[track_caller]
fn copied(name: &str) -> RedisServer {
    let source = crate::support::dragonfly::Options::replay(capture(name))
        .clock(RECORDED)
        .start();
    let target = RedisServer::start();
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

/// Its entries come days late: the target expires it before the PERSIST that follows.
const EXPIRED_LATE: &str = "db 0 \"s1\"";

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
fn types_arrive(release: &str) {
    const RANDOM: [&str; 2] = ["str:binary", "str:binary64k"];
    let target = copied(&format!("{release}/types"));
    let expected = expected("v1.40.1/types");
    assert!(expected.len() > 40, "{}", expected.len());
    let without = expected.clone().without(&RANDOM).differences(target.port());
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

#[test]
fn every_type_arrives_from_lz4_blobs() {
    types_arrive("v1.40.1");
}

#[test]
fn every_type_arrives_from_zstandard_blobs() {
    types_arrive("v1.40.1-zstd");
}

#[test]
fn every_type_arrives_from_lzf_strings() {
    types_arrive("v1.40.1-lzf");
}

#[test]
fn every_type_arrives_uncompressed() {
    types_arrive("v1.40.1-uncompressed");
}

#[test]
fn every_type_arrives_from_an_older_release() {
    types_arrive("v1.27.4");
}

#[test]
fn every_command_family_has_its_effect() {
    let target = copied("v1.40.1/journal");
    let explained = [
        EXPIRED_LATE,
        // SORT ... STORE over two shards: the journal does not hold the result.
        "db 0 \"sorted\"",
        // XGROUP SETID makes Redis forget how many entries the group has read; Dragonfly does not.
        "db 0 \"xk\"",
    ];
    assert_eq!(differing(&expected("v1.40.1/journal"), &target), explained);
}

#[test]
fn every_command_family_of_a_single_flow_has_its_effect() {
    let target = copied("v1.40.1-1flow/journal");
    // XGROUP SETID, as above; SORT ... STORE is whole in the journal of a single shard.
    let explained = [EXPIRED_LATE, "db 0 \"xk\""];
    let expected = expected("v1.40.1-1flow/journal");
    assert_eq!(differing(&expected, &target), explained);
}

#[test]
fn every_command_family_of_an_older_release_has_its_effect() {
    let target = copied("v1.27.4/journal");
    let explained = [
        EXPIRED_LATE,
        // XREADGROUP is not in the journal of this release.
        "db 0 \"xk\"",
        "db 0 \"xs\"",
        // ZRANGESTORE and ZUNIONSTORE over two shards: the journal does not hold the result.
        "db 0 \"zsr\"",
        "db 0 \"zsu\"",
    ];
    assert_eq!(differing(&expected("v1.27.4/journal"), &target), explained);
}

#[test]
fn recorded_flushes_leave_what_was_written_after_them() {
    for release in ["v1.40.1", "v1.27.4"] {
        let name = format!("{release}/journal-flush");
        let target = copied(&name);
        let differences = expected(&name).differences(target.port());
        assert_eq!(differences, Vec::<String>::new(), "{release}");
    }
}
