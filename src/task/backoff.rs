//! How long to wait before trying again: doubling to a cap, with full jitter, reset on success.

use std::time::{Duration, Instant};

use rand::RngExt;

/// Bounds of the waits between attempts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Upper bound of the first wait.
    pub initial: Duration,
    /// Upper bound of every wait.
    pub max: Duration,
    /// Give up when this has passed since the first failure; `None`: never.
    pub max_elapsed: Option<Duration>,
}

/// The waits of one series of failures.
#[derive(Debug)]
pub struct Backoff {
    limits: Limits,
    failures: u32,
    since: Option<Instant>,
}

impl Backoff {
    /// No failure yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            failures: 0,
            since: None,
        }
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure at `now`. The wait until the next attempt, or `None` to give up.
    pub fn failed(&mut self, now: Instant) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        if let Some(limit) = self.limits.max_elapsed
            && now.duration_since(since) >= limit
        {
            return None;
        }
        let bound = self
            .limits
            .initial
            .saturating_mul(1u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX))
            .min(self.limits.max);
        // Many tasks that lost the same server do not come back together. The bound grows, so this is no busy loop.
        Some(rand::rng().random_range(Duration::ZERO..=bound))
    }

    /// Forgets all failures.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_cap_and_start_over_after_a_success() {
        let limits = Limits {
            initial: Duration::from_millis(200),
            max: Duration::from_secs(2),
            max_elapsed: None,
        };
        let mut backoff = Backoff::new(limits);
        let now = Instant::now();
        for bound in [200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.failed(now).unwrap();
            assert!(
                wait <= Duration::from_millis(bound),
                "{wait:?} over {bound}"
            );
        }
        // For ever, where no end is set.
        for day in 1..100 {
            let later = now + Duration::from_secs(86_400) * day;
            assert!(backoff.failed(later).unwrap() <= limits.max);
        }
        backoff.succeeded();
        assert!(backoff.failed(now).unwrap() <= limits.initial);
    }

    #[test]
    fn waits_are_spread_over_all_of_the_time_up_to_the_bound() {
        let second = Duration::from_secs(1);
        let limits = Limits {
            initial: second,
            max: second,
            max_elapsed: None,
        };
        let mut backoff = Backoff::new(limits);
        let waits = (0..1_000).map(|_| backoff.failed(Instant::now()).unwrap());
        let mut tenths = [0; 10];
        for wait in waits {
            tenths[(wait.as_millis() as usize / 100).min(9)] += 1;
        }
        // 100 each, with a deviation of 10.
        assert!(
            tenths.iter().all(|count| (40..160).contains(count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn it_gives_up_when_the_failures_have_lasted_too_long() {
        let mut backoff = Backoff::new(Limits {
            initial: Duration::from_millis(1),
            max: Duration::from_millis(1),
            max_elapsed: Some(Duration::from_secs(60)),
        });
        let start = Instant::now();
        assert!(backoff.failed(start).is_some());
        assert!(backoff.failed(start + Duration::from_secs(59)).is_some());
        assert!(backoff.failed(start + Duration::from_secs(60)).is_none());
    }
}
