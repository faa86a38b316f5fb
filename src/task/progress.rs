//! What a task tells while it runs: a bar or a line on a terminal, a summary line in the log.

use std::time::{Duration, Instant};

use slog::{Logger, info};

use crate::logging::{Progress, Terminal, fields};

use super::lag::Lag;
use super::millis;
use super::status::{Phase, Status, Totals};

/// Turns counters into rates, from one look to the next.
#[derive(Debug)]
pub(super) struct Rates {
    at: Instant,
    totals: Totals,
    applied: u64,
}

/// Per second, since the last look.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PerSecond {
    keys: f64,
    bytes: f64,
    applied: f64,
}

impl Rates {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            at: now,
            totals: Totals::default(),
            applied: 0,
        }
    }

    /// Rates since the last call. `applied` counts entries of stable sync.
    pub(super) fn since_last(&mut self, now: Instant, totals: Totals, applied: u64) -> PerSecond {
        let seconds = now.duration_since(self.at).as_secs_f64().max(0.001);
        let per_second = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let rates = PerSecond {
            keys: per_second(totals.keys, self.totals.keys),
            bytes: per_second(totals.bytes, self.totals.bytes),
            applied: per_second(applied, self.applied),
        };
        *self = Self {
            at: now,
            totals,
            applied,
        };
        rates
    }
}

/// What is known at one moment.
pub(super) struct Moment {
    pub(super) totals: Totals,
    /// Entries of stable sync that the target has confirmed.
    pub(super) applied: u64,
    /// The flow that is furthest behind, and how far.
    pub(super) slowest: Option<(u32, Lag)>,
    pub(super) sessions: u64,
    pub(super) unsupported: u64,
    /// Keys and entries copied with less than the source has.
    pub(super) reduced: u64,
}

/// Shows the moment on the terminal, if there is one.
pub(super) fn show(terminal: &Terminal, status: &Status, moment: &Moment, rates: PerSecond) {
    if !terminal.shows_progress() {
        return;
    }
    let totals = &moment.totals;
    let expected = status
        .expected_keys
        .load(std::sync::atomic::Ordering::Relaxed);
    let progress = match status.phase() {
        Phase::Snapshot => {
            let text = format!(
                "snapshot  {} keys  {}  {}/s  flows {}/{}",
                totals.keys,
                size(totals.bytes as f64),
                size(rates.bytes),
                totals.flows_done,
                status.flows.len(),
            );
            if expected == 0 {
                Progress::Line(text)
            } else {
                Progress::Bar {
                    done: totals.keys.min(expected),
                    total: expected,
                    text,
                }
            }
        }
        Phase::Stable => {
            let lag = moment.slowest.map(|(_, lag)| lag).unwrap_or_default();
            Progress::Line(format!(
                "stable sync  {} entries applied  {:.0}/s  lag {} entries, {} ms",
                moment.applied,
                rates.applied,
                lag.entries,
                lag.time.as_millis(),
            ))
        }
        phase @ (Phase::Connecting | Phase::Waiting | Phase::Stopping) => {
            Progress::Line(phase.name().to_owned())
        }
    };
    terminal.show(Some(progress));
}

/// Writes the summary line.
pub(super) fn summarise(log: &Logger, status: &Status, moment: &Moment, rates: PerSecond) {
    let totals = &moment.totals;
    let memory = resident_bytes();
    match status.phase() {
        Phase::Stable => {
            let (flow, lag) = moment.slowest.unwrap_or_default();
            info!(log, "summary"; fields::PHASE => status.phase().name(),
                fields::ENTRIES => moment.applied, fields::ENTRIES_PER_S => rates.applied.round() as u64,
                fields::LAG_ENTRIES => lag.entries,
                fields::LAG_MS => millis(lag.time),
                fields::FLOW => flow, fields::MEMORY_BYTES => memory,
                fields::RECONNECTS => moment.sessions.saturating_sub(1),
                fields::SKIPPED => totals.skipped, fields::UNSUPPORTED => moment.unsupported,
                fields::REDUCED => moment.reduced);
        }
        phase => {
            info!(log, "summary"; fields::PHASE => phase.name(),
                fields::KEYS => totals.keys, fields::BYTES => totals.bytes,
                fields::KEYS_PER_S => rates.keys.round() as u64, fields::FLOWS_DONE => totals.flows_done,
                fields::FLOWS => status.flows.len(), fields::MEMORY_BYTES => memory,
                fields::RECONNECTS => moment.sessions.saturating_sub(1),
                fields::SKIPPED => totals.skipped, fields::UNSUPPORTED => moment.unsupported,
                fields::REDUCED => moment.reduced);
        }
    }
}

/// Resident memory of this process in bytes; 0 where `/proc` does not tell.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// A size for people.
fn size(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{value:.0} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// How often the terminal is drawn anew and the log gets its summary.
pub(super) const SHOW_EVERY: Duration = Duration::from_millis(500);
pub(super) const SUMMARISE_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_since_the_last_look() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        let totals = |keys| Totals {
            keys,
            bytes: keys * 10,
            ..Totals::default()
        };
        let first = rates.since_last(start + Duration::from_secs(2), totals(100), 0);
        assert_eq!((first.keys, first.bytes), (50.0, 500.0));
        let second = rates.since_last(start + Duration::from_secs(3), totals(130), 7);
        assert_eq!((second.keys, second.applied), (30.0, 7.0));
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(size(512.0), "512 B");
        assert_eq!(size(1536.0), "1.5 KiB");
        assert_eq!(size(64.0 * 1024.0 * 1024.0), "64.0 MiB");
    }
}
