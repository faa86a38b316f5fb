//! What an operator does about entries that the target refused, and about what a task leaves on a target.

use std::process::Output;

use crate::df2redis::{Df2redis, Task};
use crate::support::{Client, RedisServer, SimulatedDragonfly, compare::compare_clients};

/// The target's password, which nothing may say.
const SECRET: &str = "correct-horse";

/// What a command said, and its exit code.
struct Asked {
    code: Option<i32>,
    text: String,
    messages: String,
}

impl Asked {
    #[track_caller]
    fn assert_done(&self, words: &[&str]) {
        assert_eq!(self.code, Some(0), "{}{}", self.text, self.messages);
        for words in words {
            assert!(self.text.contains(words), "no {words} in {}", self.text);
        }
    }
}

/// A task between a source that clients can write to and a target with a password.
struct Pair {
    source: SimulatedDragonfly,
    target: RedisServer,
    task: Task,
}

impl Pair {
    fn new() -> Self {
        let source = SimulatedDragonfly::options()
            .flows(1)
            .backing_store()
            .start();
        let target = RedisServer::start_with(&["--requirepass", SECRET]);
        let task = Task::between(&source.address(), &target.address())
            .with(format!("target.password = {SECRET:?}"));
        source.client().ok(&["RPUSH", "list", "first"]);
        Self {
            source,
            target,
            task,
        }
    }

    /// A task with the default policy that has met an entry which the target refuses, and ended for it.
    #[track_caller]
    fn stopped_by_an_entry() -> Self {
        let pair = Self::new();
        let mut running = pair.task.start_stable();
        pair.on_target(&["SET", "list", "x"]);
        let mut client = pair.source.client();
        client.ok(&["LPUSH", "list", "second"]);
        client.ok(&["INCR", "count"]);
        assert_eq!(running.exit_code(), 65, "{}", running.messages());
        drop(running);
        pair.assert_start_is_refused();
        pair
    }

    fn client_of_target(&self) -> Client {
        let mut client = self.target.client();
        client.ok(&["AUTH", SECRET]);
        client
    }

    #[track_caller]
    fn on_target(&self, words: &[&str]) -> String {
        self.client_of_target().ok(words).text()
    }

    /// Gives a command for the task.
    #[track_caller]
    fn ask(&self, command: &str, arguments: &[&str]) -> Asked {
        let output = self.task.asked(command).args(arguments).output();
        let Output {
            status,
            stdout,
            stderr,
        } = output.expect("df2redis starts");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let (text, messages) = (text(stdout), text(stderr));
        assert!(!text.contains(SECRET) && !messages.contains(SECRET));
        Asked {
            code: status.code(),
            text,
            messages,
        }
    }

    /// A start ends at once, and names the ways out.
    #[track_caller]
    fn assert_start_is_refused(&self) {
        let mut refused = self.task.start();
        assert_eq!(refused.exit_code(), 65);
        let said = refused.messages();
        for words in [
            "LPUSH of key \"list\" in database 0",
            "df2redis retry --config",
            "df2redis skip --config",
            "copy.toml",
        ] {
            assert!(said.contains(words), "no {words} in {said}");
        }
    }

    /// It goes on where it was, and the target comes to hold what the source does.
    #[track_caller]
    fn assert_resumes_and_ends_equal(&self) {
        let mut running = self.task.start();
        running.wait_logged("resuming where the target is");
        running.wait_stable();
        self.source.client().ok(&["INCR", "count"]);
        self.assert_equal();
        assert_eq!(self.source.full_syncs(), 1);
        running.stop();
    }

    #[track_caller]
    fn assert_equal(&self) {
        self.source.wait_acked();
        let mut oracle = Client::connect(self.source.oracle());
        let differences = compare_clients(&mut oracle, &mut self.client_of_target());
        assert_eq!(differences, Vec::<String>::new());
    }
}

/// The entries of a list, which are the lines but the last, by their ids.
fn ids(list: &str) -> Vec<&str> {
    let mut lines: Vec<_> = list.lines().collect();
    lines.pop();
    let ids = lines.iter().map(|line| line.split(' ').next());
    ids.map(|id| id.expect("a first word")).collect()
}

