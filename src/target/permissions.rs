//! What the task's user may do on the target, found out without doing it.
//!
//! Each command is queued in a transaction that is never executed: the target says at once whether the
//!   user may run it on that key, and whether it knows it. That needs no permission of its own, unlike
//!   `ACL DRYRUN`, and works on releases without ACLs too.
//! Invariants: nothing is sent before MULTI was accepted and a harmless command was queued behind it; the
//!   connection is used for nothing else and closed, which discards the transaction.

mod rows;

use redis::{RedisError, Value};

use super::cluster::Nodes;
use super::error::TargetError;
use super::node::{Node, text_of};
use super::position::Names;
use super::settings::Settings;
use crate::commands::Features;
use crate::net::Endpoint;

use rows::{attempts, row};

/// What a task needs a command for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Everything is written in transactions.
    Transactions,
    /// The keys `df2redis:*`.
    Records,
    /// Values of the snapshot.
    Snapshot,
    /// Entries of the journal.
    Journal,
    /// Emptying a database that the task owns alone.
    Flushes,
    /// Comparing it with the source: the audit, and `df2redis check`.
    Comparing,
    /// Finding the nodes of a cluster, and keeping other processes of the task from writing to them.
    Nodes,
}

/// Why a command cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// The user may not run it.
    Permission,
    /// The user may not run it on this key.
    Key(Vec<u8>),
    /// The target does not know it: disabled or renamed.
    Unknown,
    /// Anything else, in the target's words.
    Other(String),
}

/// A command that the task needs and cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name, perhaps with a subcommand, such as `SCRIPT LOAD`.
    pub command: &'static str,
    /// What for.
    pub purpose: Purpose,
    /// Why not.
    pub lack: Lack,
    /// Nodes of a cluster, where it is not so on all masters.
    pub only_on: Vec<String>,
}

impl Missing {
    fn is_like(&self, other: &Self) -> bool {
        (self.command, self.purpose) == (other.command, other.purpose) && self.lack == other.lack
    }
}

/// What was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Commands that were tried.
    pub tried: usize,
    /// Those that cannot be used.
    pub missing: Vec<Missing>,
}

impl Permissions {
    /// Finds out, on every master of a cluster. `keys` are examples of keys that the task copies; its own records are
    /// tried too.
    pub async fn read(
        settings: &Settings,
        features: &Features,
        keys: &[Vec<u8>],
    ) -> Result<Self, TargetError> {
        let masters = match &settings.cluster {
            None => vec![settings.endpoint.clone()],
            Some(seeds) => Nodes::connect(settings, seeds).await?.masters(),
        };
        let mut all = Vec::with_capacity(masters.len());
        for master in masters {
            let found = Self::read_on(settings, &master, features, keys).await?;
            all.push((master.to_string(), found));
        }
        Ok(Self::together(all))
    }

    fn together(all: Vec<(String, Self)>) -> Self {
        let mut together = Self::default();
        for (_, one) in &all {
            together.tried = together.tried.max(one.tried);
            for missing in &one.missing {
                if together.missing.iter().any(|known| known.is_like(missing)) {
                    continue;
                }
                let lacks = |one: &Self| one.missing.iter().any(|other| other.is_like(missing));
                let on = all.iter().filter(|(_, one)| lacks(one));
                let mut only_on: Vec<_> = on.map(|(addr, _)| addr.clone()).collect();
                if only_on.len() == all.len() {
                    only_on.clear();
                }
                together.missing.push(Missing {
                    only_on,
                    ..missing.clone()
                });
            }
        }
        together
    }

