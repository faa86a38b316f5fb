//! A target that is gone: the source is read on, whatever its ring holds, and nothing is lost, repeated or copied anew.

use crate::df2redis::Task;
use crate::scenarios::unrepeatable as write;
use crate::support::{RedisServer, SimulatedDragonfly, eventually};
use nix::sys::signal::Signal;
use std::time::Duration;

/// A busy machine may hold up anybody for a moment; a source that waits for its replica's target waits much longer.
const NOTICED: Duration = Duration::from_millis(500);

/// Far less than what is written while the target is gone.
fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options()
        .backing_store()
        .ring(64)
        .start()
}

/// One that has after a restart what it had before.
fn target() -> RedisServer {
    RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
}

#[test]
fn a_target_that_is_gone_for_longer_than_the_ring_lasts_costs_no_full_sync() {
    let (source, mut target) = (source(), target());
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    let mut client = source.client();
    let mut rounds = 0..;
    for outage in 1..=3 {
        rounds
            .by_ref()
            .take(20)
            .for_each(|round| write(&mut client, round));
        target.kill();
        rounds
            .by_ref()
            .take(100)
            .for_each(|round| write(&mut client, round));
        eventually("the loss is noticed", || {
            running.count_logged("target lost, reading on into the spool") == outage
        });
        eventually("nothing waiting at the source", || {
            (0..source.flows()).all(|flow| source.unsent(flow) == 0)
        });
        rounds
            .by_ref()
            .take(100)
            .for_each(|round| write(&mut client, round));
        target.restart();
        eventually("the target is back", || {
            running.count_logged("target is back, following writes") == outage
        });
        rounds
            .by_ref()
            .take(20)
            .for_each(|round| write(&mut client, round));
        source.assert_copied(target.port());
    }
    let blocked = source.blocked_writes();
    assert!(blocked.longest < NOTICED, "{blocked:?}");
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    assert_eq!(running.count_logged("session ended"), 0);
    running.wait_logged("target not reached, reading on into the spool");
    running.stop();
}

#[test]
fn a_stop_or_a_kill_during_an_outage_goes_on_from_the_spool() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let (source, mut target) = (source(), target());
        let task = Task::between(&source.address(), &target.address());
        let mut running = task.start_stable();
        let mut client = source.client();
        (0..20).for_each(|round| write(&mut client, round));
        source.wait_acked();
        target.kill();
        (20..200).for_each(|round| write(&mut client, round));
        running.wait_logged("target lost, reading on into the spool");
        let mut before = 0;
        eventually("the spool at rest", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = task.spooled_bytes();
            std::mem::replace(&mut before, now) == now && now > 0
        });
        running.signal(signal);
        match signal {
            Signal::SIGTERM => assert_eq!(running.exit_code(), 0),
            _ => running.wait_killed(),
        }
        drop(running);
        eventually("the source has noticed", || source.replicas() == 0);
        let _ = source.take_violations();
        target.restart();
        let mut running = task.start();
        running.wait_logged("found in the spool");
        running.wait_stable();
        (200..220).for_each(|round| write(&mut client, round));
        source.assert_copied(target.port());
        assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
        running.stop();
    }
}
