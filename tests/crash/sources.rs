//! What happens to a source: killed, and back with its data but as another master, again and again.

use crate::df2redis::Task;
use crate::pair::Pair;
use crate::support::{Client, Proxy, Reply, SimulatedDragonfly, eventually};
use crate::workload::Workload;

/// Every key of one Redis, into another that is empty.
#[track_caller]
fn carry(from: &mut Client, to: &mut Client) {
    for db in 0..16_u32 {
        from.ok(&["SELECT", &db.to_string()]);
        to.ok(&["SELECT", &db.to_string()]);
        for key in from.ok(&["KEYS", "*"]).items().iter().map(Reply::bytes) {
            let payload = from.ok(&[b"DUMP".as_slice(), &key]).bytes();
            let expiry = from
                .ok(&[b"PEXPIRETIME".as_slice(), &key])
                .int()
                .filter(|at| *at > 0);
            let expiry = expiry.unwrap_or(0).to_string();
            to.ok(&[
                b"RESTORE".as_slice(),
                &key,
                expiry.as_bytes(),
                &payload,
                b"ABSTTL",
            ]);
        }
    }
}

/// Kills the source and has one with the same data in its place.
#[track_caller]
fn kill_and_restart(pair: &mut Pair, way: &Proxy) {
    let source = SimulatedDragonfly::options().backing_store().start();
    way.refuse(true);
    // Its data outlives its connections.
    pair.source.stop();
    carry(
        &mut Client::connect(pair.source.oracle()),
        &mut Client::connect(source.oracle()),
    );
    way.lead_to(&source.address());
    way.refuse(false);
    pair.source = source;
}

#[test]
fn a_source_killed_and_back_with_its_data_is_another_master_and_copied_again() {
    let mut pair = Pair::start();
    let way = Proxy::to(&pair.source.address());
    let task =
        Task::between(&way.address(), &pair.target.address()).with("policy.max_delete = \"100%\"");
    let mut workload = Workload::on(&[0, 1, 2]);
    let mut running = task.start_stable();
    for round in 1..=3 {
        workload.rounds(&mut pair.client(), 40);
        pair.source.wait_acked();
        kill_and_restart(&mut pair, &way);
        eventually("another full sync", || pair.source.full_syncs() == 1);
        let line = running.wait_logged("the source was started anew since, or is another one");
        assert!(line.contains("full sync needed"), "{line}");
        workload.rounds(&mut pair.client(), 40);
        pair.equal(&[&workload]);
        assert_eq!(running.count_logged("full sync needed"), 1 + round);
    }
    running.stop();
}
