//! Who may write for a task: the process whose token stands in the task's fence.
//!
//! Bytes of a dead process, or of a second host, can reach the target after the positions were read. So a start
//! first puts its own token into the fence, and reads in the same transaction. Every transaction of every
//! connection then stands behind `WATCH` and `GET` of the fence, whose answer is looked at before `MULTI` is sent:
//! one that was sent before the token changed is aborted by the `WATCH`, and afterwards none is sent.
//!
//! ```text
//!  take ──► Nothing, Snapshot, Damaged ──► begin_snapshot ──► writers store positions ──► begin_stable ─┐
//!       └─► Stable ──────────────────────────────────────────────────────────────────────────────────────┴─► writers
//! ```
//!
//! Invariants: what was read together with a fence is what the target holds until a [`Writer`](super::Writer) or a
//!   [`Control`] behind that very fence changes it, as long as neither reports an error; after an error everything
//!   is read again, behind a new fence.

mod clustered;
mod taking;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use redis::{Value, cmd};

use self::clustered::Clustered;
pub use self::clustered::Passed;
use super::cluster;
use super::control::Control;
use super::error::TargetError;
use super::failed::Failed;
use super::outgoing::Outgoing;
use super::position::{self, LSN, Names, Reconcile, Stored, Withheld, of_slot};
use super::profile::info_field;
use super::slot::slot_of;

/// Which server, and which history of its dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerId {
    /// Changes with every start of the server.
    pub run_id: String,
    /// Changes when its dataset may have become another one.
    pub replication_id: String,
}

impl ServerId {
    /// From the answers to `INFO server` and `INFO replication`.
    pub(super) fn of_info(server: &str, replication: &str) -> Self {
        let text = |info, name| info_field(info, name).unwrap_or_default().to_owned();
        Self {
            run_id: text(server, "run_id"),
            replication_id: text(replication, "master_replid"),
        }
    }
}

/// The right to write for a task, until somebody else takes it. Cheap to clone: all flows share one.
#[derive(Debug, Clone)]
pub struct Fence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    position_db: u32,
    task: String,
    names: Names,
    token: Vec<u8>,
    /// The one that stood there before.
    predecessor: Option<Vec<u8>>,
    server: ServerId,
    /// Failed entries that are recorded.
    failed: AtomicU64,
    /// How often a flow has found slots of a cluster elsewhere.
    moves: AtomicU64,
    cluster: Option<Clustered>,
}

/// A fence, and what the target held when it was taken.
#[derive(Debug)]
pub struct Taken {
    /// The fence.
    pub fence: Fence,
    /// How far the task has come.
    pub stored: Stored,
    /// Keys that were withheld when the positions were stored, of all flows.
    pub withheld: Vec<Withheld>,
    /// Keys of which members expire, and when the first does: Unix milliseconds by the source's clock.
    pub members: Vec<(Withheld, i64)>,
    /// What is left to do about keys that the source may have deleted unseen.
    pub reconcile: Reconcile,
    /// Entries the target has refused and nobody has settled, in the order of flows and LSNs. With
    /// `on_error = "stop"` nothing may be written before they are.
    pub failed: Vec<Failed>,
}

impl Fence {
    /// The server it was taken on.
    pub fn server(&self) -> &ServerId {
        &self.0.server
    }

