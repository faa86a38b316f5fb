//! A value built by native commands: at once if it is small, else in steps under another name.
//!
//! ```text
//!  start ── small ──> DEL key, chunks, PEXPIREAT key                 (one transaction)
//!    │
//!    └── large ──> DEL tmp, chunk ─ step ─> chunk … ─> PEXPIREAT tmp, RENAME tmp key
//!                            │
//!                            ├─ an element too large for memory ──> DEL tmp, RESTORE key
//!                            └─ damaged or unsupported ──> DEL tmp
//! ```

use crate::commands::Form;
use crate::rdb::{Elements, Halt};
use crate::target::Outgoing;
use crate::target::position::of_slot;
use crate::target::slot_of;

use super::chunk::Chunk;
use super::window::Window;
use super::{Bytes, FormError, Formed, Job, Notes, no_form};

/// How far a step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    More,
    /// The value is complete once the target has answered.
    Done(Notes),
}

/// A large value being built under a temporary key. To give it up half-way, delete
/// [`Build::temporary`] on the target.
#[derive(Debug)]
pub struct Build<'a> {
    job: Job<'a>,
    /// The key that is built: a temporary one, or the value's own.
    key: Vec<u8>,
    direct: bool,
    elements: Elements,
    window: Window<'a>,
    chunk: Chunk,
    notes: Notes,
    started: bool,
    /// Whether any element was sent.
    filled: bool,
}

/// The name under which a large value of a key is built: in a cluster, in the key's slot.
pub fn temporary(task: &str, of_cluster: bool, key: &[u8]) -> Vec<u8> {
    let name = format!("df2redis:tmp:{task}");
    let name = match of_cluster {
        true => of_slot(&name, slot_of(key)),
        false => name,
    };
    [name.as_bytes(), b":", key].concat()
}

impl<'a> Build<'a> {
    /// Begins: a small value is done with here and now.
    pub(super) fn start(job: Job<'a>, out: &mut Outgoing) -> Result<Formed<'a>, FormError> {
        let elements = Elements::new(job.value.kind).map_err(|_| no_form(job.value.kind))?;
        let (window, direct) = match job.value.bytes {
            Bytes::Inline(bytes) => {
                let small = bytes.len() as u64 <= job.settings.limits.whole;
                (Window::All(bytes), small)
            }
            Bytes::Spilled(spill) => (Window::of_file(spill), false),
        };
        let key = if direct {
            job.value.key.to_vec()
        } else {
            temporary(job.settings.task, job.settings.of_cluster, job.value.key)
        };
        let mut build = Self {
            job,
            key,
            direct,
            elements,
            window,
            chunk: Chunk::default(),
            notes: Notes::default(),
            started: false,
            filled: false,
        };
        if !direct {
            return Ok(Formed::Steps(Box::new(build)));
        }
        let before = out.commands();
        loop {
            match build.advance(out) {
                Ok(Step::More) => {}
                Ok(Step::Done(notes)) => return Ok(Formed::Whole(notes)),
                Err(error) => {
                    out.truncate_to(before);
                    return Err(error);
                }
            }
        }
    }

    /// The temporary key that holds what was built so far.
    pub fn temporary(&self) -> &[u8] {
        &self.key
    }

    /// Appends the commands of one step, which bring about as many bytes as
    /// [`Limits::command`](super::Limits). On an error the temporary key is deleted, and the
    /// value's own key is as it was; do not call again after an error or after the end.
    pub fn step(&mut self, out: &mut Outgoing) -> Result<Step, FormError> {
        let before = out.commands();
        self.advance(out).inspect_err(|_| {
            out.truncate_to(before);
            self.job.delete(&self.key, out);
        })
    }

    fn advance(&mut self, out: &mut Outgoing) -> Result<Step, FormError> {
        let lsn = self.job.lsn;
        if !self.started {
            self.started = true;
            self.job.delete(&self.key, out);
        }
        loop {
            match self.elements.next(self.window.bytes()) {
                Ok(Some(element)) => {
                    let settings = &self.job.settings;
                    self.chunk.push(&element, settings, &mut self.notes)?;
                    if self.chunk.is_full(settings) {
                        self.filled |= self.chunk.flush(&self.key, lsn, out);
                        return Ok(Step::More);
                    }
                }
                Ok(None) => return self.finish(out),
                Err(Halt::Incomplete { missing }) => {
                    let done_with = self.elements.shift();
                    if self.is_too_large(done_with, missing) {
                        self.job.delete(&self.key, out);
                        self.job.restore(out)?;
                        return Ok(Step::Done(Notes::default()));
                    }
                    if !self.window.slide(done_with, missing)? {
                        return Err(self
                            .job
                            .damaged(self.job.value.bytes.len(), "it ends too early"));
                    }
                }
                Err(Halt::Invalid { at, what }) => {
                    let at = self.window.base().saturating_add(at as u64);
                    return Err(self.job.damaged(at, what));
                }
            }
        }
    }

    /// Whether the element at the window's end would take too much memory, and need not.
    fn is_too_large(&self, done_with: usize, missing: usize) -> bool {
        let job = &self.job;
        let element = (self.window.bytes().len() - done_with).saturating_add(missing);
        !self.direct
            && element > job.settings.limits.element
            && job.value.kind != crate::rdb::kind::LIST_ZIPLISTS
            && job.settings.features.form(job.value.kind) == Form::Restore
            && job.value.bytes.len() < job.settings.limits.word
    }

    fn finish(&mut self, out: &mut Outgoing) -> Result<Step, FormError> {
        let end = self
            .window
            .base()
            .saturating_add(self.elements.shift() as u64);
        if end != self.job.value.bytes.len() {
            return Err(self.job.damaged(end, "bytes left over"));
        }
        self.filled |= self.chunk.flush(&self.key, self.job.lsn, out);
        match (self.filled, self.direct) {
            (true, true) => self.job.expire(&self.key, out),
            (true, false) => {
                self.job.expire(&self.key, out);
                out.command(3, self.job.lsn);
                out.word(b"RENAME");
                out.word(&self.key);
                out.word(self.job.value.key);
            }
            // Every member had expired: the key is gone, and the commands so far deleted it...
            (false, true) => {}
            // ...or its temporary name only.
            (false, false) => self.job.delete(self.job.value.key, out),
        }
        Ok(Step::Done(self.notes))
    }
}
