//! Taking a cluster over: whoever wrote before is cut off, and then all that stands there is read.
//!
//! The token of the new process is in the fence by now. Every connection with which a process writes, those of flows and
//! the control connections to single nodes, names itself and then reads the fence, before it writes anything. One that
//! read the old token has its name when the list is read, which comes after the new token, so it is ended here; one that
//! reads later sees the new token and stops. What such a connection had on its way is gone with it: so nothing of an
//! earlier process takes effect behind what is read here.
//!
//! Nodes that own nothing are asked too: one that was a master may become one again, with what is on its way to it. One
//! that cannot be reached just now is passed over. Should it come back as a master, a connection of a process that is
//! long gone may still lead there; this is the one thing that nobody sees.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use redis::cmd;

use super::nodes::{Nodes, Told};
use super::stamp::{FieldNames, Fields, Present, Stamp, judge, nodes_of};
use crate::fail_point;
use crate::net::Endpoint;
use crate::target::error::TargetError;
use crate::target::fence::ServerId;
use crate::target::position::{self, Names, of_slot};
use crate::target::profile::info_field;
use crate::target::slot::SLOTS;

pub(in crate::target) use super::stamp::Resumed;

/// A master with slots.
#[derive(Debug, Clone)]
pub(in crate::target) struct Master {
    pub endpoint: Endpoint,
    pub now: Present,
}

impl Master {
    /// The key of its stamp: in its first slot.
    pub fn stamp_key(&self, task: &str) -> String {
        let first = self.now.slots.first().map_or(0, |slots| *slots.start());
        stamp_key(task, first)
    }
}

fn stamp_key(task: &str, slot: u16) -> String {
    of_slot(&position::stamp_key(task), slot)
}

/// The masters, and which of them owns each slot.
#[derive(Debug, Clone)]
pub(in crate::target) struct Topology {
    pub masters: Vec<Master>,
    /// By slot, the index of its owner.
    pub owners: Vec<u16>,
    /// Masters without slots: name, and which life.
    pub bare: Vec<(String, ServerId)>,
    /// Elections of a replica that the masters have voted in.
    pub votes: Votes,
    /// Slots that are being moved.
    open: HashSet<u16>,
}

/// How often each master, by its name, has voted for a replica to take a master's place; none where one of them took a
/// master for dead at the time, so that an election may have been under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::target) struct Votes(Option<BTreeMap<String, u64>>);

impl Votes {
    fn note(&mut self, told: &Told) {
        match (&mut self.0, told.votes) {
            (Some(all), Some(votes)) if !told.itself.condemns => {
                all.insert(told.itself.id.clone(), votes);
            }
            _ => self.0 = None,
        }
    }

    /// Whether none of those that are masters now has voted between then and now.
    pub fn none_since(&self, then: &Self) -> bool {
        let (Some(now), Some(then)) = (&self.0, &then.0) else {
            return false;
        };
        let before = |id: &str| then.get(id).copied().unwrap_or(0);
        now.iter().all(|(id, votes)| *votes == before(id))
    }

    /// Whether this node has given so many votes.
    pub fn is_of(&self, id: &str, votes: Option<u64>) -> bool {
        let noted = self.0.as_ref().and_then(|all| all.get(id));
        noted.is_some() && noted.copied() == votes
    }
}

impl Topology {
    /// Asks every master. Each slot has one owner, or it is an error that passes.
    pub async fn read(nodes: &mut Nodes) -> Result<Self, TargetError> {
        const DOING: &str = "asking a node of the cluster who it is";
        let (mut masters, mut bare) = (Vec::new(), Vec::new());
        let mut open = HashSet::new();
        let mut votes = Votes(Some(BTreeMap::new()));
        for told in nodes.selves().await? {
            votes.note(&told);
            let (endpoint, itself) = (told.place, told.itself);
            open.extend(itself.open.iter().map(|(slot, _)| *slot));
            let (server, before) = life_of(nodes, &endpoint, DOING).await?;
            if itself.slots.is_empty() {
                bare.push((itself.id, server));
                continue;
            }
            let now = Present {
                id: itself.id,
                server,
                before,
                slots: itself.slots,
            };
            masters.push(Master { endpoint, now });
        }
        let mut owners = vec![u16::MAX; usize::from(SLOTS)];
        for (index, master) in (0_u16..).zip(&masters) {
            for slot in master.now.slots.iter().cloned().flatten() {
                if let Some(owner) = owners.get_mut(usize::from(slot)) {
                    if *owner != u16::MAX {
                        return Err(unready(nodes, "two masters own one slot"));
                    }
                    *owner = index;
                }
            }
        }
        match owners.contains(&u16::MAX) {
            true => Err(unready(nodes, "no master owns a slot")),
            false => Ok(Self {
                masters,
                owners,
                bare,
                votes,
                open,
            }),
        }
    }
}

