//! A cluster behind a real source: kills of the process, slots that move, nodes that fail over, and flushes between them.

use crate::df2redis::{Df2redis, Task};
use crate::scenarios::Source;
use crate::sink::Sink;
use crate::support::cluster::{Move, Shape};
use crate::support::{Cluster, RealDragonfly, Target, eventually};
use crate::workload::Workload;
use crate::writers::Writers;
use crate::{dragonfly, dragonfly_with};
use nix::sys::signal::Signal;

/// Names of each kind of key: with three of them to a hash tag, in some thirty slots.
const KEYS: usize = 31;
const KILLS: usize = 8;

fn task(source: &RealDragonfly, cluster: &Cluster) -> Task {
    Task::into_cluster(&source.address(), &cluster.addresses()).with("policy.max_delete = \"100%\"")
}

/// Both hold the same, and every counter what was counted. Nobody writes.
#[track_caller]
fn assert_equal(source: &RealDragonfly, cluster: &Cluster, workload: &Workload) {
    let mut client = source.client();
    eventually("the replica is level", || {
        client.ok(&["WAIT", "1", "1000"]).int() == Some(1)
    });
    eventually("no key to be read again", || !cluster.has_withheld());
    let differences = Sink::differences_from(cluster, source.port());
    assert!(differences.is_empty(), "{differences:#?}");
    let wrong = workload.miscounted(cluster);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Another process after one that was killed: it goes on where the cluster is.
#[track_caller]
fn killed_and_started(running: Df2redis, task: &Task, meanwhile: impl FnOnce()) -> Df2redis {
    running.signal(Signal::SIGKILL);
    drop(running);
    meanwhile();
    let mut running = task.start();
    running.wait_stable();
    assert_eq!(running.count_logged("resuming where the target is"), 1);
    assert_eq!(running.count_logged("full sync needed"), 0);
    running
}

#[test]
fn kills_over_a_cluster_lose_and_repeat_nothing() {
    for (flows, target) in [(1, Target::Redis70), (3, Target::Valkey91)] {
        let (source, cluster) = (
            dragonfly(flows),
            Cluster::start_shaped(target, Shape::MASTERS),
        );
        let (task, mut client) = (task(&source, &cluster), source.client());
        let mut workload = Workload::on_slots(KEYS);
        workload.rounds(&mut client, 50);
        let mut running = task.start_stable();
        for kill in 0..KILLS {
            workload.rounds(&mut client, 20 + kill * 17 % 50);
            running = killed_and_started(running, &task, || {
                workload.rounds(&mut client, 10);
            });
        }
        assert_equal(&source, &cluster, &workload);
        running.stop();
    }
}

#[test]
fn slots_move_and_nodes_fail_over_under_load() {
    for (target, how) in [
        (Target::Redis70, Move::Keys),
        (Target::Valkey91, Move::Atomic),
    ] {
        // More than is written while a process starts on a busy machine.
        let source = dragonfly_with(2, &["--shard_repl_backlog_len=1000000"]);
        let mut cluster = Cluster::start(target);
        let task = task(&source, &cluster);
        let mut running = task.start_stable();
        let writers = Writers::start(source.port(), vec![Workload::on_slots(KEYS)]);
        let follows = |cluster: &Cluster| {
            let paused = writers.pause();
            assert_equal(&source, cluster, &paused[0]);
        };
        cluster.move_slots(0..=600, 1, how);
        cluster.move_slots(9_000..=9_600, 0, how);
        follows(&cluster);
        let replica = cluster.replicas_of(0)[0];
        cluster.promote(replica);
        follows(&cluster);
        let paused = writers.pause();
        running = killed_and_started(running, &task, || {
            cluster.move_slots(601..=900, 2, how);
            drop(paused);
        });
        follows(&cluster);
        let replica = cluster.replicas_of(1)[0];
        cluster.kill(1);
        cluster.promote(replica);
        running.wait_logged("target is back, following writes");
        follows(&cluster);
        assert_eq!(running.count_logged("full sync needed"), 0);
        drop(writers);
        running.stop();
    }
}
