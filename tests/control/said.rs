//! What a command said, and how it ended.

use crate::df2redis::{Df2redis, Task};
use crate::support::{SimulatedDragonfly, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::{Command, Stdio};

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
#[track_caller]
pub fn said(command: &mut Command) -> Said {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("df2redis starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said {
        exit: output.status.code().expect("an exit code"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Another `df2redis` than those for a task.
pub fn df2redis(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_df2redis"));
    command.args(arguments);
    command
}

/// What `status --json` says of the one task.
#[track_caller]
pub fn status(task: &Task) -> Value {
    let said = said(task.asked("status").arg("--json"));
    let mut answer: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let tasks = answer["tasks"].as_array_mut().expect("tasks");
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    tasks.remove(0)
}

/// Waits until a running process says that the task is in this phase, and answers all it says.
#[track_caller]
pub fn status_in(task: &Task, phase: &str) -> Value {
    let mut seen = Value::Null;
    eventually(phase, || {
        seen = status(task);
        seen["phase"] == phase && seen["running"] == true
    });
    seen
}

/// Kills the process, and waits until its source has noticed. What was on its way to it is lost, so its connections may
/// end in a reset, which nothing but a kill may do.
#[track_caller]
pub fn kill(running: &Df2redis, source: &SimulatedDragonfly) {
    running.signal(Signal::SIGKILL);
    eventually("the source notices", || source.replicas() == 0);
    let _ = source.take_violations();
}
