//! `df2redis status` in every phase, with and without a process.

use crate::df2redis::Task;
use crate::said::{df2redis, kill, said, status, status_in};
use crate::support::dragonfly::Fault;
use crate::support::{Dataset, RedisServer, SimulatedDragonfly, eventually};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

#[test]
fn a_task_is_shown_in_every_phase_of_its_life() {
    let source = SimulatedDragonfly::options()
        .dataset(Dataset::strings(200, 50))
        .start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());

    let never = said(&mut task.asked("status"));
    assert_eq!(never.exit, 3, "{never:?}");
    let first = never.stdout.lines().next();
    let expected = "copy: not running, and no state was left behind";
    assert_eq!(first, Some(expected), "{never:?}");

    source.inject(Fault::NoAnswer {
        command: "REPLCONF CAPA",
    });
    source.inject(Fault::StallFlow {
        flow: 1,
        after: 2_000,
    });
    let mut running = task.start();
    // A process is connecting before its first session is, too.
    eventually("the first session", || {
        let connecting = status_in(&task, "connecting");
        assert_eq!(connecting["pid"], running.pid().as_raw());
        connecting["sessions"] == 1
    });

    // It gives up waiting for that answer, and tries again.
    let snapshot = status_in(&task, "snapshot");
    eventually("keys of the other flow", || {
        status(&task)["flows"][0]["snapshot_ended"] == true
    });
    assert_eq!(snapshot["expected_keys"], 200);
    let text = said(&mut task.asked("status"));
    assert_eq!(text.exit, 0);
    assert!(text.stdout.contains(" of 200 keys, "), "{text:?}");
    assert!(text.stdout.contains("     0  copied "), "{text:?}");
    assert!(text.stdout.contains("     1  snapshot "), "{text:?}");

    source.clear_faults();
    source.drop_replicas();
    running.wait_stable();
    source.journal(0, ["SET", "more", "v"]);
    eventually("the entry is applied", || status(&task)["applied"] == 1);
    let stable = status_in(&task, "stable sync");
    assert_eq!(stable["keys"], 200);
    assert_eq!(stable["log_levels"], serde_json::Value::Null);
    let text = said(&mut task.asked("status"));
    let source_line = format!("  source    {} (", source.address());
    let target_line = format!("  target    {} (", target.address());
    for part in [
        "copy: stable sync for ",
        &format!("PID {}\n", running.pid()),
        &source_line,
        &target_line,
        "  applied   1 entries\n",
        "  error     ",
        &format!("  log       {}\n", task.log_path().display()),
        "  flow  state ",
        "     1  stable ",
    ] {
        assert!(text.stdout.contains(part), "{part:?} in {}", text.stdout);
    }

    target.client().ok(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    source.journal(0, ["SET", "held", "v"]);
    eventually("the entry is read", || {
        status(&task)["flows"]
            .as_array()
            .is_some_and(|flows| flows.iter().any(|flow| flow["lag_entries"] == 1))
    });
    running.signal(Signal::SIGTERM);
    status_in(&task, "stopping");
    target.client().ok(&["CLIENT", "UNPAUSE"]);
    assert_eq!(running.exit_code(), 0);
    let stopped = said(&mut task.asked("status"));
    assert_eq!(stopped.exit, 3);
    assert!(
        stopped.stdout.starts_with("copy: not running, stopped "),
        "{stopped:?}"
    );
}

#[test]
fn a_task_that_waits_or_has_failed_says_why() {
    let target = RedisServer::start();
    let mut source = SimulatedDragonfly::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    source.stop();
    let waiting = {
        let mut seen = serde_json::Value::Null;
        eventually("the loss is told", || {
            seen = status(&task);
            seen["last_error"].is_object() && seen["phase"] != "stable sync"
        });
        seen
    };
    let text = waiting["last_error"]["text"].as_str().expect("a text");
    assert!(text.contains(&source.address()), "{text}");
    running.signal(Signal::SIGKILL);

    let secret = RedisServer::start_with(&["--requirepass", "x"]);
    let source = SimulatedDragonfly::start();
    let task = Task::between(&source.address(), &secret.address());
    running = task.start();
    assert_eq!(running.exit_code(), 77);
    let said = said(&mut task.asked("status"));
    assert_eq!(said.exit, 3);
    let text = said.stdout;
    assert!(text.starts_with("copy: not running, failed "), "{text}");
    assert!(text.contains("\n  error "), "{text}");
    assert!(text.contains("\n  hint "), "{text}");
}

#[test]
fn a_killed_process_is_dead_and_was_last_seen() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let saved = task.dir().join("state/copy.status.json");
    eventually("the state is saved", || {
        fs::read_to_string(&saved).is_ok_and(|text| text.contains("stable sync"))
    });
    kill(&running, &source);
    let mut text = said(&mut task.asked("status"));
    eventually("it is gone", || {
        text = said(&mut task.asked("status"));
        text.exit == 3
    });
    let expected = "copy: dead, it ended without saying so, last seen in phase \"stable sync\" ";
    assert!(text.stdout.starts_with(expected), "{text:?}");
    assert!(!text.stdout.contains("\n  rate "), "{text:?}");
    let json = status(&task);
    assert_eq!(json["running"], false);
    assert_eq!(json["note"], "dead, it ended without saying so");
    assert_eq!(json["phase"], "stable sync");

    fs::write(&saved, "{\"task\": ").expect("a damaged file");
    let damaged = said(&mut task.asked("status"));
    assert_eq!(damaged.exit, 3);
    assert!(
        damaged.stdout.contains("cannot be read: EOF"),
        "{damaged:?}"
    );
}

