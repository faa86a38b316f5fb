//! Host names that lead elsewhere after a while: each attempt to connect asks for them anew.

use crate::pair::{Pair, Way, resumptions, way_of};
use crate::support::{Proxy, SimulatedDragonfly, eventually};
use crate::workload::Workload;
use std::fs;
use std::path::PathBuf;

/// Where the servers are.
const HERE: &str = "127.0.0.1";
/// Where nobody listens.
const ELSEWHERE: &str = "127.0.0.2";
const SOURCE: &str = "source.test";
const TARGET: &str = "target.test";

/// What one process takes for /etc/hosts, by libnss-wrapper.
struct Hosts(PathBuf);

impl Hosts {
    fn say(&self, source: &str, target: &str) {
        // Replaced whole: it is looked at at any moment.
        let new = self.0.with_extension("new");
        let content = format!("{source} {SOURCE}\n{target} {TARGET}\n");
        fs::write(&new, content).expect("a file of hosts");
        fs::rename(&new, &self.0).expect("a file of hosts");
    }
}

fn library() -> PathBuf {
    let roots = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let below = roots.iter().flat_map(fs::read_dir).flatten().flatten();
    let all = below.map(|entry| entry.path()).chain(roots.iter().cloned());
    all.map(|directory| directory.join("libnss_wrapper.so"))
        .find(|library| library.exists())
        .expect("libnss_wrapper.so: `apt-get install libnss-wrapper` (or `make tools`) installs it")
}

#[test]
fn a_name_is_resolved_anew_at_every_attempt() {
    let pair = Pair::of(SimulatedDragonfly::options().ring(1 << 20));
    let ways = [&pair.source.address(), &pair.target.address()].map(|to| Proxy::to(to));
    let [source, target] = [SOURCE, TARGET];
    let [to_source, to_target] = &ways;
    let task = pair
        .task()
        .with(format!(
            "source.address = \"{source}:{}\"",
            to_source.port()
        ))
        .with(format!(
            "target.address = \"{target}:{}\"",
            to_target.port()
        ));
    let hosts = Hosts(task.dir().join("hosts"));
    hosts.say(HERE, ELSEWHERE);
    let mut command = task.command();
    command
        .env("LD_PRELOAD", library())
        .env("NSS_WRAPPER_HOSTS", &hosts.0);
    let mut running = task.start_as(command);
    let refused = |running: &crate::df2redis::Df2redis, name: &str, port: u16| {
        running.count_logged(&format!("cannot connect to {name}:{port}"))
    };
    eventually("an attempt elsewhere", || {
        refused(&running, target, to_target.port()) > 0
    });
    hosts.say(HERE, HERE);
    assert_eq!(way_of(&mut running), Way::Resynced);
    let mut workload = Workload::on(&[0, 1]);
    for (way, name) in [(to_source, source), (to_target, target)] {
        let before = (refused(&running, name, way.port()), resumptions(&running));
        hosts.say(
            if name == source { ELSEWHERE } else { HERE },
            if name == target { ELSEWHERE } else { HERE },
        );
        way.cut();
        eventually("an attempt elsewhere", || {
            refused(&running, name, way.port()) > before.0
        });
        workload.rounds(&mut pair.client(), 5);
        hosts.say(HERE, HERE);
        eventually("it is back", || resumptions(&running) > before.1);
    }
    pair.equal(&[&workload]);
    assert_eq!(pair.source.full_syncs(), 1);
    running.stop();
}