#[test]
fn an_entry_is_repeated_once_its_cause_is_repaired_and_the_task_goes_on() {
    let pair = Pair::stopped_by_an_entry();
    let again = pair.ask("retry", &[]);
    assert_eq!(again.code, Some(65), "{}", again.messages);
    let said = "LPUSH of key \"list\" in database 0: refused again: WRONGTYPE";
    assert!(again.text.contains(said), "{}", again.text);
    assert!(
        again.text.ends_with("0 applied, 1 left\n"),
        "{}",
        again.text
    );
    pair.assert_start_is_refused();
    pair.on_target(&["DEL", "list"]);
    pair.on_target(&["RPUSH", "list", "first"]);
    let said = "LPUSH of key \"list\" in database 0: applied\n";
    let done = "task copy: 1 applied, none left\n";
    pair.ask("retry", &[]).assert_done(&[said, done]);
    assert_eq!(pair.on_target(&["LINDEX", "list", "0"]), "second");
    // Once it is settled, it is not done again.
    pair.ask("retry", &[]).assert_done(&["nothing is recorded"]);
    pair.assert_resumes_and_ends_equal();
}

#[test]
fn an_entry_that_is_given_up_is_left_out_and_the_task_goes_on() {
    let pair = Pair::stopped_by_an_entry();
    let listed = pair.ask("skip", &[]);
    listed.assert_done(&["LPUSH of key \"list\"", "WRONGTYPE", "1 not settled"]);
    pair.assert_start_is_refused();
    let given_up = pair.ask("skip", &["--all"]);
    given_up.assert_done(&["LPUSH of key \"list\" in database 0: given up", "0 left"]);
    pair.ask("skip", &["--all"])
        .assert_done(&["nothing is recorded"]);
    // Put right by hand.
    pair.on_target(&["DEL", "list"]);
    pair.on_target(&["RPUSH", "list", "second", "first"]);
    pair.assert_resumes_and_ends_equal();
}

#[test]
fn of_several_entries_those_that_are_named_are_given_up() {
    let mut pair = Pair::new();
    pair.task = pair.task.with("policy.on_error = \"skip\"");
    let running = pair.task.start_stable();
    pair.on_target(&["SET", "list", "x"]);
    for word in ["a", "b", "c"] {
        pair.source.client().ok(&["LPUSH", "list", word]);
    }
    pair.source.wait_acked();
    running.stop();
    let listed = pair.ask("skip", &[]);
    let ids = ids(&listed.text);
    assert_eq!(ids.len(), 3, "{}", listed.text);
    let unknown = pair.ask("skip", &[ids[1], "9:9:9"]);
    assert_eq!(unknown.code, Some(64));
    assert!(unknown.messages.contains("9:9:9"), "{}", unknown.messages);
    assert_eq!(pair.ask("skip", &[]).text, listed.text);
    let named = pair.ask("skip", &[ids[1]]);
    named.assert_done(&[ids[1], "1 given up, 2 left"]);
    pair.on_target(&["DEL", "list"]);
    pair.ask("retry", &[])
        .assert_done(&["2 applied, none left"]);
    assert_eq!(pair.on_target(&["LINDEX", "list", "0"]), "c");
    assert_eq!(pair.on_target(&["LINDEX", "list", "1"]), "a");
    assert_eq!(pair.on_target(&["LLEN", "list"]), "2");
}

#[test]
fn what_a_task_keeps_on_the_target_is_removed_when_that_is_confirmed() {
    let pair = Pair::new();
    pair.task.start_stable().stop();
    pair.on_target(&["SET", "df2redis:position:copy2", "of another task"]);
    let keys = ["df2redis:position:copy", "df2redis:fence:copy"];
    let exist = |wanted: &str| {
        for key in keys {
            assert_eq!(pair.on_target(&["EXISTS", key]), wanted, "{key}");
        }
    };
    let listed = pair.ask("forget", &[]);
    listed.assert_done(&[keys[0], keys[1], "nothing was removed", "--yes"]);
    assert!(!listed.text.contains("copy2"), "{}", listed.text);
    exist("1");
    let removed = pair.ask("forget", &["--yes"]);
    removed.assert_done(&["removed df2redis:position:copy in database 0"]);
    exist("0");
    assert_eq!(pair.on_target(&["LINDEX", "list", "0"]), "first");
    assert_eq!(pair.on_target(&["EXISTS", "df2redis:position:copy2"]), "1");
    pair.ask("forget", &["--yes"])
        .assert_done(&["has nothing of it"]);
    pair.on_target(&["DEL", "df2redis:position:copy2"]);

    let mut running = pair.task.start();
    let line = running.wait_logged("full sync needed");
    assert!(line.contains("nothing was copied before"), "{line}");
    running.wait_stable();
    pair.assert_equal();
    running.stop();
}

