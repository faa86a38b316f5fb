//! What follows from the target's answers: what is counted, told and acknowledged.

use std::sync::atomic::Ordering;

use slog::{info, warn};

use super::{ACKNOWLEDGE_AFTER, Applier};
use crate::logging::fields;
use crate::target::{Kind, Notice, Tolerate};
use crate::task::error::TaskError;
use crate::task::items::show;
use crate::task::millis;
use crate::task::status::FlowStatus;

impl Applier {
    /// Sends something on a connection that has nothing to do: targets close idle clients
    /// (`timeout` in redis.conf), and a lost connection would cost a full sync.
    pub(super) fn keep_alive(&mut self) {
        let sent = self.writer.counters().commands;
        // A position that moved without a command is stored now, if nothing else did.
        self.writer.store();
        if self.writer.is_settled() && sent == self.sent_before {
            let db = self.context.task.target.position_db;
            let out = self.writer.begin(Kind::Record, db, Tolerate::Nothing);
            out.command(1, None);
            out.word(b"PING");
        }
        self.sent_before = sent;
    }

    /// Waits until everything is answered for, what follows from the answers included.
    pub(super) async fn settle(&mut self) -> Result<(), TaskError> {
        loop {
            self.writer.settle().await?;
            self.progressed().await;
            if self.writer.is_settled() {
                return Ok(());
            }
        }
    }

    /// After replies have come: counters, and acknowledgements that somebody waits for.
    pub(super) async fn progressed(&mut self) {
        while let Some(notice) = self.writer.notice() {
            self.tell(notice);
        }
        self.missed();
        if let Some(applied) = self.writer.applied() {
            self.end_doubts(applied);
        }
        if self.writer.stored().is_some() && !std::mem::replace(&mut self.copied, true) {
            self.context.copied.send_modify(|flows| *flows += 1);
        }
        if let Some(counters) = self.context.status.flows.get(self.flow as usize) {
            let withheld = self.list.len() as u64;
            counters.withheld.store(withheld, Ordering::Relaxed);
            let scheduled = self.members.len() as u64;
            counters.scheduled.store(scheduled, Ordering::Relaxed);
            counters.set_moving(self.writer.moving());
        }
        let Some(applied) = self.confirmed() else {
            return;
        };
        let mut newest = None;
        while let Some((reached, taken_at)) = self.receipts.front().copied() {
            if reached > applied {
                break;
            }
            newest = Some(taken_at);
            self.receipts.pop_front();
        }
        if let Some(counters) = self.context.status.flows.get(self.flow as usize) {
            counters.applied.store(applied, Ordering::Relaxed);
            if let Some(taken_at) = newest {
                let latency = u64::try_from(taken_at.elapsed().as_micros()).unwrap_or(u64::MAX);
                counters.latency_us.store(latency, Ordering::Relaxed);
            }
        }
        let asked = self.asked_at.is_some_and(|position| position <= applied);
        if asked {
            self.asked_at = None;
        }
        if asked || applied.saturating_sub(self.acknowledged) > ACKNOWLEDGE_AFTER {
            self.acknowledge().await;
        }
    }

    pub(super) fn tell(&self, notice: Notice) {
        match notice {
            Notice::Refused {
                answer,
                wait,
                attempt,
                ..
            } => {
                // The first says what is wrong; those that follow only that it still is.
                if attempt == 1 || attempt % 10 == 0 {
                    warn!(self.log, "the target refuses writes for now, trying again";
                        fields::FLOW => self.flow, fields::REASON => answer,
                        fields::ATTEMPT => attempt, fields::WAIT_MS => millis(wait));
                }
            }
            Notice::Recovered { after, attempts } => {
                info!(self.log, "the target takes writes again"; fields::FLOW => self.flow,
                    fields::TOOK_MS => millis(after), fields::ATTEMPT => attempts);
            }
            Notice::Moving { slots } => {
                let slots: Vec<_> = slots.iter().map(u16::to_string).collect();
                warn!(self.log, "slots of the target are on the move, their entries wait";
                    fields::FLOW => self.flow, fields::SLOTS => slots.join(" "),
                    fields::HINT => "see what moves them; an unfinished move is finished with redis-cli --cluster fix");
            }
            Notice::Skipped {
                command,
                db,
                answer,
            } => {
                self.count(|counters| &counters.skipped, 1);
                warn!(self.log, "the target refused a command, which was left out";
                    fields::FLOW => self.flow, fields::DB => db, fields::KEY => show(command.key()),
                    fields::COMMAND => command.name.clone(), fields::REASON => answer);
            }
        }
    }

    /// Tells the master what the target has confirmed; nothing before stable sync.
    pub(super) async fn acknowledge(&mut self) {
        if let Some(applied) = self.confirmed() {
            // An error means that the flow has ended, and its reader says why.
            if self.acknowledger.acknowledge(applied).await.is_ok() {
                self.acknowledged = applied;
            }
        }
    }

    /// The position before which the target has everything, what is withheld included.
    pub(super) fn confirmed(&self) -> Option<u64> {
        let applied = self.writer.applied()?;
        match self.list.oldest() {
            Some(oldest) => Some(applied.min(oldest)).filter(|at| *at > 0),
            None => Some(applied),
        }
    }

    /// Adds to one of this flow's counters.
    pub(in crate::task) fn count(
        &self,
        counter: impl Fn(&FlowStatus) -> &std::sync::atomic::AtomicU64,
        by: u64,
    ) {
        if let Some(counters) = self.context.status.flows.get(self.flow as usize) {
            counter(counters).fetch_add(by, Ordering::Relaxed);
        }
    }
}
