//! `config check --connect`: what is found out about both servers before a task starts, and that nothing is changed.

use crate::audited::wait_repaired;
use crate::df2redis::{Checked, Task};
use crate::support::dragonfly::{Fault, Options, Record, Value};
use crate::support::redis_server::free_port;
use crate::support::{Client, Dataset, RedisServer, SimulatedDragonfly, compare, eventually};

/// A source whose settings are all as they should be.
fn well_set() -> Options {
    SimulatedDragonfly::options()
        .dataset(Dataset::strings(1000, 20))
        .used_memory(5 << 20)
        .setting("journal_omit_redundant_writes", "false")
        .setting("shard_repl_backlog_len", "1000000")
        .setting("replication_timeout", "30000")
        .setting("cache_mode", "false")
        .setting("serialization_tagged_chunks", "false")
        .setting("compression_mode", "0")
}

/// Nothing was written to the target, and nothing was replicated from the source.
#[track_caller]
fn assert_untouched(source: &SimulatedDragonfly, target: &RedisServer) {
    assert_eq!(target.client().ok(&["DBSIZE"]), "0");
    assert_eq!(source.full_syncs(), 0);
    eventually("the probe's session is over", || source.replicas() == 0);
}

/// The only errors are these, each with these texts.
#[track_caller]
fn assert_errors(checked: &Checked, code: i32, errors: &[&[&str]]) {
    for texts in errors {
        checked.assert_found("error", texts);
    }
    assert_eq!(
        checked.graded("error").len(),
        errors.len(),
        "{}",
        checked.text
    );
    assert_eq!(checked.code, Some(code), "{}", checked.text);
}

#[test]
fn everything_is_as_it_should_be() {
    let source = well_set().flows(3).start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address()).skipping_unsupported();
    let checked = task.check_servers();
    assert_errors(&checked, 0, &[]);
    assert_eq!(checked.graded("warning"), Vec::<&str>::new());
    for texts in [
        &["source: Dragonfly df-v1.40.1, a master, 3 flows"][..],
        &["source: the user may do what replication needs"],
        &["source: about 1000 keys (1000 in database 0), 5.0 MiB of memory in use"],
        &["source: journal_omit_redundant_writes is false"],
        &["source: replication_timeout is 30000"],
        &["target: Redis 7.0.15, a master"],
        &[
            "target: the user may run all ",
            " commands that the task can need",
        ],
        &["target: keeps its keys when it is full (maxmemory-policy noeviction)"],
        &["target: has every database that the task uses"],
        &["no maxmemory, a machine of ", "; the source uses 5.0 MiB"],
    ] {
        checked.assert_found("ok", texts);
    }
    let head = format!("task copy: {} to {}\n", source.address(), target.address());
    assert!(checked.text.starts_with(&head), "{}", checked.text);
    for line in [
        "  how values go to Redis 7.0.15:\n    strings ",
        "  SET\n",
        "    JSON documents                  none: left out (policy.on_unsupported.json)\n",
    ] {
        assert!(checked.text.contains(line), "{}", checked.text);
    }
    assert!(
        checked.text.ends_with("\n  nothing stands in the way\n"),
        "{}",
        checked.text
    );
    assert_eq!(checked.messages, "");
    assert_untouched(&source, &target);
    assert_eq!(source.ended_sessions().len(), 1);
}

#[test]
fn a_target_user_that_lacks_commands_is_told_which_and_how_to_permit_them() {
    let source = well_set().start();
    let target = RedisServer::start();
    let mut client = target.client();
    let rules = [
        "on",
        ">opensesame",
        "~*",
        "+@all",
        "-restore",
        "-xgroup|create",
        "-flushdb",
        "-hset",
    ];
    client.ok(&[&["ACL", "SETUSER", "copier"], &rules[..]].concat());
    let task = Task::between(&source.address(), &target.address())
        .with("target.username = \"copier\"")
        .with("target.password = \"opensesame\"");
    let checked = task.check_servers();
    assert_errors(
        &checked,
        77,
        &[
            &["lacks HSET (for its records", "ACL SETUSER copier +hset"],
            &[
                "lacks RESTORE, HSET (for the snapshot)",
                "ACL SETUSER copier +restore +hset",
            ],
            &[
                "lacks XGROUP CREATE (for the source's writes)",
                "ACL SETUSER copier +xgroup|create",
            ],
        ],
    );
    checked.assert_found("warning", &["lacks FLUSHDB", "+flushdb"]);
    assert!(
        checked
            .text
            .ends_with("\n  not ready; errors: 3, warnings: 1\n"),
        "{}",
        checked.text
    );
    assert!(!checked.text.contains("opensesame") && !checked.messages.contains("opensesame"));
    assert_untouched(&source, &target);
    client.ok(&["ACL", "SETUSER", "copier", "+@all"]);
    assert_errors(&task.check_servers(), 0, &[]);
}

