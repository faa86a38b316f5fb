//! What must hold for any source, simulated or real: shared by the tests of both.
//!
//! Nothing here knows a master's inside: what it tells is what `INFO replication` of a real one tells.
#![allow(
    dead_code,
    reason = "each program that includes this uses a part of it"
)]

use crate::df2redis::Task;
use crate::support::{Client, RedisServer, compare, eventually};
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// A master that ordinary clients can write to.
pub trait Source: Sync {
    /// Its port on 127.0.0.1.
    fn port(&self) -> u16;

    /// The port of a server that shows what the target must come to hold.
    fn oracle(&self) -> u16;

    /// `127.0.0.1:<port>`.
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// A connection to it.
    fn client(&self) -> Client {
        Client::connect(self.port())
    }
}

/// The words of a line.
#[must_use]
pub fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Gives commands, one a line, each of which must succeed.
#[track_caller]
pub fn run(client: &mut Client, lines: &[&str]) {
    for line in lines {
        client.ok(&words(line));
    }
}

/// What `INFO replication` says of the only replica: its state and its lag.
#[must_use]
pub fn replica_of(source: &dyn Source) -> Option<(String, u64)> {
    let info = source.client().ok(&["INFO", "replication"]).text();
    let line = info.lines().find(|line| line.starts_with("slave0:"))?;
    let field = |name: &str| {
        let mut fields = line.trim_end().split([':', ',']);
        fields.find_map(|field| field.strip_prefix(name).map(str::to_owned))
    };
    Some((field("state=")?, field("lag=")?.parse().ok()?))
}

/// Waits until the master sees its replica follow without lag. Nobody may write meanwhile.
#[track_caller]
pub fn settled(source: &dyn Source) {
    eventually("a replica without lag in INFO replication", || {
        replica_of(source).is_some_and(|(state, lag)| {
            matches!(state.as_str(), "online" | "stable_sync") && lag == 0
        })
    });
}

/// The target holds what the source holds, at the moment the source shows no lag.
#[track_caller]
pub fn assert_equal(source: &dyn Source, target: u16) {
    settled(source);
    let differences = compare(source.oracle(), target);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Values of all types in two databases.
#[track_caller]
pub fn seed(client: &mut Client) {
    for db in ["0", "1"] {
        client.ok(&["SELECT", db]);
        for n in 0..200 {
            let name = |kind: &str| format!("{kind}:{n}");
            let number = n.to_string();
            let many: Vec<String> = (0..n).map(|m| format!("element-{m}")).collect();
            client.ok(&["SET", &name("s"), &"v".repeat(n)]);
            client.ok(&["SET", &name("n"), &number]);
            let with = |first: &[&str]| -> Vec<String> {
                let first = first.iter().map(|word| (*word).to_owned());
                first.chain(many.iter().cloned()).collect()
            };
            if n > 0 {
                client.ok(&with(&["RPUSH", &name("l")]));
                client.ok(&with(&["SADD", &name("t")]));
            }
            let pairs = many.iter().enumerate();
            let fields: Vec<String> = pairs
                .flat_map(|(at, member)| [member.clone(), at.to_string()])
                .collect();
            let scores: Vec<String> = many
                .iter()
                .enumerate()
                .flat_map(|(at, member)| [format!("{}", at as f64 / 3.0), member.clone()])
                .collect();
            if n > 0 {
                let hash = [vec!["HSET".to_owned(), name("h")], fields].concat();
                let zset = [vec!["ZADD".to_owned(), name("z")], scores].concat();
                client.ok(&hash);
                client.ok(&zset);
            }
            if n < 20 {
                let stream = name("x");
                for m in 1..=n {
                    client.ok(&["XADD", &stream, &format!("{m}-1"), "field", &number]);
                }
                client.ok(&["XGROUP", "CREATE", &stream, "group", "0", "MKSTREAM"]);
            }
            if n % 3 == 0 {
                client.ok(&["PEXPIREAT", &name("s"), "1924992000123"]);
            }
        }
    }
}

/// A generator of numbers that repeat from run to run.
pub struct Numbers(u64);

impl Numbers {
    /// Begins with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// A write on keys that several clients share, of a kind that must not be applied twice or in another order.
#[must_use]
pub fn random_write(numbers: &mut Numbers) -> String {
    let (n, m, v) = (
        numbers.below(30),
        numbers.below(30),
        numbers.below(1_000_000),
    );
    match numbers.below(24) {
        0..=2 => format!("INCR n:{n}"),
        3 => format!("INCRBY n:{n} {v}"),
        4..=5 => format!("APPEND s:{n} {v},"),
        6 => format!("LPUSH l:{n} {v} {m}"),
        7 => format!("RPOP l:{n}"),
        8 => format!("LPOP l:{n}"),
        9 => format!("HINCRBY h:{n} f{m} {v}"),
        10 => format!("HDEL h:{n} f{m}"),
        11 => format!("ZINCRBY z:{n} 1.1 m{m}"),
        12 => format!("ZREM z:{n} m{m}"),
        13 => format!("XADD x:{n} * f {v}"),
        14 => format!("XTRIM x:{n} MAXLEN 10"),
        15 => format!("RENAME r:{n} r:{m}"),
        16 => format!("SET r:{n} {v} PX 9000000"),
        17 => format!("MSET s:{n} {v} s:{m} {v} c:{n} 1 c:{m} 2"),
        18 => format!("DEL s:{n} l:{m} c:{n} h:{m}"),
        19 => format!("EXPIRE z:{n} {}", 5000 + v),
        20 => format!("PERSIST z:{n}"),
        21 => format!("SADD t:{n} {v} {m}"),
        22 => format!("SPOP t:{n}"),
        _ => format!("SETRANGE s:{n} 5 {v}"),
    }
}

/// Clients that write until they are dropped or stopped.
pub struct Writers<'scope> {
    stop: &'scope AtomicBool,
    written: &'scope AtomicU64,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
}

impl<'scope> Writers<'scope> {
    /// Starts `count` clients, each of which writes some hundred commands a second to two databases.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        source: &'env dyn Source,
        count: u64,
        (stop, written): &'env (AtomicBool, AtomicU64),
    ) -> Self {
        let threads = (1..=count).map(|seed| {
            scope.spawn(move || {
                let mut client = source.client();
                let mut numbers = Numbers::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    let db = numbers.below(2).to_string();
                    client.ok(&["SELECT", &db]);
                    for _ in 0..10 {
                        // Wrong types and missing keys are answers too.
                        client.cmd(&words(&random_write(&mut numbers)));
                        written.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            })
        });
        Self {
            stop,
            written,
            threads: threads.collect(),
        }
    }

    /// Waits until so many further commands were given.
    #[track_caller]
    pub fn wait_written(&self, more: u64) {
        let wanted = self.written.load(Ordering::Relaxed) + more;
        eventually("commands written", || {
            self.written.load(Ordering::Relaxed) >= wanted
        });
    }

    /// Stops them and waits for them.
    #[track_caller]
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client that wrote");
        }
    }
}

