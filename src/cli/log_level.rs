//! `df2redis log-level`.

use std::io::{self, Write};

use super::arguments::{LogLevel, WantedLevel};
use super::complain;
use super::running::{Subject, ask, worst};
use crate::logging::Levels;
use crate::process::Exit;

/// Changes what the tasks log, and says what they log from now on.
pub(super) fn run(arguments: &LogLevel) -> Exit {
    let module = arguments.module.as_deref();
    if let Some(module) = module
        && !Levels::is_module(module)
    {
        complain(format_args!(
            "--module {module}: there is no such module; they begin with one of {}",
            Levels::rooms().join(", ")
        ));
        return Exit::Usage;
    }
    let level = match arguments.level {
        WantedLevel::Default => None,
        WantedLevel::Level(level) => Some(level),
    };
    let subjects = match Subject::chosen(&arguments.tasks, arguments.pidfile.as_deref()) {
        Ok(subjects) => subjects,
        Err(exit) => return exit,
    };
    let answers = ask(&subjects, None, |control, tasks, deadline| {
        control.set_log_level(tasks, module, level, deadline)
    });
    let mut exits = Vec::new();
    for (subject, answer) in subjects.iter().zip(answers) {
        match answer {
            Ok(levels) => {
                let own = |task: &str| match subject {
                    Subject::Task(own) => own.name == task,
                    Subject::PidFile(_) => true,
                };
                for (task, levels) in levels.iter().filter(|(task, _)| own(task)) {
                    // Whether or not somebody reads it, it is done.
                    let _ = writeln!(io::stdout(), "{task}: {levels}");
                }
            }
            Err(unasked) => {
                complain(format_args!("{}: {unasked}", subject.name()));
                exits.push(unasked.exit_of_request());
            }
        }
    }
    worst(exits)
}
