//! Which keys are compared: those of the task, and of them those that were asked for.

use crate::asked::Pair;
use crate::df2redis::Task;
use std::collections::BTreeMap;

#[test]
fn only_the_tasks_databases_and_keys_are_compared_each_where_it_is_mapped() {
    let mut pair = Pair::start();
    pair.task = Task::between(&pair.source.address(), &pair.target.address())
        .with("filter.databases = [0, 2]")
        .with("filter.include = [\"a:*\", \"b:*\"]")
        .with("filter.exclude = [\"*:tmp\"]")
        .with("target.db_map = { 2 = 5 }");
    pair.fill(&[
        "SET a:1 v",
        "SET b:1 v",
        "SET a:tmp v",
        "SET c:1 v",
        "SET a:lost v",
        "SELECT 1",
        "SET a:other_database v",
        "SELECT 2",
        "SET a:mapped v",
        "SET a:mapped_lost v",
        "SET a:mapped_changed v",
    ]);
    pair.spoil(&[
        "SET a:1 v",
        "SET b:1 w",
        "SET a:more:tmp v",
        "SET d:1 v",
        "SET a:more v",
        "SET df2redis:failed:copy v",
        "SELECT 2",
        "SET a:not_here v",
        "SELECT 5",
        "SET a:mapped v",
        "SET a:mapped_changed w",
        "SET a:mapped_more v",
    ]);
    let found = pair.check(&[]);
    let expected = [
        ("b:1", "value"),
        ("a:lost", "missing"),
        ("a:more", "extra"),
        ("a:mapped_lost", "missing"),
        ("a:mapped_changed", "value"),
        ("a:mapped_more", "extra"),
    ];
    let expected = expected.map(|(key, class)| (key.to_owned(), class.to_owned()));
    assert_eq!(found.events("different"), BTreeMap::from(expected));
    assert_eq!(found.summary()["keys"], 8, "{}", found.text);
    let mapped = found
        .report
        .iter()
        .find(|line| line["key"] == "a:mapped_more")
        .unwrap();
    assert_eq!(
        (&mapped["db"], &mapped["target_db"]),
        (&2.into(), &5.into())
    );
}

#[test]
fn a_pattern_and_a_sample_leave_the_others_out_on_both_sides() {
    let pair = Pair::start();
    let mut source = pair.source.client();
    for n in 0..1000 {
        source.ok(&["SET", &format!("k:{n}"), "v"]);
    }
    pair.copy(0, 0);
    pair.spoil(&["SET x:extra v", "SET k:extra v"]);
    pair.fill(&["SET x:missing v", "SET k:missing v"]);
    let matched = pair.check(&["--match", "x:*"]);
    let keys: Vec<_> = matched.events("different").into_keys().collect();
    assert_eq!(keys, ["x:extra", "x:missing"]);
    assert_eq!(matched.summary()["keys"], 2);
    let sampled = pair.check(&["--sample", "20%"]);
    let count = sampled.summary()["keys"].as_u64().unwrap();
    assert!((140..260).contains(&count), "{count}");
    let again = pair.check(&["--sample", "20%"]);
    assert_eq!(again.summary()["keys"], count, "the same keys each time");
}

#[test]
fn keys_that_were_there_first_and_are_left_alone_are_named_and_no_difference() {
    let mut pair = Pair::start();
    pair.fill(&["SET a 1", "SET b 1"]);
    pair.spoil(&[
        "SET a 2",
        "SET b 2",
        "SET c 2",
        "SADD df2redis:foreign:copy 0:a 0:c",
    ]);
    pair.task = Task::between(&pair.source.address(), &pair.target.address());
    assert_eq!(pair.check(&[]).events("different").len(), 3);
    pair.task = Task::between(&pair.source.address(), &pair.target.address())
        .with("policy.conflict = \"skip\"");
    let found = pair.check(&[]);
    let different: Vec<_> = found.events("different").into_keys().collect();
    assert_eq!(different, ["b"]);
    let foreign = ["a", "c"].map(|key| (key.to_owned(), "foreign".to_owned()));
    assert_eq!(found.events("expected"), BTreeMap::from(foreign));
}
