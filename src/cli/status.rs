//! `df2redis status`: what is known of tasks, once or every second.

mod known;
mod screen;
mod text;

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::arguments::Status;
use super::complain;
use super::running::{Subject, ask, worst};
use crate::entry::unix_ms;
use crate::process::Exit;
use known::Known;
use screen::Screen;

/// How often `--watch` prints.
const EVERY: Duration = Duration::from_secs(1);

/// Shows what is known of the tasks; the exit code says whether they run.
pub(super) fn run(arguments: &Status) -> Exit {
    let subjects = match Subject::chosen(&arguments.tasks, arguments.pidfile.as_deref()) {
        Ok(subjects) => subjects,
        Err(exit) => return exit,
    };
    let mut screen = match arguments {
        Status { watch: false, .. } => Screen::once(),
        // Whoever reads JSON wants objects, one after the other.
        Status { json: true, .. } => Screen::lines(),
        Status { json: false, .. } => Screen::watched(),
    };
    loop {
        let began = Instant::now();
        let round = Round::of(&subjects);
        let shown = if arguments.json {
            screen.show(&round.json())
        } else {
            screen.show(&round.text())
        };
        match shown {
            Ok(()) if arguments.watch => sleep(EVERY.saturating_sub(began.elapsed())),
            Ok(()) => return round.exit(),
            Err(error) if is_gone(&error) => return round.exit(),
            Err(error) => {
                complain(format_args!("cannot write to standard output: {error}"));
                return Exit::Io;
            }
        }
    }
}

/// Whether nobody reads any more: a pipe without reader, a terminal that has hung up.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
        || error.raw_os_error() == Some(nix::errno::Errno::EIO as i32)
}

/// What is known at one moment.
struct Round {
    tasks: Vec<Known>,
    at_ms: i64,
}

impl Round {
    fn of(subjects: &[Subject]) -> Self {
        let answers = ask(subjects, None, |control, _, deadline| {
            control.status(deadline)
        });
        let tasks = subjects
            .iter()
            .zip(answers)
            .flat_map(|(subject, answer)| Known::of(subject, answer));
        Self {
            tasks: tasks.collect(),
            at_ms: unix_ms(),
        }
    }

    fn exit(&self) -> Exit {
        worst(self.tasks.iter().map(Known::exit))
    }

    fn text(&self) -> String {
        let blocks = self.tasks.iter().map(|task| text::block(task, self.at_ms));
        blocks.collect::<Vec<_>>().join("\n")
    }

    fn json(&self) -> String {
        let tasks = self.tasks.iter().filter_map(Known::json);
        let notes = self.tasks.iter().filter_map(Known::note);
        let mut line = json!({
            "tasks": tasks.collect::<Vec<_>>(),
            "notes": notes.collect::<Vec<_>>(),
        })
        .to_string();
        line.push('\n');
        line
    }
}
