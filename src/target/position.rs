//! What a task keeps of itself on the target: names of the keys, and the record with its positions.
//!
//! All of them are in the position database, but for `tmp`, which is where the key it becomes is.
//!
//! ```text
//!  df2redis:fence:<task>      string  token of the process that may write      see `fence`
//!  df2redis:position:<task>   hash    claim and positions                      below
//!  df2redis:failed:<task>     hash    entries the target refused, as JSON      see `failed`
//!  df2redis:reread:<task>     set     keys to be read again, `<flow>:<db>:<key>` with the source's database
//!  df2redis:members:<task>    sorted set  keys of which members expire, as in `reread`; the score is when, in Unix ms
//!  df2redis:foreign:<task>    set     keys that were there first, `<db>:<key>` see `ownership`
//!  df2redis:tmp:<task>:<key>  a value that is being built                      see `form`
//! ```
//!
//! In a cluster, what is written together with the record is in its slot, and what is written together with a key is in
//! that key's: their names end in a hash tag, `:{<tag>}`. There are besides
//!
//! ```text
//!  df2redis:position:<task>:{<tag>}   hash   positions of flows in one slot    see `cluster`
//!  df2redis:stamp:<task>:{<tag>}      hash   positions of flows on one node    see `cluster`
//! ```
//!
//! In a cluster there is `df2redis:foreign:<task>:{<tag>}`, one for each slot with such keys, which then is
//! where they are.
//!
//! Fields of the record:
//!
//! ```text
//!  format                                     version of the record: 1
//!  task, source, mapping,                     the claim, written at every start; positions count only as long as
//!   databases, include, exclude               it says the same
//!  exclusive, conflict, decided               what was decided about keys that were there first
//!  epoch                                      in a cluster: names the last full sync
//!  updated_ms                                 when a process last wrote one of these fields
//!  phase                                      claimed | snapshot | stable
//!  reconcile                                  due | approved: keys may be there that the source deleted
//!  replid                                     the master's replication id
//!  flows                                      number of flows
//!  lsn:<flow>                                 position: the LSN of the next entry
//! ```
//!
//! Invariants: `lsn:<flow>` moves in the transaction of the writes it covers, and never otherwise but at a
//!   flush, where all move at once. A flow stores its first one with the end of its snapshot, when the phase is not yet
//!   `stable`; a start goes by it only when it is. When a full sync begins, all `lsn:` are removed with the change of
//!   phase, and `replid` and `flows` are those of this full sync.

use std::collections::HashMap;

use super::control::Control;
use super::error::TargetError;
use super::settings::Settings;
use super::slot::{slot_of, tag_of};

/// What all keys of df2redis begin with.
pub const PREFIX: &[u8] = b"df2redis:";
/// What the keys with positions and claims begin with.
pub(super) const POSITIONS: &str = "df2redis:position:";
/// Version of the record.
pub(super) const FORMAT: &str = "1";
/// The field with the phase, which is there from the first full sync on.
pub(super) const PHASE: &str = "phase";
/// The field with the master's replication id; positions of none mean nothing.
pub(super) const REPLID: &str = "replid";
/// The field that says that keys may be there which the source deleted before the last full sync.
pub const RECONCILE: &str = "reconcile";
/// The field that tells one full sync of a cluster from another: stamps and positions of slots belong to one.
pub(super) const EPOCH: &str = "epoch";
/// What the fields with positions begin with.
pub(super) const LSN: &str = "lsn:";

/// Names of a task's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub fence: String,
    pub position: String,
    pub failed: String,
    pub reread: String,
    pub members: String,
    pub foreign: String,
    /// What the names of temporary keys begin with.
    pub tmp: String,
}

impl Names {
    pub fn of(task: &str) -> Self {
        Self {
            fence: format!("df2redis:fence:{task}"),
            position: position_key(task),
            failed: format!("df2redis:failed:{task}"),
            reread: format!("df2redis:reread:{task}"),
            members: format!("df2redis:members:{task}"),
            foreign: format!("df2redis:foreign:{task}"),
            tmp: format!("df2redis:tmp:{task}:"),
        }
    }

    /// Of a task with this target. In a cluster, what is written in one transaction is in the record's slot; the list of
    /// keys to be read again is one for each slot, named by [`of_slot`].
    pub fn for_target(settings: &Settings) -> Self {
        let mut names = Self::of(&settings.task);
        if settings.cluster.is_some() {
            let slot = slot_of(names.position.as_bytes());
            names.fence = of_slot(&names.fence, slot);
            names.failed = of_slot(&names.failed, slot);
        }
        names
    }
}

/// A name's variant in a slot of a cluster.
pub(super) fn of_slot(name: &str, slot: u16) -> String {
    format!("{name}:{{{}}}", tag_of(slot))
}

/// The key of a task's record.
pub fn position_key(task: &str) -> String {
    format!("{POSITIONS}{task}")
}

