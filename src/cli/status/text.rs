//! What is known of a task, for people: one block, readable at a glance and at 3 a.m.
//!
//! ```text
//! orders: stable sync for 2h 13m, running for 1day 2h, PID 4711
//!   source    10.0.0.1:6379 (Dragonfly 1.40.1)
//!   target    10.0.0.2:6379 (Redis 7.0.15)
//!   lag       3 entries, 12 ms, flow 1
//!   rate      1,203 entries/s, 1.20 MiB/s
//!   ...
//!   flow  state          keys       bytes    position      source  lag  latency  skipped
//!      0  stable       60,000  600.00 MiB       17260       17261    1   0.1 ms        0
//! ```

mod audit;
mod flows;
mod values;

use std::fmt::Write;

use indicatif::{BinaryBytes, HumanCount};

use super::known::{Known, Origin, TaskState};
use crate::cli::running::Unasked;
use crate::task::{Phase, Report};

use audit::audited;
use flows::table;
use values::{ago, kinds, span, span_of};

/// Lines are collected here; writing to a string does not fail.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    /// A label, and what it labels, line by line below each other.
    fn row(&mut self, label: &str, text: &str) {
        let mut label = label;
        for line in text.lines() {
            self.line(&format!("  {label:<9} {}", printable(line)));
            label = "";
        }
    }
}

/// What servers and files say may hold anything, also what a terminal would obey.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// A task's block, at `now_ms`.
pub(super) fn block(known: &Known, now_ms: i64) -> String {
    let mut lines = Lines::default();
    match known {
        Known::Process { name, silence } => {
            lines.line(&printable(&format!("{name}: {silence}")));
        }
        Known::Task(task) => {
            let standing = standing(task, now_ms);
            lines.line(&printable(&format!("{}: {standing}", task.report.task)));
            rows(&mut lines, task, now_ms);
        }
    }
    lines.0
}

/// What matters most, for the first line.
fn standing(task: &TaskState, now_ms: i64) -> String {
    let report = &task.report;
    let phase = report.phase.name();
    let Some(note) = task.note() else {
        return format!(
            "{phase} for {}, running for {}, PID {}",
            span(now_ms.saturating_sub(report.phase_since_ms)),
            span(now_ms.saturating_sub(report.started_ms)),
            report.pid
        );
    };
    match (&task.origin, &task.silence) {
        (Origin::TaskFile(_), _) => note,
        (_, Some(Unasked::NotRunning)) if task.ended_in_order() => {
            format!("{note}, {phase} {}", ago(report.phase_since_ms, now_ms))
        }
        _ => format!(
            "{note}, last seen in phase \"{phase}\" {}",
            ago(report.at_ms, now_ms)
        ),
    }
}

fn rows(lines: &mut Lines, task: &TaskState, now_ms: i64) {
    let report = &task.report;
    lines.row("source", &report.source.to_string());
    lines.row("target", &report.target.to_string());
    if !matches!(task.origin, Origin::TaskFile(_)) {
        if task.silence.is_none() {
            movement(lines, report);
        }
        if let Some(began) = &report.began {
            lines.row("began", began);
        }
        withheld(lines, report);
        if let Some(audit) = &report.audit {
            lines.row("audit", &audited(audit, task.silence.is_none(), now_ms));
        }
        lines.row("copied", &copied(report));
        if report.phase == Phase::Stable || report.applied > 0 {
            let applied = HumanCount(report.applied);
            lines.row("applied", &format!("{applied} entries"));
        }
        lines.row(
            "left out",
            &format!(
                "{} skipped, {} unsupported{}, {} with less than the source has",
                HumanCount(report.skipped),
                HumanCount(report.unsupported),
                kinds(&report.unsupported_by_kind),
                HumanCount(report.reduced)
            ),
        );
        lines.row(
            "sessions",
            &format!("{}, restarts {}", report.sessions, report.restarts),
        );
        if task.silence.is_none() {
            let memory = BinaryBytes(report.memory_bytes);
            lines.row("memory", &format!("{memory} of the process"));
        }
    }
    lines.row("log", &report.log_file.to_string_lossy());
    if let Some(levels) = &task.log_levels {
        lines.row("levels", &format!("changed: {levels}"));
    }
    if let Some(error) = &report.last_error {
        let when = ago(error.at_ms, now_ms);
        lines.row("error", &format!("{when}: {}", error.text));
        if let Some(hint) = &error.hint {
            lines.row("hint", hint);
        }
    }
    if !report.flows.is_empty() {
        table(lines, &report.flows);
    }
}

