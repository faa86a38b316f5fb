//! How long an answer of the target is waited for.
//!
//! Invariants: an answer is overdue only when nothing has moved for the whole time, in either direction, though one is
//!   due; time in which this process was stopped is made up for by another look.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// What has come while the process was stopped is read before the target is given up.
const ANOTHER_LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(in crate::target) struct Patience {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when nothing has moved though an answer is due, and how many bytes had been written by then.
    since: Option<(Instant, u64)>,
    /// The time was over at the last look.
    looked: bool,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            timer: None,
            since: None,
            looked: false,
        }
    }

    /// Something was answered, or nothing is asked.
    pub fn nothing_is_due(&mut self) {
        self.since = None;
        self.looked = false;
    }

    /// An answer is due and there is none, with `written` bytes written so far. Ready when it is overdue; else the task
    /// is woken to look again.
    pub fn poll_lost(&mut self, written: u64, cx: &mut Context<'_>) -> Poll<()> {
        let since = match self.since {
            Some((since, before)) if before == written => since,
            _ => {
                self.looked = false;
                let now = Instant::now();
                self.since = Some((now, written));
                now
            }
        };
        loop {
            let limit = self.limit;
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(since + limit)));
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                // Set for what was due before.
                Poll::Ready(()) if Instant::now() < since + limit => {
                    timer.as_mut().reset(since + limit);
                }
                Poll::Ready(()) if self.looked => return Poll::Ready(()),
                Poll::Ready(()) => {
                    self.looked = true;
                    timer
                        .as_mut()
                        .reset(Instant::now() + ANOTHER_LOOK.min(limit));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{advance, timeout};

    const LIMIT: Duration = Duration::from_secs(60);

    async fn lost(patience: &mut Patience, written: u64) {
        poll_fn(|cx| patience.poll_lost(written, cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn time_begins_anew_whenever_something_moves() {
        let mut patience = Patience::new(LIMIT);
        let almost = LIMIT - Duration::from_secs(1);
        for written in 1..4 {
            let waited = timeout(almost, lost(&mut patience, written)).await;
            assert!(waited.is_err(), "after {written} bytes");
        }
        patience.nothing_is_due();
        assert!(timeout(almost, lost(&mut patience, 3)).await.is_err());
        let begun = Instant::now();
        lost(&mut patience, 3).await;
        assert_eq!(begun.elapsed().as_secs(), 2, "the rest, and another look");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_stopped_looks_again_first() {
        let mut patience = Patience::new(LIMIT);
        assert!(timeout(ANOTHER_LOOK, lost(&mut patience, 1)).await.is_err());
        advance(LIMIT * 10).await;
        let looking = timeout(ANOTHER_LOOK / 2, lost(&mut patience, 1));
        assert!(looking.await.is_err());
        patience.nothing_is_due();
        let looking = timeout(ANOTHER_LOOK * 2, lost(&mut patience, 1));
        assert!(looking.await.is_err(), "what was there counted");
    }
}
