//! Whether a flow is half-open: the master goes on, and nothing comes.
//!
//! Invariants: only time in which this process ran counts, so that one that was stopped for an hour finds no silence
//!   in it; a flow whose reader waits for room on our side, or has not reached the journal, is never silent.

use std::time::{Duration, Instant};

use crate::source::dragonfly::{Heard, Silence};

/// How long a flow has been silent while its master went on. One for each flow.
#[derive(Debug, Default)]
pub(super) struct SilenceMeter {
    /// When it was last seen behind, and what it had heard then.
    seen: Option<(Instant, Heard)>,
    lasted: Duration,
}

impl SilenceMeter {
    /// The master's own next LSN was `master_next` when asked, and the flow had `heard` that much after the answer at
    /// `now`. Between two looks at most `most` counts: more would be time in which this process was stopped.
    pub(super) fn look(
        &mut self,
        now: Instant,
        heard: Heard,
        master_next: u64,
        most: Duration,
    ) -> Silence {
        let behind = heard.is_waiting() && heard.next > 0 && master_next > heard.next;
        match self.seen {
            Some((at, before)) if behind && before == heard => {
                self.lasted += now.saturating_duration_since(at).min(most);
            }
            _ => self.lasted = Duration::ZERO,
        }
        self.seen = behind.then_some((now, heard));
        Silence {
            lasted: self.lasted,
            master_next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::dragonfly::Pulse;

    const SECOND: Duration = Duration::from_secs(1);

    /// A flow that waits, and was given the entries before `next`.
    fn waiting(next: u64) -> Heard {
        Pulse::at(next).heard()
    }

    #[test]
    fn it_grows_while_the_master_is_ahead_and_nothing_comes() {
        let (mut meter, start) = (SilenceMeter::default(), Instant::now());
        let mut look = |second: u32, next, master| {
            let now = start + SECOND * second;
            meter.look(now, waiting(next), master, 2 * SECOND).lasted
        };
        assert_eq!(look(0, 5, 5), Duration::ZERO);
        assert_eq!(look(60, 5, 5), Duration::ZERO, "an idle master");
        assert_eq!(look(61, 5, 9), Duration::ZERO, "it may be on its way");
        assert_eq!(look(62, 5, 9), SECOND);
        assert_eq!(look(63, 5, 10), 2 * SECOND);
        assert_eq!(look(64, 6, 10), Duration::ZERO, "something came");
        assert_eq!(look(65, 6, 10), SECOND);
        assert_eq!(look(66, 6, 6), Duration::ZERO);
    }

    #[test]
    fn a_process_that_was_stopped_has_heard_no_silence() {
        let (mut meter, start) = (SilenceMeter::default(), Instant::now());
        let mut look = |at: Duration| meter.look(start + at, waiting(5), 9, 2 * SECOND).lasted;
        look(Duration::ZERO);
        assert_eq!(look(3_600 * SECOND), 2 * SECOND);
        assert_eq!(look(3_601 * SECOND), 3 * SECOND);
    }

    #[test]
    fn neither_a_snapshot_nor_a_reader_without_room_is_silent() {
        let (mut meter, start) = (SilenceMeter::default(), Instant::now());
        let busy = Pulse::at(5);
        busy.hears();
        for heard in [waiting(0), busy.heard()] {
            for second in 0..20 {
                let now = start + SECOND * second;
                assert_eq!(meter.look(now, heard, 9, 2 * SECOND).lasted, Duration::ZERO);
            }
        }
    }
}
