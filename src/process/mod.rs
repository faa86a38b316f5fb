//! Being a Unix process: signals, locks, exit codes. Knows nothing of tasks but the names of their locks.

mod core_dump;
mod exit;
mod lock;
mod signals;

pub use core_dump::forbid_core_dumps;
pub use exit::Exit;
pub use lock::{LockError, TaskLock};
pub use signals::{Stop, StopSignals, ignore_fatal_signals};
