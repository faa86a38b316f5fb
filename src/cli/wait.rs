//! `df2redis wait`: until the target has what the source had when the command was given.
//!
//! ```text
//!     ┌──────────────── another session ◄─────────────┐
//!     ▼                                               │
//!  Reading ── source answered twice ──► Applying ─────┤
//!                                          ▲  │ applied up to there
//!                                          │  ▼
//!                                       all tasks at the same time: done
//! ```
//!
//! The source is asked for its positions, and the second answer counts: the first may have been on its way before.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::arguments::Wait;
use super::complain;
use super::running::{Subject, Unasked, ask, worst};
use crate::process::Exit;
use crate::task::{Phase, Report};

/// Pauses between looks: short at first, for a target that is just about to catch up.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How long a look may take that begins when the time is nearly over: it is what the last words are about.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// How many answers of the source are waited for.
const ANSWERS: u64 = 2;

/// Waits; the exit code says whether the target has caught up.
pub(super) fn run(arguments: &Wait) -> Exit {
    let subjects = match Subject::chosen(&arguments.tasks, arguments.pidfile.as_deref()) {
        Ok(subjects) => subjects,
        Err(exit) => return exit,
    };
    // None: longer than can be told, so without end.
    let end = Instant::now().checked_add(arguments.timeout);
    let mut goals: BTreeMap<Key, Goal> = BTreeMap::new();
    let mut pause = SHORTEST_PAUSE;
    loop {
        let Looked { reports, silent } = match look(&subjects, end) {
            Ok(looked) => looked,
            Err(exit) => return exit,
        };
        let mut short = silent;
        let mut wants_positions = false;
        for (key, report) in reports {
            let goal = goals.entry(key).or_insert(Goal::Nothing);
            wants_positions |= goal.follow(&report);
            if let Some(distance) = goal.distance(&report, arguments.lag) {
                short.push(format!("task {}: {distance}", report.task));
            }
        }
        if short.is_empty() {
            for (_, task) in goals.keys() {
                // Whether or not somebody reads it, it is so.
                let _ = writeln!(io::stdout(), "task {task}: caught up");
            }
            return Exit::Done;
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            complain(format_args!("not caught up within {:?}", arguments.timeout));
            for distance in short {
                complain(distance);
            }
            return Exit::Temporary;
        }
        if wants_positions {
            // Who cannot be asked now is seen at the next look.
            ask(&subjects, end, |control, tasks, deadline| {
                control.refresh(tasks, deadline)
            });
        }
        sleep(left.map_or(pause, |left| left.min(pause)));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One task of a subject, by the subject's number and the task's name.
type Key = (usize, String);

/// What was seen at one moment.
struct Looked {
    reports: Vec<(Key, Report)>,
    /// Which processes do not answer, in words.
    silent: Vec<String>,
}

/// How all tasks are; a process that does not run or cannot be asked ends the wait.
fn look(subjects: &[Subject], end: Option<Instant>) -> Result<Looked, Exit> {
    let end = end.map(|end| end.max(Instant::now() + LAST_LOOK));
    let answers = ask(subjects, end, |control, _, deadline| {
        control.status(deadline)
    });
    let (mut reports, mut silent, mut exits) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (subject, answer)) in subjects.iter().zip(answers).enumerate() {
        match answer {
            Ok(tasks) => {
                let asked = tasks.into_iter().filter(|told| match subject {
                    Subject::Task(task) => task.name == told.report.task,
                    Subject::PidFile(_) => true,
                });
                let known = reports.len();
                reports.extend(asked.map(|told| ((number, told.report.task.clone()), told.report)));
                // Nothing to wait for is not the same as nothing that is missing.
                if reports.len() == known {
                    complain(format_args!(
                        "{}: its process runs no such task",
                        subject.name()
                    ));
                    exits.push(Exit::Unknown);
                }
            }
            Err(silence @ Unasked::Silent(_)) => {
                silent.push(format!("{}: {silence}", subject.name()));
            }
            Err(unasked) => {
                complain(format_args!("{}: {unasked}", subject.name()));
                exits.push(unasked.exit_of_request());
            }
        }
    }
    match exits.is_empty() {
        true => Ok(Looked { reports, silent }),
        false => Err(worst(exits)),
    }
}

/// Which session: positions of one mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    pid: u32,
    started_ms: i64,
    number: u64,
}

impl Session {
    fn of(report: &Report) -> Self {
        Self {
            pid: report.pid,
            started_ms: report.started_ms,
            number: report.sessions,
        }
    }
}

/// Where one task has to get to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    /// It has not been looked at.
    Nothing,
    /// The source is being asked.
    Reading {
        session: Session,
        /// How many answers there were before.
        before: u64,
        /// And when last looked at.
        seen: u64,
    },
    /// To these positions, by flow.
    Applying { session: Session, upto: Vec<u64> },
}

