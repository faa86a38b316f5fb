//! Asking one side: groups of commands in one database, at the pace that is allowed, and on the target in one
//! transaction with the task's positions when a proof needs it.
//!
//! Invariants: what is read between two [`Access::send`] under a guard is the target's state at the positions of that
//!   very transaction; the source is only ever sent commands that read, and `WATCH`.

use std::collections::HashMap;

use crate::target::{RECONCILE, Stored};

use super::error::CheckError;
use super::link::{Head, Link};
use super::pace::Pace;
use super::settings::{Server, Side};

/// Bytes that count as much as a key.
const KEY: u64 = 16 << 10;

/// What the transactions of a proof must show: positions of this master, none before these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    pub replication_id: String,
    pub lsns: Vec<u64>,
}

impl Reached {
    /// Whether the target is there.
    pub fn holds(&self, stored: &Stored) -> bool {
        match stored {
            Stored::Stable {
                replication_id,
                lsns,
            } => {
                *replication_id == self.replication_id
                    && lsns.len() == self.lsns.len()
                    && lsns.iter().zip(&self.lsns).all(|(at, to)| at >= to)
            }
            Stored::Nothing | Stored::Snapshot | Stored::Copied { .. } | Stored::Damaged { .. } => {
                false
            }
        }
    }
}

/// What a server can do, as far as it was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    /// `MEMORY USAGE`.
    pub sizes: bool,
    /// `PEXPIRETIME`; else `PTTL`.
    pub expiry_times: bool,
    /// How values are read.
    pub reads: Reads,
    /// Of single fields.
    pub field_expiry: FieldExpiry,
}

/// By which commands a server tells small values with the least work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// By those of their types: a Dragonfly.
    ByType,
    /// By `DUMP`.
    ByPayload,
}

/// What a server tells of when single fields of its hashes expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldExpiry {
    /// `HPEXPIRETIME`.
    Told,
    /// None does: it is a target from before there was such a thing.
    Never,
    /// Nothing, though some may.
    Untold,
}

#[derive(Debug)]
pub(super) struct Access {
    pub link: Link,
    pub abilities: Abilities,
    pace: Pace,
    /// What large values count against.
    large: Option<Pace>,
    /// Bytes that have been counted against it, or are not yet enough for one more key.
    counted: u64,
    /// Database and key of the record with positions.
    positions: Option<(u32, String)>,
    guard: Option<Reached>,
    /// Whether every transaction since [`Self::guard`] was as it must be.
    held: bool,
    /// Whether one of them showed that keys may be there which the source deleted long ago.
    reconciling: bool,
    /// The database of the group that is being queued.
    db: u32,
    prefix: usize,
}

impl Access {
    /// Connects, and finds out what the server can do.
    pub async fn open(
        server: &Server,
        pace: Pace,
        positions: Option<(u32, String)>,
    ) -> Result<Self, CheckError> {
        let link = Link::connect(server).await?;
        let mut access = Self {
            link,
            abilities: Abilities {
                sizes: true,
                expiry_times: true,
                reads: Reads::ByPayload,
                field_expiry: FieldExpiry::Untold,
            },
            pace,
            large: None,
            counted: 0,
            positions,
            guard: None,
            held: true,
            reconciling: false,
            db: 0,
            prefix: 0,
        };
        access.begin(0);
        access
            .link
            .queue(&[b"CLIENT", b"SETNAME", b"df2redis:check"]);
        access.link.queue(&[b"MEMORY", b"USAGE", b"df2redis:"]);
        access.link.queue(&[b"PEXPIRETIME", b"df2redis:"]);
        access
            .link
            .queue(&[b"HPEXPIRETIME", b"df2redis:", b"FIELDS", b"1", b"f"]);
        if access.side() == Side::Source {
            access.link.queue(&[b"INFO", b"server"]);
        }
        access.send().await?;
        // Refused to many users, and worth nothing but a name in a list.
        let named = access.link.head().await?;
        access.link.skip(named).await?;
        access.abilities.sizes = access.is_answered().await?;
        access.abilities.expiry_times = access.is_answered().await?;
        access.abilities.field_expiry = match access.refusal().await? {
            None => FieldExpiry::Told,
            // A Dragonfly that does not tell may have it.
            Some(answer)
                if answer.starts_with("ERR unknown command") && access.side() == Side::Target =>
            {
                FieldExpiry::Never
            }
            Some(_) => FieldExpiry::Untold,
        };
        if access.side() == Side::Source && !is_redis(&access.link.text("INFO").await?) {
            access.abilities.reads = Reads::ByType;
        }
        Ok(access)
    }

