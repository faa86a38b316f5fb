//! How long there is to put things right: until the spool is empty, and until a stop can no longer be resumed.
//!
//! Facts: a Dragonfly master keeps the last `--shard_repl_backlog_len` entries of each shard: 1,024 by default up to
//!   v1.33, 8,192 from v1.34 to v1.40. Later releases count time and bytes, and do not tell how many.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::source::dragonfly::{Master, Monitor, SourceError, release_number};

use super::millis;
use super::report::SpoolReport;
use super::status::Status;

/// How far back the source's rates look. Its positions are asked for once a second.
const SPAN: Duration = Duration::from_secs(10);

/// Entries that the source keeps of each shard; none if that is not known.
pub(super) async fn ring_entries(
    monitor: &mut Monitor,
    master: &Master,
) -> Result<Option<u64>, SourceError> {
    // Most releases have the flag and do not tell.
    let told = monitor.setting("shard_repl_backlog_len").await?;
    if let Some(entries) = told.and_then(|entries| entries.parse().ok()) {
        return Ok(Some(entries));
    }
    Ok(default_entries(master.release.as_deref()))
}

fn default_entries(release: Option<&str>) -> Option<u64> {
    match release_number(release?)? {
        (1, 0..=33) => Some(1_024),
        (1, 34..=40) => Some(8_192),
        _ => None,
    }
}

/// What is seen of the source's writes over time.
#[derive(Debug, Default)]
pub(super) struct SourceRates {
    /// Oldest first: the source's own next LSN of each flow, and the bytes received.
    looks: VecDeque<(Instant, Vec<u64>, u64)>,
}

/// The source's writes per second.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Writes {
    /// Entries, of the busiest flow.
    pub(super) entries: f64,
    /// Bytes, of all flows.
    pub(super) bytes: f64,
}

impl SourceRates {
    /// Takes down where the source is now.
    pub(super) fn look(&mut self, now: Instant, status: &Status) {
        let next = status
            .flows
            .iter()
            .map(|flow| flow.source_next.load(Ordering::Relaxed));
        self.note(now, next.collect(), status.totals().received);
    }

    fn note(&mut self, now: Instant, next: Vec<u64>, received: u64) {
        while self
            .looks
            .front()
            .is_some_and(|(at, ..)| now.duration_since(*at) > SPAN)
        {
            self.looks.pop_front();
        }
        // Before the source has told there is nothing to compare with.
        if next.iter().all(|next| *next > 0) {
            self.looks.push_back((now, next, received));
        }
    }

    /// Over the last few seconds; none before there are two looks.
    pub(super) fn writes(&self) -> Option<Writes> {
        let (then, old, before) = self.looks.front()?;
        let (now, new, received) = self.looks.back()?;
        let seconds = now.duration_since(*then).as_secs_f64();
        let entries = new
            .iter()
            .zip(old)
            .map(|(new, old)| new.saturating_sub(*old));
        (seconds > 0.0).then(|| Writes {
            entries: entries.max().unwrap_or(0) as f64 / seconds,
            bytes: received.saturating_sub(*before) as f64 / seconds,
        })
    }
}

impl SpoolReport {
    /// Notes how long it takes until no flow is read back from disk any more, with this many bytes a second received and
    /// taken by the target.
    pub(super) fn note_emptying(&mut self, received: f64, taken: f64) {
        self.empty_in_ms = match self.flows_behind {
            0 => Some(0),
            _ => lasts(self.unread_bytes, taken - received),
        };
    }

    /// Notes how long a stop can last. `ring` is how many entries the source keeps of each shard; `min_free` bytes of
    /// the disk are not ours.
    pub(super) fn note_window(&mut self, ring: Option<u64>, min_free: u64, writes: &Writes) {
        let used = self.bytes.saturating_sub(self.kept_bytes);
        let room = self.max_bytes.saturating_sub(used);
        let free = self.free_bytes.saturating_add(self.kept_bytes);
        let room = room.min(free.saturating_sub(min_free));
        self.ring_window_ms = ring.and_then(|entries| lasts(entries, writes.entries));
        self.spool_window_ms = lasts(room, writes.bytes);
    }
}

/// How long an amount lasts at a rate per second; none where that is for ever.
fn lasts(amount: u64, per_second: f64) -> Option<u64> {
    // Longer than a century is for ever.
    let seconds = amount as f64 / per_second;
    let span = Duration::try_from_secs_f64(seconds).ok();
    span.filter(|span| span.as_secs() < 3_200_000_000)
        .map(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_as_long_as_the_release_has_it() {
        for (release, entries) in [
            (Some("df-v1.20.1"), Some(1_024)),
            (Some("df-v1.34.0"), Some(8_192)),
            (Some("df-v1.40.1"), Some(8_192)),
            (Some("df-v1.41.0"), None),
            (None, None),
        ] {
            assert_eq!(default_entries(release), entries, "{release:?}");
        }
    }

    #[test]
    fn windows_are_what_is_left_over_the_rate_of_the_last_seconds() {
        let (mut rates, start) = (SourceRates::default(), Instant::now());
        assert_eq!(rates.writes(), None);
        rates.note(start, vec![0, 0], 5);
        assert_eq!(rates.writes(), None, "the source has not told");
        // 100 entries a second for a minute, then 1,000 on one flow.
        for second in 0..=70_u64 {
            let fast = second * 100 + second.saturating_sub(60) * 900;
            let at = start + Duration::from_secs(second);
            rates.note(at, vec![1 + fast, 1 + second * 100], fast * 50);
        }
        let writes = rates.writes().unwrap();
        assert_eq!((writes.entries, writes.bytes), (1_000.0, 50_000.0));
        let mut spool = SpoolReport {
            bytes: 3_000_000,
            kept_bytes: 1_000_000,
            max_bytes: 12_000_000,
            free_bytes: 8_000_000,
            ..SpoolReport::default()
        };
        spool.note_window(Some(8_192), 1_000_000, &writes);
        let windows = (spool.ring_window_ms, spool.spool_window_ms);
        assert_eq!(windows, (Some(8_192), Some(160_000)));
        spool.free_bytes = u64::MAX;
        spool.note_window(None, 0, &writes);
        assert_eq!(
            (spool.ring_window_ms, spool.spool_window_ms),
            (None, Some(200_000))
        );
        let idle = Writes {
            entries: 0.0,
            bytes: 0.0,
        };
        spool.note_window(Some(8_192), 0, &idle);
        assert_eq!((spool.ring_window_ms, spool.spool_window_ms), (None, None));
    }

    #[test]
    fn it_is_empty_when_the_target_has_caught_up_if_it_ever_does() {
        let mut spool = SpoolReport {
            bytes: 9_000,
            unread_bytes: 8_000,
            flows_behind: 1,
            ..SpoolReport::default()
        };
        spool.note_emptying(500.0, 700.0);
        assert_eq!(spool.empty_in_ms, Some(40_000));
        spool.note_emptying(700.0, 700.0);
        assert_eq!(spool.empty_in_ms, None);
        spool.note_emptying(900.0, 700.0);
        assert_eq!(spool.empty_in_ms, None, "it grows");
        spool.flows_behind = 0;
        spool.note_emptying(900.0, 700.0);
        assert_eq!(spool.empty_in_ms, Some(0));
    }
}
