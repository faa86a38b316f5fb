//! A real Redis Cluster, or Valkey cluster, as a value: one process for each node, gone when dropped.
//!
//! ```text
//!  start ──► nodes 0 … m-1 are masters of equal parts of the slots, m … are replicas: node m + i follows node i mod m
//!  move_slots (keys one by one, or atomically)   begin_move ──► half moved ──► finish_move
//!  promote · kill · restart · restart_elsewhere · announce · add_master
//! ```
//!
//! Invariants: nodes listen on 127.0.0.1 and free ports; what a method has begun is over when it returns, except where
//!   it says otherwise; nothing of the cluster's own client programs is needed.
//! Facts: Redis Cluster specification; CLUSTER MIGRATESLOTS is of Valkey 9. A master that starts answers CLUSTERDOWN
//!   for its first 2 s, so a cluster takes about 3 s to come up.

mod moves;

pub use moves::Move;

use super::client::{Client, Reply};
use super::compare::{Database, differences_of, read_database};
use super::eventually;
use super::redis_server::{RedisServer, free_port};
use super::target::Target;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Slots of every cluster.
pub const SLOTS: u16 = 16384;
/// Redirects that one command may meet.
const REDIRECTS: usize = 64;

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Masters with equal parts of the slots.
    pub masters: usize,
    /// Replicas of each.
    pub replicas: usize,
    /// `cluster-node-timeout`: a node that is silent for so long is taken for dead.
    pub node_timeout_ms: u32,
    /// Further arguments of each node.
    pub args: &'a [&'a str],
}

impl Shape<'_> {
    /// Three masters alone: quick to start.
    pub const MASTERS: Self = Self {
        masters: 3,
        replicas: 0,
        // Busy machines hold up nodes for a second or two, which is no death.
        node_timeout_ms: 5000,
        args: &[],
    };
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self {
            replicas: 1,
            ..Self::MASTERS
        }
    }
}

struct Node {
    server: RedisServer,
    id: String,
    dead: bool,
}

/// A running cluster. Dropping it kills its nodes.
pub struct Cluster {
    target: Target,
    args: Vec<String>,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Three masters and a replica of each, without persistence.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(target: Target) -> Self {
        Self::start_shaped(target, Shape::default())
    }

