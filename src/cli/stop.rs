//! `df2redis stop`.

use std::io::{self, Write};

use super::arguments::Stop;
use super::complain;
use crate::process::{self, Exit, Holder, Stopped};

/// Stops the process that holds the PID file, and waits until it is gone.
pub(super) fn run(arguments: &Stop) -> Exit {
    let path = arguments.pidfile.display();
    let stopped = match process::stop(&arguments.pidfile, arguments.timeout, arguments.kill) {
        Ok(stopped) => stopped,
        Err(error) => {
            complain(error);
            return Exit::Unknown;
        }
    };
    let (said, exit) = match stopped {
        Stopped::Gone { pid, killed: false } => (format!("PID {pid} has ended"), Exit::Done),
        Stopped::Gone { pid, killed: true } => (
            format!(
                "PID {pid} was killed: it had not ended within {:?}",
                arguments.timeout
            ),
            Exit::Done,
        ),
        Stopped::NotRunning(Holder::Stale(_)) => (
            format!("not running; {path} was left behind, and the next start takes it over"),
            Exit::Done,
        ),
        Stopped::NotRunning(Holder::Absent | Holder::Running(_)) => {
            (format!("not running: there is no {path}"), Exit::Done)
        }
        Stopped::Still { pid } => {
            complain(format_args!(
                "PID {pid} has not ended within {:?}{}",
                arguments.timeout,
                if arguments.kill {
                    ", even killed"
                } else {
                    "; --kill ends it at once"
                }
            ));
            return Exit::Dead;
        }
    };
    // What counts is the exit code; who has gone need not read the rest.
    let _ = writeln!(io::stdout(), "{said}");
    exit
}
