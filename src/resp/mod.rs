//! RESP: encode commands into a buffer, scan replies without building values.

mod encode;

pub use encode::{bulk, bulk_end, bulk_start, command_start};
