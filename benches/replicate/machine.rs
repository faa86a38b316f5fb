//! What it runs on, and what processes have used of it.

use crate::support::{Client, RedisServer};
use nix::sys::resource::{UsageWho, getrusage};
use std::fs;
use std::time::Duration;

/// Cores, processor and Redis release, in words.
pub fn about() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("an unknown processor", |rest| {
            rest.trim_start_matches(['\t', ' ', ':'])
        });
    let server = RedisServer::start();
    let redis = redis_version(&mut server.client());
    format!("{cores} cores of {model}; target: Redis {redis}; all processes share the cores")
}

/// What `INFO` says about the release.
pub fn redis_version(client: &mut Client) -> String {
    let text = client.ok(&["INFO", "server"]).text();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    version.unwrap_or_default().trim().to_owned()
}

/// Processor time of this process.
pub fn own_cpu() -> Duration {
    cpu(UsageWho::RUSAGE_SELF)
}

/// Processor time of all children that were waited for.
pub fn children_cpu() -> Duration {
    cpu(UsageWho::RUSAGE_CHILDREN)
}

fn cpu(who: UsageWho) -> Duration {
    getrusage(who).map_or(Duration::ZERO, |usage| {
        [usage.user_time(), usage.system_time()]
            .iter()
            .map(|time| {
                Duration::from_secs(time.tv_sec().unsigned_abs())
                    + Duration::from_micros(time.tv_usec().unsigned_abs())
            })
            .sum()
    })
}

/// Processor time of a Redis server, by its own word.
pub fn redis_cpu(client: &mut Client) -> Duration {
    let text = client.ok(&["INFO", "cpu"]).text();
    let seconds = ["used_cpu_sys:", "used_cpu_user:"]
        .iter()
        .filter_map(|name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().parse::<f64>().ok()
        });
    Duration::from_secs_f64(seconds.sum())
}
