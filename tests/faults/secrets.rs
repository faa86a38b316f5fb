//! Passwords are nowhere to be seen, whatever happens.

use std::fs;
use std::path::Path;

use crate::program::{Task, filled};
use crate::support::{RedisServer, SimulatedDragonfly};

const SOURCE: &str = "hunter2-of-the-source";
const TARGET: &str = "hunter2-of-the-target";

/// Every file below a directory but the task file, which holds what it was given.
fn files(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() && !path.ends_with("copy.toml") && !path.ends_with("password") {
            let content = fs::read(&path).expect("a file");
            found.push((
                path.display().to_string(),
                String::from_utf8_lossy(&content).into_owned(),
            ));
        }
    }
    found
}

#[track_caller]
fn is_secret(dir: &Path) {
    let files = files(dir);
    assert!(
        files.iter().any(|(name, _)| name.ends_with(".log")),
        "{files:?}"
    );
    for (name, content) in files {
        assert!(!content.contains("hunter2"), "{name}: {content}");
    }
}

#[test]
fn passwords_that_work_appear_nowhere() {
    let source = filled(SimulatedDragonfly::options().user("copier", SOURCE, None));
    let target = RedisServer::start_with(&["--requirepass", TARGET]);
    let task = Task::between(&source, &target).tables("[log]\nlevel = \"trace\"");
    let file = task.dir().join("password");
    fs::write(&file, TARGET).expect("a password file");
    let mut running = task
        .source("username = \"copier\"\npassword_env = \"SOURCE_PASSWORD\"")
        .environment("SOURCE_PASSWORD", SOURCE)
        .target(&format!("password_file = \"{}\"", file.display()))
        .start();
    running.follows(1);
    source.drop_replicas();
    running.follows(2);
    let command_line =
        fs::read(format!("/proc/{}/cmdline", running.pid())).expect("a command line");
    assert!(!String::from_utf8_lossy(&command_line).contains("hunter2"));
    is_secret(running.dir());
    running.stops();
}

#[test]
fn passwords_that_are_refused_appear_nowhere() {
    let open = SimulatedDragonfly::start();
    let closed = SimulatedDragonfly::options()
        .require_password("other")
        .start();
    let target = RedisServer::start_with(&["--requirepass", TARGET]);
    for (source, sent) in [(&closed, TARGET), (&open, "hunter2-but-wrong")] {
        let task = Task::between(source, &target).tables("[log]\nlevel = \"trace\"");
        let task = task.source(&format!("password = \"{SOURCE}\""));
        let mut running = task.target(&format!("password = \"{sent}\"")).start();
        crate::support::eventually("it ends", || running.has_ended());
        is_secret(running.dir());
        assert_eq!(running.ended().code, Some(77));
    }
}
