//! A Redis Cluster as the target.
//!
//! Of the answers that send elsewhere, MOVED is followed when all nodes say the same, and what is TRYAGAIN is tried again
//! then. ASK is followed by control connections, never by flows: the slot's entries wait. What was written to the
//! importing side would be lost from sight if the move was called off, behind a stamp that says it is there. And it would
//! not go far: a transaction holds the slot's position and a key, and where one of them is here and the other there, both
//! sides refuse it. A slot's move takes milliseconds where nobody stops it half-way, and `status` names those of others.
//!
//! Facts: Redis Cluster specification; the answers to CLUSTER SLOTS and CLUSTER NODES of Redis 6.2 to 8 and Valkey 8 to
//!   9. A slot that is moved key by key is `migrating` on one node and `importing` on the other until all keys have
//!   moved; one that Valkey 9 moves at once changes its owner without any of that.

mod by_slot;
mod flight;
mod flow;
mod lane;
mod moves;
mod nodes;
mod overflow;
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
