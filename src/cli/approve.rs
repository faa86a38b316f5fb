//! `df2redis approve`.

use std::io::{self, Write};

use super::arguments::Approve;
use super::complain;
use super::running::{Subject, ask, worst};
use crate::process::Exit;

/// Approves what the tasks wait for, and says which of them did.
pub(super) fn run(arguments: &Approve) -> Exit {
    let subjects = match Subject::chosen(&arguments.tasks, arguments.pidfile.as_deref()) {
        Ok(subjects) => subjects,
        Err(exit) => return exit,
    };
    let answers = ask(&subjects, None, |control, tasks, deadline| {
        control.approve(tasks, deadline)
    });
    let mut exits = Vec::new();
    let mut approved = 0;
    for (subject, answer) in subjects.iter().zip(answers) {
        match answer {
            Ok(tasks) => {
                let own = |task: &str| match subject {
                    Subject::Task(own) => own.name == task,
                    Subject::PidFile(_) => true,
                };
                for task in tasks.iter().filter(|task| own(task)) {
                    approved += 1;
                    // Whether or not somebody reads it, it is done.
                    let _ = writeln!(io::stdout(), "{task}: approved");
                }
            }
            Err(unasked) => {
                complain(format_args!("{}: {unasked}", subject.name()));
                exits.push(unasked.exit_of_request());
            }
        }
    }
    if approved == 0 && exits.is_empty() {
        complain("nothing waits to be approved");
        return Exit::Dead;
    }
    worst(exits)
}
