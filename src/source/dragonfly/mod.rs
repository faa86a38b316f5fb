//! A Dragonfly master: handshake, flows, snapshot stream, journal stream.
//!
//! Bytes become items in [`StreamDecoder`], which reads no socket; sockets are read in `flow`,
//! which decodes nothing. The order of requests that a master survives is in the types of `session`.

mod blob;
mod chunks;
mod entries;
mod error;
mod fault;
mod head;
mod journal;
mod layer;
mod parser;
mod settings;
mod shard;
mod stream;
mod words;

#[cfg(test)]
mod captures;

pub use error::{Link, Phase, Place, SourceError};
pub use parser::Decoded;
pub use settings::ReadSettings;
pub use shard::shard;
pub use stream::StreamDecoder;
