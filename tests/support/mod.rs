//! What tests, benchmarks and the demo share: servers as values, a client, comparisons, a simulated Dragonfly.
//!
//! Nothing here uses the library under test, so that a mistake made there cannot cancel itself out here.
//! Include it with `#[path = "../tests/support/mod.rs"] mod support;`.
//! Invariants: servers listen on 127.0.0.1 and a free port, live in directories of their own, and are gone
//!   when their value is dropped; nothing waits by sleeping for a fixed time.
#![allow(
    dead_code,
    unused_imports,
    reason = "each program that includes this uses a part of it"
)]

pub mod client;
pub mod cluster;
pub mod compare;
pub mod dragonfly;
pub mod expected;
pub mod proxy;
pub mod real_dragonfly;
pub mod recorded;
pub mod redis_server;
pub mod replica;
pub mod target;
pub mod tls;

pub use client::{Client, Reply};
pub use cluster::Cluster;
pub use compare::compare;
pub use dragonfly::{Dataset, SimulatedDragonfly};
pub use proxy::{Proxy, Towards};
pub use real_dragonfly::RealDragonfly;
pub use redis_server::{RedisServer, Still};
pub use target::Target;
pub(crate) use target::on_every_target;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// How long [`eventually`] waits before it gives up: generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `check` is true, looking every few milliseconds.
///
/// # Panics
/// When it is still false after [`PATIENCE`], with `what` and the caller's place.
#[track_caller]
pub fn eventually(what: &str, check: impl FnMut() -> bool) {
    assert!(within(PATIENCE, check), "not within {PATIENCE:?}: {what}");
}

/// Sends a signal; one that stops a process is waited for, since its threads stop one after the other.
///
/// # Panics
/// When there is no such process, or it does not stop.
#[track_caller]
pub fn signal(pid: Pid, signal: Signal) {
    kill(pid, signal).expect("the process is there to be signalled");
    if signal == Signal::SIGSTOP {
        eventually("it stands still", || stands_still(pid));
    }
}

/// Whether all threads of a process are stopped.
fn stands_still(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    threads.flatten().all(|thread| {
        let about = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before it may hold anything, also a parenthesis.
        let state = about.rsplit(')').next().map(str::trim_start);
        state.is_some_and(|state| state.starts_with(['T', 't']))
    })
}

/// The most memory a process has had, in bytes; none when it has ended.
#[must_use]
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// True as soon as `check` is; false when it is not within `limit`.
#[must_use]
pub fn within(limit: Duration, mut check: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        if check() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
