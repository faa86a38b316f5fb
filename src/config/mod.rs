//! Task files: types, defaults, validation with file, line and key.
//!
//! A file is read twice, in the sense of style: `document` holds it as written, with the place of everything,
//! and `checks` makes a [`Task`] of it or complains. All complaints about all files come at once. Nothing
//! here opens a socket, logs, or prints.

mod address;
mod checks;
mod complaint;
mod document;
mod glob;
mod load;
pub mod schema;
mod servers;
mod task;
mod units;

pub use crate::net::Secret;
pub use address::{Address, AddressError};
pub use checks::{CONSOLES, LEVELS};
pub use complaint::{Complaint, ConfigErrors, Place};
pub use glob::{Glob, GlobError};
pub use load::load;
pub use task::{
    Audit, ClusterNodes, Conflict, Console, Credentials, CrossSlot, Filter, Limits, Log, LogFormat,
    MaxDelete, MemberExpiry, OnFull, OnUnsupported, Policy, Positions, Reaction, Resync, Retry,
    Rotate, Severity, Source, Spool, SpoolSync, Target, Task, TlsFiles,
};

pub(crate) use units::size;

#[cfg(test)]
mod tests;
