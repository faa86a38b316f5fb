//! Clusters as targets.

#[path = "../support/mod.rs"]
mod support;

mod itself;
