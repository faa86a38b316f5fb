//! What happens to a target: killed and back with what it had on disk, replaced by an older copy of itself, flushed,
//! evicting.

use crate::pair::{Pair, Way, resumptions, way_of};
use crate::support::{RedisServer, SimulatedDragonfly, eventually};
use crate::workload::Workload;
use crate::writers::Writers;
use nix::sys::signal::Signal;
use std::fs;

/// A source that keeps enough for any of these, and a target with these arguments.
fn pair(target: &[&str]) -> Pair {
    let source = SimulatedDragonfly::options()
        .ring(1 << 20)
        .backing_store()
        .start();
    let target = RedisServer::start_with(target);
    Pair { source, target }
}

/// Kills the target again and again while clients write, after `before`, and has it back after `between`: each time
/// the task resumes.
#[track_caller]
fn comes_back(
    mut pair: Pair,
    before: impl Fn(&RedisServer, usize),
    between: impl Fn(&RedisServer),
) {
    let task = pair.task();
    let mut running = task.start_stable();
    let workloads = [[0, 1], [2, 3]].map(|databases| Workload::on(&databases));
    let writers = Writers::start(pair.source.port(), workloads.into());
    for round in 1..=4 {
        before(&pair.target, round);
        pair.target.kill();
        between(&pair.target);
        pair.target.restart();
        eventually("a resumption", || resumptions(&running) >= round);
        let paused = writers.pause();
        let all: Vec<&Workload> = paused.iter().map(|one| &**one).collect();
        pair.equal(&all);
    }
    assert_eq!(running.count_logged("full sync needed"), 1);
    assert_eq!(pair.source.full_syncs(), 1);
    drop(writers);
    running.wait_logged("lost the target");
    running.stop();
}

/// Waits until something that was written after now is in the target.
#[track_caller]
fn goes_on(target: &RedisServer) {
    let mut client = target.client();
    let commands = |client: &mut crate::support::Client| -> u64 {
        let stats = client.ok(&["INFO", "commandstats"]).text();
        let execs = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_exec:calls="));
        let execs = execs.and_then(|rest| rest.split(',').next()?.parse().ok());
        execs.unwrap_or(0)
    };
    let seen = commands(&mut client);
    eventually("further transactions", || commands(&mut client) > seen + 20);
}

#[test]
fn a_target_killed_and_back_from_its_dump_is_followed_from_there() {
    comes_back(
        pair(&["--save", "3600 1000000"]),
        |target, _| {
            goes_on(target);
            target.client().ok(&["SAVE"]);
            goes_on(target);
        },
        |_| {},
    );
}

#[test]
fn a_target_killed_and_back_from_its_append_only_file_is_followed_from_there() {
    comes_back(
        pair(&["--appendonly", "yes", "--appendfsync", "everysec"]),
        |target, _| goes_on(target),
        |_| {},
    );
}

#[test]
fn a_target_replaced_by_an_older_copy_of_its_files_is_followed_from_there() {
    let dump = |target: &RedisServer| target.dir().join("dump.rdb");
    let older = |target: &RedisServer| target.dir().join("older.rdb");
    comes_back(
        pair(&["--save", "3600 1000000"]),
        |target, _| {
            target.client().ok(&["SAVE"]);
            fs::copy(dump(target), older(target)).expect("a copy of the dump");
            goes_on(target);
            target.client().ok(&["SAVE"]);
            goes_on(target);
        },
        |target| {
            fs::rename(older(target), dump(target)).expect("the older dump in its place");
        },
    );
}

#[test]
fn a_target_that_somebody_flushes_is_copied_again_whether_the_task_runs_or_not() {
    let pair = pair(&[]);
    let task = pair.task();
    let mut workload = Workload::on(&[0, 1, 2]);
    let mut client = pair.client();
    workload.rounds(&mut client, 30);
    let mut running = task.start_stable();
    pair.target.client().ok(&["FLUSHALL"]);
    workload.rounds(&mut client, 30);
    eventually("another full sync", || pair.source.full_syncs() == 2);
    running.wait_logged("df2redis:fence:copy is gone");
    pair.equal(&[&workload]);
    running.stop();
    pair.target.client().ok(&["FLUSHALL"]);
    workload.rounds(&mut client, 30);
    let mut running = task.start();
    assert_eq!(way_of(&mut running), Way::Resynced);
    pair.equal(&[&workload]);
    running.stop();
}