/// Which life of a node it is, and the replication id it had before it was promoted, or restarted.
pub(super) async fn life_of(
    nodes: &mut Nodes,
    endpoint: &Endpoint,
    doing: &str,
) -> Result<(ServerId, String), TargetError> {
    let node = nodes.on(endpoint).await?;
    let server: String = node.ask(doing, cmd("INFO").arg("server")).await?;
    let replication: String = node.ask(doing, cmd("INFO").arg("replication")).await?;
    let before = info_field(&replication, "master_replid2").unwrap_or_default();
    let before = before.to_owned();
    Ok((ServerId::of_info(&server, &replication), before))
}

fn unready(nodes: &Nodes, answer: &str) -> TargetError {
    TargetError::Unready {
        addr: nodes.addr().to_owned(),
        doing: "looking at the slots of the cluster".to_owned(),
        answer: answer.to_owned(),
    }
}

/// Every stamp that there is, by its key.
pub(in crate::target) async fn stamps(
    nodes: &mut Nodes,
    doing: &str,
    task: &str,
) -> Result<Vec<(String, Fields)>, TargetError> {
    let keys: Vec<_> = (0..SLOTS).map(|slot| stamp_key(task, slot)).collect();
    let questions: Vec<_> = keys
        .iter()
        .map(|key| cmd("EXISTS").arg(key).take())
        .collect();
    let answers = nodes.ask_each(doing, &questions).await?;
    let there = keys.into_iter().zip(answers);
    let there: Vec<String> = there
        .filter(|(_, answer)| !matches!(answer, redis::Value::Int(0)))
        .map(|(key, _)| key)
        .collect();
    let questions: Vec<_> = there
        .iter()
        .map(|key| cmd("HGETALL").arg(key).take())
        .collect();
    let answers = nodes.ask_each(doing, &questions).await?;
    let mut stamps = Vec::with_capacity(there.len());
    for ((key, question), answer) in there.into_iter().zip(&questions).zip(answers) {
        stamps.push((key, nodes.read(doing, question, answer)?));
    }
    Ok(stamps)
}

/// What begins the names of a task's connections.
pub(in crate::target) fn connection_name(task: &str, token: &[u8]) -> String {
    let id = token.split(|byte| *byte == b' ').next().unwrap_or_default();
    format!("df2redis:{task}:{}", String::from_utf8_lossy(id))
}

/// What was found on the nodes.
#[derive(Debug)]
pub(in crate::target) struct Found {
    pub topology: Topology,
    /// Stamps, by the slot they are in.
    stamps: HashMap<u16, Fields>,
    /// Positions of slots.
    positions: HashMap<u16, Fields>,
    /// Members of the lists of keys that are to be read again.
    pub withheld: Vec<Vec<u8>>,
    /// Members of the lists of keys of which members expire, and when the first does.
    pub members: Vec<(Vec<u8>, f64)>,
    /// All keys with these.
    pub keys: Vec<String>,
}

