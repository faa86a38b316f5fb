//! `df2redis status --watch`.

use crate::df2redis::Task;
use crate::said::kill;
use crate::support::{RedisServer, SimulatedDragonfly, within};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A watching command, killed if the test forgets it.
struct Watching(Child);

impl Watching {
    #[track_caller]
    fn ends(&mut self) -> i32 {
        let mut status = None;
        let ended = within(Duration::from_secs(20), || {
            status = self.0.try_wait().expect("its state");
            status.is_some()
        });
        assert!(ended, "it goes on although nobody reads");
        status
            .and_then(|status| status.code())
            .expect("an exit code")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn watching_survives_the_process_and_ends_with_its_reader() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut command = task.asked("status");
    let spawned = command.arg("--watch").stdout(Stdio::piped()).spawn();
    let mut watching = Watching(spawned.expect("df2redis starts"));
    let mut lines = BufReader::new(watching.0.stdout.take().expect("a pipe")).lines();
    let mut until = |start: &str| {
        let mut before = String::new();
        loop {
            let line = lines.next().expect("it goes on").expect("UTF-8");
            if line.starts_with(start) {
                return before;
            }
            before = line;
        }
    };
    until("copy: stable sync for ");
    // One text after the other, with an empty line between.
    assert_eq!(until("copy: stable sync for "), "");
    kill(&running, &source);
    until("copy: dead, it ended without saying so, last seen in phase ");
    drop(running);
    let _running = task.start_stable();
    until("copy: stable sync for ");
    drop(lines);
    assert_eq!(watching.ends(), 0);
}

#[test]
fn json_is_watched_line_by_line() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let _running = task.start_stable();
    let mut command = task.asked("status");
    let spawned = command
        .args(["--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn();
    let mut watching = Watching(spawned.expect("df2redis starts"));
    let lines = BufReader::new(watching.0.stdout.take().expect("a pipe")).lines();
    let mut last = 0;
    for line in lines.take(3) {
        let json: serde_json::Value = serde_json::from_str(&line.expect("UTF-8")).expect("JSON");
        let at = json["tasks"][0]["at_ms"].as_i64().expect("a time");
        assert!(at > last, "{json}");
        last = at;
    }
}

#[test]
fn a_terminal_is_drawn_over_and_ends_the_watch_when_it_hangs_up() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let _running = task.start_stable();
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    // Only here: else the command would hold its own terminal open.
    fcntl(&terminal.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a descriptor");
    let mut command = task.asked("status");
    let spawned = command
        .arg("--watch")
        .env("TERM", "xterm")
        .stdout(Stdio::from(terminal.slave))
        .spawn();
    drop(command);
    let mut watching = Watching(spawned.expect("df2redis starts"));
    let mut screen = File::from(terminal.master);
    let mut shown = String::new();
    let mut bytes = [0; 4096];
    while shown.matches("\x1b[Hcopy: stable sync for ").count() < 2 {
        let n = screen.read(&mut bytes).expect("it is drawn");
        shown.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    drop(screen);
    assert_eq!(watching.ends(), 0);
}
