//! The simulated Dragonfly itself: its bytes equal recorded ones, its manners equal a real master's.

#[path = "support/mod.rs"]
mod support;

#[path = "simulated/bytes.rs"]
mod bytes;
#[path = "simulated/clients.rs"]
mod clients;
#[path = "simulated/manners.rs"]
mod manners;
#[path = "simulated/recordings.rs"]
mod recordings;
#[path = "simulated/streams.rs"]
mod streams;
