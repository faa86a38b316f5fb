//! `df2redis log-level`.

use crate::df2redis::Task;
use crate::said::{said, status};
use crate::support::{RedisServer, SimulatedDragonfly, eventually};
use std::process::Command;

fn log_level(task: &Task, arguments: &[&str]) -> Command {
    let mut command = task.asked("log-level");
    command.args(arguments);
    command
}

#[test]
fn what_is_logged_changes_while_the_task_runs_and_goes_back() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    let changed = said(&mut log_level(&task, &["critical"]));
    assert_eq!(changed.exit, 0, "{changed:?}");
    assert_eq!(changed.stdout, "copy: critical\n");
    assert_eq!(status(&task)["log_levels"], "critical");
    let text = said(&mut task.asked("status")).stdout;
    assert!(text.contains("\n  levels    changed: critical\n"), "{text}");

    // Another session would be told, but for that.
    source.drop_replicas();
    eventually("another session", || {
        let seen = status(&task);
        seen["sessions"] == 2 && seen["phase"] == "stable sync"
    });
    assert_eq!(running.count_logged(", following writes"), 1);

    let one = said(&mut log_level(
        &task,
        &["info", "--module", "task::session"],
    ));
    assert_eq!(one.stdout, "copy: critical, task::session=info\n");
    source.drop_replicas();
    eventually("its line", || {
        running.count_logged(", following writes") == 2
    });
    assert_eq!(running.count_logged("session ended"), 0);

    let back = said(&mut log_level(&task, &["default"]));
    assert_eq!(back.stdout, "copy: info\n");
    assert_eq!(status(&task)["log_levels"], serde_json::Value::Null);
    source.drop_replicas();
    running.wait_logged("session ended");
}

#[test]
fn wrong_modules_and_tasks_that_do_not_run_are_told_apart() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let nobody = said(&mut log_level(&task, &["debug"]));
    assert_eq!(nobody.exit, 3, "{nobody:?}");
    assert_eq!(nobody.stderr, "df2redis: task copy: not running\n");
    let wrong = said(&mut log_level(&task, &["debug", "--module", "soruce"]));
    assert_eq!(wrong.exit, 64, "{wrong:?}");
    let expected = "df2redis: --module soruce: there is no such module; they begin with one of ";
    assert!(wrong.stderr.starts_with(expected), "{wrong:?}");
}
