//! The target of a comparison: one server, or the nodes of a cluster, each key asked for where it is.
//!
//! A node that does not have a key's slot, or is giving it away, says so instead of answering. Then who has which slot
//! is asked anew and the keys are read again, and at last each by itself: one that is on the move all the time is not
//! seen, and so never equal.
//!
//! Invariant: nothing is written.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::sleep;

use crate::net::Endpoint;
use crate::target::{Control, Owners, Scan, Stored, slot_of, slot_tag};

use super::access::{Access, Reached};
use super::batch::{self, Found, Sizes};
use super::error::CheckError;
use super::pace::Pace;
use super::pieces;
use super::settings::{Mode, Server};

/// How often keys are read again whose slots were elsewhere.
const ATTEMPTS: usize = 20;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) enum Target {
    Server(Box<Access>),
    Cluster(Box<Nodes>),
}

#[derive(Debug)]
pub(super) struct Nodes {
    server: Server,
    control: Control,
    owners: Owners,
    open: HashMap<Endpoint, Access>,
}

impl Target {
    /// Connects; to the nodes of a cluster when they are needed.
    pub async fn open(
        server: &Server,
        positions: Option<(u32, String)>,
    ) -> Result<Self, CheckError> {
        let Some(settings) = &server.cluster else {
            let access = Access::open(server, Pace::new(None), positions).await?;
            return Ok(Self::Server(Box::new(access)));
        };
        let mut control = Control::connect(settings).await?;
        let owners = control.owners().await?;
        Ok(Self::Cluster(Box::new(Nodes {
            server: server.clone(),
            control,
            owners,
            open: HashMap::new(),
        })))
    }

    /// What there is of keys of one database, in their order.
    pub async fn read<K: AsRef<[u8]>>(
        &mut self,
        db: u32,
        keys: &[K],
        mode: Mode,
        sizes: Sizes,
    ) -> Result<Vec<Found>, CheckError> {
        match self {
            Self::Server(access) => batch::read(access, db, keys, mode, sizes).await,
            Self::Cluster(nodes) => nodes.read(db, keys, mode, sizes).await,
        }
    }

    /// What there is of a large key.
    pub async fn pieces(&mut self, db: u32, key: &[u8], mode: Mode) -> Result<Found, CheckError> {
        let nodes = match self {
            Self::Server(access) => return pieces::read(access, db, key, mode).await,
            Self::Cluster(nodes) => nodes,
        };
        for _ in 0..ATTEMPTS {
            let place = nodes.place_of(key);
            let access = nodes.on(&place).await?;
            match pieces::read(access, db, key, mode).await {
                Err(error) if is_elsewhere(&error) => nodes.look_around(&place).await?,
                read => return read,
            }
        }
        Ok(Found::Unsure)
    }

    /// The connection to where a key is.
    pub async fn of(&mut self, key: &[u8]) -> Result<&mut Access, CheckError> {
        match self {
            Self::Server(access) => Ok(access),
            Self::Cluster(nodes) => {
                let place = nodes.place_of(key);
                nodes.on(&place).await
            }
        }
    }

    /// Gives up the connection to where a key is, on which replies are still to come.
    pub fn give_up(&mut self, key: &[u8]) {
        if let Self::Cluster(nodes) = self {
            let place = nodes.place_of(key);
            nodes.open.remove(&place);
        }
    }

    /// Whether a key is in a set that the task keeps of such keys.
    pub async fn lists(
        &mut self,
        db: u32,
        set: &str,
        key: &[u8],
        member: Vec<u8>,
    ) -> Result<bool, CheckError> {
        let set = match self {
            Self::Server(_) => set.to_owned(),
            Self::Cluster(_) => format!("{set}:{{{}}}", slot_tag(slot_of(key))),
        };
        for _ in 0..ATTEMPTS {
            let access = self.of(key).await?;
            match (
                access
                    .members(db, set.as_bytes(), std::slice::from_ref(&member))
                    .await,
                &mut *self,
            ) {
                (Err(error), Self::Cluster(nodes)) if is_elsewhere(&error) => {
                    let place = nodes.place_of(key);
                    nodes.look_around(&place).await?;
                }
                (found, _) => return Ok(found?.contains(&true)),
            }
        }
        Ok(false)
    }

    /// Databases that hold keys, and how many.
    pub async fn keyspace(&mut self) -> Result<Vec<(u32, u64)>, CheckError> {
        let nodes = match self {
            Self::Server(access) => return access.keyspace().await,
            Self::Cluster(nodes) => nodes,
        };
        let mut keys = 0;
        for place in nodes.owners.masters() {
            let of_node = nodes.on(&place).await?.keyspace().await?;
            keys += of_node.iter().map(|(_, keys)| keys).sum::<u64>();
        }
        // An empty one is walked through too: slots may move.
        Ok(vec![(0, keys)])
    }

