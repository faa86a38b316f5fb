//! A stable sync that is cut, damaged or hostile.

use crate::program::{Running, Task, source};
use crate::support::dragonfly::Fault;
use crate::support::dragonfly::encode::packed;
use crate::support::{RedisServer, SimulatedDragonfly};

fn following(source: &SimulatedDragonfly, target: &RedisServer) -> Running {
    let mut running = Task::between(source, target).start();
    running.follows(1);
    running
}

#[test]
fn a_source_that_closes_in_stable_sync_is_followed_from_where_it_closed_and_ends_equal() {
    let target = RedisServer::start();
    let source = source();
    let mut running = following(&source, &target);
    for n in 1..=3 {
        for i in 0..200 {
            source.client().ok(&["INCR", &format!("n:{}", i % 7)]);
        }
        source.drop_replicas();
        source
            .client()
            .ok(&["RPUSH", "l:1", "while nobody listens"]);
        running.follows(n + 1);
    }
    running.retries(1, "the source closed ");
    running.ends_equal(&source, &target);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 3));
    running.stops();
}

#[test]
fn an_entry_that_breaks_off_is_not_applied_by_half() {
    let target = RedisServer::start();
    let source = source();
    let mut running = following(&source, &target);
    // An entry that promises five words and brings one and a half; then the end.
    source.raw(0, b"\x0a\x01\x01\x05\x20\x03DEL\x09s:1");
    source.drop_replicas();
    running.retries(1, "the source closed ");
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn a_count_that_differs_from_the_sources_means_a_new_session_that_ends_equal() {
    let target = RedisServer::start();
    let source = source();
    source.inject(Fault::WrongLsn { flow: 0, by: 3 });
    let mut running = following(&source, &target);
    // The source counts aloud behind an entry, once in a while.
    let mut client = source.client();
    let key = (0..)
        .map(|n| format!("n:{n}"))
        .find(|key| source.flow_of(key) == 0);
    let key = key.expect("a key of flow 0");
    crate::support::eventually("the count is compared", || {
        client.ok(&["INCR", &key]);
        !running
            .lines(&["session ended", "flow 0 lost entries: expected entry"])
            .is_empty()
    });
    source.clear_faults();
    running.follows(2);
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn an_error_text_in_the_stream_means_a_new_session_that_ends_equal() {
    let target = RedisServer::start();
    let source = source();
    let mut running = following(&source, &target);
    source.raw(1, b"-ERR stream overflow\r\n");
    running.retries(1, "flow 1 carries an error text instead of an entry");
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn an_entry_that_nothing_can_be_ends_with_76_and_takes_no_memory() {
    let target = RedisServer::start();
    let mut longest = Vec::new();
    packed(u64::MAX, &mut longest);
    let cases: [(&str, Vec<u8>); 6] = [
        ("unknown opcode 200", vec![200]),
        ("unknown opcode 0", vec![0]),
        ("too many words", [&[10, 1, 1][..], &longest].concat()),
        ("too long", [&[10, 1, 1, 2][..], &longest].concat()),
        ("invalid data", [&[10, 1, 1, 2, 9][..], &longest].concat()),
        ("database number too large", [&[6][..], &longest].concat()),
    ];
    for (why, bytes) in cases {
        let source = SimulatedDragonfly::start();
        let running = following(&source, &target);
        source.raw(0, &[&bytes[..], &[0; 64]].concat());
        let ended = running.ended();
        ended.with(76, &[&source.address(), "flow 0", why]);
        ended.was_modest();
    }
}