#[test]
fn a_target_user_is_asked_for_the_keys_of_the_task_and_its_records() {
    let source = well_set().start();
    let target = RedisServer::start();
    let mut client = target.client();
    client.ok(&["ACL", "SETUSER", "copier", "on", ">p", "~user:*", "+@all"]);
    let task = Task::between(&source.address(), &target.address())
        .with("target.username = \"copier\"")
        .with("target.password = \"p\"")
        .with("filter.include = [\"user:*\", \"order:*\"]");
    let checked = task.check_servers();
    checked.assert_found("error",
        &[
            "HSET, HGET, HDEL, HKEYS, HGETALL, SADD, SREM, SCARD, SMEMBERS, ZADD, ZREM, ZRANGE, SMISMEMBER, UNLINK on keys such as \"df2redis:position:copy\"",
            "~df2redis:*",
        ],
    );
    checked.assert_found("error", &["SET on keys such as \"order:x\""]);
    assert!(!checked.text.contains("\"user:x\""), "{}", checked.text);
    assert_eq!(checked.code, Some(77));
    client.ok(&["ACL", "SETUSER", "copier", "~order:*", "~df2redis:*"]);
    assert_errors(&task.check_servers(), 0, &[]);
    assert_untouched(&source, &target);
}

#[test]
fn a_target_user_without_transactions_has_nothing_executed() {
    let source = well_set().start();
    let target = RedisServer::start();
    let mut client = target.client();
    client.ok(&["SET", "precious", "1"]);
    client.ok(&["ACL", "SETUSER", "default", "-multi"]);
    let checked = Task::between(&source.address(), &target.address()).check_servers();
    assert_errors(
        &checked,
        77,
        &[&["lacks MULTI (everything is written in transactions)"]],
    );
    assert_eq!(client.ok(&["DBSIZE"]), "1");
}

#[test]
fn a_command_that_the_target_was_told_to_forget_is_found() {
    let source = well_set().start();
    let target = RedisServer::start_with(&[
        "--rename-command",
        "RESTORE",
        "",
        "--rename-command",
        "FLUSHDB",
        "",
    ]);
    let checked = Task::between(&source.address(), &target.address()).check_servers();
    assert_errors(
        &checked,
        78,
        &[&["does not know RESTORE", "rename-command"]],
    );
    checked.assert_found("warning", &["does not know FLUSHDB"]);
    assert_untouched(&source, &target);
}

#[test]
fn a_target_that_evicts_or_is_too_small_is_warned_about() {
    let source = well_set().used_memory(200 << 20).start();
    let target =
        RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let checked = Task::between(&source.address(), &target.address()).check_servers();
    assert_errors(&checked, 0, &[]);
    checked.assert_found(
        "warning",
        &[
            "loses keys when it is full (maxmemory-policy allkeys-lru)",
            "CONFIG SET maxmemory-policy noeviction",
        ],
    );
    checked.assert_found(
        "warning",
        &["of maxmemory 100.0 MiB", "the source uses 200.0 MiB"],
    );
    assert_eq!(checked.graded("warning").len(), 2);
}

#[test]
fn a_replica_as_target_is_an_error_unless_it_accepts_writes() {
    let source = well_set().start();
    let master = RedisServer::start();
    let port = master.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let task = Task::between(&source.address(), &replica.address());
    assert_errors(
        &task.check_servers(),
        69,
        &[&[
            "target: Redis 7.0.15, a replica that refuses writes",
            "name its master as target.address",
        ]],
    );
    replica
        .client()
        .ok(&["CONFIG", "SET", "replica-read-only", "no"]);
    let checked = task.check_servers();
    assert_errors(&checked, 0, &[]);
    checked.assert_found("warning", &["a replica that accepts writes"]);
}

