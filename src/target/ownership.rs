//! Which keys of the target are a task's, and which only seem to be.
//!
//! Invariants: two tasks whose claims may overlap never both run; the conflict decision is made once,
//!   before the task's first write, and remembered on the target; keys `df2redis:*` are never
//!   counted, listed or deleted; a foreign key is deleted by nobody here; FLUSHALL is never sent.
//! Records: see [`position`](super::position).

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use super::claim::{Claim, Owned};
use super::control::Control;
use super::error::TargetError;
use super::fence::{Fence, Passed};
use super::outgoing::Outgoing;
use super::position::{FORMAT, Names, PHASE, POSITIONS, REPLID, foreign_member};
use super::settings::Settings;
use super::slot::{SLOTS, slot_of, tag_of};
use super::walk::Scan;

/// Keys asked for, listed or deleted at a time.
const CHUNK: usize = 1000;
/// Keys named in a conflict.
const NAMED: usize = 10;

/// What happens to owned keys that were there before the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// They are replaced when the source has them.
    Overwrite,
    /// The task does not start.
    Panic,
    /// They are left alone until the source replaces or deletes them whole.
    Skip,
}

impl Conflict {
    fn name(self) -> &'static str {
        match self {
            Self::Overwrite => "overwrite",
            Self::Panic => "panic",
            Self::Skip => "skip",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Overwrite, Self::Panic, Self::Skip]
            .into_iter()
            .find(|conflict| conflict.name() == name)
    }
}

/// What a task wants to own, and how.
#[derive(Debug)]
pub struct Wanted {
    /// The part of the target.
    pub owned: Owned,
    /// `target.exclusive`: the operator says that nobody else writes there.
    pub exclusive: bool,
    /// `policy.conflict`; used only if nothing was decided before.
    pub conflict: Conflict,
    /// Which source this is, for the record.
    pub source: String,
    /// Which of its databases go where, in words that are the same whenever that is the same.
    pub mapping: String,
}

/// A task's established ownership.
#[derive(Debug)]
pub struct Ownership {
    owned: Owned,
    position_db: u32,
    position_key: String,
    foreign_key: String,
    fence_key: String,
    /// Keys of df2redis about a key are in the slot of that key.
    of_cluster: bool,
    exclusive: bool,
    conflict: Conflict,
    foreign: u64,
    first: bool,
    same_mapping: bool,
}

impl Ownership {
    /// Claims, refuses an overlap with another task, and decides about keys that are there, or
    /// finds what was decided. Cancelled or failed, it leaves nothing that would mislead the next.
    pub async fn establish(
        control: &mut Control,
        settings: &Settings,
        wanted: Wanted,
        now_ms: i64,
    ) -> Result<Self, TargetError> {
        let names = Names::for_target(settings);
        let mut ownership = Self {
            owned: wanted.owned,
            position_db: settings.position_db,
            position_key: names.position,
            foreign_key: names.foreign,
            fence_key: names.fence,
            of_cluster: settings.cluster.is_some(),
            exclusive: wanted.exclusive,
            conflict: wanted.conflict,
            foreign: 0,
            first: true,
            same_mapping: false,
        };
        let known = read_record(control, settings.position_db, &ownership.position_key).await?;
        let decided = known.get("decided").is_some_and(|text| text == "yes");
        ownership.same_mapping = ownership
            .mapping(&wanted.source, &wanted.mapping)
            .iter()
            .all(|(name, text)| known.get(*name) == Some(text));
        if decided {
            ownership.remember(control, &known).await?;
        }
        ownership
            .write_claim(control, settings, (&wanted.source, &wanted.mapping), now_ms)
            .await?;
        let checked = match ownership.refuse_overlap(control).await {
            Ok(()) if decided => Ok(()),
            Ok(()) => ownership.decide(control, wanted.exclusive).await,
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            if !decided {
                ownership.withdraw(control).await?;
            }
            return Err(error);
        }
        Ok(ownership)
    }

