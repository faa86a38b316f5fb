//! The program between a real Dragonfly, which `$DRAGONFLY` names, and a real Redis: `make check-dragonfly`.

#[path = "check/asked.rs"]
mod asked;
#[path = "real/audit.rs"]
mod audit;
#[path = "dragonfly/audited.rs"]
mod audited;
#[path = "check/real.rs"]
mod check;
#[path = "real/cluster.rs"]
mod cluster;
#[path = "real/defects.rs"]
mod defects;
#[path = "support/df2redis.rs"]
mod df2redis;
#[path = "real/huge.rs"]
mod huge;
#[path = "dragonfly/late.rs"]
mod late;
#[path = "real/members.rs"]
mod members;
#[path = "dragonfly/scenarios.rs"]
mod scenarios;
#[path = "check/scenes.rs"]
mod scenes;
#[allow(dead_code, reason = "clusters are looked at in fewer ways here")]
#[path = "crash/sink.rs"]
mod sink;
#[path = "support/mod.rs"]
mod support;
#[allow(dead_code, reason = "no large values here")]
#[path = "crash/workload.rs"]
mod workload;
#[path = "crash/writers.rs"]
mod writers;

use df2redis::Task;
use scenarios::{Source, assert_equal, run, settled, words};
use support::{
    Client, Proxy, RealDragonfly, RedisServer, Target, compare, eventually, on_every_target,
};

impl Source for RealDragonfly {
    fn port(&self) -> u16 {
        Self::port(self)
    }

    fn oracle(&self) -> u16 {
        Self::port(self)
    }
}

/// A real one with so many flows.
#[track_caller]
fn dragonfly(flows: usize) -> RealDragonfly {
    dragonfly_with(flows, &[])
}

/// The same, with further flags.
#[track_caller]
fn dragonfly_with(flows: usize, flags: &[&str]) -> RealDragonfly {
    let program = RealDragonfly::named().expect(
        "these tests need a Dragonfly: set DRAGONFLY to the path of its binary, \
         such as DRAGONFLY=/usr/bin/dragonfly make check-dragonfly",
    );
    let started = RealDragonfly::start_with(&program, flows, flags);
    started.unwrap_or_else(|error| panic!("{error}"))
}

/// A master of v1.40 leaves a DEL of a key that its snapshot has not reached out of the journal, even if the key came
/// by a command that was journalled, such as MSET, after the snapshot began: the key then stays on every replica.
/// So it is told to leave nothing out; older releases do not know that flag.
fn copy_under_writes(flows: usize) {
    let program = RealDragonfly::named();
    let careful = ["--journal_omit_redundant_writes=false"];
    let source = program.and_then(|path| RealDragonfly::start_with(&path, flows, &careful).ok());
    let source = source.unwrap_or_else(|| dragonfly(flows));
    scenarios::a_copy_under_writes(&source, &RedisServer::start(), |_| ());
}

#[test]
fn a_copy_of_one_flow_under_live_writes_is_equal() {
    copy_under_writes(1);
}

#[test]
fn a_copy_of_two_flows_under_live_writes_is_equal() {
    copy_under_writes(2);
}

#[test]
fn a_copy_of_five_flows_under_live_writes_is_equal() {
    copy_under_writes(5);
}

#[test]
fn flushes_between_writes_of_several_flows_take_effect_at_their_place() {
    scenarios::flushes_meet_writes(&dragonfly(3), &RedisServer::start());
}

#[test]
fn a_flushall_during_the_snapshot_starts_it_again() {
    scenarios::a_flush_in_a_held_snapshot(&dragonfly(2), &RedisServer::start(), "FLUSHALL");
}

#[test]
fn a_flushdb_during_the_snapshot_starts_it_again() {
    scenarios::a_flush_in_a_held_snapshot(&dragonfly(2), &RedisServer::start(), "FLUSHDB");
}

#[test]
fn kills_under_load_lose_and_repeat_nothing() {
    for flows in [1, 3] {
        let source = dragonfly(flows);
        scenarios::kills_lose_and_repeat_nothing(&source, &RedisServer::start(), 10, || ());
    }
}

