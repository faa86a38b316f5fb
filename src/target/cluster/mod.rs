//! A Redis Cluster as the target.
//!
//! Facts: Redis Cluster specification; the answers to CLUSTER SLOTS and CLUSTER NODES of Redis 6.2 to 8 and Valkey 8 to
//!   9. A slot that is moved key by key is `migrating` on one node and `importing` on the other until all keys have
//!   moved; one that Valkey 9 moves at once changes its owner without any of that.

mod lane;
mod nodes;
mod parked;
mod redirect;
mod refresh;
mod replies;
mod round;
mod slots;
mod stamp;
mod sweep;
mod takeover;
mod writer;

pub(super) use nodes::Nodes;
pub(super) use redirect::first_key;
pub use slots::Owners;
pub(super) use stamp::{FieldNames, Fields};
pub(super) use sweep::Sweep;
pub(super) use takeover::{Found, Resumed, Topology, connection_name, stamps};
pub(super) use writer::Writer;
