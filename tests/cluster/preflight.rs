//! What is found out about a cluster before a task starts, and what keeps one from starting.

use crate::df2redis::Task;
use crate::support::cluster::{Move, Shape};
use crate::support::dragonfly::{Record, Value};
use crate::support::{Cluster, Dataset, SimulatedDragonfly, Target};

fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options()
        .dataset(Dataset::strings(100, 20))
        .used_memory(5 << 20)
        .start()
}

#[test]
fn every_master_of_a_cluster_is_looked_at() {
    let source = source();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    let task = Task::into_cluster(&source.address(), &cluster.addresses()[..1])
        .skipping_unsupported()
        .with("target.username = \"copier\"")
        .with("target.password = \"p\"");
    for node in 0..3 {
        let mut client = cluster.node(node).client();
        client.ok(&["ACL", "SETUSER", "copier", "on", ">p", "~*", "+@all"]);
    }
    let checked = task.check_servers();
    checked.assert_no_errors();
    assert_eq!(checked.code, Some(0));
    for texts in [
        &["target: a cluster of 3 masters, Redis 7.0.15"][..],
        &[
            "target: the user may run all ",
            " commands that the task can need",
        ],
        &["target: each master: keeps its keys when it is full (maxmemory-policy noeviction)"],
        &["target: has every database that the task uses"],
    ] {
        checked.assert_found("ok", texts);
    }

    let mut third = cluster.node(2).client();
    third.ok(&["ACL", "SETUSER", "copier", "-hset", "-client|kill"]);
    third.ok(&["CONFIG", "SET", "maxmemory", "100mb"]);
    third.ok(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let address = cluster.node(2).address();
    let checked = task.check_servers();
    checked.assert_found(
        "error",
        &["lacks HSET on", &address, "ACL SETUSER copier +hset"],
    );
    checked.assert_found("error", &["lacks CLIENT KILL on", &address, "+client|kill"]);
    checked.assert_found("warning", &[&address, "loses keys when it is full"]);
    assert_eq!(checked.code, Some(77));
    assert_eq!(
        cluster.keys(""),
        Vec::<String>::new(),
        "nothing was written"
    );
}

#[test]
fn databases_that_a_cluster_does_not_have_are_listed_with_their_keys() {
    let mut dataset = Dataset::strings(100, 20);
    dataset.push(Record::new("elsewhere", Value::string(b"1")).in_db(3));
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let cluster = Cluster::start_shaped(
        Target::Valkey91,
        Shape {
            masters: 2,
            ..Shape::MASTERS
        },
    );
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let checked = task.check_servers();
    checked.assert_found(
        "error",
        &[
            "no database 3 (it has 1), which is for 1 key of database 3",
            "choose it with filter.databases, and make it 0 with target.db_map",
        ],
    );
    assert_eq!(checked.code, Some(78));
    let task = task
        .with("filter.databases = [3]")
        .with("target.db_map = { \"3\" = 0 }");
    task.check_servers().assert_no_errors();
}

#[test]
fn a_task_with_keys_in_other_databases_does_not_start_and_names_them() {
    let mut dataset = Dataset::strings(100, 20);
    dataset.push(Record::new("elsewhere", Value::string(b"1")).in_db(3));
    let source = SimulatedDragonfly::options().dataset(dataset).start();
    let cluster = Cluster::start_shaped(
        Target::Redis70,
        Shape {
            masters: 1,
            ..Shape::MASTERS
        },
    );
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let mut running = task.start();
    assert_eq!(running.exit_code(), 78);
    let said = running.messages();
    assert!(
        said.contains("the source has 1 key in database 3"),
        "{said}"
    );
    assert_eq!(cluster.keys(""), Vec::<String>::new());
    let task = task
        .with("filter.databases = [3]")
        .with("target.db_map = { \"3\" = 0 }");
    let running = task.start_stable();
    assert_eq!(cluster.ok(&["GET", "elsewhere"]), "1");
    running.stop();
}

#[test]
fn what_is_no_cluster_and_a_cluster_named_as_one_server_are_told_apart() {
    let source = source();
    let cluster = Cluster::start_shaped(
        Target::Redis70,
        Shape {
            masters: 1,
            ..Shape::MASTERS
        },
    );
    let server = Target::Redis70.start();
    let checked = Task::into_cluster(&source.address(), &[server.address()]).check_servers();
    let texts = [
        "is not a node of a Redis Cluster",
        "set target.type = \"redis\"",
    ];
    checked.assert_found("error", &texts);
    assert_eq!(checked.code, Some(78));
    let checked = Task::between(&source.address(), &cluster.node(0).address()).check_servers();
    let texts = [
        "is a node of a Redis Cluster",
        "set target.type = \"redis-cluster\"",
    ];
    checked.assert_found("error", &texts);
}

#[test]
fn forget_and_its_list_work_from_the_command_line() {
    let source = source();
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    for n in 0..20 {
        cluster.ok(&["HSET", &format!("df2redis:position:copy:{{{n}}}"), "0", "7"]);
    }
    cluster.move_slots(0..=50, 2, Move::Keys);
    let task = Task::into_cluster(&source.address(), &cluster.addresses());
    let asked = |arguments: &[&str]| {
        let output = task.asked("forget").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listed = asked(&[]);
    assert!(
        listed.contains("df2redis:position:copy:{*}") && listed.contains("20"),
        "{listed}"
    );
    assert_eq!(cluster.keys("df2redis:").len(), 20);
    asked(&["--yes"]);
    assert_eq!(cluster.keys("df2redis:"), Vec::<String>::new());
}
