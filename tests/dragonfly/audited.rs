//! What is seen of an audit, whatever the source.

use crate::df2redis::{Df2redis, Task};
use crate::support::{Client, RedisServer, eventually};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What the log says of each key.
pub const FOUND: &str = "the audit found a key that differs";

/// What `status` tells of the audit.
pub fn status(task: &Task) -> Json {
    let said = task.asked("status").arg("--json").output();
    let said = said.expect("df2redis starts").stdout;
    let mut json: Json = serde_json::from_slice(&said).expect("JSON");
    json["tasks"][0]["audit"].take()
}

/// How many passes began and ended after now, at least.
#[track_caller]
pub fn wait_passed(task: &Task) {
    let ended = |audit: &Json| audit["last"]["ended_ms"].as_i64().unwrap_or(0);
    for _ in 0..2 {
        let before = ended(&status(task));
        eventually("a pass to end", || ended(&status(task)) > before);
    }
}

/// Waits until the process has repaired so many keys.
#[track_caller]
pub fn wait_repaired(task: &Task, keys: u64) {
    eventually("keys to be repaired", || {
        let audit = status(task);
        let counts = audit["repaired"].as_object();
        let counts = counts.into_iter().flat_map(|counts| counts.values());
        counts.filter_map(Json::as_u64).sum::<u64>() >= keys
    });
}

/// Keys that the log names, and how they differ.
pub fn named(running: &Df2redis) -> BTreeMap<String, String> {
    let log = running.log();
    let lines = log.lines().filter(|line| line.contains(FOUND));
    let field = |line: &str, name: &str| {
        let rest = line.split(&format!("{name}: ")).nth(1).expect("the field");
        rest.split(", ").next().unwrap_or(rest).to_owned()
    };
    let named = lines.map(|line| (field(line, "key"), field(line, "class")));
    named.collect()
}

/// Adds to counters and lists, which shows what is lost and what is repeated.
pub struct Counting {
    name: &'static str,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

/// How often that was.
pub struct Counted {
    name: &'static str,
    rounds: Vec<u64>,
}

const COUNTERS: usize = 40;

impl Counting {
    /// On keys of this name, of the source on this port.
    pub fn begin(source: u16, name: &'static str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..2).map(|thread| {
            let (mut client, over) = (Client::connect(source), Arc::clone(&over));
            thread::spawn(move || {
                let mut rounds = 0;
                while !over.load(Ordering::Relaxed) {
                    rounds += 1;
                    for n in (thread..COUNTERS).step_by(2) {
                        client.ok(&["INCR", &format!("{name}:{n}")]);
                        client.ok(&["RPUSH", &format!("{name}:log:{n}"), "x"]);
                    }
                    // A key that is never at rest cannot be proved to differ.
                    thread::sleep(Duration::from_millis(20));
                }
                rounds
            })
        });
        Self {
            name,
            over: Arc::clone(&over),
            threads: threads.collect(),
        }
    }

    /// Ends it.
    pub fn end(self) -> Counted {
        self.over.store(true, Ordering::Relaxed);
        let threads = self.threads.into_iter();
        let rounds = threads.map(|thread| thread.join().expect("a writer"));
        Counted {
            name: self.name,
            rounds: rounds.collect(),
        }
    }
}

impl Counted {
    /// The target has got all of it by now, and nothing twice.
    #[track_caller]
    pub fn assert_counted(&self, target: &RedisServer) {
        let (mut there, name) = (target.client(), self.name);
        for n in 0..COUNTERS {
            let counter = there.ok(&["GET", &format!("{name}:{n}")]);
            let list = there.ok(&["LLEN", &format!("{name}:log:{n}")]);
            let expected = self.rounds[n % 2];
            assert!(expected > 5, "{expected} rounds are too few");
            let seen = (counter.text(), list.int());
            let expected = (expected.to_string(), i64::try_from(expected).ok());
            assert_eq!(seen, expected, "{name}:{n}");
        }
    }
}
