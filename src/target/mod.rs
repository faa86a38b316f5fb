//! The target: connections, pipelines, replies, ownership, error policy.

pub mod form;
mod outgoing;

pub use outgoing::{Described, Outgoing, Piece, Place, Word};
