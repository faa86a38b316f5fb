//! The control socket itself: where it is, and what it does with clients that are not ours.

use crate::df2redis::{Df2redis, Task};
use crate::said::{kill, said, status, status_in};
use crate::support::{RedisServer, SimulatedDragonfly, eventually};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const STATUS: &[u8] = b"{\"version\":1,\"request\":\"status\"}\n";

/// A task in stable sync, with its servers.
struct Stage {
    source: SimulatedDragonfly,
    target: RedisServer,
    task: Task,
    running: Df2redis,
}

impl Stage {
    #[track_caller]
    fn set() -> Self {
        let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
        let task = Task::between(&source.address(), &target.address());
        let running = task.start_stable();
        Self {
            source,
            target,
            task,
            running,
        }
    }

    fn socket(&self) -> PathBuf {
        announced(&self.task.dir().join("state"))
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("somebody listens");
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).expect("a timeout");
        stream
    }

    /// Replication, and other clients, have not been disturbed.
    #[track_caller]
    fn is_well(&self) {
        self.source.journal(0, ["INCR", "well"]);
        let waited = said(&mut self.task.asked("wait"));
        assert_eq!(waited.exit, 0, "{waited:?}");
        assert_eq!(status(&self.task)["running"], true);
        assert_ne!(self.target.get("well"), "");
    }
}

/// The control socket that the lock in a state directory names.
#[track_caller]
fn announced(state: &Path) -> PathBuf {
    let lock = fs::read_to_string(state.join("copy.lock")).expect("a lock file");
    PathBuf::from(lock.lines().nth(1).expect("a second line"))
}

fn sockets(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state).expect("a state directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket()))
        .collect()
}

/// What comes back until the end, which may be a reset.
fn rest(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        answer.extend_from_slice(&bytes[..n]);
    }
    String::from_utf8(answer).expect("UTF-8")
}

#[track_caller]
fn is_refused(answer: &str, why: &str) {
    let json: serde_json::Value =
        serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert_eq!(json["version"], 1);
    assert_eq!(json["answer"], "refused");
    let reason = json["reason"].as_str().expect("a reason");
    assert!(reason.contains(why), "{reason}");
}

#[test]
fn the_socket_is_private_and_gone_afterwards() {
    let stage = Stage::set();
    let state = stage.task.dir().join("state");
    let socket = stage.socket();
    assert_eq!(sockets(&state), std::slice::from_ref(&socket));
    let mode = fs::metadata(&socket).expect("a socket").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    stage.running.stop();
    assert_eq!(sockets(&state), Vec::<PathBuf>::new());
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let stage = Stage::set();
    let state = stage.task.dir().join("state");
    let left = stage.socket();
    kill(&stage.running, &stage.source);
    drop(stage.running);
    assert_eq!(sockets(&state), std::slice::from_ref(&left));
    let running = stage.task.start_stable();
    let now = announced(&state);
    assert_ne!(now, left);
    assert_eq!(sockets(&state), [now]);
    running.stop();
}

#[test]
fn a_state_directory_with_a_path_longer_than_a_socket_address_can_be() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let long = format!("{0}/{0}/{0}/{0}", "long".repeat(40));
    let task = Task::between(&source.address(), &target.address())
        .with("filter.databases = [0]")
        .with(format!("task.state_dir = {long:?}"));
    let state = task.dir().join(long);
    let running = task.start_stable();
    status_in(&task, "stable sync");
    let waited = said(&mut task.asked("wait"));
    assert_eq!(waited.exit, 0, "{waited:?}");
    assert_eq!(sockets(&state).len(), 1);
    // A second one there has to see that the first is listened to.
    let other = Task::between(&source.address(), &target.address())
        .named("other")
        .with("filter.databases = [1]")
        .with(format!(
            "task.state_dir = {:?}",
            state.display().to_string()
        ));
    let beside = other.start_stable();
    assert_eq!(sockets(&state).len(), 2);
    assert_eq!(status(&task)["running"], true);
    beside.stop();
    running.stop();
    assert_eq!(sockets(&state).len(), 0);
}

#[test]
fn a_file_in_place_of_the_socket_is_not_asked_and_not_removed() {
    let stage = Stage::set();
    let socket = stage.socket();
    fs::remove_file(&socket).expect("a socket");
    fs::write(&socket, "precious").expect("a file");
    let told = said(&mut stage.task.asked("status"));
    assert_eq!(told.exit, 4, "{told:?}");
    assert!(told.stdout.contains("nobody listens on"), "{told:?}");
    stage.running.stop();
    let left = fs::read_to_string(&socket).expect("the file is still there");
    assert_eq!(left, "precious");
}