    /// The same in another shape.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start_shaped(target: Target, shape: Shape<'_>) -> Self {
        let mut args = vec![
            "--cluster-enabled".to_owned(),
            "yes".to_owned(),
            "--cluster-node-timeout".to_owned(),
            shape.node_timeout_ms.to_string(),
            // Replicas load what the master sends at once.
            "--repl-diskless-sync-delay".to_owned(),
            "0".to_owned(),
        ];
        args.extend(shape.args.iter().map(|arg| (*arg).to_owned()));
        let mut cluster = Self {
            target,
            args,
            nodes: Vec::new(),
        };
        for _ in 0..shape.masters * (1 + shape.replicas) {
            cluster.start_node();
        }
        let share = |master: usize| master * usize::from(SLOTS) / shape.masters;
        for master in 0..shape.masters {
            let (first, last) = (share(master), share(master + 1) - 1);
            cluster.node(master).client().ok(&[
                "CLUSTER",
                "ADDSLOTSRANGE",
                &first.to_string(),
                &last.to_string(),
            ]);
        }
        cluster.introduce_all();
        for replica in shape.masters..cluster.nodes.len() {
            let master = cluster.id(replica % shape.masters).to_owned();
            cluster
                .node(replica)
                .client()
                .ok(&["CLUSTER", "REPLICATE", &master]);
        }
        cluster.wait_agreed();
        for replica in shape.masters..cluster.nodes.len() {
            cluster.wait_replica_follows(replica);
        }
        cluster
    }

    /// How many nodes were started, the dead ones too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Always false: a cluster has nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node, by the order in which they were started.
    #[must_use]
    pub fn node(&self, node: usize) -> &RedisServer {
        &self.nodes[node].server
    }

    /// A node's name in the cluster, 40 hexadecimal digits.
    #[must_use]
    pub fn id(&self, node: usize) -> &str {
        &self.nodes[node].id
    }

    /// `127.0.0.1:<port>` of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let nodes = self.nodes.iter();
        nodes.map(|node| node.server.address()).collect()
    }

    /// The node that owns a slot, as a living node sees it.
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    #[track_caller]
    pub fn owner_of(&self, slot: u16) -> usize {
        let owners = self.owners();
        let found = owners.iter().find(|(slots, _)| slots.contains(&slot));
        found.unwrap_or_else(|| panic!("nobody owns slot {slot}")).1
    }

    /// The living masters that own slots, in the order in which they were started.
    #[must_use]
    #[track_caller]
    pub fn masters(&self) -> Vec<usize> {
        let mut masters: Vec<_> = self.owners().into_iter().map(|(_, node)| node).collect();
        masters.sort_unstable();
        masters.dedup();
        masters
    }

    /// The living replicas of a node.
    #[must_use]
    #[track_caller]
    pub fn replicas_of(&self, master: usize) -> Vec<usize> {
        let of = |node: &usize| self.role(*node).1 == Some(master);
        self.living().into_iter().filter(of).collect()
    }

    /// The slots that a node owns, as ranges.
    #[must_use]
    #[track_caller]
    pub fn slots_of(&self, node: usize) -> Vec<RangeInclusive<u16>> {
        let owned = self
            .owners()
            .into_iter()
            .filter(|(_, owner)| *owner == node);
        owned.map(|(slots, _)| slots).collect()
    }

    /// Runs a command whose first word behind its name is a key, wherever the key is. An error reply is a reply.
    ///
    /// # Panics
    /// When a node cannot be reached, or there is no end of redirects.
    #[track_caller]
    pub fn cmd<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        let slot = slot_of(args[1].as_ref());
        let mut client = self.node(self.owner_of(slot)).client();
        for _ in 0..REDIRECTS {
            let reply = client.cmd(args);
            let Reply::Error(text) = &reply else {
                return reply;
            };
            let words: Vec<&str> = text.split(' ').collect();
            let port = |address: &str| {
                let (_, port) = address.rsplit_once(':').expect("an address in a redirect");
                port.parse().expect("a port in a redirect")
            };
            match words[..] {
                ["MOVED", _, to] => client = Client::connect(port(to)),
                ["ASK", _, to] => {
                    client = Client::connect(port(to));
                    client.ok(&["ASKING"]);
                }
                _ => return reply,
            }
        }
        panic!("no end of redirects for slot {slot}");
    }

    /// As [`Cluster::cmd`], and an error reply panics too.
    ///
    /// # Panics
    /// On an error reply.
    #[track_caller]
    pub fn ok<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        let reply = self.cmd(args);
        assert!(!reply.is_error(), "{reply:?}");
        reply
    }

    /// The keys of all masters, by what their names begin with.
    #[must_use]
    #[track_caller]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let of = |node: usize| {
            let found = self
                .node(node)
                .client()
                .ok(&["KEYS", &format!("{prefix}*")]);
            found.items().iter().map(Reply::text).collect::<Vec<_>>()
        };
        let mut keys: Vec<_> = self.masters().into_iter().flat_map(of).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// What the masters hold together, but for df2redis' own keys.
    #[must_use]
    #[track_caller]
    pub fn contents(&self) -> Database {
        let of = |node: usize| read_database(&mut self.node(node).client(), 0);
        self.masters().into_iter().flat_map(of).collect()
    }

    /// What differs between all masters together and database 0 of a server, which is on the left.
    #[must_use]
    #[track_caller]
    pub fn differences_from(&self, port: u16) -> Vec<String> {
        let left = read_database(&mut Client::connect(port), 0);
        differences_of(0, &left, &self.contents())
    }

    /// Makes a replica the master. If its master lives, they agree on it and no write is lost.
    ///
    /// # Panics
    /// When it does not become one.
    #[track_caller]
    pub fn promote(&self, replica: usize) {
        let (_, master) = self.role(replica);
        let master_lives = master.is_some_and(|master| !self.nodes[master].dead);
        let force: &[&str] = if master_lives { &[] } else { &["FORCE"] };
        let words = [&["CLUSTER", "FAILOVER"], force].concat();
        let is_master = || self.role(replica).0 == "master";
        eventually("the replica is the master", || {
            // Asked again where the others were not ready to vote; it may have happened by itself.
            is_master() || {
                let _ = self.node(replica).client().cmd(&words);
                super::within(std::time::Duration::from_secs(3), is_master)
            }
        });
        self.wait_agreed();
    }

    /// Kills a node as `kill -9` does. It counts as dead until it is started again.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].dead = true;
        self.nodes[node].server.kill();
    }

    /// Starts a node again, empty unless its arguments made it persist, and returns at once: what the cluster makes of
    /// it is for [`Cluster::wait_agreed`].
    #[track_caller]
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].server.restart();
        self.nodes[node].dead = false;
    }

    /// Starts a node again on another port, and returns at once.
    #[track_caller]
    pub fn restart_elsewhere(&mut self, node: usize) {
        self.nodes[node].server.restart_elsewhere();
        self.nodes[node].dead = false;
    }

    /// Has a node say that clients reach it at this port of 127.0.0.1, such as a [`Proxy`](super::Proxy)'s.
    #[track_caller]
    pub fn announce(&self, node: usize, port: u16) {
        let mut client = self.node(node).client();
        client.ok(&["CONFIG", "SET", "cluster-announce-port", &port.to_string()]);
        let said = |other: usize| {
            let nodes = self.node(other).client().ok(&["CLUSTER", "NODES"]).text();
            let address = format!("127.0.0.1:{port}@");
            nodes
                .lines()
                .any(|line| line.starts_with(self.id(node)) && line.contains(&address))
        };
        eventually("all nodes know the announced port", || {
            self.living().into_iter().all(said)
        });
    }

    /// A further master without slots; its number.
    #[track_caller]
    pub fn add_master(&mut self) -> usize {
        let node = self.start_node();
        self.introduce(node, 0);
        self.wait_agreed();
        // One without slots is not in that, and the others hear of it one after the other.
        eventually("all nodes know the new one", || {
            self.living().into_iter().all(|other| {
                let known = self.node(other).client().ok(&["CLUSTER", "NODES"]).text();
                let mut lines = known.lines();
                lines.any(|line| line.starts_with(self.id(node)) && !line.contains("handshake"))
            })
        });
        node
    }

    /// Makes every other node forget one that owns no slots, and kills it.
    #[track_caller]
    pub fn remove(&mut self, node: usize) {
        assert_eq!(self.slots_of(node), [], "slots have to be moved first");
        self.kill(node);
        for other in self.living() {
            self.node(other)
                .client()
                .ok(&["CLUSTER", "FORGET", self.id(node)]);
        }
    }

    /// Waits until every living node says that the cluster works, and all see the same owners of all slots.
    ///
    /// # Panics
    /// When they do not agree.
    #[track_caller]
    pub fn wait_agreed(&self) {
        eventually("the nodes agree on who owns which slots", || {
            let views: Vec<_> = self
                .living()
                .into_iter()
                .map(|node| self.view(node))
                .collect();
            views.windows(2).all(|pair| pair[0] == pair[1])
                && views.iter().all(|view| view.is_some())
        });
    }

    /// Waits until a replica has its master's dataset and follows it.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_replica_follows(&self, replica: usize) {
        eventually("the replica follows its master", || {
            let info = self
                .node(replica)
                .client()
                .ok(&["INFO", "replication"])
                .text();
            info.contains("master_link_status:up")
        });
    }

    fn start_node(&mut self) -> usize {
        let args = || {
            // The usual one, 10000 above the port, need not be a port at all.
            let bus = ["--cluster-port".to_owned(), free_port().to_string()];
            [&self.args[..], &bus].concat()
        };
        let server = RedisServer::start_attempts(&self.target.program(), args);
        let id = server.client().ok(&["CLUSTER", "MYID"]).text();
        // Two that begin with the same one would have to settle first who is right.
        let epoch = (self.nodes.len() + 1).to_string();
        server.client().ok(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
        let dead = false;
        self.nodes.push(Node { server, id, dead });
        self.nodes.len() - 1
    }

    fn introduce(&self, node: usize, to: usize) {
        let other = self.node(to);
        let bus = other.client().ok(&["CONFIG", "GET", "cluster-port"]);
        let words = [
            "CLUSTER",
            "MEET",
            "127.0.0.1",
            &other.port().to_string(),
            &bus.items()[1].text(),
        ];
        self.node(node).client().ok(&words);
    }

    /// Everybody to everybody: what one tells another about a third takes seconds.
    fn introduce_all(&self) {
        for node in 1..self.nodes.len() {
            (0..node).for_each(|other| self.introduce(node, other));
        }
        let knows = |node: &Node| {
            let seen = node.server.client().ok(&["CLUSTER", "NODES"]).text();
            self.nodes.iter().all(|other| {
                let line = seen.lines().find(|line| line.starts_with(&other.id));
                line.is_some_and(|line| !line.contains("handshake"))
            })
        };
        eventually("all nodes know each other", || self.nodes.iter().all(knows));
    }

    fn living(&self) -> Vec<usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter_map(|(at, node)| (!node.dead).then_some(at))
            .collect()
    }

    /// `master` or `slave`, and whose.
    fn role(&self, node: usize) -> (String, Option<usize>) {
        let role = self.node(node).client().ok(&["ROLE"]);
        let items = role.items();
        let port = items.get(2).and_then(Reply::int).unwrap_or(-1);
        let kind = items[0].text();
        let is = |other: &usize| kind == "slave" && i64::from(self.node(*other).port()) == port;
        let master = (0..self.nodes.len()).find(is);
        (kind, master)
    }

    /// Which node owns which slots; of the first living node that sees a master for all of them.
    #[track_caller]
    fn owners(&self) -> Vec<(RangeInclusive<u16>, usize)> {
        let living = self.living();
        let seen = living.iter().find_map(|node| self.view(*node));
        let seen = seen.or_else(|| self.sees(*living.first()?));
        let by_id: BTreeMap<&str, usize> = (self.nodes.iter().enumerate())
            .map(|(at, node)| (node.id.as_str(), at))
            .collect();
        let seen = seen.expect("a living node").into_iter();
        seen.map(|(first, last, id)| (first..=last, by_id[id.as_str()]))
            .collect()
    }

    /// What a node sees, if it says that the cluster works.
    fn view(&self, node: usize) -> Option<Vec<(u16, u16, String)>> {
        let info = self.node(node).client().ok(&["CLUSTER", "INFO"]).text();
        let works = info.contains("cluster_state:ok")
            && info.contains(&format!("cluster_slots_ok:{SLOTS}"));
        works.then(|| self.sees(node)).flatten()
    }

    fn sees(&self, node: usize) -> Option<Vec<(u16, u16, String)>> {
        let slots = self.node(node).client().ok(&["CLUSTER", "SLOTS"]);
        let row = |row: &Reply| {
            let [first, last, master, ..] = row.items() else {
                return None;
            };
            let number = |reply: &Reply| reply.int()?.try_into().ok();
            Some((number(first)?, number(last)?, master.items()[2].text()))
        };
        let mut seen: Vec<_> = slots.items().iter().map(row).collect::<Option<_>>()?;
        seen.sort();
        Some(seen)
    }
}

/// The slot of a key: CRC16 of the part between the first `{` and the next `}`, if there is any, else of all of it.
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = key.split(|byte| *byte == b'{').nth(1).and_then(|_| {
        let open = key.iter().position(|byte| *byte == b'{')?;
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        Some(&rest[..close]).filter(|tag| !tag.is_empty())
    });
    let crc = tag.unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    });
    crc % SLOTS
}
