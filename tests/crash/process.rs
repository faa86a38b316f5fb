//! What happens to the process itself: stopped and continued, its clock stepping, its disk filling up and emptying.

use crate::df2redis::{Df2redis, Task};
use crate::pair::{Pair, Way, way_of};
use crate::support::{SimulatedDragonfly, Still, eventually};
use crate::workload::Workload;
use crate::writers::Writers;
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn pair() -> Pair {
    Pair::of(SimulatedDragonfly::options().ring(1 << 20))
}

fn writers(pair: &Pair) -> Writers {
    let workloads = [[0, 1], [2, 3]].map(|databases| Workload::on(&databases));
    Writers::start(pair.source.port(), workloads.into())
}

#[track_caller]
fn equal(pair: &Pair, writers: &Writers) {
    let paused = writers.pause();
    let all: Vec<&Workload> = paused.iter().map(|one| &**one).collect();
    pair.equal(&all);
}

#[test]
fn a_process_that_is_stopped_for_a_while_goes_on() {
    let pair = pair();
    let task = pair.task();
    let running = task.start_stable();
    let writers = writers(&pair);
    for _ in 0..3 {
        running.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_secs(1));
        running.signal(Signal::SIGCONT);
        equal(&pair, &writers);
    }
    assert_eq!(running.count_logged("session ended"), 0);
    drop(writers);
    running.stop();
    assert_eq!(
        (pair.source.full_syncs(), pair.source.partial_syncs()),
        (1, 0)
    );
}

#[test]
fn a_process_that_is_stopped_until_the_source_drops_it_resumes() {
    let options = SimulatedDragonfly::options().ring(1 << 20);
    let options = options.send_buffer(64 << 10).output_limit(64 << 10);
    let pair = Pair::of(options.replication_timeout(Duration::from_millis(500)));
    let task = pair.task();
    let mut running = task.start_stable();
    let writers = writers(&pair);
    running.signal(Signal::SIGSTOP);
    eventually("the source has dropped it", || pair.source.replicas() == 0);
    running.signal(Signal::SIGCONT);
    running.wait_logged("resumed, following writes");
    equal(&pair, &writers);
    drop(writers);
    running.stop();
    assert_eq!(
        (pair.source.full_syncs(), pair.source.partial_syncs()),
        (1, 1)
    );
}

/// Where a process under libfaketime reads what its clock shows.
struct Clock(PathBuf);

impl Clock {
    /// A clock that is right.
    fn beside(task: &Task) -> Self {
        let clock = Self(task.dir().join("clock"));
        clock.steps_to("+0");
        clock
    }

    /// It is off by this from now on, such as `-1d`.
    fn steps_to(&self, offset: &str) {
        // Whole or not at all: somebody reads it all the time.
        let aside = self.0.with_extension("new");
        std::fs::write(&aside, format!("{offset}\n")).expect("a file for the clock");
        std::fs::rename(&aside, &self.0).expect("a file for the clock");
    }

    /// Starts the task under it. Only the time of day steps, as by `date -s`; what counts up goes on.
    fn start(&self, task: &Task) -> Df2redis {
        let asked = Command::new("faketime")
            .args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"])
            .output();
        let asked =
            asked.expect("faketime: `apt-get install faketime` (or `make tools`) installs it");
        let library = String::from_utf8(asked.stdout).expect("a path");
        let mut command = task.command();
        command
            .env("LD_PRELOAD", library.trim())
            .env("FAKETIME_TIMESTAMP_FILE", &self.0)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        task.start_as(command)
    }
}

/// Keys whose expiry must neither come early nor be lost.
#[track_caller]
fn expiring(pair: &Pair, from: usize) {
    let mut client = pair.client();
    for n in from..from + 20 {
        client.ok(&[
            "SET",
            &format!("session:{n}"),
            "v",
            "EX",
            &(600 + n).to_string(),
        ]);
        client.ok(&["INCR", &format!("visits:{n}")]);
        client.ok(&["EXPIRE", &format!("visits:{n}"), "3600"]);
    }
}

