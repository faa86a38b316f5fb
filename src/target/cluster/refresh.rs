//! Looking again at who owns what, while the flow goes on.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::lane::Lane;
use super::stamp::{FieldNames, Present};
use super::takeover::Topology;
use crate::target::control::Control;
use crate::target::error::TargetError;
use crate::target::fence::Fence;
use crate::target::settings::Settings;

/// How long a cluster may contradict itself: nodes learn of a move one after the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at one that does.
const PAUSE: Duration = Duration::from_millis(50);

/// What is now.
#[derive(Debug)]
pub(super) struct Fresh {
    pub topology: Topology,
    /// Lanes to nodes that had none.
    pub opened: Vec<Lane>,
}

/// Looks, after a while. The nodes that were known must have lived on: where one was restarted, or another one is in
/// its place, what the flow knows of it is worth nothing.
pub(super) async fn look(
    settings: Settings,
    known: Vec<Present>,
    (fence, fields): (Option<Fence>, Option<FieldNames>),
    wait: Duration,
) -> Result<Fresh, TargetError> {
    const DOING: &str = "looking for slots that have moved";
    sleep(wait).await;
    let until = Instant::now() + PATIENCE;
    let mut control = Control::connect(&settings).await?;
    let topology = loop {
        let Some(nodes) = control.nodes() else {
            return Err(TargetError::NotACluster {
                addr: settings.addr(),
            });
        };
        match Topology::read(nodes).await {
            Err(TargetError::Unready { .. }) if Instant::now() < until => sleep(PAUSE).await,
            read => break read?,
        }
    };
    for before in &known {
        let masters = topology.masters.iter();
        let mut now = masters
            .map(|master| (&master.now.id, &master.now.server))
            .chain(topology.bare.iter().map(|(id, server)| (id, server)));
        let lives = now.any(|(id, server)| *id == before.id && *server == before.server);
        if !lives {
            return Err(TargetError::Replaced {
                addr: settings.addr(),
            });
        }
    }
    let name = fence.as_ref().map(Fence::connection_name);
    let mut opened = Vec::new();
    for master in &topology.masters {
        if !known.iter().any(|before| before.id == master.now.id) {
            opened.push(Lane::open(&settings, master, name.as_deref(), fields.as_ref()).await?);
        }
    }
    if let Some(fence) = fence {
        // Now that every lane has its name.
        fence.held(&mut control, DOING).await?;
    }
    Ok(Fresh { topology, opened })
}
