//! What a session knows of itself now and then: for the terminal, the log and whoever asks for a report.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::task::progress::{self, Moment};
use crate::task::report::{Lag, SpoolReport};
use crate::task::status::Phase;
use crate::task::{backlog, millis};

use super::Running;

impl Running<'_> {
    /// How far the slowest flow is behind; none before stable sync.
    fn lag(&mut self, now: Instant) -> Option<Lag> {
        let flows = self.context.status.flows.iter().zip(&mut self.meters);
        let lags = flows.zip(0..).filter_map(|((flow, meter), number)| {
            let applied = flow.applied.load(Ordering::Relaxed);
            if applied == 0 {
                return None;
            }
            match flow.source_next.load(Ordering::Relaxed) {
                0 => {}
                next => meter.observe(now, next),
            }
            let latency = Duration::from_micros(flow.latency_us.load(Ordering::Relaxed));
            let behind = meter.lag(now, applied, latency);
            Some(Lag {
                flow: number,
                entries: behind.entries,
                ms: millis(behind.time),
            })
        });
        lags.max_by_key(|lag| (lag.entries, lag.ms))
    }

    /// What is known now, which is also reported.
    fn look(&mut self) -> Moment {
        let now = Instant::now();
        let totals = self.context.status.totals();
        self.rates.look(now, totals);
        self.source_rates.look(now, &self.context.status);
        let phase = self.setup.reporter.phase();
        let spool = self.look_at_spool(phase);
        let moment = Moment {
            phase,
            totals,
            lag: self.lag(now),
            spool: spool.unwrap_or_default(),
            sessions: self.setup.reporter.sessions(),
        };
        self.setup
            .reporter
            .measured(self.rates.recent(), moment.lag, spool);
        moment
    }

    /// What waits, and how long that takes or may take.
    fn look_at_spool(&self, phase: Phase) -> Option<SpoolReport> {
        let task = &self.setup.task;
        let offset = self.context.status.clock_offset_ms.load(Ordering::Relaxed);
        let mut spool = backlog::report(self.spool.as_ref()?, task, offset);
        let rates = self.rates.since_summary();
        spool.note_emptying(rates.received, rates.bytes);
        if matches!(phase, Phase::Stable | Phase::Waiting)
            && let Some(writes) = self.source_rates.writes()
        {
            spool.note_window(self.ring, task.spool.min_free, &writes);
        }
        Some(spool)
    }

    pub(super) fn show(&mut self) {
        let moment = self.look();
        let rates = self.rates.recent();
        progress::show(self.setup.terminal, &self.context.status, &moment, rates);
    }

    pub(super) fn summarise(&mut self) {
        let moment = self.look();
        let rates = self.rates.since_summary();
        progress::summarise(self.setup.log, &self.context.status, &moment, rates);
    }
}
