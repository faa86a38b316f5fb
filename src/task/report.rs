//! What there is to know of a task at one moment: what `status` shows, SIGUSR2 logs, and a stopped task leaves behind.
//!
//! Plain values, in JSON by their names here. Fields are only ever added; reading tolerates fields that are missing,
//! so that a file of an older release can be shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};
use tempfile::NamedTempFile;

use super::status::Phase;

/// A task at one moment. Times are Unix milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The task's name.
    pub task: String,
    /// The task file.
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
    /// Where the task's log is written.
    #[serde(serialize_with = "lossy")]
    pub log_file: PathBuf,
    /// The process that runs the task.
    pub pid: u32,
    /// When this report was made.
    pub at_ms: i64,
    /// When the process took up the task.
    pub started_ms: i64,
    /// Where the task is.
    pub phase: Phase,
    /// Since when.
    pub phase_since_ms: i64,
    /// How the present or last session began: resumed, or with a full sync and why; none before.
    pub began: Option<String>,
    /// Replication sessions so far, the present one included.
    pub sessions: u64,
    /// How many times the task was started again after a panic or an error that was not expected to pass.
    pub restarts: u64,
    /// Where entries come from.
    pub source: Server,
    /// Where entries go.
    pub target: Server,
    /// Keys that the source said it has when the snapshot began; none if it did not say.
    pub expected_keys: Option<u64>,
    /// Snapshot keys handed to the target, of this session.
    pub keys: u64,
    /// Bytes of keys, values and commands taken from the source, uncompressed, of this session.
    pub bytes: u64,
    /// Journal entries of stable sync that the target has confirmed, of this session.
    pub applied: u64,
    /// Entries left out by `policy.on_error` or `policy.on_unsupported`, of this session.
    pub skipped: u64,
    /// Keys and entries left out because the target cannot hold or do them, of this session.
    pub unsupported: u64,
    /// The same by kind, with the names of `policy.on_unsupported`.
    pub unsupported_by_kind: BTreeMap<String, u64>,
    /// Keys and entries copied with less than the source has, of this session.
    pub reduced: u64,
    /// Keys that are read again from the source before anything is applied to them, at this moment.
    pub withheld: u64,
    /// Keys that will be read again when members of them expire.
    pub scheduled: u64,
    /// Keys that were read again and written, of this session.
    pub reread: u64,
    /// Keys that may differ, since there were too many to be read again, of this session; until the audit has compared
    /// all keys.
    pub unverified: u64,
    /// Slots of a target that is a cluster that are on the move, so that their entries wait and no others, at this
    /// moment.
    pub moving_slots: BTreeSet<u16>,
    /// What waits for `df2redis approve`; none if nothing does.
    pub approval: Option<Approval>,
    /// The comparison in the background; none if it is off.
    pub audit: Option<Audit>,
    /// How fast it goes, over the last few seconds.
    pub rates: PerSecond,
    /// How far the target is behind the source, by its slowest flow; none before stable sync.
    pub lag: Option<Lag>,
    /// What waits on disk for the target; none while there is no session.
    pub spool: Option<SpoolReport>,
    /// By flow number; empty while there is no session.
    pub flows: Vec<Flow>,
    /// How many times the source's positions were read into `flows` in this session.
    pub offsets_read: u64,
    /// Why the last session, or the task, ended by itself.
    pub last_error: Option<LastError>,
    /// Resident memory of the process, bytes; 0 if unknown.
    pub memory_bytes: u64,
}

/// A path that JSON cannot hold is better shown nearly right than not at all.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// One end of a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Where it listens.
    pub address: String,
    /// Kind and release, once it was reached.
    pub server: Option<String>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Some(server) => write!(f, "{} ({server})", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// Rates per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PerSecond {
    /// Snapshot keys.
    pub keys: f64,
    /// Bytes taken from the source.
    pub bytes: f64,
    /// Journal entries confirmed by the target.
    pub entries: f64,
    /// Bytes sent by the source.
    pub received: f64,
}

