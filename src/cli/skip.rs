//! `df2redis skip`.

use super::alone::{say, with_task};
use super::arguments::Skip;
use super::complain;
use crate::config::Task;
use crate::process::Exit;
use crate::target::Failed;
use crate::task::{Settling, TaskError, failed};

/// Gives up the entries that are named, or lists all.
pub(super) fn run(arguments: &Skip) -> Exit {
    with_task(&arguments.task, async |task| skip(task, arguments).await)
}

async fn skip(task: &Task, arguments: &Skip) -> Result<Exit, TaskError> {
    let (name, ids) = (&task.name, &arguments.ids);
    let recorded = failed(task).await?;
    let is_missing = |id: &&String| !recorded.iter().any(|failed| failed.id == **id);
    let missing: Vec<_> = ids.iter().filter(is_missing).collect();
    for id in &missing {
        complain(format_args!(
            "task {name}: there is no entry \"{}\", and nothing was given up",
            id.escape_debug()
        ));
    }
    if !missing.is_empty() {
        return Ok(Exit::Usage);
    }
    if recorded.is_empty() {
        say(format_args!("task {name}: nothing is recorded"));
        return Ok(Exit::Done);
    }
    if !arguments.all && ids.is_empty() {
        recorded.iter().for_each(|failed| say(line(failed)));
        let count = recorded.len();
        say(format_args!("task {name}: {count} not settled"));
        return Ok(Exit::Done);
    }
    let (mut settling, recorded) = Settling::begin(task).await?;
    let (given_up, kept): (Vec<_>, Vec<_>) = recorded
        .into_iter()
        .partition(|failed| arguments.all || ids.contains(&failed.id));
    for failed in &given_up {
        settling.skip(failed).await?;
        say(format_args!(
            "{}  {}: given up",
            failed.id,
            failed.command()
        ));
    }
    let (gone, left) = (given_up.len(), kept.len());
    say(format_args!("task {name}: {gone} given up, {left} left"));
    Ok(Exit::Done)
}

fn line(failed: &Failed) -> String {
    let Failed { id, time, .. } = failed;
    let note = match (failed.cut, failed.unknown) {
        (true, _) => "; cannot be repeated, since it is too long to be recorded as a whole",
        (false, true) => "; was repeated, and may have taken effect",
        (false, false) => "",
    };
    format!("{id}  {time}  {failed}{note}")
}
