//! A target that is there and refuses: for now, or for good.

use std::time::Duration;

use crate::program::{Running, Task, source};
use crate::support::{PATIENCE, RedisServer, SimulatedDragonfly, eventually, within};

const PAUSED: &str = "the target refuses writes for now, trying again";
const RESUMED: &str = "the target takes writes again";

fn following(source: &SimulatedDragonfly, target: &RedisServer) -> Running {
    let mut running = Task::between(source, target).start();
    running.follows(1);
    running
}

/// Counts while the target refuses, and checks that each flow said so once, and that not one was lost.
#[track_caller]
fn counts_through(
    source: &SimulatedDragonfly,
    target: &RedisServer,
    because: &str,
    refuse: impl FnOnce(),
    accept: impl FnOnce(),
) {
    let mut running = following(source, target);
    let mut writer = source.client();
    let mut count = |times: usize| {
        for n in 0..times {
            writer.ok(&["INCR", &format!("n:{}", n % 8)]);
        }
    };
    count(100);
    refuse();
    count(400);
    running.says(&[PAUSED, because, "attempt: 1, wait_ms: "]);
    count(100);
    accept();
    running.says(&[RESUMED]);
    count(100);
    running.ends_equal(source, target);
    let said = running.lines(&[PAUSED, "attempt: 1,"]).len();
    assert!(said <= source.flows(), "{said} lines about one refusal");
    assert_eq!(
        source.full_syncs(),
        1,
        "a refusal for now is no reason to start again"
    );
    running.stops();
}

#[test]
fn a_full_target_pauses_and_loses_nothing() {
    let (source, target) = (source(), RedisServer::start());
    let set = |limit: &str| {
        target.client().ok(&["CONFIG", "SET", "maxmemory", limit]);
    };
    counts_through(
        &source,
        &target,
        "OOM command not allowed",
        || set("1"),
        || set("0"),
    );
}

#[test]
fn a_target_that_became_a_replica_is_asked_anew_what_it_holds_when_it_is_promoted() {
    let (source, target) = (source(), RedisServer::start());
    let mut running = Task::between(&source, &target).start();
    running.follows(1);
    target.client().ok(&["REPLICAOF", "127.0.0.1", "1"]);
    source.client().ok(&["INCR", "n"]);
    let why = "is not ready, writing: READONLY You can't write against a read only replica";
    running.says(&["target lost, reading on into the spool", why]);
    running.says(&[
        "target not reached, reading on into the spool",
        "taking the fence: READONLY You can't write against a read only replica",
        "attempt: 2, wait_ms: ",
    ]);
    target.client().ok(&["REPLICAOF", "NO", "ONE"]);
    running.ends_equal(&source, &target);
    running.says(&["target is back, following writes out of the spool"]);
    running.stops();
}

#[test]
fn a_target_that_is_a_replica_from_the_start_is_waited_for() {
    let source = source();
    let target = RedisServer::start_with(&["--replicaof", "127.0.0.1 1"]);
    let mut running = Task::between(&source, &target).start();
    running.retries(2, "READONLY You can't write against a read only replica");
    running.says(&["the target is a replica and refuses writes until it is promoted"]);
    target.client().ok(&["REPLICAOF", "NO", "ONE"]);
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn a_target_busy_with_a_script_is_waited_for() {
    let source = source();
    let target = RedisServer::start_with(&["--busy-reply-threshold", "10"]);
    let mut looping = target.client();
    counts_through(
        &source,
        &target,
        "BUSY Redis is busy running a script",
        || {
            looping
                .send(&["EVAL", "while true do end", "0"])
                .expect("a script that runs")
        },
        || {
            let killed = || !target.client().cmd(&["SCRIPT", "KILL"]).is_error();
            eventually("the script is killed", killed);
        },
    );
}

#[test]
fn a_wrong_password_ends_with_77() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start_with(&["--requirepass", "right"]);
    let hint = "check target.username and target.password";
    let ended = Task::between(&source, &target)
        .target("password = \"wrong\"")
        .run();
    ended.with(77, &[&target.address(), "refused the login: ", hint]);
    let ended = Task::between(&source, &target).run();
    ended.with(77, &[&target.address(), "refused the login: ", hint]);
}

#[test]
fn a_missing_permission_to_write_ends_with_77_and_names_the_command() {
    let source = source();
    let target = RedisServer::start();
    let rules = [
        "ACL", "SETUSER", "copier", "on", ">right", "~*", "&*", "+@all",
    ];
    for (without, name) in [
        ("-set", "SET"),
        ("-restore", "RESTORE"),
        ("-multi", "MULTI"),
    ] {
        target.client().ok(&[&rules[..], &[without]].concat());
        let task =
            Task::between(&source, &target).target("username = \"copier\"\npassword = \"right\"");
        let permits = format!("does not permit {name}: NOPERM");
        let hint = "permit the command to the task's user with ACL SETUSER on the target";
        task.run().with(77, &[&target.address(), &permits, hint]);
        target.client().ok(&["FLUSHALL"]);
    }
}

/// A source whose string `s` the target holds too, and a list command for it that cannot work.
fn contradicting(task: impl FnOnce(Task) -> Task) -> (SimulatedDragonfly, RedisServer, Running) {
    let mut dataset = crate::support::Dataset::new();
    dataset.string("s\u{fc}", "text");
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let target = RedisServer::start();
    let mut running = task(Task::between(&source, &target)).start();
    running.follows(1);
    source.journal(0, [&b"LPUSH"[..], "s\u{fc}".as_bytes(), b"a\0b"]);
    source.journal(0, ["SET", "s\u{fc}", "later"]);
    (source, target, running)
}

#[test]
fn a_command_that_the_target_refuses_ends_with_65_and_names_its_key() {
    let (_source, target, running) = contradicting(|task| task);
    let refused = format!(
        "the target {} refused LPUSH of key \"s\\xc3\\xbc\" (journal entry 1): WRONGTYPE",
        target.address()
    );
    running
        .ended()
        .with(65, &[&refused, "\"df2redis skip\" gives it up"]);
}

#[test]
fn a_command_that_the_target_refuses_is_kept_and_passed_over_on_request() {
    let (source, target, mut running) = contradicting(|task| task.policy("on_error = \"skip\""));
    eventually("the next command is applied", || {
        target.get("s\u{fc}") == "later"
    });
    source.wait_acked();
    running.says(&[
        "the target refused a command, which was left out",
        "key: \"s\\xc3\\xbc\"",
        "command: LPUSH",
        "WRONGTYPE",
    ]);
    let letters = std::fs::read_to_string(running.state().join("copy.dead-letter.jsonl"));
    let letters = letters.expect("a dead-letter file");
    let letter: serde_json::Value =
        serde_json::from_str(letters.trim_end()).expect("one line of JSON");
    assert_eq!(letter["key"], "c8O8");
    assert_eq!(
        letter["words"],
        serde_json::json!(["TFBVU0g=", "c8O8", "YQBi"])
    );
    assert_eq!((&letter["lsn"], &letter["db"]), (&1.into(), &0.into()));
    assert!(
        letter["error"]
            .as_str()
            .is_some_and(|error| error.starts_with("WRONGTYPE"))
    );
    let counted = within(PATIENCE.min(Duration::from_secs(20)), || {
        !running.lines(&["INFO summary", "skipped: 1"]).is_empty()
    });
    assert!(counted, "the summary does not count it");
    running.stops();
}
