//! A checked task: what the rest of the program sees of a task file.
//!
//! Everything here is ready for use: paths are absolute, addresses parsed, secrets loaded, defaults filled in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use sloggers::types::Severity;

use super::{Address, Complaint, Glob, Secret};

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Unique among the tasks of a process: 1 to 64 of `A-Z a-z 0-9 . _ -`, no dot or dash in front.
    pub name: String,
    /// The task file.
    pub file: PathBuf,
    /// Where the task keeps its lock and whatever must survive a restart. It may not exist yet.
    pub state_dir: PathBuf,
    /// How long a stop may take before what is in flight is given up.
    pub shutdown_timeout: Duration,
    /// Where entries come from.
    pub source: Source,
    /// Where entries go.
    pub target: Target,
    /// Which entries go there.
    pub filter: Filter,
    /// What happens where there is a choice.
    pub policy: Policy,
    /// How much the task may use.
    pub limits: Limits,
    /// What may wait on disk for the target.
    pub spool: Spool,
    /// How long to wait between attempts.
    pub retry: Retry,
    /// How fast both servers are compared while the task follows writes.
    pub audit: Audit,
    /// Where the log goes, and what goes there.
    pub log: Log,
    /// What is allowed but should not be: to be logged at start.
    pub warnings: Vec<Complaint>,
}

/// A Dragonfly master.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it listens.
    pub address: Address,
    /// How to log in; `None` for a server without a password.
    pub credentials: Option<Credentials>,
    /// How long connecting may take, TLS and login included.
    pub connect_timeout: Duration,
    /// The address the master shows for this replica, instead of the connection's.
    pub announce_ip: Option<IpAddr>,
    /// The port the master shows for this replica; nothing listens there.
    pub announce_port: Option<u16>,
    /// TLS, if it is to be used.
    pub tls: Option<TlsFiles>,
}

/// A Redis server, or a cluster of them.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens; of a cluster, the first of its nodes that the file names.
    pub address: Address,
    /// How its nodes are found; `None` for one server.
    pub cluster: Option<ClusterNodes>,
    /// How to log in; `None` for a server without a password.
    pub credentials: Option<Credentials>,
    /// How long connecting may take, TLS and login included.
    pub connect_timeout: Duration,
    /// Source database to target database, where the two differ. No two allowed source databases go to one.
    pub db_map: BTreeMap<u32, u32>,
    /// The operator's word that nobody else writes to the mapped databases.
    pub exclusive: bool,
    /// Whether positions are kept on the target.
    pub positions: Positions,
    /// The database that holds df2redis' own keys.
    pub position_db: u32,
    /// TLS, if it is to be used.
    pub tls: Option<TlsFiles>,
}

/// How the nodes of a cluster are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNodes {
    /// Nodes that know the others, at least one; all are of [`Address::Tcp`].
    pub addresses: Vec<Address>,
    /// The address that a node announces to the one where it is reached from here, where the two differ.
    pub address_map: HashMap<Address, Address>,
}

impl Target {
    /// The database on the target for one on the source.
    pub fn db(&self, source: u32) -> u32 {
        self.db_map.get(&source).copied().unwrap_or(source)
    }
}

/// Whether the target holds how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// In the transactions that move them, behind the task's fence: every entry takes effect once.
    Transaction,
    /// Nowhere: every start is a full sync, and two processes of one task disturb each other.
    None,
}

/// How to log in.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The ACL user; `None` for the default user.
    pub username: Option<String>,
    /// Its password, never empty.
    pub password: Secret,
}

/// TLS for one side of a task: PEM files that could be opened when the task file was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that may sign the server's; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name the certificate must carry, instead of the host.
    pub server_name: Option<String>,
    /// Accept any certificate: anybody in between can read and change everything.
    pub insecure_skip_verify: bool,
}

/// Which keys the task copies.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Source databases; `None` for all.
    pub databases: Option<BTreeSet<u32>>,
    /// A key must match one of these.
    pub include: Vec<Glob>,
    /// And none of these.
    pub exclude: Vec<Glob>,
}

