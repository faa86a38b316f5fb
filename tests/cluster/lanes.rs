//! Entries on their way into a cluster: full sync, stable sync, kills, slots that move, masters that fail over.
//!
//! Each test that resumes says so: a full sync would end in the same state, and prove nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

use nix::sys::signal::Signal;

use crate::df2redis::{Df2redis, Task};
use crate::support::cluster::{Move, Shape, slot_of};
use crate::support::{Client, Cluster, Reply, SimulatedDragonfly, Target, eventually};

pub fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options().backing_store().start()
}

pub fn task(source: &SimulatedDragonfly, cluster: &Cluster) -> Task {
    Task::into_cluster(&source.address(), &cluster.addresses()).with("policy.max_delete = \"100%\"")
}

#[track_caller]
pub fn equal(source: &SimulatedDragonfly, cluster: &Cluster) {
    source.client().ok(&["WAIT", "1", "30000"]);
    source.wait_acked();
    eventually("no key to be read again", || {
        cluster.keys("df2redis:reread:").is_empty()
    });
    eventually("no key to be removed", || {
        cluster.cmd(&["HEXISTS", "df2redis:position:copy", "reconcile"]) == Reply::Int(0)
    });
    let differences = cluster.differences_from(source.oracle());
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Writes that make a difference when they are lost or repeated, in many slots, and safe ones of the same keys between
/// them; what its counters must come to.
#[derive(Default)]
pub struct Writes {
    round: usize,
    counts: BTreeMap<String, i64>,
}

impl Writes {
    pub const KEYS: usize = 97;

    pub fn round(&mut self, client: &mut Client) {
        let (n, round) = (self.round % Self::KEYS, self.round);
        self.round += 1;
        let lines = [
            format!("INCR count:{n}"),
            format!("APPEND text:{n} {round},"),
            format!("RPUSH list:{n} {round}"),
            format!("LPOP list:{}", (n + 3) % Self::KEYS),
            format!("HINCRBY hash:{n} field 3"),
            format!("ZINCRBY zset:{n} 0.1 member"),
            format!("SET mixed:{n} {round}"),
            format!("APPEND mixed:{n} -{round}"),
            format!("SET plain:{round} {round}"),
            format!("DEL plain:{}", round.saturating_sub(50)),
            "MULTI".to_owned(),
            format!("INCR count:{n}"),
            format!("SET mixed:{n} {round} PX 100000000"),
            "EXEC".to_owned(),
        ];
        let replies = client.lines(&lines);
        for (line, reply) in lines.iter().zip(&replies) {
            assert!(!reply.is_error(), "{line} was answered {reply:?}");
        }
        *self.counts.entry(format!("count:{n}")).or_default() += 2;
    }

    pub fn rounds(&mut self, client: &mut Client, rounds: usize) {
        (0..rounds).for_each(|_| self.round(client));
    }

    /// The source was flushed.
    pub fn flushed(&mut self) {
        self.counts.clear();
    }

    /// Slots of the source were.
    pub fn flushed_slots(&mut self, slots: RangeInclusive<u16>) {
        self.counts
            .retain(|key, _| !slots.contains(&slot_of(key.as_bytes())));
    }

    /// Counters that are lower were lost, higher ones were repeated.
    #[track_caller]
    pub fn counted(&self, cluster: &Cluster) {
        for (key, count) in &self.counts {
            let there = cluster.ok(&["GET", key]).int();
            assert_eq!(there, Some(*count), "{key}");
        }
    }
}

/// Every flow has told every node what it has: so much is known after a kill.
#[track_caller]
pub fn stamped(cluster: &Cluster) {
    let all = |ranges: Vec<RangeInclusive<u16>>| ranges.into_iter().flatten().collect();
    eventually("stamps about what each node has", || {
        let has: BTreeMap<&str, BTreeSet<u16>> = cluster
            .masters()
            .into_iter()
            .map(|node| (cluster.id(node), all(cluster.slots_of(node))))
            .collect();
        let keys = cluster.keys("df2redis:stamp:");
        let fields = keys.iter().flat_map(|key| {
            let found = cluster.ok(&["HGETALL", key]);
            let words: Vec<_> = found.items().iter().map(Reply::text).collect();
            let pairs = words.chunks(2);
            let pairs = pairs.map(|pair| (pair[0].clone(), pair[1].clone()));
            pairs.collect::<Vec<_>>()
        });
        fields
            .filter(|(name, _)| name.starts_with("at:"))
            .all(|(_, text)| {
                let words: Vec<&str> = text.split(' ').collect();
                let ranges = words[3].split(',').map(|range| {
                    let (first, last) = range.split_once('-').expect("a range");
                    first.parse().expect("a slot")..=last.parse().expect("a slot")
                });
                has.get(words[0]) == Some(&all(ranges.collect()))
            })
    });
}

#[track_caller]
pub fn resumed(running: &mut Df2redis) {
    running.wait_stable();
    assert_eq!(running.count_logged("resuming where the target is"), 1);
    assert_eq!(running.count_logged("full sync needed"), 0);
}

#[track_caller]
pub fn killed(running: Df2redis, source: &SimulatedDragonfly) {
    running.signal(Signal::SIGKILL);
    drop(running);
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
}

/// Writes all the time, while something else is done.
#[track_caller]
pub fn under_load<T>(
    source: &SimulatedDragonfly,
    writes: &mut Writes,
    done: impl FnOnce() -> T,
) -> T {
    let mut client = source.client();
    let ending = AtomicBool::new(false);
    // Also when it panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    scope(|scope| {
        let end = End(&ending);
        let writing = scope.spawn(|| {
            while !ending.load(Ordering::Relaxed) {
                writes.rounds(&mut client, 5);
            }
        });
        let result = done();
        drop(end);
        writing.join().expect("writes are answered");
        result
    })
}

