//! Connections to the nodes of a cluster, for everything but the flows.
//!
//! Invariants: a command that was redirected was not executed, so it is sent again; one whose connection was lost may
//!   have been, so it is not. Which node owns which slot is asked again whenever one says that it does not.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError, Value, cmd};
use tokio::time::{Instant, sleep};

use super::redirect::{Redirect, first_key};
use super::slots::{self, Itself, Owners};
use crate::fail_point;
use crate::net::Endpoint;
use crate::target::error::TargetError;
use crate::target::fence::Fence;
use crate::target::node::{Node, name_of, text_of};
use crate::target::settings::{Seeds, Settings};
use crate::target::slot::slot_of;

/// How long a cluster that is not ready is waited for: longer than an election takes with the usual
/// `cluster-node-timeout` of 15 s.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Commands sent to a node at a time.
const AT_ONCE: usize = 4096;

const OWNED: &str = "asking what the nodes of the cluster own";

/// What a node said of itself.
#[derive(Debug)]
pub(super) struct Told {
    /// Where it was asked.
    pub place: Endpoint,
    pub itself: Itself,
    /// Elections of a replica that it has voted in.
    pub votes: Option<u64>,
}

/// All nodes of a cluster.
#[derive(Debug)]
pub(in crate::target) struct Nodes {
    settings: Settings,
    seeds: Seeds,
    addr: String,
    owners: Owners,
    open: HashMap<Endpoint, Node>,
    /// Whose connections these are.
    fence: Option<Fence>,
}

impl Nodes {
    /// Connects to the first seed that answers, and asks for the others.
    pub(in crate::target) async fn connect(
        settings: &Settings,
        seeds: &Seeds,
    ) -> Result<Self, TargetError> {
        let mut nodes = Self {
            settings: settings.clone(),
            seeds: seeds.clone(),
            addr: settings.endpoint.to_string(),
            owners: Owners::default(),
            open: HashMap::new(),
            fence: None,
        };
        nodes.refresh().await?;
        Ok(nodes)
    }

    /// Whom this talks to, for errors.
    pub(in crate::target) fn addr(&self) -> &str {
        &self.addr
    }

    /// Whether that is the only database there is.
    pub(in crate::target) fn select(&self, db: u32) -> Result<(), TargetError> {
        match db {
            0 => Ok(()),
            _ => Err(TargetError::Database {
                addr: self.addr.clone(),
                db,
                answer: "a cluster has only database 0".to_owned(),
            }),
        }
    }

    /// Who owns which slots, by what was heard last.
    pub(in crate::target) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Those that own slots, by their first slot.
    pub(in crate::target) fn masters(&self) -> Vec<Endpoint> {
        self.owners.masters()
    }

    /// The connection to a node.
    pub(in crate::target) async fn on(
        &mut self,
        endpoint: &Endpoint,
    ) -> Result<&mut Node, TargetError> {
        if !self.open.contains_key(endpoint) {
            let mut node = Node::connect(&self.settings, endpoint).await?;
            let fence = self.fence.clone();
            if let Some(fence) = &fence {
                node.set_name(&fence.connection_name()).await?;
            }
            self.open.insert(endpoint.clone(), node);
            if let Some(fence) = &fence {
                let held = self.holds(fence).await;
                if held.is_err() {
                    self.open.remove(endpoint);
                }
                held?;
            }
        }
        let none = || TargetError::Lost {
            addr: endpoint.to_string(),
            unanswered: 0,
            cause: std::io::ErrorKind::NotConnected.into(),
        };
        self.open.get_mut(endpoint).ok_or_else(none)
    }

    /// From now on these are connections of the process with this fence: each has its name, and is used only if the
    /// fence, read behind that, is still that process'. So whoever takes the fence over finds and ends them; see
    /// [`takeover`](super::takeover). The caller has the fence read once more, for those that are open.
    pub(in crate::target) async fn belong_to(&mut self, fence: &Fence) -> Result<(), TargetError> {
        if self.fence.as_ref().is_some_and(|of| of.is(fence)) {
            return Ok(());
        }
        self.fence = None;
        let name = fence.connection_name();
        let mut lost = Vec::new();
        for (endpoint, node) in &mut self.open {
            match node.set_name(&name).await {
                Err(error) if error.is_temporary() => lost.push(endpoint.clone()),
                named => named?,
            }
        }
        for endpoint in lost {
            self.open.remove(&endpoint);
        }
        self.fence = Some(fence.clone());
        Ok(())
    }

    /// Connections are anybody's again; those that are open keep their names.
    pub(in crate::target) fn belong_to_nobody(&mut self) {
        self.fence = None;
    }