impl Found {
    /// Ends the connections of other processes of the task, and reads.
    pub async fn take_over(
        nodes: &mut Nodes,
        names: &Names,
        task: &str,
        token: &[u8],
    ) -> Result<Self, TargetError> {
        let topology = Topology::read(nodes).await?;
        let own = connection_name(task, token);
        for master in &topology.masters {
            expel(nodes, &master.endpoint, task, &own).await?;
        }
        for other in nodes.others().await? {
            match expel(nodes, &other, task, &own).await {
                // It owns nothing now. Whether it ever does again, nobody knows.
                Err(error) if error.is_temporary() => {}
                expelled => expelled?,
            }
        }
        fail_point::pass(fail_point::Place::StrangersEnded);
        let mut found = Self {
            topology,
            stamps: HashMap::new(),
            positions: HashMap::new(),
            withheld: Vec::new(),
            members: Vec::new(),
            keys: Vec::new(),
        };
        found.read(nodes, names, task).await?;
        Ok(found)
    }

    async fn read(
        &mut self,
        nodes: &mut Nodes,
        names: &Names,
        task: &str,
    ) -> Result<(), TargetError> {
        const DOING: &str = "reading the positions";
        let kinds = |slot: u16| {
            [
                stamp_key(task, slot),
                of_slot(&names.position, slot),
                of_slot(&names.reread, slot),
                of_slot(&names.members, slot),
            ]
        };
        // Keys of a slot that is being moved may be on both sides, so each is asked for alone.
        let is_open = |slot: &u16| self.topology.open.contains(slot);
        let questions = (0..SLOTS).flat_map(|slot| match is_open(&slot) {
            true => kinds(slot)
                .map(|key| (slot, cmd("EXISTS").arg(key).take()))
                .into(),
            false => vec![(slot, cmd("EXISTS").arg(&kinds(slot)).take())],
        });
        let (asked, questions): (Vec<u16>, Vec<_>) = questions.unzip();
        let counts = nodes.ask_each(DOING, &questions).await?;
        let some = asked
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| !matches!(count, redis::Value::Int(0)))
            .map(|(slot, _)| slot);
        let slots: BTreeSet<u16> = some.collect();
        let there: Vec<(u16, usize, String)> = slots
            .into_iter()
            .flat_map(|slot| {
                (0..)
                    .zip(kinds(slot))
                    .map(move |(kind, key)| (slot, kind, key))
            })
            .collect();
        let read = |(_, kind, key): &(u16, usize, String)| match kind {
            2 => cmd("SMEMBERS").arg(key).take(),
            3 => cmd("ZRANGE")
                .arg(key)
                .arg(0)
                .arg(-1)
                .arg("WITHSCORES")
                .take(),
            _ => cmd("HGETALL").arg(key).take(),
        };
        let questions: Vec<_> = there.iter().map(read).collect();
        let answers = nodes.ask_each(DOING, &questions).await?;
        for (((slot, kind, key), question), answer) in
            there.into_iter().zip(&questions).zip(answers)
        {
            if kind == 2 {
                let members: Vec<Vec<u8>> = nodes.read(DOING, question, answer)?;
                self.withheld.extend(members);
            } else if kind == 3 {
                let members: Vec<(Vec<u8>, f64)> = nodes.read(DOING, question, answer)?;
                self.members.extend(members);
            } else {
                let fields: Fields = nodes.read(DOING, question, answer)?;
                let into = match kind {
                    0 => &mut self.stamps,
                    _ => &mut self.positions,
                };
                if !fields.is_empty() {
                    into.insert(slot, fields);
                }
            }
            self.keys.push(key);
        }
        Ok(())
    }

    /// Stamps that no node's is any more: where they are, and the node.
    pub fn stale(&self, task: &str) -> Vec<(String, String)> {
        let masters = self.topology.masters.iter();
        let current: HashSet<(String, String)> = masters
            .map(|master| (master.stamp_key(task), master.now.id.clone()))
            .collect();
        let all = self.stamps.iter().flat_map(|(slot, fields)| {
            let key = stamp_key(task, *slot);
            nodes_of(fields)
                .into_iter()
                .map(move |id| (key.clone(), id))
        });
        all.filter(|stamp| !current.contains(stamp)).collect()
    }

    /// Where each flow goes on, or why nobody can tell.
    pub fn resumed(&self, flows: u32, epoch: &str) -> Result<Vec<Resumed>, &'static str> {
        let stamp_of = |names: &FieldNames, master: &Present| {
            let there = |slot: &u16| master.slots.iter().any(|slots| slots.contains(slot));
            let all = self.stamps.iter().flat_map(|(slot, fields)| {
                let stamps = Stamp::read_all(fields, names);
                stamps.map(move |stamp| (slot, stamp))
            });
            // One that has moved away with its slot is still the node's, if that has lived on; of several, the newest.
            let own = all.filter(|(slot, stamp)| match there(slot) {
                true => stamp.is_of(master),
                false => !stamp.is_of_another_life(master),
            });
            own.map(|(_, stamp)| stamp)
                .max_by_key(|stamp| (stamp.lsn, stamp.number))
        };
        let of_flow = |flow| {
            let names = FieldNames::of(flow, epoch);
            let mut nodes = Vec::with_capacity(self.topology.masters.len());
            for master in &self.topology.masters {
                nodes.push((master.now.clone(), stamp_of(&names, &master.now)));
            }
            let position = |(slot, fields): (&u16, &Fields)| {
                let text = std::str::from_utf8(fields.get(names.slot.as_bytes())?).ok()?;
                Some((*slot, text.parse().ok()?))
            };
            let positions = self.positions.iter().filter_map(position).collect();
            judge(&nodes, positions)
        };
        (0..flows).map(of_flow).collect()
    }
}