#[test]
fn servers_that_cannot_be_reached_are_findings() {
    let source = well_set().start();
    let target = RedisServer::start();
    let nobody = format!("127.0.0.1:{}", free_port());
    let refused = format!("cannot connect to {nobody}: Connection refused");
    let checked = Task::between(&nobody, &target.address()).check_servers();
    assert_errors(
        &checked,
        69,
        &[&["source ", &refused, "check that the server runs"]],
    );
    // What can be said of the other side is said.
    checked.assert_found("ok", &["target: Redis 7.0.15, a master"]);
    checked.assert_found("note", &["what the source uses is not visible"]);
    let checked = Task::between(&source.address(), &nobody).check_servers();
    assert_errors(
        &checked,
        69,
        &[&["cannot reach the target", &refused, "check target.address"]],
    );
    checked.assert_found("ok", &["source: Dragonfly df-v1.40.1, a master"]);
    assert!(!checked.text.contains("how values go"), "{}", checked.text);
    // The first error decides.
    let elsewhere = RedisServer::start_with(&["--requirepass", "opensesame"]);
    let checked = Task::between(&nobody, &elsewhere.address()).check_servers();
    let login = [
        "the target ",
        "refused the login",
        "check target.username and target.password",
    ];
    assert_errors(&checked, 69, &[&[&refused], &login]);
    let checked = Task::between(&source.address(), &elsewhere.address())
        .with("target.password = \"closesesame\"")
        .check_servers();
    assert_errors(&checked, 77, &[&login]);
    assert!(!checked.text.contains("sesame"), "{}", checked.text);
}

#[test]
fn a_source_that_is_no_master_of_ours_is_an_error() {
    let target = RedisServer::start();
    let source = well_set().start();
    source.inject(Fault::Answer {
        command: "REPLCONF",
        with: "-ERR Replicating a replica is unsupported",
        times: 1,
    });
    let checked = Task::between(&source.address(), &target.address()).check_servers();
    assert_errors(
        &checked,
        78,
        &[&[
            "the source is itself a replica",
            "name its master as source.address",
        ]],
    );
    let redis = RedisServer::start();
    let checked = Task::between(&redis.address(), &target.address()).check_servers();
    assert_errors(&checked, 76, &[&["the server is not a Dragonfly master"]]);
    let locked = well_set().require_password("opensesame").start();
    let checked = Task::between(&locked.address(), &target.address()).check_servers();
    assert_errors(
        &checked,
        77,
        &[&[
            "the source requires a password",
            "check username and password under [source]",
        ]],
    );
    assert_untouched(&source, &target);
}

/// A task with a user of the source that may do this much.
fn limited(commands: &[&str], target: &RedisServer) -> (SimulatedDragonfly, Checked) {
    let source = well_set()
        .user("copier", "opensesame", Some(commands))
        .start();
    let checked = Task::between(&source.address(), &target.address())
        .with("source.username = \"copier\"")
        .with("source.password = \"opensesame\"")
        .check_servers();
    assert!(!checked.text.contains("opensesame"), "{}", checked.text);
    (source, checked)
}

#[test]
fn a_source_that_hides_its_state_is_checked_by_hand() {
    let target = RedisServer::start();
    let (source, checked) = limited(&["PING", "REPLCONF", "DFLY"], &target);
    assert_errors(&checked, 0, &[]);
    for name in [
        "journal_omit_redundant_writes",
        "shard_repl_backlog_len",
        "replication_timeout",
        "cache_mode",
        "serialization_tagged_chunks",
        "compression_mode",
    ] {
        checked.assert_found(
            "note",
            &[&format!("source: {name} is not visible, check by hand")],
        );
    }
    // HELLO is never refused, and tells the release.
    checked.assert_found("ok", &["source: Dragonfly df-v1.40.1, 2 flows"]);
    checked.assert_found("note", &["lacks +info", "ACL SETUSER copier +info"]);
    checked.assert_found("note", &["lacks +time", "clock of this machine"]);
    checked.assert_found("note", &["number of keys not visible, memory not visible"]);
    assert_untouched(&source, &target);
}