    /// Whether no other key can be in the owned part.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// What was decided about keys that were there first.
    pub fn conflict(&self) -> Conflict {
        self.conflict
    }

    /// Whether the decision was made just now: nothing of this task is on the target yet.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Whether the record says that the same was copied to the same places so far.
    pub fn is_same_mapping(&self) -> bool {
        self.same_mapping
    }

    /// Keys that were there first, as far as was known at the start. With 0, nobody need ask.
    pub fn foreign_count(&self) -> u64 {
        self.foreign
    }

    /// The owned part.
    pub fn owned(&self) -> &Owned {
        &self.owned
    }

    /// Records the task's phase, where no positions are kept. With a fence it is
    /// [`Fence::begin_snapshot`] and [`Fence::begin_stable`].
    pub async fn set_phase(
        &self,
        control: &mut Control,
        phase: &str,
        now_ms: i64,
    ) -> Result<(), TargetError> {
        self.write(
            control,
            &[("phase", phase), ("updated_ms", &now_ms.to_string())],
        )
        .await
    }

    /// For each key, whether it was there first and still belongs to somebody else.
    pub async fn foreign(
        &self,
        control: &mut Control,
        keys: &[(u32, &[u8])],
    ) -> Result<Vec<bool>, TargetError> {
        if self.foreign == 0 || keys.is_empty() {
            return Ok(vec![false; keys.len()]);
        }
        control.select(self.position_db).await?;
        let sets = self.by_foreign_key(keys.iter().map(|(_, key)| *key));
        let questions = sets.iter().map(|(set, places)| {
            let mut question = redis::cmd("SMISMEMBER");
            question.arg(set);
            for (db, key) in places.iter().filter_map(|at| keys.get(*at)) {
                question.arg(foreign_member(*db, key));
            }
            question
        });
        let questions: Vec<_> = questions.collect();
        let doing = "looking for keys that were there first";
        let answer = control.ask_each(doing, &questions).await;
        let answers: Vec<Vec<bool>> = match answer {
            Err(TargetError::Answer { addr, answer, .. }) if answer.contains("unknown command") => {
                return Err(TargetError::TooOld {
                    addr,
                    what: "keys that were there first are told apart with SMISMEMBER, which came \
                           with Redis 6.2"
                        .to_owned(),
                });
            }
            other => other?,
        };
        let mut foreign = vec![false; keys.len()];
        for ((_, places), answers) in sets.iter().zip(answers) {
            for (at, answer) in places.iter().zip(answers) {
                if let Some(foreign) = foreign.get_mut(*at) {
                    *foreign = answer;
                }
            }
        }
        Ok(foreign)
    }

    /// The set in which a key is listed if it was there first: in a cluster, one of the key's slot.
    fn foreign_key_of(&self, key: &[u8]) -> String {
        match self.of_cluster {
            true => of_slot(&self.foreign_key, slot_of(key)),
            false => self.foreign_key.clone(),
        }
    }

    /// All of those sets.
    fn foreign_keys(&self) -> Vec<String> {
        match self.of_cluster {
            true => (0..SLOTS)
                .map(|slot| of_slot(&self.foreign_key, slot))
                .collect(),
            false => vec![self.foreign_key.clone()],
        }
    }

    /// Places of keys, by the set in which they would be listed.
    fn by_foreign_key<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Vec<(String, Vec<usize>)> {
        let mut sets: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (at, key) in keys.enumerate() {
            let slot = if self.of_cluster { slot_of(key) } else { 0 };
            sets.entry(slot).or_default().push(at);
        }
        let named = sets.into_iter().flat_map(|(slot, places)| {
            let name = match self.of_cluster {
                true => of_slot(&self.foreign_key, slot),
                false => self.foreign_key.clone(),
            };
            let parts = places.chunks(CHUNK).map(<[usize]>::to_vec);
            parts
                .map(move |part| (name.clone(), part))
                .collect::<Vec<_>>()
        });
        named.collect()
    }

