//! What a task tells while it runs: a bar or a line on a terminal, a summary line in the log.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use slog::{Logger, info};

use crate::logging::{Progress, Terminal, fields};

use super::report::{Lag, PerSecond, SpoolReport};
use super::status::{Phase, Status, Totals};

/// How far back rates look: on the terminal and in reports, and in the summary line.
const RECENT: Duration = Duration::from_secs(3);

/// Turns counters into rates, by what they were a while ago.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Oldest first, none older than a summary needs.
    looks: VecDeque<(Instant, Totals)>,
}

impl Rates {
    /// Takes down what is counted now.
    pub(super) fn look(&mut self, now: Instant, totals: Totals) {
        let needed = |(at, _): &(Instant, Totals)| now.duration_since(*at) <= SUMMARISE_EVERY;
        while self.looks.front().is_some_and(|oldest| !needed(oldest)) {
            self.looks.pop_front();
        }
        self.looks.push_back((now, totals));
    }

    /// Per second over the last few seconds.
    pub(super) fn recent(&self) -> PerSecond {
        self.over(RECENT)
    }

    /// Per second since the last summary.
    pub(super) fn since_summary(&self) -> PerSecond {
        self.over(SUMMARISE_EVERY)
    }

    fn over(&self, span: Duration) -> PerSecond {
        let Some((now, new)) = self.looks.back() else {
            return PerSecond::default();
        };
        let mut looks = self.looks.iter();
        let Some((then, old)) = looks.find(|(at, _)| now.duration_since(*at) <= span) else {
            return PerSecond::default();
        };
        let seconds = now.duration_since(*then).as_secs_f64();
        if seconds == 0.0 {
            return PerSecond::default();
        }
        let per_second = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        PerSecond {
            keys: per_second(new.keys, old.keys),
            bytes: per_second(new.bytes, old.bytes),
            entries: per_second(new.applied, old.applied),
            received: per_second(new.received, old.received),
        }
    }
}

/// What is known at one moment.
pub(super) struct Moment {
    pub(super) phase: Phase,
    pub(super) totals: Totals,
    /// Of the flow that is furthest behind.
    pub(super) lag: Option<Lag>,
    pub(super) spool: SpoolReport,
    pub(super) sessions: u64,
}

/// Shows the moment on the terminal, if there is one.
pub(super) fn show(terminal: &Terminal, status: &Status, moment: &Moment, rates: PerSecond) {
    if !terminal.shows_progress() {
        return;
    }
    let totals = &moment.totals;
    let expected = status.expected_keys.load(Ordering::Relaxed);
    let progress = match moment.phase {
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
            let lag = moment.lag.unwrap_or_default();
            Progress::Line(format!(
                "stable sync  {} entries applied  {:.0}/s  lag {} entries, {} ms",
                totals.applied, rates.entries, lag.entries, lag.ms,
            ))
        }
        phase => Progress::Line(phase.name().to_owned()),
    };
    terminal.show(Some(progress));
}

/// Writes the summary line.
pub(super) fn summarise(log: &Logger, status: &Status, moment: &Moment, rates: PerSecond) {
    let totals = &moment.totals;
    let memory = resident_bytes();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (unsupported, reduced) = (read(&status.unsupported), read(&status.reduced));
    let spool = moment.spool;
    match moment.phase {
        // Of which the source still takes part, while there is a session.
        Phase::Stable | Phase::Waiting => {
            let lag = moment.lag.unwrap_or_default();
            info!(log, "summary"; fields::PHASE => moment.phase.name(),
                fields::ENTRIES => totals.applied, fields::ENTRIES_PER_S => rates.entries.round() as u64,
                fields::LAG_ENTRIES => lag.entries, fields::LAG_MS => lag.ms,
                fields::FLOW => lag.flow, fields::SPOOL_BYTES => spool.bytes,
                fields::OLDEST_MS => spool.oldest_ms, fields::EMPTY_IN_MS => spool.empty_in_ms,
                fields::RING_WINDOW_MS => spool.ring_window_ms,
                fields::SPOOL_WINDOW_MS => spool.spool_window_ms, fields::MEMORY_BYTES => memory,
                fields::RECONNECTS => moment.sessions.saturating_sub(1),
                fields::SKIPPED => totals.skipped, fields::UNSUPPORTED => unsupported,
                fields::REDUCED => reduced);
        }
        phase => {
            info!(log, "summary"; fields::PHASE => phase.name(),
                fields::KEYS => totals.keys, fields::BYTES => totals.bytes,
                fields::KEYS_PER_S => rates.keys.round() as u64, fields::FLOWS_DONE => totals.flows_done,
                fields::FLOWS => status.flows.len(), fields::SPOOL_BYTES => spool.bytes,
                fields::OLDEST_MS => spool.oldest_ms, fields::EMPTY_IN_MS => spool.empty_in_ms,
                fields::MEMORY_BYTES => memory,
                fields::RECONNECTS => moment.sessions.saturating_sub(1),
                fields::SKIPPED => totals.skipped, fields::UNSUPPORTED => unsupported,
                fields::REDUCED => reduced);
        }
    }
}

/// Resident memory of this process in bytes; 0 where `/proc` does not tell.
pub(super) fn resident_bytes() -> u64 {
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
    fn rates_are_per_second_over_the_last_few_seconds_or_since_the_last_summary() {
        let start = Instant::now();
        let mut rates = Rates::default();
        assert_eq!(rates.recent(), PerSecond::default());
        // 10 keys a second for 17 s, then 100 a second for 3 s.
        for second in 0..=20_u64 {
            let keys = second * 10 + second.saturating_sub(17) * 90;
            let totals = Totals {
                keys,
                bytes: keys * 10,
                ..Totals::default()
            };
            rates.look(start + Duration::from_secs(second), totals);
        }
        assert_eq!(
            (rates.recent().keys, rates.recent().bytes),
            (100.0, 1_000.0)
        );
        assert_eq!(rates.since_summary().keys, 37.0);
        assert!(rates.looks.len() <= 11);
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(size(512.0), "512 B");
        assert_eq!(size(1536.0), "1.5 KiB");
        assert_eq!(size(64.0 * 1024.0 * 1024.0), "64.0 MiB");
    }
}
