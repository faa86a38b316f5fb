//! What a target says about itself.
//!
//! Facts: fields of `INFO` and `CONFIG GET` of Redis 5 to 8 and Valkey 7.2 to 9.

use std::collections::{BTreeMap, HashMap};

use super::control::Control;
use super::error::TargetError;
use super::node::Node;
use crate::commands::{Features, Flavour, Known};

/// A target's release, state and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What it can do.
    pub features: Features,
    /// Its writing commands, if it says so.
    pub known: Known,
    /// Changes with every start of the server.
    pub run_id: String,
    /// Changes when its dataset may have become another one.
    pub replication_id: String,
    /// It is a replica.
    pub is_replica: bool,
    /// It is a replica that refuses writes until it is promoted.
    pub is_read_only: bool,
    /// It reads its dataset from disk.
    pub is_loading: bool,
    /// Bytes in use.
    pub used_memory: Option<u64>,
    /// Most bytes it may use; `None` if unlimited or unknown.
    pub max_memory: Option<u64>,
    /// Bytes of memory of its machine.
    pub system_memory: Option<u64>,
    /// What it does when it is full; anything but `noeviction` loses keys then.
    pub eviction: Option<String>,
    /// Most bytes of one word of a command, if it says so.
    pub max_bulk: Option<u64>,
    /// Number of databases, if it says so.
    pub databases: Option<u32>,
    /// Databases that hold keys, and how many.
    pub keys: Vec<(u32, u64)>,
}

impl Profile {
    /// Asks; of a cluster, what is true of all its masters together. What the user is not permitted to ask for,
    /// except `INFO`, is left out.
    pub async fn read(control: &mut Control) -> Result<Self, TargetError> {
        let Some(nodes) = control.nodes() else {
            return Self::of_node(control.any().await?, false).await;
        };
        let mut all = Vec::new();
        for master in nodes.masters() {
            all.push(Self::of_node(nodes.on(&master).await?, true).await?);
        }
        let together = all.into_iter().reduce(Self::and);
        together.ok_or_else(|| TargetError::NotACluster {
            addr: control.addr().to_owned(),
        })
    }

    /// The masters of a cluster, each by itself with its address.
    pub async fn read_each(control: &mut Control) -> Result<Vec<(String, Self)>, TargetError> {
        let Some(nodes) = control.nodes() else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for master in nodes.masters() {
            let profile = Self::of_node(nodes.on(&master).await?, true).await?;
            all.push((master.to_string(), profile));
        }
        Ok(all)
    }

    async fn of_node(node: &mut Node, of_cluster: bool) -> Result<Self, TargetError> {
        let info: Vec<u8> = node.ask("reading its state", &redis::cmd("INFO")).await?;
        let info = String::from_utf8_lossy(&info).into_owned();
        let mut profile = Self::of_info(&info, node.addr(), of_cluster)?;
        if let Some(redis::Value::Array(commands)) = optional(node, &redis::cmd("COMMAND")).await? {
            commands
                .iter()
                .filter_map(writing)
                .for_each(|name| profile.known.insert(name));
        }
        let has = |name: &&str| profile.known.has(name.as_bytes());
        let (json, bloom) = (["JSON.SET"], ["BF.ADD", "CMS.INCRBY", "TOPK.ADD", "CF.ADD"]);
        let (json, bloom) = (json.iter().all(has), bloom.iter().all(has));
        (profile.features.json, profile.features.bloom) = (json, bloom);
        profile.max_bulk = config(node, "proto-max-bulk-len").await?;
        profile.databases = match of_cluster {
            true => Some(1),
            false => config(node, "databases").await?,
        };
        if let Some(limit) = config(node, "maxmemory").await? {
            profile.max_memory = Some(limit).filter(|limit| *limit > 0);
        }
        if let Some(policy) = config(node, "maxmemory-policy").await? {
            profile.eviction = Some(policy);
        }
        Ok(profile)
    }

    /// Two masters of one cluster: what both can do, and what they hold together.
    fn and(self, other: Self) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.saturating_add(b));
        let older = match self.features.version <= other.features.version {
            true => &self.features,
            false => &other.features,
        };
        let mut keys: BTreeMap<u32, u64> = BTreeMap::new();
        for (db, count) in self.keys.iter().chain(&other.keys) {
            *keys.entry(*db).or_default() += count;
        }
        let keeps = |policy: &Option<String>| policy.as_deref() == Some("noeviction");
        Self {
            features: Features {
                json: self.features.json && other.features.json,
                bloom: self.features.bloom && other.features.bloom,
                ..older.clone()
            },
            known: self.known.and(&other.known),
            is_replica: self.is_replica || other.is_replica,
            is_read_only: self.is_read_only || other.is_read_only,
            is_loading: self.is_loading || other.is_loading,
            used_memory: sum(self.used_memory, other.used_memory),
            max_memory: sum(self.max_memory, other.max_memory),
            system_memory: sum(self.system_memory, other.system_memory),
            eviction: match keeps(&self.eviction) {
                true => other.eviction,
                false => self.eviction,
            },
            max_bulk: self.max_bulk.zip(other.max_bulk).map(|(a, b)| a.min(b)),
            databases: self.databases,
            keys: keys.into_iter().collect(),
            // Nobody goes by those of several.
            run_id: String::new(),
            replication_id: String::new(),
        }
    }

    /// Most bytes of one word of a command: what the target says, else the default of every release.
    pub fn longest_word(&self) -> u64 {
        self.max_bulk.unwrap_or(512 << 20)
    }

    fn of_info(info: &str, addr: &str, of_cluster: bool) -> Result<Self, TargetError> {
        let fields: HashMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.trim_end().split_once(':'))
            .collect();
        let text = |name: &str| fields.get(name).copied().map(str::to_owned);
        let number = |name: &str| fields.get(name).and_then(|text| text.parse::<u64>().ok());
        let (flavour, version) = match (fields.get("valkey_version"), fields.get("redis_version")) {
            (Some(version), _) => (Flavour::Valkey, version),
            (None, Some(version)) => (Flavour::Redis, version),
            (None, None) => {
                return Err(TargetError::Answer {
                    addr: addr.to_owned(),
                    doing: "reading its state".to_owned(),
                    answer: "INFO without a version".to_owned(),
                });
            }
        };
        let is_node = fields.get("cluster_enabled") == Some(&"1")
            || fields.get("redis_mode") == Some(&"cluster");
        if is_node && !of_cluster {
            return Err(TargetError::Cluster {
                addr: addr.to_owned(),
            });
        }
        Ok(Self {
            features: Features {
                flavour,
                version: version_of(version),
                json: false,
                bloom: false,
            },
            known: Known::default(),
            run_id: text("run_id").unwrap_or_default(),
            replication_id: text("master_replid").unwrap_or_default(),
            is_replica: fields.get("role") == Some(&"slave"),
            is_read_only: fields.get("role") == Some(&"slave")
                && fields.get("slave_read_only") != Some(&"0"),
            is_loading: fields.get("loading") == Some(&"1"),
            used_memory: number("used_memory"),
            max_memory: number("maxmemory").filter(|limit| *limit > 0),
            system_memory: number("total_system_memory"),
            eviction: text("maxmemory_policy"),
            max_bulk: None,
            databases: None,
            keys: keys_of(info),
        })
    }
}

