//! Keys that are read again from the source: those that the target let expire before their entries came, those that
//! the source deleted while nobody listened.

use std::process::Output;
use std::time::Duration;

use crate::df2redis::Task;
use crate::late::{SESSIONS, a_busy_key_is_read_exactly, sessions_outlive_an_outage, visit_all};
use crate::scenarios::{commands_seen, seed};
use crate::support::dragonfly::Fault;
use crate::support::{Dataset, RedisServer, SimulatedDragonfly, eventually, within};
use nix::sys::signal::Signal;

/// Nobody learns what the source holds.
const TELLS_NOTHING: Fault = Fault::Answer {
    command: "DUMP",
    with: "-LOADING Dragonfly is loading the dataset in memory",
    times: usize::MAX,
};

fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options().backing_store().start()
}

#[test]
fn sessions_that_are_kept_alive_outlive_an_outage_longer_than_they_are() {
    let ms = Duration::from_millis;
    let times = (ms(4_000), ms(1_000), ms(7_000));
    let source = source();
    sessions_outlive_an_outage(&source, &RedisServer::start(), times);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
}

#[test]
fn a_key_that_is_written_all_the_time_is_read_between_two_writes() {
    a_busy_key_is_read_exactly(&source(), &RedisServer::start());
}

#[test]
fn what_was_written_while_the_process_was_gone_comes_late_too() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut client = source.client();
    let ttl = Duration::from_millis(3_000);
    visit_all(&mut client, 0, ttl);
    source.wait_acked();
    running.stop();
    for round in 1..5 {
        std::thread::sleep(Duration::from_millis(1_000));
        visit_all(&mut client, round, ttl);
    }
    let running = task.start_stable();
    source.assert_copied(target.port());
    let there = target.client().ok(&["KEYS", "session:*"]).items().len();
    assert_eq!(there, SESSIONS);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    running.stop();
}

#[test]
fn a_kill_while_keys_are_withheld_leaves_them_to_the_next_start() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    let mut client = source.client();
    client.ok(&["RPUSH", "kept", "one"]);
    client.ok(&["PEXPIRE", "kept", "600000"]);
    client.ok(&["RPUSH", "other", "one"]);
    source.wait_acked();
    // As if it had expired on the target.
    target.client().ok(&["DEL", "kept"]);
    source.inject(TELLS_NOTHING);
    client.ok(&["PEXPIRE", "kept", "700000"]);
    eventually("it is withheld", || {
        target.client().ok(&["SCARD", "df2redis:reread:copy"]).int() == Some(1)
    });
    client.ok(&["RPUSH", "kept", "two"]);
    client.ok(&["RENAME", "other", "third"]);
    client.ok(&["LMOVE", "third", "kept", "LEFT", "LEFT"]);
    running.signal(Signal::SIGKILL);
    running.wait_killed();
    source.clear_faults();
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    running = task.start_stable();
    source.assert_copied(target.port());
    let kept = target.client().ok(&["LRANGE", "kept", "0", "-1"]);
    assert_eq!(kept.items().len(), 3, "{kept:?}");
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    running.stop();
}

