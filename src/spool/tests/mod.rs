//! The spool under test, on real files.

mod batches;
mod bounds;
mod crash;
mod damage;
pub(super) mod faults;
mod order;

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{
    Durability, Found, Identity, Inlet, Outlet, PushError, ReadError, Recovered, Settings, Spool,
};
use crate::entry::Batch;
use batches::{Flat, flat};

/// The identity of most tests.
fn identity() -> Identity {
    Identity::of("c0ffee".repeat(6), 2)
}

fn settings() -> Settings {
    Settings {
        max_size: 1 << 30,
        min_free: 0,
        keep: Duration::from_secs(60),
        sync: Durability::Never,
        memory: 4 << 20,
    }
}

/// Little memory, and small segments.
fn small() -> Settings {
    Settings {
        max_size: 8 << 20,
        memory: 32 << 10,
        ..settings()
    }
}

/// A new spool in a directory of its own.
fn spool(settings: Settings) -> (TempDir, Spool) {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool_in(dir.path(), settings);
    (dir, spool)
}

fn spool_in(dir: &Path, settings: Settings) -> Spool {
    let found = Found::at(dir).unwrap();
    found.start_anew(&identity(), settings).unwrap()
}

fn both(spool: &Spool, flow: u32) -> (Inlet, Outlet) {
    (spool.inlet(flow).unwrap(), spool.outlet(flow).unwrap())
}

fn resume(dir: &Path, settings: Settings) -> (Spool, Vec<Recovered>) {
    let found = Found::at(dir).unwrap();
    assert_eq!(found.identity(), Some(&identity()));
    found.resume(settings).unwrap().unwrap()
}

/// The names in a directory, on one line.
fn names(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.join(" ")
}

fn lsns(batch: &Batch) -> Vec<u64> {
    flat(batch).iter().filter_map(Flat::lsn).collect()
}

#[track_caller]
fn eventually(what: &str, is: impl Fn() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "not in 20 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