    /// Reads the fence. Boxed, since it may need a connection of which it is to be read again.
    fn holds<'a>(
        &'a mut self,
        fence: &'a Fence,
    ) -> Pin<Box<dyn Future<Output = Result<(), TargetError>> + Send + 'a>> {
        Box::pin(async move {
            const DOING: &str = "looking at the fence";
            let question = [fence.question()];
            let answer = self.ask_each(DOING, &question).await?.pop();
            let [question] = &question;
            let token = self.read(DOING, question, answer.unwrap_or(Value::Nil))?;
            fence.check(&self.addr, token)
        })
    }

    /// Any master.
    pub(in crate::target) async fn any(&mut self) -> Result<&mut Node, TargetError> {
        let first = self.owners.masters().into_iter().next();
        let endpoint = first.unwrap_or_else(|| self.settings.endpoint.clone());
        self.on(&endpoint).await
    }

    /// A sign of life of every node that was talked to; those that give none are connected to anew when they are needed.
    pub(in crate::target) async fn ping(&mut self) -> Result<(), TargetError> {
        let mut dead = Vec::new();
        for (endpoint, node) in &mut self.open {
            if node.ping().await.is_err() {
                dead.push(endpoint.clone());
            }
        }
        for endpoint in dead {
            self.open.remove(&endpoint);
        }
        self.any().await?.ping().await
    }

    /// Asks who owns which slots: of the nodes that are known, then of the seeds, until one says it.
    pub(in crate::target) async fn refresh(&mut self) -> Result<(), TargetError> {
        let mut candidates = self.owners.masters();
        candidates.extend(self.seeds.endpoints.iter().cloned());
        let mut failure = None;
        for endpoint in candidates {
            match self.owners_by(&endpoint).await {
                Ok(owners) => {
                    self.owners = owners;
                    let masters = self.owners.masters();
                    self.open.retain(|endpoint, _| masters.contains(endpoint));
                    return Ok(());
                }
                // What a node answers for good is the same on all.
                Err(error) if !error.is_temporary() => return Err(error),
                Err(error) => {
                    self.open.remove(&endpoint);
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.unready("finding its nodes", "no seeds")))
    }

    async fn owners_by(&mut self, endpoint: &Endpoint) -> Result<Owners, TargetError> {
        const DOING: &str = "asking for the slots of the cluster";
        let node = self.on(endpoint).await?;
        let asked = node.ask(DOING, cmd("CLUSTER").arg("SLOTS")).await;
        let answer: Value = asked.map_err(|error| match error {
            TargetError::Answer { addr, answer, .. } if answer.contains("cluster support") => {
                TargetError::NotACluster { addr }
            }
            error => error,
        })?;
        let read = Owners::read(&answer, endpoint, |place| self.reached(place));
        let owners = read.ok_or_else(|| TargetError::Answer {
            addr: endpoint.to_string(),
            doing: DOING.to_owned(),
            answer: format!("{answer:?}"),
        })?;
        match owners.gap() {
            None => Ok(owners),
            Some(slot) => Err(TargetError::Unready {
                addr: endpoint.to_string(),
                doing: DOING.to_owned(),
                answer: format!("no master owns slot {slot}"),
            }),
        }
    }

    /// Where an announced address is reached from here.
    fn reached(&self, announced: Endpoint) -> Endpoint {
        let mapped = self.seeds.address_map.get(&announced).cloned();
        mapped.unwrap_or(announced)
    }

    /// All nodes but the masters with slots: they may have been, or become, such ones.
    pub(super) async fn others(&mut self) -> Result<Vec<Endpoint>, TargetError> {
        const DOING: &str = "asking for the nodes of the cluster";
        let question = cmd("CLUSTER").arg("NODES").take();
        let answer: String = self.any().await?.ask(DOING, &question).await?;
        let masters = self.masters();
        let Some(asked) = masters.first() else {
            return Ok(Vec::new());
        };
        let all = slots::masters(&answer, asked);
        let all = all.into_iter().chain(slots::replicas(&answer, asked));
        let all = all.map(|node| self.reached_as(node));
        Ok(all.filter(|place| !masters.contains(place)).collect())
    }

    /// What a node says of itself, and how often it has voted.
    pub(super) async fn itself(
        &mut self,
        place: &Endpoint,
    ) -> Result<(Itself, Option<u64>), TargetError> {
        // In one go: whoever takes nobody for dead votes for nobody in between.
        let mut questions = redis::pipe();
        questions.cmd("CLUSTER").arg("NODES");
        questions.cmd("CLUSTER").arg("INFO");
        let node = self.on(place).await?;
        let (nodes, info): (String, String) = node.ask_all(OWNED, "CLUSTER", &questions).await?;
        let read = Itself::read(&nodes).ok_or_else(|| self.unready(OWNED, &nodes))?;
        Ok((read, slots::votes(&info)))
    }

    async fn told(&mut self, place: Endpoint) -> Result<Told, TargetError> {
        let (itself, votes) = self.itself(&place).await?;
        Ok(Told {
            place,
            itself,
            votes,
        })
    }

    /// Where a node is reached that CLUSTER SLOTS does not tell of: by name, if those that it tells of are.
    fn reached_as(&self, node: slots::Announced) -> Endpoint {
        let map = &self.seeds.address_map;
        let is_name = |place: &Endpoint| match place {
            Endpoint::Tcp { host, .. } => host.parse::<std::net::IpAddr>().is_err(),
            Endpoint::Unix(_) => false,
        };
        let by_name = || self.owners.masters().iter().any(is_name);
        match node.named {
            Some(named) if map.contains_key(&named) => self.reached(named),
            Some(named) if !map.contains_key(&node.place) && by_name() => named,
            _ => self.reached(node.place),
        }
    }

    /// What every master says of itself, those without slots too, which may be about to get some.
    pub(super) async fn selves(&mut self) -> Result<Vec<Told>, TargetError> {
        let question = cmd("CLUSTER").arg("NODES").take();
        self.refresh().await?;
        let first = self.any().await?;
        let all: String = first.ask(OWNED, &question).await?;
        let owners = self.masters();
        let mut selves: Vec<Told> = Vec::with_capacity(owners.len());
        for place in &owners {
            let told = self.told(place.clone()).await?;
            // A name and an address can stand for one node.
            if !selves.iter().any(|known| known.itself.id == told.itself.id) {
                selves.push(told);
            }
        }
        let asked = owners.first();
        for node in asked.map_or_else(Vec::new, |asked| slots::masters(&all, asked)) {
            if !selves.iter().any(|told| told.itself.id == node.id) {
                let place = self.reached_as(node);
                selves.push(self.told(place).await?);
            }
        }
        Ok(selves)
    }

    /// Sends each command to the node that owns its first key, and yields all answers, in order. No order is kept among
    /// the commands. The first error ends it; others may have been executed.
    pub(in crate::target) async fn ask_each(
        &mut self,
        doing: &str,
        commands: &[Cmd],
    ) -> Result<Vec<Value>, TargetError> {
        let mut answers: Vec<Value> = vec![Value::Nil; commands.len()];
        let mut waiting: Vec<usize> = (0..commands.len()).collect();
        let mut patience = Patience::new();
        while !waiting.is_empty() {
            let mut by_node: HashMap<Endpoint, Vec<usize>> = HashMap::new();
            for at in waiting.drain(..) {
                let key = commands.get(at).and_then(first_key);
                let owner = key.and_then(|key| self.owners.of(slot_of(key)));
                let owner = owner
                    .or(self.owners.of(0))
                    .unwrap_or(&self.settings.endpoint);
                by_node.entry(owner.clone()).or_default().push(at);
            }
            let mut stale = false;
            for (place, all) in by_node {
                for part in all.chunks(AT_ONCE) {
                    let asked: Vec<Cmd> = part
                        .iter()
                        .filter_map(|at| commands.get(*at).cloned())
                        .collect();
                    let node = match self.on(&place).await {
                        Ok(node) => node,
                        // Nothing was sent; somebody may have taken over.
                        Err(error) if error.is_temporary() && patience.lasts() => {
                            stale = true;
                            waiting.extend(part);
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    let replies = match node.answers(&asked).await {
                        Ok(replies) => replies,
                        Err(error) => {
                            self.open.remove(&place);
                            return Err(error);
                        }
                    };
                    fail_point::pass(fail_point::Place::NodeAnswered);
                    for ((at, command), reply) in part.iter().zip(&asked).zip(replies) {
                        let answer = match self.settle(doing, &place, command, reply).await? {
                            Some(answer) => answer,
                            None if patience.lasts() => {
                                stale = true;
                                waiting.push(*at);
                                continue;
                            }
                            None => return Err(self.unready(doing, "redirects without end")),
                        };
                        if let Some(there) = answers.get_mut(*at) {
                            *there = answer;
                        }
                    }
                }
            }
            if stale {
                self.refresh_later(&mut patience).await?;
            }
        }
        Ok(answers)
    }

    /// What is known after a reply: the answer, or nothing, and the command is to be sent again.
    async fn settle(
        &mut self,
        doing: &str,
        place: &Endpoint,
        command: &Cmd,
        reply: Result<Value, RedisError>,
    ) -> Result<Option<Value>, TargetError> {
        let error = match reply {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        match Redirect::of(&text_of(&error), place) {
            None => Err(self.error(doing, &name_of(command), error)),
            Some(Redirect::Moved(_) | Redirect::Later) => Ok(None),
            Some(Redirect::Ask(to)) => {
                let to = self.reached(to);
                let node = self.on(&to).await?;
                let both = [cmd("ASKING"), command.clone()];
                match node.answers(&both).await?.pop() {
                    Some(Ok(answer)) => Ok(Some(answer)),
                    Some(Err(error)) => match Redirect::of(&text_of(&error), &to) {
                        Some(_) => Ok(None),
                        None => Err(self.error(doing, &name_of(command), error)),
                    },
                    None => Ok(None),
                }
            }
        }
    }

    /// Sends commands in order to the one node that owns their first key.
    pub(in crate::target) async fn ask_all<T: FromRedisValue>(
        &mut self,
        doing: &str,
        name: &str,
        commands: &redis::Pipeline,
    ) -> Result<T, TargetError> {
        let key = commands.cmd_iter().find_map(first_key).map(<[u8]>::to_vec);
        let mut patience = Patience::new();
        loop {
            let place = self.place_of(key.as_deref());
            let asked = self.on(&place).await?.ask_all(doing, name, commands).await;
            match self.redirected(&place, asked) {
                Ok(answer) => return Ok(answer),
                Err(None) if patience.lasts() => self.refresh_later(&mut patience).await?,
                Err(None) => return Err(self.unready(doing, "redirects without end")),
                Err(Some(error)) => return Err(error),
            }
        }
    }

    /// See [`Node::transact`]. All keys are in one slot.
    pub(in crate::target) async fn transact(
        &mut self,
        doing: &str,
        commands: &[Cmd],
    ) -> Result<Option<Vec<Value>>, TargetError> {
        let key = commands.iter().find_map(first_key).map(<[u8]>::to_vec);
        let mut patience = Patience::new();
        loop {
            let place = self.place_of(key.as_deref());
            let node = self.on(&place).await?;
            let asked = node.transact(doing, 0, &[], commands).await;
            match self.redirected(&place, asked) {
                Ok(answer) => return Ok(answer),
                Err(None) if patience.lasts() => self.refresh_later(&mut patience).await?,
                Err(None) => return Err(self.unready(doing, "redirects without end")),
                Err(Some(error)) => return Err(error),
            }
        }
    }

    fn place_of(&self, key: Option<&[u8]>) -> Endpoint {
        let owner = self.owners.of(key.map_or(0, slot_of));
        owner.unwrap_or(&self.settings.endpoint).clone()
    }

    /// The answer, an error, or no error where the node said that it is another one's turn.
    fn redirected<T>(
        &mut self,
        place: &Endpoint,
        asked: Result<T, TargetError>,
    ) -> Result<T, Option<TargetError>> {
        asked.map_err(|error| match error {
            TargetError::Answer { ref answer, .. } | TargetError::Unready { ref answer, .. }
                if Redirect::of(answer, place).is_some() =>
            {
                None
            }
            TargetError::Lost { .. } | TargetError::Silent { .. } => {
                self.open.remove(place);
                Some(error)
            }
            error => Some(error),
        })
    }

    /// Asks for the owners anew. Waits before all but the first time.
    async fn refresh_later(&mut self, patience: &mut Patience) -> Result<(), TargetError> {
        if patience.tried {
            sleep(PAUSE).await;
        }
        patience.tried = true;
        match self.refresh().await {
            Err(error) if error.is_temporary() && patience.lasts() => Ok(()),
            other => other,
        }
    }

    /// An answer as what it is taken for.
    pub(in crate::target) fn read<T: FromRedisValue>(
        &self,
        doing: &str,
        command: &Cmd,
        answer: Value,
    ) -> Result<T, TargetError> {
        let read = redis::from_redis_value(answer);
        read.map_err(|error| self.error(doing, &name_of(command), error.into()))
    }

    pub(in crate::target) fn error(
        &self,
        doing: &str,
        command: &str,
        error: RedisError,
    ) -> TargetError {
        TargetError::from_answer(&self.addr, doing, command, text_of(&error))
    }

    fn unready(&self, doing: &str, answer: &str) -> TargetError {
        TargetError::Unready {
            addr: self.addr.clone(),
            doing: doing.to_owned(),
            answer: answer.to_owned(),
        }
    }
}

/// How long redirects are followed.
struct Patience {
    until: Instant,
    tried: bool,
}

impl Patience {
    fn new() -> Self {
        Self {
            until: Instant::now() + PATIENCE,
            tried: false,
        }
    }

    fn lasts(&self) -> bool {
        Instant::now() < self.until
    }
}
