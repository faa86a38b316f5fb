//! Clusters as targets.

#[path = "../support/df2redis.rs"]
mod df2redis;
#[path = "../support/mod.rs"]
mod support;

mod itself;
mod ownership;
mod preflight;
mod server;
