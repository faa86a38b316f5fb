//! From whoever logs to the thread that writes: slog-async's channel and thread, with losses that are counted once.
//!
//! Sending never waits. A record that finds the channel full is dropped and counted; the thread reports the count
//! before the next line it writes, and there is one, for the channel was full. (slog-async's own report needs a
//! place in the channel, comes only with a later record, and counts records twice while there is none.)
//!
//! What has to happen between two lines is sent as a [`nudge`](Channel::nudge), which wakes the thread and is not
//! written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use slog::{Drain, Level, Never, OwnedKVList, Record, b, o, record};
use slog_async::{AsyncCore, AsyncError, AsyncGuard};

/// The tag of records that only wake the thread. No task can have this name.
const NUDGE: &str = "\0nudge";

/// What a channel could not take and nobody has reported yet. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Overflow(Arc<AtomicU64>);

impl Overflow {
    /// How many, to be reported by the caller; `None` if there are none.
    pub fn take(&self) -> Option<u64> {
        // Most lines find nothing, and then this is a load.
        if self.0.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(self.0.swap(0, Ordering::Relaxed)).filter(|lost| *lost > 0)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The sending end. Cloning shares it.
#[derive(Clone)]
pub(super) struct Channel {
    core: Arc<AsyncCore>,
    overflow: Overflow,
}

impl Channel {
    /// Starts a thread of that name that gives `drain` what is sent. The guard, dropped, waits until all is written
    /// and ends the thread.
    pub fn start<D>(
        drain: D,
        overflow: Overflow,
        size: usize,
        thread_name: &str,
    ) -> (Self, AsyncGuard)
    where
        D: Drain<Ok = (), Err = Never> + Send + 'static,
    {
        let core = AsyncCore::custom(drain)
            .chan_size(size)
            .thread_name(thread_name.to_owned());
        let (core, guard) = core.build_with_guard();
        let core = Arc::new(core);
        (Self { core, overflow }, guard)
    }

    /// Wakes the thread. One that has no place in the channel is not needed: the thread is busy.
    pub fn nudge(&self) {
        let _ = self.core.log(
            &record!(Level::Critical, NUDGE, &format_args!(""), b!()),
            &o!().into(),
        );
    }
}

/// Whether a record only wakes the thread, and is not to be written.
pub(super) fn is_nudge(record: &Record<'_>) -> bool {
    record.tag() == NUDGE
}

impl Drain for Channel {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        match self.core.log(record, values) {
            Ok(()) => {}
            // Also what is sent after the end, when nobody reads the count any more.
            Err(AsyncError::Full | AsyncError::Fatal(_)) => self.overflow.add(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{Logger, info};
    use std::sync::mpsc;

    /// Writes down what comes, each record after permission.
    struct Held {
        permitted: mpsc::Receiver<()>,
        written: mpsc::Sender<(String, Option<u64>)>,
        overflow: Overflow,
    }

    impl Drain for Held {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            self.permitted.recv().unwrap();
            let text = match is_nudge(record) {
                true => "nudge".to_owned(),
                false => record.msg().to_string(),
            };
            self.written.send((text, self.overflow.take())).unwrap();
            Ok(())
        }
    }

    /// Sends permissions, receives what was written and what was lost before it.
    type Ends = (mpsc::Sender<()>, mpsc::Receiver<(String, Option<u64>)>);

    fn held(size: usize) -> (Channel, AsyncGuard, Ends) {
        let (permit, permitted) = mpsc::channel();
        let (written, writes) = mpsc::channel();
        let overflow = Overflow::default();
        let drain = Held {
            permitted,
            written,
            overflow: overflow.clone(),
        };
        let (channel, guard) = Channel::start(drain, overflow, size, "held");
        (channel, guard, (permit, writes))
    }

    #[test]
    fn every_record_is_written_or_counted_once() {
        const SENT: u64 = 100;
        let (channel, guard, (permit, writes)) = held(8);
        let log = Logger::root(channel, o!());
        for n in 0..SENT {
            info!(log, "{}", n);
        }
        for _ in 0..SENT {
            permit.send(()).unwrap();
        }
        drop(guard);
        let (mut written, mut lost) = (0, 0);
        for (_, overflowed) in writes.try_iter() {
            written += 1;
            lost += overflowed.unwrap_or(0);
        }
        // The channel's eight, and the one that the thread may have taken already.
        assert!((8..=9).contains(&written), "{written}");
        assert_eq!(written + lost, SENT);
    }

    #[test]
    fn a_nudge_wakes_the_thread_and_cannot_be_taken_for_a_task() {
        let (channel, guard, (permit, writes)) = held(8);
        channel.nudge();
        let log = Logger::root(channel, o!());
        info!(log, # "nudge", "of a task");
        permit.send(()).unwrap();
        permit.send(()).unwrap();
        drop(guard);
        let written: Vec<_> = writes.try_iter().map(|(text, _)| text).collect();
        assert_eq!(written, ["nudge", "of a task"]);
    }
}
