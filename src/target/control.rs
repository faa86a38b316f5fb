//! The control connection to a target: one server, or all nodes of a cluster.
//!
//! A command of a cluster goes to the node that owns its first key, wherever that is now. The caller sees to it that
//! all keys of a command are in one slot, or uses what splits them.

use redis::{FromRedisValue, RedisError, Value, cmd};

use super::cluster::{Nodes, Owners};
use super::error::TargetError;
use super::node::{Node, name_of};
use super::settings::Settings;

/// For everything but the flows: questions, ownership, flushes.
#[derive(Debug)]
pub struct Control(Reached);

#[derive(Debug)]
enum Reached {
    Server(Node),
    Cluster(Box<Nodes>),
}

impl Control {
    /// Connects and logs in, with database 0 selected.
    pub async fn connect(settings: &Settings) -> Result<Self, TargetError> {
        Ok(Self(match &settings.cluster {
            None => Reached::Server(Node::connect(settings, &settings.endpoint).await?),
            Some(seeds) => Reached::Cluster(Box::new(Nodes::connect(settings, seeds).await?)),
        }))
    }

    /// The nodes of a cluster.
    pub(super) fn nodes(&mut self) -> Option<&mut Nodes> {
        match &mut self.0 {
            Reached::Server(_) => None,
            Reached::Cluster(nodes) => Some(nodes),
        }
    }

    /// The server, or any node of a cluster, for what all of them answer alike.
    pub(super) async fn any(&mut self) -> Result<&mut Node, TargetError> {
        match &mut self.0 {
            Reached::Server(node) => Ok(node),
            Reached::Cluster(nodes) => nodes.any().await,
        }
    }

    /// Whom this talks to, for errors.
    pub fn addr(&self) -> &str {
        match &self.0 {
            Reached::Server(node) => node.addr(),
            Reached::Cluster(nodes) => nodes.addr(),
        }
    }

    /// Asks who owns which slots of a cluster; nobody, of one server.
    pub async fn owners(&mut self) -> Result<Owners, TargetError> {
        match &mut self.0 {
            Reached::Server(_) => Ok(Owners::default()),
            Reached::Cluster(nodes) => {
                nodes.refresh().await?;
                Ok(nodes.owners().clone())
            }
        }
    }

    /// Asks for a sign of life, every node of a cluster that was talked to.
    pub async fn ping(&mut self) -> Result<(), TargetError> {
        match &mut self.0 {
            Reached::Server(node) => node.ping().await,
            Reached::Cluster(nodes) => nodes.ping().await,
        }
    }

    /// Loads a script, into every master of a cluster. The target's words if it does not take it, now or ever.
    pub async fn load_script(&mut self, body: &[u8]) -> Result<Option<String>, TargetError> {
        let nodes = match &mut self.0 {
            Reached::Server(node) => return node.load_script(body).await,
            Reached::Cluster(nodes) => nodes,
        };
        for master in nodes.masters() {
            if let Some(words) = nodes.on(&master).await?.load_script(body).await? {
                return Ok(Some(words));
            }
        }
        Ok(None)
    }

    /// How long each key lives yet, in milliseconds; -1 for ever, -2 if it is not there.
    pub async fn ttls(&mut self, keys: &[(u32, &[u8])]) -> Result<Vec<i64>, TargetError> {
        const DOING: &str = "asking how long keys live";
        let mut by_db: Vec<usize> = (0..keys.len()).collect();
        by_db.sort_by_key(|at| keys.get(*at).map(|(db, _)| *db));
        let mut ttls = vec![-2; keys.len()];
        for part in
            by_db.chunk_by(|a, b| keys.get(*a).map(|key| key.0) == keys.get(*b).map(|key| key.0))
        {
            let Some((db, _)) = part.first().and_then(|at| keys.get(*at)) else {
                continue;
            };
            self.select(*db).await?;
            let keys = part.iter().filter_map(|at| keys.get(*at));
            let questions: Vec<_> = keys.map(|(_, key)| cmd("PTTL").arg(*key).take()).collect();
            let answers: Vec<i64> = self.ask_each(DOING, &questions).await?;
            for (at, answer) in part.iter().zip(answers) {
                if let Some(ttl) = ttls.get_mut(*at) {
                    *ttl = answer;
                }
            }
        }
        Ok(ttls)
    }

    /// Makes `db` the current database.
    pub(super) async fn select(&mut self, db: u32) -> Result<(), TargetError> {
        match &mut self.0 {
            Reached::Server(node) => node.select(db).await,
            Reached::Cluster(nodes) => nodes.select(db),
        }
    }