#[test]
fn permissions_that_the_audit_lacks_are_named_on_both_sides_and_with_them_it_compares() {
    const ALL: [&str; 27] = [
        "PING",
        "REPLCONF",
        "DFLY",
        "INFO",
        "TIME",
        "CONFIG",
        "SELECT",
        "EXISTS",
        "DUMP",
        "PEXPIRETIME",
        "SCAN",
        "TYPE",
        "GET",
        "STRLEN",
        "GETRANGE",
        "LRANGE",
        "SSCAN",
        "HSCAN",
        "ZRANGE",
        "XRANGE",
        "XINFO",
        "WATCH",
        "UNWATCH",
        "MULTI",
        "EXEC",
        "CLIENT",
        "MEMORY",
    ];
    let limited = |lacking: &[&str]| {
        let left: Vec<&str> = ALL
            .into_iter()
            .filter(|name| !lacking.contains(name))
            .collect();
        let source = SimulatedDragonfly::options().backing_store().flows(1);
        source
            .user("copier", "opensesame", Some(&left))
            .user("writer", "w", None)
            .start()
    };
    let target = RedisServer::start();
    let mut client = target.client();
    client.ok(&[
        "ACL",
        "SETUSER",
        "copier",
        "on",
        ">p",
        "~*",
        "+@all",
        "-dump",
        "-type",
        "-xinfo|groups",
    ]);
    let between = |source: &SimulatedDragonfly, rate: u32| {
        Task::between(&source.address(), &target.address())
            .with(format!("audit.keys_per_second = {rate}"))
            .with("source.username = \"copier\"")
            .with("source.password = \"opensesame\"")
            .with("target.username = \"copier\"")
            .with("target.password = \"p\"")
    };
    let source = limited(&["SCAN", "TYPE", "XRANGE", "WATCH"]);
    let checked = between(&source, 200).check_servers();
    let source_lacks = "lacks +scan +type +xrange +watch: without it";
    checked.assert_found(
        "warning",
        &[
            source_lacks,
            "the audit cannot compare",
            "ACL SETUSER copier +scan",
        ],
    );
    let groups = "XINFO GROUPS (for the source's writes)";
    checked.assert_found("error", &[groups]);
    let target_lacks =
        "lacks TYPE, DUMP, XINFO GROUPS (without them the audit and df2redis check cannot compare)";
    checked.assert_found("warning", &[target_lacks, "+type +dump +xinfo|groups"]);
    let checked = between(&source, 0).check_servers();
    checked.assert_found("note", &[source_lacks, "df2redis check cannot compare"]);
    // What is named is all that it takes.
    let source = limited(&[]);
    client.ok(&[
        "ACL",
        "SETUSER",
        "copier",
        "+type",
        "+dump",
        "+xinfo|groups",
    ]);
    let mut here = Client::connect(source.oracle());
    here.ok(&["RPUSH", "list", "a"]);
    here.ok(&["SET", "string", "a"]);
    here.ok(&["XADD", "stream", "1-1", "f", "v"]);
    here.ok(&["ZADD", "sorted", "1", "a"]);
    here.ok(&["HSET", "hash", "f", "v"]);
    here.ok(&["SADD", "set", "a"]);
    let task = between(&source, 20_000);
    let checked = task.check_servers();
    assert_errors(&checked, 0, &[]);
    assert!(!checked.text.contains("cannot compare"), "{}", checked.text);
    let running = task.start_stable();
    client.ok(&["DEL", "list", "string", "stream", "sorted", "hash", "set"]);
    wait_repaired(&task, 6);
    assert_eq!(running.count_logged("the audit did not come to its end"), 0);
    assert_eq!(
        compare(source.oracle(), target.port()),
        Vec::<String>::new()
    );
    running.stop();
}

#[test]
fn a_source_user_that_cannot_replicate_is_told_all_it_lacks_at_once() {
    let target = RedisServer::start();
    let (source, checked) = limited(&["INFO", "TIME", "CONFIG", "DFLY"], &target);
    assert_errors(
        &checked,
        77,
        &[&[
            "lacks +ping +replconf, which replication needs",
            "ACL SETUSER copier +ping +replconf",
        ]],
    );
    checked.assert_found("ok", &["a master, number of flows not visible"]);
    checked.assert_found("ok", &["source: cache_mode is false"]);
    assert_untouched(&source, &target);
}

