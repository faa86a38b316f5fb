//! What the journal of a real master gets wrong arrives right.

use crate::df2redis::Task;
use crate::dragonfly;
use crate::scenarios::{Source, run, settled};
use crate::support::{RealDragonfly, RedisServer, compare, eventually};
use std::time::Duration;

/// Commands of which the journal does not tell the whole outcome, over several shards and in one.
const LINES: &[&str] = &[
    "RPUSH l1 3 1 2 01 1.0",
    "RPUSH l2 c a b",
    "SORT l1 STORE l3",
    "SORT l1 DESC STORE l4",
    "SORT l1 STORE l5",
    "SORT l2 ALPHA STORE l6",
    "SORT l2 ALPHA LIMIT 0 2 STORE l7",
    "SORT none STORE l7",
    "GEOADD g1 13.361389 38.115556 P 15.087269 37.502669 C",
    "GEORADIUS g1 15 37 200 km STORE g2",
    "GEORADIUS g1 15 37 200 km STOREDIST g3",
    "GEORADIUS g1 15 37 200 km STOREDIST g4",
    "GEORADIUSBYMEMBER g1 P 500 km STORE g5",
    "ZADD z1 1.23456789 a 1234567 b 1e-17 c",
    "ZADD z2 1000000.4 a 9007199254740993 d",
    "ZUNIONSTORE z3 2 z1 z2",
    "ZUNIONSTORE z4 1 z1 WEIGHTS 1.1",
    "ZINTERSTORE z5 2 z1 z2",
    "ZDIFFSTORE z6 2 z1 z2",
    "ZRANGESTORE z7 z1 0 -1",
    "ZINCRBY z3 0.1 a",
    "RPUSH p1 a b c d e f g h i j",
    "RPUSH p2 a b c d e f g h i j",
    "LMPOP 1 p1 LEFT COUNT 3",
    "LMPOP 2 none p1 RIGHT COUNT 2",
    "LMPOP 2 p2 p1 LEFT COUNT 100",
    "RPUSH p1 behind",
    "RPUSH r1 x",
    "PEXPIREAT r1 1924992000000",
    "RPOPLPUSH r1 r1",
    "RPUSH r2 x y",
    "PEXPIREAT r2 1924992000000",
    "LMOVE r2 r2 LEFT RIGHT",
    "RPUSH r3 x",
    "PEXPIREAT r3 1924992000000",
    "MULTI",
    "RPOP r3",
    "LPUSH r3 x",
    "EXEC",
    "INCRBYFLOAT f1 0.1",
    "INCRBYFLOAT f1 0.2",
    "INCRBYFLOAT f1 1e20",
    "INCRBYFLOAT f2 -1e-7",
    "INCRBYFLOAT f3 1e21",
    "HSET f4 a 3.3",
    "HINCRBYFLOAT f4 a 1.1",
    "HINCRBYFLOAT f4 b 123456789.123456789",
    "SADD s1 a",
    "PEXPIREAT s1 1924992000000",
    "SMOVE s1 s1 a",
];

/// Nothing is left to be read again, and both hold the same.
#[track_caller]
fn assert_set_right(source: &RealDragonfly, target: &RedisServer) {
    settled(source);
    let mut there = target.client();
    eventually("all is read again", || {
        there.ok(&["EXISTS", "df2redis:reread:copy"]) == "0"
    });
    settled(source);
    let differences = compare(source.port(), target.port());
    assert_eq!(differences, Vec::<String>::new());
}

#[test]
fn what_the_journal_gets_wrong_arrives_right() {
    for flows in [1, 2, 5] {
        let (source, target) = (dragonfly(flows), RedisServer::start());
        let task = Task::between(&source.address(), &target.address());
        let running = task.start_stable();
        let mut client = source.client();
        run(&mut client, LINES);
        client.ok(&["SET", "v", "1"]);
        let payload = client.ok(&["DUMP", "v"]).bytes();
        let restore = [b"RESTORE".as_slice(), b"w", b"100000000", &payload];
        client.ok(&restore);
        let store = "redis.call('ZRANGESTORE',KEYS[2],KEYS[1],0,-1)";
        client.ok(&["EVAL", store, "2", "z1", "z8"]);
        assert_set_right(&source, &target);
        running.stop();
    }
}

#[test]
fn lists_that_wait_for_one_another_are_popped_once() {
    let (source, target) = (dragonfly(3), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let port = source.port();
    let waiting = std::thread::spawn(move || {
        let mut client = crate::support::Client::connect(port);
        for n in 0..50 {
            client.ok(&[
                "BLMOVE",
                "queue",
                &format!("done:{}", n % 7),
                "LEFT",
                "RIGHT",
                "5",
            ]);
            client.ok(&["BLPOP", "other", "5"]);
        }
    });
    let mut client = source.client();
    for n in 0..50 {
        client.ok(&["RPUSH", "queue", &n.to_string(), "more"]);
        client.ok(&["RPUSH", "other", &n.to_string(), "more"]);
        client.ok(&["LMPOP", "1", "other", "RIGHT", "COUNT", "1"]);
        std::thread::sleep(Duration::from_millis(1));
    }
    waiting.join().expect("no panic");
    assert_set_right(&source, &target);
    running.stop();
}
