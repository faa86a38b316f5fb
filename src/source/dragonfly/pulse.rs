//! What a flow has heard of its master lately, for whoever knows from elsewhere how far the master is.
//!
//! ```text
//! reader:  waits ── bytes ──► hands on ──► waits ── bytes ──► …
//! beat:    even              odd          even
//! ```
//!
//! A master sends no heartbeat, so a flow that brings nothing is idle or half-open, and its socket cannot tell which.
//! Invariants: a flow is silent only while its reader waits for bytes, never while it waits for room on our side; the
//!   reader looks at its socket before it believes that it is silent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// A flow's pulse. The reader beats; clones watch.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Even while the reader waits for bytes.
    beat: AtomicU64,
    /// LSN after the last entry received; 0 before the journal.
    next: AtomicU64,
    verdict: Mutex<Option<(Heard, Silence)>>,
    given: Notify,
}

/// What a flow had heard at one moment. Equal for as long as it hears nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    beat: u64,
    /// LSN after the last entry received, applied or not; 0 before the journal.
    pub next: u64,
}

impl Heard {
    /// Whether the reader was waiting for bytes.
    pub fn is_waiting(&self) -> bool {
        self.beat.is_multiple_of(2)
    }
}

/// How long a flow has been silent, and why it should not have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// For how long nothing came while there was something.
    pub lasted: Duration,
    /// The master's own next LSN.
    pub master_next: u64,
}

impl Pulse {
    /// What the flow has heard so far.
    pub fn heard(&self) -> Heard {
        Heard {
            beat: self.0.beat.load(Ordering::Acquire),
            next: self.0.next.load(Ordering::Relaxed),
        }
    }

    /// Ends the flow's reader with an error, unless it has heard something since.
    pub fn declare_silent(&self, heard: Heard, silence: Silence) {
        let verdict = self.0.verdict.lock();
        *verdict.unwrap_or_else(PoisonError::into_inner) = Some((heard, silence));
        self.0.given.notify_one();
    }

    /// Of a flow that waits, and has received every entry before `next`.
    #[cfg(test)]
    pub(crate) fn at(next: u64) -> Self {
        let pulse = Self::default();
        pulse.received(next);
        pulse
    }

    /// The reader has everything that was there, and waits.
    pub(super) fn waits(&self) {
        self.0.beat.fetch_add(1, Ordering::Release);
    }

    /// The reader has bytes.
    pub(crate) fn hears(&self) {
        self.0.beat.fetch_add(1, Ordering::Release);
    }

    /// The last entry received came before this LSN.
    pub(super) fn received(&self, next: u64) {
        self.0.next.store(next, Ordering::Relaxed);
    }

    /// Waits until the reader, which waits for bytes, is said to be silent. Cancel safe.
    pub(super) async fn silence(&self) -> (Heard, Silence) {
        loop {
            let verdict = *self
                .0
                .verdict
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some((heard, silence)) = verdict
                && heard == self.heard()
            {
                return (heard, silence);
            }
            self.0.given.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_verdict_counts_only_if_nothing_was_heard_since() {
        let pulse = Pulse::default();
        let silence = Silence {
            lasted: Duration::from_secs(10),
            master_next: 9,
        };
        assert!(pulse.heard().is_waiting(), "before the first byte");
        let before = pulse.heard();
        pulse.hears();
        assert!(!pulse.heard().is_waiting(), "it is busy with what came");
        pulse.received(7);
        pulse.waits();
        pulse.declare_silent(before, silence);
        assert_eq!(pulse.silence().now_or_never(), None);
        let heard = pulse.heard();
        assert_eq!((heard.next, heard.is_waiting()), (7, true));
        pulse.declare_silent(heard, silence);
        assert_eq!(pulse.silence().now_or_never(), Some((heard, silence)));
    }
}