/// A kill, writes that nobody follows, and another process, which goes on and ends equal.
#[track_caller]
pub fn goes_on_after_a_kill(
    running: Df2redis,
    task: &Task,
    (source, cluster): (&SimulatedDragonfly, &Cluster),
    writes: &mut Writes,
) {
    stamped(cluster);
    killed(running, source);
    writes.rounds(&mut source.client(), 50);
    let mut running = task.start();
    resumed(&mut running);
    equal(source, cluster);
    writes.counted(cluster);
    running.stop();
}

#[test]
fn a_full_sync_and_what_follows_are_equal_end_to_end() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let mut client = source.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 300);
    let large = ["x".repeat(100), "y".repeat(2000)];
    for (n, value) in (0..3000).zip(large.iter().cycle()) {
        client.ok(&["RPUSH", "large:list", &format!("{n}{value}")]);
    }
    let task = task(&source, &cluster);
    let running = task.start_stable();
    writes.rounds(&mut client, 300);
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    for master in cluster.masters() {
        let keys = cluster.node(master).client().ok(&["DBSIZE"]).int();
        assert!(keys > Some(100), "every master has its share");
    }
    running.stop();
}

#[test]
fn a_stop_and_a_start_go_on_where_the_cluster_is() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    task.start_stable().stop();
    writes.rounds(&mut client, 100);
    let mut running = task.start();
    resumed(&mut running);
    writes.rounds(&mut client, 100);
    running.stop();
    writes.rounds(&mut client, 100);
    let mut running = task.start();
    resumed(&mut running);
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 2));
    running.stop();
}

#[test]
fn kills_under_load_lose_and_repeat_nothing() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    task.start_stable().stop();
    for kill in 0..10 {
        let mut running = task.start();
        resumed(&mut running);
        writes.rounds(&mut client, 40 + kill * 7);
        killed(running, &source);
        writes.round(&mut client);
    }
    let mut running = task.start();
    resumed(&mut running);
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 11));
    running.stop();
}

/// Moves slots, those of stamps among them, while writes are on their way.
#[track_caller]
fn slots_move_under_load(target: Target, how: Move) {
    let (source, cluster) = (source(), Cluster::start_shaped(target, Shape::MASTERS));
    let task = task(&source, &cluster);
    let running = task.start_stable();
    let mut writes = Writes::default();
    writes.rounds(&mut source.client(), 50);
    under_load(&source, &mut writes, || {
        // Key by key takes its time.
        let slots = if how == Move::Keys { 59 } else { 599 };
        for part in 0..3_u16 {
            cluster.move_slots(part * 1000..=part * 1000 + slots, 2, how);
            cluster.move_slots(6000 + part * 1000..=6000 + part * 1000 + slots, 0, how);
        }
    });
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    assert_eq!(running.count_logged("target lost"), 0, "the flows went on");
    // What was stamped before the move is found after it.
    goes_on_after_a_kill(running, &task, (&source, &cluster), &mut writes);
}

#[test]
fn slots_that_move_key_by_key_under_load_lose_and_repeat_nothing() {
    slots_move_under_load(Target::Redis70, Move::Keys);
}

#[test]
fn slots_that_move_at_once_under_load_lose_and_repeat_nothing() {
    slots_move_under_load(Target::Valkey91, Move::Atomic);
}

#[test]
fn entries_of_a_slot_of_redis_that_is_half_moved_wait_and_no_others() {
    entries_of_a_slot_that_is_half_moved_wait(Target::Redis70);
}

#[test]
fn entries_of_a_slot_of_valkey_that_is_half_moved_wait_and_no_others() {
    entries_of_a_slot_that_is_half_moved_wait(Target::Valkey91);
}

