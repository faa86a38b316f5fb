//! `df2redis forget`.

use super::alone::{say, with_task};
use super::arguments::Forget;
use crate::config::Task;
use crate::process::Exit;
use crate::task::{TaskError, forget, forget_locally, local_state, records};

/// Removes the task's own keys from the target and its spool from this host, or lists them.
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
    // Only then: without its positions the spool is of no use, with them it may save a full sync.
    let (spooled, full_sync) = match yes {
        true => forget_locally(task)?,
        false => local_state(task)?,
    };
    let done = if yes { "removed" } else { "would remove" };
    let place = task.state_dir.display();
    if spooled > 0 {
        say(format_args!(
            "{done} its spool in {place}, bytes: {spooled}"
        ));
    }
    if full_sync {
        say(format_args!(
            "{done} what is remembered of its last full sync in {place}"
        ));
    }
    if found.is_empty() {
        say(format_args!(
            "task {name}: the target {address} has nothing of it"
        ));
        return Ok(Exit::Done);
    }
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
