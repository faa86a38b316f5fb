//! Looking again at suspects, until it is proved what they are. See the header of [`check`](super) for the proof.

mod bracket;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::process::Stop;
use crate::target::{Stored, Withheld, foreign_member};

use super::access::{Access, Reached};
use super::batch::{self, Found, Known};
use super::error::CheckError;
use super::pieces;
use super::reading::{Class, Reading};
use super::settings::{Lists, Settings};
use super::sweep::{BATCH, Plan, Suspect};
use super::tally::{Ledger, Open, Place};
use super::target::Target;

/// Keys that are watched together at first: one that is written to spoils the look at all of them.
const GROUP: usize = 64;
/// How often a key that changes under a look is looked at by itself, in one round.
const ALONE: usize = 4;
/// The first pause between two looks at the positions. It is part of the time in which nobody may write to the keys.
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
/// And the longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How far apart the clocks of three hosts may be, when a key is about to expire.
const CLOCKS_MS: i64 = 1000;

/// How a difference is told from a write that is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// By the task's positions on the target.
    Positions,
    /// By looking again: it stays as it is on both sides.
    Persistence(&'static str),
    /// Not at all: the task's full sync is not finished.
    FullSync,
}

/// The two servers, once more.
pub(super) struct Rounds {
    pub source: Access,
    pub target: Target,
    pub plan: Plan,
    pub rounds: u32,
    pub interval: Duration,
    pub stop: watch::Receiver<Stop>,
    pub lists: Option<Lists>,
    /// Nothing but what positions prove is told.
    pub only_proved: bool,
}

/// What a look at a suspect has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Both sides are what they are at the same place of the journal.
    Proved,
    Open(Open),
}

impl Rounds {
    /// As the settings say, with these connections.
    pub fn of(
        settings: &Settings,
        source: Access,
        target: Target,
        stop: &watch::Receiver<Stop>,
    ) -> Self {
        Self {
            source,
            target,
            plan: super::plan(settings),
            rounds: settings.rounds.max(1),
            interval: settings.interval,
            stop: stop.clone(),
            lists: settings.lists.clone(),
            only_proved: settings.audit.is_some(),
        }
    }

    /// How differences can be told now.
    pub async fn method(&mut self) -> Result<Method, CheckError> {
        let Some(stored) = self.target.stored().await? else {
            return Ok(Method::Persistence("the task keeps no positions"));
        };
        let (replication_id, lsns) = match stored {
            Stored::Snapshot | Stored::Copied { .. } => return Ok(Method::FullSync),
            Stored::Nothing => {
                return Ok(Method::Persistence(
                    "the target holds no positions of the task",
                ));
            }
            Stored::Damaged { .. } => {
                return Ok(Method::Persistence(
                    "the positions on the target are damaged",
                ));
            }
            Stored::Stable {
                replication_id,
                lsns,
            } => (replication_id, lsns),
        };
        if self.replication_id().await? != Some(replication_id) {
            let why = "the positions on the target are of another history of the source";
            return Ok(Method::Persistence(why));
        }
        let offsets = self.source.offsets().await?.unwrap_or_default();
        match offsets.len() == lsns.len() && offsets.iter().all(|lsn| *lsn > 0) {
            true => Ok(Method::Positions),
            false => Ok(Method::Persistence("the source keeps no journal")),
        }
    }

