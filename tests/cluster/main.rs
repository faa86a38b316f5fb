//! Clusters as targets.

#[path = "../check/asked.rs"]
mod asked;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../dragonfly/audited.rs"]
mod audited;
#[path = "../support/df2redis.rs"]
mod df2redis;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../crash/scale.rs"]
mod scale;
#[path = "../support/mod.rs"]
mod support;

mod audit;
mod changes;
mod check;
mod commands;
mod flush;
mod half;
mod itself;
mod kills;
mod lanes;
mod ownership;
mod preflight;
mod server;
mod takeover;
