//! What must hold for any source about keys that are read again: shared by the tests of both.
#![allow(
    dead_code,
    reason = "each program that includes this uses a part of it"
)]

use std::time::{Duration, Instant};

use crate::df2redis::Task;
use crate::scenarios::{Source, assert_equal, settled};
use crate::support::{Client, RedisServer};
use nix::sys::signal::Signal;

/// Sessions that are kept.
pub const SESSIONS: usize = 20;

/// What a session store does with one session: notes another visit, counts, and keeps it alive for `ttl`.
pub fn visit(client: &mut Client, session: usize, visit: usize, ttl: Duration) {
    let (key, count) = (format!("session:{session}"), format!("count:{session}"));
    let ttl = ttl.as_millis().to_string();
    client.ok(&["HSET", &key, &format!("visit:{visit}"), "x"]);
    client.ok(&["PEXPIRE", &key, &ttl]);
    client.ok(&["INCR", &count]);
    client.ok(&["PEXPIRE", &count, &ttl]);
    client.ok(&[
        "SET",
        &format!("token:{session}"),
        &visit.to_string(),
        "PX",
        &ttl,
    ]);
}

/// Another visit of each.
pub fn visit_all(client: &mut Client, round: usize, ttl: Duration) {
    (0..SESSIONS).for_each(|session| visit(client, session, round, ttl));
}

/// Sessions of this length, each visited again and again, through an outage of the target.
#[track_caller]
pub fn sessions_outlive_an_outage(
    source: &impl Source,
    target: &RedisServer,
    (ttl, every, outage): (Duration, Duration, Duration),
) {
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut client = Client::connect(source.port());
    visit_all(&mut client, 0, ttl);
    settled(source);
    target.signal(Signal::SIGSTOP);
    let began = Instant::now();
    let mut round = 1;
    while began.elapsed() < outage {
        visit_all(&mut client, round, ttl);
        // A key that takes over the value and the end of another that the target has lost.
        client.ok(&["RENAME", "session:0", "moved"]);
        client.ok(&["RENAME", "moved", "session:0"]);
        client.ok(&["DEL", "copied"]);
        client.ok(&["COPY", "session:1", "copied"]);
        round += 1;
        std::thread::sleep(every);
    }
    target.signal(Signal::SIGCONT);
    // They are visited on while the target catches up.
    for late in 0..4 {
        visit_all(&mut client, round + late, ttl);
        settled(source);
    }
    visit_all(&mut client, round + 4, ttl);
    assert_equal(source, target.port());
    let there = target.client().ok(&["KEYS", "session:*"]).items().len();
    assert_eq!(there, SESSIONS);
    assert_eq!(running.count_logged("full sync started"), 1);
    running.stop();
    let left = target.client().ok(&["EXISTS", "df2redis:reread:copy"]);
    assert_eq!(left.int(), Some(0), "nothing is left to be read");
}

/// A key that is written without a pause, and lost by the target again and again, ends right: each time it is read
/// between two writes.
#[track_caller]
pub fn a_busy_key_is_read_exactly(source: &impl Source, target: &RedisServer) {
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let port = source.port();
    Client::connect(port).ok(&["RPUSH", "busy", "first"]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = Client::connect(port);
                let mut n = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // None of them makes the key anew where it is missing.
                    client.ok(&["RPUSHX", "busy", &n.to_string()]);
                    client.ok(&["LTRIM", "busy", "-50", "-1"]);
                    client.ok(&["PEXPIRE", "busy", "1000000"]);
                    n += 1;
                }
            });
        }
        let mut there = target.client();
        for _ in 0..40 {
            // As if it had expired there.
            there.ok(&["DEL", "busy"]);
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_equal(source, target.port());
    assert_eq!(target.client().ok(&["LLEN", "busy"]).int(), Some(50));
    running.stop();
}