    /// Looks again, and writes down what each turned out to be.
    pub async fn settle(
        &mut self,
        mut suspects: Vec<Suspect>,
        ledger: &mut Ledger,
    ) -> Result<(), CheckError> {
        suspects.sort_by(|one, other| (one.db, &one.key).cmp(&(other.db, &other.key)));
        suspects.dedup_by(|one, other| one.db == other.db && one.key == other.key);
        let mut open = vec![Open::Stopped; suspects.len()];
        match self.method().await? {
            Method::Positions => self.prove_all(&mut suspects, &mut open, ledger).await?,
            Method::Persistence(_) | Method::FullSync if self.only_proved => {
                open.fill(Open::Behind);
            }
            Method::Persistence(_) => self.persist_all(&mut suspects, &mut open, ledger).await?,
            Method::FullSync => {
                for batch in suspects.chunk_by_mut(|one, other| one.db == other.db) {
                    self.read_again(batch).await?;
                }
                open.fill(Open::FullSync);
            }
        }
        for (suspect, open) in suspects.iter().zip(open) {
            let sides = suspect.sides();
            let classes = self.plan.rules.differences(sides.0, sides.1);
            if open == Open::FullSync && suspect.is_seen() && classes.is_empty() {
                ledger.equal(suspect.place(), &[], sides)?;
                continue;
            }
            ledger.unsettled(suspect.place(), open, &classes, sides)?;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow() != Stop::Run
    }

    async fn pause(&mut self, time: Duration) {
        let mut stop = self.stop.clone();
        let stopped = async {
            // Whoever tells of stopping is there as long as the process.
            let _ = stop.wait_for(|stop| *stop != Stop::Run).await;
        };
        let _ = timeout(time, stopped).await;
    }

    /// Proves what it can. What is left in `suspects` is open.
    async fn prove_all(
        &mut self,
        suspects: &mut Vec<Suspect>,
        open: &mut Vec<Open>,
        ledger: &mut Ledger,
    ) -> Result<(), CheckError> {
        // All rounds together give a slow target time to get there, and each group some of its own.
        let last = Instant::now() + self.interval * self.rounds;
        for round in 0..self.rounds {
            if suspects.is_empty() || self.is_stopped() {
                return Ok(());
            }
            if round > 0 {
                self.pause(self.interval).await;
            }
            let mut left = Vec::new();
            let mut waiting = std::mem::take(suspects);
            let mut behind = false;
            while !waiting.is_empty() {
                let db = waiting.first().map(|first| first.db);
                let alike = waiting
                    .iter()
                    .take(GROUP)
                    .take_while(|next| Some(next.db) == db);
                let count = alike.count();
                let rest = waiting.split_off(count);
                let mut group = std::mem::replace(&mut waiting, rest);
                let deadline = last.max(Instant::now() + self.interval);
                let mut looks = match behind || self.is_stopped() {
                    // The others would only wait as long again.
                    true => vec![Look::Open(Open::Behind); group.len()],
                    false => self.look(&mut group, deadline).await?,
                };
                if looks.contains(&Look::Open(Open::Changing)) {
                    for (suspect, look) in group.iter_mut().zip(&mut looks) {
                        self.look_alone(suspect, look, deadline).await?;
                    }
                }
                behind |= looks.contains(&Look::Open(Open::Behind));
                let looked = group.into_iter().zip(looks);
                left.extend(self.judge(ledger, looked).await?);
            }
            (*suspects, *open) = left.into_iter().unzip();
        }
        Ok(())
    }

    /// Looks at a key of a group in which something changed: a few times, until nobody writes to it meanwhile.
    async fn look_alone(
        &mut self,
        suspect: &mut Suspect,
        look: &mut Look,
        deadline: Instant,
    ) -> Result<(), CheckError> {
        for _ in 0..ALONE {
            if *look != Look::Open(Open::Changing) || self.is_stopped() {
                return Ok(());
            }
            let alone = std::slice::from_mut(suspect);
            let again = self.look(alone, deadline).await?;
            *look = again.first().copied().unwrap_or(*look);
        }
        Ok(())
    }

    /// Writes down what is decided, and answers what is not, and why.
    async fn judge(
        &mut self,
        ledger: &mut Ledger,
        looked: impl Iterator<Item = (Suspect, Look)>,
    ) -> Result<Vec<(Suspect, Open)>, CheckError> {
        let mut left = Vec::new();
        for (suspect, look) in looked {
            match self.verdict(&suspect, look) {
                Ok(classes) => self.write(ledger, &suspect, &classes).await?,
                Err(open) => left.push((suspect, open)),
            }
        }
        Ok(left)
    }

    async fn write(
        &mut self,
        ledger: &mut Ledger,
        suspect: &Suspect,
        classes: &[Class],
    ) -> Result<(), CheckError> {
        if !suspect.exists() && !ledger.repaired {
            return Ok(());
        }
        let (place, sides) = (suspect.place(), suspect.sides());
        if classes.iter().all(|class| class.is_expected()) {
            return ledger.equal(place, classes, sides);
        }
        match self.is_foreign(suspect).await? {
            true => ledger.equal(place, &[Class::Foreign], sides),
            false => ledger.different(place, classes, sides).await,
        }
    }

    /// What a suspect is, if that is proved.
    fn verdict(&self, suspect: &Suspect, look: Look) -> Result<Vec<Class>, Open> {
        if let Look::Open(open) = look {
            return Err(open);
        }
        if suspect.source == Found::TooLarge || suspect.target == Found::TooLarge {
            return Err(Open::TooLarge);
        }
        if !suspect.is_seen() {
            return Err(Open::Changing);
        }
        let (source, target) = suspect.sides();
        let classes = self.plan.rules.differences(source, target);
        if self.may_expire(source, target) {
            return Err(Open::Expiring);
        }
        Ok(classes)
    }

    /// Whether one side has a key that the other may have let expire already.
    fn may_expire(&self, source: Option<&Reading>, target: Option<&Reading>) -> bool {
        let only = match (source, target) {
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) | (Some(_), Some(_)) => return false,
        };
        let rules = &self.plan.rules;
        let apart = rules.tolerance.saturating_add(rules.grace);
        let soon = crate::entry::unix_ms().saturating_add(apart.saturating_add(CLOCKS_MS));
        only.expires_at_ms.is_some_and(|at| at <= soon)
    }