/// What is read again from the source, and what waits for an operator.
fn withheld(lines: &mut Lines, report: &Report) {
    if let Some(approval) = report.approval {
        let (gone, owned) = (HumanCount(approval.gone), HumanCount(approval.owned));
        let what = format!(
            "to be approved: {gone} of {owned} keys on the target are not on the source; df2redis approve removes them"
        );
        lines.row("waits", &what);
    }
    if report.withheld + report.reread + report.unverified + report.scheduled == 0 {
        return;
    }
    let mut text = format!("{} keys", HumanCount(report.reread));
    // Writing to a string does not fail.
    if report.withheld > 0 {
        let _ = write!(text, ", {} to be read", HumanCount(report.withheld));
    }
    if report.scheduled > 0 {
        let scheduled = HumanCount(report.scheduled);
        let _ = write!(text, ", {scheduled} when members of them expire");
    }
    if report.unverified > 0 {
        let unverified = HumanCount(report.unverified);
        let _ = write!(
            text,
            ", {unverified} too many to be read: they may differ until the audit has compared them"
        );
    }
    lines.row("reread", &text);
}

/// How fast it goes, and how far behind it is.
fn movement(lines: &mut Lines, report: &Report) {
    if let Some(lag) = report.lag {
        let entries = HumanCount(lag.entries);
        let text = format!("{entries} entries, {} ms, flow {}", lag.ms, lag.flow);
        lines.row("lag", &text);
    }
    if let Some(slots) = report.moving() {
        let text = format!("entries of slots of the target that are on the move: {slots}");
        lines.row("waits", &text);
    }
    if let Some(spool) = &report.spool {
        let (bytes, most) = (BinaryBytes(spool.bytes), BinaryBytes(spool.max_bytes));
        let mut text = format!("{bytes} of {most}");
        // Writing to a string does not fail.
        if let Some(oldest) = spool.oldest_ms {
            let _ = write!(text, ", oldest entry {oldest} ms");
        }
        match (spool.flows_behind, spool.empty_in_ms) {
            (0, _) => {}
            (_, Some(ms)) => {
                let _ = write!(text, ", empty in {}", span_of(ms));
            }
            (_, None) => {
                let _ = write!(text, ", the target is slower than the source");
            }
        }
        lines.row("spool", &text);
        let windows = [
            ("target", spool.spool_window_ms),
            ("df2redis", spool.ring_window_ms),
        ];
        let windows = windows.iter().filter_map(|(who, window)| {
            let span = span_of((*window)?);
            Some(format!("{span} without {who}"))
        });
        let windows: Vec<_> = windows.collect();
        if !windows.is_empty() {
            lines.row("resumes", &format!("after up to {}", windows.join(", ")));
        }
    }
    let per_second = |rate: f64| HumanCount(rate.round() as u64);
    let bytes = BinaryBytes(report.rates.bytes.round() as u64);
    let rate = match report.phase {
        Phase::Snapshot => format!("{} keys/s", per_second(report.rates.keys)),
        Phase::Stable => format!("{} entries/s", per_second(report.rates.entries)),
        _ => return,
    };
    lines.row("rate", &format!("{rate}, {bytes}/s"));
}