#[test]
fn a_clock_that_steps_changes_nothing() {
    let pair = pair();
    let task = pair.task();
    let clock = Clock::beside(&task);
    expiring(&pair, 0);
    // Wrong from the start, so that the snapshot meets it too.
    clock.steps_to("-2d");
    let mut running = clock.start(&task);
    assert_eq!(way_of(&mut running), Way::Resynced);
    let year = |log: String| {
        log.lines()
            .last()
            .and_then(|line| line.get(..10).map(str::to_owned))
    };
    let wrong = year(running.log());
    let writers = writers(&pair);
    for (round, offset) in ["+1d", "-1h", "+400d", "+0"].into_iter().enumerate() {
        clock.steps_to(offset);
        expiring(&pair, 20 * (round + 1));
        equal(&pair, &writers);
    }
    assert_eq!(running.count_logged("session ended"), 0);
    drop(writers);
    running.stop();
    // With another time than the last one's, it goes on where the target is.
    let mut running = task.start();
    assert_eq!(way_of(&mut running), Way::Resumed);
    assert_ne!(year(running.log()), wrong, "the clock did not step");
    pair.equal(&[]);
    running.stop();
}

/// A file that takes up so many bytes of a file system, until dropped.
struct Filler(PathBuf);

impl Filler {
    fn of(dir: &Path, bytes: u64) -> Self {
        let path = dir.join("filler");
        let made = Command::new("fallocate")
            .arg("-l")
            .arg(bytes.to_string())
            .arg(&path)
            .status();
        assert!(made.expect("fallocate, of util-linux").success());
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // With the whole directory, if it fails.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Bytes that a source's connections hold: more than that is unsent only where nobody reads.
const SENT: usize = 64 << 10;

/// A task that leaves a part of the disk free, and a file that takes more than the rest.
fn near_full(pair: &Pair, on_full: &str) -> (Task, u64) {
    let task = pair.task();
    let stat = statvfs(task.dir()).expect("a file system");
    let free = stat.blocks_available() * stat.fragment_size();
    let task = task
        .with(format!("spool.min_free = \"{}B\"", free / 8 * 7))
        .with(format!("spool.on_full = \"{on_full}\""));
    (task, free / 4)
}

#[test]
fn a_disk_that_fills_up_and_empties_again_costs_the_session_and_no_full_sync() {
    let pair = pair();
    let (task, most) = near_full(&pair, "disconnect");
    let mut running = task.start_stable();
    let writers = writers(&pair);
    let still = Still::hold(&pair.target);
    let filler = Filler::of(task.dir(), most);
    running.wait_logged("the spool is full, letting go of the source");
    eventually("the source is let go of", || pair.source.unsent(0) == 0);
    drop(filler);
    drop(still);
    running.wait_logged("session ended, another follows");
    running.wait_logged("resumed, following writes");
    equal(&pair, &writers);
    drop(writers);
    running.stop();
    assert_eq!(pair.source.full_syncs(), 1);
}

#[test]
fn a_disk_that_fills_up_and_empties_again_slows_the_source_down_if_so_wanted() {
    let options = SimulatedDragonfly::options().send_buffer(SENT);
    let pair = Pair::of(options);
    let (task, most) = near_full(&pair, "throttle");
    let running = task.start_stable();
    let writers = writers(&pair);
    let still = Still::hold(&pair.target);
    let filler = Filler::of(task.dir(), most);
    eventually("a source that is not read", || {
        (0..pair.source.flows()).any(|flow| pair.source.unsent(flow) > SENT)
    });
    drop(filler);
    drop(still);
    equal(&pair, &writers);
    assert_eq!(running.count_logged("session ended"), 0);
    drop(writers);
    running.stop();
    assert_eq!(
        (pair.source.full_syncs(), pair.source.partial_syncs()),
        (1, 0)
    );
}
