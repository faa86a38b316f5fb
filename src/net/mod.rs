//! Sockets: an address, a connection to it, TLS around it, a password for it. Knows no protocol above that.
//!
//! Every attempt resolves names anew. TCP connections have `TCP_NODELAY` and keepalive, since a
//! Dragonfly master sends no heartbeat and a dead peer is found no other way.

mod connect;
mod secret;
mod tls;

pub use connect::{ConnectError, Endpoint, EndpointError, Stream, connect};
pub use secret::Secret;
pub use tls::{TlsError, TlsSettings, Verification};
