//! RDB object encodings, both ways, and the DUMP payload. Knows neither sockets nor tasks.

mod cursor;
mod walk;

pub use cursor::{Cursor, Halt};
pub use walk::{STRING_LIMIT, UnknownType, Walked, Walker};
