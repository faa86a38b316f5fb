//! Clusters as targets.

#[path = "../check/asked.rs"]
mod asked;
#[path = "../support/df2redis.rs"]
mod df2redis;
#[path = "../support/mod.rs"]
mod support;

mod changes;
mod check;
mod commands;
mod flush;
mod itself;
mod kills;
mod lanes;
mod ownership;
mod preflight;
mod server;
mod takeover;
