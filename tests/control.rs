//! Asking a running process: the control socket, and the commands that use it, between a simulated Dragonfly and a
//! real Redis.

#[path = "support/df2redis.rs"]
mod df2redis;
#[path = "support/mod.rs"]
mod support;

#[path = "control/clients.rs"]
mod clients;
#[path = "control/log_level.rs"]
mod log_level;
#[path = "control/said.rs"]
mod said;
#[path = "control/spool.rs"]
mod spool;
#[path = "control/status.rs"]
mod status;
#[path = "control/stop.rs"]
mod stop;
#[path = "control/wait.rs"]
mod wait;
#[path = "control/watch.rs"]
mod watch;
