//! Looking again at who owns what, while the flow goes on.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::lane::Lane;
use super::stamp::{FieldNames, Present};
use super::takeover::{Master, Topology, Votes, life_of};
use crate::net::Endpoint;
use crate::target::control::Control;
use crate::target::error::TargetError;
use crate::target::fence::Fence;
use crate::target::settings::Settings;

const DOING: &str = "looking for slots that have moved";
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

/// What was known until now.
#[derive(Debug)]
pub(super) struct Known {
    /// The masters that had slots, and where they are reached.
    pub masters: Vec<(Endpoint, Present)>,
    pub votes: Votes,
}

/// Looks, after a while. The nodes that were known must have lived on, or left in order: where one was restarted, or
/// another one is in its place, what the flow knows of it is worth nothing.
pub(super) async fn look(
    settings: Settings,
    known: Known,
    (fence, fields): (Option<Fence>, Option<FieldNames>),
    wait: Duration,
) -> Result<Fresh, TargetError> {
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
    for (place, before) in &known.masters {
        if !lives(before, &known, &topology)
            && !has_left(&mut control, place, before, &known, &topology).await?
        {
            return Err(TargetError::Replaced {
                addr: settings.addr(),
            });
        }
    }
    let name = fence.as_ref().map(Fence::connection_name);
    let mut opened = Vec::new();
    for master in &topology.masters {
        let mut masters = known.masters.iter();
        if !masters.any(|(_, before)| before.id == master.now.id) {
            opened.push(Lane::open(&settings, master, name.as_deref(), fields.as_ref()).await?);
        }
    }
    if let Some(fence) = fence {
        // Now that every lane has its name.
        fence.held(&mut control, DOING).await?;
    }
    Ok(Fresh { topology, opened })
}

/// Whether a node is the master that it was, if with other slots. One that is given its first replica takes another
/// replication id, like one that was a replica for a while: that was none if nobody has voted.
fn lives(before: &Present, known: &Known, topology: &Topology) -> bool {
    let masters = topology.masters.iter();
    let mut now = masters
        .map(|master| (&master.now.id, &master.now.server))
        .chain(topology.bare.iter().map(|(id, server)| (id, server)));
    let found = now.find(|(id, _)| **id == before.id);
    found.is_some_and(|(_, server)| {
        *server == before.server
            || server.run_id == before.server.run_id
                && !has_heir(before, topology)
                && topology.votes.none_since(&known.votes)
    })
}

/// Whether another master goes on from a node's dataset.
fn has_heir(before: &Present, topology: &Topology) -> bool {
    let id = &before.server.replication_id;
    let mut others = topology.masters.iter();
    others.any(|master| {
        let now = &master.now;
        now.id != before.id && (now.before == *id || now.server.replication_id == *id)
    })
}

/// Whether a node has given all its slots away by itself, and then become a replica, as masters without slots do: it
/// was not restarted, and no replica can have taken its place meanwhile, since nobody has voted for one.
async fn has_left(
    control: &mut Control,
    place: &Endpoint,
    before: &Present,
    known: &Known,
    topology: &Topology,
) -> Result<bool, TargetError> {
    let owns = |master: &Master| master.now.id == before.id;
    if topology.masters.iter().any(owns) || has_heir(before, topology) {
        return Ok(false);
    }
    let Some(nodes) = control.nodes() else {
        return Ok(false);
    };
    let (server, _) = life_of(nodes, place, DOING).await?;
    let (itself, voted) = nodes.itself(place).await?;
    Ok(itself.id == before.id
        && itself.slots.is_empty()
        && server.run_id == before.server.run_id
        && known.votes.is_of(&before.id, voted)
        && topology.votes.none_since(&known.votes))
}
