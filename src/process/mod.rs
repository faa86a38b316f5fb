//! Being a Unix process: signals, detaching, PID file, privileges, readiness, locks, exit codes. Knows nothing of tasks
//! but the names of their locks.

mod core_dump;
mod detach;
mod exit;
mod identity;
mod init;
mod lock;
mod pid_file;
mod readiness;
mod record_lock;
mod service_manager;
mod signals;
mod stop;
#[cfg(test)]
pub(crate) mod testing;

pub use core_dump::forbid_core_dumps;
pub use detach::{Detach, DetachError, Side, detach};
pub use exit::Exit;
pub use identity::{Identity, IdentityError};
pub use init::{Orphans, reap_orphans};
pub use lock::{LockError, TaskHolder, TaskLock, control_of, task_holder};
pub use pid_file::{Holder, PidFile, PidFileError, holder};
pub use readiness::{Caller, Readiness, Verdict};
pub use service_manager::ServiceManager;
pub use signals::{Request, Signals, Stop, ignore_fatal_signals};
pub use stop::{Stopped, stop};