    /// Appends the command that makes a foreign key the task's own. It belongs in an item of the
    /// position database, behind the write that replaces or deletes the key whole.
    pub fn adopt(&self, out: &mut Outgoing, db: u32, key: &[u8], lsn: Option<u64>) {
        out.command(3, lsn);
        out.word(b"SREM");
        out.word(self.foreign_key_of(key).as_bytes());
        out.word(&foreign_member(db, key));
    }

    /// Whether there is any key that the task owns. Keys that were there first and are still somebody else's count too.
    pub async fn has_keys(&self, control: &mut Control) -> Result<bool, TargetError> {
        for db in self.owned.databases.iter().copied() {
            let mut scan = Scan::of(db, None);
            while let Some(keys) = scan.next(control).await? {
                if keys.iter().any(|key| self.owned.has(key)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Deletes the owned keys of one database, or of all owned ones. Foreign keys stay, and those in slots that have
    /// passed the command before.
    ///
    /// With a fence, no key is deleted once another process has taken it. The positions of all flows are then moved
    /// past the command with [`Fence::move_all`]: until that is done the deletion can be repeated.
    pub async fn flush(
        &self,
        control: &mut Control,
        fence: Option<&Fence>,
        db: Option<u32>,
        passed: &Passed,
    ) -> Result<(), TargetError> {
        for owned in self.owned.databases.iter().copied() {
            if db.is_some_and(|db| db != owned) {
                continue;
            }
            if passed.is_empty() && self.may_flush_whole(control, owned).await? {
                let flush = [redis::cmd("FLUSHDB").arg("ASYNC").take()];
                run(control, fence, "emptying a database", owned, &flush).await?;
            } else {
                self.delete(control, fence, owned, |key| !passed.has(key))
                    .await?;
            }
        }
        Ok(())
    }

    /// Deletes the owned keys whose cluster slots are in the ranges. For all else see [`flush`](Self::flush).
    pub async fn flush_slots(
        &self,
        control: &mut Control,
        fence: Option<&Fence>,
        ranges: &[RangeInclusive<u16>],
        passed: &Passed,
    ) -> Result<(), TargetError> {
        for db in self.owned.databases.iter().copied() {
            self.delete(control, fence, db, |key| {
                let slot = slot_of(key);
                ranges.iter().any(|range| range.contains(&slot)) && !passed.has(key)
            })
            .await?;
        }
        Ok(())
    }

    /// Takes over what an earlier start decided.
    async fn remember(
        &mut self,
        control: &mut Control,
        known: &HashMap<String, String>,
    ) -> Result<(), TargetError> {
        let misread = |what: &str| TargetError::Record {
            addr: control.addr().to_owned(),
            key: self.position_key.clone(),
            what: what.to_owned(),
        };
        if known.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(misread("its format is unknown"));
        }
        let claim = Claim::read(known).ok_or_else(|| misread("the claim cannot be read"))?;
        if !self.owned.claim().is_within(&claim) {
            return Err(misread(&format!(
                "this task claimed {claim}; what is new in its configuration may hold keys of others"
            )));
        }
        let conflict = known
            .get("conflict")
            .and_then(|name| Conflict::of_name(name));
        self.conflict = conflict.ok_or_else(|| misread("the conflict decision cannot be read"))?;
        self.first = false;
        if known.get("exclusive").is_some_and(|text| text == "yes") {
            // So there were none.
            self.exclusive = true;
            return Ok(());
        }
        control.select(self.position_db).await?;
        let count = |set| redis::cmd("SCARD").arg(set).take();
        let counts: Vec<_> = self.foreign_keys().into_iter().map(count).collect();
        let doing = "counting keys that were there first";
        let counts: Vec<u64> = control.ask_each(doing, &counts).await?;
        self.foreign = counts.iter().sum();
        Ok(())
    }

    async fn write_claim(
        &self,
        control: &mut Control,
        settings: &Settings,
        (source, mapping): (&str, &str),
        now_ms: i64,
    ) -> Result<(), TargetError> {
        let now = now_ms.to_string();
        let mapping = self.mapping(source, mapping);
        let mut fields = vec![
            ("format", FORMAT),
            ("task", &settings.task),
            ("updated_ms", &now),
        ];
        fields.extend(mapping.iter().map(|(name, text)| (*name, text.as_str())));
        // In the same command: positions under another claim must not outlive the old one.
        if !self.same_mapping && !self.first {
            fields.push((PHASE, "snapshot"));
            fields.push((REPLID, ""));
        }
        self.write(control, &fields).await
    }

    /// The fields that say what is copied from where to where.
    fn mapping(&self, source: &str, mapping: &str) -> [(&'static str, String); 5] {
        let (databases, include, exclude) = self.owned.claim().texts();
        [
            ("source", source.to_owned()),
            ("mapping", mapping.to_owned()),
            ("databases", databases),
            ("include", include),
            ("exclude", exclude),
        ]
    }

    async fn write(
        &self,
        control: &mut Control,
        fields: &[(&str, &str)],
    ) -> Result<(), TargetError> {
        control.select(self.position_db).await?;
        let mut write = redis::cmd("HSET");
        write.arg(&self.position_key).arg(fields);
        control.ask("recording the claim", &write).await
    }

    /// Our claim is written before the others are read: of two that start at once, at least one
    /// sees the other.
    async fn refuse_overlap(&self, control: &mut Control) -> Result<(), TargetError> {
        let mine = self.owned.claim();
        let mut scan = Scan::of(self.position_db, Some("df2redis:position:*"));
        while let Some(keys) = scan.next(control).await? {
            for key in keys {
                let key = String::from_utf8_lossy(&key).into_owned();
                let task = key.strip_prefix(POSITIONS).unwrap_or_default();
                // Names of tasks hold no colon: of one that does, it is a position of a slot.
                if key == self.position_key || task.contains(':') {
                    continue;
                }
                let record = read_record(control, self.position_db, &key).await?;
                if record.is_empty() {
                    continue;
                }
                let claim = Claim::read(&record).ok_or_else(|| TargetError::Record {
                    addr: control.addr().to_owned(),
                    key: key.clone(),
                    what: "the claim cannot be read".to_owned(),
                })?;
                if claim.overlaps(&mine) {
                    return Err(TargetError::Overlap {
                        addr: control.addr().to_owned(),
                        other: key.strip_prefix(POSITIONS).unwrap_or(&key).to_owned(),
                        claim: claim.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The first start: which keys are there, and what follows.
    async fn decide(&mut self, control: &mut Control, exclusive: bool) -> Result<(), TargetError> {
        self.forget_foreign(control).await?;
        match self.conflict {
            Conflict::Panic => self.refuse_present(control).await?,
            Conflict::Overwrite if exclusive => {}
            Conflict::Overwrite | Conflict::Skip => self.list_foreign(control).await?,
        }
        self.exclusive = self.foreign == 0;
        let exclusive = if self.exclusive { "yes" } else { "no" };
        let fields = [
            ("exclusive", exclusive),
            ("conflict", self.conflict.name()),
            ("phase", "claimed"),
            ("decided", "yes"),
        ];
        self.write(control, &fields).await
    }

    async fn refuse_present(&self, control: &mut Control) -> Result<(), TargetError> {
        let mut found = Vec::new();
        for db in self.owned.databases.iter().copied() {
            let mut scan = Scan::of(db, None);
            while let Some(keys) = scan.next(control).await? {
                let owned = keys.into_iter().filter(|key| self.owned.has(key));
                found.extend(owned.take(NAMED - found.len()).map(|key| (db, key)));
                if found.len() == NAMED {
                    break;
                }
            }
        }
        match found.is_empty() {
            true => Ok(()),
            false => Err(TargetError::Conflict {
                addr: control.addr().to_owned(),
                keys: found,
            }),
        }
    }

    async fn list_foreign(&mut self, control: &mut Control) -> Result<(), TargetError> {
        for db in self.owned.databases.iter().copied() {
            let mut scan = Scan::of(db, None);
            while let Some(mut keys) = scan.next(control).await? {
                keys.retain(|key| self.owned.has(key));
                let sets = self.by_foreign_key(keys.iter().map(Vec::as_slice));
                let lists = sets.iter().map(|(set, places)| {
                    let mut list = redis::cmd("SADD");
                    list.arg(set);
                    for key in places.iter().filter_map(|at| keys.get(*at)) {
                        list.arg(foreign_member(db, key));
                    }
                    list
                });
                let lists: Vec<_> = lists.collect();
                control.select(self.position_db).await?;
                let doing = "listing keys that are there";
                let added: Vec<u64> = control.ask_each(doing, &lists).await?;
                self.foreign += added.iter().sum::<u64>();
            }
        }
        Ok(())
    }

    async fn forget_foreign(&self, control: &mut Control) -> Result<(), TargetError> {
        control.select(self.position_db).await?;
        let doing = "forgetting an unfinished list";
        control.unlink(doing, &self.foreign_keys()).await?;
        Ok(())
    }

    /// Undoes a claim under which nothing was written.
    async fn withdraw(&self, control: &mut Control) -> Result<(), TargetError> {
        control.select(self.position_db).await?;
        let mut keys = vec![self.position_key.clone(), self.fence_key.clone()];
        keys.extend(self.foreign_keys());
        control.unlink("withdrawing the claim", &keys).await?;
        Ok(())
    }

    /// Whether everything in a database is the task's: then, and only then, `FLUSHDB`.
    async fn may_flush_whole(&self, control: &mut Control, db: u32) -> Result<bool, TargetError> {
        // A cluster's one database has the task's own keys.
        if self.of_cluster {
            return Ok(false);
        }
        if !self.exclusive || self.foreign > 0 || !self.owned.is_whole() || db == self.position_db {
            return Ok(false);
        }
        let mut scan = Scan::of(db, Some("df2redis:*"));
        while let Some(keys) = scan.next(control).await? {
            if !keys.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn delete(
        &self,
        control: &mut Control,
        fence: Option<&Fence>,
        db: u32,
        also: impl Fn(&[u8]) -> bool,
    ) -> Result<(), TargetError> {
        let mut scan = Scan::of(db, None);
        while let Some(mut keys) = scan.next(control).await? {
            keys.retain(|key| self.owned.has(key) && also(key));
            let asked: Vec<_> = keys.iter().map(|key| (db, key.as_slice())).collect();
            let foreign = self.foreign(control, &asked).await?;
            let mine: Vec<_> = keys
                .iter()
                .zip(foreign)
                .filter_map(|(key, foreign)| (!foreign).then_some(key))
                .collect();
            for chunk in mine.chunks(CHUNK) {
                let delete = control.unlinking(chunk);
                run(control, fence, "deleting the task's keys", db, &delete).await?;
            }
        }
        Ok(())
    }
}

/// Runs commands that remove keys in a database, behind the fence if there is one. Order does not matter among them, and
/// in a cluster some may be executed and others not.
async fn run(
    control: &mut Control,
    fence: Option<&Fence>,
    doing: &str,
    db: u32,
    commands: &[redis::Cmd],
) -> Result<(), TargetError> {
    let Some(fence) = fence else {
        control.select(db).await?;
        let _: Vec<redis::Value> = control.ask_each(doing, commands).await?;
        return Ok(());
    };
    if fence.is_of_cluster() {
        fence.each(control, doing, commands).await?;
        return Ok(());
    }
    let answers = fence.commit(control, doing, db, commands, &[]).await?;
    control.first_error(doing, commands, &answers)
}

/// The name of a key of a slot, among those of a task that are alike.
fn of_slot(name: &str, slot: u16) -> String {
    format!("{name}:{{{}}}", tag_of(slot))
}

async fn read_record(
    control: &mut Control,
    db: u32,
    key: &str,
) -> Result<HashMap<String, String>, TargetError> {
    control.select(db).await?;
    let mut read = redis::cmd("HGETALL");
    read.arg(key);
    control.ask("reading a task's record", &read).await
}
