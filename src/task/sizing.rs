//! Whether a full sync can fit, by what the last one of this task has shown.
//!
//! What waits is the difference of two rates: where the target takes half of what the source sends, half of the data
//! has to wait. Nothing is known of them at the first time; the last full sync is remembered in the state directory.
//! Invariant: a full sync that filled the spool is not started a second time while everything that matters is the same.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::BinaryBytes;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::config::{OnFull, Task};
use crate::source::dragonfly::{Monitor, SourceError};
use crate::spool;

use super::millis;

/// Of what is remembered.
const FORMAT: u32 = 1;

/// Free space and data come and go a little; less than this part of it is no change.
const TENTH: u64 = 10;

/// What a full sync depends on. Bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Conditions {
    source: String,
    target: String,
    /// In use at the source; none if it does not tell.
    used_memory: Option<u64>,
    memory: u64,
    max_size: u64,
    min_free: u64,
    /// Free on the file system, with what the task's own spool has.
    free: u64,
    /// The source waits for the target when the spool is full.
    throttles: bool,
    /// The source's flag `snapshot_egress_limit_bytes`; none where it has no such flag, or does not tell.
    egress_limit: Option<u64>,
}

/// How a full sync ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ended {
    /// All of it was read.
    Read,
    /// The spool was full.
    SpoolFull,
}

/// A full sync, as far as it has shown the two rates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastFullSync {
    format: u32,
    conditions: Conditions,
    ended: Ended,
    /// Bytes the source had sent by then, uncompressed.
    received: u64,
    /// Of these, handed to the target.
    applied: u64,
    took_ms: u64,
}

/// Why a full sync is not started. Bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// The last one filled the spool, and nothing that matters has changed.
    pub again: bool,
    /// In use at the source, if it tells.
    pub used_memory: Option<u64>,
    /// What would have to wait, by the last full sync's rates.
    pub needed: u64,
    /// What memory and spool can hold.
    pub room: u64,
    /// What the source sent and the target took last time, per second.
    pub rates: (u64, u64),
    /// The source has a flag that paces it.
    pub can_be_paced: bool,
    /// Bytes to be left free besides.
    pub min_free: u64,
    /// Where the last full sync is remembered.
    pub file: PathBuf,
}

impl TooLarge {
    /// What the operator can do.
    pub(super) fn hint(&self) -> String {
        let (needed, free) = (
            BinaryBytes(self.needed),
            BinaryBytes(self.needed.saturating_add(self.min_free)),
        );
        let pace = match self.can_be_paced {
            true => format!(
                "pace the source: CONFIG SET snapshot_egress_limit_bytes, to less than the {} bytes a second that the \
                 target took; ",
                self.rates.1
            ),
            false => String::new(),
        };
        format!(
            "one of these: set spool.max_size to more than {needed} and have more than {free} free; {pace}set \
             spool.on_full to \"throttle\", which holds up the source's own clients; or, if the target is faster now, \
             remove {}",
            self.file.display()
        )
    }
}

impl Conditions {
    /// As they are now.
    pub(super) async fn read(task: &Task, monitor: &mut Monitor) -> Result<Self, SourceError> {
        let memory = monitor.info("memory").await?.unwrap_or_default();
        let used_memory = memory
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:")?.trim_end().parse().ok());
        let egress_limit = monitor.setting("snapshot_egress_limit_bytes").await?;
        // What cannot be read is found out by the spool, which says what is wrong.
        let free = spool::free_bytes(&task.state_dir).unwrap_or(u64::MAX);
        let own = spool::used_bytes(&super::backlog::dir(task)).unwrap_or(0);
        Ok(Self {
            source: task.source.address.to_string(),
            target: task.target.address.to_string(),
            used_memory,
            memory: task.limits.memory,
            max_size: task.spool.max_size,
            min_free: task.spool.min_free,
            free: free.saturating_add(own),
            throttles: task.spool.on_full == OnFull::Throttle,
            egress_limit: egress_limit.and_then(|limit| limit.parse().ok()),
        })
    }

    /// What the source has in use, if it tells.
    pub(super) fn used_memory(&self) -> Option<u64> {
        self.used_memory
    }

