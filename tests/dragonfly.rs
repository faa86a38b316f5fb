//! The program between a simulated Dragonfly and a real Redis, from one end to the other.

#[path = "support/df2redis.rs"]
mod df2redis;
#[path = "support/mod.rs"]
mod support;

#[path = "dragonfly/audit.rs"]
mod audit;
#[path = "dragonfly/audited.rs"]
mod audited;
#[path = "dragonfly/captures.rs"]
mod captures;
#[path = "dragonfly/copy.rs"]
mod copy;
#[path = "dragonfly/defects.rs"]
mod defects;
#[path = "dragonfly/flush.rs"]
mod flush;
#[path = "dragonfly/half_open.rs"]
mod half_open;
#[path = "dragonfly/hosted.rs"]
mod hosted;
#[path = "dragonfly/idle.rs"]
mod idle;
#[path = "dragonfly/large.rs"]
mod large;
#[path = "dragonfly/late.rs"]
mod late;
#[path = "dragonfly/members.rs"]
mod members;
#[path = "dragonfly/modules.rs"]
mod modules;
#[path = "dragonfly/outage.rs"]
mod outage;
#[path = "dragonfly/ownership.rs"]
mod ownership;
#[path = "dragonfly/preflight.rs"]
mod preflight;
#[path = "dragonfly/reread.rs"]
mod reread;
#[path = "dragonfly/resume.rs"]
mod resume;
#[path = "dragonfly/scenarios.rs"]
mod scenarios;
#[path = "dragonfly/settle.rs"]
mod settle;
#[path = "dragonfly/sizing.rs"]
mod sizing;
#[path = "dragonfly/spool.rs"]
mod spool;
#[path = "dragonfly/stop.rs"]
mod stop;
#[path = "dragonfly/successor.rs"]
mod successor;
#[path = "dragonfly/tags.rs"]
mod tags;
#[path = "dragonfly/terminal.rs"]
mod terminal;
#[path = "dragonfly/tls.rs"]
mod tls;
#[path = "dragonfly/unsupported.rs"]
mod unsupported;
