//! Removing everything a task keeps of itself on a target.
//!
//! Invariants: only keys of this very task are touched, whatever the names of others begin with; what was copied
//!   stays. The task must not run: a running one writes its records again.

use std::collections::{BTreeMap, HashSet};

use redis::cmd;

use super::control::Control;
use super::error::TargetError;
use super::position::PREFIX;
use super::profile::Profile;
use super::settings::Settings;
use super::walk::Scan;

/// Kinds of keys, in the order in which they go. Without its record, and in a cluster without a stamp of every node, the
/// task has nothing; the fence is last, so that a process that still runs is kept out of what was removed.
const KINDS: [&str; 8] = [
    "stamp", "position", "failed", "reread", "members", "foreign", "tmp", "fence",
];

const DOING: &str = "looking for the task's keys";

/// A key of a task, or all its temporary ones in a database, or all that are alike in the slots of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The database.
    pub db: u32,
    /// The key; of several, how they begin, and a star.
    pub key: String,
    /// Fields or members, of keys in slots those of all; of temporary ones, how many keys.
    pub count: u64,
}

/// What [`forget`] would remove, in its order. Changes nothing. Every key of the target is looked at, some at a time.
pub async fn list(control: &mut Control, settings: &Settings) -> Result<Vec<Found>, TargetError> {
    let mut found = BTreeMap::new();
    for (db, _) in Profile::read(control).await?.keys {
        // One may come twice.
        let mut counted = HashSet::new();
        let mut scan = scan(db);
        while let Some(keys) = scan.next(control).await? {
            for key in keys {
                let Some((place, kind)) = kind_of(&key, &settings.task) else {
                    continue;
                };
                if kind == "tmp" {
                    let name = format!("df2redis:tmp:{}:*", settings.task);
                    *found.entry((place, db, name)).or_insert(0) += 1;
                } else if counted.insert(key.clone())
                    && let Some(count) = count(control, db, &key).await?
                {
                    let name = String::from_utf8_lossy(&key);
                    let name = match name.split_once('{') {
                        Some((begin, _)) => format!("{begin}{{*}}"),
                        None => name.into_owned(),
                    };
                    *found.entry((place, db, name)).or_insert(0) += count;
                }
            }
        }
    }
    let found = found.into_iter();
    Ok(found
        .map(|((_, db, key), count)| Found { db, key, count })
        .collect())
}

/// Removes all keys of the task; says which they were. Cancelled or failed, it has removed some, and can be repeated.
pub async fn forget(control: &mut Control, settings: &Settings) -> Result<Vec<Found>, TargetError> {
    let found = list(control, settings).await?;
    let databases = Profile::read(control).await?.keys;
    for kind in KINDS {
        for (db, _) in &databases {
            let mut scan = scan(*db);
            while let Some(mut keys) = scan.next(control).await? {
                keys.retain(|key| kind_of(key, &settings.task).is_some_and(|(_, of)| of == kind));
                if keys.is_empty() {
                    continue;
                }
                control.select(*db).await?;
                control.unlink("removing the task's keys", &keys).await?;
            }
        }
    }
    Ok(found)
}

/// Removes values that a full sync of the task began to build and did not finish; how many there were. Every key of
/// the target is looked at, some at a time. May be repeated.
pub async fn remove_unfinished(
    control: &mut Control,
    settings: &Settings,
) -> Result<u64, TargetError> {
    let mut removed = 0;
    for (db, _) in Profile::read(control).await?.keys {
        let mut scan = Scan::of(db, Some("df2redis:tmp:*"));
        while let Some(mut keys) = scan.next(control).await? {
            keys.retain(|key| kind_of(key, &settings.task).is_some_and(|(_, of)| of == "tmp"));
            if keys.is_empty() {
                continue;
            }
            control.select(db).await?;
            removed += control.unlink("removing unfinished values", &keys).await?;
        }
    }
    Ok(removed)
}

fn scan(db: u32) -> Scan<'static> {
    Scan::of(db, Some("df2redis:*"))
}

/// Which of [`KINDS`] a key of the task is. Names of tasks hold no colons and no braces, so one that only begins
/// like this one is told apart.
fn kind_of(key: &[u8], task: &str) -> Option<(usize, &'static str)> {
    let rest = key.strip_prefix(PREFIX)?;
    KINDS.into_iter().enumerate().find(|(_, kind)| {
        let name = rest
            .strip_prefix(kind.as_bytes())
            .and_then(|rest| rest.strip_prefix(b":"))
            .and_then(|rest| rest.strip_prefix(task.as_bytes()));
        name.is_some_and(|behind| matches!(behind.first(), None | Some(b':' | b'{')))
    })
}

/// What is in a key; `None` if it is gone.
async fn count(control: &mut Control, db: u32, key: &[u8]) -> Result<Option<u64>, TargetError> {
    control.select(db).await?;
    let kind: String = control.ask(DOING, cmd("TYPE").arg(key)).await?;
    let counting = match kind.as_str() {
        "none" => return Ok(None),
        "hash" => "HLEN",
        "set" => "SCARD",
        "zset" => "ZCARD",
        "list" => "LLEN",
        _ => return Ok(Some(1)),
    };
    control.ask(DOING, cmd(counting).arg(key)).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::kind_of;

    #[test]
    fn only_keys_of_this_very_task_are_meant() {
        let kind = |key: &str| kind_of(key.as_bytes(), "orders").map(|(_, kind)| kind);
        assert_eq!(kind("df2redis:position:orders"), Some("position"));
        assert_eq!(kind("df2redis:tmp:orders:a:b"), Some("tmp"));
        assert_eq!(kind("df2redis:fence:orders{x}"), Some("fence"));
        for other in [
            "df2redis:position:orders2",
            "df2redis:position:orders-old",
            "df2redis:position:my-orders",
            "df2redis:tmp:order:orders",
            "df2redis:else:orders",
            "df2redis:position",
            "orders",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
    }
}
