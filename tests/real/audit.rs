//! What the journal of a real master does not tell is found by the audit, and set right while writes go on.

use crate::audited::{Counting, named, status, wait_passed, wait_repaired};
use crate::df2redis::Task;
use crate::dragonfly;
use crate::scenarios::{Source, settled};
use crate::support::{RealDragonfly, RedisServer, compare, eventually};
use std::collections::BTreeMap;

/// A task that is audited as fast as it goes, and keys that rest.
fn audited(source: &RealDragonfly, target: &RedisServer) -> Task {
    let mut client = source.client();
    for n in 0..300 {
        client.ok(&["SET", &format!("still:{n}"), "v"]);
        client.ok(&["ZADD", &format!("zset:{n}"), "1.5", "a"]);
    }
    let task = Task::between(&source.address(), &target.address());
    task.with("audit.keys_per_second = 20000")
}

#[test]
fn what_the_journal_does_not_tell_is_found_and_set_right_while_writes_go_on() {
    for flows in [1, 3] {
        let (source, target) = (dragonfly(flows), RedisServer::start());
        let task = audited(&source, &target);
        let running = task.start_stable();
        let counting = Counting::begin(source.port(), "counter");
        let (mut client, mut there) = (source.client(), target.client());
        eventually("counters on the target", || {
            there.ok(&["EXISTS", "counter:3", "counter:log:4"]).int() == Some(2)
        });
        // Deletes it, and is not journalled.
        client.ok(&["SET", "still:1", "v", "PXAT", "1000"]);
        assert_eq!(client.ok(&["EXISTS", "still:1"]), "0");
        there.ok(&["SET", "still:2", "w"]);
        there.ok(&["DEL", "zset:3"]);
        there.ok(&["ZADD", "zset:4", "1.50001", "a"]);
        there.ok(&["INCRBY", "counter:3", "1000"]);
        there.ok(&["RPUSH", "counter:log:4", "never"]);
        let expected = [
            ("still:1", "extra"),
            ("still:2", "value"),
            ("zset:3", "missing"),
            ("zset:4", "value"),
            ("counter:3", "value"),
            ("counter:log:4", "value"),
        ];
        let expected = expected.map(|(key, class)| (key.to_owned(), class.to_owned()));
        wait_repaired(&task, expected.len() as u64);
        wait_passed(&task);
        let counted = counting.end();
        settled(&source);
        assert_eq!(compare(source.port(), target.port()), Vec::<String>::new());
        counted.assert_counted(&target);
        assert_eq!(named(&running), BTreeMap::from(expected));
        let audit = status(&task);
        assert_eq!(audit["last"]["found"], serde_json::json!({}), "{audit:#}");
        assert_eq!(audit["found"], audit["repaired"]);
        running.stop();
    }
}