#[test]
fn a_target_that_evicts_is_named_at_the_start_and_holds_up_nothing() {
    let pair = pair(&["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"]);
    let task = pair.task();
    let mut client = pair.client();
    let value = "v".repeat(1_000);
    for n in 0..6_000 {
        client.ok(&["SET", &format!("key:{n}"), &value]);
    }
    let mut running = task.start();
    let line = running.wait_logged("the target evicts keys when it is full");
    assert!(
        line.contains("set maxmemory-policy noeviction on the target"),
        "{line}"
    );
    eventually("keys evicted", || {
        let stats = pair.target.client().ok(&["INFO", "stats"]).text();
        let evicted = stats
            .lines()
            .find_map(|line| line.strip_prefix("evicted_keys:"));
        evicted.is_some_and(|count| count.trim() != "0")
    });
    // Its own keys may be evicted as well, which it notices, perhaps just when it is stopped: then it says so.
    running.signal(Signal::SIGTERM);
    let exit = running.exit_code();
    let evicted = running.messages().contains("df2redis:fence:copy is gone");
    assert!(
        exit == 0 || exit == 69 && evicted,
        "{exit}: {}",
        running.messages()
    );
    let mut admin = pair.target.client();
    admin.ok(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    admin.ok(&["CONFIG", "SET", "maxmemory", "0"]);
    admin.ok(&["FLUSHALL"]);
    let mut running = task.start();
    assert_eq!(way_of(&mut running), Way::Resynced);
    assert_eq!(running.count_logged("the target evicts keys"), 0);
    pair.equal(&[]);
    running.stop();
}

/// How many keys the target has evicted.
fn evicted(target: &RedisServer) -> u64 {
    let stats = target.client().ok(&["INFO", "stats"]).text();
    let mut lines = stats.lines();
    let count = lines.find_map(|line| line.strip_prefix("evicted_keys:"));
    count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// What `df2redis check` ends with, and says.
fn compared(task: &crate::df2redis::Task) -> (Option<i32>, String) {
    let output = task.asked("check").output().expect("df2redis starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said)
}

/// Only keys that expire are evicted, so that the task's own stay.
#[test]
fn what_a_target_evicts_while_it_is_copied_and_followed_is_never_called_equal() {
    let arguments = [
        "--maxmemory",
        "5mb",
        "--maxmemory-policy",
        "volatile-random",
    ];
    let pair = pair(&arguments);
    let task = pair.task().with("audit.keys_per_second = 20000");
    let mut client = pair.client();
    let value = "v".repeat(1_000);
    let write = |client: &mut crate::support::Client, from: usize, to: usize| {
        for n in from..to {
            client.ok(&["SET", &format!("key:{n}"), &value, "PX", "100000000"]);
        }
    };
    write(&mut client, 0, 6_000);
    let checked = task.check_servers();
    let texts = [
        "loses keys when it is full (maxmemory-policy volatile-random)",
        "CONFIG SET maxmemory-policy noeviction",
    ];
    checked.assert_found("warning", &texts);
    let mut running = task.start_stable();
    running.wait_logged("the target evicts keys when it is full");
    let in_snapshot = evicted(&pair.target);
    assert!(in_snapshot > 0, "nothing was evicted while it was copied");
    let (code, said) = compared(&task);
    assert_eq!(code, Some(1), "{said}");
    running.wait_logged("class: missing");
    write(&mut client, 6_000, 8_000);
    pair.source.wait_acked();
    let in_journal = evicted(&pair.target);
    assert!(
        in_journal >= in_snapshot + 1_000,
        "{in_snapshot}, {in_journal}"
    );
    let (code, said) = compared(&task);
    assert_eq!(code, Some(1), "{said}");
    // With room for all, what was lost comes back by itself.
    let mut admin = pair.target.client();
    admin.ok(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("all to be repaired", || {
        admin.ok(&["DBSIZE"]).int() >= Some(8_000)
    });
    pair.equal(&[]);
    let (code, said) = compared(&task);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(pair.source.full_syncs(), 1);
    running.stop();
}
