//! The simulated Dragonfly itself: its bytes equal recorded ones, its manners equal a real master's.

#[path = "support/mod.rs"]
mod support;
