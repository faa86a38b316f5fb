//! A source that cannot be reached, is something else, refuses, or goes away before the snapshot.

use crate::impostors::{Answer, BlackHole, Impostor};
use crate::program::{Task, filled, source};
use crate::support::dragonfly::Fault;
use crate::support::redis_server::free_port;
use crate::support::tls::TlsProxy;
use crate::support::{RedisServer, SimulatedDragonfly};

const TLS_HINT: &str =
    "check that the port speaks TLS, and the CA and server name under [source.tls]";

#[test]
fn a_name_that_does_not_resolve_is_tried_again_and_named_when_giving_up() {
    let target = RedisServer::start();
    let task = Task::new("no-such-host.invalid:6379", &target.address())
        .source("connect_timeout = \"20s\"");
    let ended = task.giving_up().run();
    let why = "cannot resolve \"no-such-host.invalid\"";
    ended
        .with(69, &["gave up after 250ms", "source", why])
        .after_retries();
}

#[test]
fn a_refused_port_is_tried_until_a_source_listens_there() {
    let target = RedisServer::start();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut running = Task::new(&address, &target.address()).start();
    let why = format!(
        "source {address}: cannot reach the source: cannot connect to {address}: Connection refused"
    );
    running.retries(1, &why);
    running.retries(2, &why);
    let source = filled(SimulatedDragonfly::options().port(port));
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn giving_up_names_the_last_error_and_ends_with_69() {
    let target = RedisServer::start();
    let address = format!("127.0.0.1:{}", free_port());
    let ended = Task::new(&address, &target.address()).giving_up().run();
    let why = format!("cannot connect to {address}: Connection refused");
    ended
        .with(69, &["gave up after 250ms: source ", &why])
        .after_retries();
    assert!(ended.log.contains(" ERRO giving up"), "{}", ended.log);
}

#[test]
fn an_unreachable_address_is_waited_for_as_long_as_configured() {
    let target = RedisServer::start();
    let hole = BlackHole::start();
    let task = Task::new(&hole.address(), &target.address()).source("connect_timeout = \"150ms\"");
    let why = format!("no answer from {} within 150ms", hole.address());
    task.giving_up().run().with(69, &[&why]).after_retries();
}

#[test]
fn a_wrong_password_ends_with_77_and_names_the_keys_of_the_task_file() {
    let target = RedisServer::start();
    let source = SimulatedDragonfly::options()
        .require_password("right")
        .start();
    let ended = Task::between(&source, &target)
        .source("password = \"wrong\"")
        .run();
    let hint = "check username and password under [source]";
    ended.with(
        77,
        &[
            &source.address(),
            "refuses the user or the password: WRONGPASS",
            hint,
        ],
    );
    let ended = Task::between(&source, &target).run();
    ended.with(
        77,
        &[
            &source.address(),
            "requires a password and none is configured",
            hint,
        ],
    );
}

#[test]
fn a_missing_permission_is_named_with_the_command_that_grants_it() {
    let target = RedisServer::start();
    for (commands, missing) in [
        (&["ping", "replconf"][..], "+dfly"),
        (&["ping", "dfly"], "+replconf"),
        (&["replconf", "dfly"], "+ping"),
    ] {
        let options = SimulatedDragonfly::options().require_password("other");
        let source = options.user("copier", "right", Some(commands)).start();
        let task =
            Task::between(&source, &target).source("username = \"copier\"\npassword = \"right\"");
        let lacks = format!("lacks the permission {missing}: NOPERM");
        task.run().with(
            77,
            &[
                &source.address(),
                &lacks,
                "ACL SETUSER <user> +replconf +dfly +ping",
            ],
        );
    }
}

#[test]
fn a_user_with_the_permissions_of_the_hint_can_copy() {
    let target = RedisServer::start();
    let commands = ["ping", "replconf", "dfly"];
    let options = SimulatedDragonfly::options();
    let source = filled(options.user("copier", "right", Some(&commands)));
    let task =
        Task::between(&source, &target).source("username = \"copier\"\npassword = \"right\"");
    let mut running = task.start();
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn a_restricted_command_ends_with_77_and_points_to_the_admin_port() {
    let target = RedisServer::start();
    let source = SimulatedDragonfly::start();
    source.inject(Fault::Answer {
        command: "REPLCONF",
        with: "-ERR Cannot execute restricted command (admin only)",
        times: 1,
    });
    let ended = Task::between(&source, &target).run();
    ended.with(
        77,
        &[
            &source.address(),
            "serves REPLCONF on its admin port only",
            "--admin_port",
        ],
    );
}

#[test]
fn a_source_that_is_itself_a_replica_ends_with_78() {
    let target = RedisServer::start();
    let source = SimulatedDragonfly::start();
    source.inject(Fault::Answer {
        command: "REPLCONF",
        with: "-ERR Replicating a replica is unsupported",
        times: 1,
    });
    let ended = Task::between(&source, &target).run();
    ended.with(
        78,
        &[
            &source.address(),
            "is itself a replica",
            "name its master as source.address",
        ],
    );
}

#[test]
fn a_source_that_loads_its_data_is_waited_for() {
    let target = RedisServer::start();
    let source = source();
    source.inject(Fault::Answer {
        command: "PING",
        with: "-LOADING Dragonfly is loading the dataset in memory",
        times: 3,
    });
    let mut running = Task::between(&source, &target).start();
    running.ends_equal(&source, &target);
    for attempt in 1..=3 {
        running.retries(attempt, "the source is still loading its data");
    }
    running.stops();
}

#[test]
fn what_is_no_dragonfly_ends_with_76_and_is_quoted() {
    let target = RedisServer::start();
    let redis = RedisServer::start();
    let hint = "source.address must be a Dragonfly master's port, not Redis or a proxy";
    let ended = Task::new(&redis.address(), &target.address()).run();
    ended.with(76, &[&redis.address(), "is not a Dragonfly master", hint]);
    let http = Impostor::start(Answer::Bytes(
        b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
    ));
    let ended = Task::new(&http.address(), &target.address()).run();
    ended.with(
        76,
        &[
            &http.address(),
            "answered PING with HTTP/1.1 400 Bad Request",
            hint,
        ],
    );
}

#[test]
fn an_answer_without_end_is_given_up_on_in_bounded_memory() {
    let target = RedisServer::start();
    for endless in [
        &b"+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..],
        b"$18446744073709551615\r\n",
        b"*9999999999\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
    ] {
        let source = Impostor::start(Answer::Bytes(endless));
        let task = Task::new(&source.address(), &target.address()).source("connect_timeout = \"300ms\"");
        let ended = task.giving_up().run();
        assert!(matches!(ended.code, Some(69 | 76)), "{}", ended.stderr);
        assert!(ended.stderr.contains("PING"), "{}", ended.stderr);
    }
}

#[test]
fn a_silent_source_is_waited_for_as_long_as_configured() {
    let target = RedisServer::start();
    let silent = Impostor::start(Answer::Silence);
    let task =
        Task::new(&silent.address(), &target.address()).source("connect_timeout = \"150ms\"");
    let ended = task.giving_up().run();
    ended
        .with(69, &[&silent.address(), "did not answer PING within 150ms"])
        .after_retries();
}

#[test]
fn tls_on_a_port_without_it_says_so() {
    let target = RedisServer::start();
    let source = SimulatedDragonfly::start();
    let tls = "[source.tls]\ninsecure_skip_verify = true";
    // One answers the unknown request, the other waits for its end.
    let talks = Impostor::start(Answer::Bytes(b"-ERR Protocol error\r\n"));
    for address in [source.address(), talks.address()] {
        let task = Task::new(&address, &target.address()).source("connect_timeout = \"300ms\"");
        let ended = task.tables(tls).giving_up().run();
        let why = format!("TLS handshake with {address} failed");
        ended.with(69, &[&why, TLS_HINT]).after_retries();
    }
}

#[test]
fn a_port_that_wants_tls_is_recognised() {
    let target = RedisServer::start();
    let source = SimulatedDragonfly::start();
    let proxy = TlsProxy::start(source.port());
    let proxied = format!("127.0.0.1:{}", proxy.port());
    let words = Impostor::start(Answer::Bytes(
        b"-ERR Bad TLS header, double check if you enabled TLS for your client.\r\n",
    ));
    for address in [proxied, words.address()] {
        let ended = Task::new(&address, &target.address()).giving_up().run();
        ended.with(
            78,
            &[
                &address,
                "expects TLS on this port",
                "add a [source.tls] table",
            ],
        );
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let target = RedisServer::start();
    let source = SimulatedDragonfly::start();
    let proxy = TlsProxy::start(source.port());
    let other = TlsProxy::start(source.port());
    let address = format!("127.0.0.1:{}", proxy.port());
    let tls = format!("[source.tls]\nca = \"{}\"", other.ca().display());
    let ended = Task::new(&address, &target.address())
        .tables(&tls)
        .giving_up()
        .run();
    let why = format!("TLS handshake with {address} failed: invalid peer certificate");
    ended.with(69, &[&why, TLS_HINT]);
}

#[test]
fn a_source_that_closes_during_the_handshake_is_tried_again_each_time() {
    let target = RedisServer::start();
    let source = source();
    let requests = [
        "PING",
        "REPLCONF LISTENING-PORT",
        "REPLCONF CAPA DRAGONFLY",
        "REPLCONF CLIENT-VERSION",
        "DFLY FLOW",
        "DFLY SYNC",
        "DFLY STARTSTABLE",
    ];
    for command in requests {
        source.inject(Fault::CloseAt { command });
    }
    let mut running = Task::between(&source, &target).start();
    running.ends_equal(&source, &target);
    for attempt in 1..=requests.len() {
        running.retries(attempt as u32, "the source closed ");
    }
    running.retries(
        1,
        "the source closed the control connection during the handshake",
    );
    running.retries(7, "during the snapshot");
    running.stops();
}

#[test]
fn a_number_of_flows_that_changes_is_tried_again_until_it_is_true() {
    let target = RedisServer::start();
    let source = source();
    source.inject(Fault::FlowCount { flows: 3 });
    let mut running = Task::between(&source, &target).start();
    running.retries(1, "the source's number of flows changed: 3 were announced");
    source.clear_faults();
    source.inject(Fault::FlowCount { flows: 1 });
    running.says(&[
        "session ended",
        "the source dropped the session at DFLY SYNC",
    ]);
    source.clear_faults();
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn a_handshake_that_makes_no_sense_ends_with_76() {
    let target = RedisServer::start();
    for (command, with) in [
        (
            "REPLCONF CAPA DRAGONFLY",
            "*4\r\n+not an id\r\n+SYNC1\r\n:2\r\n:5",
        ),
        ("REPLCONF CAPA DRAGONFLY", "*1\r\n+x"),
        ("DFLY FLOW", "*2\r\n+FULL\r\n+short"),
    ] {
        let source = SimulatedDragonfly::start();
        source.inject(Fault::Answer {
            command,
            with,
            times: 1,
        });
        let ended = Task::between(&source, &target).run();
        ended.with(76, &[&source.address(), "the source answered "]);
    }
    let source = SimulatedDragonfly::start();
    source.inject(Fault::FlowCount { flows: 5000 });
    let ended = Task::between(&source, &target).run();
    ended.with(
        76,
        &["the source answered REPLCONF capa dragonfly with an array of 5"],
    );
}

#[test]
fn a_master_id_that_is_no_longer_right_means_a_new_session() {
    let target = RedisServer::start();
    let source = source();
    source.inject(Fault::Answer {
        command: "DFLY FLOW",
        with: "-ERR bad master id",
        times: 1,
    });
    let mut running = Task::between(&source, &target).start();
    running.ends_equal(&source, &target);
    running.retries(1, "the source was restarted during the handshake");
    running.stops();
}

#[test]
fn a_source_that_is_restarted_is_copied_again() {
    let target = RedisServer::start();
    let mut first = source();
    let way = Impostor::start(Answer::From(first.port()));
    let mut running = Task::new(&way.address(), &target.address()).start();
    running.follows(1);
    first.stop();
    running.retries(1, "the source closed ");
    running.retries(2, "the source closed ");
    let second = source();
    second.client().ok(&["SET", "s:1", "new"]);
    way.becomes(Answer::From(second.port()));
    running.follows(2);
    running.ends_equal(&second, &target);
    running.stops();
}