#[test]
fn a_replica_that_was_promoted_is_followed_where_its_master_was() {
    for promotion in ["REPLTAKEOVER 5", "REPLICAOF NO ONE"] {
        let (master, replica, target) = (dragonfly(2), dragonfly(2), RedisServer::start());
        let port = master.port().to_string();
        let mut on_replica = Client::connect(replica.port());
        on_replica.ok(&["REPLICAOF", "127.0.0.1", &port]);
        let proxy = Proxy::to(&format!("127.0.0.1:{port}"));
        let task = Task::between(&proxy.address(), &target.address());
        let mut running = task.start_stable();
        let mut client = Client::connect(master.port());
        let level = |client: &mut Client, replicas: i64| {
            let wanted = replicas.to_string();
            eventually("the replicas are level", || {
                client.ok(&["WAIT", &wanted, "1000"]).int() == Some(replicas)
            });
        };
        (0..50).for_each(|round| scenarios::unrepeatable(&mut client, round));
        level(&mut client, 2);
        on_replica.ok(&words(promotion));
        drop((client, master));
        proxy.lead_to(&format!("127.0.0.1:{}", replica.port()));
        proxy.cut();
        (50..100).for_each(|round| scenarios::unrepeatable(&mut on_replica, round));
        running.wait_logged("the source goes on in the place of the master it was a replica of");
        level(&mut on_replica, 1);
        assert_eq!(compare(replica.port(), target.port()), Vec::<String>::new());
        assert_eq!(running.count_logged("full sync started"), 1, "{promotion}");
        running.stop();
    }
}

#[test]
fn sessions_that_are_kept_alive_outlive_an_outage_longer_than_they_are() {
    let ms = std::time::Duration::from_millis;
    let times = (ms(4_000), ms(1_000), ms(7_000));
    late::sessions_outlive_an_outage(&dragonfly(2), &RedisServer::start(), times);
}

#[test]
fn a_key_that_is_written_all_the_time_is_read_between_two_writes() {
    for flows in [1, 2] {
        late::a_busy_key_is_read_exactly(&dragonfly(flows), &RedisServer::start());
    }
}

