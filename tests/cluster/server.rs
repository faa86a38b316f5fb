//! How the library is told of a cluster, and a task that writes to one.

use std::collections::HashMap;
use std::time::Duration;

use df2redis::net::Endpoint;
use df2redis::target::{Conflict, Control, Owned, Ownership, Seeds, Settings, TargetError, Wanted};

use crate::support::Cluster;

/// All nodes are seeds, so that one of them lives.
pub fn settings(cluster: &Cluster, task: &str) -> Settings {
    let endpoints: Vec<Endpoint> = cluster
        .addresses()
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    Settings {
        endpoint: endpoints[0].clone(),
        cluster: Some(Seeds {
            endpoints,
            address_map: HashMap::new(),
        }),
        tls: None,
        username: None,
        password: None,
        connect_timeout: Duration::from_secs(10),
        position_db: 0,
        task: task.to_owned(),
    }
}

/// Keys of this beginning.
pub fn wanted(prefix: &'static str, conflict: Conflict) -> Wanted {
    Wanted {
        owned: Owned {
            databases: vec![0],
            include: vec![format!("{prefix}*").into_bytes()],
            exclude: Vec::new(),
            matches: Box::new(move |key| key.starts_with(prefix.as_bytes())),
        },
        exclusive: false,
        conflict,
        source: "abc".to_owned(),
        mapping: String::new(),
    }
}

pub async fn establish(
    cluster: &Cluster,
    task: &str,
    wanted: Wanted,
) -> Result<(Control, Ownership), TargetError> {
    let settings = settings(cluster, task);
    let mut control = Control::connect(&settings).await?;
    let ownership = Ownership::establish(&mut control, &settings, wanted, 1).await?;
    Ok((control, ownership))
}
