//! Every way to run it, with the real thing: sshd, tmux, screen, supervisor, logrotate, namespaces, signals.
//!
//! Each test proves that replication goes on (a write made afterwards arrives), not only that the process lives.

#[path = "support/df2redis.rs"]
mod df2redis;
#[path = "support/mod.rs"]
mod support;

#[path = "service/place.rs"]
mod place;
#[path = "service/sshd.rs"]
mod sshd;

#[path = "service/daemon.rs"]
mod daemon;
#[path = "service/logs.rs"]
mod logs;
#[path = "service/managers.rs"]
mod managers;
#[path = "service/sessions.rs"]
mod sessions;