#[test]
fn json_holds_the_report_of_each_task_wherever_it_runs() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = |name, db| {
        Task::between(&source.address(), &target.address())
            .named(name)
            .with(format!(
                "filter.databases = [{db}]\ntarget.exclusive = false"
            ))
    };
    let (orders, users) = (task("orders", 0), task("users", 1));
    let (first, second) = (orders.start_stable(), users.start_stable());
    let both = || {
        let mut command = orders.asked("status");
        command.arg("--config").arg(users.dir().join("users.toml"));
        command.arg("--json");
        said(&mut command)
    };
    let said = both();
    assert_eq!(said.exit, 0, "{said:?}");
    assert_eq!(said.stdout.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    for (number, (name, running)) in [("orders", &first), ("users", &second)]
        .into_iter()
        .enumerate()
    {
        let told = &json["tasks"][number];
        assert_eq!(told["task"], name);
        assert_eq!(told["pid"], running.pid().as_raw());
        assert_eq!(told["running"], true);
        assert_eq!(told["phase"], "stable sync");
        assert_eq!(told["flows"].as_array().map(Vec::len), Some(2));
        for field in [
            "at_ms",
            "lag",
            "rates",
            "memory_bytes",
            "offsets_read",
            "file",
        ] {
            assert!(told.get(field).is_some(), "{field}: {told}");
        }
    }
    // The worse of the two is the answer.
    second.stop();
    let said = both();
    assert_eq!(said.exit, 3, "{said:?}");
    let json: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(json["tasks"][0]["running"], true);
    assert_eq!(json["tasks"][1]["running"], false);
    assert_eq!(json["tasks"][1]["phase"], "stopped");
}

#[test]
fn a_pid_file_finds_its_holder_and_tells_how_it_ended() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let pid_file = task.dir().join("pid");
    let pid_file = pid_file.to_str().expect("UTF-8");
    let status = || said(&mut df2redis(&["status", "--pidfile", pid_file]));
    assert_eq!(status().exit, 3);
    let mut running = task.start_with(&["--pidfile", pid_file]);
    running.wait_stable();
    let text = status();
    assert_eq!(text.exit, 0, "{text:?}");
    assert!(
        text.stdout.starts_with("copy: stable sync for "),
        "{text:?}"
    );
    kill(&running, &source);
    let mut text = status();
    eventually("it is dead", || {
        text = status();
        text.exit != 4
    });
    assert_eq!(text.exit, 1, "{text:?}");
    let pid = running.pid();
    let expected =
        format!("the process of {pid_file}: dead, and PID {pid} has left its PID file behind\n");
    assert_eq!(text.stdout, expected);
    let json = said(&mut df2redis(&["status", "--json", "--pidfile", pid_file]));
    assert_eq!(json.exit, 1);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["tasks"], serde_json::json!([]));
    let note = expected.trim_end();
    assert_eq!(json["notes"], serde_json::json!([note]));
    fs::write(pid_file, "no number").expect("a foreign file");
    assert_eq!(status().exit, 4);
    // What a process leaves that ended in order, but was not allowed to remove it.
    fs::write(pid_file, "").expect("an empty file");
    assert_eq!(status().exit, 3);
}

#[test]
fn what_cannot_be_told_is_4() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let state = task.dir().join("state");
    fs::create_dir(&state).expect("a directory");
    std::os::unix::fs::symlink("/dev/null", state.join("copy.lock")).expect("a link");
    let said = said(&mut task.asked("status"));
    assert_eq!(said.exit, 4, "{said:?}");
    assert!(said.stdout.contains("is not a regular file"), "{said:?}");
    let json = status(&task);
    assert_eq!(json["running"], serde_json::Value::Null);
    assert!(json.get("phase").is_none(), "{json}");
}

#[test]
fn a_path_that_json_cannot_hold_is_shown_nearly_right() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let dir = task.dir().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&dir).expect("a directory");
    let file = task.write_to(&dir);
    let command = |name| {
        let mut command = df2redis(&[name]);
        command.arg("--config").arg(&file);
        command
    };
    let spawned = command("replicate").stderr(Stdio::null()).spawn();
    let mut running = spawned.expect("df2redis starts");
    let mut told = said(&mut command("status"));
    eventually("it is asked", || {
        told = said(&mut command("status"));
        told.exit != 3
    });
    let pid = nix::unistd::Pid::from_raw(running.id().try_into().expect("a process id"));
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("a process");
    running.wait().expect("its end");
    assert_eq!(told.exit, 0, "{told:?}");
    assert!(told.stdout.contains("/caf\u{fffd}/log/copy_"), "{told:?}");
    let past = said(command("status").arg("--json"));
    assert_eq!(past.exit, 3, "{past:?}");
    assert!(past.stdout.contains("/caf\u{fffd}/log/copy_"), "{past:?}");
}