impl Goal {
    /// Takes in how the task is now; `true`: the source is to be asked for its positions.
    fn follow(&mut self, report: &Report) -> bool {
        let now = Session::of(report);
        let read = report.offsets_read;
        match self {
            Self::Reading {
                session,
                before,
                seen,
            } if *session == now => {
                let positions = report.flows.iter().map(|flow| flow.source_next);
                let positions: Option<Vec<u64>> = positions.collect();
                match positions {
                    Some(upto) if !upto.is_empty() && read >= before.saturating_add(ANSWERS) => {
                        let session = *session;
                        *self = Self::Applying { session, upto };
                        false
                    }
                    _ => {
                        let is_answered = read > *seen;
                        *seen = read;
                        is_answered
                    }
                }
            }
            Self::Applying { session, .. } if *session == now => false,
            Self::Nothing | Self::Reading { .. } | Self::Applying { .. } => {
                *self = Self::Reading {
                    session: now,
                    before: read,
                    seen: read,
                };
                true
            }
        }
    }

    /// What is missing, in words; none: nothing but `lag` entries of each flow.
    fn distance(&self, report: &Report, lag: u64) -> Option<String> {
        let Self::Applying { upto, .. } = self else {
            return Some(before(report, "the source's positions are not known yet"));
        };
        let flows = report.flows.iter().zip(upto).enumerate();
        let mut behind = Vec::new();
        for (number, (flow, upto)) in flows {
            let Some(applied) = flow.applied else {
                return Some(before(report, "it does not follow the source's writes yet"));
            };
            if applied.saturating_add(lag) < *upto {
                behind.push((upto - applied, number, applied, *upto));
            }
        }
        // Flows do not become fewer within a session.
        if report.flows.len() < upto.len() {
            return Some(before(report, "its flows are not known"));
        }
        let (entries, number, applied, upto) = behind.iter().max()?;
        Some(format!(
            "{} of {} flows are not there yet; flow {number} has applied {applied} and goes to {upto}, {entries} short",
            behind.len(),
            report.flows.len(),
        ))
    }
}

/// How far a task is that cannot be measured by positions yet.
fn before(report: &Report, what: &str) -> String {
    let headline = report.headline();
    let headline = headline
        .strip_prefix(&format!("{}: ", report.task))
        .unwrap_or(&headline);
    match (report.phase, &report.last_error) {
        (Phase::Connecting | Phase::Waiting | Phase::Failed, Some(error)) => {
            format!("{headline}, {what}; last error: {}", error.text)
        }
        _ => format!("{headline}, {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Flow;

    /// A task of two flows in session `number`, whose source has answered `read` times.
    fn report(number: u64, read: u64, applied: Option<u64>, next: u64) -> Report {
        let flow = Flow {
            applied,
            source_next: Some(next),
            ..Flow::default()
        };
        Report {
            task: "orders".to_owned(),
            phase: Phase::Stable,
            sessions: number,
            offsets_read: read,
            flows: vec![flow, flow],
            ..Report::default()
        }
    }

    #[test]
    fn the_second_answer_of_the_source_is_the_goal_and_stays_it() {
        let mut goal = Goal::Nothing;
        assert!(goal.follow(&report(1, 7, Some(5), 100)));
        assert!(!goal.follow(&report(1, 7, Some(5), 100)));
        // This one may have been on its way before.
        assert!(goal.follow(&report(1, 8, Some(100), 100)));
        let early = goal.distance(&report(1, 8, Some(100), 100), 0);
        assert!(early.is_some_and(|text| text.contains("not known yet")));
        assert!(!goal.follow(&report(1, 9, Some(100), 110)));
        assert!(!goal.follow(&report(1, 10, Some(109), 200)));
        let short = goal.distance(&report(1, 10, Some(109), 200), 0);
        assert_eq!(
            short.as_deref(),
            Some("2 of 2 flows are not there yet; flow 1 has applied 109 and goes to 110, 1 short")
        );
        assert_eq!(goal.distance(&report(1, 10, Some(109), 200), 1), None);
        assert_eq!(goal.distance(&report(1, 11, Some(110), 200), 0), None);
    }

    #[test]
    fn another_session_or_process_starts_over() {
        let mut goal = Goal::Nothing;
        for read in 0..3 {
            goal.follow(&report(1, read, Some(5), 100));
        }
        assert!(matches!(goal, Goal::Applying { .. }));
        let again = report(2, 50, Some(100), 100);
        assert!(goal.follow(&again));
        assert!(goal.distance(&again, 0).is_some());
        goal.follow(&report(2, 52, Some(100), 100));
        assert!(matches!(goal, Goal::Applying { .. }));
        let other = Report {
            pid: 7,
            ..report(2, 52, Some(100), 100)
        };
        assert!(goal.follow(&other));
    }

    #[test]
    fn before_stable_sync_nothing_is_caught_up_even_with_any_lag() {
        let mut goal = Goal::Nothing;
        for read in 0..3 {
            goal.follow(&report(1, read, None, 100));
        }
        let snapshot = Report {
            phase: Phase::Snapshot,
            keys: 50,
            expected_keys: Some(200),
            ..report(1, 3, None, 100)
        };
        let short = goal.distance(&snapshot, u64::MAX);
        let expected = "snapshot, 50 keys, 25 %, it does not follow the source's writes yet";
        assert_eq!(short.as_deref(), Some(expected));
    }

    #[test]
    fn a_position_that_the_source_does_not_tell_is_waited_for() {
        let mut goal = Goal::Nothing;
        for read in 0..5 {
            let mut silent = report(1, read, Some(5), 100);
            silent.flows[1].source_next = None;
            goal.follow(&silent);
        }
        assert!(matches!(goal, Goal::Reading { .. }));
    }
}