    async fn is_answered(&mut self) -> Result<bool, CheckError> {
        Ok(self.refusal().await?.is_none())
    }

    /// With what words a question was not answered; none if it was.
    async fn refusal(&mut self) -> Result<Option<String>, CheckError> {
        let head = self.link.head().await?;
        match &head {
            Head::Error(answer) if answer.starts_with("NOAUTH") => {
                Err(self.link.unexpected("a question", &head))
            }
            // A node of a cluster looks for the key only when it knows the command and the user may use it.
            Head::Error(answer) if is_elsewhere(answer) => Ok(None),
            Head::Error(answer) => Ok(Some(answer.clone())),
            _ => {
                self.link.skip(head).await?;
                Ok(None)
            }
        }
    }

    /// From now on what is received counts too, as if every so many bytes were a key.
    pub fn count_bytes(&mut self, pace: Pace) {
        self.counted = self.link.received;
        self.large = Some(pace);
    }

    /// Counts keys that have no command of their own.
    pub async fn pass(&self, keys: usize) {
        self.pace.pass(keys).await;
    }

    async fn pass_bytes(&mut self) {
        if let Some(pace) = &self.large {
            let keys = self.link.received.saturating_sub(self.counted) / KEY;
            self.counted += keys * KEY;
            if keys > 0 {
                pace.pass(usize::try_from(keys).unwrap_or(usize::MAX)).await;
            }
        }
    }

    pub fn side(&self) -> Side {
        self.link.side
    }

    /// From now on every group is one transaction that begins with the positions.
    pub fn guard(&mut self, reached: Reached) {
        self.guard = Some(reached);
        self.held = true;
        self.reconciling = false;
    }

    /// Whether, since [`Self::guard`], the task had still to look for keys that the source deleted before its full sync.
    pub fn is_reconciling(&self) -> bool {
        self.reconciling
    }

    /// No more transactions. Whether all since [`Self::guard`] were at positions as they must be.
    pub fn release(&mut self) -> bool {
        self.guard = None;
        self.held
    }

    /// Begins a group of commands in a database.
    pub fn begin(&mut self, db: u32) {
        self.db = db;
        self.prefix = 0;
        match (&self.guard, &self.positions) {
            (Some(_), Some((position_db, key))) => {
                self.link.queue(&[b"MULTI"]);
                self.link.queue(&[b"SELECT", text(*position_db).as_bytes()]);
                self.link.queue(&[b"HGETALL", key.as_bytes()]);
                self.link.queue(&[b"SELECT", text(db).as_bytes()]);
                self.prefix = 4;
            }
            _ if self.link.db != db => {
                self.link.queue(&[b"SELECT", text(db).as_bytes()]);
                self.prefix = 1;
            }
            _ => {}
        }
    }

    /// Sends the group. Its replies, and no others, are then to be read from the link.
    pub async fn send(&mut self) -> Result<(), CheckError> {
        let commands = self.link.queued();
        if self.guard.is_some() {
            self.link.queue(&[b"EXEC"]);
        }
        self.pass_bytes().await;
        self.pace.pass(self.link.queued()).await;
        self.link.flush().await?;
        if self.guard.is_some() {
            return self.executed(commands).await;
        }
        if self.prefix > 0 {
            self.selected().await?;
        }
        self.link.db = self.db;
        Ok(())
    }

    async fn selected(&mut self) -> Result<(), CheckError> {
        match self.link.head().await? {
            Head::Simple(_) => Ok(()),
            other => Err(self.link.unexpected("SELECT", &other)),
        }
    }

    /// Reads up to the first reply of the group itself.
    async fn executed(&mut self, commands: usize) -> Result<(), CheckError> {
        // MULTI is answered itself, each other one is queued.
        for _ in 0..commands {
            match self.link.head().await? {
                Head::Simple(_) => {}
                other => return Err(self.link.unexpected("a transaction", &other)),
            }
        }
        self.link.array("EXEC").await?;
        self.selected().await?;
        let (stored, reconciling) = read_record(&mut self.link).await?;
        self.reconciling |= reconciling;
        self.selected().await?;
        self.link.db = self.db;
        if let Some(reached) = &self.guard {
            self.held &= reached.holds(&stored);
        }
        Ok(())
    }

    /// The fields of a hash in a database.
    pub async fn fields(
        &mut self,
        db: u32,
        key: &[u8],
    ) -> Result<HashMap<String, String>, CheckError> {
        self.begin(db);
        self.link.queue(&[b"HGETALL", key]);
        self.send().await?;
        read_fields(&mut self.link).await
    }

