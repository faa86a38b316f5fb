//! The order of the first milliseconds: signals, then the command line.

use std::process::ExitCode;

use df2redis::{cli, process};

fn main() -> ExitCode {
    // First of all, so that a session lost while we start does not end us.
    let prepared = process::ignore_fatal_signals().and_then(|()| process::forbid_core_dumps());
    cli::run(std::env::args_os(), prepared).into()
}
