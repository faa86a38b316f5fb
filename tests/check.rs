//! `df2redis check` between real servers, and while a task runs between a simulated Dragonfly and a real Redis.

#[path = "support/df2redis.rs"]
mod df2redis;
#[path = "support/mod.rs"]
mod support;

#[path = "check/asked.rs"]
mod asked;
#[path = "check/large.rs"]
mod large;
#[path = "check/live.rs"]
mod live;
#[path = "check/manners.rs"]
mod manners;
#[path = "check/planted.rs"]
mod planted;
#[path = "check/random.rs"]
mod random;
#[path = "check/repair.rs"]
mod repair;
#[path = "check/scenes.rs"]
mod scenes;
#[path = "check/scope.rs"]
mod scope;
#[path = "check/targets.rs"]
mod targets;
