//! How to reach a target.

use std::collections::HashMap;
use std::time::Duration;

use super::error::TargetError;
use crate::net::{self, Endpoint, Secret, Stream, TlsSettings};

/// Everything needed to reach a target.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; of a cluster, the first of its seeds.
    pub endpoint: Endpoint,
    /// How the nodes of a cluster are found; `None` for one server.
    pub cluster: Option<Seeds>,
    /// TLS, if it wants that.
    pub tls: Option<TlsSettings>,
    /// ACL user; none is the default user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// For the connection, TLS and the login together.
    pub connect_timeout: Duration,
    /// Database of the keys `df2redis:*`.
    pub position_db: u32,
    /// The task's name.
    pub task: String,
}

impl Settings {
    pub(super) fn addr(&self) -> String {
        self.endpoint.to_string()
    }

    /// A connection without a login, to the target or a node of it.
    pub(super) async fn stream(&self, endpoint: &Endpoint) -> Result<Stream, TargetError> {
        net::connect(endpoint, self.tls.as_ref(), self.connect_timeout)
            .await
            .map_err(|cause| TargetError::Connect {
                addr: endpoint.to_string(),
                cause: Box::new(cause),
            })
    }
}

/// How the nodes of a cluster are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds {
    /// Nodes that know the others, at least one.
    pub endpoints: Vec<Endpoint>,
    /// The address that a node announces to the one where it is reached, where the two differ.
    pub address_map: HashMap<Endpoint, Endpoint>,
}