/// Ends the connections of other processes of the task to one node.
async fn expel(
    nodes: &mut Nodes,
    endpoint: &Endpoint,
    task: &str,
    own: &str,
) -> Result<(), TargetError> {
    const DOING: &str = "ending the connections of an earlier process";
    let node = nodes.on(endpoint).await?;
    let list: String = node.ask(DOING, cmd("CLIENT").arg("LIST")).await?;
    for id in others(&list, task, own) {
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("ID").arg(id);
        // 0 if it has ended by itself.
        let _: i64 = node.ask(DOING, &kill).await?;
    }
    Ok(())
}

/// Ids of connections of other processes of the task, in the answer to CLIENT LIST.
fn others<'a>(list: &'a str, task: &str, own: &str) -> Vec<&'a str> {
    let begin = format!("df2redis:{task}:");
    let of_line = |line: &'a str| {
        let field = |name: &str| {
            let mut words = line.split(' ');
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let name = field("name")?;
        field("id").filter(|_| name.starts_with(&begin) && name != own)
    };
    list.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elections_are_seen_by_the_votes_of_those_that_are_masters_now_and_of_the_one_that_left() {
        let votes = |all: &[(&str, u64)]| {
            let all = all.iter().map(|(id, votes)| ((*id).to_owned(), *votes));
            Votes(Some(all.collect()))
        };
        let then = votes(&[("a", 2), ("b", 0), ("c", 1)]);
        assert!(votes(&[("a", 2), ("b", 0), ("new", 0)]).none_since(&then));
        assert!(!votes(&[("a", 2), ("b", 1)]).none_since(&then));
        assert!(!votes(&[("a", 2), ("b", 0), ("new", 3)]).none_since(&then));
        assert!(!then.none_since(&Votes(None)) && !Votes(None).none_since(&then));
        assert!(then.is_of("c", Some(1)) && !then.is_of("c", Some(2)));
        assert!(!then.is_of("c", None) && !then.is_of("d", Some(0)));
        assert!(!Votes(None).is_of("c", Some(1)));
    }

    #[test]
    fn only_connections_of_other_processes_of_the_task_are_ended() {
        let list = "id=3 addr=1.2.3.4:5 name=df2redis:orders:old age=1\n\
             id=4 addr=1.2.3.4:6 name=df2redis:orders:own age=1\n\
             id=5 addr=1.2.3.4:7 name= age=1\n\
             id=6 addr=1.2.3.4:8 name=df2redis:orders2:old age=1\n\
             id=7 addr=1.2.3.4:9 name=df2redis:orders:older age=1\n";
        assert_eq!(others(list, "orders", "df2redis:orders:own"), ["3", "7"]);
        let name = connection_name("orders", b"0af9 77 host");
        assert_eq!(name, "df2redis:orders:0af9");
    }
}
