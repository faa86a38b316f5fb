//! Files that cannot be read or written.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

use crate::program::{Task, source};
use crate::support::{RedisServer, SimulatedDragonfly, eventually};

fn replicate(file: &std::path::Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_df2redis"));
    command.args(["replicate", "--config"]).arg(file);
    command
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

#[test]
fn a_task_file_that_cannot_be_used_ends_with_78_and_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let least = "[source]\naddress = \"a:1\"\n[target]\naddress = \"b:1\"\n";
    let cases = [
        (
            "empty.toml",
            String::new(),
            ": is empty, expected at least [source] and [target]",
        ),
        ("prose.toml", "copy it all\n".to_owned(), ":1:"),
        (
            "type.toml",
            format!("{least}[limits]\nmemory = true\n"),
            ":6:10: limits.memory: ",
        ),
        (
            "unknown.toml",
            format!("{least}[limits]\nmemroy = \"64MiB\"\n"),
            ":6:1: limits.memroy: unknown key, did you mean \"memory\"?",
        ),
        (
            "missing.toml",
            "[source]\naddress = \"a:1\"\n".to_owned(),
            "target",
        ),
    ];
    for (name, content, why) in &cases {
        let path = dir.path().join(name);
        fs::write(&path, content).expect("a task file");
        let output = replicate(&path);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        let start = format!("df2redis: {}", path.display());
        assert!(
            said.starts_with(&start) && said.contains(why),
            "{name}: {said}"
        );
    }
    // A directory is all of them.
    let output = replicate(dir.path());
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    for (name, _, why) in cases {
        let start = format!("df2redis: {}", dir.path().join(name).display());
        let has = |line: &str| line.starts_with(&start) && line.contains(why);
        assert!(said.lines().any(has), "{name}: {said}");
    }
    // Nothing was created beside them.
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 5);
}

#[test]
fn a_state_directory_that_cannot_be_used_ends_with_73_and_is_named() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    for dir in ["/proc/nowhere", "/dev/null/state"] {
        let task = Task::between(&source, &target);
        let ended = task.tables(&format!("[task]\nstate_dir = \"{dir}\"")).run();
        assert!(matches!(ended.code, Some(73 | 78)), "{}", ended.stderr);
        assert!(ended.stderr.contains(dir), "{}", ended.stderr);
        assert_eq!(ended.log, "", "it had not begun");
    }
}

#[test]
fn a_dead_letter_file_that_cannot_be_written_ends_with_74_and_is_named() {
    let mut dataset = crate::support::Dataset::new();
    dataset.string("s", "text");
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let target = RedisServer::start();
    let task = || Task::between(&source, &target).policy("on_error = \"skip\"");
    // It cannot be opened.
    let blocked = task();
    let file = blocked.dir().join("state/copy.dead-letter.jsonl");
    fs::create_dir_all(&file).expect("a directory in its place");
    let hint = "check space and permissions of the state directory";
    let file = file.display().to_string();
    blocked.run().with(74, &[&file, "Is a directory", hint]);
    // The disk is full.
    let full = task();
    fs::create_dir(full.dir().join("state")).expect("a state directory");
    let file = full.dir().join("state/copy.dead-letter.jsonl");
    symlink("/dev/full", &file).expect("a file on a full disk");
    let mut running = full.start();
    running.follows(1);
    source.journal(0, ["LPUSH", "s", "x"]);
    let file = file.display().to_string();
    running
        .ended()
        .with(74, &[&file, "No space left on device", hint]);
}

#[test]
fn a_full_disk_for_the_log_does_not_end_the_task() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source, &target);
    fs::create_dir(task.dir().join("log")).expect("a log directory");
    symlink("/dev/full", task.dir().join("log/copy_replicate.log")).expect("a file on a full disk");
    let mut running = task.start();
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn a_state_directory_that_vanishes_ends_with_74_when_a_large_value_needs_it() {
    let (source, target) = (source(), RedisServer::start());
    let mut running = Task::between(&source, &target)
        .tables("[limits]\nmemory = \"16MiB\"")
        .start();
    running.follows(1);
    fs::remove_dir_all(running.state()).expect("a state directory to remove");
    source.client().ok(&["SET", "large", &"x".repeat(16 << 20)]);
    let ended = running.ended();
    ended.with(
        74,
        &[
            "cannot write a large value of flow ",
            "No such file or directory",
            "state directory",
        ],
    );
}

#[test]
fn a_large_value_takes_disk_and_not_memory() {
    let (source, target) = (source(), RedisServer::start());
    let mut running = Task::between(&source, &target)
        .tables("[limits]\nmemory = \"16MiB\"")
        .start();
    running.follows(1);
    let size = 160 << 20;
    source.client().ok(&["SET", "large", &"x".repeat(size)]);
    eventually("it has arrived", || {
        target.client().ok(&["STRLEN", "large"]).int() == i64::try_from(size).ok()
    });
    running.is_modest();
    eventually(
        "only lock, last status, last full sync, control socket and spool are left of it",
        || fs::read_dir(running.state()).is_ok_and(|dir| dir.count() == 5),
    );
    running.stops();
}
