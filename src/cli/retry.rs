//! `df2redis retry`.

use super::alone::{say, with_task};
use super::arguments::Retry;
use crate::config::Task;
use crate::process::Exit;
use crate::target::{Failed, Retried};
use crate::task::{Settling, TaskError, failed};

/// Runs every recorded entry again, and says what became of it.
pub(super) fn run(arguments: &Retry) -> Exit {
    with_task(&arguments.task, async |task| retry(task).await)
}

async fn retry(task: &Task) -> Result<Exit, TaskError> {
    // Where there is nothing to do, nobody has to be kept out.
    if failed(task).await?.is_empty() {
        say(format_args!("task {}: nothing is recorded", task.name));
        return Ok(Exit::Done);
    }
    let (mut settling, recorded) = Settling::begin(task).await?;
    let mut left = 0;
    for failed in &recorded {
        let retried = settling.retry(failed).await?;
        left += usize::from(retried != Retried::Applied);
        say(line(failed, &retried));
    }
    let name = &task.name;
    let applied = recorded.len() - left;
    if left == 0 {
        say(format_args!("task {name}: {applied} applied, none left"));
        return Ok(Exit::Done);
    }
    say(format_args!("task {name}: {applied} applied, {left} left"));
    Ok(Exit::BadInput)
}

fn line(failed: &Failed, retried: &Retried) -> String {
    let what = match retried {
        Retried::Applied => "applied",
        Retried::Refused(answer) => &format!("refused again: {answer}"),
        Retried::CutShort => "cannot be repeated, since it is too long to be recorded as a whole",
        Retried::Unknown => {
            "not repeated, since an earlier repetition may have taken effect: look at the key, then skip the entry"
        }
    };
    format!("{}  {}: {what}", failed.id, failed.command())
}