    /// Records that a full sync begins: whoever starts before it has finished begins another one. Stored positions
    /// and failed entries are forgotten, since what they are about is copied anew. `of` is the master's replication id
    /// and its number of flows, where one is reached already. `reconcile` says whether keys are there that the source
    /// may not have. Comes before the writers.
    pub async fn begin_snapshot(
        &self,
        control: &mut Control,
        of: Option<(&str, u32)>,
        reconcile: bool,
        now_ms: i64,
    ) -> Result<(), TargetError> {
        const DOING: &str = "recording the start of a full sync";
        let names = &self.0.names;
        control.select(self.0.position_db).await?;
        let mut list = cmd("HKEYS");
        list.arg(&names.position);
        let fields: Vec<Vec<u8>> = control.ask("reading the record's fields", &list).await?;
        let mut forget = cmd("HDEL");
        forget
            .arg(&names.position)
            .arg(position::REPLID)
            .arg("flows");
        let positions = fields
            .iter()
            .filter(|field| field.starts_with(LSN.as_bytes()));
        positions.for_each(|field| {
            forget.arg(field);
        });
        let mut phase = cmd("HSET");
        phase
            .arg(&names.position)
            .arg(position::PHASE)
            .arg("snapshot");
        phase.arg("updated_ms").arg(now_ms);
        if let Some((replication_id, flows)) = of {
            for (name, text) in position::origin_fields(replication_id, flows) {
                phase.arg(name).arg(text);
            }
        }
        match reconcile {
            true => phase.arg(position::RECONCILE).arg(Reconcile::Due.name()),
            false => forget.arg(position::RECONCILE),
        };
        let mut settled = cmd("UNLINK").arg(&names.failed).take();
        match &self.0.cluster {
            None => drop(settled.arg(&names.reread).arg(&names.members)),
            Some(clustered) => {
                let epoch = format!("{:08x}", rand::random::<u32>());
                phase.arg(position::EPOCH).arg(&epoch);
                let keys = clustered.keys.iter();
                let unlink: Vec<_> = keys.map(|key| cmd("UNLINK").arg(key).take()).collect();
                self.each(control, DOING, &unlink).await?;
                clustered.begin(epoch);
            }
        }
        self.write(control, DOING, &[forget, phase, settled])
            .await?;
        self.0.failed.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Records that stable sync has begun: whoever starts from now on resumes at the positions. Every flow's snapshot
    /// is in the target, and every writer has [stored](super::Writer::stored) a position.
    pub async fn begin_stable(
        &self,
        control: &mut Control,
        replication_id: &str,
        flows: u32,
        now_ms: i64,
    ) -> Result<(), TargetError> {
        let mut phase = cmd("HSET");
        phase.arg(&self.0.names.position);
        for (name, text) in position::stable_fields(replication_id, flows) {
            phase.arg(name).arg(text);
        }
        phase.arg("updated_ms").arg(now_ms);
        self.write(control, "recording the start of stable sync", &[phase])
            .await
    }

    /// Records what is left to do about keys that the source may have deleted unseen.
    pub async fn set_reconcile(
        &self,
        control: &mut Control,
        reconcile: Reconcile,
    ) -> Result<(), TargetError> {
        let mut command = match reconcile {
            Reconcile::Nothing => cmd("HDEL"),
            _ => cmd("HSET"),
        };
        command.arg(&self.0.names.position).arg(position::RECONCILE);
        if reconcile != Reconcile::Nothing {
            command.arg(reconcile.name());
        }
        self.write(control, "recording what is left to reconcile", &[command])
            .await
    }

    /// Appends the command that notes a key as withheld by a flow. It belongs in an item of the position database, in
    /// the transaction that passes the entry which is to blame.
    pub fn enlist(&self, out: &mut Outgoing, flow: u32, db: u32, key: &[u8]) {
        self.list(out, b"SADD", flow, db, key);
    }

    /// Appends the command that ends that. It belongs behind the write that makes the key right again.
    pub fn unlist(&self, out: &mut Outgoing, flow: u32, db: u32, key: &[u8]) {
        self.list(out, b"SREM", flow, db, key);
    }

    fn list(&self, out: &mut Outgoing, command: &[u8], flow: u32, db: u32, key: &[u8]) {
        let list = self.list_of(&self.0.names.reread, key);
        let key = key.to_vec();
        let member = Withheld { flow, db, key }.member();
        out.command(3, None);
        out.word(command);
        out.word(list.as_bytes());
        out.word(&member);
    }

    /// The list in which a key stands: in a cluster, that of its slot.
    fn list_of<'n>(&self, list: &'n str, key: &[u8]) -> Cow<'n, str> {
        match self.0.cluster {
            None => list.into(),
            Some(_) => of_slot(list, slot_of(key)).into(),
        }
    }

    /// Appends the command that notes when the first member of a flow's key expires: Unix milliseconds. It belongs in
    /// an item of the position database, in the transaction that passes the entry which says so.
    pub fn schedule(&self, out: &mut Outgoing, flow: u32, db: u32, key: &[u8], at_ms: i64) {
        let list = self.list_of(&self.0.names.members, key);
        let key = key.to_vec();
        let member = Withheld { flow, db, key }.member();
        out.command(4, None);
        out.word(b"ZADD");
        out.word(list.as_bytes());
        out.int(at_ms);
        out.word(&member);
    }

    /// Appends the command that ends that. It belongs in the transaction that withholds the key.
    pub fn unschedule(&self, out: &mut Outgoing, flow: u32, db: u32, key: &[u8]) {
        let list = self.list_of(&self.0.names.members, key);
        let key = key.to_vec();
        let member = Withheld { flow, db, key }.member();
        out.command(3, None);
        out.word(b"ZREM");
        out.word(list.as_bytes());
        out.word(&member);
    }

    /// Moves the positions of all flows at once, past a global command: by flow, the LSN of the next entry. Those that
    /// have none yet are left out. No writer has anything unanswered; each of these is then told with
    /// [`Writer::stands_at`](super::Writer::stands_at).
    pub async fn move_all(
        &self,
        control: &mut Control,
        lsns: &[(u32, u64)],
    ) -> Result<(), TargetError> {
        if lsns.is_empty() {
            return Ok(());
        }
        if self.is_of_cluster() {
            return self.move_stamps(control, lsns).await;
        }
        let mut store = cmd("HSET");
        store.arg(&self.0.names.position);
        for (flow, lsn) in lsns {
            store.arg(position::lsn_field(*flow)).arg(*lsn);
        }
        self.write(control, "storing the positions of all flows", &[store])
            .await
    }

    /// Whether the fence is still this one's.
    pub(super) async fn held(&self, control: &mut Control, doing: &str) -> Result<(), TargetError> {
        let token: Option<Vec<u8>> = control.ask(doing, &self.question()).await?;
        self.check(control.addr(), token)
    }

    /// What is answered with the token that stands there; see [`check`](Self::check).
    pub(super) fn question(&self) -> redis::Cmd {
        cmd("GET").arg(&self.0.names.fence).take()
    }

    /// Writes to the position database. No answer may be an error.
    async fn write(
        &self,
        control: &mut Control,
        doing: &str,
        commands: &[redis::Cmd],
    ) -> Result<(), TargetError> {
        let answers = self.commit(control, doing, 0, &[], commands).await?;
        control.first_error(doing, commands, &answers)
    }

    /// Runs `there` in database `db` and then `here` in the position database, in one transaction behind the fence.
    /// Yields all answers, each of which may be an error. In a cluster all keys are in the slot of the fence; for others
    /// there is [`each`](Self::each).
    pub(super) async fn commit(
        &self,
        control: &mut Control,
        doing: &str,
        db: u32,
        there: &[redis::Cmd],
        here: &[redis::Cmd],
    ) -> Result<Vec<Value>, TargetError> {
        let inner = &*self.0;
        control.select(inner.position_db).await?;
        if inner.cluster.is_some() {
            let home = slot_of(inner.names.fence.as_bytes());
            let mut keys = there.iter().chain(here).filter_map(cluster::first_key);
            if keys.any(|key| slot_of(key) != home) {
                // A cluster would say so itself, after a while of redirects.
                debug_assert!(false, "{doing}: no transaction reaches over slots");
                return Err(TargetError::Answer {
                    addr: control.addr().to_owned(),
                    doing: doing.to_owned(),
                    answer: "the keys of a transaction are in different slots".to_owned(),
                });
            }
        }
        let read = self.question();
        let mut questions = redis::pipe();
        questions.cmd("WATCH").arg(&inner.names.fence).ignore();
        questions.add_command(read.clone());
        questions.cmd("INFO").arg("server");
        questions.cmd("INFO").arg("replication");
        let (token, server, replication): (Option<Vec<u8>>, String, String) =
            control.ask_all(doing, "WATCH", &questions).await?;
        self.check(control.addr(), token)?;
        if ServerId::of_info(&server, &replication) != inner.server {
            return Err(TargetError::Replaced {
                addr: control.addr().to_owned(),
            });
        }
        match control.transact(doing, db, there, here).await? {
            Some(answers) => Ok(answers),
            None => {
                let token: Option<Vec<u8>> = control.ask(doing, &read).await?;
                self.check(control.addr(), token)?;
                Err(rewritten(control.addr()))
            }
        }
    }

    /// Whether what stands in the fence is this one's token, and if not, what that means.
    pub(super) fn check(&self, addr: &str, found: Option<Vec<u8>>) -> Result<(), TargetError> {
        match found {
            Some(token) if token == self.0.token => Ok(()),
            // A replica that did not know of this process yet has taken its master's place.
            Some(_) if found == self.0.predecessor => Err(rewritten(addr)),
            Some(other) => Err(TargetError::TakenOver {
                addr: addr.to_owned(),
                holder: holder(&other),
            }),
            None => Err(TargetError::Vanished {
                addr: addr.to_owned(),
                what: format!("{} is gone", self.0.names.fence),
            }),
        }
    }

    /// A flow has found slots elsewhere: the others look too, as none of their entries may tell them. Answers what
    /// [`moves`](Self::moves) says from then on.
    pub(super) fn note_move(&self) -> u64 {
        self.0.moves.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How often that was.
    pub(super) fn moves(&self) -> u64 {
        self.0.moves.load(Ordering::Relaxed)
    }

    pub(super) fn position_db(&self) -> u32 {
        self.0.position_db
    }

    pub(super) fn names(&self) -> &Names {
        &self.0.names
    }

    /// Counts one more failed entry, unless there are `most` already.
    pub(super) fn count_failed(&self, most: u64) -> bool {
        let count = |count| (count < most).then_some(count + 1);
        let counted = self
            .0
            .failed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        counted.is_ok()
    }
}