#[test]
fn keys_that_the_source_deleted_unseen_are_removed_after_a_full_sync() {
    let (source, target) = (dragonfly(3), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let mut client = Client::connect(source.port());
    scenarios::seed(&mut client);
    task.start_stable().stop();
    for n in 0..20 {
        client.ok(&["DEL", &format!("l:{n}")]);
    }
    // More than the source keeps of its journal.
    for n in 0..40_000 {
        client.ok(&["INCR", &format!("passed:{}", n % 50)]);
    }
    let mut running = task.start();
    running.wait_logged("the source no longer has what was written since");
    running.wait_logged("the target has no keys that the source does not have");
    assert_equal(&source, target.port());
    running.stop();
}

#[test]
fn sigterm_in_stable_sync_finishes_what_is_in_flight() {
    scenarios::a_stop_drains(&dragonfly(3), &RedisServer::start());
}

#[test]
fn a_wait_of_a_client_ends_as_soon_as_the_target_has_its_write() {
    scenarios::waits_end_promptly(&dragonfly(2), &RedisServer::start());
}

/// One or more of each family of write commands; those that the master's journal gets wrong are in `defects`. What `XCLAIM` and `XAUTOCLAIM` claim is acknowledged
/// before it is compared: they carry no time, so that it is the target's when they come.
const FAMILIES: &[&str] = &[
    "SET s1 v",
    "SET s2 v EX 100000",
    "SET s3 v PX 100000000",
    "SET s4 v PXAT 1924992000000",
    "SET s5 v NX",
    "SET s5 w XX KEEPTTL",
    "SET s5 z GET",
    "SETNX s6 a",
    "SETNX s6 b",
    "SETEX s7 100000 v",
    "PSETEX s8 100000000 v",
    "GETSET s9 x",
    "GETDEL s9",
    "GETEX s1 EX 100000",
    "GETEX s1 PERSIST",
    "MSET m1 1 m2 2 m3 3 m4 4",
    "MSETNX mn1 1 mn2 2",
    "APPEND ap abc",
    "SETRANGE ap 2 ZZ",
    "INCR i",
    "INCRBY i 10",
    "DECR i",
    "DECRBY i 3",
    "INCRBYFLOAT fl 1.5",
    "INCRBYFLOAT fl 2.25",
    "SETBIT bm 7 1",
    "BITOP OR bmdst bm ap",
    "BITFIELD bf SET u8 0 200 INCRBY u8 0 10",
    "RPUSH li a b c d e",
    "LPUSH li z",
    "LPUSHX li y",
    "RPUSHX nolist y",
    "LPOP li",
    "RPOP li 2",
    "LSET li 0 set",
    "LINSERT li BEFORE b ins",
    "LREM li 1 c",
    "LTRIM li 0 5",
    "RPOPLPUSH li li2",
    "LMOVE li li2 LEFT RIGHT",
    "LMPOP 1 li2 LEFT COUNT 1",
    "BLPOP li2 1",
    "RPUSH li3 1 2 3",
    "BRPOPLPUSH li3 li4 1",
    "BLMOVE li3 li4 LEFT LEFT 1",
    "SADD se a b c 1 2",
    "SREM se a nomember",
    "SPOP se",
    "SPOP se 2",
    "SADD se2 x y",
    "SMOVE se2 se x",
    "SUNIONSTORE sed se se2",
    "SINTERSTORE sei se se2",
    "SDIFFSTORE sdf se se2",
    "HSET ha a 1 b 2",
    "HMSET ha c 3",
    "HSETNX ha d 4",
    "HDEL ha a",
    "HINCRBY ha n 5",
    "HINCRBYFLOAT ha f 1.25",
    "ZADD zs 1 a 2 b 3 c 4 d 5 e",
    "ZADD zs XX CH 10 a",
    "ZADD zs GT 1 a",
    "ZADD zs INCR 2.5 b",
    "ZINCRBY zs 1.5 c",
    "ZREM zs d",
    "ZPOPMIN zs",
    "ZPOPMAX zs 1",
    "ZADD zs2 1 x 2 y 3 z 4 w",
    "BZPOPMIN zs2 1",
    "ZREMRANGEBYRANK zs2 0 0",
    "ZREMRANGEBYSCORE zs2 0 1",
    "ZUNIONSTORE zsu 2 zs zs2",
    "ZINTERSTORE zsi 2 zs zs2",
    "ZRANGESTORE zsr zsu 0 -1",
    "ZDIFFSTORE zsd 2 zsu zs",
    "GEOADD ge 13.361389 38.115556 P",
    "ZMPOP 1 zsu MIN",
    "XADD xs * a 1",
    "XADD xs NOMKSTREAM * a 2",
    "XADD xs MAXLEN ~ 100 * a 3",
    "XADD xs MAXLEN 2 * a 4",
    "XADD xs MINID 1 * a 5",
    "XGROUP CREATE xs g 0",
    "XGROUP CREATE xnew g $ MKSTREAM",
    "XREADGROUP GROUP g c1 COUNT 2 STREAMS xs >",
    "XREADGROUP GROUP g c1 NOACK STREAMS xs >",
    "XADD xq 1-1 a b",
    "XADD xq 2-1 a b",
    "XGROUP CREATE xq g 0",
    "XREADGROUP GROUP g c1 STREAMS xq >",
    "XAUTOCLAIM xq g c2 0 0",
    "XACK xq g 1-1 2-1",
    "XADD xk 1-1 a b",
    "XADD xk 2-1 a b",
    "XGROUP CREATE xk g 0",
    "XREADGROUP GROUP g c1 STREAMS xk >",
    "XCLAIM xk g c2 0 1-1",
    "XACK xk g 1-1",
    "XGROUP CREATECONSUMER xk g c9",
    "XGROUP DELCONSUMER xk g c9",
    "XDEL xk 1-1",
    "XTRIM xk MAXLEN 1",
    "XSETID xk 9-9",
    "XGROUP DESTROY xnew g",
    "PFADD pf1 a b",
    "PFADD pf2 c",
    "EXPIRE s1 100000",
    "PEXPIRE s1 100000000",
    "EXPIREAT s1 1924992000",
    "PEXPIREAT s1 1924992000000",
    "EXPIRE s1 200000 GT",
    "PERSIST s1",
    "EXPIRE m1 -1",
    "RENAME m2 m2r",
    "RENAMENX m3 m3r",
    "COPY m4 m4c",
    "MOVE m4 1",
    "TOUCH m4c",
    "UNLINK m4c",
    "DEL m2r m3r nokey",
    "STICK s2",
    "MULTI",
    "SET tx1 1",
    "INCR txn",
    "RPUSH txl a",
    "EXEC",
    "SELECT 1",
    "SET other db",
    "INCR otherc",
    "SELECT 0",
    "SET back 1",
];

/// Scripts, and arguments with blanks.
fn scripts(client: &mut Client) {
    let set = "redis.call('set',KEYS[1],ARGV[1]); redis.call('incr',KEYS[2]); return 1";
    client.ok(&["EVAL", set, "2", "lua1", "lua2", "v"]);
    let push = "for i=1,3 do redis.call('rpush',KEYS[1],i) end";
    client.ok(&["EVAL", push, "1", "lua3"]);
    client.ok(&["SET", "a b\r\n", "c d"]);
}

/// The lines that a target can hold the outcome of: streams of before Redis 7.0 count nothing, so they are compared
/// with recordings only.
fn families(target: Target) -> Vec<&'static str> {
    let streams = |line: &&str| target.counts_stream_entries() || !line.starts_with('X');
    FAMILIES.iter().copied().filter(streams).collect()
}

