//! A target that cannot be reached, is something else, or goes away and comes back.

use crate::impostors::{Answer, BlackHole, Impostor};
use crate::program::{Task, source};
use crate::support::redis_server::free_port;
use crate::support::tls::TlsProxy;
use crate::support::{RedisServer, SimulatedDragonfly};

#[test]
fn a_refused_target_is_tried_until_it_is_there() {
    let source = source();
    let mut target = RedisServer::start();
    target.kill();
    let address = target.address();
    let mut running = Task::between(&source, &target).start();
    let why = format!(
        "cannot reach the target {address}: cannot connect to {address}: Connection refused"
    );
    running.retries(1, &why);
    running.retries(
        2,
        "check target.address, target.tls, and that the server runs",
    );
    target.restart();
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn giving_up_on_a_target_ends_with_69_and_the_last_error() {
    let source = SimulatedDragonfly::start();
    let refused = format!("127.0.0.1:{}", free_port());
    let hole = BlackHole::start();
    let silent = Impostor::start(Answer::Silence);
    for (address, why) in [
        (refused, "Connection refused"),
        (hole.address(), "within 150ms"),
        (
            silent.address(),
            "did not answer within 150ms while logging in",
        ),
        (
            "no-such-host.invalid:6379".to_owned(),
            "cannot resolve \"no-such-host.invalid\"",
        ),
    ] {
        let timeout = if address.contains("invalid") {
            "20s"
        } else {
            "150ms"
        };
        let task = Task::new(&source.address(), &address);
        let task = task.target(&format!("connect_timeout = \"{timeout}\""));
        let ended = task.giving_up().run();
        ended
            .with(69, &["gave up after 250ms", &address, why])
            .after_retries();
    }
}

#[test]
fn a_target_that_is_no_redis_ends_with_76() {
    let source = SimulatedDragonfly::start();
    let http = Impostor::start(Answer::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let ended = Task::new(&source.address(), &http.address()).run();
    let hint = "check the port in target.address, and whether it wants TLS (target.tls)";
    ended.with(
        76,
        &[&http.address(), "does not speak the Redis protocol", hint],
    );
}

#[test]
fn tls_where_there_is_none_and_none_where_there_is_are_recognised() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let proxy = TlsProxy::start(target.port());
    let proxied = format!("127.0.0.1:{}", proxy.port());
    let ended = Task::new(&source.address(), &proxied).giving_up().run();
    ended.with(76, &[&proxied, "whether it wants TLS (target.tls)"]);
    let task = Task::between(&source, &target).target("connect_timeout = \"300ms\"");
    let task = task.tables("[target.tls]\ninsecure_skip_verify = true");
    let why = format!("TLS handshake with {} failed", target.address());
    task.giving_up()
        .run()
        .with(69, &[&why, "check target.address, target.tls"]);
}

#[test]
fn a_node_of_a_cluster_ends_with_78_and_the_setting_for_it() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let ended = Task::between(&source, &target).run();
    let why = "is a node of a Redis Cluster";
    ended.with(
        78,
        &[
            &target.address(),
            why,
            "set target.type = \"redis-cluster\"",
        ],
    );
}

#[test]
fn a_database_that_the_target_lacks_ends_with_78_and_the_settings_for_it() {
    let source = source();
    source.client().ok(&["SET", "in the first", "1"]);
    let mut third = source.client();
    third.ok(&["SELECT", "3"]);
    third.ok(&["SET", "in the third", "1"]);
    let target = RedisServer::start_with(&["--databases", "1"]);
    let ended = Task::between(&source, &target).run();
    ended.with(
        78,
        &[
            &target.address(),
            "has no database 3",
            "raise \"databases\" on the target, or map",
        ],
    );
}

#[test]
fn a_target_that_loads_its_data_is_waited_for() {
    let source = source();
    let target = RedisServer::start();
    let loading = b"-LOADING Redis is loading the dataset in memory\r\n";
    let way = Impostor::start(Answer::Bytes(loading));
    let mut running = Task::new(&source.address(), &way.address()).start();
    running.retries(
        2,
        "is not ready, logging in: LOADING Redis is loading the dataset in memory",
    );
    way.becomes(Answer::From(target.port()));
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn a_target_with_too_many_clients_is_waited_for() {
    let source = source();
    let target = RedisServer::start();
    let mut only = target.client();
    only.ok(&["CONFIG", "SET", "maxclients", "1"]);
    let mut running = Task::between(&source, &target).start();
    // Now and then the end of the connection is seen before its reason.
    running.says(&[
        "session ended",
        "max number of clients reached",
        "wait_ms: ",
    ]);
    only.ok(&["CONFIG", "SET", "maxclients", "100"]);
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn killed_connections_are_made_anew_and_everything_arrives() {
    let source = source();
    let target = RedisServer::start();
    let mut running = Task::between(&source, &target).start();
    running.follows(1);
    let mut writer = source.client();
    for n in 2..=3 {
        for i in 0..500 {
            writer.ok(&["INCR", &format!("n:{}", i % 7)]);
            if i == 250 {
                target
                    .client()
                    .ok(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            }
        }
        running.follows(n);
    }
    running.says(&[
        "target lost, reading on into the spool",
        &format!("lost the target {}", target.address()),
    ]);
    running.ends_equal(&source, &target);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    running.stops();
}

#[test]
fn a_target_that_comes_back_empty_is_filled_again() {
    let source = source();
    let mut target = RedisServer::start();
    let mut running = Task::between(&source, &target).start();
    running.follows(1);
    running.ends_equal(&source, &target);
    target.kill();
    source.client().ok(&["APPEND", "s:1", "while it is gone"]);
    running.says(&["target not reached, reading on", "Connection refused"]);
    target.restart();
    running.follows(2);
    running.ends_equal(&source, &target);
    running.says(&[
        "session ended, another follows",
        "no longer holds what this task wrote: its positions are not of this session",
    ]);
    running.stops();
}

#[test]
fn a_second_process_takes_over_and_the_first_one_ends_with_73_and_says_by_whom() {
    let (source, target) = (source(), RedisServer::start());
    let mut first = Task::between(&source, &target).start();
    first.follows(1);
    let mut second = Task::between(&source, &target).start();
    // Nothing is written meanwhile: the first one notices when it keeps its connections alive.
    let by = format!("process {} on host ", second.pid());
    let ended = first.ended();
    ended.with(
        73,
        &[
            "another process of this task has taken over the target",
            &target.address(),
            &by,
            "only one process can run a task",
        ],
    );
    let mut writer = source.client();
    for n in 0..300 {
        writer.ok(&["INCR", &format!("n:{}", n % 7)]);
    }
    second.ends_equal(&source, &target);
    second.stops();
}