/// The fence was written to, and holds the same token again: the dataset was replaced by a copy of itself.
pub(super) fn rewritten(addr: &str) -> TargetError {
    TargetError::Vanished {
        addr: addr.to_owned(),
        what: "its dataset was replaced".to_owned(),
    }
}

/// What begins all tokens of this process, and no other's.
static PROCESS: LazyLock<u64> = LazyLock::new(rand::random);

/// Whether this process has made a token.
fn is_own(token: &[u8]) -> bool {
    token.starts_with(format!("{:016x}", *PROCESS).as_bytes())
}

/// A token that no other take of a fence yields, and that tells an operator whose it is.
fn token() -> Vec<u8> {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host: String = host
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_graphic)
        .take(64)
        .collect();
    let random: u64 = rand::random();
    let process = *PROCESS;
    format!("{process:016x}{random:016x} {} {host}", std::process::id()).into_bytes()
}

/// Who wrote a token.
fn holder(token: &[u8]) -> String {
    let text = String::from_utf8_lossy(token);
    let mut words = text.split(' ').skip(1);
    match (words.next(), words.next()) {
        (Some(pid), Some(host)) if !host.is_empty() => {
            format!(
                "process {} on host {}",
                pid.escape_default(),
                host.escape_default()
            )
        }
        _ => format!("its token is \"{}\"", token.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tokens_are_equal_and_each_tells_whose_it_is() {
        let (one, another) = (token(), token());
        assert_ne!(one, another);
        assert!(is_own(&one) && is_own(&another) && !is_own(b"0af9 77 host"));
        assert!(one.len() < 200);
        let told = holder(&one);
        let expected = format!("process {} on host ", std::process::id());
        assert!(told.starts_with(&expected), "{told}");
        assert_eq!(holder(b"x\n"), "its token is \"x\\n\"");
    }
}
