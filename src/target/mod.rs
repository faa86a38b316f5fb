//! The target: connections, pipelines, replies, ownership, error policy.

mod answer;
mod dead_letter;
mod error;
pub mod form;
mod outgoing;
mod settings;
mod writer;

pub use answer::{Refusal, Tolerate};
pub use dead_letter::{DeadLetter, ErrorPolicy};
pub use error::TargetError;
pub use outgoing::{Described, Outgoing, Piece, Place, Word};
pub use settings::{Control, Settings};
pub use writer::{Counters, Kind, Limits, Notice, Writer};
