//! df2redis keeps a Redis or Valkey server continuously identical to a Dragonfly server.
//!
//! The binary is a thin shell around this library; tests and benches use the same doors.
//! Rooms, from the wire up: [`net`] opens sockets, [`resp`] speaks the client protocol,
//! [`rdb`] reads and writes values, [`entry`] is what a source yields, [`spool`] holds that on disk
//! until the target has it, [`commands`] knows what a journalled command means, [`source`] and
//! [`target`] are the two ends, [`task`] joins them.

pub mod admin;
pub mod cli;
pub mod commands;
pub mod config;
pub mod entry;
pub mod fail_point;
pub mod logging;
pub mod net;
pub mod process;
pub mod rdb;
pub mod resp;
pub mod source;
pub mod spool;
pub mod target;
pub mod task;
