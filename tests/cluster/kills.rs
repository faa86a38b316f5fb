//! All kinds of trouble, one after the other. Deaths at every place are in `tests/crash`.

use crate::lanes::{Writes, equal, killed, resumed, source, task};
use crate::support::cluster::Move;
use crate::support::{Cluster, Target};

#[test]
fn deaths_moves_and_failovers_one_after_the_other_lose_and_repeat_nothing() {
    let (source, cluster) = (source(), Cluster::start(Target::Redis70));
    let task = task(&source, &cluster);
    let mut client = source.client();
    let mut writes = Writes::default();
    let mut running = task.start_stable();
    for round in 0..4_u16 {
        writes.rounds(&mut client, 60);
        let to = cluster.owner_of(9000);
        cluster.move_slots(round * 500..=round * 500 + 19, to, Move::Keys);
        writes.rounds(&mut client, 60);
        // The stamps tell where it was.
        killed(running, &source);
        writes.rounds(&mut client, 30);
        running = task.start();
        resumed(&mut running);
        writes.rounds(&mut client, 30);
        // Until then nobody knows that the slots have moved with all that they had.
        equal(&source, &cluster);
        if let Some(replica) = cluster.replicas_of(cluster.owner_of(9000)).first() {
            cluster.promote(*replica);
        }
        writes.rounds(&mut client, 60);
        equal(&source, &cluster);
        writes.counted(&cluster);
    }
    assert_eq!(source.full_syncs(), 1);
    running.stop();
}