/// Whether the record says that a start goes on where the target is.
pub async fn is_stable(control: &mut Control, settings: &Settings) -> Result<bool, TargetError> {
    control.select(settings.position_db).await?;
    let phase = redis::cmd("HGET")
        .arg(position_key(&settings.task))
        .arg(PHASE)
        .take();
    let phase: Option<String> = control.ask("reading the task's record", &phase).await?;
    Ok(phase.as_deref() == Some("stable"))
}

/// What the keys of a task's stamps begin with: positions on each node of a cluster.
pub fn stamp_key(task: &str) -> String {
    format!("df2redis:stamp:{task}")
}

/// The key of the set of a task's keys that were there first.
pub fn foreign_key(task: &str) -> String {
    Names::of(task).foreign
}

/// A member of that set: a key of a database of the target.
pub fn foreign_member(db: u32, key: &[u8]) -> Vec<u8> {
    [format!("{db}:").as_bytes(), key].concat()
}

/// The key of the set of a task's keys that are to be read again from the source.
pub fn withheld_key(task: &str) -> String {
    Names::of(task).reread
}

/// The field with a flow's position.
pub(super) fn lsn_field(flow: u32) -> String {
    format!("{LSN}{flow}")
}

/// How far a task has come on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// Nothing was ever copied: a full sync follows.
    Nothing,
    /// A full sync was begun and did not finish: another one follows.
    Snapshot,
    /// The same, but that it brought everything: only that stable sync has begun is not recorded. Who saw this full sync
    /// end may record it still; to others it is [`Snapshot`](Self::Snapshot).
    Copied {
        /// The master's replication id.
        replication_id: String,
        /// By flow: the LSN of the next entry.
        lsns: Vec<u64>,
    },
    /// Stable sync: the target holds every entry before these positions, and none after.
    Stable {
        /// The master's replication id; positions of another one mean nothing.
        replication_id: String,
        /// By flow: the LSN of the next entry.
        lsns: Vec<u64>,
    },
    /// The record is incomplete, so somebody has tampered with it: a full sync follows.
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
}

/// What is left to do about keys that may be on the target although the source deleted them unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconcile {
    /// Nothing: there are none.
    Nothing,
    /// They are to be looked for, and removed.
    Due,
    /// The same, however many they are.
    Approved,
}

impl Reconcile {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Due => "due",
            Self::Approved => "approved",
        }
    }

    /// What is not known is looked into once more, which does no harm.
    pub(super) fn read(field: Option<&str>) -> Self {
        match field {
            None => Self::Nothing,
            Some("approved") => Self::Approved,
            Some(_) => Self::Due,
        }
    }
}

/// A key that a flow does not write before it has read it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// Which flow.
    pub flow: u32,
    /// Database of the source.
    pub db: u32,
    /// The key.
    pub key: Vec<u8>,
}

impl Withheld {
    /// As it stands in the set of them.
    pub fn member(&self) -> Vec<u8> {
        let mut member = format!("{}:{}:", self.flow, self.db).into_bytes();
        member.extend_from_slice(&self.key);
        member
    }

    pub(super) fn read(member: &[u8]) -> Option<Self> {
        let mut parts = member.splitn(3, |byte| *byte == b':');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
        let (flow, db) = (number()?, number()?);
        let key = parts.next()?.to_vec();
        Some(Self { flow, db, key })
    }
}

/// The record is of a version that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFormat(pub String);

impl Stored {
    /// Reads the fields of a record; none is no record. Allocates no more than the fields hold.
    pub fn read(fields: &HashMap<String, String>) -> Result<Self, UnknownFormat> {
        let text = |name: &str| fields.get(name).map(String::as_str);
        match text("format") {
            Some(FORMAT) => {}
            Some(other) => return Err(UnknownFormat(other.to_owned())),
            None if fields.is_empty() => return Ok(Self::Nothing),
            None => {
                return Ok(Self::Damaged {
                    what: "it has no format",
                });
            }
        }
        Ok(match text(PHASE) {
            None | Some("claimed") => Self::Nothing,
            Some("snapshot") => match (text(REPLID), lsns(fields)) {
                (Some(replid), Some(lsns)) if !replid.is_empty() => Self::Copied {
                    replication_id: replid.to_owned(),
                    lsns,
                },
                _ => Self::Snapshot,
            },
            Some("stable") => match (text(REPLID), lsns(fields)) {
                (Some(replid), Some(lsns)) if !replid.is_empty() => Self::Stable {
                    replication_id: replid.to_owned(),
                    lsns,
                },
                (None | Some(_), Some(_)) => Self::Damaged {
                    what: "it has no replication id",
                },
                (_, None) => Self::Damaged {
                    what: "a flow's position is missing",
                },
            },
            Some(_) => Self::Damaged {
                what: "its phase is unknown",
            },
        })
    }
}

