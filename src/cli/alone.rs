//! One task that does not run, for `retry`, `skip` and `forget`: chosen, locked, and its target asked.
//!
//! Invariant of [`with_task`]: the task is locked before anything is asked, and until the command has ended.

use std::fmt::Display;
use std::io::{self, Write};

use tokio::runtime::Builder;

use super::arguments::OneTask;
use super::complain;
use crate::config::{self, Task};
use crate::process::{Exit, TaskLock};
use crate::task::{TaskError, chain};

/// Does something with the task that the options name. What goes wrong is said on standard error.
pub(super) fn with_task(
    chosen: &OneTask,
    act: impl AsyncFnOnce(&Task) -> Result<Exit, TaskError>,
) -> Exit {
    let task = match the_task(chosen) {
        Ok(task) => task,
        Err(exit) => return exit,
    };
    let lock = match locked(&task) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start the runtime: {error}"));
            return Exit::Internal;
        }
    };
    let acted = runtime.block_on(act(&task));
    // What is left are name lookups, which nobody waits for any more.
    runtime.shutdown_background();
    drop(lock);
    acted.unwrap_or_else(|error| failed(&error))
}

/// The task's lock, so that it cannot be started on this host. What is wrong is said on standard error.
pub(super) fn locked(task: &Task) -> Result<TaskLock, Exit> {
    TaskLock::acquire(&task.state_dir, &task.name).map_err(|error| {
        chain(&error).lines().for_each(complain);
        Exit::CannotCreate
    })
}

/// Says on standard error what went wrong.
pub(super) fn failed(error: &TaskError) -> Exit {
    complain(printable(&chain(error)));
    if let Some(hint) = error.hint() {
        complain(format_args!("hint: {hint}"));
    }
    error.exit_code()
}

/// The one task that the options name. What is wrong is said on standard error.
pub(super) fn the_task(chosen: &OneTask) -> Result<Task, Exit> {
    let paths = std::slice::from_ref(&chosen.config);
    let mut tasks = config::load(paths, chosen.task_name.as_slice()).map_err(|errors| {
        errors.complaints().iter().for_each(complain);
        Exit::Config
    })?;
    match (tasks.pop(), tasks.is_empty()) {
        (Some(task), true) => Ok(task),
        (last, _) => {
            let names = tasks.iter().chain(&last).map(|task| task.name.as_str());
            let names: Vec<_> = names.collect();
            let path = chosen.config.display();
            complain(format_args!(
                "{path} has several tasks, {}: pick one with --task-name",
                names.join(", ")
            ));
            Err(Exit::Usage)
        }
    }
}

/// One line of an answer. Whether or not somebody reads it, what it tells of is done.
pub(super) fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{}", printable(&line.to_string()));
}

/// The text in one line that does nothing to a terminal: a server's words can be any.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() {
            true => safe.extend(letter.escape_default()),
            false => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn words_of_a_server_do_nothing_to_a_terminal() {
        assert_eq!(
            printable("ERR '\u{1b}[2J\n' \u{e9}"),
            "ERR '\\u{1b}[2J\\n' \u{e9}"
        );
    }
}
