//! What the source has sent and the target has not got yet, in order, on disk.
//!
//! ```text
//!               ┌────────────── memory ───────────────┐
//! reader ─▶ Inlet                                     Outlet ─▶ applier
//!               └─▶ queue ─▶ thread ─▶ segments ──▶───┘
//! ```
//!
//! Owns a directory per task: for each flow, segments of records, a record for each batch. On the ladder it stands
//! above `entry` (and `rdb`, for its cursor) and below `task`, beside `source` and `target`: it knows batches and
//! files, nothing of sockets, source, target or tasks.
//!
//! Two kinds of content. **Journal** batches (entries with an LSN) are all written, as they come, and survive a
//! restart; they go through memory as well while there is room for them. **Snapshot** batches (everything before
//! [`Item::Stable`](crate::entry::Item)) are written only when memory is used up, and are removed when they were read.
//!
//! Invariants:
//! - The outlet yields batches in the order in which the inlet took them, each once, whichever way they came.
//! - The segments of a flow have no gap: a batch that does not continue exactly is an error. What is read is what was
//!   written, or an error.
//! - The inlet waits only while the disk does not keep up and memory is used up; it never waits for the outlet.
//! - What the outlet said was applied is kept for a while, for a target that comes back older, and is the first to go
//!   when space is short. What was not applied is never removed.
//! - Memory is bounded by the settings. Everything ends when the [`Spool`] is dropped.
//!
//! Units: bytes; LSNs count journal entries; receipt times are Unix milliseconds by the source's clock.

mod disk;
mod error;
mod flow;
mod identity;
mod inlet;
mod items;
mod opened;
mod outlet;
mod reading;
mod record;
mod recovery;
mod segment;
mod shared;
mod space;
mod syncing;
#[cfg(test)]
mod tests;
mod writing;

pub use disk::{free_bytes, used_bytes};
pub use error::{Full, PushError, ReadError, SpoolError};
pub use identity::Identity;
pub use inlet::{Inlet, OnDisk};
pub use opened::{FlowStatus, Found, Spool, Status};
pub use outlet::Outlet;
pub use record::{decode, encode, with_checksums};
pub use recovery::Recovered;
pub use space::{Durability, Settings};