/// How much of the snapshot was copied.
fn copied(report: &Report) -> String {
    let keys = HumanCount(report.keys);
    let mut text = match (report.expected_keys, report.percent()) {
        (Some(expected), Some(percent)) => {
            format!("{keys} of {} keys, {percent} %", HumanCount(expected))
        }
        _ => format!("{keys} keys"),
    };
    // Writing to a string does not fail.
    let _ = write!(text, ", {}", BinaryBytes(report.bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Flow, Lag, LastError, PerSecond, Server, SpoolReport};

    /// 2001-09-09T01:46:40Z, in milliseconds.
    pub(super) const NOW: i64 = 1_000_000_000_000;

    pub(super) fn report() -> Report {
        let flow = |applied, next: u64| Flow {
            keys: 60_000,
            bytes: 600 << 20,
            snapshot_ended: true,
            applied: Some(applied),
            source_next: Some(next),
            lag_entries: Some(next - applied),
            latency_us: 150,
            skipped: 0,
        };
        let server = |address: &str, server: &str| Server {
            address: address.to_owned(),
            server: Some(server.to_owned()),
        };
        Report {
            task: "orders".to_owned(),
            log_file: "/var/log/df2redis/orders_replicate.log".into(),
            pid: 4711,
            at_ms: NOW,
            started_ms: NOW - 93_600_000,
            phase: Phase::Stable,
            phase_since_ms: NOW - 7_980_123,
            sessions: 2,
            source: server("10.0.0.1:6379", "df-v1.40.1"),
            target: server("10.0.0.2:6379", "Redis 7.0.15"),
            expected_keys: Some(120_000),
            keys: 120_000,
            bytes: 1_200 << 20,
            applied: 34_521,
            skipped: 2,
            rates: PerSecond {
                keys: 0.0,
                bytes: 1.25 * 1024.0 * 1024.0,
                entries: 1_203.4,
                received: 0.0,
            },
            lag: Some(Lag {
                flow: 1,
                entries: 3,
                ms: 12,
            }),
            flows: vec![flow(17_260, 17_260), flow(9, 12)],
            last_error: Some(LastError {
                at_ms: NOW - 7_981_000,
                text: "source 10.0.0.1:6379: lost".to_owned(),
                hint: Some("look at the source\nand at the network".to_owned()),
            }),
            memory_bytes: 64 << 20,
            ..Report::default()
        }
    }

    pub(super) fn state(report: Report, origin: Origin, silence: Option<Unasked>) -> Known {
        Known::Task(Box::new(TaskState {
            report,
            origin,
            silence,
            log_levels: None,
        }))
    }

    #[test]
    fn a_running_task_is_one_aligned_block() {
        let shown = block(&state(report(), Origin::Process, None), NOW);
        let expected = "\
orders: stable sync for 2h 13m, running for 1day 2h, PID 4711
  source    10.0.0.1:6379 (df-v1.40.1)
  target    10.0.0.2:6379 (Redis 7.0.15)
  lag       3 entries, 12 ms, flow 1
  rate      1,203 entries/s, 1.25 MiB/s
  copied    120,000 keys, 1.17 GiB
  applied   34,521 entries
  left out  2 skipped, 0 unsupported, 0 with less than the source has
  sessions  2, restarts 0
  memory    64.00 MiB of the process
  log       /var/log/df2redis/orders_replicate.log
  error     2h 13m ago (2001-09-08T23:33:39Z): source 10.0.0.1:6379: lost
  hint      look at the source
            and at the network
  flow  state     keys       bytes  position  source  lag  latency  skipped
     0  stable  60,000  600.00 MiB     17260   17260    0   0.1 ms        0
     1  stable  60,000  600.00 MiB         9      12    3   0.1 ms        0
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn slots_on_the_move_are_named_while_the_process_lives() {
        let moving = Report {
            moving_slots: [5, 7, 8].into(),
            ..report()
        };
        let row = "\n  waits     entries of slots of the target that are on the move: 5, 7-8\n";
        assert!(block(&state(moving.clone(), Origin::Process, None), NOW).contains(row));
        let silence = Some(Unasked::NotRunning);
        assert!(!block(&state(moving, Origin::Saved, silence), NOW).contains("\n  waits "));
    }

    #[test]
    fn the_spool_is_shown_with_what_it_and_the_ring_are_good_for() {
        let rows = |spool: SpoolReport| {
            let with_spool = Report {
                spool: Some(spool),
                ..report()
            };
            let shown = block(&state(with_spool, Origin::Process, None), NOW);
            let rows = shown.lines().map(str::trim);
            let rows = rows.filter(|row| row.starts_with("spool ") || row.starts_with("resumes "));
            rows.map(str::to_owned).collect::<Vec<_>>()
        };
        let idle = SpoolReport {
            bytes: 3 << 20,
            max_bytes: 10 << 30,
            empty_in_ms: Some(0),
            ..SpoolReport::default()
        };
        assert_eq!(rows(idle), ["spool     3.00 MiB of 10.00 GiB"]);
        let behind = SpoolReport {
            oldest_ms: Some(41_000),
            flows_behind: 1,
            empty_in_ms: Some(95_400),
            ring_window_ms: Some(409),
            spool_window_ms: Some(7_300_000),
            ..idle
        };
        assert_eq!(
            rows(behind),
            [
                "spool     3.00 MiB of 10.00 GiB, oldest entry 41000 ms, empty in 1m 35s",
                "resumes   after up to 2h 1m without target, 409 ms without df2redis",
            ]
        );
        let growing = SpoolReport {
            empty_in_ms: None,
            spool_window_ms: None,
            ..behind
        };
        assert_eq!(
            rows(growing),
            [
                "spool     3.00 MiB of 10.00 GiB, oldest entry 41000 ms, the target is slower than the source",
                "resumes   after up to 409 ms without df2redis",
            ]
        );
    }

    #[test]
    fn a_snapshot_shows_how_much_is_done() {
        let snapshot = Report {
            phase: Phase::Snapshot,
            keys: 1_000,
            applied: 0,
            lag: None,
            ..report()
        };
        let shown = block(&state(snapshot, Origin::Process, None), NOW);
        assert!(shown.contains("\n  copied    1,000 of 120,000 keys, 0 %, "));
        assert!(shown.contains("\n  rate      0 keys/s, "));
        assert!(!shown.contains("\n  applied "));
    }

    #[test]
    fn without_a_process_it_is_the_past_that_is_shown() {
        let first = |report: Report, silence| {
            let shown = block(&state(report, Origin::Saved, Some(silence)), NOW + 5_000);
            assert!(!shown.contains("\n  lag ") && !shown.contains("\n  rate "));
            assert!(shown.contains("\n     1  stable "));
            shown.lines().next().unwrap().to_owned()
        };
        let when = "5s ago (2001-09-09T01:46:40Z)";
        assert_eq!(
            first(report(), Unasked::NotRunning),
            format!(
                "orders: dead, it ended without saying so, last seen in phase \"stable sync\" {when}"
            )
        );
        let stopped = Report {
            phase: Phase::Stopped,
            phase_since_ms: NOW,
            ..report()
        };
        assert_eq!(
            first(stopped, Unasked::NotRunning),
            format!("orders: not running, stopped {when}")
        );
        assert_eq!(
            first(report(), Unasked::Silent("no answer".to_owned())),
            format!("orders: no answer, last seen in phase \"stable sync\" {when}")
        );
    }

    #[test]
    fn a_task_that_has_never_run_shows_what_its_file_says() {
        let from_file = Report {
            task: "orders".to_owned(),
            log_file: report().log_file,
            source: report().source,
            target: report().target,
            ..Report::default()
        };
        let silence = Some(Unasked::NotRunning);
        let shown = block(&state(from_file, Origin::TaskFile(None), silence), NOW);
        let labels: Vec<&str> = shown
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(labels, ["source", "target", "log"], "{shown}");
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_is_printed() {
        let mut hostile = report();
        hostile.source.server = Some("\x1b[2J\u{9b}evil\r".to_owned());
        hostile.last_error = Some(LastError {
            text: "\x07\x1b]0;title".to_owned(),
            ..LastError::default()
        });
        let shown = block(&state(hostile, Origin::Process, None), NOW);
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
        assert!(shown.contains("?[2J?evil?"));
    }

    #[test]
    fn times_of_a_damaged_state_are_shown_somehow() {
        let damaged = Report {
            at_ms: i64::MIN,
            started_ms: i64::MIN,
            phase_since_ms: i64::MAX,
            ..report()
        };
        for origin in [Origin::Process, Origin::Saved] {
            let silence = matches!(origin, Origin::Saved).then_some(Unasked::NotRunning);
            assert!(!block(&state(damaged.clone(), origin, silence), NOW).is_empty());
        }
    }
}
