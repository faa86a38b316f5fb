//! What a task file says, in the words of the rooms that need it; and how the memory budget is
//! divided.
//!
//! ```text
//!  limits.memory / flows = one flow's part:
//!    1/2  in the spool's memory: read and not yet handed to the writer, or being written
//!    1/4  handed to the writer and not yet answered for
//!    1/4  one value, command or compressed blob being put together
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::check::{self, ALL, Lists, Losses, Mode, Scope, Server, Side};
use crate::config::{
    Address, ClusterNodes, Conflict, Credentials, Glob, MemberExpiry, Positions, Reaction, Task,
    TlsFiles,
};
use crate::net::{Endpoint, Secret, TlsSettings, Verification};
use crate::source::dragonfly;
use crate::target::{self, DeadLetter, ErrorPolicy, Owned, Seeds, TargetError, Wanted};

use super::{Timing, backoff};

/// The port the master shows for this replica when the task names none: easy to recognise.
const ANNOUNCED_PORT: u16 = 6380;

/// The least a flow needs to move at all.
const LEAST: usize = 64 << 10;

/// The most one batch to the target holds.
const BATCH: usize = 512 << 10;

fn endpoint(address: &Address) -> Endpoint {
    match address {
        Address::Tcp { host, port } => Endpoint::Tcp {
            host: host.clone(),
            port: *port,
        },
        Address::Unix(path) => Endpoint::Unix(path.clone()),
    }
}

fn seeds(nodes: &ClusterNodes) -> Seeds {
    let map = nodes.address_map.iter();
    Seeds {
        endpoints: nodes.addresses.iter().map(endpoint).collect(),
        address_map: map
            .map(|(from, to)| (endpoint(from), endpoint(to)))
            .collect(),
    }
}

fn tls(files: &TlsFiles) -> TlsSettings {
    let verification = match &files.ca {
        _ if files.insecure_skip_verify => Verification::Nothing,
        Some(ca) => Verification::Ca(ca.clone()),
        None => Verification::System,
    };
    TlsSettings {
        verification,
        identity: files.identity.clone(),
        server_name: files.server_name.clone(),
    }
}

fn username(credentials: &Option<Credentials>) -> Option<String> {
    credentials
        .as_ref()
        .and_then(|credentials| credentials.username.clone())
}

fn password(credentials: &Option<Credentials>) -> Option<Secret> {
    let credentials = credentials.as_ref()?;
    Some(credentials.password.clone())
}

/// How to reach the source.
pub(crate) fn source(task: &Task) -> dragonfly::Settings {
    let source = &task.source;
    dragonfly::Settings {
        endpoint: endpoint(&source.address),
        tls: source.tls.as_ref().map(tls),
        username: username(&source.credentials),
        password: password(&source.credentials),
        connect_timeout: source.connect_timeout,
        announce_ip: source.announce_ip.map(|ip| ip.to_string()),
        announce_port: source.announce_port.unwrap_or(ANNOUNCED_PORT),
        task: task.name.clone(),
    }
}

/// How to reach the target.
pub(crate) fn target(task: &Task) -> target::Settings {
    let target = &task.target;
    target::Settings {
        endpoint: endpoint(&target.address),
        cluster: target.cluster.as_ref().map(seeds),
        tls: target.tls.as_ref().map(tls),
        username: username(&target.credentials),
        password: password(&target.credentials),
        connect_timeout: target.connect_timeout,
        position_db: target.position_db,
        task: task.name.clone(),
    }
}

/// What a comparison of the two is about: everything the task copies, in full. How it is gone about is as good as any.
pub(crate) fn comparison(task: &Task) -> check::Settings {
    let (source, target) = (source(task), target(task));
    let unsupported = &task.policy.on_unsupported;
    let skips = |reaction: Reaction| reaction == Reaction::Skip;
    check::Settings {
        source: Server {
            side: Side::Source,
            endpoint: source.endpoint,
            cluster: None,
            tls: source.tls,
            username: source.username,
            password: source.password,
            connect_timeout: source.connect_timeout,
        },
        target: Server {
            side: Side::Target,
            cluster: target.cluster.is_some().then(|| target.clone()),
            endpoint: target.endpoint,
            tls: target.tls,
            username: target.username,
            password: target.password,
            connect_timeout: target.connect_timeout,
        },
        scope: Scope {
            filter: task.filter.clone(),
            db_map: task.target.db_map.clone(),
            own: target::PREFIX,
            matching: None,
            sample: ALL,
        },
        mode: Mode::Full,
        lists: (task.target.positions == Positions::Transaction).then(|| Lists {
            db: task.target.position_db,
            positions: target::position_key(&task.name),
            stamps: target::stamp_key(&task.name),
            withheld: target::withheld_key(&task.name),
            foreign: target::foreign_key(&task.name),
            keeps_foreign: task.policy.conflict == Conflict::Skip,
        }),
        losses: Losses {
            member_expiry: task.policy.on_member_expiry != MemberExpiry::Stop,
            json: skips(unsupported.json),
            bloom: skips(unsupported.bloom),
            cms: skips(unsupported.cms),
            topk: skips(unsupported.topk),
            cuckoo: skips(unsupported.cuckoo),
        },
        rounds: 3,
        interval: Duration::from_millis(500),
        qps: None,
        max_memory: 8 << 20,
        tolerance: Duration::from_secs(1),
        grace: task.policy.expiry_grace,
        report: None,
        differences: None,
        audit: None,
    }
}

