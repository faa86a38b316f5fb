//! RDB object encodings, both ways, and the DUMP payload. Knows neither sockets nor tasks.

mod cursor;

pub use cursor::{Cursor, Halt};
