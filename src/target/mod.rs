//! The target: connections, pipelines, replies, ownership, error policy.

mod outgoing;

pub use outgoing::{Described, Outgoing, Piece, Place, Word};