#[track_caller]
fn assert_refused_by(pair: &Pair, running: &Df2redis, command: &str, arguments: &[&str]) {
    let refused = pair.ask(command, arguments);
    assert_eq!(refused.code, Some(73), "{command}: {}", refused.text);
    let pid = format!("task copy is already running, PID {}", running.pid());
    assert!(refused.messages.contains(&pid), "{}", refused.messages);
}

#[test]
fn while_the_task_runs_nothing_of_it_is_settled_or_removed() {
    let pair = Pair::new();
    let running = pair.task.start_stable();
    for (command, arguments) in [
        ("retry", [].as_slice()),
        ("skip", &[]),
        ("skip", &["--all"]),
        ("forget", &[]),
        ("forget", &["--yes"]),
    ] {
        assert_refused_by(&pair, &running, command, arguments);
    }
    pair.source.client().ok(&["LPUSH", "list", "second"]);
    pair.assert_equal();
    assert_eq!(running.count_logged("session ended"), 0);
    running.stop();
}

#[test]
fn reading_keeps_nobody_out() {
    let pair = Pair::new();
    let running = pair.task.start_stable();
    // As on another host, whose locks are not ours.
    let elsewhere = Pair {
        task: Task::between(&pair.source.address(), &pair.target.address())
            .with(format!("target.password = {SECRET:?}")),
        ..pair
    };
    elsewhere
        .ask("retry", &[])
        .assert_done(&["nothing is recorded"]);
    elsewhere
        .ask("skip", &["--all"])
        .assert_done(&["nothing is recorded"]);
    elsewhere
        .ask("forget", &[])
        .assert_done(&["nothing was removed"]);
    elsewhere.source.client().ok(&["LPUSH", "list", "second"]);
    elsewhere.assert_equal();
    assert_eq!(running.count_logged("session ended"), 0);
    running.stop();
}

#[test]
fn what_keeps_the_target_from_being_asked_is_said_with_its_exit_code() {
    let mut pair = Pair::new();
    for command in ["retry", "skip", "forget"] {
        pair.task = Task::between(&pair.source.address(), &pair.target.address())
            .with("target.password = \"wrong-horse\"");
        let refused = pair.ask(command, &[]);
        assert_eq!(refused.code, Some(77), "{command}: {}", refused.messages);
        let said = refused.messages;
        assert!(said.contains("hint: check target.username"), "{said}");
        assert!(!said.contains("wrong-horse"), "{said}");
        pair.task = Task::between(&pair.source.address(), "127.0.0.1:1");
        let unreachable = pair.ask(command, &[]);
        assert_eq!(unreachable.code, Some(69), "{}", unreachable.messages);
    }
}

#[test]
fn one_of_several_tasks_has_to_be_picked() {
    let pair = Pair::new();
    let directory = tempfile::tempdir().expect("a directory for task files");
    for name in ["orders", "users"] {
        let task = Task::between(&pair.source.address(), &pair.target.address());
        let task = task
            .named(name)
            .with(format!("target.password = {SECRET:?}"));
        let task = task.with(format!(
            "task.state_dir = {:?}",
            pair.task.dir().join("state")
        ));
        task.write_to(directory.path());
    }
    let path = directory.path().to_str().expect("a plain path");
    let ask = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_df2redis"));
        let output = command.args(["retry", "--config", path]).args(arguments);
        output.output().expect("df2redis starts")
    };
    let refused = ask(&[]);
    assert_eq!(refused.status.code(), Some(64));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("orders, users: pick one with --task-name"),
        "{said}"
    );
    let picked = ask(&["--task-name", "users"]);
    assert_eq!(picked.status.code(), Some(0));
    let said = String::from_utf8_lossy(&picked.stdout).into_owned();
    assert_eq!(said, "task users: nothing is recorded\n");
}