/// What `df2redis status` says.
fn status(task: &Task, arguments: &[&str]) -> String {
    let output = task.asked("status").args(arguments).output();
    let output = output.expect("df2redis status runs");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn entries_of_a_slot_that_is_half_moved_wait(target: Target) {
    let (source, cluster) = (source(), Cluster::start_shaped(target, Shape::MASTERS));
    let task = task(&source, &cluster);
    let mut running = task.start_stable();
    let mut client = source.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 50);
    equal(&source, &cluster);
    let slot = slot_of(b"count:1");
    let to = (cluster.owner_of(slot) + 1) % 3;
    cluster.begin_move(slot, to);
    let before = cluster.move_keys(slot, to, 1000);
    assert!(before > 0, "its keys are on the other side");
    for _ in 0..20 {
        client.ok(&["INCR", "count:1"]);
        client.ok(&["INCR", "count:2"]);
        client.ok(&["SET", "other", "there"]);
    }
    assert_ne!(slot_of(b"count:2"), slot);
    let two = writes.counts["count:2"] + 20;
    eventually("what is in other slots", || {
        cluster.ok(&["GET", "count:2"]).int() == Some(two)
    });
    let line = running.wait_logged("slots of the target are on the move, their entries wait");
    assert!(line.contains(&format!("slots: {slot}")), "{line}");
    *writes.counts.get_mut("count:1").unwrap() += 20;
    *writes.counts.get_mut("count:2").unwrap() += 20;
    // Every other counter goes on, and every entry of the slot waits.
    let stood = cluster.ok(&["GET", "count:1"]).int();
    for _ in 0..5 {
        writes.rounds(&mut client, Writes::KEYS);
        let there = |key: &String| slot_of(key.as_bytes()) == slot;
        let others = writes.counts.iter().filter(|(key, _)| !there(key));
        let others: Vec<_> = others.collect();
        assert!(others.len() > 90, "they are in other slots");
        eventually("what is in other slots", || {
            let is_there =
                |(key, count): &(&String, &i64)| cluster.ok(&["GET", key]).int() == Some(**count);
            others.iter().all(is_there)
        });
        assert_eq!(cluster.ok(&["GET", "count:1"]).int(), stood);
        let row = format!("entries of slots of the target that are on the move: {slot}\n");
        let shown = status(&task, &[]);
        assert!(shown.contains(&row), "{shown}");
        let shown: serde_json::Value = serde_json::from_str(&status(&task, &["--json"])).unwrap();
        assert_eq!(shown["tasks"][0]["moving_slots"][0], slot, "{shown}");
    }
    cluster.finish_move(slot, to);
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert!(!status(&task, &[]).contains("on the move"), "it has moved");
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 0));
    running.stop();
}

#[test]
fn slots_that_move_between_kill_and_start_are_known_by_their_stamps() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    let running = task.start_stable();
    writes.rounds(&mut client, 200);
    killed(running, &source);
    // All but the slot of the first node's stamp.
    cluster.move_slots(100..=2000, 1, Move::Keys);
    writes.rounds(&mut client, 100);
    let mut running = task.start();
    resumed(&mut running);
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    running.stop();
}

#[test]
fn a_master_that_dies_takes_the_flows_back_to_what_its_replica_has() {
    let (source, mut cluster) = (source(), Cluster::start(Target::Redis70));
    let task = task(&source, &cluster);
    let mut running = task.start_stable();
    let mut client = source.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 200);
    cluster.kill(0);
    writes.rounds(&mut client, 200);
    running.wait_logged("target is back, following writes");
    writes.rounds(&mut client, 100);
    cluster.wait_agreed();
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

#[test]
fn a_master_that_is_restarted_empty_is_copied_to_again() {
    let (source, mut cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let mut running = task.start_stable();
    let mut client = source.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 200);
    equal(&source, &cluster);
    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_agreed();
    writes.rounds(&mut client, 100);
    eventually("another full sync", || source.full_syncs() == 2);
    running.wait_logged("reason: the positions on the target are damaged: a node has no stamp");
    equal(&source, &cluster);
    writes.counted(&cluster);
    running.stop();
}

#[test]
fn a_master_that_is_emptied_is_copied_to_again() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let mut running = task.start_stable();
    let mut client = source.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 100);
    equal(&source, &cluster);
    cluster.node(1).client().ok(&["FLUSHALL"]);
    writes.rounds(&mut client, 10);
    running.wait_logged("reason: the positions on the target are damaged: a node has no stamp");
    equal(&source, &cluster);
    writes.counted(&cluster);
    assert_eq!(source.full_syncs(), 2);
    running.stop();
}

#[test]
fn a_flush_between_writes_is_passed_by_all_flows_and_nodes_at_once() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let task = task(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    let running = task.start_stable();
    for _ in 0..3 {
        writes.rounds(&mut client, 60);
        client.ok(&["FLUSHDB"]);
        writes.flushed();
        writes.rounds(&mut client, 30);
    }
    killed(running, &source);
    let mut running = task.start();
    resumed(&mut running);
    equal(&source, &cluster);
    writes.counted(&cluster);
    running.stop();
}

#[test]
fn a_second_process_takes_over_and_the_first_one_ends() {
    let (source, cluster) = (
        source(),
        Cluster::start_shaped(Target::Redis70, Shape::MASTERS),
    );
    let (one, two) = (task(&source, &cluster), task(&source, &cluster));
    let mut first = one.start_stable();
    let mut client = source.client();
    let mut writes = Writes::default();
    writes.rounds(&mut client, 50);
    let mut second = two.start();
    second.wait_stable();
    writes.rounds(&mut client, 50);
    assert_eq!(first.exit_code(), 73);
    first.wait_logged("another process of this task has taken over");
    let _ = source.take_violations();
    equal(&source, &cluster);
    writes.counted(&cluster);
    second.stop();
}
