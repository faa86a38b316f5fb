//! Nothing is lost or repeated, whatever dies: the real program between a simulated Dragonfly and a real Redis, or a
//! cluster of them, killed at every fail point, at random, and with everything around it that can go away.
//!
//! Every test ends with an equal copy, and says which way each start has taken: a full sync ends equal too, and would
//! prove nothing. `make torture` runs the same tests for longer; what they do then is set by environment variables
//! (see `scale`). Fail points are there in debug builds only, and so are the tests that use them; the long outage is built
//! as a release is, which writes as fast as it is told.

#![cfg_attr(not(debug_assertions), allow(dead_code, unused_imports))]

#[path = "../support/df2redis.rs"]
mod df2redis;
#[path = "../support/mod.rs"]
mod support;

#[cfg(debug_assertions)]
mod absent;
#[cfg(debug_assertions)]
mod answers;
#[cfg(debug_assertions)]
mod case;
#[cfg(debug_assertions)]
mod cluster;
#[cfg(debug_assertions)]
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