    /// Looks at keys of one database under `WATCH`. Keeps what was seen.
    async fn look(
        &mut self,
        group: &mut [Suspect],
        deadline: Instant,
    ) -> Result<Vec<Look>, CheckError> {
        let Some(db) = group.first().map(|first| first.db) else {
            return Ok(Vec::new());
        };
        let all = |look: Look, group: &[Suspect]| vec![look; group.len()];
        self.watch(db, group).await?;
        self.read_side(group, true).await?;
        let Some(reached) = self.reached().await? else {
            self.unwatch().await?;
            return Ok(all(Look::Open(Open::Behind), group));
        };
        if !self.wait_for(&reached, deadline).await? {
            self.unwatch().await?;
            // What is there now is worth to be told, and proves nothing.
            self.read_side(group, false).await?;
            return Ok(all(Look::Open(Open::Behind), group));
        }
        let withheld = self.withheld(group, &reached).await?;
        self.target.guard(reached).await?;
        let read = self.read_target(group).await;
        let held = self.target.release().await;
        read?;
        let held = held?;
        let reconciling = self.target.is_reconciling();
        let unchanged = self.is_unchanged(db, group).await?;
        Ok(match (unchanged, held) {
            (true, true) => {
                let looks = group.iter().zip(withheld).map(|(suspect, withheld)| {
                    let (source, target) = suspect.sides();
                    if reconciling && source.is_none() && target.is_some() {
                        return Look::Open(Open::Reconciling);
                    }
                    match withheld && !self.plan.rules.equal(source, target) {
                        true => Look::Open(Open::Withheld),
                        false => Look::Proved,
                    }
                });
                looks.collect()
            }
            (false, _) => all(Look::Open(Open::Changing), group),
            (true, false) => all(Look::Open(Open::Behind), group),
        })
    }

    /// Reads the target's side, and samples on both where only one of them would be sampled.
    async fn read_target(&mut self, group: &mut [Suspect]) -> Result<(), CheckError> {
        self.read_side(group, false).await?;
        let mode = self.plan.mode;
        for suspect in group.iter_mut() {
            let sides = suspect.sides();
            let sampled = (
                sides.0.map(|reading| reading.sampled),
                sides.1.map(|reading| reading.sampled),
            );
            if let (Some(here), Some(there)) = sampled
                && here != there
            {
                let (db, target_db) = (suspect.db, suspect.target_db);
                suspect.source = pieces::read(&mut self.source, db, &suspect.key, mode).await?;
                suspect.target = self.target.pieces(target_db, &suspect.key, mode).await?;
            }
            let (db, target_db) = (suspect.db, suspect.target_db);
            let (source, target) = (&mut self.source, &mut self.target);
            suspect.sample((source, db), (target, target_db)).await?;
        }
        Ok(())
    }

    /// Which keys the task is about to read again from the source: the target is not what the journal makes it, and the
    /// task knows. None can come onto the list as long as nothing is done to it at the source.
    async fn withheld(
        &mut self,
        group: &[Suspect],
        reached: &Reached,
    ) -> Result<Vec<bool>, CheckError> {
        let flows = reached.lsns.len();
        let members = group.iter().map(|suspect| {
            let member = |flow| {
                let (db, key) = (suspect.db, suspect.key.clone());
                Withheld { flow, db, key }.member()
            };
            (0..).take(flows).map(member).collect::<Vec<_>>()
        });
        let members: Vec<_> = members.flatten().collect();
        let kept = match &self.lists {
            Some(lists) => (lists.db, lists.withheld.clone()),
            None => return Ok(vec![false; group.len()]),
        };
        let found = match &mut self.target {
            Target::Server(access) => {
                let set = kept.1.as_bytes();
                access.members(kept.0, set, &members).await?
            }
            target @ Target::Cluster(_) => {
                let mut found = Vec::with_capacity(group.len());
                for (suspect, members) in group.iter().zip(members.chunks(flows.max(1))) {
                    let (db, set) = (kept.0, &kept.1);
                    found.push(target.lists(db, set, &suspect.key, members).await?);
                }
                return Ok(found);
            }
        };
        let by_key = found.chunks(flows.max(1));
        Ok(by_key.map(|flows| flows.contains(&true)).collect())
    }

    /// Whether the target had the key before the task, and the task leaves it alone.
    async fn is_foreign(&mut self, suspect: &Suspect) -> Result<bool, CheckError> {
        let Some(lists) = self.lists.as_ref().filter(|lists| lists.keeps_foreign) else {
            return Ok(false);
        };
        let (db, list) = (lists.db, lists.foreign.clone());
        let member = foreign_member(suspect.target_db, &suspect.key);
        let target = &mut self.target;
        let members = [member];
        target.lists(db, &list, &suspect.key, &members).await
    }

