//! Reading keys again from the source, when what the target has of them is not to be trusted: entries that came after
//! the target had let a key expire, keys that a full sync may have missed, keys that the source no longer has, keys
//! of which members expire that the target would let stay, keys about which the source's journal does not tell the truth.
//!
//! A key is withheld from the entry on that is to blame: it and later entries for the key are not applied, and neither
//! is one that combines it with other keys, which are withheld too. The value is then read between two positions, and
//! written by the flow when it is there; see [`list`] for why that is exact.
//!
//! Invariants: what is withheld at a position stands on the target beside it, in the transaction that stores it, so
//!   that whoever resumes withholds it too; nothing before a withheld entry's position is acknowledged as long as the
//!   key is not written.

mod applier;
mod baselines;
mod defects;
mod ends;
mod expiring;
mod flows;
mod late;
mod list;
mod members;
mod reader;
mod writing;

pub(super) use baselines::Baselines;
pub(super) use defects::{Before, Moves, Suspicion};
pub(super) use ends::{Doubts, Ends};
pub(super) use expiring::Expiring;
pub(super) use flows::Flows;
pub(super) use late::{LATE, Late, MARGIN, MOST_BYTES, MOST_ITEMS};
pub(super) use list::{Answer, List, Place};
pub(super) use members::Schedule;
pub(super) use reader::{Ask, read_again};

/// Keys that somebody else does not trust.
#[derive(Debug)]
pub(super) struct Suspects {
    /// All of them the flow's own.
    pub(super) places: Vec<Place>,
    /// A position of the flow, to be reached too; 0 for none.
    pub(super) reach: u64,
    /// Told when the target has what the source has of all of them.
    pub(super) done: tokio::sync::oneshot::Sender<()>,
}

/// Suspects on the way to that.
#[derive(Debug)]
pub(super) struct Settling {
    suspects: Suspects,
    /// The flow's position when all of it had been handed to the writer.
    handed: Option<u64>,
}
