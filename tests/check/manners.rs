//! How it treats servers and operators: only reads, no faster than allowed, and an end that says what is known.

use crate::asked::{Checked, IDLE, Pair};
use crate::support::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn many(pair: &Pair, keys: usize) {
    let row: Vec<_> = (0..keys)
        .map(|n| vec![b"SET".to_vec(), format!("k{n}").into_bytes(), b"v".to_vec()])
        .collect();
    for mut client in [pair.source.client(), pair.target.client()] {
        client.pipeline(&row);
    }
}

#[test]
fn neither_server_is_sent_anything_that_writes() {
    let pair = Pair::start();
    many(&pair, 100);
    pair.fill(&[
        "SET a v",
        "RPUSH l a",
        "XADD x 1-1 f v",
        "HSET h f v",
        "ZADD z 1 a",
        "SADD s a",
    ]);
    pair.spoil(&["SADD s a"]);
    for mut client in [pair.source.client(), pair.target.client()] {
        client.ok(&["CONFIG", "RESETSTAT"]);
    }
    for mode in ["full", "outline", "length", "smart"] {
        assert_eq!(pair.check(&["--mode", mode]).code, 1);
    }
    let reads = "client|setname config|resetstat dflyreplicaoffset dump exec exists get getrange hgetall hget hlen info llen lrange \
                 memory|usage multi pexpiretime scan scard select sismember strlen time type unwatch watch xlen zcard zrange";
    let reads: BTreeSet<_> = reads.split_whitespace().map(str::to_owned).collect();
    for mut client in [pair.source.client(), pair.target.client()] {
        let stats = client.ok(&["INFO", "commandstats"]).text();
        let sent = stats
            .lines()
            .filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
        let sent: BTreeSet<_> = sent.map(str::to_owned).collect();
        assert!(sent.contains("getrange"), "{sent:?}");
        assert!(sent.contains("dump"), "{sent:?}");
        let others: Vec<_> = sent.difference(&reads).collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

#[test]
fn the_source_gets_no_more_requests_in_a_second_than_allowed() {
    let pair = Pair::start();
    many(&pair, 700);
    pair.source.client().ok(&["CONFIG", "RESETSTAT"]);
    let began = Instant::now();
    pair.check(&["--qps", "1500"]).assert_equal();
    let took = began.elapsed();
    let stats = pair.source.client().ok(&["INFO", "stats"]).text();
    let sent = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_commands_processed:"));
    let sent: f64 = sent
        .and_then(|text| text.trim().parse().ok())
        .expect("a number");
    assert!(sent >= 1500.0, "{sent}");
    // One burst of a twentieth of a second is free for each connection.
    assert!(
        took.as_secs_f64() * 1500.0 > sent - 1000.0,
        "{sent} in {took:?}"
    );
    assert!(took > Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_stop_ends_it_with_what_is_known_so_far() {
    let pair = Pair::start();
    many(&pair, 2000);
    pair.spoil(&["SET extra v"]);
    let report = pair.task.dir().join("report.jsonl");
    let mut command = pair.task.asked("check");
    command
        .args(IDLE)
        .args(["--qps", "200", "--report"])
        .arg(&report);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("df2redis starts");
    let mut target = pair.target.client();
    // Some keys have been compared.
    eventually("keys to be read", || {
        target
            .ok(&["INFO", "commandstats"])
            .text()
            .contains("cmdstat_getrange:calls=1")
    });
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("it is there");
    let asked = Instant::now();
    let output = child.wait_with_output().expect("its output");
    assert!(asked.elapsed() < Duration::from_secs(5));
    let found = Checked::read(&output, &fs::read_to_string(&report).expect("a report"));
    assert_eq!(found.code, 1, "{}", found.messages);
    assert!(
        found.text.contains("stopped before the end"),
        "{}",
        found.text
    );
    assert!(
        found.text.ends_with("\nnot known to be equal\n"),
        "{}",
        found.text
    );
    assert_eq!(found.summary()["complete"], false);
    let keys = found.summary()["keys"].as_u64().expect("a number");
    assert!((1..2000).contains(&keys), "{keys}");
}

#[test]
fn what_cannot_be_compared_is_said_with_the_exit_code_of_its_cause() {
    let mut pair = Pair::start();
    pair.fill(&["SET a v", "SADD s a"]);
    let task = pair.task.dir().to_owned();
    let missing = task.join("not/there.jsonl");
    let output = pair
        .task
        .asked("check")
        .arg("--report")
        .arg(&missing)
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(73));
    for (arguments, words) in [
        (["--sample", "0%"], "expected a share"),
        (["--match", "[a"], "never closed"),
        (["--max-memory", "64"], "such as 64MiB"),
        (["--rounds", "0"], "0 is not in"),
    ] {
        let output = pair
            .task
            .asked("check")
            .args(arguments)
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(64));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words), "{said}");
    }
    // A user that may do everything but what is needed.
    pair.source
        .client()
        .ok(&["ACL", "SETUSER", "default", "-dump"]);
    let refused = pair.check(&[]);
    assert_eq!(refused.code, 77);
    assert!(
        refused.messages.contains("does not permit DUMP"),
        "{}",
        refused.messages
    );
    pair.target
        .client()
        .ok(&["CONFIG", "SET", "requirepass", "secret"]);
    assert_eq!(pair.check(&[]).code, 77);
    pair.target.kill();
    let gone = pair.check(&[]);
    assert_eq!(gone.code, 69);
    assert!(
        gone.messages.contains("cannot reach the target"),
        "{}",
        gone.messages
    );
}
