//! A target that is slower than the source, or stands still: the source's clients do not notice, and nothing is lost.

use crate::df2redis::Task;
use crate::support::{Client, RedisServer, SimulatedDragonfly, Still, eventually};
use nix::sys::signal::Signal;
use std::time::Duration;

/// A busy machine may hold up anybody for a moment; a source that waits for its replica's target waits much longer.
const NOTICED: Duration = Duration::from_millis(500);

/// Writes that may be neither lost nor repeated, of this many bytes each.
pub fn write(client: &mut Client, count: usize, bytes: usize) {
    let text = "x".repeat(bytes);
    for n in 0..count {
        let key = format!("list:{}", n % 50);
        client.ok(&["INCR", "count"]);
        client.ok(&["RPUSH", &key, &text]);
        client.ok(&["LTRIM", &key, "-2", "-1"]);
    }
}

#[test]
fn a_target_that_stands_still_holds_up_no_client_of_the_source() {
    let source = SimulatedDragonfly::options().backing_store().start();
    let target = RedisServer::start();
    let task =
        Task::between(&source.address(), &target.address()).with("limits.memory = \"16MiB\"");
    let running = task.start_stable();
    let mut client = source.client();
    {
        let _still = Still::hold(&target);
        // Several times the memory that the task may use.
        write(&mut client, 6_000, 10_000);
        let blocked = source.blocked_writes();
        assert!(blocked.longest < NOTICED, "{blocked:?}");
        // All of it has been taken from the source.
        eventually("nothing waiting at the source", || {
            (0..source.flows()).all(|flow| source.unsent(flow) == 0)
        });
    }
    source.assert_copied(target.port());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    running.stop();
}

#[test]
fn a_kill_while_the_target_stands_still_costs_nothing_that_is_in_the_spool() {
    let source = SimulatedDragonfly::options()
        .backing_store()
        .ring(256)
        .start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    let mut client = source.client();
    {
        let _still = Still::hold(&target);
        write(&mut client, 2_000, 100);
        eventually("nothing waiting at the source", || {
            (0..source.flows()).all(|flow| source.unsent(flow) == 0)
        });
        // What is written at the end is on disk when the program has had a moment for it.
        let spooled = || {
            let log = running.log();
            (log.contains("following writes"), task.spooled_bytes())
        };
        let mut before = spooled();
        eventually("the spool at rest", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = spooled();
            std::mem::replace(&mut before, now) == now && now.1 > 0
        });
        running.signal(Signal::SIGKILL);
        running.wait_killed();
    }
    drop(running);
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    // More than the ring lay between what the target had and what the source still has.
    let mut running = task.start();
    running.wait_logged("found in the spool");
    running.wait_stable();
    write(&mut client, 50, 100);
    source.assert_copied(target.port());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    running.stop();
}

#[test]
fn a_full_spool_lets_go_of_the_source_and_is_followed_by_a_full_sync() {
    let source = SimulatedDragonfly::options()
        .backing_store()
        .ring(64)
        .start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address())
        .with("limits.memory = \"16MiB\"")
        .with("spool.max_size = \"64MiB\"")
        .with("spool.min_free = \"0B\"")
        .with("spool.keep = \"0s\"");
    let mut running = task.start_stable();
    let mut client = source.client();
    {
        let _still = Still::hold(&target);
        write(&mut client, 1_000, 100_000);
        running.wait_logged("the spool is full, letting go of the source");
        let blocked = source.blocked_writes();
        assert!(blocked.longest < NOTICED, "{blocked:?}");
    }
    let line = running.wait_logged("session ended, another follows");
    assert!(line.contains("the spool is full: "), "{line}");
    eventually("another full sync", || source.full_syncs() == 2);
    source.assert_copied(target.port());
    running.stop();
}

#[test]
fn a_full_spool_slows_the_source_down_if_so_wanted() {
    let source = SimulatedDragonfly::options().backing_store().start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address())
        .with("limits.memory = \"16MiB\"")
        .with("spool.max_size = \"64MiB\"")
        .with("spool.min_free = \"0B\"")
        .with("spool.keep = \"0s\"")
        .with("spool.on_full = \"throttle\"");
    let running = task.start_stable();
    std::thread::scope(|scope| {
        let still = Still::hold(&target);
        let mut client = source.client();
        let writing = scope.spawn(move || write(&mut client, 1_200, 100_000));
        eventually("a write that waits", || {
            (0..source.flows()).any(|flow| source.unsent(flow) > 0)
                && task.spooled_bytes() > 60 << 20
        });
        drop(still);
        writing.join().expect("the writer");
    });
    source.assert_copied(target.port());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    running.stop();
}
