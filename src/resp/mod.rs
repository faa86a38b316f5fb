//! RESP: encode commands into a buffer, scan replies without building values.

mod encode;
mod scan;

pub use encode::{bulk, bulk_end, bulk_start, command_start};
pub use scan::{ElementError, Garbage, OK, QUEUED, Reply, Scanner, usual, usual_transaction};