/// The bytes of a string of either kind.
fn text(value: &redis::Value) -> Option<&[u8]> {
    match value {
        redis::Value::BulkString(text) => Some(text),
        redis::Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// The name in an element of the answer to `COMMAND`, if that command writes.
fn writing(command: &redis::Value) -> Option<&[u8]> {
    let redis::Value::Array(parts) = command else {
        return None;
    };
    let [
        name,
        _words,
        redis::Value::Array(flags) | redis::Value::Set(flags),
        ..,
    ] = &parts[..]
    else {
        return None;
    };
    let writes = flags.iter().any(|flag| text(flag) == Some(b"write"));
    text(name).filter(|_| writes)
}

/// The value of a field of `INFO`.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim_end)
}

/// `7.0.15`, perhaps with something behind it.
fn version_of(text: &str) -> (u16, u16, u16) {
    let mut parts = text
        .split(['.', '-', '+'])
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// Lines such as `db0:keys=3,expires=0,avg_ttl=0`.
fn keys_of(info: &str) -> Vec<(u32, u64)> {
    let of_line = |line: &str| {
        let (db, rest) = line.strip_prefix("db")?.split_once(":keys=")?;
        let keys = rest.split(',').next()?;
        Some((db.parse().ok()?, keys.trim_end().parse().ok()?))
    };
    info.lines().filter_map(of_line).collect()
}

/// The answer, or `None` if the user may not ask or the server does not know the question.
async fn optional(
    node: &mut Node,
    question: &redis::Cmd,
) -> Result<Option<redis::Value>, TargetError> {
    match node.ask("reading its settings", question).await {
        Ok(answer) => Ok(Some(answer)),
        Err(TargetError::Permission { .. } | TargetError::Answer { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn config<T: std::str::FromStr>(
    node: &mut Node,
    name: &str,
) -> Result<Option<T>, TargetError> {
    let mut question = redis::cmd("CONFIG");
    question.arg("GET").arg(name);
    let Some(answer) = optional(node, &question).await? else {
        return Ok(None);
    };
    let pairs: HashMap<String, String> = redis::from_redis_value(answer).unwrap_or_default();
    Ok(pairs.get(name).and_then(|value| value.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavour_release_and_keys_are_read_from_info() {
        let info = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0-rc1\r\n\
                    run_id:abc\r\nrole:slave\r\nmaxmemory:0\r\ndb0:keys=3,expires=0,avg_ttl=0\r\n\
                    db12:keys=7,expires=1\r\ndbsize:9\r\n";
        let profile = Profile::of_info(info, "t:1", false).unwrap();
        assert_eq!(profile.features.flavour, Flavour::Valkey);
        assert_eq!(profile.features.version, (8, 1, 0));
        assert_eq!(profile.keys, [(0, 3), (12, 7)]);
        assert!(profile.is_replica && profile.is_read_only);
        assert_eq!(profile.max_memory, None);
    }

    #[test]
    fn writing_commands_are_told_from_others() {
        use redis::Value::{Array, BulkString, Int, SimpleString};
        let command = |name: &str, flags: &[&str]| {
            let flags = flags.iter().map(|flag| SimpleString((*flag).to_owned()));
            let flags = Array(flags.collect());
            Array(vec![BulkString(name.into()), Int(-2), flags, Int(1)])
        };
        assert_eq!(
            writing(&command("set", &["write", "denyoom"])),
            Some(&b"set"[..])
        );
        assert_eq!(writing(&command("get", &["readonly", "fast"])), None);
        assert_eq!(writing(&Int(7)), None);
        assert_eq!(writing(&Array(vec![BulkString(b"set".to_vec())])), None);
    }

    #[test]
    fn a_cluster_node_and_a_stranger_are_refused() {
        let cluster =
            Profile::of_info("redis_version:7.0.0\r\ncluster_enabled:1\r\n", "t:1", false);
        assert!(matches!(cluster, Err(TargetError::Cluster { .. })));
        assert!(matches!(
            Profile::of_info("STAT pid 1\r\n", "t:1", false),
            Err(TargetError::Answer { .. })
        ));
    }
}