impl Filter {
    /// Whether every key of every database is allowed.
    pub fn allows_everything(&self) -> bool {
        self.databases.is_none() && self.allows_every_key()
    }

    /// Whether every key of an allowed database is allowed.
    pub fn allows_every_key(&self) -> bool {
        self.exclude.is_empty() && self.include.iter().any(Glob::matches_all)
    }

    /// Whether keys of this source database can be allowed.
    pub fn allows_db(&self, db: u32) -> bool {
        self.databases.as_ref().is_none_or(|dbs| dbs.contains(&db))
    }

    /// Whether this key is copied, given that its database is.
    pub fn allows_key(&self, key: &[u8]) -> bool {
        self.include.iter().any(|glob| glob.matches(key))
            && !self.exclude.iter().any(|glob| glob.matches(key))
    }

    /// Whether this key of this source database is copied.
    pub fn allows(&self, db: u32, key: &[u8]) -> bool {
        self.allows_db(db) && self.allows_key(key)
    }
}

/// What happens where there is a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What happens to owned keys that the target holds before the first byte is written.
    pub conflict: Conflict,
    /// What happens when the target refuses an entry for good.
    pub on_error: Reaction,
    /// What happens to what the target cannot hold or do.
    pub on_unsupported: OnUnsupported,
    /// What happens to expiry times of single members of sets and hashes.
    pub on_member_expiry: MemberExpiry,
    /// What happens to commands with keys in several slots of a cluster.
    pub on_cross_slot: CrossSlot,
    /// How a full sync deals with what the target has already.
    pub resync: Resync,
    /// Most keys that are removed after a full sync without being asked.
    pub max_delete: MaxDelete,
    /// By how much longer keys live on the target.
    pub expiry_grace: Duration,
}

/// What happens to commands whose keys are in several slots of a cluster, and that are not of one key each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossSlot {
    /// The keys that they write are read again from the source.
    Fetch,
    /// The task stops.
    Stop,
    /// They are left out and counted.
    Skip,
}

/// How a full sync deals with what the target has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    /// Keys are overwritten in place, and those the source does not have are removed afterwards.
    Reconcile,
    /// The task's keys are removed first.
    Flush,
}

/// Most keys that are removed after a full sync without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxDelete {
    /// So many of a hundred keys of the task on the target.
    Percent(u8),
    /// So many.
    Keys(u64),
}

impl MaxDelete {
    /// Whether `gone` of the `owned` keys of the task may be removed.
    pub fn allows(self, gone: u64, owned: u64) -> bool {
        match self {
            Self::Keys(keys) => gone <= keys,
            Self::Percent(percent) => {
                u128::from(gone) * 100 <= u128::from(owned) * u128::from(percent)
            }
        }
    }
}

impl std::fmt::Display for MaxDelete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Keys(keys) => keys.fmt(f),
        }
    }
}

/// What happens to owned keys that the target holds before the first byte is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// They are replaced.
    Overwrite,
    /// Nothing is written, the task stops.
    Panic,
    /// They stay as they are until the source replaces or deletes them whole.
    Skip,
}

/// Stop the task, or go on without the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Stop and say why.
    Stop,
    /// Leave the entry out, count it, log it.
    Skip,
}

/// What happens to what the target cannot hold or do, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnUnsupported {
    /// JSON documents, where the target has no JSON.
    pub json: Reaction,
    /// Bloom filters.
    pub bloom: Reaction,
    /// Count-min sketches.
    pub cms: Reaction,
    /// Top-k lists.
    pub topk: Reaction,
    /// Cuckoo filters.
    pub cuckoo: Reaction,
    /// Search indexes, where the target has no search.
    pub search: Reaction,
    /// Commands that have no translation.
    pub command: Reaction,
    /// Values of a type or size that the target does not take.
    pub value: Reaction,
    /// Commands whose result the source's journal does not carry.
    pub lost: Reaction,
}

