//! The two ends of the log, each used by one thread: the file and the terminal. Neither ever fails.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use slog::{Drain, Level, Never, OwnedKVList, Record, b, o, record_static};

use super::channel::{Overflow, is_nudge};
use super::fields;
use super::file::{LogFile, Loss};
use super::format::Lines;
use super::terminal::Terminal;
use crate::config::LogFormat;

/// Lines into a file.
pub(super) struct FileDrain {
    lines: Lines,
    file: RefCell<LogFile>,
    /// Asks for the file to be opened again by its name.
    reopen: Arc<AtomicBool>,
    overflow: Overflow,
}

impl FileDrain {
    pub fn new(
        format: LogFormat,
        file: LogFile,
        reopen: Arc<AtomicBool>,
        overflow: Overflow,
    ) -> Self {
        Self {
            lines: Lines::new(format),
            file: RefCell::new(file),
            reopen,
            overflow,
        }
    }

    fn append(&self, line: &[u8]) {
        let report = |loss: &Loss| loss_line(&self.lines, loss);
        self.file.borrow_mut().append(line, report);
    }

    fn catch_up(&self) {
        if self.reopen.swap(false, Ordering::Acquire) {
            self.file.borrow_mut().reopen();
        }
        if let Some(lost) = self.overflow.take() {
            self.append(&overflow_line(&self.lines, lost));
        }
    }
}

impl Drain for FileDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        self.catch_up();
        if !is_nudge(record) {
            self.append(&self.lines.line(record, values));
        }
        Ok(())
    }
}

impl Drop for FileDrain {
    fn drop(&mut self) {
        self.catch_up();
    }
}

/// The line that says what a file could not take.
fn loss_line(lines: &Lines, loss: &Loss) -> Vec<u8> {
    let place = record_static!(Level::Warning, "");
    let message = format_args!("log lines lost, the file could not be written");
    let pairs = b!(fields::LOST => loss.lines, fields::ERROR => loss.error.as_str());
    lines.line(&Record::new(&place, &message, pairs), &o!().into())
}

/// The line that says what a channel could not take.
fn overflow_line(lines: &Lines, lost: u64) -> Vec<u8> {
    let place = record_static!(Level::Warning, "");
    let message = format_args!("log lines lost, more came than could be written");
    lines.line(
        &Record::new(&place, &message, b!(fields::LOST => lost)),
        &o!().into(),
    )
}

/// Lines onto the terminal.
pub(super) struct ConsoleDrain {
    lines: Lines,
    terminal: Terminal,
    overflow: Overflow,
}

impl ConsoleDrain {
    pub fn new(terminal: Terminal, overflow: Overflow) -> Self {
        Self {
            lines: Lines::new(LogFormat::Text),
            terminal,
            overflow,
        }
    }
}

impl Drain for ConsoleDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if let Some(lost) = self.overflow.take() {
            self.terminal.print(&overflow_line(&self.lines, lost));
        }
        if !is_nudge(record) {
            self.terminal.print(&self.lines.line(record, values));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_full_disk_costs_lines_and_the_log_goes_on_with_their_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.log");
        // Every write to /dev/full fails with "no space left on device".
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let drain = FileDrain::new(
            LogFormat::Json,
            LogFile::open(path.clone()).unwrap(),
            Arc::default(),
            Overflow::default(),
        );
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