fn every_command_family_has_its_effect_in_stable_sync(target: Target) {
    for flows in [1, 3] {
        let (source, server) = (dragonfly(flows), target.start());
        let task = Task::between(&source.address(), &server.address());
        let running = task.start_stable();
        let mut client = source.client();
        run(&mut client, &families(target));
        scripts(&mut client);
        assert_equal(&source, server.port());
        running.stop();
    }
}

on_every_target!(every_command_family_has_its_effect_in_stable_sync);

fn every_command_family_is_in_the_snapshot(target: Target) {
    let (source, server) = (dragonfly(2), target.start());
    let mut client = source.client();
    run(&mut client, &families(target));
    scripts(&mut client);
    let task = Task::between(&source.address(), &server.address());
    let running = task.start_stable();
    assert_equal(&source, server.port());
    running.stop();
}

on_every_target!(every_command_family_is_in_the_snapshot);

/// Documents, filters and fields that expire, on a target that has all of them.
#[test]
fn documents_and_fields_that_expire_arrive_where_the_target_has_them() {
    let (source, target) = (dragonfly(2), Target::Redis82.start_with_modules());
    let mut client = source.client();
    let of = |n: u32| -> Vec<String> {
        [
            r#"JSON.SET js# $ {"b":[1,2.5,"x",null,true],"a":{"n":1},"big":9223372036854775807}"#,
            "JSON.NUMINCRBY js# $.a.n 41",
            "JSON.ARRAPPEND js# $.b 7",
            "HSET ha# stays 1 a 1",
            "HSETEX ha# 100000 t 1",
            "FIELDEXPIRE ha# 200000 a",
        ]
        .map(|line| line.replace('#', &n.to_string()))
        .to_vec()
    };
    let run_lines = |client: &mut Client, lines: &[String]| {
        run(
            client,
            &lines.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    };
    run_lines(&mut client, &of(1));
    // A snapshot of these cannot be converted, commands of the journal are the same.
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    run_lines(&mut client, &of(2));
    run(
        &mut client,
        &[
            "BF.ADD bl x",
            "CMS.INITBYDIM cm 100 5",
            "CMS.INCRBY cm x 3",
            "TOPK.RESERVE tk 2",
            "CF.ADD cf x",
        ],
    );
    settled(&source);
    let mut there = target.client();
    for n in [1, 2] {
        let key = format!("js{n}");
        let question = ["JSON.GET", &key];
        // The source puts members of objects in alphabetical order, the module keeps the order in which they came.
        let [ours, theirs] = [&mut there, &mut client].map(|client| {
            let text = client.ok(&question).text();
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
        });
        assert_eq!(ours, theirs, "{key}");
        let question = format!("HTTL ha{n} FIELDS 3 stays t a");
        let ttl = there.ok(&words(&question));
        let ttl: Vec<i64> = ttl.items().iter().filter_map(support::Reply::int).collect();
        assert_eq!(ttl[0], -1);
        assert!((99_900..=100_000).contains(&ttl[1]), "{ttl:?}");
        assert!((199_900..=200_000).contains(&ttl[2]), "{ttl:?}");
    }
    for (question, expected) in [("BF.EXISTS bl x", "1"), ("CF.EXISTS cf x", "1")] {
        assert_eq!(there.ok(&words(question)), expected);
    }
    assert_eq!(there.ok(&words("CMS.QUERY cm x")).items()[0], "3");
    assert_eq!(there.ok(&["TYPE", "tk"]), "TopK-TYPE");
    running.stop();
}

#[test]
fn a_group_that_is_moved_keeps_its_count_of_entries_read() {
    let (source, target) = (dragonfly(2), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let lines = [
        "XADD xk 1-1 a b",
        "XADD xk 2-1 a b",
        "XGROUP CREATE xk g 0",
        "XREADGROUP GROUP g c NOACK STREAMS xk >",
        "XGROUP SETID xk g 1-1",
    ];
    run(&mut source.client(), &lines);
    assert_equal(&source, target.port());
    running.stop();
}

#[test]
fn what_only_dragonfly_has_is_left_out_or_translated() {
    let (source, target) = (dragonfly(2), RedisServer::start());
    let lines = [
        "SADDEX sex 100000 m1",
        "HSET ha b 1",
        "HSETEX ha 100000 t 1",
        "FIELDEXPIRE ha 100000 b",
        "JSON.SET js $ {\"a\":1}",
        "BF.ADD bl x",
        "CL.THROTTLE throttle 15 30 60",
        "SET plain 1",
    ];
    let mut client = source.client();
    run(&mut client, &lines);
    let task = Task::between(&source.address(), &target.address())
        .skipping_unsupported()
        .with("policy.on_member_expiry = \"drop\"");
    let mut running = task.start_stable();
    let again: Vec<String> = lines
        .iter()
        .map(|line| {
            let mut words = words(line);
            let key = format!("{}:2", words[1]);
            words[1] = &key;
            words.join(" ")
        })
        .collect();
    run(
        &mut client,
        &again.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    settled(&source);
    for line in ["kind: json", "expiry of single members was dropped"] {
        running.wait_logged(line);
    }
    let mut there = target.client();
    for key in ["plain", "plain:2", "sex", "sex:2", "ha", "ha:2"] {
        assert_eq!(there.ok(&["EXISTS", key]), "1", "{key}");
    }
    assert_eq!(there.ok(&words("HMGET ha:2 b t")).items().len(), 2);
    for key in ["js", "js:2", "bl", "bl:2"] {
        assert_eq!(there.ok(&["EXISTS", key]), "0", "{key}");
    }
    running.stop();
}

#[test]
fn keys_that_expire_at_the_source_are_gone_from_the_target() {
    let (source, target) = (dragonfly(2), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut client = source.client();
    for n in 0..50 {
        client.ok(&["SET", &format!("k{n}"), "v", "PX", "200"]);
        client.ok(&["SET", &format!("s{n}"), "v", "PX", "90000000"]);
    }
    settled(&source);
    eventually("the short-lived keys gone", || {
        target.client().ok(&["EXISTS", "k0", "k25", "k49"]) == "0"
    });
    eventually("the same at the source", || {
        client.ok(&["EXISTS", "k0", "k25", "k49"]) == "0"
    });
    // Reading them makes the source notice, and journal, that they have expired.
    (0..50).for_each(|n| drop(client.ok(&["GET", &format!("k{n}")])));
    assert_equal(&source, target.port());
    running.stop();
}

#[test]
fn hyperloglogs_that_were_merged_count_the_same() {
    let (source, target) = (dragonfly(3), RedisServer::start());
    let mut client = source.client();
    let merge = |client: &mut Client, at: &str| {
        for n in 0..10 {
            let [a, b, c] = ["a", "b", "c"].map(|name| format!("{name}:{at}:{n}"));
            client.ok(&["PFADD", &a, "1", "2", &n.to_string()]);
            client.ok(&["PFADD", &b, "3"]);
            client.ok(&["PFMERGE", &c, &a, &b]);
            client.ok(&["SET", &format!("plain:{at}:{n}"), "1"]);
        }
    };
    merge(&mut client, "snapshot");
    // The copies that stay in the wrong shards are older than what follows.
    for n in 0..10 {
        client.ok(&["PFADD", &format!("c:snapshot:{n}"), "4", "5", "6"]);
    }
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    merge(&mut client, "journal");
    settled(&source);
    let mut there = target.client();
    for at in ["snapshot", "journal"] {
        for n in 0..10 {
            let key = format!("c:{at}:{n}");
            let (wanted, found) = (client.ok(&["GET", &key]), there.ok(&["GET", &key]));
            assert!(wanted == found, "{key} differs");
        }
    }
    running.stop();
}

#[test]
fn values_above_the_budget_arrive_whole_while_they_are_written() {
    let (source, target) = (dragonfly(2), RedisServer::start());
    let mut client = source.client();
    let element = "e".repeat(1000);
    for n in 0..300 {
        let some: Vec<String> = (0..100).map(|m| format!("{n}:{m}:{element}")).collect();
        let list = ["RPUSH", "list"]
            .into_iter()
            .chain(some.iter().map(String::as_str));
        client.ok(&list.collect::<Vec<_>>());
        let fields = some.iter().flat_map(|field| [&field[..8], field.as_str()]);
        client.ok(&["HSET", "hash"]
            .into_iter()
            .chain(fields)
            .collect::<Vec<_>>());
        let scores = some.iter().flat_map(|member| ["1.5", member.as_str()]);
        client.ok(&["ZADD", "zset"]
            .into_iter()
            .chain(scores)
            .collect::<Vec<_>>());
    }
    client.ok(&["SETRANGE", "string", &(40 << 20).to_string(), "end"]);
    let task =
        Task::between(&source.address(), &target.address()).with("limits.memory = \"16MiB\"");
    let mut running = task.start();
    running.wait_logged("full sync started");
    for n in 0..300 {
        client.ok(&["RPUSH", "list", &n.to_string()]);
        client.ok(&["HSET", "hash", &n.to_string(), "new"]);
    }
    running.wait_stable();
    let large = "x".repeat(20 << 20);
    client.ok(&["SET", "late", &large]);
    let many: Vec<String> = (0..60_000).map(|n| format!("element {n}")).collect();
    let push = ["RPUSH", "long"]
        .into_iter()
        .chain(many.iter().map(String::as_str));
    client.ok(&push.collect::<Vec<_>>());
    assert_equal(&source, target.port());
    assert_eq!(task.state_files(), Vec::<String>::new());
    running.stop();
}

#[test]
fn many_starts_and_stops_leave_a_master_that_answers() {
    let (source, target) = (dragonfly(4), RedisServer::start());
    let mut client = source.client();
    let task = Task::between(&source.address(), &target.address());
    for n in 0..5 {
        client.ok(&["INCR", "n"]);
        let running = task.start_stable();
        client.ok(&["SET", &format!("k{n}"), "v"]);
        running.stop();
    }
    let killed = task.start_stable();
    killed.signal(nix::sys::signal::Signal::SIGKILL);
    drop(killed);
    eventually("the replica gone from INFO replication", || {
        scenarios::replica_of(&source).is_none()
    });
    let running = task.start_stable();
    assert_equal(&source, target.port());
    assert_eq!(compare(source.port(), target.port()), Vec::<String>::new());
    running.stop();
}
