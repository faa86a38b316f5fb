//! The two kinds of source.
pub mod dragonfly;
