//! One task's life: phases, flows joined, retries, shutdown.

use slog::{Logger, error};
use tokio::sync::watch;

use crate::config;
use crate::logging::Terminal;
use crate::process::{Exit, Stop};

/// Why a task ended that was not asked to.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// Nobody can ask the task to stop any more.
    #[error("nobody listens to signals")]
    Orphaned,
}

impl TaskError {
    /// How the process ends for it.
    pub fn exit_code(&self) -> Exit {
        match self {
            Self::Orphaned => Exit::Internal,
        }
    }
}

/// Runs a task until it is stopped or cannot go on.
pub async fn run(
    task: config::Task,
    log: Logger,
    _terminal: Terminal,
    mut stop: watch::Receiver<Stop>,
) -> Result<(), TaskError> {
    error!(log, "this build copies nothing, it only waits for a signal"; "task" => &task.name);
    let asked = stop.wait_for(|stop| *stop >= Stop::Drain).await;
    asked.map(|_| ()).map_err(|_| TaskError::Orphaned)
}
