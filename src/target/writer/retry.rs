//! Waiting for a target that refuses for now.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::target::answer::Refusal;

/// The first refusal since the last attempt.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The command of the first batch from which on to send again.
    pub from: usize,
    pub refusal: Refusal,
    pub answer: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Retry {
    initial: Duration,
    max: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    since: Option<Instant>,
    attempts: u32,
}

impl Retry {
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            timer: None,
            since: None,
            attempts: 0,
        }
    }

    /// Whether sending is allowed; if not, the task is woken when it is.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.timer {
            Some(timer) => match timer.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    self.timer = None;
                    true
                }
                Poll::Pending => false,
            },
            None => true,
        }
    }

    /// Starts a wait: yields its length and how many there were in a row.
    pub fn back_off(&mut self) -> (Duration, u32) {
        let doubled = self.initial.saturating_mul(1 << self.attempts.min(16));
        // Flows that were refused together should not come back together.
        let wait = doubled
            .min(self.max)
            .mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.since.get_or_insert_with(Instant::now);
        self.attempts = self.attempts.saturating_add(1);
        self.timer = Some(Box::pin(sleep(wait)));
        (wait, self.attempts)
    }

    /// The target accepted: yields how long it had not, and how many attempts were refused.
    pub fn succeed(&mut self) -> Option<(Duration, u32)> {
        let since = self.since.take()?;
        Some((since.elapsed(), std::mem::take(&mut self.attempts)))
    }
}