/// Flushes of one database and of all, with writes of several connections around them.
pub fn flushes_meet_writes(source: &dyn Source, target: &RedisServer) {
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let state = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writers = Writers::start(scope, source, 3, &state);
        let mut client = source.client();
        for round in 0..15 {
            writers.wait_written(40);
            client.ok(&["SELECT", &(round % 2).to_string()]);
            client.ok(&[if round % 3 == 0 {
                "FLUSHALL"
            } else {
                "FLUSHDB"
            }]);
            run(&mut client, &["INCR after", "SET k v"]);
        }
        writers.wait_written(100);
        writers.finish();
    });
    assert_equal(source, target.port());
    assert_eq!(
        running.count_logged("source was flushed, so are the keys this task owns"),
        15
    );
    assert!(commands_seen(target, "flushall").is_none());
    running.stop();
}

/// What the target's `INFO commandstats` says of a command, if it ever came.
#[must_use]
pub fn commands_seen(target: &RedisServer, name: &str) -> Option<String> {
    let stats = target.client().ok(&["INFO", "commandstats"]).text();
    let wanted = format!("cmdstat_{name}:");
    stats
        .lines()
        .find(|line| line.starts_with(&wanted))
        .map(str::to_owned)
}

/// Stopped in stable sync under writes, it has acknowledged what it applied, and nothing else.
pub fn a_stop_drains(source: &dyn Source, target: &RedisServer) {
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut client = source.client();
    for n in 0..2000 {
        client.ok(&["RPUSH", "list", &n.to_string()]);
    }
    // Not settled: the last pushes may be on their way.
    running.stop();
    eventually("the replica gone from INFO replication", || {
        replica_of(source).is_none()
    });
    let there = target.client().ok(&["LRANGE", "list", "0", "-1"]);
    let numbers = there
        .items()
        .iter()
        .map(|item| item.int().expect("a number"));
    assert!(
        numbers.eq(0..there.items().len().try_into().expect("a length")),
        "a gap or a repetition in {there:?}"
    );
    assert!(there.items().len() > 1000, "{}", there.items().len());
}

