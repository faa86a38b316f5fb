//! `df2redis config check`.

use std::io::{self, Write};

use super::arguments::Check;
use super::complain;
use crate::config;
use crate::process::Exit;

/// Names what is wrong with the files, or the tasks they hold.
pub(super) fn check(arguments: &Check) -> Exit {
    let tasks = match config::load(&arguments.tasks.config, &arguments.tasks.task_name) {
        Ok(tasks) => tasks,
        Err(errors) => {
            for complaint in errors.complaints() {
                complain(complaint);
            }
            return Exit::Config;
        }
    };
    for task in &tasks {
        for warning in &task.warnings {
            complain(format_args!("warning: {warning}"));
        }
        let line = writeln!(
            io::stdout(),
            "task {}: {} to {}, correct",
            task.name,
            task.source.address,
            task.target.address
        );
        match line {
            Ok(()) => {}
            // Whoever read the lines has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Exit::Done,
            Err(error) => {
                complain(format_args!("cannot write to standard output: {error}"));
                return Exit::Io;
            }
        }
    }
    Exit::Done
}
