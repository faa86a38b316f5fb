//! Values and commands that are larger than the memory budget allows in one piece.

use crate::df2redis::Task;
use crate::support::dragonfly::{Compression, Fault};
use crate::support::{Client, Dataset, RedisServer, SimulatedDragonfly, eventually};
use nix::sys::signal::Signal;

const MIB: usize = 1 << 20;

/// Elements of 1 KiB, all different.
fn elements(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| format!("{n:08}{}", "e".repeat(1016)))
        .collect()
}

fn task(source: &SimulatedDragonfly, target: &RedisServer) -> Task {
    Task::between(&source.address(), &target.address()).with("limits.memory = \"16MiB\"")
}

/// Which of these elements are not those that the command answers with.
#[track_caller]
fn assert_answer<A: AsRef<[u8]>>(client: &mut Client, command: &[&str], wanted: &[A]) {
    let answer = client.ok(command);
    assert_eq!(answer.items().len(), wanted.len(), "{command:?}");
    let wrong = answer
        .items()
        .iter()
        .zip(wanted)
        .position(|(found, wanted)| found.bytes() != wanted.as_ref());
    assert_eq!(wrong, None, "{command:?}");
}

fn snapshot(tagged: bool) {
    let list = elements(30 << 10);
    let fields: Vec<(String, String)> = list
        .iter()
        .map(|element| (element[..8].to_owned(), element.clone()))
        .collect();
    let string: Vec<u8> = (0..40 * MIB).map(|n| (n / 7) as u8).collect();
    let mut dataset = Dataset::new();
    dataset
        .string("small", "1")
        .list("list", &list)
        .string("string", &string)
        .hash("hash", &fields)
        .string("small:2", "2");
    let source = SimulatedDragonfly::options()
        .dataset(dataset)
        .compression(Compression::None)
        .tagged_chunks(tagged)
        .interleaved(tagged)
        .start();
    let target = RedisServer::start();
    let task = task(&source, &target);
    let mut running = task.start_stable();
    let line = running.wait_logged("snapshot finished, following writes");
    let bytes = line
        .split("bytes: ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let bytes: usize = bytes.and_then(|text| text.parse().ok()).expect("a number");
    assert!(bytes > 100 * MIB, "{line}");
    source.journal(0, ["APPEND", "small:2", "!"]);
    source.wait_acked();
    let mut client = target.client();
    assert_answer(&mut client, &["LRANGE", "list", "0", "-1"], &list);
    assert!(
        client.ok(&["GET", "string"]).bytes() == string,
        "the string differs"
    );
    assert_eq!(client.ok(&["HLEN", "hash"]).int(), Some(30 << 10));
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    for (names, values) in names.chunks(1024).zip(list.chunks(1024)) {
        let command = [&["HMGET", "hash"], names].concat();
        assert_answer(&mut client, &command, values);
    }
    assert_eq!(client.ok(&["MGET", "small", "small:2"]).items()[1], "2!");
    assert_eq!(task.state_files(), Vec::<String>::new());
    running.stop();
    assert_eq!(client.ok(&["KEYS", "df2redis:tmp:*"]).items().len(), 0);
}

#[test]
fn large_values_in_tagged_chunks_arrive_whole() {
    snapshot(true);
}

#[test]
fn large_values_in_one_piece_arrive_whole() {
    snapshot(false);
}

#[test]
fn large_commands_of_the_journal_arrive_whole_and_in_their_place() {
    let source = SimulatedDragonfly::options().flows(1).start();
    let target = RedisServer::start();
    let task = task(&source, &target);
    let running = task.start_stable();
    let string: Vec<u8> = (0..20 * MIB).map(|n| (n / 11) as u8).collect();
    let list: Vec<String> = (0..300_000).map(|n| format!("element {n}")).collect();
    source.journal(0, ["RPUSH", "list", "first"]);
    source.journal(0, [b"SET", b"string".as_slice(), &string]);
    source.journal(0, ["APPEND", "string", "!"]);
    let push = ["RPUSH", "list"]
        .into_iter()
        .chain(list.iter().map(String::as_str));
    source.journal(0, push);
    source.journal(0, ["RPUSH", "list", "last"]);
    source.wait_acked();
    let mut client = target.client();
    let found = client.ok(&["GET", "string"]).bytes();
    assert!(
        found.strip_suffix(b"!") == Some(&string),
        "the string differs"
    );
    let whole: Vec<&str> = ["first"]
        .into_iter()
        .chain(list.iter().map(String::as_str))
        .chain(["last"])
        .collect();
    assert_answer(&mut client, &["LRANGE", "list", "0", "-1"], &whole);
    assert_eq!(task.state_files(), Vec::<String>::new());
    running.stop();
}

#[test]
fn what_a_killed_full_sync_had_begun_to_build_is_removed() {
    let mut dataset = Dataset::new();
    dataset.string("long", vec![b'x'; 4 * MIB]);
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    for flow in 0..2 {
        source.inject(Fault::SlowFlow {
            flow,
            bytes_per_second: 50_000,
        });
    }
    let target = RedisServer::start();
    let task = task(&source, &target);
    let mut running = task.start();
    running.wait_logged("full sync needed");
    let mut client = target.client();
    eventually("the snapshot under way", || {
        client.ok(&["HGET", "df2redis:position:copy", "phase"]) == "snapshot"
    });
    // As if the kill had come between two steps of these; the last is another task's.
    let others = "df2redis:tmp:copying:gone";
    for (db, key) in [
        ("0", "df2redis:tmp:copy:gone"),
        ("3", "df2redis:tmp:copy:gone"),
        ("0", others),
    ] {
        client.ok(&["SELECT", db]);
        client.ok(&["RPUSH", key, "element"]);
    }
    running.signal(Signal::SIGKILL);
    running.wait_killed();
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    source.clear_faults();
    let mut running = task.start_stable();
    running.wait_logged("removed what an earlier full sync had begun to build");
    running.stop();
    for (db, left) in [("0", vec![others]), ("3", vec![])] {
        client.ok(&["SELECT", db]);
        let keys = client.ok(&["KEYS", "df2redis:tmp:*"]);
        assert_eq!(
            keys.items()
                .iter()
                .map(|key| key.text())
                .collect::<Vec<_>>(),
            left
        );
    }
    assert_eq!(client.ok(&["SELECT", "0"]), "OK");
    assert_eq!(client.ok(&["STRLEN", "long"]), "4194304");
}
