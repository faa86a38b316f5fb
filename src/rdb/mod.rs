//! RDB object encodings, both ways, and the DUMP payload. Knows neither sockets nor tasks.
//!
//! In the order a value travels: a [`Walker`] finds its end while it arrives; [`payload`] wraps it
//! for RESTORE as it is, [`convert`] first makes it what an older target knows; or [`Elements`]
//! takes it apart, for targets that need commands. [`decode`] makes a whole [`Value`] of it, for
//! comparing; [`encode`] goes the other way.

pub mod convert;
mod cursor;
mod elements;
pub mod encode;
pub mod hash_expiry;
mod intset;
pub mod kind;
mod listpack;
pub mod payload;
mod stream;
mod stream_tail;
pub mod string;
#[cfg(test)]
mod tests;
mod value;
mod walk;
mod ziplist;

pub use cursor::{Cursor, Halt};
pub use elements::{Element, Elements, NoElements};
pub use intset::Intset;
pub use listpack::{Listpack, ListpackWriter, narrowed};
pub use stream::{Entry, Fields, StreamId, StreamInfo};
pub use string::{Item, Text};
pub use value::{Consumer, Group, Stream, StreamRecord, Value, ValueError, decode};
pub use walk::{COUNT_LIMIT, STRING_LIMIT, UnknownType, Walked, Walker};
pub use ziplist::Ziplist;