/// A `WAIT` behind a write ends when the target has it, and not with the next regular acknowledgement.
pub fn waits_end_promptly(source: &dyn Source, target: &RedisServer) {
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut client = source.client();
    let started = Instant::now();
    for n in 0..20 {
        client.ok(&["SET", "k", &n.to_string()]);
        assert_eq!(client.ok(&words("WAIT 1 5000")), "1");
        assert_eq!(target.get("k"), n.to_string());
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    settled(source);
    running.stop();
}

/// A target that takes nothing, so that a snapshot larger than the budget cannot end, and a flush meanwhile.
pub fn a_flush_in_a_held_snapshot(source: &dyn Source, target: &RedisServer, flush: &str) {
    let mut client = source.client();
    for db in ["0", "1"] {
        client.ok(&["SELECT", db]);
        let value = "v".repeat(10_000);
        for n in 0..4000 {
            client.ok(&["SET", &format!("key:{n}"), &format!("{n}{value}")]);
        }
    }
    let task =
        Task::between(&source.address(), &target.address()).with("limits.memory = \"16MiB\"");
    let mut running = task.start();
    let mut admin = target.client();
    // Before that, the flush could still come before the snapshot.
    eventually("some keys copied", || {
        admin.ok(&["DBSIZE"]).int() > Some(20)
    });
    admin.ok(&["CLIENT", "PAUSE", "30000", "WRITE"]);
    run(
        &mut client,
        &["SELECT 1", flush, "SET after 1", "INCR after"],
    );
    admin.ok(&["CLIENT", "UNPAUSE"]);
    running.wait_logged("flush during the snapshot, starting it again");
    running.wait_stable();
    run(&mut client, &["INCR after"]);
    assert_equal(source, target.port());
    assert_eq!(running.count_logged("full sync started"), 2);
    assert!(commands_seen(target, "flushall").is_none());
    running.stop();
}

/// Clients write before, during and after the snapshot, and flush a database of their own. `started` is called
/// while the snapshot may be under way.
pub fn a_copy_under_writes(
    source: &dyn Source,
    target: &RedisServer,
    during: impl FnOnce(&Writers<'_>),
) {
    seed(&mut source.client());
    let task = Task::between(&source.address(), &target.address());
    let state = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writers = Writers::start(scope, source, 4, &state);
        writers.wait_written(100);
        let mut running = task.start();
        running.wait_logged("full sync started");
        during(&writers);
        running.wait_stable();
        writers.wait_written(1000);
        let flushed = "SELECT 5|MSET a 1 b 2 c 3|FLUSHDB|SET d 4|APPEND a 5";
        run(
            &mut source.client(),
            &flushed.split('|').collect::<Vec<_>>(),
        );
        writers.wait_written(200);
        writers.finish();
        assert_equal(source, target.port());
        running.stop();
    });
    let lines = std::fs::read_to_string(task.log_path()).expect("a log");
    assert!(!lines.contains("WARN"), "{lines}");
    assert_eq!(lines.matches("full sync started").count(), 1, "one session");
}

/// Writes that make a difference when they are lost or repeated, on a few keys of three databases.
pub fn unrepeatable(client: &mut Client, round: usize) {
    let n = (round % 7).to_string();
    let key = |name: &str| format!("{name}:{n}");
    client.ok(&["SELECT", &(round % 3).to_string()]);
    client.ok(&["INCR", &key("count")]);
    client.ok(&["APPEND", &key("text"), &format!("{round} ")]);
    client.ok(&["RPUSH", &key("list"), &round.to_string()]);
    client.ok(&["LPOP", &key("list2")]);
    client.ok(&["RPUSH", &key("list2"), "a", &round.to_string()]);
    client.ok(&["HINCRBY", &key("hash"), "field", "3"]);
    client.ok(&["ZINCRBY", &key("zset"), "0.1", "member"]);
    client.ok(&["RENAME", &key("text"), &key("text")]);
}

/// Kills the program again and again while it is followed by writes that are not safe to repeat. `killed` waits until
/// the source knows.
#[track_caller]
pub fn kills_lose_and_repeat_nothing(
    source: &impl Source,
    target: &RedisServer,
    kills: usize,
    killed: impl Fn(),
) {
    let address = format!("127.0.0.1:{}", source.port());
    let task = Task::between(&address, &target.address());
    let mut client = Client::connect(source.port());
    task.start_stable().stop();
    let mut round = 0;
    for kill in 0..kills {
        let mut running = task.start();
        running.wait_stable();
        assert_eq!(running.count_logged("resuming where the target is"), 1);
        // So that what was sent is on its way when it is killed.
        for _ in 0..40 + kill * 7 {
            unrepeatable(&mut client, round);
            round += 1;
        }
        running.signal(Signal::SIGKILL);
        drop(running);
        unrepeatable(&mut client, round);
        round += 1;
        killed();
    }
    let mut running = task.start();
    running.wait_stable();
    assert_eq!(running.count_logged("resuming where the target is"), 1);
    unrepeatable(&mut client, round);
    eventually("an equal copy", || {
        compare(source.oracle(), target.port()).is_empty()
    });
    running.stop();
}
