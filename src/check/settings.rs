//! What is compared, and how thoroughly.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::{Filter, Glob};
use crate::net::{Endpoint, Secret, TlsSettings};

use super::reading::Class;

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where entries come from.
    Source,
    /// Where entries go.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// How to reach one of them, as an ordinary client.
#[derive(Debug, Clone)]
pub struct Server {
    /// Which one.
    pub side: Side,
    /// Where it listens; of a cluster, the first node that the task names.
    pub endpoint: Endpoint,
    /// How the nodes of a cluster are found; none for one server.
    pub cluster: Option<crate::target::Settings>,
    /// TLS, if it wants that.
    pub tls: Option<TlsSettings>,
    /// ACL user; none is the default user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// For the connection, TLS and the login together.
    pub connect_timeout: Duration,
}

/// How much of each key is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Type, every byte of the value, expiry, and all that belongs to a stream.
    Full,
    /// Type, expiry, length.
    Outline,
    /// Type, length.
    Length,
    /// As full up to a size, and above it as outline with samples of the value.
    Smart,
}

/// Which keys the task copies to where.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Databases and keys of the source.
    pub filter: Filter,
    /// Source database to target database, where the two differ.
    pub db_map: BTreeMap<u32, u32>,
    /// Keys of df2redis itself begin so; they are never compared.
    pub own: &'static [u8],
    /// Only keys that match.
    pub matching: Option<Glob>,
    /// How many of 10,000 keys, chosen by their names.
    pub sample: u64,
}

impl Scope {
    /// The target's database for one of the source.
    pub fn target_db(&self, source: u32) -> u32 {
        self.db_map.get(&source).copied().unwrap_or(source)
    }

    /// The source's database for one of the target, if there is one.
    pub fn source_db(&self, target: u32) -> Option<u32> {
        let mapped = self.db_map.iter().filter(|(_, to)| **to == target);
        let mapped = mapped.map(|(from, _)| *from);
        let same = (!self.db_map.contains_key(&target)).then_some(target);
        mapped.chain(same).find(|db| self.filter.allows_db(*db))
    }

    /// Whether a key is to be looked at, given that its database is.
    pub fn has(&self, key: &[u8]) -> bool {
        !key.starts_with(self.own)
            && self.filter.allows_key(key)
            && self.matching.as_ref().is_none_or(|glob| glob.matches(key))
            && (self.sample >= ALL || xxhash_rust::xxh64::xxh64(key, SEED) % ALL < self.sample)
    }
}

/// What [`Scope::sample`] is when no key is left out.
pub const ALL: u64 = 10_000;

/// Any other number than those that servers place keys with, so that a sample has keys of every shard.
const SEED: u64 = 0x6466_3272;

/// What a task leaves out on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Expiry times of single members are dropped.
    pub member_expiry: bool,
    /// Values without a counterpart on the target are skipped, by the name of their type.
    pub json: bool,
    /// Bloom filters.
    pub bloom: bool,
    /// Count-min sketches.
    pub cms: bool,
    /// Top-k lists.
    pub topk: bool,
    /// Cuckoo filters.
    pub cuckoo: bool,
}

/// What a task keeps of itself on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lists {
    /// The database of all of it.
    pub db: u32,
    /// The key of the record with positions.
    pub positions: String,
    /// In a cluster, what the keys with the positions of each node begin with.
    pub stamps: String,
    /// The set of keys that are to be read again.
    pub withheld: String,
    /// The set of keys that were there first.
    pub foreign: String,
    /// Those stay as they are.
    pub keeps_foreign: bool,
}

/// A key that is proved to differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Database of the source.
    pub db: u32,
    /// Database of the target.
    pub target_db: u32,
    /// The key.
    pub key: Vec<u8>,
    /// How it differs, most telling first; also with what is expected.
    pub classes: Vec<Class>,
}

/// A comparison beside replication, which comes first. It has as few connections as it can, and tells only what the
/// positions prove, soon after it was seen.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Most keys in a second that are walked over, those that the scope leaves out included. Every 16 KiB read from the
    /// source count as one more.
    pub keys_per_second: u32,
    /// While false, the walk stands still.
    pub may_go: watch::Receiver<bool>,
}

/// A comparison.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The source.
    pub source: Server,
    /// The target.
    pub target: Server,
    /// Which keys.
    pub scope: Scope,
    /// How much of each.
    pub mode: Mode,
    /// Where the task keeps positions and more; none if it keeps none.
    pub lists: Option<Lists>,
    /// What is left out on purpose.
    pub losses: Losses,
    /// How often a difference is looked at again, at least once.
    pub rounds: u32,
    /// How long between looks, and how long the target may take to get to where the source was.
    pub interval: Duration,
    /// Most requests in a second to the source.
    pub qps: Option<u32>,
    /// About how many bytes the comparison may use.
    pub max_memory: u64,
    /// How far apart expiry times may be.
    pub tolerance: Duration,
    /// By how much later keys expire on the target, by the task's policy.
    pub grace: Duration,
    /// Where each difference is written to.
    pub report: Option<PathBuf>,
    /// Where each difference goes, if somebody does something about it. The comparison waits while it is full.
    pub differences: Option<mpsc::Sender<Difference>>,
    /// How it goes beside replication; none if it has the servers for itself.
    pub audit: Option<Audit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(databases: Option<&[u32]>, db_map: &[(u32, u32)], sample: u64) -> Scope {
        Scope {
            filter: Filter {
                databases: databases.map(|list| list.iter().copied().collect()),
                include: Glob::new(b"*").into_iter().collect(),
                exclude: Glob::new(b"*:tmp").into_iter().collect(),
            },
            db_map: db_map.iter().copied().collect(),
            own: b"df2redis:",
            matching: None,
            sample,
        }
    }

    #[test]
    fn databases_are_mapped_both_ways_and_only_those_of_the_task() {
        let scope = scope(Some(&[0, 2]), &[(2, 5), (5, 2)], ALL);
        assert_eq!([scope.target_db(0), scope.target_db(2)], [0, 5]);
        assert_eq!(scope.source_db(5), Some(2));
        assert_eq!(scope.source_db(0), Some(0));
        assert_eq!(scope.source_db(2), None, "5 is not the task's");
        assert_eq!(scope.source_db(1), None);
    }

    #[test]
    fn own_and_excluded_keys_are_left_out_and_a_sample_is_about_as_large_as_asked() {
        let all = scope(None, &[], ALL);
        assert!(all.has(b"a") && !all.has(b"df2redis:position:t") && !all.has(b"a:tmp"));
        let tenth = scope(None, &[], ALL / 10);
        let keys = (0..10_000).map(|n| format!("key:{n}"));
        let chosen = keys.filter(|key| tenth.has(key.as_bytes())).count();
        assert!((800..1200).contains(&chosen), "{chosen}");
    }
}
