//! The target: connections, pipelines, replies, ownership, error policy.
//!
//! A [`Control`] connection asks and decides: [`Profile`] is what the target is, [`Ownership`] what
//! of it is ours, [`Fence`] how far we have come and that nobody else goes on. Each flow then has a [`Writer`] of its own, into which [`Outgoing`] commands go.

mod answer;
mod claim;
mod cluster;
mod control;
mod dead_letter;
mod error;
mod failed;
mod fence;
mod forget;
pub mod form;
mod node;
mod outgoing;
mod ownership;
mod permissions;
mod position;
mod profile;
mod settings;
mod slot;
mod walk;
mod way;
mod writer;

pub use answer::{Refusal, Tolerate};
pub use claim::{Matches, Owned};
pub use cluster::Owners;
pub use control::Control;
pub use dead_letter::{DeadLetter, ErrorPolicy};
pub use error::TargetError;
pub use failed::{Failed, Retried};
pub use fence::{Fence, Passed, ServerId, Taken};
pub use forget::{Found, forget, list, remove_unfinished};
pub use outgoing::{Described, Outgoing, Piece, Place, Word};
pub use ownership::{Conflict, Ownership, Wanted};
pub use permissions::{Lack, Missing, Permissions, Purpose};
pub use position::{
    PREFIX, RECONCILE, Reconcile, Stored, UnknownFormat, Withheld, foreign_key, foreign_member,
    is_stable, position_key, stamp_key, withheld_key,
};
pub use profile::Profile;
pub use settings::{Seeds, Settings};
pub use slot::{slot_of, tag_of as slot_tag};
pub use walk::{Scan, Walk};
pub use way::Writer;
pub use writer::{ANSWERS_MISSING, Counters, Fenced, Kind, Limits, Missed, Notice};
