//! What the target says of itself, and whether the task fits there.

use std::sync::Arc;

use crate::config::{Conflict, Glob, Reaction, Task};
use crate::process::Exit;
use crate::target::{Control, Lack, Missing, Permissions, Profile, Purpose, Settings, TargetError};

use super::super::error::ONLY_DATABASE_0;
use super::super::settings;
use super::finding::{Finding, Grade, bytes, counted};
use super::source::{Source, user};

/// Patterns of `filter.include` that are tried with a key.
const PATTERNS: usize = 16;

/// For what commands are missing, why, and on which nodes of a cluster if not on all.
type Group<'a> = (Purpose, &'a Lack, &'a [String]);

/// What could be learnt.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) profile: Profile,
    /// The masters of a cluster, with their addresses.
    nodes: Vec<(String, Profile)>,
    permissions: Permissions,
    /// Databases that the task uses and the target does not have.
    lacking: Vec<u32>,
}

impl Target {
    /// Asks. Nothing is written.
    pub(super) async fn read(settings: &Settings, task: &Arc<Task>) -> Result<Self, TargetError> {
        let mut control = Control::connect(settings).await?;
        let profile = Profile::read(&mut control).await?;
        let nodes = Profile::read_each(&mut control).await?;
        let permissions = Permissions::read(settings, &profile.features, &examples(task)).await?;
        let mut lacking = Vec::new();
        for db in databases(task, profile.databases) {
            let has = match profile.databases {
                Some(count) => db < count,
                None => control.has_database(db).await?,
            };
            if !has {
                lacking.push(db);
            }
        }
        Ok(Self {
            profile,
            nodes,
            permissions,
            lacking,
        })
    }

    /// What that means for the task.
    pub(super) fn findings(&self, task: &Arc<Task>) -> Vec<Finding> {
        let mut findings = vec![self.itself()];
        findings.extend(self.permissions(task));
        findings.extend(self.modules(task));
        findings.extend(self.eviction());
        findings.extend(self.longest_word(task));
        findings.extend(self.present(task));
        findings
    }

    fn itself(&self) -> Finding {
        let profile = &self.profile;
        let server = &profile.features;
        if profile.is_loading {
            let what = format!("target: {server}, still loading its data");
            return Finding::error(Exit::Unavailable, what).advise("wait until it is ready");
        }
        if let Some((_, first)) = self.nodes.first() {
            let masters = counted(self.nodes.len() as u64, "master");
            let what = format!("target: a cluster of {masters}, {}", first.features);
            let other = |node: &&(String, Profile)| node.1.features != first.features;
            return match self.nodes.iter().find(other) {
                None => Finding::ok(what),
                Some((addr, node)) => {
                    let what = format!("{what}, but {} on {addr}", node.features);
                    Finding::note(what).advise("only what all can do is used")
                }
            };
        }
        if profile.is_read_only {
            let what = format!("target: {server}, a replica that refuses writes");
            let advice = "name its master as target.address, or promote it (REPLICAOF NO ONE)";
            return Finding::error(Exit::Unavailable, what).advise(advice);
        }
        if profile.is_replica {
            let what = format!(
                "target: {server}, a replica that accepts writes, which its master may undo"
            );
            return Finding::warning(what).advise("name its master as target.address");
        }
        Finding::ok(format!("target: {server}, a master"))
    }

