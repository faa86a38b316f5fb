//! `df2redis forget`.

use super::alone::{say, with_task};
use super::arguments::Forget;
use crate::config::Task;
use crate::process::Exit;
use crate::task::{TaskError, forget, records};

/// Removes the task's own keys from the target, or lists them.
pub(super) fn run(arguments: &Forget) -> Exit {
    with_task(&arguments.task, async |task| {
        remove(task, arguments.yes).await
    })
}

async fn remove(task: &Task, yes: bool) -> Result<Exit, TaskError> {
    let (name, address) = (&task.name, &task.target.address);
    let found = match yes {
        true => forget(task).await?,
        false => records(task).await?,
    };
    if found.is_empty() {
        say(format_args!(
            "task {name}: the target {address} has nothing of it"
        ));
        return Ok(Exit::Done);
    }
    let done = if yes { "removed" } else { "would remove" };
    for key in &found {
        say(format_args!(
            "{done} {} in database {}, entries: {}",
            key.key, key.db, key.count
        ));
    }
    say(match yes {
        true => format!(
            "task {name}: forgotten on the target {address}; what was copied is still there, and the next start is a \
             full sync"
        ),
        false => {
            format!("task {name}: nothing was removed from the target {address}; --yes removes it")
        }
    });
    Ok(Exit::Done)
}