    /// Reads suspects of one database anew on one side.
    async fn read_side(&mut self, group: &mut [Suspect], source: bool) -> Result<(), CheckError> {
        let Plan { mode, sizes, .. } = self.plan.clone();
        let Some(first) = group.first() else {
            return Ok(());
        };
        let (db, target_db) = (first.db, first.target_db);
        let keys: Vec<&[u8]> = group.iter().map(|suspect| suspect.key.as_slice()).collect();
        let found = match source {
            true => batch::read(&mut self.source, db, &keys, Known::Nothing, mode, sizes).await?,
            false => {
                let kinds = group.iter().map(|suspect| suspect.source.kind());
                let kinds: Vec<_> = kinds.collect();
                let (target, known) = (&mut self.target, Known::Kinds(&kinds));
                target.read(target_db, &keys, known, mode, sizes).await?
            }
        };
        for (suspect, found) in group.iter_mut().zip(found) {
            let key = &suspect.key;
            let found = match (found, source) {
                (Found::Large, true) => pieces::read(&mut self.source, db, key, mode).await?,
                (Found::Large, false) => self.target.pieces(target_db, key, mode).await?,
                (found, _) => found,
            };
            match source {
                true => suspect.source = found,
                false => suspect.target = found,
            }
        }
        Ok(())
    }

    async fn read_again(&mut self, suspects: &mut [Suspect]) -> Result<(), CheckError> {
        for group in suspects.chunks_mut(BATCH) {
            if self.is_stopped() {
                return Ok(());
            }
            self.read_side(group, true).await?;
            self.read_target(group).await?;
        }
        Ok(())
    }

    /// Without positions: looks at everything again in each round. What is equal once is equal; what stays the same and
    /// different on both sides in all rounds differs.
    async fn persist_all(
        &mut self,
        suspects: &mut Vec<Suspect>,
        open: &mut Vec<Open>,
        ledger: &mut Ledger,
    ) -> Result<(), CheckError> {
        let mut steady = vec![true; suspects.len()];
        // What was only asked for in the first look is looked at now.
        for batch in suspects.chunk_by_mut(|one, other| one.db == other.db) {
            self.read_again(batch).await?;
        }
        for _ in 0..self.rounds {
            if suspects.is_empty() || self.is_stopped() {
                return Ok(());
            }
            self.pause(self.interval).await;
            if self.is_stopped() {
                return Ok(());
            }
            let before = std::mem::take(suspects);
            let mut now: Vec<Suspect> = before.iter().map(Suspect::again).collect();
            for batch in now.chunk_by_mut(|one, other| one.db == other.db) {
                self.read_again(batch).await?;
            }
            let mut still = Vec::new();
            let looks = before.into_iter().zip(now).zip(std::mem::take(&mut steady));
            for ((before, now), steady_before) in looks {
                let (source, target) = now.sides();
                if now.is_seen() && self.plan.rules.equal(source, target) {
                    let classes = self.plan.rules.differences(source, target);
                    self.write(ledger, &now, &classes).await?;
                    continue;
                }
                let rules = &self.plan.rules;
                let same = rules.stays(&before.source, &now.source)
                    && rules.stays(&before.target, &now.target);
                still.push(steady_before && same && now.is_seen());
                suspects.push(now);
            }
            steady = still;
        }
        if self.is_stopped() {
            open.resize(suspects.len(), Open::Stopped);
            return Ok(());
        }
        let look = |steady| match steady {
            true => Look::Proved,
            false => Look::Open(Open::Changing),
        };
        let looked = std::mem::take(suspects).into_iter();
        let looked = looked.zip(steady.into_iter().map(look));
        let left = self.judge(ledger, looked).await?;
        (*suspects, *open) = left.into_iter().unzip();
        Ok(())
    }

    /// Ends both connections in order.
    pub async fn close(self) {
        self.source.link.close().await;
        self.target.close().await;
    }
}

impl Suspect {
    pub(super) fn place(&self) -> Place<'_> {
        Place {
            db: self.db,
            target_db: self.target_db,
            key: &self.key,
        }
    }

    pub(super) fn sides(&self) -> (Option<&Reading>, Option<&Reading>) {
        (self.source.reading(), self.target.reading())
    }

    /// Whether both sides were read as they were at one moment.
    fn is_seen(&self) -> bool {
        let seen = |found: &Found| matches!(found, Found::Absent | Found::Read(_));
        seen(&self.source) && seen(&self.target)
    }

    fn exists(&self) -> bool {
        self.source != Found::Absent || self.target != Found::Absent
    }

    /// The same key, not looked at.
    fn again(&self) -> Self {
        Self {
            db: self.db,
            target_db: self.target_db,
            key: self.key.clone(),
            source: Found::Large,
            target: Found::Large,
        }
    }
}
