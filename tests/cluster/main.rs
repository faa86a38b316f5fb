//! Clusters as targets.

#[path = "../support/df2redis.rs"]
mod df2redis;
#[path = "../support/mod.rs"]
mod support;

mod itself;
mod lanes;
mod ownership;
mod preflight;
mod server;
