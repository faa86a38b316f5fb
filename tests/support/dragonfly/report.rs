//! What the simulated master tells about itself: INFO, ROLE, TIME, HELLO, positions.

use super::super::client::Reply;
use super::hub::{Hub, Session};
use super::link::Phase;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `INFO`, of one section or of all.
#[must_use]
pub fn info(hub: &Hub, section: &str) -> String {
    let wanted = |name: &str| section.is_empty() || section == name || section == "all";
    let mut out = String::new();
    if wanted("server") {
        let release = hub.options.release.name();
        let _ = write!(
            out,
            "# Server\r\nredis_version:7.4.0\r\ndragonfly_version:{release}\r\n"
        );
        let _ = write!(
            out,
            "redis_mode:standalone\r\narch_bits:64\r\nthread_count:{}\r\n\r\n",
            hub.shards.len()
        );
    }
    if let Some(bytes) = hub.options.used_memory.filter(|_| wanted("memory")) {
        let _ = write!(out, "# Memory\r\nused_memory:{bytes}\r\n\r\n");
    }
    if wanted("replication") {
        out.push_str(&replication(hub));
    }
    if wanted("keyspace") {
        out.push_str("# Keyspace\r\n");
        out.push_str(&keyspace(hub));
    }
    out
}

fn replication(hub: &Hub) -> String {
    let sessions = hub.sessions();
    let mut out = format!(
        "# Replication\r\nrole:master\r\nconnected_slaves:{}\r\n",
        sessions.live.len()
    );
    for (at, (id, session)) in sessions.live.iter().enumerate() {
        let (ip, port, state) = (&session.ip, session.port, state_word(hub, session));
        let _ = write!(
            out,
            "slave{at}:ip={ip},port={port},state={state},lag={}\r\n",
            lag(hub, *id, session)
        );
    }
    let _ = write!(out, "master_replid:{}\r\n\r\n", hub.master_id);
    out
}

/// The most entries that any flow of the session has not acknowledged; 0 before stable sync.
fn lag(hub: &Hub, id: u32, session: &Session) -> u64 {
    if session.phase != Phase::Stable {
        return 0;
    }
    let lags = hub.shards.iter().map(|shard| {
        let state = shard.lock();
        let acked = state
            .links
            .iter()
            .find(|link| link.session == id)
            .map_or(0, |link| link.acked);
        state.ring.next().saturating_sub(acked.max(1))
    });
    lags.max().unwrap_or(0)
}

fn state_word(hub: &Hub, session: &Session) -> &'static str {
    match session.phase {
        Phase::Registered => "preparation",
        Phase::Snapshot => "full_sync",
        Phase::Stable => hub.options.release.stable_word(),
    }
}

fn keyspace(hub: &Hub) -> String {
    if let Some(front) = &hub.front {
        let text = super::hub::lock(front).keyspace();
        return text
            .lines()
            .filter(|line| line.starts_with("db"))
            .map(|line| format!("{line}\r\n"))
            .collect();
    }
    let mut counts: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for record in &hub.options.dataset.records {
        let count = counts.entry(record.db).or_default();
        count.0 += 1;
        count.1 += usize::from(record.expire_at_ms.is_some());
    }
    let line = |(db, (keys, expires)): (u32, (usize, usize))| {
        format!("db{db}:keys={keys},expires={expires},avg_ttl=-1\r\n")
    };
    counts.into_iter().map(line).collect()
}

/// The reply to `CONFIG GET`: the flag and its value, or nothing.
#[must_use]
pub fn setting(hub: &Hub, words: &[String]) -> Reply {
    let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
    let mut shown = hub.options.settings.iter();
    let found = shown.find(|(name, _)| words.get(2) == Some(name));
    let pair = found.map(|(name, value)| vec![bulk(name), bulk(value)]);
    Reply::Array(pair.unwrap_or_default())
}

/// `ROLE`.
#[must_use]
pub fn role(hub: &Hub) -> Reply {
    let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
    let sessions = hub.sessions();
    let replicas = sessions.live.values().map(|session| {
        Reply::Array(vec![
            bulk(&session.ip),
            bulk(&session.port.to_string()),
            bulk(state_word(hub, session)),
        ])
    });
    Reply::Array(vec![bulk("master"), Reply::Array(replicas.collect())])
}

/// `TIME`.
#[must_use]
pub fn time(hub: &Hub) -> Reply {
    let ours = || SystemTime::now().duration_since(UNIX_EPOCH);
    let now = match hub.options.clock_ms {
        Some(start) => {
            Duration::from_millis(start.unsigned_abs()) + hub.started.elapsed().unwrap_or_default()
        }
        None => ours().unwrap_or_default(),
    };
    Reply::Array(vec![
        Reply::Int(now.as_secs().cast_signed()),
        Reply::Int(i64::from(now.subsec_micros())),
    ])
}

/// `HELLO`, as a map in RESP3 and an array in RESP2.
pub fn hello(hub: &Hub, protocol: i64, output: &mut Vec<u8>) {
    let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
    let fields = [
        ("server", bulk("redis")),
        ("version", bulk("7.4.0")),
        ("dragonfly_version", bulk(&hub.options.release.name())),
        ("proto", Reply::Int(protocol)),
        ("id", Reply::Int(1)),
        ("mode", bulk("standalone")),
        ("role", bulk("master")),
    ];
    let head = if protocol == 3 {
        format!("%{}\r\n", fields.len())
    } else {
        format!("*{}\r\n", fields.len() * 2)
    };
    output.extend_from_slice(head.as_bytes());
    for (name, value) in fields {
        bulk(name).encode(output);
        value.encode(output);
    }
}

/// `DFLY REPLICAOFFSET`: the next position of every shard, 0 while it has no journal.
#[must_use]
pub fn offsets(hub: &Hub) -> Reply {
    let offset = |shard: &super::shard::Shard| {
        let state = shard.lock();
        Reply::Int(if state.running {
            state.ring.next().cast_signed()
        } else {
            0
        })
    };
    Reply::Array(hub.shards.iter().map(offset).collect())
}

/// How many replicas have acknowledged the entries at these positions.
#[must_use]
pub fn replicas_at(hub: &Hub, positions: &[u64]) -> u64 {
    let sessions = hub.sessions();
    let reached = sessions.live.iter().filter(|(id, session)| {
        session.phase == Phase::Stable
            && hub.shards.iter().zip(positions).all(|(shard, position)| {
                shard
                    .lock()
                    .links
                    .iter()
                    .any(|link| link.session == **id && link.acked > *position)
            })
    });
    reached.count() as u64
}
