//! A process that is killed, and a disk that is really full.

use std::process::Command;

use nix::sys::signal::Signal;

use super::batches::journal;
use super::*;
use crate::process::testing::{Other, command, hear, play, say};

const PUSHES: &str = "spool::tests::crash::pushes_in_a_process_of_its_own";

/// Entry `lsn` is always the same; some are large.
fn entry(lsn: u64) -> Batch {
    let size = match lsn % 50 {
        0 => 200_000,
        rest => (rest * 40) as usize,
    };
    journal(lsn, 1, size)
}

#[test]
#[ignore = "started by other tests"]
fn pushes_in_a_process_of_its_own() {
    play(|part, place| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        match part {
            "until it is killed" => runtime.block_on(push_for_ever(place)),
            "until the disk is full" => runtime.block_on(fill(place)),
            part => panic!("unknown part {part}"),
        }
    });
}

/// Pushes from where the spool ends, and says what is on disk.
async fn push_for_ever(place: &Path) {
    let settings = Settings {
        sync: match std::env::var("SYNC").unwrap().as_str() {
            "always" => Durability::Always,
            "interval" => Durability::Interval,
            _ => Durability::Never,
        },
        max_size: 64 << 20,
        keep: Duration::ZERO,
        memory: 1 << 20,
        ..settings()
    };
    let (spool, mut next) = match Found::at(place).unwrap().resume(settings.clone()).unwrap() {
        Some((spool, recovered)) => (spool, recovered[0].runs[0].end),
        None => (spool_in(place, settings), 1),
    };
    let (mut inlet, mut outlet) = both(&spool, 0);
    outlet.read_from(next).unwrap();
    let on_disk = inlet.on_disk().unwrap();
    tokio::spawn(async move {
        while let Some(batch) = outlet.next().await.unwrap() {
            // Never all of them, so that something is there after the kill.
            outlet.applied(lsns(&batch)[0].saturating_sub(200));
        }
    });
    let mut said = 0;
    loop {
        match inlet.push(entry(next)).await {
            Ok(()) => {}
            Err(PushError::Full(_)) => inlet.room().await,
            Err(error) => panic!("{error}"),
        }
        next += 1;
        let there = on_disk.get();
        if there > said {
            said = there;
            say(said);
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_counted_as_spooled() {
    for (sync, kills) in [("never", 4), ("interval", 4), ("always", 4)] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path();
        let mut least = 0;
        for kill in 0..kills {
            let mut command = command(PUSHES, "until it is killed", place);
            command.env("SYNC", sync);
            let mut other = Other::start(command);
            let enough = least + 120 + 37 * kill;
            let mut said = 0;
            while said < enough {
                said = other.says().parse().unwrap();
            }
            other.gets(Signal::SIGKILL);
            let last = other.says_at_last();
            other.ends();
            // A line that was cut off by the kill is a smaller number, or none.
            let said = last
                .iter()
                .filter_map(|line| line.parse().ok())
                .fold(said, u64::max);
            let runtime = tokio::runtime::Runtime::new().unwrap();
            least = runtime.block_on(check(place, said));
        }
    }
}

/// Reads everything back: whole, right, and at least to what was said to be there. Where it ends.
async fn check(place: &Path, said: u64) -> u64 {
    let (spool, recovered) = resume(place, settings());
    assert!(recovered[0].damaged.is_empty(), "{recovered:?}");
    let [run] = &recovered[0].runs[..] else {
        panic!("one run: {recovered:?}");
    };
    assert!(run.end >= said, "{said} was on disk, {run:?} is there");
    let (inlet, mut outlet) = both(&spool, 0);
    outlet.read_from(run.start).unwrap();
    drop(inlet);
    let mut next = run.start;
    while let Some(batch) = outlet.next().await.unwrap() {
        assert_eq!(flat(&batch), flat(&entry(next)));
        next += 1;
    }
    assert_eq!(next, run.end);
    run.end
}

/// Fills a file system of 6 MiB, twice.
async fn fill(place: &Path) {
    let spool = spool_in(place, settings());
    let (mut inlet, mut outlet) = both(&spool, 0);
    let mut taken = 1;
    let mut next = 1;
    for round in 0..2 {
        let full = loop {
            let pushed = inlet.push(entry(next)).await;
            next += 1;
            match pushed {
                Ok(()) => {}
                Err(PushError::Full(full)) => break full,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(
            full.refused || full.free < full.needed,
            "round {round}: {full}"
        );
        let other = place.join("somebody else's");
        // Others take what is left: the system itself refuses.
        drop(std::fs::write(&other, vec![1; 6 << 20]));
        while taken < next - 1 {
            let batch = outlet.next().await.unwrap().unwrap();
            assert_eq!(flat(&batch), flat(&entry(taken)));
            taken += 1;
            outlet.applied(taken);
        }
        std::fs::remove_file(other).unwrap();
        while inlet.flush().await.is_err() {
            inlet.room().await;
        }
    }
    assert!(inlet.on_disk().unwrap().reached(next).await);
    drop((inlet, outlet));
    spool.finish().unwrap();
    say(next);
    assert_eq!(hear(), None);
}

#[test]
fn a_full_file_system_stops_the_inlet_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let inner = command(PUSHES, "until the disk is full", dir.path());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=6m none \"$DF2REDIS_TEST_PLACE\" || exit 90; exec \"$@\"");
    command
        .arg("sh")
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let status = Command::new("unshare").args(["-m", "true"]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "this test mounts a small file system of its own and needs unshare(1) and the right to use it: run it as root"
    );
    let mut other = Other::start(command);
    let next: u64 = other.says().parse().unwrap();
    assert!(next > 100, "{next} entries");
    assert!(other.ends().success());
}
