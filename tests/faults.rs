//! What the program does when something is wrong: with its source, its target or its files.
//!
//! Each test starts the real program between a simulated Dragonfly, or something that is none, and a real
//! Redis, or something that is none, and looks at what an operator sees: message, log and exit code, or that
//! it tries again and ends with an equal copy.

#[path = "support/mod.rs"]
mod support;

#[path = "faults/files.rs"]
mod files;
#[path = "faults/handshake.rs"]
mod handshake;
#[path = "faults/impostors.rs"]
mod impostors;
#[path = "faults/program.rs"]
mod program;
#[path = "faults/refusals.rs"]
mod refusals;
#[path = "faults/secrets.rs"]
mod secrets;
#[path = "faults/snapshot.rs"]
mod snapshot;
#[path = "faults/stream.rs"]
mod stream;
#[path = "faults/target.rs"]
mod target;