/// A distance between source and target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lag {
    /// The flow that is furthest behind.
    pub flow: u32,
    /// Entries the source has and the target has not confirmed.
    pub entries: u64,
    /// Age of the oldest of them, milliseconds; with none: the time of the newest batch from receipt to reply.
    pub ms: u64,
}

/// What waits on disk for the target, and what was applied and is kept for a while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpoolReport {
    /// On disk, bytes.
    pub bytes: u64,
    /// Of these, applied and kept for a target that comes back older.
    pub kept_bytes: u64,
    /// The most there may be, bytes.
    pub max_bytes: u64,
    /// Free on the file system, bytes, as far as known.
    pub free_bytes: u64,
    /// On disk and still to be read back for the target, bytes.
    pub unread_bytes: u64,
    /// Age of the oldest entry that is not applied, milliseconds; none if all are.
    pub oldest_ms: Option<i64>,
    /// Flows that are read back from disk, because the target is slower than the source.
    pub flows_behind: u32,
    /// Until no flow is read back from disk any more, at the rates of the last seconds, milliseconds; none if that is
    /// never.
    pub empty_in_ms: Option<u64>,
    /// How long df2redis could be stopped and still go on from the source's ring, at the source's rate of the last
    /// seconds, milliseconds; none before stable sync, where the ring's length is not known, and without writes.
    pub ring_window_ms: Option<u64>,
    /// How long the target could be away before the spool is full, by that rate, milliseconds; none before stable sync
    /// and without writes. What is written after that lasts for the ring's time more.
    pub spool_window_ms: Option<u64>,
}

/// Keys that are to be removed from the target once somebody has approved it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Approval {
    /// Keys of the task on the target that the source does not have.
    pub gone: u64,
    /// All keys of the task on the target.
    pub owned: u64,
}

/// The comparison in the background. Keys count by the most telling of their classes, by the names of `df2redis check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// Why it stands still at this moment; none if it does not.
    pub waits: Option<String>,
    /// When the present pass began; none between two passes.
    pub pass_began_ms: Option<i64>,
    /// Keys the present pass has looked at, those of both servers.
    pub pass_keys: u64,
    /// Keys it has to look at, by what the servers say.
    pub pass_of: u64,
    /// Keys that differed, since the process took up the task.
    pub found: BTreeMap<String, u64>,
    /// Of these, those that the target then got as the source has them.
    pub repaired: BTreeMap<String, u64>,
    /// The last pass that came to its end; also of an earlier process.
    pub last: Option<AuditPass>,
    /// Why the pass before was not finished, with its causes; none if it was.
    pub error: Option<String>,
}

/// A look at every key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditPass {
    /// When it ended.
    pub ended_ms: i64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Keys of the task.
    pub keys: u64,
    /// Keys about which nothing could be said, such as those that changed at every look.
    pub unsettled: u64,
    /// Keys that differed.
    pub found: BTreeMap<String, u64>,
    /// Of these, those that the target then got as the source has them.
    pub repaired: BTreeMap<String, u64>,
}

/// One flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// Snapshot keys handed to the target.
    pub keys: u64,
    /// Bytes taken from the source, uncompressed.
    pub bytes: u64,
    /// The end of its snapshot was seen.
    pub snapshot_ended: bool,
    /// Its next LSN in the target: everything before is confirmed. None before stable sync.
    pub applied: Option<u64>,
    /// The source's own next LSN when it was last asked; none before.
    pub source_next: Option<u64>,
    /// Entries between the two.
    pub lag_entries: Option<u64>,
    /// Receipt to reply of the newest batch, microseconds.
    pub latency_us: u64,
    /// Entries left out by policy.
    pub skipped: u64,
}

/// An error that ended a session or a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastError {
    /// When.
    pub at_ms: i64,
    /// What, with its causes, in one line.
    pub text: String,
    /// What an operator can do about it.
    pub hint: Option<String>,
}

impl Report {
    /// How much of the snapshot is done, percent; none if that is not known.
    pub fn percent(&self) -> Option<u64> {
        let expected = self.expected_keys.filter(|keys| *keys > 0)?;
        match self.phase {
            Phase::Snapshot => Some((self.keys.saturating_mul(100) / expected).min(100)),
            _ => None,
        }
    }

