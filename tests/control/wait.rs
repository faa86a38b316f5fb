//! `df2redis wait`.

use crate::df2redis::Task;
use crate::said::{kill, said, status_in};
use crate::support::dragonfly::Fault;
use crate::support::{Dataset, RedisServer, SimulatedDragonfly};
use nix::sys::signal::Signal;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn wait(task: &Task, more: &[&str]) -> Command {
    let mut command = task.asked("wait");
    command.args(more);
    command
}

#[test]
fn under_writes_everything_from_before_is_there_and_writers_need_not_stop() {
    let (source, target) = (
        SimulatedDragonfly::options().flows(3).start(),
        RedisServer::start(),
    );
    let task = Task::between(&source.address(), &target.address());
    let _running = task.start_stable();
    let (written, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                source.journal(0, ["SET", "n", &n.to_string()]);
                written.store(n, Ordering::Release);
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                // Else a busy machine gets further and further behind.
                thread::sleep(Duration::from_micros(100));
            }
        });
        for _ in 0..5 {
            let before = written.load(Ordering::Acquire);
            let waited = said(&mut wait(&task, &["--lag", "0"]));
            let there: u64 = target.get("n").parse().unwrap_or(0);
            let goes_on = written.load(Ordering::Acquire) > before;
            if waited.exit != 0 || there < before || !goes_on {
                is_over.store(true, Ordering::Release);
                panic!("{there} of {before}, {goes_on}: {waited:?}");
            }
            assert_eq!(waited.stdout, "task copy: caught up\n");
        }
        is_over.store(true, Ordering::Release);
    });
    let waited = said(&mut wait(&task, &[]));
    assert_eq!(waited.exit, 0, "{waited:?}");
    assert_eq!(target.get("n"), written.into_inner().to_string());
}

#[test]
fn lag_counts_entries_of_the_flow_and_the_time_over_says_how_many_are_missing() {
    let source = SimulatedDragonfly::options().backing_store().start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let before = said(&mut wait(&task, &[]));
    assert_eq!(before.exit, 0, "{before:?}");
    target.client().ok(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    for _ in 0..10 {
        source.client().ok(&["INCR", "n"]);
    }
    let near = said(&mut wait(&task, &["--lag", "10"]));
    assert_eq!(near.exit, 0, "{near:?}");
    let far = said(&mut wait(&task, &["--lag", "9", "--timeout", "3s"]));
    assert_eq!(far.exit, 75, "{far:?}");
    let flow = source.flow_of("n");
    let next = source.next_lsn(flow);
    let expected = format!(
        "df2redis: not caught up within 3s\n\
         df2redis: task copy: 1 of 2 flows are not there yet; flow {flow} has applied {} and goes to {next}, 10 short\n",
        next - 10
    );
    assert_eq!(far.stderr, expected);
    target.client().ok(&["CLIENT", "UNPAUSE"]);
    let there = said(&mut wait(&task, &[]));
    assert_eq!(there.exit, 0, "{there:?}");
    assert_eq!(target.get("n"), "10");
    running.stop();
}

#[test]
fn during_the_snapshot_it_waits_and_after_it_returns() {
    let source = SimulatedDragonfly::options()
        .dataset(Dataset::strings(200, 50))
        .start();
    let target = RedisServer::start();
    source.inject(Fault::StallFlow {
        flow: 0,
        after: 2_000,
    });
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start();
    status_in(&task, "snapshot");
    let short = said(&mut wait(
        &task,
        &["--lag", "999999", "--timeout", "1500ms"],
    ));
    assert_eq!(short.exit, 75, "{short:?}");
    assert!(short.stderr.contains("task copy: snapshot, "), "{short:?}");
    let mut waiting = wait(&task, &[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("df2redis starts");
    // The next session is another one.
    source.clear_faults();
    source.drop_replicas();
    running.wait_stable();
    assert_eq!(waiting.wait().expect("its end").code(), Some(0));
    assert_eq!(status_in(&task, "stable sync")["keys"], 200);
}

#[test]
fn a_task_that_does_not_run_or_ends_meanwhile_is_not_waited_for() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let nobody = said(&mut wait(&task, &[]));
    assert_eq!(nobody.exit, 3);
    assert_eq!(nobody.stderr, "df2redis: task copy: not running\n");

    let running = task.start_stable();
    target.client().ok(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    source.journal(0, ["INCR", "n"]);
    let waiting = wait(&task, &["--timeout", "100s"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("df2redis starts");
    kill(&running, &source);
    let ended = waiting.wait_with_output().expect("its end");
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
}

#[test]
fn a_process_that_hangs_is_waited_for_as_long_as_was_said() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    running.signal(Signal::SIGSTOP);
    let began = Instant::now();
    let over = said(&mut wait(&task, &["--timeout", "1s"]));
    let took = began.elapsed();
    running.signal(Signal::SIGCONT);
    assert_eq!(over.exit, 75, "{over:?}");
    assert!(
        over.stderr.contains("no answer from the control socket"),
        "{over:?}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
    let there = said(&mut wait(&task, &[]));
    assert_eq!(there.exit, 0, "{there:?}");
}