#[test]
fn somebody_else_who_listens_there_is_not_believed() {
    let stage = Stage::set();
    let socket = stage.socket();
    fs::remove_file(&socket).expect("a socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let impostor = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        // Whether or not it is read.
        let _ = stream.write_all(b"{\"version\":1,\"answer\":\"tasks\",\"tasks\":[]}\n");
    });
    let told = said(&mut stage.task.asked("status"));
    assert_eq!(told.exit, 4, "{told:?}");
    let who = format!(
        "PID {}, and not PID {}, listens there",
        std::process::id(),
        stage.running.pid()
    );
    assert!(told.stdout.contains(&who), "{told:?}");
    impostor.join().expect("an impostor");
}

#[test]
fn a_process_that_does_not_answer_is_unknown_after_a_while() {
    let stage = Stage::set();
    stage.running.signal(Signal::SIGSTOP);
    let told = said(&mut stage.task.asked("status"));
    assert_eq!(told.exit, 4, "{told:?}");
    assert!(told.stdout.contains(" in time, "), "{told:?}");
    stage.running.signal(Signal::SIGCONT);
    stage.is_well();
}

#[test]
fn garbage_is_refused_with_a_reason() {
    let stage = Stage::set();
    for (sent, why) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "not understood"),
        (b"\n", "not understood"),
        (b"\xff\xfe\0\n", "not understood"),
        (b"{\"version\":2,\"request\":\"status\"}\n", "version 2"),
        (b"{\"version\":1,\"request\":\"halt\"}\n", "unknown variant"),
        (
            b"{\"version\":1,\"request\":\"refresh\",\"tasks\":[\"other\"]}\n",
            "task other does not run in this process",
        ),
        (
            b"{\"version\":1,\"request\":\"log-level\",\"module\":\"nonsense\"}\n",
            "there is no module nonsense",
        ),
    ] {
        let mut stream = stage.connect();
        stream.write_all(sent).expect("it is read");
        is_refused(&rest(&mut stream), why);
    }
    stage.is_well();
}

#[test]
fn half_a_line_is_refused_when_it_ends_and_dropped_when_it_does_not() {
    let stage = Stage::set();
    let mut ended = stage.connect();
    ended.write_all(&STATUS[..20]).expect("it is read");
    ended.shutdown(Shutdown::Write).expect("an end");
    is_refused(&rest(&mut ended), "has no end");
    let mut silent = stage.connect();
    silent.write_all(&STATUS[..20]).expect("it is read");
    assert_eq!(rest(&mut silent), "");
    stage.is_well();
}

#[test]
fn a_request_of_10_megabytes_is_refused_and_not_kept() {
    let stage = Stage::set();
    let before = status(&stage.task)["memory_bytes"].as_u64();
    for _ in 0..5 {
        let mut stream = stage.connect();
        // It is not taken to its end.
        let sent = stream.write_all(&vec![b'x'; 10_000_000]);
        assert!(sent.is_err());
        is_refused(&rest(&mut stream), "longer than 65536 bytes");
    }
    let after = status(&stage.task)["memory_bytes"].as_u64();
    let (before, after) = before.zip(after).expect("two numbers");
    assert!(after < before + 10_000_000, "{before} to {after}");
    stage.is_well();
}

#[test]
fn clients_that_never_read_or_never_ask_hold_up_others_for_a_while_only() {
    let stage = Stage::set();
    let mut deaf: Vec<_> = (0..100).map(|_| stage.connect()).collect();
    for (number, stream) in deaf.iter_mut().enumerate() {
        if number % 2 == 0 {
            stream.write_all(STATUS).expect("it is read");
        }
    }
    eventually("others are answered", || {
        status(&stage.task)["running"] == true
    });
    stage.is_well();
}

#[test]
fn a_hundred_clients_at_once_are_all_answered() {
    let stage = Stage::set();
    let ask = || {
        let mut stream = stage.connect();
        stream.write_all(STATUS).expect("it is read");
        let answer: serde_json::Value =
            serde_json::from_str(&rest(&mut stream)).expect("an answer");
        assert_eq!(answer["tasks"][0]["task"], "copy");
    };
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(ask);
        }
    });
    stage.is_well();
}
