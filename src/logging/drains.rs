//! The two ends of the log, each used by one thread: a file, and the console. Neither ever fails.

use std::cell::RefCell;

use slog::{Drain, Level, Never, OwnedKVList, Record, b, o, record_static};

use super::console::Console;
use super::fields;
use super::file::{LogFile, Loss};
use super::format::Lines;
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

/// Lines onto the console.
pub(super) struct ConsoleDrain {
    lines: Lines,
    console: Console,
}

impl ConsoleDrain {
    pub fn new(console: Console) -> Self {
        Self {
            lines: Lines::new(LogFormat::Text),
            console,
        }
    }
}

impl Drain for ConsoleDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        self.console
            .print(record.level(), self.lines.line(record, values));
        Ok(())
    }
}

/// Says which task each line is of, for a console that shows several.
pub(super) struct Labelled<D> {
    pub label: Option<OwnedKVList>,
    pub drain: D,
}

impl<D: Drain<Ok = (), Err = Never>> Drain for Labelled<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // Loggers of tasks have no values of their own.
        self.drain
            .log(record, self.label.as_ref().unwrap_or(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::file::Reopen;
    use std::fs;

    #[test]
    fn a_full_disk_costs_lines_and_the_log_goes_on_with_their_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.log");
        // Every write to /dev/full fails with "no space left on device".
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let file = LogFile::open(path.clone(), None, Reopen::default()).unwrap();
        let drain = FileDrain::new(LogFormat::Json, file);
        let place = record_static!(Level::Info, "");
        let log = |n: u32| {
            let message = format_args!("line");
            let Ok(()) = drain.log(&Record::new(&place, &message, b!("n" => n)), &o!().into());
        };
        log(1);
        log(2);
        fs::remove_file(&path).unwrap();
        log(3);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(
            lines[0]["msg"],
            "log lines lost, the file could not be written"
        );
        assert_eq!(lines[0]["level"], "warning");
        assert_eq!(lines[0]["lost"], 2);
        assert_eq!(lines[0]["error"], "No space left on device (os error 28)");
        assert_eq!(lines[1]["n"], 3);
    }
}
