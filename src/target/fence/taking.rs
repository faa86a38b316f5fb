//! Taking the fence: the token goes in, and what the target holds is read, in one transaction.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use redis::{Value, cmd};

use super::clustered::{Clustered, History};
use super::{Fence, Inner, ServerId, Taken, token};
use crate::fail_point::{self, Place};
use crate::target::cluster::Found;
use crate::target::control::Control;
use crate::target::error::TargetError;
use crate::target::failed::Failed;
use crate::target::position::{self, Names, Reconcile, Stored, Withheld, of_slot};
use crate::target::settings::Settings;
use crate::target::slot::slot_of;

const DOING: &str = "taking the fence";

type Fields = HashMap<Vec<u8>, Vec<u8>>;

/// What the transaction answers.
type Answers = (
    Option<Vec<u8>>,
    (),
    Fields,
    Fields,
    Vec<Vec<u8>>,
    Vec<(Vec<u8>, f64)>,
    String,
    String,
);

/// Members of the lists beside the positions, as they are stored.
#[derive(Default)]
struct Lists {
    withheld: Vec<Vec<u8>>,
    members: Vec<(Vec<u8>, f64)>,
}

impl Fence {
    /// Takes the fence: from now on no other process of this task has effects. Reads, in the same transaction, what
    /// the target holds. Cancelled or failed, the fence may be taken and nobody's: then it has to be taken again.
    pub async fn take(control: &mut Control, settings: &Settings) -> Result<Taken, TargetError> {
        let (names, token) = (Names::for_target(settings), token());
        let answers = exchange(control, settings, &names, &token).await?;
        let (predecessor, (), record, failed, withheld, members, server, replication) = answers;
        let mut lists = Lists { withheld, members };
        let mut record = texts(record);
        if settings.cluster.is_some() {
            // Those of the flows are in the stamps.
            position::fill_in(&mut record);
        }
        let reconcile = Reconcile::read(record.get(position::RECONCILE).map(String::as_str));
        let unreadable = |key: &str, what: String| TargetError::Record {
            addr: control.addr().to_owned(),
            key: key.to_owned(),
            what,
        };
        let mut stored = Stored::read(&record).map_err(|unknown| {
            unreadable(&names.position, format!("its format is \"{}\"", unknown.0))
        })?;
        let failed = Failed::read_all(failed).map_err(|what| unreadable(&names.failed, what))?;
        let mut cluster = None;
        if control.nodes().is_some() {
            let epoch = record.remove(position::EPOCH).unwrap_or_default();
            let of = (settings, &names, &token[..]);
            cluster = Some(take_over(control, of, epoch, &mut stored, &mut lists).await?);
        }
        let fence = Self(Arc::new(Inner {
            position_db: settings.position_db,
            task: settings.task.clone(),
            names,
            token,
            predecessor,
            server: ServerId::of_info(&server, &replication),
            failed: AtomicU64::new(failed.len() as u64),
            moves: AtomicU64::new(0),
            cluster,
        }));
        if let Some(nodes) = control.nodes() {
            nodes.belong_to(&fence).await?;
            fence.held(control, DOING).await?;
        }
        let (addr, names) = (control.addr(), fence.names());
        Ok(Taken {
            withheld: lists.withheld(addr, names)?,
            members: lists.members(addr, names)?,
            fence,
            stored,
            reconcile,
            failed,
        })
    }
}

/// Stores the token and reads the rest.
async fn exchange(
    control: &mut Control,
    settings: &Settings,
    names: &Names,
    token: &[u8],
) -> Result<Answers, TargetError> {
    control.select(settings.position_db).await?;
    if let Some(nodes) = control.nodes() {
        nodes.belong_to_nobody();
    }
    // An unfinished transaction of this connection may have left something watched.
    () = control.ask(DOING, &cmd("UNWATCH")).await?;
    // Of a cluster's lists, one for each slot, all are read later, this one only to have as many answers.
    let listed = |list: &str| match settings.cluster {
        None => list.to_owned(),
        Some(_) => of_slot(list, slot_of(names.position.as_bytes())),
    };
    let commands = [
        cmd("GET").arg(&names.fence).take(),
        cmd("SET").arg(&names.fence).arg(token).take(),
        cmd("HGETALL").arg(&names.position).take(),
        cmd("HGETALL").arg(&names.failed).take(),
        cmd("SMEMBERS").arg(listed(&names.reread)).take(),
        cmd("ZRANGE")
            .arg(listed(&names.members))
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .take(),
        cmd("INFO").arg("server").take(),
        cmd("INFO").arg("replication").take(),
    ];
    fail_point::pass(Place::FenceTake);
    let answers = control
        .transact(DOING, settings.position_db, &[], &commands)
        .await?;
    fail_point::pass(Place::FenceTaken);
    let answers = answers.ok_or_else(|| TargetError::Vanished {
        addr: control.addr().to_owned(),
        what: "the fence changed while it was taken".to_owned(),
    })?;
    control.first_error(DOING, &commands, &answers)?;
    let read = redis::from_redis_value(Value::Array(answers));
    read.map_err(|error| control.error(DOING, "HGETALL", error.into()))
}

/// Cuts off whoever wrote to a cluster before, on every node, and reads what is on all of them: how far each flow has
/// come, and the lists.
async fn take_over(
    control: &mut Control,
    (settings, names, token): (&Settings, &Names, &[u8]),
    epoch: String,
    stored: &mut Stored,
    lists: &mut Lists,
) -> Result<Clustered, TargetError> {
    let addr = control.addr().to_owned();
    let Some(nodes) = control.nodes() else {
        return Err(TargetError::NotACluster { addr });
    };
    let found = Found::take_over(nodes, names, &settings.task, token).await?;
    let mut resumed = Vec::new();
    let is_stable = matches!(stored, Stored::Stable { .. });
    if let Stored::Stable { lsns, .. } | Stored::Copied { lsns, .. } = &mut *stored {
        match found.resumed(lsns.len() as u32, &epoch) {
            Ok(all) => {
                *lsns = all.iter().map(|flow| flow.next).collect();
                resumed = all.into_iter().map(Arc::new).collect();
            }
            Err(what) if is_stable => *stored = Stored::Damaged { what },
            Err(_) => *stored = Stored::Snapshot,
        }
    }
    let stale = found.stale(&settings.task);
    (lists.withheld, lists.members) = (found.withheld, found.members);
    Ok(Clustered {
        stale,
        topology: Arc::new(found.topology),
        history: Mutex::new(History { epoch, resumed }),
        keys: found.keys,
    })
}

impl Lists {
    /// The keys that are withheld.
    fn withheld(&self, addr: &str, names: &Names) -> Result<Vec<Withheld>, TargetError> {
        let withheld = self.withheld.iter().map(|member| Withheld::read(member));
        let withheld = withheld.collect::<Option<_>>();
        withheld.ok_or_else(|| no_member(addr, &names.reread))
    }

    /// The keys of which members expire, and when.
    fn members(&self, addr: &str, names: &Names) -> Result<Vec<(Withheld, i64)>, TargetError> {
        let members = self.members.iter();
        let members = members.map(|(member, at)| Some((Withheld::read(member)?, *at as i64)));
        let members = members.collect::<Option<_>>();
        members.ok_or_else(|| no_member(addr, &names.members))
    }
}

fn no_member(addr: &str, key: &str) -> TargetError {
    TargetError::Record {
        addr: addr.to_owned(),
        key: key.to_owned(),
        what: "a member is not of the form <flow>:<database>:<key>".to_owned(),
    }
}

fn texts(fields: Fields) -> HashMap<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    fields
        .into_iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}
