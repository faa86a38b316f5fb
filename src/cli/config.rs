//! `df2redis config check`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::task::JoinHandle;

use super::arguments::Check;
use super::complain;
use crate::config::{self, Task};
use crate::process::Exit;
use crate::source::dragonfly::all_closed;
use crate::task::{Preflight, preflight};

/// Names what is wrong with the files, or the tasks they hold and what keeps those from running.
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
    for warning in tasks.iter().flat_map(|task| &task.warnings) {
        complain(format_args!("warning: {warning}"));
    }
    match arguments.connect {
        true => check_servers(tasks),
        false => tasks
            .iter()
            .map(|task| format!("{}, correct\n", title(task)))
            .find_map(|line| print(&line).err())
            .unwrap_or(Exit::Done),
    }
}

fn title(task: &Task) -> String {
    format!(
        "task {}: {} to {}",
        task.name, task.source.address, task.target.address
    )
}

/// One block for each task, in their order; all are asked at the same time.
fn check_servers(tasks: Vec<Task>) -> Exit {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start the runtime: {error}"));
            return Exit::Internal;
        }
    };
    let exit = runtime.block_on(async {
        let asked: Vec<(String, JoinHandle<Preflight>)> = tasks
            .into_iter()
            .map(|task| {
                let title = title(&task);
                let asked = tokio::spawn(async move { Box::pin(preflight(&Arc::new(task))).await });
                (title, asked)
            })
            .collect();
        let exit = report(asked).await;
        all_closed().await;
        exit
    });
    // What is left are name lookups, which nobody waits for any more.
    runtime.shutdown_background();
    exit
}

async fn report(asked: Vec<(String, JoinHandle<Preflight>)>) -> Exit {
    let mut worst = None;
    for (n, (title, asked)) in asked.into_iter().enumerate() {
        let found = match asked.await {
            Ok(found) => found,
            Err(error) => {
                complain(format_args!("{title}: {error}"));
                return Exit::Internal;
            }
        };
        worst = worst.or(found.exit());
        let gap = if n == 0 { "" } else { "\n" };
        if let Err(exit) = print(&format!("{gap}{title}\n{}", block(&found))) {
            return exit;
        }
    }
    worst.unwrap_or(Exit::Done)
}

/// The lines of one task.
fn block(found: &Preflight) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for finding in &found.findings {
        let _ = write!(text, "  {:<7}  {}", finding.grade, finding.what);
        let _ = match &finding.advice {
            Some(advice) => writeln!(text, "; {advice}"),
            None => writeln!(text),
        };
    }
    if let Some((server, forms)) = &found.forms {
        let _ = writeln!(text, "  how values go to {server}:");
        let width = forms
            .iter()
            .map(|line| line.values.len())
            .max()
            .unwrap_or(0);
        for line in forms {
            let _ = writeln!(text, "    {:<width$}  {}", line.values, line.form);
        }
    }
    let (warnings, errors) = found.counts();
    let _ = match (warnings, errors) {
        (0, 0) => writeln!(text, "  nothing stands in the way"),
        (_, 0) => writeln!(text, "  nothing stands in the way; warnings: {warnings}"),
        (_, _) => writeln!(text, "  not ready; errors: {errors}, warnings: {warnings}"),
    };
    text
}

/// Prints an answer; says what to end with when nobody reads on.
fn print(text: &str) -> Result<(), Exit> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(()),
        // Whoever read the lines has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Exit::Done),
        Err(error) => {
            complain(format_args!("cannot write to standard output: {error}"));
            Err(Exit::Io)
        }
    }
}
