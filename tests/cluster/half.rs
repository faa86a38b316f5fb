//! A slot that stays half-moved for long: its entries wait, however many there are, and nothing else does.

use std::time::Instant;

use crate::df2redis::Task;
use crate::lanes::{Writes, equal, killed, resumed, source, task};
use crate::support::cluster::{Shape, slot_of};
use crate::support::{Client, Cluster, PATIENCE, SimulatedDragonfly, Target, eventually};

/// A key of the slot that is half-moved, which waits with all others of its tag.
const STUCK: &str = "{stuck}count";
/// The least budget: two flows have far less for what waits than is written here.
const MEMORY: &str = "limits.memory = \"16MiB\"";
const LARGE: usize = 100_000;
const LARGE_WRITES: usize = 300;

/// A cluster with a slot half of which is on another node, and the key's part of it.
struct Halved {
    source: SimulatedDragonfly,
    cluster: Cluster,
    task: Task,
    slot: u16,
    to: usize,
}

impl Halved {
    fn new(target: Target) -> Self {
        let (source, cluster) = (source(), Cluster::start_shaped(target, Shape::MASTERS));
        let task = task(&source, &cluster).with(MEMORY);
        let slot = slot_of(STUCK.as_bytes());
        let to = (cluster.owner_of(slot) + 1) % 3;
        Self {
            source,
            cluster,
            task,
            slot,
            to,
        }
    }

    fn begin(&self) {
        self.cluster.begin_move(self.slot, self.to);
        assert!(self.cluster.move_keys(self.slot, self.to, 1000) > 0);
    }

    /// More than memory has room for, in the slot.
    fn write_much(&self, client: &mut Client) {
        let value = "v".repeat(LARGE);
        for n in 0..LARGE_WRITES {
            client.ok(&["SET", &format!("{{stuck}}large:{}", n % 7), &value]);
            client.ok(&["INCR", STUCK]);
        }
    }

    #[track_caller]
    fn others_go_on(&self, client: &mut Client) {
        let count = client.ok(&["INCR", "other"]).int();
        eventually("what is in another slot", || {
            self.cluster.ok(&["GET", "other"]).int() == count
        });
    }
}

#[track_caller]
fn what_waits_for_its_slot_holds_up_nothing_else(target: Target) {
    let halved = Halved::new(target);
    let (source, cluster, task) = (&halved.source, &halved.cluster, &halved.task);
    let mut running = task.start_stable();
    let (mut client, mut writes) = (source.client(), Writes::default());
    client.ok(&["INCR", STUCK]);
    writes.rounds(&mut client, 50);
    equal(source, cluster);
    halved.begin();
    for _ in 0..3 {
        halved.write_much(&mut client);
        halved.others_go_on(&mut client);
    }
    running.wait_logged("slots of the target are on the move, their entries wait");
    assert_eq!(cluster.ok(&["GET", STUCK]).int(), Some(1), "they wait");
    // After a start what waits comes late, and again waits alone.
    killed(running, source);
    halved.write_much(&mut client);
    let mut running = task.start();
    resumed(&mut running);
    halved.others_go_on(&mut client);
    writes.rounds(&mut client, Writes::KEYS);
    halved.others_go_on(&mut client);
    assert_eq!(cluster.ok(&["GET", STUCK]).int(), Some(1), "they wait");
    cluster.finish_move(halved.slot, halved.to);
    equal(source, cluster);
    writes.counted(cluster);
    let count = 1 + 4 * LARGE_WRITES as i64;
    assert_eq!(cluster.ok(&["GET", STUCK]).int(), Some(count));
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}

#[test]
fn what_waits_for_its_slot_of_redis_holds_up_nothing_else() {
    what_waits_for_its_slot_holds_up_nothing_else(Target::Redis70);
}

#[test]
fn what_waits_for_its_slot_of_valkey_holds_up_nothing_else() {
    what_waits_for_its_slot_holds_up_nothing_else(Target::Valkey91);
}

#[test]
fn a_kill_while_a_slot_catches_up_piece_by_piece_loses_and_repeats_nothing() {
    let halved = Halved::new(Target::Redis70);
    let (source, cluster, task) = (&halved.source, &halved.cluster, &halved.task);
    let running = task.start_stable();
    let mut client = source.client();
    client.ok(&["INCR", STUCK]);
    equal(source, cluster);
    halved.begin();
    halved.write_much(&mut client);
    halved.others_go_on(&mut client);
    let seen = || cluster.ok(&["GET", STUCK]).int().unwrap_or(0);
    assert_eq!(seen(), 1);
    cluster.finish_move(halved.slot, halved.to);
    eventually("a piece", || seen() > 1);
    killed(running, source);
    let between = seen();
    let mut running = task.start();
    resumed(&mut running);
    equal(source, cluster);
    assert_eq!(
        seen(),
        1 + LARGE_WRITES as i64,
        "{between} when it was killed"
    );
    running.stop();
}

#[test]
fn a_key_that_ends_while_its_slot_is_half_moved_and_is_kept_alive_at_the_source_is_not_lost() {
    let halved = Halved::new(Target::Redis70);
    let (source, cluster, task) = (&halved.source, &halved.cluster, &halved.task);
    let running = task.start_stable();
    let mut client = source.client();
    let session = "{stuck}session";
    client.ok(&["SET", session, "5", "PX", "2000"]);
    client.ok(&["INCR", STUCK]);
    equal(source, cluster);
    halved.begin();
    let began = Instant::now();
    // The target has it no longer than it was told.
    loop {
        client.ok(&["INCR", session]);
        client.ok(&["PEXPIRE", session, "100000"]);
        if cluster.ok(&["EXISTS", session]).int() == Some(0) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it does not end");
        client.ok(&["PEXPIRE", session, "2000"]);
    }
    client.ok(&["INCR", session]);
    let count = client.ok(&["GET", session]).int();
    cluster.finish_move(halved.slot, halved.to);
    equal(source, cluster);
    assert_eq!(cluster.ok(&["GET", session]).int(), count);
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}
