//! Keys that were on the target before the task: which of them a batch is about, and what becomes of them.

use crate::commands::{self, KeyUse};
use crate::entry::{Args, Batch, Command, Item};
use crate::target::{self, Tolerate};
use crate::task::applier::Applier;
use crate::task::error::TaskError;

use super::Foreign;

impl Applier {
    /// Makes way for a command on keys that were on the target first, or says that it must not be
    /// applied.
    pub(in crate::task) fn settle_foreign(
        &mut self,
        command: &Command,
        args: &Args<'_>,
        foreign: &mut Foreign,
    ) -> bool {
        if foreign.is_empty() {
            return true;
        }
        let db = self.context.task.target.db(command.db);
        let theirs: Vec<KeyUse<'_>> = commands::keys(args)
            .filter(|used| used.written && foreign.contains(&(db, used.key.to_vec())))
            .collect();
        let skip = self.context.ownership.conflict() == target::Conflict::Skip;
        if skip && theirs.iter().any(|used| !used.whole) {
            self.skipped();
            return false;
        }
        for used in theirs {
            foreign.remove(&(db, used.key.to_vec()));
            if !used.whole {
                let out = self.begin(db);
                out.command(2, command.lsn);
                out.word(b"DEL");
                out.word(used.key);
            }
            self.release(db, used.key);
        }
        true
    }

    /// From now on the key is this task's.
    pub(super) fn release(&mut self, db: u32, key: &[u8]) {
        self.released.insert((db, key.to_vec()));
        let db_of_set = self.context.task.target.position_db;
        let out = self
            .writer
            .begin(target::Kind::Record, db_of_set, Tolerate::Nothing);
        self.context.ownership.adopt(out, db, key, None);
    }

    /// Which keys of a batch were on the target first.
    pub(in crate::task) async fn foreign_of(
        &mut self,
        batch: &Batch,
    ) -> Result<Foreign, TaskError> {
        if self.context.ownership.foreign_count() == 0 {
            return Ok(Foreign::new());
        }
        if self.writer.is_settled() {
            // The list on the target knows of them by now.
            self.released.clear();
        }
        let task = &self.context.task;
        let mut keys: Vec<(u32, Vec<u8>)> = Vec::new();
        for item in &batch.items {
            match item {
                Item::Record(record) => {
                    keys.push((task.target.db(record.db), batch.text(&record.key).to_vec()));
                }
                Item::Command(command) => {
                    let db = task.target.db(command.db);
                    self.with_args(batch, command, |args| {
                        let written = commands::keys(args).filter(|used| used.written);
                        keys.extend(written.map(|used| (db, used.key.to_vec())));
                    })?;
                }
                _ => {}
            }
        }
        // What was released may still be on its way to the list on the target.
        keys.retain(|key| !self.released.contains(key));
        let mut control = self.context.control.lock().await;
        let borrowed: Vec<_> = keys.iter().map(|(db, key)| (*db, key.as_slice())).collect();
        let ownership = &self.context.ownership;
        let foreign = ownership.foreign(&mut control, &borrowed).await?;
        Ok(keys
            .into_iter()
            .zip(foreign)
            .filter_map(|(key, foreign)| foreign.then_some(key))
            .collect())
    }
}