/// What becomes of commands that the target refuses for good.
pub(super) fn errors(task: &Task) -> Result<ErrorPolicy, TargetError> {
    Ok(match task.policy.on_error {
        Reaction::Stop => ErrorPolicy::Stop,
        Reaction::Skip => {
            let file = task
                .state_dir
                .join(format!("{}.dead-letter.jsonl", task.name));
            ErrorPolicy::Skip {
                dead_letter: Arc::new(DeadLetter::open(&file)?),
            }
        }
    })
}

/// Bytes of the budget that one of `flows` flows may use.
fn part(task: &Task, flows: u32) -> usize {
    usize::try_from(task.limits.memory / u64::from(flows.max(1))).unwrap_or(usize::MAX)
}

/// Bytes a flow may have in its spool's memory.
pub(super) fn reading(task: &Task, flows: u32) -> u64 {
    (part(task, flows) / 2).max(LEAST) as u64
}

/// Bytes a flow may have read and not yet handed to the spool.
pub(super) fn arriving(task: &Task, flows: u32) -> u64 {
    (part(task, flows) / 8).max(LEAST) as u64
}

/// Bytes from which on a value of a flow goes to a file.
pub(super) fn threshold(task: &Task, flows: u32) -> usize {
    (part(task, flows) / 4).max(LEAST)
}

/// Commands of a batch that goes to a cluster: each slot's are a transaction, so that the more of them there are at once,
/// the fewer transactions there are in all.
const COMMANDS_OF_CLUSTER: usize = 8192;

/// Sizes and times of a flow's writer.
pub(super) fn writing(task: &Task, flows: u32, timing: Timing) -> target::Limits {
    let window = (part(task, flows) / 4).max(LEAST);
    target::Limits {
        window,
        batch_bytes: BATCH.min(window / 2),
        batch_commands: match task.target.cluster {
            None => target::Limits::default().batch_commands,
            Some(_) => COMMANDS_OF_CLUSTER,
        },
        answer: timing.answer,
        spill_dir: task.state_dir.clone(),
        ..target::Limits::default()
    }
}

/// Bounds of the waits between sessions.
pub(super) fn backoff(task: &Task) -> backoff::Limits {
    backoff::Limits {
        initial: task.retry.initial,
        max: task.retry.max,
        max_elapsed: task.retry.max_elapsed,
    }
}

/// The databases a target has when it does not say.
const DATABASES: u32 = 16;

/// The part of the target that the task owns. `databases` is how many the target has.
pub(super) fn owned(task: &Arc<Task>, databases: Option<u32>) -> Owned {
    let mut mapped: Vec<u32> = match &task.filter.databases {
        Some(sources) => sources.iter().map(|db| task.target.db(*db)).collect(),
        None => (0..databases.unwrap_or(DATABASES))
            .map(|db| task.target.db(db))
            .collect(),
    };
    mapped.sort_unstable();
    mapped.dedup();
    let patterns = |globs: &[Glob]| globs.iter().map(|glob| glob.as_bytes().to_vec()).collect();
    let filter = task.filter.clone();
    Owned {
        databases: mapped,
        include: patterns(&filter.include),
        exclude: patterns(&filter.exclude),
        matches: Box::new(move |key| filter.allows_key(key)),
    }
}

/// What the task wants to own, and how.
pub(super) fn wanted(task: &Arc<Task>, databases: Option<u32>, source: String) -> Wanted {
    Wanted {
        owned: owned(task, databases),
        exclusive: task.target.exclusive,
        conflict: match task.policy.conflict {
            Conflict::Overwrite => target::Conflict::Overwrite,
            Conflict::Panic => target::Conflict::Panic,
            Conflict::Skip => target::Conflict::Skip,
        },
        source,
        mapping: format!("{:?} of {:?}", task.target.db_map, task.filter.databases),
    }
}
