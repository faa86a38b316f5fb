//! Whole values on their way to the writer: keys of the snapshot, and what journal or source have serialised.

use crate::commands;
use crate::entry::{Batch, Body, Command, Item, Record, Share, Span, Spill, Text};
use crate::rdb;
use crate::target::form::{self, Bytes, FormError, Formed, Notes, Step, Value};
use crate::target::{self, Tolerate};
use crate::task::applier::Applier;
use crate::task::error::TaskError;
use crate::task::ghosts::Verdict;
use crate::task::large::Large;

use super::{Foreign, OWN_KEYS, Took, blocking_if, show};

impl Applier {
    /// A key of the snapshot.
    pub(in crate::task) fn record(
        &mut self,
        batch: &Batch,
        record: &Record,
        foreign: &mut Foreign,
    ) -> Result<Took, TaskError> {
        let key = batch.text(&record.key);
        if key.starts_with(OWN_KEYS) || !self.context.task.filter.allows(record.db, key) {
            return Ok(Took::Whole);
        }
        self.refuse_database(record.db)?;
        match self.ghosts.judge(key, || is_hyperloglog(batch, record)) {
            Verdict::Keep => self.settle_doubts(false)?,
            Verdict::Drop => return Ok(Took::Whole),
            Verdict::Doubt => {
                self.doubtful.extend(alone(batch, record, key));
                return Ok(Took::Whole);
            }
        }
        let db = self.context.task.target.db(record.db);
        if !foreign.is_empty() {
            let place = (db, key.to_vec());
            if foreign.contains(&place) {
                if self.context.ownership.conflict() == target::Conflict::Skip {
                    return Ok(Took::Whole);
                }
                foreign.remove(&place);
                self.release(db, key);
            }
        }
        if let Some(seen) = &mut self.baselines {
            seen.note(record.db, key);
        }
        let has_fields = record.kind == rdb::kind::HASH_EXPIRING;
        self.note_end(record.db, key, record.expire_at_ms, has_fields);
        self.form(batch, record, key)
    }

    /// Applies or drops what was put aside, once other keys have told what it is; with `anyway`
    /// also when they have not.
    pub(in crate::task) fn settle_doubts(&mut self, anyway: bool) -> Result<(), TaskError> {
        if self.doubtful.is_empty() || !(anyway || self.ghosts.is_settled()) {
            return Ok(());
        }
        for batch in std::mem::take(&mut self.doubtful) {
            if let Some(Item::Record(record)) = batch.items.first()
                && self.ghosts.settle() == Verdict::Keep
            {
                self.form(&batch, record, batch.text(&record.key))?;
            }
        }
        Ok(())
    }

    fn form(&mut self, batch: &Batch, record: &Record, key: &[u8]) -> Result<Took, TaskError> {
        let context = &self.context;
        let value = value_of(batch, record, key, self.context.grace_ms());
        let settings = context.form_settings(batch.received_at_ms);
        let db = context.task.target.db(record.db);
        let repeatable = self.repeatable(record.kind);
        let spilled = matches!(record.value, Body::Spilled(_));
        let out = self.writer.begin(repeatable, db, Tolerate::Nothing);
        let formed = blocking_if(spilled, || form::form(&value, &settings, None, out));
        let whole = formed.map(|formed| match formed {
            Formed::Whole(notes) => Some(notes),
            Formed::Steps(_) => None,
        });
        match whole {
            Ok(Some(notes)) => {
                self.noted(record.db, key, notes);
                Ok(Took::Whole)
            }
            Ok(None) => Ok(Took::Steps),
            Err(error) => self.unformed(record.db, key, error).map(|()| Took::Whole),
        }
    }

    /// Builds a value in steps, while the writer has room. The rest of the flow waits.
    pub(in crate::task) async fn build(
        &mut self,
        batch: &Batch,
        record: &Record,
    ) -> Result<(), TaskError> {
        let context = self.context.clone();
        let key = batch.text(&record.key);
        let value = value_of(batch, record, key, self.context.grace_ms());
        let settings = context.form_settings(batch.received_at_ms);
        let db = context.task.target.db(record.db);
        let out = self
            .writer
            .begin(target::Kind::Record, db, Tolerate::Nothing);
        let mut build = match form::form(&value, &settings, None, out) {
            Ok(Formed::Steps(build)) => build,
            Ok(Formed::Whole(notes)) => {
                self.noted(record.db, key, notes);
                return Ok(());
            }
            Err(error) => return self.unformed(record.db, key, error),
        };
        // The chunks of a list are not safe to repeat one by one, so each goes alone.
        loop {
            while !self.writer.has_room() {
                self.writer.drive().await?;
            }
            let out = self
                .writer
                .begin(target::Kind::Entry, db, Tolerate::Nothing);
            match blocking_if(true, || build.step(out)) {
                Ok(Step::More) => {}
                Ok(Step::Done(notes)) => {
                    self.noted(record.db, key, notes);
                    return Ok(());
                }
                Err(error) => return self.unformed(record.db, key, error),
            }
        }
    }

    /// Whether the commands that make a value can be repeated one by one.
    fn repeatable(&self, kind: u8) -> target::Kind {
        match self.context.features.form(kind) {
            commands::Form::Native => target::Kind::Entry,
            _ => target::Kind::Record,
        }
    }

