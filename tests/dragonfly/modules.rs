//! JSON documents, Bloom filters and sketches on targets with the modules for them, and without.

use crate::df2redis::Task;
use crate::support::dragonfly::Options;
use crate::support::{Client, RedisServer, SimulatedDragonfly, Target};
use std::path::PathBuf;

fn capture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/captures/dragonfly")
        .join(name)
}

/// The releases that the modules load into.
const WITH_MODULES: [Target; 2] = [Target::Redis70, Target::Redis82];

/// Copies a recorded master.
fn copied(name: &str, target: &RedisServer) {
    let source = Options::replay(capture(name))
        .clock(1_795_380_000_000)
        .start();
    let task = Task::between(&source.address(), &target.address()).skipping_unsupported();
    let running = task.start_stable();
    source.wait_acked();
    running.stop();
}

#[test]
fn a_json_document_of_the_snapshot_arrives_where_the_module_is() {
    for target in WITH_MODULES {
        let server = target.start_with_modules();
        copied("v1.40.1/types", &server);
        let text = server.client().ok(&["JSON.GET", "json:doc"]).text();
        let expected = r#"{"a":1,"b":[1,2.5,"x",null,true],"c":{"d":"e"}}"#;
        assert_eq!(text, expected, "{target:?}");
    }
}

#[test]
fn a_recorded_journal_builds_documents_filters_and_sketches_where_the_modules_are() {
    for target in WITH_MODULES {
        let server = target.start_with_modules();
        copied("v1.40.1/journal", &server);
        let mut client = server.client();
        let known = std::fs::read(capture("v1.40.1/journal/expected.json")).expect("expected.json");
        let known: serde_json::Value = serde_json::from_slice(&known).expect("JSON");
        let mut compared = 0;
        for (key, about) in known["0"].as_object().expect("database 0") {
            let kind = about["type"].as_str().unwrap_or_default();
            if ["string", "list", "set", "hash", "zset", "stream"].contains(&kind) {
                continue;
            }
            compared += 1;
            assert_eq!(client.ok(&["TYPE", key]), kind, "{target:?} {key}");
            if let Some(text) = about["value"].as_str() {
                let there = client.ok(&["JSON.GET", key]).text();
                let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
                assert_eq!(parsed(&there), parsed(text), "{target:?} {key}");
            }
        }
        assert_eq!(compared, 8, "{target:?}");
    }
}

/// A document as the target shows it.
fn document(client: &mut Client, key: &str) -> String {
    client.ok(&["JSON.GET", key]).text()
}

#[test]
fn what_the_json_module_keeps_and_what_it_does_not() {
    for target in WITH_MODULES {
        let server = target.start_with_modules();
        let source = SimulatedDragonfly::start();
        let task = Task::between(&source.address(), &server.address());
        let running = task.start_stable();
        for (key, text) in [
            ("order", r#"{"b":1,"a":2,"c":{"z":0,"y":0}}"#),
            ("unicode", "{\"\u{e9}\":\"\u{1F600}\\n\\\"\"}"),
            ("numbers", "[0,-1,9223372036854775807,1.5,0.1]"),
            ("spelling", "[1.0,1e3]"),
        ] {
            source.journal(0, ["JSON.SET", key, "$", text]);
        }
        source.wait_acked();
        let mut client = server.client();
        // Order, unicode, and numbers of 64 bits.
        assert_eq!(
            document(&mut client, "order"),
            r#"{"b":1,"a":2,"c":{"z":0,"y":0}}"#
        );
        assert_eq!(
            document(&mut client, "unicode"),
            "{\"\u{e9}\":\"\u{1F600}\\n\\\"\"}"
        );
        let numbers = "[0,-1,9223372036854775807,1.5,0.1]";
        assert_eq!(document(&mut client, "numbers"), numbers);
        // The value, and not how it was spelt.
        assert_eq!(document(&mut client, "spelling"), "[1.0,1000.0]");
        running.stop();
    }
}

#[test]
fn what_a_target_without_modules_lacks_is_counted_and_announced() {
    let target = Target::Redis82.start();
    let between = |source: &SimulatedDragonfly| {
        Task::between(&source.address(), &target.address()).skipping_unsupported()
    };
    // A recording answers one session.
    let announced = between(&SimulatedDragonfly::start()).check_servers();
    for module in ["JSON", "Bloom filter"] {
        let note = format!("target: no {module} commands");
        let notes = announced.graded("note");
        assert!(
            notes.iter().any(|line| line.starts_with(&note)),
            "{}",
            announced.text
        );
    }
    let source = Options::replay(capture("v1.40.1/journal"))
        .clock(1_795_380_000_000)
        .start();
    let task = between(&source);
    let mut running = task.start_stable();
    source.wait_acked();
    for kind in ["json", "bloom", "cms", "topk", "cuckoo"] {
        running.wait_logged(&format!("kind: {kind}"));
    }
    let asked = task.asked("status").output().expect("df2redis starts");
    let text = String::from_utf8(asked.stdout).expect("text");
    let left_out = text.lines().find(|line| line.contains("left out"));
    let left_out = left_out.expect("a line of what was left out");
    for kind in ["json", "bloom", "cms", "topk", "cuckoo"] {
        assert!(
            left_out.contains(&format!(" {kind}")),
            "{kind} in {left_out}"
        );
    }
    running.stop();
}
