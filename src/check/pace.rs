//! So many requests in a second, and no more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// A share of a rate; clones share it. Over any time, at most one burst more than the rate passes.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    per_second: Option<u32>,
    /// When the requests let through so far are paid for.
    free_at: Arc<Mutex<Instant>>,
}

impl Pace {
    pub fn new(per_second: Option<u32>) -> Self {
        Self {
            per_second,
            free_at: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// How many keys to ask about at once, so that requests are spread evenly.
    pub fn batch(&self, most: usize) -> usize {
        match self.per_second {
            Some(rate) => (rate as usize / 20).clamp(1, most),
            None => most,
        }
    }

    /// Waits until so many requests may be sent. Cancel safe: then they are counted and not sent.
    pub async fn pass(&self, requests: usize) {
        let Some(rate) = self.per_second else {
            return;
        };
        let cost = Duration::from_secs_f64(requests as f64 / f64::from(rate.max(1)));
        let due = {
            let mut free_at = self.free_at.lock().await;
            let due = (*free_at).max(Instant::now());
            *free_at = due + cost;
            due
        };
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_pass_at_the_rate_over_all_clones() {
        let pace = Pace::new(Some(100));
        let other = pace.clone();
        let began = Instant::now();
        for _ in 0..10 {
            pace.pass(10).await;
            other.pass(10).await;
        }
        // 200 requests, of which the last 10 have not to be paid for.
        assert_eq!(began.elapsed().as_millis(), 1900);
        assert_eq!(pace.batch(1000), 5);
        assert_eq!(Pace::new(None).batch(1000), 1000);
    }
}