    /// What can wait.
    pub(super) fn room(&self) -> u64 {
        let spool = self.free.saturating_sub(self.min_free).min(self.max_size);
        spool.saturating_add(self.memory)
    }

    /// Whether a full sync that filled the spool before may fit now.
    fn may_do_better_than(&self, before: &Self) -> bool {
        let set = |it: &Self| (it.memory, it.max_size, it.min_free, it.egress_limit);
        let (room, had) = (self.room(), before.room());
        let smaller = match (self.used_memory, before.used_memory) {
            (Some(now), Some(then)) => now < then - then / TENTH,
            _ => false,
        };
        set(self) != set(before) || room > had.saturating_add(had / TENTH) || smaller
    }
}

impl LastFullSync {
    pub(super) fn new(
        conditions: Conditions,
        ended: Ended,
        received: u64,
        applied: u64,
        took: Duration,
    ) -> Self {
        Self {
            format: FORMAT,
            conditions,
            ended,
            received,
            applied: applied.min(received),
            took_ms: millis(took).max(1),
        }
    }

    /// What would have to wait with `used_memory` at the source.
    fn needs(&self, used_memory: Option<u64>) -> u64 {
        let waited = self.received - self.applied;
        let part = |of: u64| {
            let needed = u128::from(of) * u128::from(waited) / u128::from(self.received.max(1));
            u64::try_from(needed).unwrap_or(u64::MAX)
        };
        match (self.ended, used_memory, self.conditions.used_memory) {
            (Ended::Read, Some(now), Some(then)) if then > 0 => {
                let needed = u128::from(waited) * u128::from(now) / u128::from(then);
                u64::try_from(needed).unwrap_or(u64::MAX)
            }
            (Ended::Read, ..) => waited,
            // All of it was more than what had come by then.
            (Ended::SpoolFull, now, _) => part(now.unwrap_or(0).max(self.received)).max(waited),
        }
    }

    fn rates(&self) -> (u64, u64) {
        let per_second = |bytes: u64| bytes.saturating_mul(1_000) / self.took_ms.max(1);
        (per_second(self.received), per_second(self.applied))
    }

    /// Whether a full sync under these conditions makes sense, as far as this one tells.
    pub(super) fn judge(&self, now: &Conditions, file: PathBuf) -> Result<(), Box<TooLarge>> {
        let then = &self.conditions;
        let other = (&now.source, &now.target) != (&then.source, &then.target);
        if other || now.throttles {
            return Ok(());
        }
        let again = self.ended == Ended::SpoolFull && !now.may_do_better_than(then);
        let (needed, room) = (self.needs(now.used_memory), now.room());
        // Another pace is another rate.
        let too_large = now.egress_limit == then.egress_limit && needed > room;
        match again || too_large {
            false => Ok(()),
            true => Err(Box::new(TooLarge {
                again,
                used_memory: now.used_memory,
                // It was more than there was room for.
                needed: needed.max(if again { then.room() + 1 } else { 0 }),
                room,
                rates: self.rates(),
                can_be_paced: now.egress_limit.is_some(),
                min_free: now.min_free,
                file,
            })),
        }
    }

    /// Where a task remembers it.
    pub(super) fn path(task: &Task) -> PathBuf {
        task.state_dir.join(format!("{}.full-sync.json", task.name))
    }

    /// What is remembered; nothing of a file that means nothing to this release. Blocks.
    pub(super) fn load(file: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let read: Option<Self> = serde_json::from_slice(&bytes).ok();
        Ok(read.filter(|last| last.format == FORMAT))
    }

    /// Remembers it, in place of the one before. Blocks.
    pub(super) fn save(&self, file: &Path) -> io::Result<()> {
        let dir = file.parent().unwrap_or(Path::new("."));
        let mut aside = NamedTempFile::new_in(dir)?;
        serde_json::to_writer_pretty(&mut aside, self)?;
        aside.write_all(b"\n")?;
        aside.as_file().sync_all()?;
        aside.persist(file).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    }

