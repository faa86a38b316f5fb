//! All kinds of trouble, one after the other. Deaths at every place are in `tests/crash`.

use std::time::{Duration, Instant};

use df2redis::fail_point::{DIE_AT, Place};

use crate::lanes::{Writes, equal, killed, resumed, source, task};
use crate::support::cluster::Move;
use crate::support::{Cluster, Target, eventually};

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

#[test]
fn an_end_that_has_passed_when_its_entry_comes_again_takes_no_living_key_with_it() {
    // Long enough not to be doubted at first, short enough to be waited for.
    const FIRST: Duration = Duration::from_millis(2_500);
    let (source, cluster) = (source(), Cluster::start(Target::Redis70));
    let task = task(&source, &cluster);
    let mut client = source.client();
    let mut command = task.command();
    // What came before it is done, and no stamp says so.
    command.env(DIE_AT, format!("{} 9", Place::StampSend.name()));
    let mut dying = task.start_as(command);
    let mut written = 0;
    eventually("the process to die", || {
        let session = format!("session:{written}");
        client.ok(&["HSET", &session, "a", "1"]);
        client.ok(&["PEXPIRE", &session, &FIRST.as_millis().to_string()]);
        client.ok(&["HSET", &session, "b", "2"]);
        client.ok(&["PEXPIRE", &session, "3600000"]);
        written += 1;
        dying.ended().is_some()
    });
    let died = Instant::now();
    eventually("the source has noticed", || source.replicas() == 0);
    let _ = source.take_violations();
    eventually("the first ends are over", || died.elapsed() > FIRST);
    let mut running = task.start();
    resumed(&mut running);
    equal(&source, &cluster);
    for session in 0..written {
        let fields = cluster.ok(&["HLEN", &format!("session:{session}")]);
        assert_eq!(fields.int(), Some(2), "session {session} of {written}");
    }
    running.stop();
}
