//! Panics in the log: message and backtrace as error lines.

use std::backtrace::Backtrace;
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::thread;

use slog::{crit, error};

use super::{LogHandle, fields};

/// Installs the hook. It does not wait, and does not end the process: a task's panic is the task's own.
pub(super) fn catch(logs: LogHandle) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        write(&logs, panic);
        if io::stderr().is_terminal() {
            before(panic);
        }
    }));
}

fn write(logs: &LogHandle, panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let backtrace = Backtrace::force_capture().to_string();
    for log in logs.loggers() {
        crit!(log, "panicked"; fields::REASON => message(panic), fields::PLACE => &place,
            fields::THREAD => thread.name().unwrap_or("unnamed").to_owned());
        for line in backtrace.lines() {
            error!(log, "backtrace"; fields::FRAME => line.trim());
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
