//! Commands the target refuses for good: what the policy says, and their records.
//!
//! Invariant: what a transaction executed around a refused entry is not undone, so the entry is recorded on the
//!   target before anything else is sent, and only then is the error reported. What was refused before anything was
//!   executed is recorded in the transaction that passes it over, or, with `stop`, not at all: it comes again.

use super::batch::{Batch, Item};
use super::replies::lossy;
use super::{Notice, Writer};
use crate::target::dead_letter::ErrorPolicy;
use crate::target::error::TargetError;
use crate::target::failed::{self, Failed};

/// What became of the refused commands of one batch.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// To be stored on the target.
    pub records: Vec<Failed>,
    /// The first error, with `stop`.
    pub error: Option<Box<TargetError>>,
}

impl Refused {
    /// The batch that stores the records, and leads to the error.
    pub fn into_batch(self, position_db: u32) -> Batch {
        let mut batch = Batch {
            failed: self.records,
            then: self.error,
            ..Batch::default()
        };
        batch.stand_alone(position_db);
        batch
    }
}

/// What an element of a transaction belongs to.
pub(super) enum Site {
    /// The command that stores the position, or a record: of this key.
    Record(String),
    /// A `SELECT` of ours.
    Database(u32),
    /// This command of the batch.
    Command(usize),
}

impl Writer {
    /// Whose reply the `element`th of the awaited transaction is, `MULTI` not counted.
    pub(super) fn site(&self, element: usize) -> Site {
        let Some(batch) = self.queue.get(self.awaiting) else {
            return Site::Command(element);
        };
        let sending = &batch.sending;
        let ahead = sending.prelude_replies.saturating_sub(1);
        if let Some(command) = element.checked_sub(ahead) {
            return match (command < batch.out.commands(), &self.guard) {
                (false, Some(guard)) => Site::Database(guard.position_db),
                _ => Site::Command(command),
            };
        }
        let positions = usize::from(sending.stores.is_some());
        match &self.guard {
            Some(guard) if element < positions => {
                Site::Record(guard.fence.names().position.clone())
            }
            Some(guard) if element < positions + batch.failed.len() => {
                Site::Record(guard.fence.names().failed.clone())
            }
            _ => Site::Database(batch.first_db),
        }
    }

    /// A command that is no part of an executed transaction is refused for good.
    pub(super) fn fail(&mut self, command: usize, text: &[u8]) -> Result<(), TargetError> {
        match self.stops_at(command, text)? {
            Some(error) => Err(error),
            None => self.pass_over(command, text),
        }
    }

    /// A command was refused for good in a transaction that was executed.
    pub(super) fn fail_executed(
        &mut self,
        command: usize,
        text: &[u8],
        refused: &mut Refused,
    ) -> Result<(), TargetError> {
        let stops = self.stops_at(command, text)?;
        let record = self.record(command, text);
        let is_recorded = record.is_some();
        refused.records.extend(record);
        match stops {
            Some(mut error) => {
                if let TargetError::Refused { recorded, .. } = &mut error {
                    *recorded = is_recorded;
                }
                refused.error.get_or_insert(Box::new(error));
                Ok(())
            }
            None => self.pass_over(command, text),
        }
    }

    /// The record of a refused command, if it is a journal entry's and there is room.
    pub(super) fn record(&mut self, command: usize, text: &[u8]) -> Option<Failed> {
        let batch = self.queue.get(self.awaiting)?;
        let guard = self.guard.as_mut()?;
        let lsn = batch.out.lsn(command)?;
        if !guard.fence.count_failed(failed::MOST) {
            return None;
        }
        let place = (guard.flow, lsn, guard.numbers.next(lsn));
        let db = db_of(batch, command);
        Some(Failed::of(&batch.out, command, place, db, text))
    }

    /// The error that a refused command ends the task with, if it does.
    fn stops_at(&self, command: usize, text: &[u8]) -> Result<Option<TargetError>, TargetError> {
        let Some(batch) = self.queue.get(self.awaiting) else {
            return Ok(None);
        };
        if batch.item_of(command).is_some_and(|item| item.select) {
            return Err(self.no_database(db_of(batch, command), text));
        }
        if let ErrorPolicy::Skip { .. } = self.policy {
            return Ok(None);
        }
        let described = batch.out.describe(command);
        let error = TargetError::of_refused(&self.addr, described, text, false);
        Ok(Some(error))
    }

    /// Notes a command in the dead-letter file.
    fn pass_over(&mut self, command: usize, text: &[u8]) -> Result<(), TargetError> {
        let (Some(batch), ErrorPolicy::Skip { dead_letter }) =
            (self.queue.get(self.awaiting), &self.policy)
        else {
            return Ok(());
        };
        let flow = self.guard.as_ref().map(|guard| guard.flow);
        let db = db_of(batch, command);
        dead_letter.record(&batch.out, command, flow, db, text)?;
        let notice = Notice::Skipped {
            command: batch.out.describe(command),
            db,
            answer: lossy(text),
        };
        self.counters.skipped += 1;
        self.notify(notice);
        Ok(())
    }

    pub(super) fn no_database(&self, db: u32, text: &[u8]) -> TargetError {
        TargetError::Database {
            addr: self.addr.clone(),
            db,
            answer: lossy(text),
        }
    }

    /// One of our own commands in a transaction was refused.
    pub(super) fn refused_at(&self, site: Site, text: &[u8]) -> TargetError {
        match site {
            Site::Record(key) => TargetError::Record {
                addr: self.addr.clone(),
                key,
                what: lossy(text),
            },
            Site::Database(db) => self.no_database(db, text),
            Site::Command(_) => TargetError::from_answer(&self.addr, "writing", "it", lossy(text)),
        }
    }
}

fn db_of(batch: &Batch, command: usize) -> u32 {
    let item: Option<Item> = batch.item_of(command);
    item.map_or(batch.first_db, |item| item.db)
}
