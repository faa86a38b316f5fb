//! Asking a running process: the control socket, what is said over it, and the client of `status`, `wait` and `log-level`.
//!
//! What holds always:
//! - Only root and the process's own user are answered, and only their processes are believed.
//! - Whatever a client sends, or does not read, costs a bounded amount of memory and time, and replication nothing.

mod address;
mod client;
mod protocol;
mod serve;
mod socket;

pub use client::{AskError, Control, Deadline};
pub use protocol::{LONGEST_REPAIR, MOST_REPAIRED, TaskReport};
pub use socket::{ControlError, ControlSocket};

use crate::logging::Levels;
use crate::task::Reporter;

/// What can be asked about and done to one task.
#[derive(Debug, Clone)]
pub struct Managed {
    /// Where the task tells of itself.
    pub reporter: Reporter,
    /// What it logs.
    pub levels: Levels,
}