    /// How far the task has come; none without positions.
    pub async fn stored(&mut self) -> Result<Option<Stored>, CheckError> {
        let Some((db, key)) = self.positions.clone() else {
            return Ok(None);
        };
        let fields = self.fields(db, key.as_bytes()).await?;
        Ok(Some(stored(&fields)))
    }

    /// Which of these are in a set.
    pub async fn members(
        &mut self,
        db: u32,
        set: &[u8],
        members: &[Vec<u8>],
    ) -> Result<Vec<bool>, CheckError> {
        self.begin(db);
        self.link.queue(&[b"SCARD", set]);
        self.send().await?;
        if self.link.integer("SCARD").await? == 0 {
            return Ok(vec![false; members.len()]);
        }
        self.begin(db);
        for member in members {
            self.link.queue(&[b"SISMEMBER", set, member]);
        }
        self.send().await?;
        let mut found = Vec::with_capacity(members.len());
        for _ in members {
            found.push(self.link.integer("SISMEMBER").await? > 0);
        }
        Ok(found)
    }

    /// The LSN of the next entry of each flow; none if the source does not say.
    pub async fn offsets(&mut self) -> Result<Option<Vec<u64>>, CheckError> {
        self.begin(self.link.db);
        self.link.queue(&[b"DFLY", b"REPLICAOFFSET"]);
        self.send().await?;
        let head = self.link.head().await?;
        let Head::Array(flows) = head else {
            if matches!(&head, Head::Error(answer) if answer.starts_with("NO")) {
                return Err(self.link.unexpected("DFLY REPLICAOFFSET", &head));
            }
            // No Dragonfly.
            self.link.skip(head).await?;
            return Ok(None);
        };
        let mut lsns = Vec::new();
        for _ in 0..flows {
            let lsn = self.link.integer("DFLY REPLICAOFFSET").await?;
            lsns.push(u64::try_from(lsn).unwrap_or(0));
        }
        Ok(Some(lsns))
    }

    /// A section of `INFO`.
    pub async fn info(&mut self, section: &str) -> Result<String, CheckError> {
        self.begin(self.link.db);
        self.link.queue(&[b"INFO", section.as_bytes()]);
        self.send().await?;
        let text = self.link.text("INFO").await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Databases that hold keys, and how many.
    pub async fn keyspace(&mut self) -> Result<Vec<(u32, u64)>, CheckError> {
        let info = self.info("keyspace").await?;
        Ok(info.lines().filter_map(database).collect())
    }
}

/// Whether a server, by what it says of itself, is none that this program replicates, but one like the targets.
fn is_redis(about: &[u8]) -> bool {
    let about = String::from_utf8_lossy(about);
    let told = |name| about.lines().any(|line| line.starts_with(name));
    told("redis_version:") && !told("dragonfly_version:")
}

/// Whether a node of a cluster says that it does not have the key.
pub(super) fn is_elsewhere(answer: &str) -> bool {
    let code = answer.split(' ').next().unwrap_or_default();
    matches!(code, "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
}

/// `db0:keys=47,expires=3,avg_ttl=0`
fn database(line: &str) -> Option<(u32, u64)> {
    let (db, rest) = line.strip_prefix("db")?.split_once(":keys=")?;
    let keys = rest.split(',').next()?.trim_end();
    Some((db.parse().ok()?, keys.parse().ok()?))
}

pub(super) fn text(number: impl ToString) -> String {
    number.to_string()
}

/// How far the task has come, and whether it has still to reconcile.
async fn read_record(link: &mut Link) -> Result<(Stored, bool), CheckError> {
    let fields = read_fields(link).await?;
    Ok((stored(&fields), fields.contains_key(RECONCILE)))
}

/// What a record says.
pub(super) fn stored(fields: &HashMap<String, String>) -> Stored {
    // One of a later release tells us nothing.
    Stored::read(fields).unwrap_or(Stored::Damaged {
        what: "its format is unknown",
    })
}

async fn read_fields(link: &mut Link) -> Result<HashMap<String, String>, CheckError> {
    let words = link.array("HGETALL").await?;
    let mut fields = HashMap::new();
    for _ in 0..words / 2 {
        let name = link.text("HGETALL").await?;
        let value = link.text("HGETALL").await?;
        fields.insert(
            String::from_utf8_lossy(&name).into_owned(),
            String::from_utf8_lossy(&value).into_owned(),
        );
    }
    Ok(fields)
}
