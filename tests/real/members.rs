//! Members of sets and fields of hashes that expire.

use crate::df2redis::Task;
use crate::dragonfly;
use crate::scenarios::{Source, settled};
use crate::support::{Client, Target, eventually, on_every_target};
use nix::sys::signal::Signal;

/// The names of what is in a set or hash.
fn members_of(client: &mut Client, key: &str) -> Vec<String> {
    let question = match client.ok(&["TYPE", key]) == "hash" {
        true => "HKEYS",
        false => "SMEMBERS",
    };
    let answer = client.ok(&[question, key]);
    let mut names: Vec<_> = answer
        .items()
        .iter()
        .map(|name| format!("{name:?}"))
        .collect();
    names.sort();
    names
}

fn members_are_gone_when_the_source_has_lost_them(target: Target) {
    let (source, server) = (dragonfly(2), target.start());
    let (mut here, mut there) = (source.client(), server.client());
    for key in ["snapshot:1", "snapshot:2"] {
        here.ok(&["SADDEX", key, "8", "a", "b"]);
        here.ok(&["SADD", key, "stays"]);
    }
    here.ok(&["HSETEX", "snapshot:3", "8", "a", "1", "b", "2"]);
    here.ok(&["HSET", "snapshot:3", "stays", "3"]);
    let task = Task::between(&source.address(), &server.address());
    let mut running = task.start_stable();
    for words in [
        // Ends the expiry of a field, not that of a member.
        &["HSET", "snapshot:3", "b", "9"][..],
        &["SADD", "snapshot:1", "b"],
        &["SADDEX", "late", "6", "a"],
        &["SADDEX", "late", "12", "b"],
        &["SADD", "late", "stays"],
        &["SADDEX", "anew", "6", "a", "b"],
        &["DEL", "anew"],
        &["SADD", "anew", "a", "stays"],
        &["SADDEX", "from", "6", "a"],
        &["SADD", "from", "stays"],
        &["RENAME", "from", "to"],
        &["SADDEX", "all", "6", "a", "b"],
        &["SADDEX", "again", "6", "a"],
        &["SREM", "again", "a"],
        &["SADD", "again", "a"],
    ] {
        here.ok(words);
    }
    let keys = [
        "snapshot:1",
        "snapshot:2",
        "snapshot:3",
        "late",
        "anew",
        "to",
        "all",
        "again",
    ];
    settled(&source);
    for key in keys {
        assert_eq!(
            members_of(&mut there, key),
            members_of(&mut here, key),
            "{key}"
        );
    }
    running.signal(Signal::SIGKILL);
    running.wait_killed();
    let running = task.start_stable();
    // Not SCARD, which counts what has expired.
    eventually("the last one has expired", || {
        members_of(&mut here, "late").len() == 1 && members_of(&mut here, "to").len() == 1
    });
    for key in keys {
        eventually(&format!("{key} is as it is at the source"), || {
            members_of(&mut there, key) == members_of(&mut here, key)
        });
    }
    for (key, count) in [
        ("snapshot:1", 1),
        ("late", 1),
        ("anew", 2),
        ("to", 1),
        ("all", 0),
        ("again", 1),
    ] {
        assert_eq!(there.ok(&["SCARD", key]).int(), Some(count), "{key}");
    }
    assert_eq!(members_of(&mut there, "snapshot:3").len(), 2);
    running.stop();
}

on_every_target!(members_are_gone_when_the_source_has_lost_them);

/// Fields of hashes expire to the second, by whatever command they were told to; counted from when the source had it.
fn fields_that_the_target_lets_expire_do_so_at_the_same_time(target: Target) {
    if !target.lets_fields_expire() {
        return;
    }
    let (source, server) = (dragonfly(2), target.start());
    let (mut here, mut there) = (source.client(), server.client());
    let task = Task::between(&source.address(), &server.address());
    let running = task.start_stable();
    let keys: Vec<String> = (0..400).map(|n| format!("h:{n}")).collect();
    for key in &keys {
        for words in [
            &["HSETEX", key, "1000", "a", "1"][..],
            &["HSETEX", key, "PX", "1500999", "FIELDS", "1", "b", "1"],
            &["HSET", key, "c", "1", "d", "1", "e", "1"],
            &["HEXPIRE", key, "2000", "FIELDS", "1", "c"],
            &["FIELDEXPIRE", key, "3000", "d"],
        ] {
            here.ok(words);
        }
    }
    settled(&source);
    eventually("all is read again", || {
        there.ok(&["EXISTS", "df2redis:reread:copy"]) == "0"
    });
    for key in &keys {
        let question = ["HPEXPIRETIME", key, "FIELDS", "5", "a", "b", "c", "d", "e"];
        assert_eq!(there.ok(&question), here.ok(&question), "{key}");
    }
    running.stop();
}

on_every_target!(fields_that_the_target_lets_expire_do_so_at_the_same_time);
