//! Panics: what they say and where they came from, into the logs.

use std::backtrace::Backtrace;
use std::io::IsTerminal;
use std::panic::{self, PanicHookInfo};

use slog::{crit, error};

use super::{LogHandle, console, fields};

/// Has panics logged. The process goes on: who panicked is whoever runs it to judge.
pub(super) fn catch(logs: LogHandle) {
    // Into /dev/null it would be words to nobody.
    let is_seen = std::io::stderr().is_terminal() || console::is_journal();
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        log(&logs, info);
        if is_seen {
            before(info);
        }
    }));
}

fn log(logs: &LogHandle, info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let said = payload.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| payload.downcast_ref::<&str>().copied());
    let said = said.unwrap_or("no message").to_owned();
    let place = info.location().map(ToString::to_string);
    let thread = std::thread::current()
        .name()
        .unwrap_or("unnamed")
        .to_owned();
    let backtrace = Backtrace::force_capture().to_string();
    for log in logs.all() {
        crit!(log, "a defect: something panicked"; fields::REASON => &said,
            fields::PLACE => place.clone(), fields::THREAD => &thread);
        for line in backtrace.lines() {
            error!(log, "backtrace"; fields::FRAME => line.trim());
        }
    }
}
