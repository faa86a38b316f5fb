//! Writing what was read again, where the flow is.
//!
//! Values of up to [`WHOLE`] bytes go out in the transaction that takes their keys off the list. Larger ones go the way of
//! large values of a snapshot: in steps, perhaps under another name first. The flow stands still meanwhile, and the key is
//! on the list on the target until the last step.
//!
//! Invariant: nothing is taken, and no global command met, while a value waits to be written.

use std::sync::atomic::Ordering;

use super::list::Place;
use crate::commands::Restore;
use crate::entry::Spill;
use crate::fail_point;
use crate::rdb;
use crate::source::dragonfly::{Found, Payload};
use crate::target;
use crate::target::form::{self, Bytes, Formed, Step, Value};
use crate::task::applier::Applier;
use crate::task::error::TaskError;
use crate::task::items::blocking_if;

/// What goes out in one transaction.
const WHOLE: u64 = 1 << 20;

impl Applier {
    /// Writes the values that are due where the flow is, but for large ones: see [`Self::write_large`].
    pub(in crate::task) fn write_due(&mut self) -> Result<(), TaskError> {
        let Some(next) = self.next.filter(|next| self.list.is_due(*next)) else {
            return Ok(());
        };
        for (place, found) in self.list.take_due(next) {
            match found {
                Some(found) if found.payload.len() > WHOLE => self.large.push((place, found)),
                Some(found) => {
                    self.put_back(&place, found)?;
                    self.is_written(&place);
                }
                None => {
                    self.delete(&place);
                    self.is_written(&place);
                }
            }
        }
        self.writer.store();
        fail_point::pass(fail_point::Place::RereadWritten);
        Ok(())
    }

    /// Writes the large values that are due.
    pub(in crate::task) async fn write_large(&mut self) -> Result<(), TaskError> {
        while let Some((place, found)) = self.large.pop() {
            self.note_found(&place, &found);
            match &found.payload {
                Payload::Inline(payload) => {
                    let restore = Restore {
                        key: &place.key,
                        payload,
                        expire_at_ms: self.ends_at(&found),
                    };
                    match form::restored(&restore) {
                        Ok(value) => self.build_again(place.db, &value).await?,
                        Err(error) => {
                            return self.damaged(place.db, &place.key, &error.to_string());
                        }
                    }
                }
                Payload::Spilled(spill) => {
                    let expire_at_ms = self.ends_at(&found);
                    self.build_from_file(&place, spill, expire_at_ms).await?;
                }
            }
            self.is_written(&place);
            self.writer.store();
            fail_point::pass(fail_point::Place::RereadWritten);
        }
        Ok(())
    }

    async fn build_from_file(
        &mut self,
        place: &Place,
        spill: &Spill,
        expire_at_ms: Option<i64>,
    ) -> Result<(), TaskError> {
        let opened = match blocking_if(true, || form::restored_in_file(spill)) {
            Ok(opened) => opened,
            Err(error) => return self.unformed(place.db, &place.key, error),
        };
        let Some((kind, value)) = opened else {
            return self.damaged(place.db, &place.key, "its checksum is wrong");
        };
        let value = Value {
            key: &place.key,
            kind,
            bytes: Bytes::Spilled(&value),
            expire_at_ms,
        };
        self.build_again(place.db, &value).await
    }

    /// Writes a value in as many steps as it takes, while the writer has room.
    async fn build_again(&mut self, source_db: u32, value: &Value<'_>) -> Result<(), TaskError> {
        let context = self.context.clone();
        let settings = context.form_settings(self.source_now_ms());
        let db = context.task.target.db(source_db);
        let bytes = value.bytes.len();
        let mut build = None;
        let notes = loop {
            while !self.writer.has_room() {
                self.writer.drive().await?;
            }
            let out = self
                .writer
                .begin(target::Kind::Entry, db, target::Tolerate::Nothing);
            let step = match &mut build {
                None => match blocking_if(true, || form::form(value, &settings, None, out)) {
                    Ok(Formed::Whole(notes)) => Ok(Step::Done(notes)),
                    Ok(Formed::Steps(begun)) => {
                        build = Some(begun);
                        Ok(Step::More)
                    }
                    Err(error) => Err(error),
                },
                Some(build) => blocking_if(true, || build.step(out)),
            };
            match step {
                Ok(Step::More) => {}
                Ok(Step::Done(notes)) => break notes,
                Err(error) => return self.unformed(source_db, value.key, error),
            }
        };
        self.noted_apart(source_db, value.key, notes, bytes);
        Ok(())
    }

    fn put_back(&mut self, place: &Place, found: Found) -> Result<(), TaskError> {
        self.note_found(place, &found);
        let now = self.source_now_ms();
        let (inline, spilled) = match found.payload {
            Payload::Inline(bytes) => (bytes, None),
            Payload::Spilled(spill) => (Vec::new(), Some(spill)),
        };
        let restore = Restore {
            key: &place.key,
            payload: &inline,
            expire_at_ms: found.expire_at_ms,
        };
        self.restore_value(place.db, &restore, spilled, now, None)
    }

    /// The source has no such key, and nothing is left of what was begun to be built of it.
    fn delete(&mut self, place: &Place) {
        let task = &self.context.task;
        let (db, begun) = (
            task.target.db(place.db),
            form::temporary(&task.name, task.target.cluster.is_some(), &place.key),
        );
        let out = self
            .writer
            .begin(target::Kind::Entry, db, target::Tolerate::Nothing);
        out.command(3, None);
        out.word(b"DEL");
        out.word(&place.key);
        out.word(&begun);
    }

    /// When the key ends on the target.
    fn ends_at(&self, found: &Found) -> Option<i64> {
        let grace_ms = self.context.grace_ms();
        found.expire_at_ms.map(|at| at.saturating_add(grace_ms))
    }

    fn note_found(&mut self, place: &Place, found: &Found) {
        let has_fields = may_have_fields_that_expire(&found.payload);
        self.note_end(place.db, &place.key, found.expire_at_ms, has_fields);
        self.before.has_read(found.payload.len());
    }

    /// A key is on the target as it was read.
    fn is_written(&mut self, place: &Place) {
        if let Some(seen) = &mut self.baselines {
            seen.note(place.db, &place.key);
        }
        self.unlist(place.db, &place.key);
        self.context.status.reread.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a value may be a hash of which fields expire: only those in memory are looked at.
fn may_have_fields_that_expire(payload: &Payload) -> bool {
    match payload {
        Payload::Inline(bytes) => bytes.first() == Some(&rdb::kind::HASH_EXPIRING),
        Payload::Spilled(_) => true,
    }
}
