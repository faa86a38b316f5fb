//! What is asked on ordinary connections while a session runs: the master's positions and clock, a sign of life of the
//! target.
//!
//! Invariant: neither ends the session by itself. A server that does not answer here is lost for the flows too, which
//!   notice by themselves; what the flows cannot notice, that nothing comes any more, they are told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::time::{MissedTickBehavior, interval};

use crate::entry::unix_ms;
use crate::source::dragonfly::{self, Monitor, Pulse, SourceError};

use super::Timing;
use super::context::Context;
use super::reporter::Reporter;
use super::silence::SilenceMeter;
use super::status::{Phase, Status};

/// Notes how far the master's clock is from ours, if it tells.
pub(super) async fn read_clock(monitor: &mut Monitor, status: &Status) -> Result<(), SourceError> {
    let before = unix_ms();
    if let Some(theirs) = monitor.time_ms().await? {
        let ours = before + (unix_ms() - before) / 2;
        status
            .clock_offset_ms
            .store(theirs - ours, Ordering::Relaxed);
    }
    Ok(())
}

/// Compares a master with what its flows bring.
pub(super) struct SourceWatch {
    pub(super) context: Arc<Context>,
    pub(super) monitor: Monitor,
    pub(super) source: dragonfly::Settings,
    pub(super) reporter: Reporter,
    pub(super) pulses: Vec<Pulse>,
    pub(super) timing: Timing,
}

impl SourceWatch {
    /// Asks the master for its positions and its clock, for ever, and tells the flows that are half-open.
    pub(super) async fn run(mut self) {
        let mut timer = interval(self.timing.watch_every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = Instant::now();
        let mut meters: Vec<SilenceMeter> =
            self.pulses.iter().map(|_| Default::default()).collect();
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                () = self.reporter.refresh_wanted() => {}
            }
            match self.ask(&mut looked).await {
                Ok(offsets) => self.look(&offsets, &mut meters),
                Err(_) => {
                    if let Ok(opened) = Monitor::open(&self.source).await {
                        self.monitor = opened;
                    }
                }
            }
        }
    }

    async fn ask(&mut self, looked: &mut Instant) -> Result<Vec<u64>, SourceError> {
        let status = &self.context.status;
        let offsets = self.monitor.offsets().await?;
        // The process, the source or what is between them stood still: what was written meanwhile comes late.
        let stood_still = looked.elapsed() > self.timing.watch_every * 2;
        *looked = Instant::now();
        for (flow, next) in status.flows.iter().zip(&offsets) {
            flow.source_next.store(*next, Ordering::Relaxed);
            if stood_still {
                flow.late_until.store(*next, Ordering::Relaxed);
            }
        }
        // After the positions: whoever sees the number sees them.
        status.offsets_read.fetch_add(1, Ordering::Release);
        read_clock(&mut self.monitor, status).await?;
        Ok(offsets)
    }

    fn look(&self, offsets: &[u64], meters: &mut [SilenceMeter]) {
        // Flows that are to be resumed bring nothing until the master has answered STARTSTABLE, however long that takes.
        if self.reporter.phase() == Phase::Connecting {
            return;
        }
        let now = Instant::now();
        for ((pulse, meter), next) in self.pulses.iter().zip(meters).zip(offsets) {
            let heard = pulse.heard();
            let silence = meter.look(now, heard, *next, self.timing.watch_every * 2);
            if silence.lasted >= self.timing.silence {
                pulse.declare_silent(heard, silence);
            }
        }
    }
}

/// Keeps the control connection to the target in use, for ever.
pub(super) async fn keep_target_alive(context: Arc<Context>, timing: Timing) {
    let mut timer = interval(timing.watch_every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        context.keep_alive().await;
    }
}
