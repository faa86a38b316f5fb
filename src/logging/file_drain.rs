//! What the thread of a log file does with each record. It never fails, and ends only when told to.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use slog::{Drain, Never, OwnedKVList, Record, b};

use super::channel::{Overflow, is_nudge};
use super::fields;
use super::file::{LogFile, Notice};
use super::format::Lines;

/// Lines into a file.
pub(super) struct FileDrain {
    pub lines: Lines,
    pub file: RefCell<LogFile>,
    /// Asks for the file to be opened again by its name.
    pub reopen: Arc<AtomicBool>,
    pub overflow: Overflow,
}

impl FileDrain {
    /// What was asked for, or has happened, since the last record.
    fn catch_up(&self, file: &mut LogFile, now: Instant) {
        if self.reopen.swap(false, Ordering::Acquire) {
            file.reopen(now);
        }
        if let Some(lost) = self.overflow.take() {
            file.overflowed(lost);
        }
    }
}

impl Drain for FileDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let file = &mut *self.file.borrow_mut();
        let now = Instant::now();
        let in_words = |notice: &Notice| notice_line(&self.lines, notice);
        self.catch_up(file, now);
        if is_nudge(record) {
            file.confess(&in_words);
        } else {
            file.append(&self.lines.line(record, values), now, &in_words);
        }
        Ok(())
    }
}

impl Drop for FileDrain {
    fn drop(&mut self) {
        let lines = &self.lines;
        let overflowed = self.overflow.take();
        let file = self.file.get_mut();
        if let Some(lost) = overflowed {
            file.overflowed(lost);
        }
        file.confess(&|notice| notice_line(lines, notice));
    }
}

fn notice_line(lines: &Lines, notice: &Notice) -> Vec<u8> {
    match notice {
        Notice::Lost { lines: lost, error } => {
            let what = "log lines lost, the file could not be written";
            lines.warning(
                what,
                b!(fields::LOST => *lost, fields::ERROR => error.as_str()),
            )
        }
        Notice::Overflowed { lines: lost } => {
            let what = "log lines lost, more came than could be written";
            lines.warning(what, b!(fields::LOST => *lost))
        }
        Notice::NotReopened { error } => {
            let what = "log file cannot be opened again, going on with the old one";
            lines.warning(what, b!(fields::ERROR => error.as_str()))
        }
        Notice::NotRotated { error } => {
            let what = "log file cannot be rotated, going on with it";
            lines.warning(what, b!(fields::ERROR => error.as_str()))
        }
        Notice::NotCompressed { error } => {
            let what = "rotated log file cannot be compressed";
            lines.warning(what, b!(fields::ERROR => error.as_str()))
        }
    }
}

#[cfg(test)]
mod tests;