    /// How far the task has come; none without positions.
    pub async fn stored(&mut self) -> Result<Option<Stored>, CheckError> {
        match self {
            Self::Server(access) => access.stored().await,
            Self::Cluster(_) => Ok(None),
        }
    }

    /// The server, for what is only asked where there are positions.
    pub fn server(&mut self) -> Option<&mut Access> {
        match self {
            Self::Server(access) => Some(access),
            Self::Cluster(_) => None,
        }
    }

    /// See [`Access::guard`].
    pub fn guard(&mut self, reached: Reached) {
        if let Self::Server(access) = self {
            access.guard(reached);
        }
    }

    /// See [`Access::release`].
    pub fn release(&mut self) -> bool {
        self.server().is_some_and(Access::release)
    }

    /// See [`Access::is_reconciling`].
    pub fn is_reconciling(&mut self) -> bool {
        self.server().is_some_and(|access| access.is_reconciling())
    }

    /// Ends the connections in order.
    pub async fn close(self) {
        match self {
            Self::Server(access) => access.link.close().await,
            Self::Cluster(nodes) => {
                for access in nodes.open.into_values() {
                    access.link.close().await;
                }
            }
        }
    }
}

impl Nodes {
    fn place_of(&self, key: &[u8]) -> Endpoint {
        let owner = self.owners.of_key(key);
        owner.unwrap_or(&self.server.endpoint).clone()
    }

    async fn on(&mut self, place: &Endpoint) -> Result<&mut Access, CheckError> {
        if !self.open.contains_key(place) {
            let server = Server {
                endpoint: place.clone(),
                ..self.server.clone()
            };
            let access = Access::open(&server, Pace::new(None), None).await?;
            self.open.insert(place.clone(), access);
        }
        let gone = || CheckError::Internal(format!("no connection to {place}"));
        self.open.get_mut(place).ok_or_else(gone)
    }

    /// After a node has said that another one has the slot: replies to the rest of the row are still to come, so the
    /// connection is given up.
    async fn look_around(&mut self, place: &Endpoint) -> Result<(), CheckError> {
        self.open.remove(place);
        sleep(PAUSE).await;
        self.owners = self.control.owners().await?;
        Ok(())
    }

    async fn read<K: AsRef<[u8]>>(
        &mut self,
        db: u32,
        keys: &[K],
        mode: Mode,
        sizes: Sizes,
    ) -> Result<Vec<Found>, CheckError> {
        let mut found: Vec<Found> = vec![Found::Unsure; keys.len()];
        let mut left: Vec<usize> = (0..keys.len()).collect();
        for attempt in 0..ATTEMPTS {
            // Those that are on the move would hold up all others of their node.
            let together = attempt < 2;
            let mut groups: Vec<(Endpoint, Vec<usize>)> = Vec::new();
            for at in left.drain(..) {
                let place = self.place_of(keys.get(at).map_or(b"", AsRef::as_ref));
                match groups.iter_mut().find(|(of, _)| together && *of == place) {
                    Some((_, group)) => group.push(at),
                    None => groups.push((place, vec![at])),
                }
            }
            for (place, group) in groups {
                let names: Vec<&[u8]> = group
                    .iter()
                    .filter_map(|at| keys.get(*at).map(AsRef::as_ref))
                    .collect();
                let access = self.on(&place).await?;
                match batch::read(access, db, &names, mode, sizes).await {
                    Ok(read) => {
                        for (at, read) in group.into_iter().zip(read) {
                            if let Some(found) = found.get_mut(at) {
                                *found = read;
                            }
                        }
                    }
                    Err(error) if is_elsewhere(&error) => {
                        left.extend(group);
                        self.open.remove(&place);
                    }
                    Err(error) => return Err(error),
                }
            }
            if left.is_empty() {
                break;
            }
            sleep(PAUSE).await;
            self.owners = self.control.owners().await?;
        }
        Ok(found)
    }
}

/// Whether a node says that it is another one's turn, or nobody's just now.
pub(super) fn is_elsewhere(error: &CheckError) -> bool {
    let CheckError::Answer { answer, .. } = error else {
        return false;
    };
    let code = answer.split(' ').next().unwrap_or_default();
    matches!(code, "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
}

/// Keys of the target, some at a time.
pub(super) struct Keys {
    control: Control,
    scan: Scan<'static>,
}

impl Keys {
    /// All keys of a cluster.
    pub async fn of_cluster(server: &Server) -> Result<Option<Self>, CheckError> {
        let Some(settings) = &server.cluster else {
            return Ok(None);
        };
        let control = Control::connect(settings).await?;
        let scan = Scan::of(0, None);
        Ok(Some(Self { control, scan }))
    }

    /// The next ones; none at the end. A key may come several times.
    pub async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, CheckError> {
        Ok(self.scan.next(&mut self.control).await?)
    }
}
