//! One kill at one place.

use crate::df2redis::{Df2redis, Task};
use crate::pair::{Pair, Way, is_killed, way_of};
use crate::sink::Sink;
use crate::workload::Workload;
use ::df2redis::fail_point::{DIE_AT, Place};
use std::time::{Duration, Instant};

/// How long a place may take to be reached, on a busy machine.
const REACHED_WITHIN: Duration = Duration::from_secs(40);
/// Less than any task of the matrix may spool.
const MOST_SPOOLED: u64 = 80 << 20;
/// Until it is looked again.
const MOMENT: Duration = Duration::from_millis(5);

/// A place, at which of its passes the process dies, and how the next one begins: `None` where the target's record of
/// stable sync may or may not be there by then, and decides.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub place: Place,
    pub at: &'static [u64],
    pub then: Option<Way>,
}

/// A case whose next start resumes.
pub const fn resumed(place: Place, at: &'static [u64]) -> Case {
    Case {
        place,
        at,
        then: Some(Way::Resumed),
    }
}

/// A case whose next start copies everything.
pub const fn resynced(place: Place, at: &'static [u64]) -> Case {
    Case {
        place,
        at,
        then: Some(Way::Resynced),
    }
}

/// A case whose next start does what the target's record says.
pub const fn as_recorded(place: Place, at: &'static [u64]) -> Case {
    Case {
        place,
        at,
        then: None,
    }
}

/// What the target's record means.
fn recorded(pair: &Pair<impl Sink>) -> Way {
    match pair.target.record().get("phase").map(String::as_str) {
        Some("stable") => Way::Resumed,
        _ => Way::Resynced,
    }
}

/// Starts a process that dies at a pass of a place.
pub fn start_dying(task: &Task, place: Place, at: u64) -> Df2redis {
    let mut command = task.command();
    command.env(DIE_AT, format!("{} {at}", place.name()));
    task.start_as(command)
}

/// Starts a process that dies there, writes until it has, starts another, and compares.
#[track_caller]
pub fn die_and_start_again(
    pair: &Pair<impl Sink>,
    task: &Task,
    workload: &mut Workload,
    case: (Case, u64),
) {
    die(pair, task, workload, case);
    start_again(pair, task, workload, case);
}

/// Starts a process that dies there, and writes until it has, and a little longer.
#[track_caller]
pub fn die(pair: &Pair<impl Sink>, task: &Task, workload: &mut Workload, case: (Case, u64)) {
    die_disturbed(pair, task, workload, case, || {});
}

/// The same, with something that is done before each round of writes.
#[track_caller]
pub fn die_disturbed(
    pair: &Pair<impl Sink>,
    task: &Task,
    workload: &mut Workload,
    (case, at): (Case, u64),
    mut disturb: impl FnMut(),
) {
    let what = format!("{} {at}", case.place.name());
    let mut client = pair.client();
    let began = Instant::now();
    let mut running = start_dying(task, case.place, at);
    while !is_killed(&mut running, Duration::ZERO) {
        assert!(began.elapsed() < REACHED_WITHIN, "{what} was never reached");
        if workload.is_large() && pair.source.stable_replicas() == 0 {
            // What nobody reads yet would fill the spool at once.
            std::thread::sleep(MOMENT);
            continue;
        }
        disturb();
        workload.round(&mut client);
        // A spool that fills up would end the session.
        while task.spooled_bytes() > MOST_SPOOLED && !is_killed(&mut running, MOMENT) {
            assert!(began.elapsed() < REACHED_WITHIN, "{what} was never reached");
        }
    }
    drop(running);
    // Somebody writes while nobody follows.
    workload.rounds(&mut client, 5);
    pair.left();
}

/// Starts another process, which must begin as the case says, and compares.
#[track_caller]
pub fn start_again(
    pair: &Pair<impl Sink>,
    task: &Task,
    workload: &mut Workload,
    (case, at): (Case, u64),
) {
    let then = case.then.unwrap_or_else(|| recorded(pair));
    let mut running = task.start();
    let way = way_of(&mut running);
    assert_eq!(way, then, "after {} {at}", case.place.name());
    workload.rounds(&mut pair.client(), 5);
    pair.equal(&[workload]);
    assert_eq!(running.count_logged("session ended"), 0);
    running.stop();
}
