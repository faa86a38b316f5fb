//! Asking `df2redis check`, and reading its answer.
#![allow(
    dead_code,
    reason = "each program that includes this uses a part of it"
)]

use crate::df2redis::Task;
use crate::support::{Client, RedisServer};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

/// What came out of a comparison.
pub struct Checked {
    /// The exit code.
    pub code: i32,
    /// The table.
    pub text: String,
    /// Standard error.
    pub messages: String,
    /// The lines of the report.
    pub report: Vec<Json>,
}

impl Checked {
    /// Compares with these arguments, and a report.
    #[track_caller]
    pub fn of(task: &Task, arguments: &[&str]) -> Self {
        let report = task.dir().join("report.jsonl");
        let mut command = task.asked("check");
        command.arg("--report").arg(&report).args(arguments);
        let output = command.output().expect("df2redis starts");
        let lines = fs::read_to_string(&report).unwrap_or_default();
        Self::read(&output, &lines)
    }

    /// From what the process left.
    #[track_caller]
    pub fn read(output: &Output, report: &str) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let read = |line: &str| serde_json::from_str(line).expect("a line of JSON");
        Self {
            code: output.status.code().expect("an exit code"),
            text: text(&output.stdout),
            messages: text(&output.stderr),
            report: report.lines().map(read).collect(),
        }
    }

    /// By event and key, the classes; of unsettled ones, the reason too.
    pub fn events(&self, event: &str) -> BTreeMap<String, String> {
        let lines = self.report.iter().filter(|line| line["event"] == event);
        lines
            .map(|line| {
                let key = line["key"].as_str().or(line["key_base64"].as_str());
                let classes = line["classes"].as_array().into_iter().flatten();
                let classes: Vec<_> = classes.filter_map(Json::as_str).collect();
                let reason = line["reason"].as_str();
                let words = classes.into_iter().chain(reason);
                let words: Vec<_> = words.collect();
                (key.unwrap_or_default().to_owned(), words.join(" "))
            })
            .collect()
    }

    /// What the report says of a key.
    #[track_caller]
    pub fn line(&self, key: &str) -> &Json {
        let mut lines = self.report.iter();
        lines
            .find(|line| line["key"] == key)
            .expect("a line about the key")
    }

    /// The last line of the report.
    #[track_caller]
    pub fn summary(&self) -> &Json {
        let last = self.report.last().expect("a report");
        assert_eq!(last["event"], "summary");
        last
    }

    /// Fails unless everything is equal.
    #[track_caller]
    pub fn assert_equal(&self) {
        assert_eq!(
            self.code, 0,
            "{}{}{:#?}",
            self.text, self.messages, self.report
        );
        assert!(self.text.ends_with("\nequal\n"), "{}", self.text);
        assert_eq!(self.summary()["different"], 0);
        assert_eq!(self.summary()["unsettled"], 0);
    }
}

/// Two rounds close together: enough for servers that nobody writes to.
pub const IDLE: &[&str] = &["--rounds", "2", "--interval", "20ms"];

/// Two servers that hold the same, and a task from one to the other.
pub struct Pair {
    pub source: RedisServer,
    pub target: RedisServer,
    pub task: Task,
}

impl Pair {
    pub fn start() -> Self {
        let (source, target) = (RedisServer::start(), RedisServer::start());
        let task = Task::between(&source.address(), &target.address());
        Self {
            source,
            target,
            task,
        }
    }

    /// Makes the target's database what the source's is.
    pub fn copy(&self, db: u32, target_db: u32) {
        copy(
            &mut self.source.client(),
            db,
            &mut self.target.client(),
            target_db,
        );
    }

    /// Sends commands to the target, each a line of words.
    #[track_caller]
    pub fn spoil(&self, commands: &[&str]) {
        send(&mut self.target.client(), commands);
    }

    #[track_caller]
    pub fn fill(&self, commands: &[&str]) {
        send(&mut self.source.client(), commands);
    }

    #[track_caller]
    pub fn check(&self, arguments: &[&str]) -> Checked {
        Checked::of(&self.task, &[IDLE, arguments].concat())
    }
}

/// Sends commands, each a line of words.
#[track_caller]
pub fn send(client: &mut Client, commands: &[&str]) {
    for command in commands {
        client.ok(&command.split(' ').collect::<Vec<_>>());
    }
}

fn copy(source: &mut Client, db: u32, target: &mut Client, target_db: u32) {
    source.ok(&["SELECT", &db.to_string()]);
    target.ok(&["SELECT", &target_db.to_string()]);
    for key in source.ok(&["KEYS", "*"]).items() {
        let key = key.bytes();
        let payload = source.ok(&[b"DUMP".as_slice(), &key]).bytes();
        let expiry = source
            .ok(&[b"PEXPIRETIME".as_slice(), &key])
            .int()
            .unwrap_or(-1);
        let expiry = expiry.max(0).to_string();
        let words = [
            b"RESTORE".as_slice(),
            &key,
            expiry.as_bytes(),
            &payload,
            b"REPLACE",
            b"ABSTTL",
        ];
        target.ok(&words);
    }
}

/// So many elements in a collection of every type, `text` of them and with the scores `score`.
#[track_caller]
pub fn fill(
    client: &mut Client,
    elements: usize,
    text: impl Fn(usize) -> Vec<u8>,
    score: impl Fn(usize) -> String,
) {
    /// Of each type, sent together.
    const ROW: usize = 200;
    let word = |word: &str| word.as_bytes().to_vec();
    for from in (0..elements).step_by(ROW) {
        let mut row = Vec::new();
        for n in from..from + ROW {
            let id = format!("1-{}", n + 1);
            row.push(vec![word("HSET"), word("hash"), text(n), text(n)]);
            row.push(vec![word("SADD"), word("set"), text(n)]);
            row.push(vec![word("RPUSH"), word("list"), text(n)]);
            let score = word(&score(n));
            row.push(vec![word("ZADD"), word("zset"), score, text(n)]);
            let (id, field) = (word(&id), word("f"));
            row.push(vec![word("XADD"), word("stream"), id, field, text(n)]);
        }
        for reply in client.pipeline(&row) {
            assert!(!reply.is_error(), "{reply:?}");
        }
    }
}
