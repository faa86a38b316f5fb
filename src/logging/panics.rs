//! Panics in the log: message and backtrace as error lines, in every task's file, through the ordinary drains.
//!
//! The hook does not end the process, for most panics are one task's own: the others go on, and it is started again.
//! A panic that does end the process unwinds through [`Logs`](super::Logs), which writes everything out. Standard
//! error gets it too where somebody may read it and the console is not there to show it; for at most one second, so
//! that a terminal stopped with Ctrl-S does not hold up whoever panicked.

use std::backtrace::Backtrace;
use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::mpsc;
use std::thread;

use slog::{crit, error};

use super::{CONSOLE_FLUSH, LogHandle, fields};

/// Installs the hook, in place of the one that is there.
pub(super) fn catch(logs: LogHandle, on_stderr: bool) {
    panic::set_hook(Box::new(move |panic| {
        let panicked = Panicked::of(panic);
        panicked.log(&logs);
        if on_stderr {
            panicked.print();
        }
    }));
}

struct Panicked {
    message: String,
    thread: String,
    place: String,
    backtrace: String,
}

impl Panicked {
    fn of(panic: &PanicHookInfo<'_>) -> Self {
        let place = panic.location().map(ToString::to_string);
        Self {
            message: message(panic).to_owned(),
            thread: thread::current().name().unwrap_or("unnamed").to_owned(),
            place: place.unwrap_or_default(),
            backtrace: Backtrace::force_capture().to_string(),
        }
    }

    fn log(&self, logs: &LogHandle) {
        for log in logs.loggers() {
            crit!(log, "panicked"; fields::REASON => &self.message, fields::PLACE => &self.place,
                fields::THREAD => &self.thread);
            for line in self.backtrace.lines() {
                error!(log, "backtrace"; fields::FRAME => line.trim());
            }
        }
    }

    fn print(self) {
        let (done, wait) = mpsc::channel();
        let print = move || {
            let text = format!(
                "thread '{}' panicked at {}:\n{}\n{}",
                self.thread, self.place, self.message, self.backtrace
            );
            // Where it fails nobody reads it, and the log has it.
            let _ = io::stderr().write_all(text.as_bytes());
            let _ = done.send(());
        };
        if thread::Builder::new().spawn(print).is_ok() {
            let _ = wait.recv_timeout(CONSOLE_FLUSH);
        }
    }
}

/// What `panic!` was given, if it is text.
fn message<'p>(panic: &'p PanicHookInfo<'_>) -> &'p str {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}
