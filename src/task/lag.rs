//! How far the target is behind the source, per flow, in entries and in milliseconds.
//!
//! The master's own `DFLY REPLICAOFFSET` is asked once a second on an ordinary connection, so that
//! a flow that has died shows as growing lag. Entries: the master's next LSN minus the applied
//! one. Milliseconds: how long ago the master was first seen at a position that is not applied
//! yet; when all seen positions are applied, the time the newest batch took from receipt to reply.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Observations kept per flow; older ones are thinned, since only the first unapplied one counts.
const KEPT: usize = 3_600;

/// One flow's distance from the source, as measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Entries the master has and the target has not confirmed.
    pub entries: u64,
    /// Age of the oldest of them, as far as observed.
    pub time: Duration,
}

/// What was observed of one flow.
#[derive(Debug, Default)]
pub struct LagMeter {
    seen: VecDeque<(Instant, u64)>,
    newest: u64,
}

impl LagMeter {
    /// The master's next LSN was `next` when asked at `at`.
    pub fn observe(&mut self, at: Instant, next: u64) {
        self.newest = self.newest.max(next);
        if self.seen.back().is_none_or(|(_, last)| next > *last) && self.seen.len() < KEPT {
            self.seen.push_back((at, next));
        }
    }

    /// The lag at `now`, with everything before `applied` confirmed by the target.
    pub fn lag(&mut self, now: Instant, applied: u64, latency: Duration) -> Lag {
        while self.seen.front().is_some_and(|(_, next)| *next <= applied) {
            self.seen.pop_front();
        }
        match self.seen.front() {
            Some((at, _)) => Lag {
                entries: self.newest.saturating_sub(applied),
                time: now.duration_since(*at),
            },
            None => Lag {
                entries: 0,
                time: latency,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_stands_still_shows_growing_lag() {
        let mut meter = LagMeter::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        meter.observe(start, 10);
        assert_eq!(
            meter.lag(start, 10, Duration::from_millis(2)),
            Lag {
                entries: 0,
                time: Duration::from_millis(2)
            }
        );
        meter.observe(start + second, 30);
        meter.observe(start + second * 2, 70);
        assert_eq!(
            meter.lag(start + second * 5, 10, Duration::ZERO),
            Lag {
                entries: 60,
                time: second * 4
            }
        );
        assert_eq!(
            meter.lag(start + second * 5, 30, Duration::ZERO),
            Lag {
                entries: 40,
                time: second * 3
            }
        );
        assert_eq!(meter.lag(start + second * 5, 70, Duration::ZERO).entries, 0);
    }

    #[test]
    fn an_hour_without_the_target_does_not_forget_when_it_began() {
        let mut meter = LagMeter::default();
        let start = Instant::now();
        for second in 0..10_000 {
            meter.observe(start + Duration::from_secs(second), second);
        }
        let lag = meter.lag(start + Duration::from_secs(10_000), 1, Duration::ZERO);
        assert_eq!(lag.time, Duration::from_secs(9_998));
        assert_eq!(lag.entries, 9_998);
    }
}
