//! A source that was failed over: a replica goes on in its place, with its positions.
//!
//! Here the replica is another simulated master on the same port, with the same data.

use crate::df2redis::Task;
use crate::support::{Client, RedisServer, SimulatedDragonfly, Still, eventually};

/// Writes that may be neither lost nor repeated, and that leave the same wherever they are run.
fn write(client: &mut Client, rounds: std::ops::Range<usize>) {
    for round in rounds {
        client.ok(&["INCR", "count"]);
        client.ok(&["RPUSH", &format!("list:{}", round % 7), &round.to_string()]);
        client.ok(&["APPEND", &format!("text:{}", round % 5), "x"]);
    }
}

fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options().backing_store().start()
}

fn positions(source: &SimulatedDragonfly) -> Vec<u64> {
    (0..source.flows())
        .map(|flow| source.next_lsn(flow))
        .collect()
}

/// Ends a master, and has its replica go on at these positions, with the data after so many rounds.
fn promote(old: SimulatedDragonfly, lsns: Vec<u64>, rounds: usize) -> SimulatedDragonfly {
    let (id, port) = (old.master_id().to_owned(), old.port());
    drop(old);
    let new = SimulatedDragonfly::options().backing_store().port(port);
    let new = new.promoted_from(&id, lsns).start();
    write(&mut Client::connect(new.oracle()), 0..rounds);
    new
}

#[test]
fn a_promoted_replica_is_followed_where_its_master_was_and_so_is_the_next_one() {
    let (first, target) = (source(), RedisServer::start());
    let task = Task::between(&first.address(), &target.address());
    let mut running = task.start_stable();
    write(&mut first.client(), 0..30);
    first.wait_acked();
    let lsns = positions(&first);
    let second = promote(first, lsns, 30);
    write(&mut second.client(), 30..60);
    running.wait_logged("the source goes on in the place of the master it was a replica of");
    second.assert_copied(target.port());
    assert_eq!((second.full_syncs(), second.partial_syncs()), (0, 1));
    // Its positions are its own now.
    running.stop();
    write(&mut second.client(), 60..70);
    let running = task.start_stable();
    assert_eq!(running.count_logged("the source goes on in the place"), 0);
    second.assert_copied(target.port());
    assert_eq!((second.full_syncs(), second.partial_syncs()), (0, 2));
    let lsns = positions(&second);
    let third = promote(second, lsns, 70);
    write(&mut third.client(), 70..80);
    third.assert_copied(target.port());
    assert_eq!((third.full_syncs(), third.partial_syncs()), (0, 1));
    running.stop();
}

#[test]
fn what_the_old_master_had_sent_is_applied_from_the_spool_before_the_new_one_goes_on() {
    let (first, target) = (source(), RedisServer::start());
    let task = Task::between(&first.address(), &target.address());
    let mut running = task.start_stable();
    let second = {
        let _still = Still::hold(&target);
        write(&mut first.client(), 0..300);
        eventually("nothing waiting at the source", || {
            (0..first.flows()).all(|flow| first.unsent(flow) == 0)
        });
        let mut before = 0;
        eventually("the spool at rest", || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            let now = task.spooled_bytes();
            std::mem::replace(&mut before, now) == now && now > 0
        });
        let lsns = positions(&first);
        promote(first, lsns, 300)
    };
    write(&mut second.client(), 300..320);
    running.wait_logged("found in the spool");
    running.wait_logged("the source goes on in the place of the master it was a replica of");
    second.assert_copied(target.port());
    assert_eq!((second.full_syncs(), second.partial_syncs()), (0, 1));
    running.stop();
    // What is kept is both masters', under the id of the new one.
    let running = task.start_stable();
    write(&mut second.client(), 320..330);
    second.assert_copied(target.port());
    assert_eq!((second.full_syncs(), second.partial_syncs()), (0, 2));
    running.stop();
}

#[test]
fn a_replica_that_had_less_than_the_target_is_copied_anew() {
    let (first, target) = (source(), RedisServer::start());
    let task = Task::between(&first.address(), &target.address());
    let mut running = task.start_stable();
    write(&mut first.client(), 0..20);
    let lsns = positions(&first);
    write(&mut first.client(), 20..30);
    first.wait_acked();
    let second = promote(first, lsns, 20);
    let line = running.wait_logged("full sync needed, ");
    assert!(line.contains("nothing was copied before"), "{line}");
    eventually("another full sync", || second.full_syncs() == 1);
    assert!(
        running
            .log()
            .contains("was started anew since, or is another one")
    );
    write(&mut second.client(), 20..25);
    second.assert_copied(target.port());
    running.stop();
}