    fn permissions(&self, task: &Task) -> Vec<Finding> {
        let missing = &self.permissions.missing;
        let count = self.permissions.tried as u64;
        if missing.is_empty() {
            let what = format!(
                "target: the user may run all {} that the task can need",
                counted(count, "command")
            );
            return vec![Finding::ok(what)];
        }
        let user = user(task.target.credentials.as_ref());
        let mut groups: Vec<(Group<'_>, Vec<&str>)> = Vec::new();
        for Missing {
            command,
            purpose,
            lack,
            only_on,
        } in missing
        {
            let of = (*purpose, lack, &only_on[..]);
            match groups.iter_mut().find(|group| group.0 == of) {
                Some((_, commands)) => commands.push(command),
                None => groups.push((of, vec![command])),
            }
        }
        groups
            .iter()
            .map(|(of, commands)| lacks(*of, commands, user))
            .collect()
    }

    fn modules(&self, task: &Task) -> Vec<Finding> {
        let features = &self.profile.features;
        let policy = &task.policy.on_unsupported;
        let families = [
            (features.json, "JSON", "JSON documents", policy.json, "json"),
            (
                features.bloom,
                "Bloom filter",
                "commands on Bloom filters and sketches",
                policy.bloom,
                "bloom",
            ),
        ];
        let judged = families.map(|(has, module, what, policy, key)| match (has, policy) {
            (true, _) => Finding::ok(format!("target: has the {module} commands")),
            (false, Reaction::Stop) => Finding::note(format!(
                "target: no {module} commands, so {what} stop the task"
            ))
            .advise(format!(
                "if the source has any: load the module, or policy.on_unsupported.{key} = \"skip\""
            )),
            (false, Reaction::Skip) => Finding::note(format!(
                "target: no {module} commands, so {what} are left out"
            )),
        });
        judged.into()
    }

    /// Of a cluster, every master that may lose keys; if none does, what is true of the first.
    fn eviction(&self) -> Vec<Finding> {
        let Some((_, first)) = self.nodes.first() else {
            return vec![eviction(&self.profile, "target")];
        };
        let judged = self.nodes.iter();
        let judged = judged.map(|(addr, node)| eviction(node, &format!("target: {addr}")));
        let bad: Vec<_> = judged
            .filter(|finding| finding.grade != Grade::Ok)
            .collect();
        match bad.is_empty() {
            true => vec![eviction(first, "target: each master")],
            false => bad,
        }
    }

    /// A limit below the default of every release, which is also the longest string that Redis has.
    fn longest_word(&self, task: &Task) -> Option<Finding> {
        const USUAL: u64 = 512 << 20;
        let longest = self.profile.longest_word();
        if longest >= USUAL {
            return None;
        }
        let what = match task.policy.on_unsupported.value {
            Reaction::Stop => "a longer value stops the task",
            Reaction::Skip => "longer values are left out",
        };
        let text = format!(
            "target: takes at most {} at once (proto-max-bulk-len), so {what}",
            bytes(longest)
        );
        Some(Finding::warning(text).advise("on the target: CONFIG SET proto-max-bulk-len 512mb"))
    }

    /// Keys that are in the task's databases already.
    fn present(&self, task: &Arc<Task>) -> Option<Finding> {
        let owned = settings::owned(task, self.profile.databases).databases;
        let keys = self
            .profile
            .keys
            .iter()
            .filter(|(db, _)| owned.contains(db));
        let shown: Vec<String> = keys
            .map(|(db, keys)| format!("{keys} in database {db}"))
            .collect();
        if shown.is_empty() {
            return None;
        }
        let what = format!(
            "target: holds keys where the task writes: {}",
            shown.join(", ")
        );
        Some(match task.policy.conflict {
            Conflict::Overwrite => Finding::note(what).advise(
                "policy.conflict = \"overwrite\" replaces those that the source has too, and leaves the others",
            ),
            Conflict::Skip => {
                Finding::note(what).advise("policy.conflict = \"skip\" leaves them as they are")
            }
            Conflict::Panic => Finding::warning(what)
                .advise("policy.conflict = \"panic\" stops the first start if any belongs to the task"),
        })
    }

    /// Whether the source's databases and their contents have room.
    pub(super) fn room(&self, source: Option<&Source>, task: &Arc<Task>) -> Vec<Finding> {
        let keyspace = source
            .and_then(|source| source.keyspace.as_deref())
            .unwrap_or_default();
        let mut findings = self.left_out(keyspace, task);
        let copied: Vec<_> = keyspace
            .iter()
            .filter(|(db, _)| task.filter.allows_db(*db))
            .collect();
        let mut lacking = self.lacking.clone();
        let unmapped = copied.iter().map(|(db, _)| task.target.db(*db));
        lacking
            .extend(unmapped.filter(|db| self.profile.databases.is_some_and(|count| *db >= count)));
        lacking.sort_unstable();
        lacking.dedup();
        let has = match self.profile.databases {
            Some(count) => format!(" (it has {count})"),
            None => String::new(),
        };
        findings.extend(lacking.iter().map(|db| {
            let from = copied.iter().find(|(from, _)| task.target.db(*from) == *db);
            let holds = match from {
                Some((from, keys)) => format!(", which is for {} of database {from}", counted(*keys, "key")),
                None => ", which the task file names".to_owned(),
            };
            let advice = match task.target.cluster {
                Some(_) => ONLY_DATABASE_0,
                None => "raise \"databases\" on the target, or map or leave it out (target.db_map, filter.databases)",
            };
            Finding::error(Exit::Config, format!("target: no database {db}{has}{holds}")).advise(advice)
        }));
        if lacking.is_empty() {
            findings.push(Finding::ok("target: has every database that the task uses"));
        }
        findings.push(self.memory(source.and_then(|source| source.used_memory)));
        findings
    }

    fn left_out(&self, keyspace: &[(u32, u64)], task: &Task) -> Vec<Finding> {
        let left_out = keyspace
            .iter()
            .filter(|(db, _)| !task.filter.allows_db(*db));
        let mut findings: Vec<Finding> = left_out
            .map(|(db, keys)| {
                let keys = counted(*keys, "key");
                Finding::note(format!(
                    "task: database {db} of the source ({keys}) is left out by filter.databases"
                ))
            })
            .collect();
        let mapped = keyspace
            .iter()
            .filter(|(db, _)| task.filter.allows_db(*db) && task.target.db(*db) != *db);
        findings.extend(mapped.map(|(db, _)| {
            let to = task.target.db(*db);
            Finding::note(format!(
                "task: database {db} of the source goes to database {to} (target.db_map)"
            ))
        }));
        if !task.filter.allows_every_key() {
            let what = "task: filter.include and filter.exclude leave out keys, which the numbers above count too";
            findings.push(Finding::note(what));
        }
        findings
    }

    fn memory(&self, needed: Option<u64>) -> Finding {
        let profile = &self.profile;
        let Some(used) = profile.used_memory else {
            return Finding::note("target: memory not visible, check by hand")
                .advise("it needs at least as much as the source uses");
        };
        let in_use = bytes(used);
        let (what, free) = match (profile.max_memory, profile.system_memory) {
            (Some(most), _) => (
                format!("target: {in_use} in use of maxmemory {}", bytes(most)),
                most.saturating_sub(used),
            ),
            (None, Some(machine)) => (
                format!(
                    "target: {in_use} in use, no maxmemory, a machine of {}",
                    bytes(machine)
                ),
                machine.saturating_sub(used),
            ),
            (None, None) => {
                let what = format!(
                    "target: {in_use} in use, no maxmemory, memory of its machine not visible"
                );
                return Finding::note(what)
                    .advise("check by hand that it is more than the source uses");
            }
        };
        match needed {
            None => Finding::note(format!("{what}; what the source uses is not visible"))
                .advise("compare by hand: the target needs at least as much"),
            Some(needed) if needed > free => {
                let what = format!("{what}, and the source uses {}", bytes(needed));
                let advice = "give the target more, or leave out keys: one that is full refuses writes, and the task waits";
                Finding::warning(what).advise(advice)
            }
            Some(needed) => Finding::ok(format!("{what}; the source uses {}", bytes(needed))),
        }
    }
}

/// What becomes of keys when a server is full.
fn eviction(profile: &Profile, whom: &str) -> Finding {
    match (profile.max_memory, profile.eviction.as_deref()) {
        (_, None) => Finding::note(format!(
            "{whom}: eviction policy not visible, check by hand"
        ))
        .advise("maxmemory-policy must be noeviction, or keys are lost when the target is full"),
        (_, Some("noeviction")) => Finding::ok(format!(
            "{whom}: keeps its keys when it is full (maxmemory-policy noeviction)"
        )),
        (None, Some(policy)) => Finding::ok(format!(
            "{whom}: has no maxmemory, so maxmemory-policy {policy} means nothing"
        )),
        (Some(_), Some(policy)) => {
            let what = format!("{whom}: loses keys when it is full (maxmemory-policy {policy})");
            Finding::warning(what).advise("on the target: CONFIG SET maxmemory-policy noeviction")
        }
    }
}

/// Commands that are missing for one purpose and one reason, on these nodes or on all.
fn lacks((purpose, lack, only_on): Group<'_>, commands: &[&str], user: &str) -> Finding {
    let names = commands.join(", ");
    let names = match only_on.is_empty() {
        true => names,
        false => format!("{names} on {}", only_on.join(", ")),
    };
    let purpose_text = match purpose {
        Purpose::Transactions => "everything is written in transactions",
        Purpose::Records => "for its records, the keys df2redis:*",
        Purpose::Snapshot => "for the snapshot",
        Purpose::Journal => "for the source's writes",
        Purpose::Flushes => "for a flush of the source",
        Purpose::Comparing => "without them the audit and df2redis check cannot compare",
        Purpose::Nodes => "for the nodes of the cluster",
    };
    let (exit, what, advice) = match lack {
        Lack::Permission => {
            let words = commands.iter().map(|name| name.to_lowercase());
            let rules: String = words
                .map(|word| format!(" +{}", word.replace(' ', "|")))
                .collect();
            (
                Exit::Permission,
                format!("target: the user lacks {names} ({purpose_text})"),
                format!("on the target: ACL SETUSER {user}{rules}"),
            )
        }
        Lack::Key(key) => (
            Exit::Permission,
            format!(
                "target: the user may not run {names} on keys such as \"{}\" ({purpose_text})",
                key.escape_ascii()
            ),
            format!(
                "on the target: ACL SETUSER {user} ~* (or the patterns of the task and ~df2redis:*)"
            ),
        ),
        Lack::Unknown => (
            Exit::Config,
            format!("target: does not know {names} ({purpose_text})"),
            "undo its rename-command, or allow it where the server is managed".to_owned(),
        ),
        Lack::Other(answer) => (
            Exit::Protocol,
            format!("target: {names} cannot be used ({purpose_text}): {answer}"),
            "look at the target's configuration".to_owned(),
        ),
    };
    // Not every task is flushed, or may flush; and one that is not audited copies all the same.
    let finding = match purpose {
        Purpose::Flushes | Purpose::Comparing => Finding::warning(what),
        _ => Finding::error(exit, what),
    };
    finding.advise(advice)
}

/// The databases that the task uses whatever the source holds.
fn databases(task: &Arc<Task>, count: Option<u32>) -> Vec<u32> {
    let mut databases = settings::owned(task, count).databases;
    databases.push(task.target.position_db);
    databases.sort_unstable();
    databases.dedup();
    databases
}

/// Keys that the task would copy, one for each pattern that is easily met.
fn examples(task: &Task) -> Vec<Vec<u8>> {
    let key = |glob: &Glob| {
        let key: Vec<u8> = glob
            .as_bytes()
            .iter()
            .map(|byte| match byte {
                b'*' | b'?' => b'x',
                byte => *byte,
            })
            .collect();
        task.filter.allows_key(&key).then_some(key)
    };
    task.filter
        .include
        .iter()
        .take(PATTERNS)
        .filter_map(key)
        .collect()
}
