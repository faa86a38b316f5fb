//! What no entry of the journal shows is found by the audit, and set right while writes go on.

use crate::df2redis::{Df2redis, Task};
use crate::support::{Client, RedisServer, SimulatedDragonfly, eventually};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const FOUND: &str = "the audit found a key that differs";

fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options()
        .flows(3)
        .backing_store()
        .start()
}

/// One that is audited as fast as it goes.
fn audited(source: &SimulatedDragonfly, target: &RedisServer) -> Task {
    Task::between(&source.address(), &target.address()).with("audit.keys_per_second = 20000")
}

/// What the source executes without a trace in its journal.
fn unseen(source: &SimulatedDragonfly) -> Client {
    Client::connect(source.oracle())
}

/// What `status` tells of the audit.
fn status(task: &Task) -> Json {
    let said = task.asked("status").arg("--json").output();
    let said = said.expect("df2redis starts").stdout;
    let mut json: Json = serde_json::from_slice(&said).expect("JSON");
    json["tasks"][0]["audit"].take()
}

/// How many passes began and ended after now, at least.
#[track_caller]
fn wait_passed(task: &Task) {
    let ended = |audit: &Json| audit["last"]["ended_ms"].as_i64().unwrap_or(0);
    for _ in 0..2 {
        let before = ended(&status(task));
        eventually("a pass to end", || ended(&status(task)) > before);
    }
}

/// Keys that the log names, and how they differ.
fn named(running: &Df2redis) -> BTreeMap<String, String> {
    let log = running.log();
    let lines = log.lines().filter(|line| line.contains(FOUND));
    let field = |line: &str, name: &str| {
        let rest = line.split(&format!("{name}: ")).nth(1).expect("the field");
        rest.split(", ").next().unwrap_or(rest).to_owned()
    };
    let named = lines.map(|line| (field(line, "key"), field(line, "class")));
    named.collect()
}

/// Adds to counters, each as often as it answers in the end.
struct Counting {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

const COUNTERS: usize = 40;

impl Counting {
    fn begin(source: &SimulatedDragonfly) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..2).map(|thread| {
            let (mut client, over) = (source.client(), Arc::clone(&over));
            thread::spawn(move || {
                let mut rounds = 0;
                while !over.load(Ordering::Relaxed) {
                    rounds += 1;
                    for n in (thread..COUNTERS).step_by(2) {
                        client.ok(&["INCR", &format!("counter:{n}")]);
                        client.ok(&["RPUSH", &format!("log:{n}"), &rounds.to_string()]);
                    }
                    // A key that is never at rest cannot be proved to differ.
                    thread::sleep(Duration::from_millis(20));
                }
                rounds
            })
        });
        Self {
            over: Arc::clone(&over),
            threads: threads.collect(),
        }
    }

    /// Ends it. On the target every counter is what it was brought to, and every list has as many elements.
    #[track_caller]
    fn assert_counted(self, source: &SimulatedDragonfly, target: &RedisServer) {
        self.over.store(true, Ordering::Relaxed);
        let rounds: Vec<u64> = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("a writer"))
            .collect();
        source.assert_copied(target.port());
        let mut there = target.client();
        for n in 0..COUNTERS {
            let counter = there.ok(&["GET", &format!("counter:{n}")]);
            let list = there.ok(&["LLEN", &format!("log:{n}")]);
            let expected = rounds[n % 2];
            assert!(expected > 5, "{expected} rounds are too few");
            assert_eq!(
                (counter.text(), list.int()),
                (expected.to_string(), i64::try_from(expected).ok())
            );
        }
    }
}

#[test]
fn what_no_entry_shows_is_found_and_set_right_while_writes_go_on() {
    let (source, target) = (source(), RedisServer::start());
    let task = audited(&source, &target);
    let mut client = source.client();
    for n in 0..300 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
        client.ok(&["HSET", &format!("hash:{n}"), "f", "1", "g", "2"]);
    }
    let running = task.start_stable();
    let counting = Counting::begin(&source);
    let (mut here, mut there) = (unseen(&source), target.client());
    // Lost writes, of keys that rest and keys that do not.
    there.ok(&["SET", "still:7", "w"]);
    there.ok(&["DEL", "hash:8"]);
    there.ok(&["HSET", "hash:9", "h", "3"]);
    there.ok(&["PEXPIRE", "still:10", "10000000"]);
    here.ok(&["SADD", "set:unseen", "a", "b"]);
    here.ok(&["DEL", "still:11"]);
    here.ok(&["SELECT", "5"]);
    here.ok(&["ZADD", "zset:unseen", "1.5", "a"]);
    eventually("counters on the target", || {
        there.ok(&["EXISTS", "counter:3", "log:4"]).int() == Some(2)
    });
    there.ok(&["INCRBY", "counter:3", "1000"]);
    there.ok(&["RPUSH", "log:4", "never"]);
    // And keys that the source never had.
    there.ok(&["SET", "extra:1", "v"]);
    there.ok(&["RPUSH", "extra:2", "v"]);
    let expected = [
        ("still:7", "value"),
        ("hash:8", "missing"),
        ("hash:9", "value"),
        ("still:10", "expiry"),
        ("set:unseen", "missing"),
        ("still:11", "extra"),
        ("zset:unseen", "missing"),
        ("counter:3", "value"),
        ("log:4", "value"),
        ("extra:1", "extra"),
        ("extra:2", "extra"),
    ];
    let expected = expected.map(|(key, class)| (key.to_owned(), class.to_owned()));
    eventually("all to be found", || {
        named(&running).len() >= expected.len()
    });
    eventually("all to be repaired", || {
        let audit = status(&task);
        audit["found"] == audit["repaired"]
    });
    wait_passed(&task);
    assert_eq!(named(&running), BTreeMap::from(expected));
    counting.assert_counted(&source, &target);
    let audit = status(&task);
    assert_eq!(audit["last"]["found"], serde_json::json!({}), "{audit:#}");
    let found = serde_json::json!({ "value": 4, "missing": 3, "expiry": 1, "extra": 3 });
    assert_eq!(audit["found"], found);
    assert_eq!(audit["repaired"], found);
    assert!(source.violations().is_empty(), "{:?}", source.violations());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    running.stop();
}