/// What happens to expiry times of single members of sets and hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberExpiry {
    /// The members are copied, and gone from the target when they are from the source.
    Emulate,
    /// The members are copied and never expire on the target by themselves.
    Drop,
    /// The task stops.
    Stop,
}

/// How much a task may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes read and not yet answered for, over the whole task.
    pub memory: u64,
}

/// What may wait on disk for the target, in the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spool {
    /// Most bytes on disk.
    pub max_size: u64,
    /// Bytes that are left free on the file system.
    pub min_free: u64,
    /// How long applied entries are kept.
    pub keep: Duration,
    /// When entries are put on the device.
    pub sync: SpoolSync,
    /// What happens when there is no room.
    pub on_full: OnFull,
}

/// When spooled entries are put on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolSync {
    /// About once a second, in the background.
    Interval,
    /// Before they count as spooled.
    Always,
    /// When the system pleases.
    Never,
}

/// What happens when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Let go of the source, go on applying, and synchronise anew afterwards.
    Disconnect,
    /// Read from the source no faster than the target takes.
    Throttle,
}

/// How long to wait between attempts: doubling from `initial` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait, not less than `initial`.
    pub max: Duration,
    /// When to give up, counted from the first failure of a row; `None` for never.
    pub max_elapsed: Option<Duration>,
}

/// How fast both servers are compared while the task follows writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Most keys in a second; 0 for not at all.
    pub keys_per_second: u32,
}

/// Where the log goes, and what goes there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The directory of the log files. It may not exist yet.
    pub dir: PathBuf,
    /// The least severe records written.
    pub level: Severity,
    /// The form of the file's lines.
    pub format: LogFormat,
    /// Whether lines also go to the console.
    pub console: Console,
    /// How the file is rotated; `None`: by others, if at all.
    pub rotate: Option<Rotate>,
}

impl Log {
    /// The log file of this name, as made of a task's and a command's.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

/// When a log file makes room for a new one, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotate {
    /// The size that a file may have, bytes.
    pub size: u64,
    /// How many old files stay.
    pub keep: u32,
    /// Whether they are compressed.
    pub compress: bool,
}

/// The form of the log file's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, message, then `field: value` pairs.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whether log lines also go to the console: standard output if that is a terminal, else standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// If standard output is a terminal, or systemd's journal reads standard error.
    Auto,
    /// In any case.
    Always,
    /// Not at all.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> Vec<Glob> {
        let compile = |pattern: &&str| Glob::new(pattern.as_bytes()).unwrap();
        patterns.iter().map(compile).collect()
    }

    #[test]
    fn exactly_the_limit_may_be_removed() {
        assert!(MaxDelete::Percent(20).allows(20, 100));
        assert!(!MaxDelete::Percent(20).allows(21, 100));
        assert!(!MaxDelete::Percent(99).allows(1, 1));
        assert!(MaxDelete::Percent(100).allows(1, 1));
        assert!(MaxDelete::Percent(100).allows(u64::MAX, u64::MAX));
        assert!(MaxDelete::Keys(7).allows(7, 7) && !MaxDelete::Keys(7).allows(8, 9));
        assert!(MaxDelete::Keys(0).allows(0, 9));
    }

    #[test]
    fn a_key_is_copied_if_its_database_and_one_include_and_no_exclude_say_so() {
        let filter = Filter {
            databases: Some([0, 3].into()),
            include: globs(&["user:*", "order:*"]),
            exclude: globs(&["*:tmp"]),
        };
        assert!(filter.allows(0, b"user:1"));
        assert!(filter.allows(3, b"order:\xff"));
        assert!(!filter.allows(1, b"user:1"), "database");
        assert!(!filter.allows(0, b"cart:1"), "no include");
        assert!(!filter.allows(0, b"user:1:tmp"), "exclude");
        assert!(!filter.allows_everything());
    }
}