/// The fields that say which master's positions there are, and of how many flows.
pub(super) fn origin_fields(replication_id: &str, flows: u32) -> [(&'static str, String); 2] {
    [
        (REPLID, replication_id.to_owned()),
        ("flows", flows.to_string()),
    ]
}

/// The fields that say that stable sync has begun, besides the positions.
pub(super) fn stable_fields(replication_id: &str, flows: u32) -> [(&'static str, String); 3] {
    let [replid, flows] = origin_fields(replication_id, flows);
    [(PHASE, "stable".to_owned()), replid, flows]
}

/// Most flows whose positions are looked for in stamps: a Dragonfly has no more shards than this.
const MOST_FLOWS: u32 = 4096;

/// Gives a cluster's record, which has no positions, one for each of its flows; what they are is in the stamps.
pub(super) fn fill_in(fields: &mut HashMap<String, String>) {
    let flows = fields.get("flows").and_then(|flows| flows.parse().ok());
    for flow in 0..flows.filter(|flows| *flows <= MOST_FLOWS).unwrap_or(0) {
        fields.insert(lsn_field(flow), "0".to_owned());
    }
}

/// The positions of all flows. `None` if one is missing or no number.
fn lsns(fields: &HashMap<String, String>) -> Option<Vec<u64>> {
    let flows: u32 = fields.get("flows")?.parse().ok()?;
    // Ends at the first one that is missing.
    let found = (0..flows).map_while(|flow| fields.get(&lsn_field(flow))?.parse().ok());
    let found: Vec<u64> = found.collect();
    (flows > 0 && found.len() as u64 == u64::from(flows)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(replid: &str, lsns: &[u64]) -> HashMap<String, String> {
        let mut fields: HashMap<String, String> = [("format", FORMAT), ("task", "t")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into();
        for (flow, lsn) in (0..).zip(lsns) {
            fields.insert(lsn_field(flow), lsn.to_string());
        }
        for (name, text) in stable_fields(replid, lsns.len() as u32) {
            fields.insert(name.to_owned(), text);
        }
        fields
    }

    #[test]
    fn positions_count_only_in_stable_sync_and_only_in_a_known_format() {
        let mut fields = record("abc", &[7, 8]);
        for (phase, stored) in [
            ("claimed", Stored::Nothing),
            (
                "snapshot",
                Stored::Copied {
                    replication_id: "abc".to_owned(),
                    lsns: vec![7, 8],
                },
            ),
            (
                "else",
                Stored::Damaged {
                    what: "its phase is unknown",
                },
            ),
        ] {
            fields.insert("phase".to_owned(), phase.to_owned());
            assert_eq!(Stored::read(&fields), Ok(stored));
        }
        fields.insert("format".to_owned(), "2".to_owned());
        assert_eq!(Stored::read(&fields), Err(UnknownFormat("2".to_owned())));
        fields.remove("format");
        assert!(matches!(Stored::read(&fields), Ok(Stored::Damaged { .. })));
        assert_eq!(Stored::read(&HashMap::new()), Ok(Stored::Nothing));
    }

    #[test]
    fn a_flow_count_that_nothing_stands_behind_costs_nothing() {
        let mut fields = record("abc", &[7, 8]);
        fields.insert("flows".to_owned(), u32::MAX.to_string());
        assert!(matches!(Stored::read(&fields), Ok(Stored::Damaged { .. })));
        fields.insert("flows".to_owned(), "0".to_owned());
        assert!(matches!(Stored::read(&fields), Ok(Stored::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn withheld_keys_are_read_as_they_were_written(flow: u32, db: u32, key: Vec<u8>, other: Vec<u8>) {
            let withheld = Withheld { flow, db, key };
            prop_assert_eq!(Withheld::read(&withheld.member()), Some(withheld));
            let _ = Withheld::read(&other);
        }

        #[test]
        fn positions_are_read_as_they_were_written(
            replication_id in "[0-9a-f]{1,40}",
            lsns in prop::collection::vec(any::<u64>(), 1..40),
        ) {
            let stored = Stored::read(&record(&replication_id, &lsns));
            prop_assert_eq!(stored, Ok(Stored::Stable { replication_id, lsns }));
        }

        #[test]
        fn a_record_that_lost_or_changed_a_field_is_never_taken_for_other_positions(
            lsns in prop::collection::vec(any::<u64>(), 1..9),
            hit in any::<prop::sample::Index>(),
            instead in prop::option::of("[^0-9]{0,5}"),
        ) {
            let mut fields = record("abc", &lsns);
            let mut names: Vec<_> = fields
                .keys()
                .filter(|name| name.as_str() == "flows" || name.starts_with(LSN))
                .cloned()
                .collect();
            names.sort();
            let name = hit.get(&names).clone();
            match instead {
                Some(text) => fields.insert(name, text),
                None => fields.remove(&name),
            };
            let is_damaged = matches!(Stored::read(&fields), Ok(Stored::Damaged { .. }));
            prop_assert!(is_damaged);
        }

        #[test]
        fn any_fields_are_read_without_harm(
            fields in prop::collection::hash_map("format|phase|replid|flows|lsn:[0-9]", "1|stable|.{0,20}", 0..9),
        ) {
            if let Ok(Stored::Stable { lsns, .. }) = Stored::read(&fields) {
                prop_assert!(lsns.len() < fields.len());
            }
        }
    }
}