    /// Whether the database is there and may be used. Selects it.
    pub async fn has_database(&mut self, db: u32) -> Result<bool, TargetError> {
        match self.select(db).await {
            Ok(()) => Ok(true),
            Err(TargetError::Database { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends one command. `doing` is a phrase that fits after "while".
    pub(super) async fn ask<T: FromRedisValue>(
        &mut self,
        doing: &str,
        command: &redis::Cmd,
    ) -> Result<T, TargetError> {
        match &mut self.0 {
            Reached::Server(node) => node.ask(doing, command).await,
            Reached::Cluster(nodes) => {
                let mut answers = nodes.ask_each(doing, std::slice::from_ref(command)).await?;
                nodes.read(doing, command, answers.pop().unwrap_or(Value::Nil))
            }
        }
    }

    /// Sends several commands at once, whose order does not matter. The first error ends it.
    pub(super) async fn ask_each<T: FromRedisValue>(
        &mut self,
        doing: &str,
        commands: &[redis::Cmd],
    ) -> Result<Vec<T>, TargetError> {
        match &mut self.0 {
            _ if commands.is_empty() => Ok(Vec::new()),
            Reached::Server(node) => {
                let mut pipeline = redis::Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                let name = commands.first().map(name_of).unwrap_or_default();
                node.ask_all(doing, &name, &pipeline).await
            }
            Reached::Cluster(nodes) => {
                let answers = nodes.ask_each(doing, commands).await?;
                let pairs = commands.iter().zip(answers);
                pairs
                    .map(|(command, answer)| nodes.read(doing, command, answer))
                    .collect()
            }
        }
    }

    /// Removes keys of the current database, whatever their slots; how many were there.
    pub(super) async fn unlink<K: AsRef<[u8]>>(
        &mut self,
        doing: &str,
        keys: &[K],
    ) -> Result<u64, TargetError> {
        let removed: Vec<u64> = self.ask_each(doing, &self.unlinking(keys)).await?;
        Ok(removed.iter().sum())
    }

    /// The commands that do that: one, or one for each slot.
    pub(super) fn unlinking<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<redis::Cmd> {
        let unlink = |keys: &[&[u8]]| cmd("UNLINK").arg(keys).take();
        let mut keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        match &self.0 {
            _ if keys.is_empty() => Vec::new(),
            Reached::Server(_) => vec![unlink(&keys)],
            Reached::Cluster(_) => {
                keys.sort_by_cached_key(|key| super::slot_of(key));
                let slots = keys.chunk_by(|a, b| super::slot_of(a) == super::slot_of(b));
                slots.map(unlink).collect()
            }
        }
    }

    /// Sends several commands to one server at once, in order: in a cluster the one with the first key of them. `name`
    /// is what a missing permission is about.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &mut self,
        doing: &str,
        name: &str,
        commands: &redis::Pipeline,
    ) -> Result<T, TargetError> {
        match &mut self.0 {
            Reached::Server(node) => node.ask_all(doing, name, commands).await,
            Reached::Cluster(nodes) => nodes.ask_all(doing, name, commands).await,
        }
    }

    /// See [`Node::transact`]; in a cluster all keys are in one slot.
    pub(super) async fn transact(
        &mut self,
        doing: &str,
        db: u32,
        there: &[redis::Cmd],
        here: &[redis::Cmd],
    ) -> Result<Option<Vec<Value>>, TargetError> {
        match &mut self.0 {
            Reached::Server(node) => node.transact(doing, db, there, here).await,
            Reached::Cluster(nodes) => {
                nodes.select(db)?;
                nodes.transact(doing, &[there, here].concat()).await
            }
        }
    }

    /// The first error among the answers to commands, as [`transact`](Self::transact) yields them.
    pub(super) fn first_error(
        &self,
        doing: &str,
        commands: &[redis::Cmd],
        answers: &[Value],
    ) -> Result<(), TargetError> {
        for (command, answer) in commands.iter().zip(answers) {
            if let Value::ServerError(error) = answer {
                return Err(self.error(doing, &name_of(command), error.clone().into()));
            }
        }
        Ok(())
    }

    pub(super) fn error(&self, doing: &str, command: &str, error: RedisError) -> TargetError {
        match &self.0 {
            Reached::Server(node) => node.error(doing, command, error),
            Reached::Cluster(nodes) => nodes.error(doing, command, error),
        }
    }
}
