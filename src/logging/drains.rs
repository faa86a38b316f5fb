//! The two ends of the log, each used by one thread: the file and the terminal. Neither ever fails.

use std::cell::RefCell;

use slog::{Drain, Level, Never, OwnedKVList, Record, b, o, record_static};

use super::fields;
use super::file::{LogFile, Loss};
use super::format::Lines;
use super::terminal::Terminal;
use crate::config::LogFormat;

/// Lines into a file.
pub(super) struct FileDrain {
    lines: Lines,
    file: RefCell<LogFile>,
}

impl FileDrain {
    pub fn new(format: LogFormat, file: LogFile) -> Self {
        Self {
            lines: Lines::new(format),
            file: RefCell::new(file),
        }
    }

    /// The line that says what was lost.
    fn report(&self, loss: &Loss) -> Vec<u8> {
        let place = record_static!(Level::Warning, "");
        let message = format_args!("log lines lost, the file could not be written");
        let pairs = b!(fields::LOST => loss.lines, fields::ERROR => loss.error.as_str());
        self.lines
            .line(&Record::new(&place, &message, pairs), &o!().into())
    }
}

impl Drain for FileDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let line = self.lines.line(record, values);
        self.file
            .borrow_mut()
            .append(&line, |loss| self.report(loss));
        Ok(())
    }
}

/// Lines onto the terminal.
pub(super) struct ConsoleDrain {
    lines: Lines,
    terminal: Terminal,
}

impl ConsoleDrain {
    pub fn new(terminal: Terminal) -> Self {
        Self {
            lines: Lines::new(LogFormat::Text),
            terminal,
        }
    }
}

impl Drain for ConsoleDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        self.terminal.print(&self.lines.line(record, values));
        Ok(())
    }
}