    /// The slots that are on the move, those in a row as a range; none if there are none.
    pub fn moving(&self) -> Option<String> {
        let slots: Vec<u16> = self.moving_slots.iter().copied().collect();
        let in_a_row = |a: &u16, b: &u16| a.checked_add(1) == Some(*b);
        let ranges = slots.chunk_by(in_a_row).filter_map(|range| match range {
            [] => None,
            [slot] => Some(slot.to_string()),
            [first, .., last] => Some(format!("{first}-{last}")),
        });
        let ranges: Vec<_> = ranges.collect();
        (!ranges.is_empty()).then(|| ranges.join(", "))
    }

    /// The task in a few words, for a service manager.
    pub fn headline(&self) -> String {
        let Self { task, keys, .. } = self;
        let phase = self.phase.name();
        match (self.phase, self.lag, self.percent()) {
            (Phase::Stable, Some(lag), _) => {
                format!(
                    "{task}: {phase}, lag {} entries, {} ms",
                    lag.entries, lag.ms
                )
            }
            (Phase::Snapshot, _, Some(percent)) => {
                format!("{task}: {phase}, {keys} keys, {percent} %")
            }
            (Phase::Snapshot, _, None) => format!("{task}: {phase}, {keys} keys"),
            _ => format!("{task}: {phase}"),
        }
    }

    /// Where a task keeps the last report when it does not run.
    pub fn path(state_dir: &Path, task: &str) -> PathBuf {
        state_dir.join(format!("{task}.status.json"))
    }

    /// Writes it to `state_dir`, in place of the one before: a reader sees one or the other, whole. Mode 0600.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(state_dir)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.persist(Self::path(state_dir, &self.task))
            .map_err(|error| error.error)?;
        Ok(())
    }

    /// The last report that was saved; none if there is none.
    pub fn load(state_dir: &Path, task: &str) -> io::Result<Option<Self>> {
        let bytes = match fs::read(Self::path(state_dir, task)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(serde_json::from_slice(&bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn report() -> Report {
        Report {
            task: "orders".to_owned(),
            phase: Phase::Stable,
            lag: Some(Lag {
                flow: 1,
                entries: 3,
                ms: 12,
            }),
            flows: vec![Flow {
                applied: Some(7),
                ..Flow::default()
            }],
            last_error: Some(LastError {
                at_ms: 5,
                text: "lost".to_owned(),
                hint: None,
            }),
            ..Report::default()
        }
    }

    #[test]
    fn a_saved_report_is_read_back_whole_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Report::load(dir.path(), "orders").unwrap(), None);
        Report::default().save(dir.path()).unwrap();
        report().save(dir.path()).unwrap();
        assert_eq!(Report::load(dir.path(), "orders").unwrap(), Some(report()));
        let mode = Report::path(dir.path(), "orders").metadata().unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_report_of_another_release_is_read_as_far_as_it_goes() {
        let json = r#"{"task":"orders","phase":"snapshot","not_known_yet":1}"#;
        let read: Report = serde_json::from_str(json).unwrap();
        assert_eq!(
            (read.task.as_str(), read.phase),
            ("orders", Phase::Snapshot)
        );
    }

    #[test]
    fn slots_in_a_row_are_shown_as_a_range() {
        let shown = |slots: &[u16]| {
            let moving_slots = slots.iter().copied().collect();
            Report {
                moving_slots,
                ..report()
            }
            .moving()
        };
        assert_eq!(shown(&[]), None);
        assert_eq!(shown(&[7]).as_deref(), Some("7"));
        let several = [u16::MAX, 3, 1, 2, 9, 10];
        assert_eq!(shown(&several).as_deref(), Some("1-3, 9-10, 65535"));
    }

    #[test]
    fn the_headline_says_what_matters_in_each_phase() {
        assert_eq!(
            report().headline(),
            "orders: stable sync, lag 3 entries, 12 ms"
        );
        let snapshot = Report {
            phase: Phase::Snapshot,
            keys: 50,
            expected_keys: Some(200),
            ..report()
        };
        assert_eq!(snapshot.headline(), "orders: snapshot, 50 keys, 25 %");
    }
}
