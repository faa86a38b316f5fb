//! What a journalled command means: its keys, its effect, its form for a given target.

mod features;

pub use features::{Features, Flavour, Form};