#[test]
fn a_write_on_its_way_when_its_key_ends_on_the_target_adds_to_what_was_there() {
    let (source, target) = (source(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut client = source.client();
    let keys: Vec<String> = (0..20).map(|n| format!("kept:{n}")).collect();
    for key in &keys {
        client.ok(&["RPUSH", key, "one"]);
        client.ok(&["PEXPIRE", key, "700"]);
    }
    client.ok(&["WAIT", "1", "30000"]);
    let ended = within(Duration::from_secs(5), || {
        client.ok(&["PTTL", &keys[0]]).int() < Some(150)
    });
    assert!(ended);
    target.signal(Signal::SIGSTOP);
    for key in &keys {
        client.ok(&["RPUSH", key, "two"]);
        client.ok(&["PEXPIRE", key, "600000"]);
    }
    // As long as it takes for the old ends to come.
    std::thread::sleep(Duration::from_millis(200));
    target.signal(Signal::SIGCONT);
    let is_kept = |client: &mut crate::support::Client, key| client.ok(&["LLEN", key]) == "2";
    // On a busy machine some may have ended at the source as well.
    assert!(keys.iter().any(|key| is_kept(&mut client, key)));
    source.assert_copied(target.port());
    running.stop();
}

#[test]
fn the_target_is_not_asked_about_late_entries_of_keys_that_end_long_after() {
    let source = SimulatedDragonfly::options().flows(1);
    let (source, target) = (source.backing_store().start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    let mut client = source.client();
    let far: Vec<String> = (0..50).map(|n| format!("far:{n}")).collect();
    for key in &far {
        client.ok(&["RPUSH", key, "one"]);
        client.ok(&["PEXPIRE", key, "3600000"]);
    }
    client.ok(&["RPUSH", "near", "one"]);
    client.ok(&["PEXPIRE", "near", "60000"]);
    source.wait_acked();
    target.signal(Signal::SIGSTOP);
    client.ok(&["RPUSH", "first", "one"]);
    // What comes behind one that has no answer waits, and becomes late.
    std::thread::sleep(Duration::from_millis(300));
    for key in far.iter().map(String::as_str).chain(["near"]) {
        client.ok(&["RPUSH", key, "two"]);
    }
    std::thread::sleep(Duration::from_millis(1_000));
    target.signal(Signal::SIGCONT);
    source.assert_copied(target.port());
    let asked = commands_seen(&target, "pttl").expect("a key was asked about");
    assert!(asked.contains("calls=1,"), "{asked}");
    running.stop();
}

#[test]
fn more_keys_than_can_be_read_again_are_copied_with_all_others() {
    let keys = 200_100;
    let options = SimulatedDragonfly::options().flows(1).ring(1 << 20);
    let source = options.dataset(Dataset::strings(keys, 1)).start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address())
        .with("target.db_map = { \"0\" = 1, \"1\" = 0 }");
    let mut running = task.start_stable();
    // As if all had expired there.
    let mut there = target.client();
    there.ok(&["SELECT", "1"]);
    there.ok(&["FLUSHDB"]);
    source.inject(TELLS_NOTHING);
    for n in 0..keys {
        source.journal(0, ["PEXPIREAT", &format!("key:{n}"), "9999999999999"]);
    }
    running.wait_logged("too many keys would have to be read again");
    source.clear_faults();
    running.wait_stable();
    source.wait_acked();
    assert_eq!(there.ok(&["DBSIZE"]).int(), i64::try_from(keys).ok());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (2, 0));
    running.stop();
}

/// A task that has copied `seed`, was stopped, and cannot resume: the source has written more than it keeps.
fn behind(task: impl FnOnce(Task) -> Task) -> (SimulatedDragonfly, RedisServer, Task) {
    let source = SimulatedDragonfly::options()
        .backing_store()
        .ring(16)
        .start();
    let target = RedisServer::start();
    let task = task(Task::between(&source.address(), &target.address()));
    let mut client = source.client();
    seed(&mut client);
    client.ok(&["SELECT", "0"]);
    for n in 0..50 {
        client.ok(&["RPUSH", &format!("stale:{n}"), "old"]);
    }
    let running = task.start_stable();
    source.wait_acked();
    running.stop();
    for n in 0..200 {
        client.ok(&["INCR", &format!("n:{n}")]);
    }
    (source, target, task)
}

#[test]
fn keys_that_the_source_deleted_unseen_are_removed_after_a_full_sync() {
    let (source, target, task) = behind(|task| task);
    let mut client = source.client();
    (0..50).for_each(|n| drop(client.ok(&["DEL", &format!("stale:{n}")])));
    // It has been written to since, and is somebody else's business.
    target.client().ok(&["SET", "df2redis:of:others", "1"]);
    let mut running = task.start();
    running.wait_logged("the source no longer has what was written since");
    let line = running.wait_logged("the target has no keys that the source does not have");
    assert!(line.contains("keys: 50,"), "{line}");
    source.assert_copied(target.port());
    assert_eq!((source.full_syncs(), source.partial_syncs()), (2, 0));
    running.stop();
    let due = target
        .client()
        .ok(&["HEXISTS", "df2redis:position:copy", "reconcile"]);
    assert_eq!(due.int(), Some(0));
}

#[test]
fn a_key_made_anew_during_the_full_sync_is_not_added_to_what_the_target_had() {
    let (source, target, task) = behind(|task| task);
    let mut client = source.client();
    (0..50).for_each(|n| drop(client.ok(&["DEL", &format!("stale:{n}")])));
    for flow in 0..source.flows() {
        source.inject(Fault::SlowFlow {
            flow,
            bytes_per_second: 100_000,
        });
    }
    let mut running = task.start();
    running.wait_logged("full sync started");
    for n in 0..50 {
        client.ok(&["RPUSH", &format!("stale:{n}"), "new"]);
        client.ok(&["SADD", "before", "member"]);
        client.ok(&["SUNIONSTORE", &format!("union:{n}"), "before", "never"]);
    }
    assert_eq!(source.full_syncs(), 1, "too late");
    source.clear_faults();
    running.wait_logged("the target has no keys that the source does not have");
    source.assert_copied(target.port());
    running.stop();
}

#[test]
fn a_key_made_anew_behind_the_full_sync_is_not_added_to_what_the_target_had() {
    let (source, target, task) = behind(|task| task.with("policy.max_delete = \"0\""));
    let mut client = source.client();
    (0..50).for_each(|n| drop(client.ok(&["DEL", &format!("stale:{n}")])));
    let mut running = task.start();
    // The walk waits to be approved, and stable sync goes on.
    running.wait_logged("none is removed before it is approved");
    for n in 0..25 {
        client.ok(&["RPUSH", &format!("stale:{n}"), "new"]);
        client.ok(&["INCR", &format!("n:{n}")]);
    }
    source.wait_acked();
    let mut there = target.client();
    for n in 0..25 {
        let found = there.ok(&["LRANGE", &format!("stale:{n}"), "0", "-1"]);
        assert_eq!(found.items().len(), 1, "{found:?}");
    }
    // The same behind a start anew, which knows nothing of the snapshot.
    running.signal(Signal::SIGKILL);
    running.wait_killed();
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    let mut running = task.start_stable();
    for n in 25..30 {
        client.ok(&["RPUSH", &format!("stale:{n}"), "new"]);
    }
    source.wait_acked();
    running.wait_logged("none is removed before it is approved");
    let approved = task.asked("approve").output().expect("df2redis starts");
    assert_eq!(approved.status.code(), Some(0), "{}", said(&approved));
    running.wait_logged("the target has no keys that the source does not have");
    source.assert_copied(target.port());
    running.stop();
}

#[test]
fn stops_and_kills_during_a_resync_end_in_an_identical_target() {
    let (source, target, task) = behind(|task| task.with("policy.max_delete = \"100%\""));
    let mut client = source.client();
    (0..50).for_each(|n| drop(client.ok(&["DEL", &format!("stale:{n}")])));
    for round in 0..4 {
        let mut running = task.start();
        running.wait_logged("full sync started");
        if round == 2 {
            running.wait_logged("looking for keys");
        }
        client.ok(&["INCR", "n:1"]);
        client.ok(&["RPUSH", &format!("stale:{round}"), "new"]);
        match round % 2 {
            0 => running.signal(Signal::SIGKILL),
            _ => running.signal(Signal::SIGTERM),
        }
        running.wait_killed();
        eventually("the source has noticed", || source.replicas() == 0);
        let _ = source.take_violations();
        (0..200).for_each(|n| drop(client.ok(&["INCR", &format!("n:{n}")])));
    }
    let mut running = task.start();
    running.wait_logged("the target has no keys that the source does not have");
    source.assert_copied(target.port());
    running.stop();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_source_that_was_started_empty_does_not_empty_the_target_unasked() {
    let (source, target, task) = behind(|task| task);
    let before = target.client().ok(&["DBSIZE"]).int();
    let port = source.port();
    drop(source);
    let source = SimulatedDragonfly::options()
        .backing_store()
        .port(port)
        .start();
    let mut running = task.start();
    let line = running.wait_logged("none is removed before it is approved");
    assert!(line.contains("df2redis approve --config"), "{line}");
    running.wait_stable();
    source.client().ok(&["SET", "first", "1"]);
    source.wait_acked();
    let now = target.client().ok(&["DBSIZE"]).int();
    assert!(now > before, "nothing is gone: {now:?} after {before:?}");
    let status = said(&task.asked("status").output().expect("df2redis starts"));
    assert!(status.contains("to be approved: "), "{status}");
    // A start anew does not forget that it has to be asked.
    running.stop();
    let mut running = task.start_stable();
    running.wait_logged("none is removed before it is approved");
    let approved = task.asked("approve").output().expect("df2redis starts");
    assert_eq!(approved.status.code(), Some(0), "{}", said(&approved));
    assert_eq!(said(&approved), "copy: approved\n");
    running.wait_logged("the target has no keys that the source does not have");
    source.assert_copied(target.port());
    let again = task.asked("approve").output().expect("df2redis starts");
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(said(&again), "df2redis: nothing waits to be approved\n");
    running.stop();
}

#[test]
fn with_resync_flush_the_tasks_keys_are_removed_first() {
    let (source, target, task) = behind(|task| task.with("policy.resync = \"flush\""));
    let mut client = source.client();
    client.ok(&["DEL", "stale:1"]);
    let mut running = task.start();
    running.wait_logged("removing the task's keys before the full sync");
    running.wait_stable();
    source.assert_copied(target.port());
    assert_eq!(running.count_logged("looking for keys"), 0);
    running.stop();
}

#[test]
fn keys_live_longer_on_the_target_by_the_grace() {
    let (source, target) = (source(), RedisServer::start());
    let mut client = source.client();
    client.ok(&["SET", "early", "x", "PXAT", "4102444800000"]);
    let task =
        Task::between(&source.address(), &target.address()).with("policy.expiry_grace = \"90s\"");
    let running = task.start_stable();
    client.ok(&["SET", "late", "x", "PXAT", "4102444800000"]);
    client.ok(&["SET", "later", "x"]);
    client.ok(&["PEXPIREAT", "later", "4102444800000"]);
    source.wait_acked();
    for key in ["early", "late", "later"] {
        let at = target.client().ok(&["PEXPIRETIME", key]).int();
        assert_eq!(at, Some(4_102_444_890_000), "{key}");
    }
    running.stop();
}
