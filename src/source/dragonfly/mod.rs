//! A Dragonfly master: handshake, flows, snapshot stream, journal stream.
//!
//! Bytes become items in [`StreamDecoder`], which reads no socket; sockets are read in `flow`,
//! which decodes nothing. The order of requests that a master survives is in the types of `session`.

mod blob;
mod chunks;
mod entries;
mod error;
mod fault;
mod flow;
mod handshake;
mod head;
mod journal;
mod layer;
mod monitor;
mod parser;
mod probe;
mod pulse;
mod reading;
mod reply;
mod session;
mod settings;
mod shard;
mod stream;
mod wire;
mod words;

#[cfg(test)]
mod captures;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod scripted;

pub use error::{Link, Phase, Place, SourceError};
pub use flow::{Acknowledger, FailedFlow, Flow, FlowReader, SnapshotEnded};
pub use handshake::{Master, release_number};
pub use monitor::Monitor;
pub use parser::Decoded;
pub use probe::Probe;
pub use pulse::{Heard, Pulse, Silence};
pub use reading::{Found, Payload, Reading};
pub use reply::Reply;
pub use session::{Full, Registered, Resumable, Resuming, Session, Stable, Start, Syncing};
pub use settings::{ReadSettings, Settings};
pub use shard::shard;
pub use stream::StreamDecoder;
pub use wire::all_closed;
