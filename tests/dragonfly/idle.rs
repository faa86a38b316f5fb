//! A source that is quiet for long.

use crate::df2redis::Task;
use crate::support::{RedisServer, SimulatedDragonfly, eventually};

#[test]
fn a_target_that_closes_idle_clients_does_not_cost_a_full_sync() {
    let source = SimulatedDragonfly::options().flows(2).start();
    let target = RedisServer::start_with(&["--timeout", "2"]);
    let task = Task::between(&source.address(), &target.address());
    let running = task.start_stable();
    // Each connection of an idle task sends one command a second: after six seconds' worth of
    // them the target has looked for idle clients several times.
    let pings = || {
        let stats = target.client().ok(&["INFO", "commandstats"]);
        let stats = stats.text();
        let ping = stats.lines().find(|line| line.starts_with("cmdstat_ping:"));
        let calls =
            ping.and_then(|line| line.split_once("calls=")?.1.split_once(',')?.0.parse().ok());
        calls.unwrap_or(0)
    };
    eventually("six seconds of idling", || pings() >= 3 * 6);
    source.journal(0, ["SET", "after", "v"]);
    eventually("a write after it", || target.get("after") == "v");
    assert_eq!(source.full_syncs(), 1, "nothing was lost on the way");
    running.stop();
}
