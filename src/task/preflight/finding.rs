//! What an operator is told: one finding after the other.

use std::fmt;

use crate::process::Exit;

use super::super::error::{TaskError, chain};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// The task will run, with a risk.
    Warning,
    /// The task will not run, or not do all it should. With the code that it would end with.
    Error(Exit),
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error(_) => "error",
        })
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub grade: Grade,
    /// What was found, in one line.
    pub what: String,
    /// What to do about it, in one line.
    pub advice: Option<String>,
}

impl Finding {
    fn new(grade: Grade, what: impl Into<String>) -> Self {
        Self {
            grade,
            what: what.into(),
            advice: None,
        }
    }

    /// As it should be.
    pub(super) fn ok(what: impl Into<String>) -> Self {
        Self::new(Grade::Ok, what)
    }

    /// Good to know.
    pub(super) fn note(what: impl Into<String>) -> Self {
        Self::new(Grade::Note, what)
    }

    /// A risk.
    pub(super) fn warning(what: impl Into<String>) -> Self {
        Self::new(Grade::Warning, what)
    }

    /// What keeps the task from running.
    pub(super) fn error(exit: Exit, what: impl Into<String>) -> Self {
        Self::new(Grade::Error(exit), what)
    }

    /// What the task itself would end with.
    pub(super) fn failure(error: &TaskError) -> Self {
        let finding = Self::error(error.exit_code(), chain(error));
        match error.hint() {
            Some(hint) => finding.advise(hint),
            None => finding.advise("check that the server runs, and its address in the task file"),
        }
    }

    /// With what to do about it.
    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// `1 key`, `2 keys`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Bytes, in the unit that is easiest to read.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut shown = (count as f64, "bytes");
    for unit in UNITS {
        if shown.0 < 1024.0 {
            break;
        }
        shown = (shown.0 / 1024.0, unit);
    }
    match shown {
        (_, "bytes") => format!("{count} bytes"),
        (value, unit) => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_a_unit_that_can_be_read() {
        for (count, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (64 << 20, "64.0 MiB"),
            (3 << 40, "3.0 TiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
