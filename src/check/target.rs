//! The target of a comparison: one server, or the nodes of a cluster, each key asked for where it is.
//!
//! A node that does not have a key's slot, or is giving it away, says so instead of answering. Then who has which slot
//! is asked anew and the keys are read again, and at last each by itself: one that is on the move all the time is not
//! seen, and so never equal.
//!
//! Invariant: nothing is written.
//! Facts: the record and the stamps, see `target::cluster`.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::sleep;

use crate::net::Endpoint;
use crate::target::{Control, Owners, RECONCILE, Scan, Stored, slot_of, slot_tag};

use super::access::{self, Access, Reached, stored};
use super::batch::{self, Found, Known, Sizes};
use super::error::CheckError;
use super::pace::Pace;
use super::pieces;
use super::settings::{Lists, Mode, Server};

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
    lists: Option<Lists>,
    guard: Option<(Reached, Stamps)>,
    reconciling: bool,
}

/// How far the task has come on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamps {
    stored: Stored,
    /// The task may still have to remove keys that the source deleted before its full sync.
    reconciling: bool,
    /// Whose they are: one more life of a node, or another owner of slots, shows here.
    of: Vec<String>,
}

impl Target {
    /// Connects; to the nodes of a cluster when they are needed.
    pub async fn open(server: &Server, lists: Option<&Lists>) -> Result<Self, CheckError> {
        let Some(settings) = &server.cluster else {
            let positions = lists.map(|lists| (lists.db, lists.positions.clone()));
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
            lists: lists.cloned(),
            guard: None,
            reconciling: false,
        })))
    }

    /// What there is of keys of one database, in their order.
    pub async fn read<K: AsRef<[u8]>>(
        &mut self,
        db: u32,
        keys: &[K],
        known: Known<'_>,
        mode: Mode,
        sizes: Sizes,
    ) -> Result<Vec<Found>, CheckError> {
        match self {
            Self::Server(access) => batch::read(access, db, keys, known, mode, sizes).await,
            Self::Cluster(nodes) => nodes.read(db, keys, known, mode, sizes).await,
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

    /// Whether one of these stands for a key in a set that the task keeps.
    pub async fn lists(
        &mut self,
        db: u32,
        set: &str,
        key: &[u8],
        members: &[Vec<u8>],
    ) -> Result<bool, CheckError> {
        let set = match self {
            Self::Server(_) => set.to_owned(),
            Self::Cluster(_) => of_slot(set, slot_of(key)),
        };
        for _ in 0..ATTEMPTS {
            let access = self.of(key).await?;
            match (
                access.members(db, set.as_bytes(), members).await,
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
            Self::Cluster(nodes) => {
                let stamps = nodes.stamps().await?;
                Ok(stamps.map(|stamps| stamps.stored))
            }
        }
    }

    /// See [`Access::guard`]. In a cluster no transaction has both a key and the positions: those of all nodes are read
    /// before and after.
    pub async fn guard(&mut self, reached: Reached) -> Result<(), CheckError> {
        match self {
            Self::Server(access) => access.guard(reached),
            Self::Cluster(nodes) => {
                nodes.reconciling = false;
                let stamps = nodes.stamps().await?;
                nodes.guard = stamps.map(|stamps| (reached, stamps));
            }
        }
        Ok(())
    }

    /// See [`Access::release`].
    pub async fn release(&mut self) -> Result<bool, CheckError> {
        let nodes = match self {
            Self::Server(access) => return Ok(access.release()),
            Self::Cluster(nodes) => nodes,
        };
        let (Some((reached, before)), Some(after)) = (nodes.guard.take(), nodes.stamps().await?)
        else {
            return Ok(false);
        };
        nodes.reconciling = before.reconciling || after.reconciling;
        Ok(reached.holds(&before.stored) && reached.holds(&after.stored) && before.of == after.of)
    }

    /// See [`Access::is_reconciling`].
    pub fn is_reconciling(&self) -> bool {
        match self {
            Self::Server(access) => access.is_reconciling(),
            Self::Cluster(nodes) => nodes.reconciling,
        }
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

    /// What all nodes say of how far the task has come: the least of it. None if the task keeps no positions.
    async fn stamps(&mut self) -> Result<Option<Stamps>, CheckError> {
        let Some(lists) = self.lists.clone() else {
            return Ok(None);
        };
        for _ in 0..ATTEMPTS {
            let place = self.place_of(lists.positions.as_bytes());
            match self.stamps_of(&lists).await {
                Err(error) if is_elsewhere(&error) => self.look_around(&place).await?,
                stamps => return stamps.map(Some),
            }
        }
        Ok(Some(Stamps {
            stored: Stored::Damaged {
                what: "its slot is on the move",
            },
            reconciling: false,
            of: Vec::new(),
        }))
    }

    async fn stamps_of(&mut self, lists: &Lists) -> Result<Stamps, CheckError> {
        let place = self.place_of(lists.positions.as_bytes());
        let record = lists.positions.as_bytes();
        let mut fields = self.on(&place).await?.fields(lists.db, record).await?;
        let epoch = fields.get("epoch").cloned().unwrap_or_default();
        let flows: u32 = fields
            .get("flows")
            .and_then(|flows| flows.parse().ok())
            .unwrap_or(0);
        let mut of = Vec::new();
        // Without a stamp of every flow on every node there is no position.
        let mut least: Option<HashMap<u32, u64>> = Some(HashMap::new());
        for (place, first) in self.owners.first_slots() {
            let key = of_slot(&lists.stamps, first);
            let stamp = self
                .on(&place)
                .await?
                .fields(lists.db, key.as_bytes())
                .await?;
            for flow in (0..flows).take(stamp.len()) {
                // There may be that of a node which had the slot before, until it is removed.
                let all = |kind: &str| {
                    let begin = format!("{kind}:{flow}:{epoch}:");
                    let stamp = stamp.iter();
                    let texts = stamp.filter(move |(name, _)| name.starts_with(&begin));
                    texts.map(|(_, text)| text.clone())
                };
                let mut at: Vec<String> = all("at").collect();
                at.sort();
                of.append(&mut at);
                let lsn = all("lsn").map(|lsn| lsn.parse::<u64>().ok()).min();
                let lsn = lsn.flatten();
                least = least.zip(lsn).map(|(mut least, lsn)| {
                    let at = least.entry(flow).or_insert(lsn);
                    *at = lsn.min(*at);
                    least
                });
            }
            if stamp.is_empty() {
                least = None;
            }
        }
        for (flow, lsn) in least.into_iter().flatten() {
            fields.insert(format!("lsn:{flow}"), lsn.to_string());
        }
        Ok(Stamps {
            stored: stored(&fields),
            reconciling: fields.contains_key(RECONCILE),
            of,
        })
    }

    async fn read<K: AsRef<[u8]>>(
        &mut self,
        db: u32,
        keys: &[K],
        known: Known<'_>,
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
                let kinds: Vec<_> = match known {
                    Known::Kinds(kinds) => {
                        let kinds = group.iter().map(|at| kinds.get(*at).cloned());
                        kinds.map(Option::flatten).collect()
                    }
                    Known::Nothing | Known::Strings => Vec::new(),
                };
                let known = match known {
                    Known::Kinds(_) => Known::Kinds(&kinds),
                    known => known,
                };
                let access = self.on(&place).await?;
                match batch::read(access, db, &names, known, mode, sizes).await {
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

/// The name of what a task keeps in a slot.
fn of_slot(name: &str, slot: u16) -> String {
    format!("{name}:{{{}}}", slot_tag(slot))
}

/// Whether a node says that it is another one's turn, or nobody's just now.
pub(super) fn is_elsewhere(error: &CheckError) -> bool {
    matches!(error, CheckError::Answer { answer, .. } if access::is_elsewhere(answer))
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
