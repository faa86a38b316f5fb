//! Connections that something in between has forgotten: they stay open, and bring nothing.

use crate::df2redis::Task;
use crate::hosted::Hosted;
use crate::scenarios::unrepeatable as write;
use crate::support::{Proxy, RedisServer, SimulatedDragonfly, Still, Towards, eventually};
use ::df2redis::task::{Phase, Timing};
use std::time::Duration;

/// Ten looks are the time after which a flow is half-open.
fn timing() -> Timing {
    Timing {
        watch_every: Duration::from_millis(50),
        silence: Duration::from_millis(500),
        ..Timing::default()
    }
}

fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options().backing_store().start()
}

#[test]
fn a_flow_that_brings_nothing_while_the_source_goes_on_is_made_anew_and_resumed() {
    let (source, target) = (source(), RedisServer::start());
    let proxy = Proxy::to(&source.address());
    let task = Hosted::start(
        &Task::between(&proxy.address(), &target.address()),
        timing(),
    );
    task.wait_stable();
    let mut client = source.client();
    (0..30).for_each(|round| write(&mut client, round));
    source.wait_acked();
    assert_eq!(proxy.swallow(Towards::Client, "FLOW"), source.flows());
    (30..60).for_each(|round| write(&mut client, round));
    eventually("a resumption", || source.partial_syncs() == 1);
    let error = task.last_error();
    assert!(error.contains("has brought nothing for "), "{error}");
    assert!(error.contains("the connection is half-open"), "{error}");
    assert!(proxy.swallowed() > 0);
    source.assert_copied(target.port());
    assert_eq!(source.full_syncs(), 1);
}

#[test]
fn a_flow_that_brings_nothing_because_there_is_nothing_is_left_alone() {
    let (source, target) = (source(), RedisServer::start());
    let proxy = Proxy::to(&source.address());
    let task = Hosted::start(
        &Task::between(&proxy.address(), &target.address()),
        timing(),
    );
    task.wait_stable();
    write(&mut source.client(), 0);
    source.wait_acked();
    assert_eq!(proxy.swallow(Towards::Client, "FLOW"), source.flows());
    // Three times as long as it takes to find one.
    task.wait_looks(30);
    let report = task.report();
    assert_eq!((report.sessions, report.phase), (1, Phase::Stable));
}

#[test]
fn a_flow_that_waits_for_our_own_full_spool_is_not_silent() {
    let (source, target) = (source(), RedisServer::start());
    let limited = Task::between(&source.address(), &target.address())
        .with("limits.memory = \"16MiB\"")
        .with("spool.max_size = \"64MiB\"")
        .with("spool.min_free = \"0B\"")
        .with("spool.keep = \"0s\"")
        .with("spool.on_full = \"throttle\"");
    let task = Hosted::start(&limited, timing());
    task.wait_stable();
    std::thread::scope(|scope| {
        let still = Still::hold(&target);
        let mut client = source.client();
        let writing = scope.spawn(move || crate::spool::write(&mut client, 1_200, 100_000));
        eventually("a write that waits", || {
            (0..source.flows()).any(|flow| source.unsent(flow) > 0)
                && limited.spooled_bytes() > 60 << 20
        });
        task.wait_looks(30);
        assert_eq!(task.report().sessions, 1, "{}", task.last_error());
        drop(still);
        writing.join().expect("the writer");
    });
    source.assert_copied(target.port());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
}

#[test]
fn a_target_whose_answers_do_not_arrive_is_connected_to_anew_and_nothing_is_repeated() {
    let (source, target) = (source(), RedisServer::start());
    let proxy = Proxy::to(&target.address());
    let timing = Timing {
        answer: Duration::from_millis(500),
        ..timing()
    };
    let task = Hosted::start(&Task::between(&source.address(), &proxy.address()), timing);
    task.wait_stable();
    let mut client = source.client();
    (0..30).for_each(|round| write(&mut client, round));
    source.wait_acked();
    // What is sent now takes effect, and nobody hears of it.
    assert!(proxy.swallow(Towards::Client, "") > source.flows());
    (30..60).for_each(|round| write(&mut client, round));
    eventually("the loss of the target", || !task.last_error().is_empty());
    let error = task.last_error();
    assert!(
        error.contains("did not answer within 500ms while writing"),
        "{error}"
    );
    source.assert_copied(target.port());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    assert_eq!(task.report().sessions, 1, "the source was read on");
}
