//! Kills between the answer that a key had gone and the note that it is to be read again.

use crate::case::start_dying;
use crate::pair::{Pair, Way, is_killed, way_of};
use crate::support::PATIENCE;
use ::df2redis::fail_point::Place;

#[test]
fn a_key_that_had_gone_is_read_again_by_the_process_after_the_one_that_was_told() {
    let pair = Pair::start();
    let task = pair.task();
    let (mut client, mut there) = (pair.client(), pair.target.client());
    client.ok(&["RPUSH", "kept", "one"]);
    client.ok(&["PEXPIRE", "kept", "600000"]);
    task.start_stable().stop();
    pair.left();

    // The first transaction of a connection tries whether the database is there.
    let mut running = start_dying(&task, Place::TransactionAnswered, 2);
    running.wait_stable();
    // As if it had expired there.
    assert_eq!(there.ok(&["DEL", "kept"]), "1");
    client.ok(&["PEXPIRE", "kept", "700000"]);
    assert!(is_killed(&mut running, PATIENCE));
    let flow = pair.source.flow_of("kept");
    let passed = there.ok(&["HGET", "df2redis:position:copy", &format!("lsn:{flow}")]);
    assert_eq!(passed, pair.newest()[flow].to_string().as_str());
    assert_eq!(there.ok(&["EXISTS", "kept"]), "0");
    pair.left();

    running = task.start();
    assert_eq!(way_of(&mut running), Way::Resumed);
    pair.equal(&[]);
    assert_eq!(there.ok(&["LLEN", "kept"]), "1");
    running.stop();
}
