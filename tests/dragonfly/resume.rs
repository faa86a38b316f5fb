//! Resuming: after restarts, kills and lost connections, what is not safe to repeat has taken effect once.
//!
//! Each test says which way was taken: a full sync would end in the same state, and prove nothing.

use crate::df2redis::Task;
use crate::scenarios::{kills_lose_and_repeat_nothing, unrepeatable as write};
use crate::support::{RedisServer, SimulatedDragonfly, compare, eventually};
use nix::sys::signal::Signal;

/// A source that clients can write to, and that a task can leave.
fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options().backing_store().start()
}

#[track_caller]
fn equal(source: &SimulatedDragonfly, target: &RedisServer) {
    assert_eq!(
        compare(source.oracle(), target.port()),
        Vec::<String>::new()
    );
}

#[test]
fn a_restart_goes_on_where_the_target_is() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let mut client = source.client();
    (0..50).for_each(|round| write(&mut client, round));
    task.start_stable().stop();
    (50..100).for_each(|round| write(&mut client, round));
    let mut running = task.start();
    running.wait_logged("resuming where the target is");
    running.wait_stable();
    (100..150).for_each(|round| write(&mut client, round));
    source.wait_acked();
    equal(&source, &target);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    running.stop();
}

#[test]
fn kills_under_load_lose_and_repeat_nothing() {
    let (source, target) = (source(), RedisServer::start());
    kills_lose_and_repeat_nothing(&source, &target, 12, || {
        // A real master has noticed long before anybody starts it again.
        eventually("the source has noticed", || source.replicas() == 0);
        let _ = source.take_violations();
    });
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 13));
}

#[test]
fn a_flush_between_writes_is_passed_by_all_flows_at_once() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let mut client = source.client();
    task.start_stable().stop();
    for round in 0..60 {
        write(&mut client, round);
        if round % 20 == 13 {
            client.ok(&["FLUSHDB"]);
        }
    }
    let mut running = task.start_stable();
    for round in 60..120 {
        write(&mut client, round);
        if round % 20 == 13 {
            client.ok(&["FLUSHALL"]);
        }
    }
    source.wait_acked();
    running.signal(Signal::SIGKILL);
    drop(running);
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    running = task.start_stable();
    source.wait_acked();
    equal(&source, &target);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 2));
    running.stop();
}

#[test]
fn what_the_source_no_longer_has_means_a_full_sync_that_says_so() {
    let source = SimulatedDragonfly::options()
        .backing_store()
        .ring(16)
        .start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut client = source.client();
    write(&mut client, 0);
    task.start_stable().stop();
    (1..200).for_each(|round| write(&mut client, round));
    let mut running = task.start();
    let line = running.wait_logged("full sync needed");
    assert!(
        line.contains("the source no longer has what was written since"),
        "{line}"
    );
    running.wait_logged("a new full sync overwrites in place");
    running.wait_stable();
    source.wait_acked();
    equal(&source, &target);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (2, 0));
    running.stop();
}

#[test]
fn a_source_that_was_started_anew_means_a_full_sync() {
    let target = RedisServer::start();
    let first = source();
    let task = Task::between(&first.address(), &target.address());
    write(&mut first.client(), 0);
    task.start_stable().stop();
    let port = first.port();
    drop(first);
    let second = SimulatedDragonfly::options()
        .backing_store()
        .port(port)
        .start();
    write(&mut second.client(), 0);
    let mut running = task.start();
    let line = running.wait_logged("full sync needed");
    assert!(
        line.contains("the source was started anew since, or is another one"),
        "{line}"
    );
    running.wait_stable();
    second.wait_acked();
    equal(&second, &target);
    running.stop();
}

#[test]
fn a_target_that_comes_back_older_is_followed_from_where_it_was_then() {
    let source = source();
    let mut target = RedisServer::start_with(&["--save", "3600 1000000"]);
    let task = Task::between(&source.address(), &target.address());
    let mut client = source.client();
    let mut running = task.start_stable();
    (0..30).for_each(|round| write(&mut client, round));
    source.wait_acked();
    target.client().ok(&["SAVE"]);
    (30..60).for_each(|round| write(&mut client, round));
    source.wait_acked();
    // What it has taken since the dump is gone, and so are the positions behind it.
    target.restart();
    (60..90).for_each(|round| write(&mut client, round));
    running.wait_logged("target is back, following writes");
    source.wait_acked();
    equal(&source, &target);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    running.stop();
}

#[test]
fn a_target_that_somebody_flushed_is_copied_again() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let mut client = source.client();
    (0..30).for_each(|round| write(&mut client, round));
    let mut running = task.start_stable();
    source.wait_acked();
    target.client().ok(&["FLUSHALL"]);
    (30..60).for_each(|round| write(&mut client, round));
    running.wait_logged("session ended, another follows");
    eventually("another full sync", || source.full_syncs() == 2);
    source.wait_acked();
    equal(&source, &target);
    running.stop();
}

#[test]
fn the_process_that_started_last_goes_on_and_the_other_stops_and_says_so() {
    let (source, target) = (source(), RedisServer::start());
    let first = Task::between(&source.address(), &target.address());
    // As on another host, whose locks are not ours.
    let second = Task::between(&source.address(), &target.address());
    let mut client = source.client();
    let mut one = first.start_stable();
    (0..30).for_each(|round| write(&mut client, round));
    let mut two = second.start_stable();
    (30..90).for_each(|round| write(&mut client, round));
    assert_ne!(one.exit_code(), 0);
    assert!(one.log().contains("has taken over"), "{}", one.log());
    source.wait_acked();
    equal(&source, &target);
    assert_eq!(two.count_logged("session ended"), 0);
    two.signal(Signal::SIGTERM);
    assert_eq!(two.exit_code(), 0);
}

#[test]
fn other_filters_mean_a_full_sync() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    write(&mut source.client(), 0);
    task.start_stable().stop();
    let task = task.with("filter.exclude = [\"nothing:*\"]");
    let mut running = task.start();
    let line = running.wait_logged("full sync needed");
    assert!(line.contains("filters of the task have changed"), "{line}");
    running.wait_stable();
    running.stop();
}
