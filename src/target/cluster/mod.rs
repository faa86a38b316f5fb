//! A Redis Cluster as the target.
//!
//! Facts: Redis Cluster specification; the answers to CLUSTER SLOTS and CLUSTER NODES of Redis 6.2 to 8 and Valkey 8 to
//!   9. A slot that is moved key by key is `migrating` on one node and `importing` on the other until all keys have
//!   moved; one that Valkey 9 moves at once changes its owner without any of that.

mod nodes;
mod redirect;
mod slots;
mod sweep;

pub(super) use nodes::Nodes;
pub use slots::Owners;
pub(super) use sweep::Sweep;
