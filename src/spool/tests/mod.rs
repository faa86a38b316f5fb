//! The spool under test, on real files.

mod batches;
pub(super) mod faults;
mod order;

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::{Durability, Found, Identity, Inlet, Outlet, Recovered, Settings, Spool};

/// The identity of most tests.
fn identity() -> Identity {
    Identity {
        master: "c0ffee".repeat(6),
        flows: 2,
    }
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

/// A new spool in a directory of its own.
fn spool(settings: Settings) -> (TempDir, Spool) {
    let dir = tempfile::tempdir().unwrap();
    let found = Found::at(dir.path()).unwrap();
    assert!(found.identity().is_none());
    let spool = found.start_anew(&identity(), settings).unwrap();
    (dir, spool)
}

fn both(spool: &Spool, flow: u32) -> (Inlet, Outlet) {
    (spool.inlet(flow).unwrap(), spool.outlet(flow).unwrap())
}

fn resume(dir: &Path, settings: Settings) -> (Spool, Vec<Recovered>) {
    let found = Found::at(dir).unwrap();
    assert_eq!(found.identity(), Some(&identity()));
    found.resume(settings).unwrap().unwrap()
}
