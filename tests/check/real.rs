//! `df2redis check` with a real Dragonfly as the source.

use crate::asked::Checked;
use crate::df2redis::Task;
use crate::scenarios::{Source, run, settled};
use crate::scenes::writes_are_no_differences;
use crate::support::{Client, RedisServer};
use crate::{FAMILIES, dragonfly, scripts};
use std::collections::BTreeMap;

fn expected(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, class): &(&str, &str)| ((*key).to_owned(), (*class).to_owned());
    list.iter().map(owned).collect()
}

#[test]
fn what_every_command_family_leaves_is_equal_from_snapshot_and_journal() {
    for before in [true, false] {
        let (source, target) = (dragonfly(2), RedisServer::start());
        let mut client = source.client();
        let mut write = || {
            run(&mut client, FAMILIES);
            scripts(&mut client);
        };
        if before {
            write();
        }
        let task = Task::between(&source.address(), &target.address());
        let running = task.start_stable();
        if !before {
            write();
        }
        settled(&source);
        for mode in ["full", "outline", "length", "smart"] {
            let checked = Checked::of(&task, &["--mode", mode]);
            checked.assert_equal();
            assert!(
                checked.summary()["keys"].as_u64() > Some(40),
                "{}",
                checked.text
            );
        }
        running.stop();
    }
}

#[test]
fn what_cannot_be_copied_is_named_and_no_difference() {
    let (source, target) = (dragonfly(2), RedisServer::start());
    let mut client = source.client();
    run(
        &mut client,
        &[
            "SADDEX set 100000 m1",
            "HSET hash b 1",
            "FIELDEXPIRE hash 100000 b",
            "JSON.SET json $ {\"a\":1}",
            "BF.ADD bloom x",
            "SET plain 1",
        ],
    );
    let task = Task::between(&source.address(), &target.address()).skipping_unsupported();
    let running = task.start_stable();
    settled(&source);
    let checked = Checked::of(&task, &[]);
    checked.assert_equal();
    let named = expected(&[
        ("bloom", "unsupported"),
        ("hash", "dropped_member_expiry"),
        ("json", "unsupported"),
        ("set", "dropped_member_expiry"),
    ]);
    assert_eq!(checked.events("expected"), named);
    running.stop();
}

/// Collections above what is read in one piece.
fn large(client: &mut Client) {
    let text = |n: usize| format!("{n:06}{}", "x".repeat(200)).into_bytes();
    crate::asked::fill(client, 12_000, text, |n| format!("{n}.1"));
    run(
        client,
        &[
            "XGROUP CREATE stream g 0",
            "XREADGROUP GROUP g c COUNT 100 STREAMS stream >",
            "SETRANGE string 9000000 x",
        ],
    );
}

#[test]
fn one_element_of_a_large_value_is_proved_to_differ_in_the_first_round() {
    let (source, target) = (dragonfly(2), RedisServer::start());
    large(&mut source.client());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    settled(&source);
    Checked::of(&task, &["--rounds", "1"]).assert_equal();
    let member = format!("{:06}{}", 77, "x".repeat(200));
    run(
        &mut target.client(),
        &[
            &format!("HSET hash {member} other"),
            &format!("SREM set {member}"),
            "SADD set other",
            "LSET list 6000 other",
            &format!("ZADD zset 77.2 {member}"),
            // As many are pending, and for the same consumer.
            "XCLAIM stream g c 0 1-50 RETRYCOUNT 7 FORCE JUSTID",
            "SETRANGE string 4444444 y",
        ],
    );
    // If one of the commands that read counted as a write for who watches the key, it could not be proved.
    let found = Checked::of(&task, &["--rounds", "1"]);
    let different = expected(&[
        ("hash", "value"),
        ("list", "value"),
        ("set", "value"),
        ("stream", "stream_metadata"),
        ("string", "value"),
        ("zset", "value"),
    ]);
    assert_eq!(found.events("different"), different, "{}", found.text);
    assert_eq!(found.events("unsettled"), BTreeMap::new());
    running.stop();
}

#[test]
fn writes_on_their_way_are_never_taken_for_a_difference() {
    for flows in [1, 3] {
        let (source, target) = (dragonfly(flows), RedisServer::start());
        let task = Task::between(&source.address(), &target.address());
        writes_are_no_differences(&task, source.port(), &target, 8, &|| settled(&source));
    }
}
