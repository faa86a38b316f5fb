//! What a cluster makes of commands with several keys, and of other databases than 0.
//!
//! A command whose keys each stand for themselves is sent in parts, one for each slot. Of one that combines keys of
//! several slots, `policy.on_cross_slot` decides; to `fetch`, the keys that it writes are withheld from it on and read
//! again, which is exact: see [`reread`](super::reread).

use crate::commands::{self, Kind, Plan, Reason, Slots, Unsupported};
use crate::config::CrossSlot;
use crate::entry::{Args, Batch, Command};
use crate::target::{self, TargetError};

use super::applier::Applier;
use super::error::TaskError;
use super::items::{Foreign, OWN_KEYS, Took, describe};
use super::large::Large;
use super::settings;

impl Applier {
    /// A command that the filter lets pass.
    pub(super) fn route(
        &mut self,
        batch: &Batch,
        command: &Command,
        args: &Args<'_>,
        large: Option<&Large>,
        foreign: &mut Foreign,
    ) -> Result<Took, TaskError> {
        let uses = commands::keys(args);
        if self.context.task.target.cluster.is_none() {
            return self.send(batch, command, (args, &uses), large, foreign);
        }
        // Few have none.
        if let Err(refused) = self.refuse_database(command.db)
            && uses.clone().next().is_some()
        {
            return Err(refused);
        }
        match commands::by_slot(args, &uses, target::slot_of) {
            Slots::One => self.send(batch, command, (args, &uses), large, foreign),
            Slots::Parts(parts) => {
                for (packed, words) in parts {
                    let args = self.checked(&packed, words)?;
                    let uses = commands::keys(&args);
                    self.send(batch, command, (&args, &uses), large, foreign)?;
                }
                Ok(Took::Whole)
            }
            Slots::Across => {
                // Some are, wherever their keys are.
                let reads_again = matches!(self.plan(batch, command, args), Plan::ReadAgain(_))
                    || self.context.task.policy.on_cross_slot == CrossSlot::Fetch;
                self.across_slots(command, args, reads_again, foreign)?;
                Ok(Took::Whole)
            }
        }
    }

    fn across_slots(
        &mut self,
        command: &Command,
        args: &Args<'_>,
        reads_again: bool,
        foreign: &mut Foreign,
    ) -> Result<(), TaskError> {
        if commands::keys(args).any(|used| used.key.starts_with(OWN_KEYS))
            || !commands::keys(args).any(|used| used.written)
            || !self.settle_foreign(command, args, foreign)
        {
            return Ok(());
        }
        if reads_again {
            // Of those that do not fit on the list it counts how many they are.
            self.distrust(command, args);
            return Ok(());
        }
        let crosses = Unsupported {
            kind: Kind::CrossSlot,
            reason: Reason::CrossesSlots,
        };
        self.leave_out(command.db, &describe(args), &crosses)
    }

    /// A cluster has only database 0. What a source had elsewhere when the task began was refused then.
    pub(super) fn refuse_database(&mut self, source_db: u32) -> Result<(), TaskError> {
        // It is asked for every entry.
        if self.fitting == Some(source_db) {
            return Ok(());
        }
        let task = &self.context.task;
        match task.target.db(source_db) {
            db if db != 0 && task.target.cluster.is_some() => {
                Err(TaskError::Target(TargetError::Database {
                    addr: settings::target(task).endpoint.to_string(),
                    db,
                    answer: "a cluster has only database 0".to_owned(),
                }))
            }
            _ => {
                self.fitting = Some(source_db);
                Ok(())
            }
        }
    }
}
