//! Nothing is lost or repeated, whatever dies: the real program between a simulated Dragonfly and a real Redis, or a
//! cluster of them, killed at every fail point, at random, and with everything around it that can go away.
//!
//! Every test ends with an equal copy, and says which way each start has taken: a full sync ends equal too, and would
//! prove nothing. `make torture` runs the same tests for longer; what they do then is set by environment variables
//! (see `scale`).

#[path = "../support/df2redis.rs"]
mod df2redis;
#[path = "../support/mod.rs"]
mod support;

mod absent;
mod answers;
mod case;
mod cluster;
mod matrix;
mod names;
mod network;
mod outage;
mod pair;
mod process;
mod random;
mod scale;
mod sink;
mod sources;
mod stale;
mod targets;
mod workload;
mod writers;
