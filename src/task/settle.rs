//! What an operator decides about a task that does not run: entries that the target refused, and its records there.
//!
//! Invariant: nothing here runs beside the task. On this host its lock sees to that, which the caller holds; a process
//!   elsewhere is kept out by the fence, behind which entries are settled, and stops. Reading takes no fence.

use crate::config::Task;
use crate::entry::unix_ms;
use crate::target::{self, Control, Failed, Fence, Found, Retried};

use super::backlog;
use super::error::TaskError;
use super::settings;
use super::sizing::LastFullSync;

/// The entries that the target refused and nobody has settled, in the order of flows and LSNs. Changes nothing.
pub async fn failed(task: &Task) -> Result<Vec<Failed>, TaskError> {
    let settings = settings::target(task);
    let mut control = Control::connect(&settings).await?;
    Ok(Failed::recorded(&mut control, &settings).await?)
}

/// The task's own keys on the target. Changes nothing.
pub async fn records(task: &Task) -> Result<Vec<Found>, TaskError> {
    let settings = settings::target(task);
    let mut control = Control::connect(&settings).await?;
    Ok(target::list(&mut control, &settings).await?)
}

/// Removes the task's own keys from the target, and says which they were. What was copied stays. After an error some
/// are removed, and it can be repeated.
pub async fn forget(task: &Task) -> Result<Vec<Found>, TaskError> {
    let settings = settings::target(task);
    let mut control = Control::connect(&settings).await?;
    Ok(target::forget(&mut control, &settings).await?)
}

/// Whether a start would go on where the target is. Changes nothing.
pub async fn has_position(task: &Task) -> Result<bool, TaskError> {
    let settings = settings::target(task);
    let mut control = Control::connect(&settings).await?;
    Ok(target::is_stable(&mut control, &settings).await?)
}

/// Discards how far the task has come: its next start copies everything, in place. What was copied stays.
pub async fn discard_position(task: &Task) -> Result<(), TaskError> {
    let settings = settings::target(task);
    let mut control = Control::connect(&settings).await?;
    let taken = Fence::take(&mut control, &settings).await?;
    let fence = taken.fence;
    let recording = fence.begin_snapshot(&mut control, None, true, unix_ms());
    recording.await?;
    Ok(())
}

/// Bytes in the task's spool on this host, and whether there is anything else in its state directory that a start
/// would go by. Changes nothing. Blocks.
pub fn local_state(task: &Task) -> Result<(u64, bool), TaskError> {
    let at = |cause| state_error(task, cause);
    let bytes = crate::spool::used_bytes(&backlog::dir(task)).map_err(at)?;
    Ok((bytes, LastFullSync::path(task).exists()))
}

/// Removes that. The bytes of the spool, and whether there was anything else. Blocks.
pub fn forget_locally(task: &Task) -> Result<(u64, bool), TaskError> {
    let found = crate::spool::Found::at(&backlog::dir(task)).map_err(TaskError::Spool)?;
    let bytes = found.remove().map_err(TaskError::Spool)?;
    let last = LastFullSync::remove(&LastFullSync::path(task));
    Ok((bytes, last.map_err(|cause| state_error(task, cause))?))
}

fn state_error(task: &Task, cause: std::io::Error) -> TaskError {
    TaskError::State {
        dir: task.state_dir.clone(),
        cause,
    }
}

/// The right to settle entries: the task's fence.
pub struct Settling {
    control: Control,
    fence: Fence,
}

impl Settling {
    /// Takes the fence, and reads what there is to settle, in the order of flows and LSNs. A process of the task on
    /// another host stops when it notices.
    pub async fn begin(task: &Task) -> Result<(Self, Vec<Failed>), TaskError> {
        let settings = settings::target(task);
        let mut control = Control::connect(&settings).await?;
        let taken = Fence::take(&mut control, &settings).await?;
        let fence = taken.fence;
        Ok((Self { control, fence }, taken.failed))
    }

    /// Runs the entry again, exactly once; if it is accepted, its record goes.
    pub async fn retry(&mut self, failed: &Failed) -> Result<Retried, TaskError> {
        Ok(failed.retry(&self.fence, &mut self.control).await?)
    }

    /// Gives the entry up: removes its record.
    pub async fn skip(&mut self, failed: &Failed) -> Result<(), TaskError> {
        Ok(failed.skip(&self.fence, &mut self.control).await?)
    }
}