#[test]
fn settings_of_the_source_that_endanger_the_copy_are_warnings() {
    let source = SimulatedDragonfly::options()
        .setting("journal_omit_redundant_writes", "true")
        .setting("cache_mode", "true")
        .setting("replication_timeout", "500")
        .setting("compression_mode", "3")
        .start();
    let target = RedisServer::start();
    let checked = Task::between(&source.address(), &target.address()).check_servers();
    assert_errors(&checked, 0, &[]);
    for (name, risk) in [
        (
            "journal_omit_redundant_writes is true",
            "lost without a trace",
        ),
        ("cache_mode is true", "can stay on the target"),
        (
            "replication_timeout is 500",
            "a short stall ends the session",
        ),
    ] {
        checked.assert_found("warning", &[name, risk]);
    }
    checked.assert_found("note", &["compression_mode is 3"]);
    assert_eq!(checked.graded("warning").len(), 3);
}

#[test]
fn databases_are_compared_with_filter_map_and_target() {
    let mut dataset = Dataset::new();
    for (db, key) in [(0, "a"), (3, "b"), (4, "c"), (20, "d"), (20, "e")] {
        dataset.push(Record::new(key, Value::string(b"1")).in_db(db));
    }
    let source = well_set().dataset(dataset).start();
    let target = RedisServer::start();
    target.client().ok(&["SET", "here", "first"]);
    let between = || Task::between(&source.address(), &target.address());
    let checked = between()
        .with("policy.conflict = \"panic\"")
        .check_servers();
    assert_errors(
        &checked,
        78,
        &[&[
            "no database 20 (it has 16), which is for 2 keys of database 20",
            "target.db_map",
        ]],
    );
    checked.assert_found(
        "warning",
        &[
            "holds keys where the task writes: 1 in database 0",
            "stops the first start",
        ],
    );
    let checked = between()
        .with("filter.databases = [3, 20]")
        .with("filter.exclude = [\"tmp:*\"]")
        .with("target.db_map = { \"20\" = 15, \"3\" = 3 }")
        .check_servers();
    assert_errors(&checked, 0, &[]);
    for left_out in [0, 4] {
        let text =
            format!("database {left_out} of the source (1 key) is left out by filter.databases");
        checked.assert_found("note", &[&text]);
    }
    checked.assert_found("note", &["database 20 of the source goes to database 15"]);
    checked.assert_found(
        "note",
        &["filter.include and filter.exclude leave out keys"],
    );
    assert!(
        !checked.text.contains("holds keys where"),
        "{}",
        checked.text
    );
    // What the task file names must be there, whatever the source holds.
    let checked = between()
        .with("filter.databases = [3]")
        .with("target.position_db = 99")
        .check_servers();
    assert_errors(
        &checked,
        78,
        &[&["no database 99 (it has 16), which the task file names"]],
    );
    // Also where the target does not say how many it has.
    target
        .client()
        .ok(&["ACL", "SETUSER", "default", "-config"]);
    let checked = between().with("filter.databases = [3, 20]").check_servers();
    assert_errors(&checked, 78, &[&["no database 20, which is for 2 keys"]]);
}

#[test]
fn each_task_of_a_directory_has_its_block_and_the_first_error_its_code() {
    let source = well_set().start();
    let target = RedisServer::start();
    let nobody = format!("127.0.0.1:{}", free_port());
    let dir = tempfile::tempdir().unwrap();
    let good = Task::between(&source.address(), &target.address()).named("good");
    let late = Task::between(&source.address(), &nobody).named("late");
    let alien = Task::between(&target.address(), &nobody).named("zebra");
    for task in [&alien, &good, &late] {
        task.write_to(dir.path());
    }
    let checked = Checked::of(&[dir.path()]);
    let blocks: Vec<&str> = checked.text.split("\n\n").collect();
    let [first, second, third] = blocks.as_slice() else {
        panic!("{}", checked.text);
    };
    assert!(
        first.starts_with("task good: ") && first.ends_with("nothing stands in the way"),
        "{first}"
    );
    assert!(
        second.starts_with("task late: ") && second.contains("cannot reach the target"),
        "{second}"
    );
    assert!(
        third.starts_with("task zebra: ") && third.contains("not a Dragonfly master"),
        "{third}"
    );
    assert_eq!(checked.code, Some(69));
    assert_untouched(&source, &target);
}