    /// Forgets it. Whether there was anything. Blocks.
    pub(super) fn remove(file: &Path) -> io::Result<bool> {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn conditions() -> Conditions {
        Conditions {
            source: "a:1".to_owned(),
            target: "b:2".to_owned(),
            used_memory: Some(1_000 * MIB),
            memory: 10 * MIB,
            max_size: 290 * MIB,
            min_free: 0,
            free: 10_000 * MIB,
            throttles: false,
            egress_limit: Some(0),
        }
    }

    /// 400 MiB had come and 100 were in the target after 10 s.
    fn last(ended: Ended) -> LastFullSync {
        let took = Duration::from_secs(10);
        LastFullSync::new(conditions(), ended, 400 * MIB, 100 * MIB, took)
    }

    fn judge(last: &LastFullSync, now: &Conditions) -> Result<(), Box<TooLarge>> {
        last.judge(now, PathBuf::from("file"))
    }

    #[test]
    fn what_filled_the_spool_is_not_tried_again_while_nothing_has_changed() {
        let full = last(Ended::SpoolFull);
        let refused = judge(&full, &conditions()).unwrap_err();
        assert!(refused.again && refused.can_be_paced);
        assert_eq!((refused.needed, refused.room), (750 * MIB, 300 * MIB));
        assert_eq!(refused.rates, (40 * MIB, 10 * MIB));
        let a_little_more_free = Conditions {
            max_size: 290 * MIB,
            used_memory: Some(995 * MIB),
            free: 10_001 * MIB,
            ..conditions()
        };
        assert!(judge(&full, &a_little_more_free).unwrap_err().again);
    }

    #[test]
    fn what_has_changed_is_tried_if_it_can_fit() {
        let full = last(Ended::SpoolFull);
        let base = conditions();
        let tried = [
            Conditions {
                max_size: 800 * MIB,
                ..base.clone()
            },
            Conditions {
                throttles: true,
                ..base.clone()
            },
            Conditions {
                egress_limit: Some(4 * MIB),
                ..base.clone()
            },
            Conditions {
                target: "c:3".to_owned(),
                ..base.clone()
            },
        ];
        for now in tried {
            assert_eq!(judge(&full, &now), Ok(()), "{now:?}");
        }
        // More, and still not enough.
        let now = Conditions {
            max_size: 600 * MIB,
            ..base
        };
        let refused = judge(&full, &now).unwrap_err();
        assert_eq!((refused.again, refused.needed), (false, 750 * MIB));
    }

    #[test]
    fn more_free_disk_is_a_change_where_the_disk_was_the_limit() {
        let mut full = last(Ended::SpoolFull);
        full.conditions.free = 100 * MIB;
        full.conditions.used_memory = Some(120 * MIB);
        let mut now = full.conditions.clone();
        assert!(judge(&full, &now).unwrap_err().again);
        // The limit is now the spool's own, and 300 MiB had to wait.
        now.free = 200 * MIB;
        assert!(!judge(&full, &now).unwrap_err().again);
        now.free = 1_000 * MIB;
        assert_eq!(judge(&full, &now), Ok(()));
    }

    #[test]
    fn what_was_read_whole_tells_what_more_data_will_need() {
        let read = last(Ended::Read);
        assert_eq!(judge(&read, &conditions()), Ok(()));
        let mut now = conditions();
        now.used_memory = Some(1_001 * MIB);
        let refused = judge(&read, &now).unwrap_err();
        assert!(!refused.again);
        assert_eq!(refused.needed, 300 * MIB * 1_001 / 1_000);
        now.used_memory = None;
        assert_eq!(judge(&read, &now), Ok(()), "as much as the last time");
    }

    #[test]
    fn it_is_remembered_in_a_file_and_an_unknown_file_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("copy.full-sync.json");
        assert_eq!(LastFullSync::load(&file).unwrap(), None);
        last(Ended::SpoolFull).save(&file).unwrap();
        let read = LastFullSync::load(&file).unwrap();
        assert_eq!(read, Some(last(Ended::SpoolFull)));
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert_eq!(LastFullSync::load(&file).unwrap(), None);
        assert!(LastFullSync::remove(&file).unwrap());
        assert!(!LastFullSync::remove(&file).unwrap());
    }
}
