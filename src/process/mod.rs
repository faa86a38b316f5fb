//! Being a Unix process: signals, locks, exit codes. Knows nothing of tasks but the names of their locks.

mod exit;
mod lock;
mod signals;

pub use exit::Exit;
pub use lock::{LockError, TaskLock};
pub use signals::{Stop, StopSignals, ignore_fatal_signals};