    pub(super) fn restore(
        &mut self,
        batch: &Batch,
        command: &Command,
        restore: &commands::Restore<'_>,
        large: Option<&Large>,
    ) -> Result<(), TaskError> {
        let long = large.and_then(|large| large.long(restore.payload));
        self.restore_value(command.db, restore, long, batch.received_at_ms, command.lsn)
    }

    /// Gives a key the value of a payload, which is `long` where there is one.
    pub(in crate::task) fn restore_value(
        &mut self,
        source_db: u32,
        restore: &commands::Restore<'_>,
        long: Option<Spill>,
        now_ms: i64,
        lsn: Option<u64>,
    ) -> Result<(), TaskError> {
        let context = self.context.clone();
        let grace_ms = context.grace_ms();
        let restore = &commands::Restore {
            expire_at_ms: restore.expire_at_ms.map(|at| at.saturating_add(grace_ms)),
            ..*restore
        };
        let value_of_long;
        let value = match &long {
            Some(payload) => {
                let opened = match blocking_if(true, || form::restored_in_file(payload)) {
                    Ok(opened) => opened,
                    Err(error) => return self.unformed(source_db, restore.key, error),
                };
                let Some((kind, value)) = opened else {
                    return self.damaged(source_db, restore.key, "its checksum is wrong");
                };
                value_of_long = value;
                Value {
                    key: restore.key,
                    kind,
                    bytes: Bytes::Spilled(&value_of_long),
                    expire_at_ms: restore.expire_at_ms,
                }
            }
            None => match form::restored(restore) {
                Ok(value) => value,
                Err(error) => return self.damaged(source_db, restore.key, &error.to_string()),
            },
        };
        let bytes = value.bytes.len();
        let mut settings = context.form_settings(now_ms);
        // A RESTORE of the journal is an entry like any other: one transaction.
        settings.limits.whole = u64::MAX;
        let db = context.task.target.db(source_db);
        let out = self
            .writer
            .begin(target::Kind::Entry, db, Tolerate::Nothing);
        let formed = blocking_if(long.is_some(), || {
            match form::form(&value, &settings, lsn, out)? {
                Formed::Whole(notes) => Ok(notes),
                Formed::Steps(mut build) => loop {
                    if let Step::Done(notes) = build.step(out)? {
                        break Ok(notes);
                    }
                },
            }
        });
        match formed {
            Ok(notes) => self.noted_apart(source_db, restore.key, notes, bytes),
            Err(error) => self.unformed(source_db, restore.key, error)?,
        }
        Ok(())
    }

    fn noted(&mut self, db: u32, key: &[u8], notes: Notes) {
        self.noted_apart(db, key, notes, 0);
    }

    /// The same of a value of so many bytes that may just have been read from the source.
    pub(in crate::task) fn noted_apart(&mut self, db: u32, key: &[u8], notes: Notes, bytes: u64) {
        if let Some(at_ms) = notes.due_ms {
            self.expires_apart(db, key, at_ms, bytes);
        }
        if notes.expiry_dropped > 0 {
            let what = show(key);
            self.context
                .note(self.log(), db, &what, commands::Note::MemberExpiryDropped);
        }
    }

    pub(in crate::task) fn damaged(
        &self,
        db: u32,
        key: &[u8],
        cause: &str,
    ) -> Result<(), TaskError> {
        Err(TaskError::Damaged {
            key: show(key),
            db,
            cause: cause.to_owned(),
        })
    }

    pub(in crate::task) fn unformed(
        &self,
        db: u32,
        key: &[u8],
        error: FormError,
    ) -> Result<(), TaskError> {
        let what = show(key);
        let unsupported = match error {
            FormError::Unsupported(unsupported) => unsupported,
            FormError::File(cause) => {
                return Err(TaskError::State {
                    dir: self.context.task.state_dir.clone(),
                    cause,
                });
            }
            FormError::Damaged { .. } => {
                return self.damaged(db, key, &error.to_string());
            }
        };
        self.leave_out(db, &what, &unsupported)
    }
}

/// A batch of this one record, which is in memory.
fn alone(batch: &Batch, record: &Record, key: &[u8]) -> Option<Batch> {
    let Body::Inline(span) = &record.value else {
        return None;
    };
    let value = batch.slice(*span);
    let record = Record {
        key: Text::Owned(key.into()),
        value: Body::Inline(Span {
            start: 0,
            len: span.len,
        }),
        ..record.clone()
    };
    Some(Batch {
        bytes: value.to_vec().into(),
        items: vec![Item::Record(record)],
        received_at_ms: batch.received_at_ms,
        share: Share::none(),
    })
}

fn value_of<'a>(batch: &'a Batch, record: &'a Record, key: &'a [u8], grace_ms: i64) -> Value<'a> {
    Value {
        key,
        kind: record.kind,
        bytes: match &record.value {
            Body::Inline(span) => Bytes::Inline(batch.slice(*span)),
            Body::Spilled(spill) => Bytes::Spilled(spill),
        },
        expire_at_ms: record.expire_at_ms.map(|at| at.saturating_add(grace_ms)),
    }
}

fn is_hyperloglog(batch: &Batch, record: &Record) -> bool {
    let (rdb::kind::STRING, Body::Inline(span)) = (record.kind, &record.value) else {
        return false;
    };
    let mut cursor = rdb::Cursor::new(batch.slice(*span));
    rdb::string::read(&mut cursor).is_ok_and(|text| text.into_bytes().starts_with(b"HYLL"))
}