    async fn read_on(
        settings: &Settings,
        endpoint: &Endpoint,
        features: &Features,
        keys: &[Vec<u8>],
    ) -> Result<Self, TargetError> {
        let mut control = Node::connect(settings, endpoint).await?;
        let mut found = Self::default();
        // Before MULTI there is nothing to execute.
        let names = Names::for_target(settings);
        let fence = names.fence.as_bytes();
        for words in ["EXEC", "SELECT 0", "WATCH K", "UNWATCH", "MULTI"] {
            let row = row(words);
            let (command, question) = (row.name(), row.command(fence));
            let answer = control.answers(&[question]).await?;
            found.take(
                command,
                Purpose::Transactions,
                fence,
                answer.into_iter().next(),
            );
        }
        // One that cannot be watched says nothing about the others.
        let stops = |missing: &Missing| missing.command != "WATCH";
        if found.missing.iter().any(stops) || !is_queueing(&mut control).await? {
            return Ok(found);
        }
        let attempts = attempts(features, &names, keys, settings.cluster.is_some());
        let questions: Vec<_> = attempts
            .iter()
            .map(|attempt| attempt.row.command(attempt.key))
            .collect();
        let answers = control.answers(&questions).await?;
        for (attempt, answer) in attempts.iter().zip(answers) {
            let (name, key) = (attempt.row.name(), attempt.key);
            found.take(name, attempt.purpose, key, Some(answer));
        }
        Ok(found)
    }

    fn take(
        &mut self,
        command: &'static str,
        purpose: Purpose,
        key: &[u8],
        answer: Option<Result<Value, RedisError>>,
    ) {
        self.tried += 1;
        let Some(Err(error)) = answer else { return };
        if let Some(lack) = lack(&text_of(&error), key) {
            let missing = Missing {
                command,
                purpose,
                lack,
                only_on: Vec::new(),
            };
            if !self.missing.contains(&missing) {
                self.missing.push(missing);
            }
        }
    }
}

/// Whether what is sent now is kept and not executed. Not so with some proxies, whatever they answer to MULTI.
async fn is_queueing(control: &mut Node) -> Result<bool, TargetError> {
    let mut harmless = redis::cmd("INFO");
    harmless.arg("server");
    let answers = control.answers(&[harmless]).await?;
    match answers.into_iter().next() {
        Some(Ok(Value::SimpleString(text))) if text == "QUEUED" => Ok(true),
        _ => Err(TargetError::Answer {
            addr: control.addr().to_owned(),
            doing: "looking at permissions".to_owned(),
            answer: "a transaction that does not begin with MULTI".to_owned(),
        }),
    }
}

/// What an error reply means for the command.
fn lack(answer: &str, key: &[u8]) -> Option<Lack> {
    let lower = answer.to_ascii_lowercase();
    if lower.starts_with("noperm") {
        // "… to access a key", "… to access one of the keys used as arguments".
        return Some(match lower.contains(" access ") && lower.contains("key") {
            true => Lack::Key(key.to_vec()),
            false => Lack::Permission,
        });
    }
    if lower.contains("unknown command") || lower.contains("unknown subcommand") {
        return Some(Lack::Unknown);
    }
    // EXEC asked for nothing; and what a target cannot do just now is another matter, as is which node would do it.
    let elsewhere = ["moved ", "ask ", "crossslot "];
    if elsewhere.iter().any(|code| lower.starts_with(code)) {
        return None;
    }
    if lower.contains("without multi") || super::answer::Refusal::of(answer.as_bytes()).is_some() {
        return None;
    }
    Some(Lack::Other(answer.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_a_missing_permission_from_a_missing_key_and_a_busy_target() {
        let lack = |answer| lack(answer, b"k");
        let key = Some(Lack::Key(b"k".to_vec()));
        // Redis 6 and 7.
        assert_eq!(
            lack("NOPERM this user has no permissions to run the 'set' command or its subcommand"),
            Some(Lack::Permission)
        );
        assert_eq!(
            lack("NOPERM User x has no permissions to run the 'script|load' command"),
            Some(Lack::Permission)
        );
        assert_eq!(
            lack("NOPERM this user has no permissions to access one of the keys used as arguments"),
            key
        );
        assert_eq!(lack("NOPERM No permissions to access a key"), key);
        assert_eq!(
            lack("ERR unknown command 'FLUSHDB', with args beginning with: "),
            Some(Lack::Unknown)
        );
        assert_eq!(lack("ERR EXEC without MULTI"), None);
        assert_eq!(
            lack("READONLY You can't write against a read only replica."),
            None
        );
        assert_eq!(
            lack("OOM command not allowed when used memory > 'maxmemory'."),
            None
        );
    }
}
