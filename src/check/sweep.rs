//! The first look at every key: both servers are walked through, and what is not the same at once becomes a suspect.
//!
//! ```text
//!  scan of the source ─┐                  ┌─ lane ─┐
//!                      ├─ batches of keys ┼─ lane ─┼─ equal, suspects ─ collector
//!  scan of the target ─┘   (bounded)      └─ lane ─┘     (bounded)
//! ```
//!
//! Keys of the source are read on both sides at the same time. Keys of the target are only asked for on the source: those that are
//! there were read before. Nothing is decided here but equality: equal values at different moments are equal values.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, mpsc, watch};

use crate::process::Stop;

use super::access::Access;
use super::batch::{self, Found, Known, Sizes};
use super::error::CheckError;
use super::link::Head;
use super::pace::Pace;
use super::pieces;
use super::reading::{Class, Kind, Rules};
use super::sample;
use super::settings::{Difference, Mode, Scope, Side};
use super::target::{Keys, Target, is_elsewhere};

/// Keys looked at together.
pub(super) const BATCH: usize = 512;
/// How many keys a scan is asked for at once, where nothing limits it.
const SCAN: usize = 1000;

/// How far the comparison is; for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Keys looked at, those of both servers.
    pub done: AtomicU64,
    /// Keys there are, by what the servers say.
    pub total: AtomicU64,
    /// Keys found to differ.
    pub different: AtomicU64,
    /// Keys that are being looked at again; 0 while both servers are walked through.
    pub suspects: AtomicU64,
}

/// Keys of one database.
#[derive(Debug)]
pub(super) struct Batch {
    /// Where they were found.
    pub side: Side,
    pub db: u32,
    pub target_db: u32,
    pub keys: Vec<Vec<u8>>,
}

/// A key that was not the same at once.
#[derive(Debug)]
pub(super) struct Suspect {
    pub db: u32,
    pub target_db: u32,
    pub key: Vec<u8>,
    /// What was seen last.
    pub source: Found,
    pub target: Found,
}

impl Suspect {
    /// A key that differed, and of which nothing is known now.
    pub fn of(difference: &Difference) -> Self {
        Self {
            db: difference.db,
            target_db: difference.target_db,
            key: difference.key.clone(),
            source: Found::Unsure,
            target: Found::Unsure,
        }
    }
}

/// A key with nothing but expected losses.
#[derive(Debug)]
pub(super) struct Lossy {
    pub suspect: Suspect,
    pub classes: Vec<Class>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub equal: u64,
    pub lossy: Vec<Lossy>,
    pub suspects: Vec<Suspect>,
    /// How many keys the batch had.
    pub keys: u64,
}

/// What all parts are told.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub scope: Arc<Scope>,
    pub mode: Mode,
    pub sizes: Sizes,
    pub rules: Rules,
}

/// How fast a server is walked through.
#[derive(Debug, Clone)]
pub(super) struct Gait {
    /// Keys handed out together, at most.
    pub batch: usize,
    /// Keys walked over in a second.
    pub pace: Pace,
    /// While false, nobody walks; none if that never is.
    pub may_go: Option<watch::Receiver<bool>>,
}

impl Gait {
    /// How many keys to ask a server for: no more than are let through soon, or they come in gusts.
    fn count(&self) -> usize {
        self.pace.batch(SCAN)
    }

    /// Waits until a scan that has brought so many keys may go on.
    async fn step(&mut self, keys: usize) {
        // One that brings none costs the server something all the same.
        self.pace.pass(keys.max(1)).await;
        if let Some(may_go) = &mut self.may_go {
            // Whoever is to say so is gone: so is who would want to know.
            let _ = may_go.wait_for(|may_go| *may_go).await;
        }
    }
}

/// Whose keys are walked through.
pub(super) enum Scanned {
    Server(Access),
    Cluster(Keys),
}

impl Scanned {
    fn side(&self) -> Side {
        match self {
            Self::Server(access) => access.side(),
            Self::Cluster(_) => Side::Target,
        }
    }

    /// Some keys of a database, and where to go on; nowhere at the end.
    async fn next(
        &mut self,
        db: u32,
        cursor: &[u8],
        count: &[u8],
    ) -> Result<(Vec<Vec<u8>>, Option<Vec<u8>>), CheckError> {
        let access = match self {
            Self::Server(access) => access,
            Self::Cluster(keys) => {
                let next = keys.next().await?;
                let more = next.is_some().then(Vec::new);
                return Ok((next.unwrap_or_default(), more));
            }
        };
        access.begin(db);
        access.link.queue(&[b"SCAN", cursor, b"COUNT", count]);
        access.send().await?;
        access.link.array("SCAN").await?;
        let cursor = access.link.text("SCAN").await?;
        let mut keys = Vec::new();
        for _ in 0..access.link.array("SCAN").await? {
            keys.push(access.link.text("SCAN").await?);
        }
        Ok((keys, Some(cursor).filter(|cursor| cursor != b"0")))
    }
}

/// Walks through the databases of one side, and hands out its keys.
pub(super) async fn scan(
    mut scanned: Scanned,
    scope: Arc<Scope>,
    databases: Vec<(u32, u32)>,
    mut gait: Gait,
    batches: mpsc::Sender<Batch>,
    mut stop: watch::Receiver<Stop>,
) -> Result<(), CheckError> {
    let side = scanned.side();
    let (batch, count) = (gait.batch, gait.count().to_string());
    let mut left: VecDeque<_> = databases.into();
    while let Some((db, target_db)) = left.pop_front() {
        let own = match side {
            Side::Source => db,
            Side::Target => target_db,
        };
        let mut cursor = b"0".to_vec();
        let mut keys = Vec::new();
        loop {
            if *stop.borrow_and_update() != Stop::Run {
                return Ok(());
            }
            let (found, more) = scanned.next(own, &cursor, count.as_bytes()).await?;
            let brought = found.len();
            keys.extend(found.into_iter().filter(|key| scope.has(key)));
            gait.step(brought).await;
            let over = more.is_none();
            cursor = more.unwrap_or_default();
            while keys.len() >= batch || over && !keys.is_empty() {
                let rest = keys.split_off(batch.min(keys.len()));
                let whole = Batch {
                    side,
                    db,
                    target_db,
                    keys: std::mem::replace(&mut keys, rest),
                };
                if batches.send(whole).await.is_err() {
                    // Whoever was to look at them has failed, and says so itself.
                    return Ok(());
                }
            }
            if over {
                break;
            }
        }
    }
    if let Scanned::Server(access) = scanned {
        access.link.close().await;
    }
    Ok(())
}

/// A connection to each server, and batches to look at until there are no more.
pub(super) struct Lane {
    pub source: Access,
    pub target: Target,
    pub plan: Plan,
    /// Nearly all keys of the last batch were strings.
    pub strings: bool,
}

impl Lane {
    pub async fn run(
        mut self,
        batches: Arc<Mutex<mpsc::Receiver<Batch>>>,
        looked: mpsc::Sender<Looked>,
        mut stop: watch::Receiver<Stop>,
    ) -> Result<(), CheckError> {
        loop {
            if *stop.borrow_and_update() != Stop::Run {
                return Ok(());
            }
            let next = batches.lock().await.recv().await;
            let Some(batch) = next else {
                break;
            };
            let found = match batch.side {
                Side::Source => self.compare(batch).await?,
                Side::Target => self.ask_for(batch).await?,
            };
            if looked.send(found).await.is_err() {
                return Ok(());
            }
        }
        self.source.link.close().await;
        self.target.close().await;
        Ok(())
    }

    /// Keys of the source: what both sides hold.
    async fn compare(&mut self, batch: Batch) -> Result<Looked, CheckError> {
        let (here, there) = self.read(&batch).await?;
        let rules = self.plan.rules;
        let mut looked = Looked {
            keys: batch.keys.len() as u64,
            ..Looked::default()
        };
        for ((key, source), target) in batch.keys.into_iter().zip(here).zip(there) {
            let mut suspect = Suspect {
                db: batch.db,
                target_db: batch.target_db,
                key,
                source,
                target,
            };
            self.large(&mut suspect).await?;
            match (&suspect.source, &suspect.target) {
                (Found::Absent, Found::Absent) => {}
                (Found::Read(_) | Found::Absent, Found::Read(_) | Found::Absent) => {
                    let sides = (suspect.source.reading(), suspect.target.reading());
                    let classes = rules.differences(sides.0, sides.1);
                    match classes.iter().all(|class| class.is_expected()) {
                        true if classes.is_empty() => looked.equal += 1,
                        true => looked.lossy.push(Lossy { suspect, classes }),
                        false => looked.suspects.push(suspect),
                    }
                }
                _ => looked.suspects.push(suspect),
            }
        }
        Ok(looked)
    }

    /// What both sides hold of a batch, read at the same time.
    async fn read(&mut self, batch: &Batch) -> Result<(Vec<Found>, Vec<Found>), CheckError> {
        let Plan { mode, sizes, .. } = self.plan;
        let Batch {
            db,
            target_db,
            keys,
            ..
        } = batch;
        let values = matches!(mode, Mode::Full | Mode::Smart);
        let kinds = match values && !self.strings {
            true => batch::kinds(&mut self.source, *db, keys).await?,
            false => Vec::new(),
        };
        let known = match (values, self.strings) {
            (false, _) => Known::Nothing,
            (true, true) => Known::Strings,
            (true, false) => Known::Kinds(&kinds),
        };
        let source = batch::read(&mut self.source, *db, keys, known, mode, sizes);
        let target = self.target.read(*target_db, keys, known, mode, sizes);
        let (here, there) = tokio::try_join!(source, target)?;
        let strings = here
            .iter()
            .filter(|found| found.kind() == Some(Kind::String));
        self.strings = here.len() - strings.count() <= here.len() / 16;
        Ok((here, there))
    }

    /// Reads in pieces what is too large for one reply, unless it is only on one side anyway.
    async fn large(&mut self, suspect: &mut Suspect) -> Result<(), CheckError> {
        let (here, there) = large_sides(self.plan.mode, suspect);
        let is_absent = |found: &Found| *found == Found::Absent;
        if !(here || there) || is_absent(&suspect.source) || is_absent(&suspect.target) {
            return Ok(());
        }
        let mode = self.plan.mode;
        let key = &suspect.key;
        let source = async {
            match here {
                true => {
                    Some(pieces::read(&mut self.source, suspect.db, key, mode).await).transpose()
                }
                false => Ok(None),
            }
        };
        let target = async {
            match there {
                true => Some(self.target.pieces(suspect.target_db, key, mode).await).transpose(),
                false => Ok(None),
            }
        };
        let (source, target) = tokio::try_join!(source, target)?;
        suspect.source = source.unwrap_or_else(|| suspect.source.clone());
        suspect.target = target.unwrap_or_else(|| suspect.target.clone());
        let places = (suspect.db, suspect.target_db);
        suspect
            .sample((&mut self.source, places.0), (&mut self.target, places.1))
            .await
    }

    /// Whether the source has every one of these keys, in one question that costs it little.
    async fn all_there(&mut self, batch: &Batch) -> Result<bool, CheckError> {
        let mut words: Vec<&[u8]> = vec![b"EXISTS"];
        words.extend(batch.keys.iter().map(Vec::as_slice));
        self.source.pass(batch.keys.len().saturating_sub(1)).await;
        self.source.begin(batch.db);
        self.source.link.queue(&words);
        self.source.send().await?;
        Ok(match self.source.link.head().await? {
            Head::Integer(there) => there.unsigned_abs() == batch.keys.len() as u64,
            // Not of several at once, then.
            Head::Error(_) => false,
            other => return Err(self.source.link.unexpected("EXISTS", &other)),
        })
    }

    /// Keys of the target: whether the source has them too.
    async fn ask_for(&mut self, batch: Batch) -> Result<Looked, CheckError> {
        let mut looked = Looked {
            keys: batch.keys.len() as u64,
            ..Looked::default()
        };
        if self.all_there(&batch).await? {
            return Ok(looked);
        }
        self.source.begin(batch.db);
        for key in &batch.keys {
            self.source.link.queue(&[b"EXISTS", key]);
        }
        self.source.send().await?;
        for key in batch.keys {
            if self.source.link.integer("EXISTS").await? == 0 {
                looked.suspects.push(Suspect {
                    db: batch.db,
                    target_db: batch.target_db,
                    key,
                    source: Found::Absent,
                    target: Found::Large,
                });
            }
        }
        Ok(looked)
    }
}

/// Which sides of a key are to be read in pieces.
pub(super) fn large_sides(mode: Mode, suspect: &Suspect) -> (bool, bool) {
    let (here, there) = (
        suspect.source == Found::Large,
        suspect.target == Found::Large,
    );
    match mode {
        // Samples are compared with samples.
        Mode::Smart => (here || there, here || there),
        Mode::Full | Mode::Outline | Mode::Length => (here, there),
    }
}

/// The databases to walk through: pairs of the source's and the target's.
pub(super) fn databases(scope: &Scope, side: Side, keyspace: &[(u32, u64)]) -> Vec<(u32, u32)> {
    let pairs = keyspace.iter().filter_map(|(db, _)| match side {
        Side::Source => (scope.filter.allows_db(*db)).then(|| (*db, scope.target_db(*db))),
        Side::Target => scope.source_db(*db).map(|source| (source, *db)),
    });
    pairs.collect()
}

impl Suspect {
    /// Compares samples where only those can be.
    pub async fn sample(
        &mut self,
        source: (&mut Access, u32),
        (target, target_db): (&mut Target, u32),
    ) -> Result<(), CheckError> {
        let key = &self.key;
        let compared = match (&mut self.source, &mut self.target) {
            (Found::Read(here), Found::Read(there)) => {
                let target = (target.of(key).await?, target_db);
                sample::compare(source, target, key, here, there).await
            }
            _ => return Ok(()),
        };
        match compared {
            Err(error) if is_elsewhere(&error) => {
                target.give_up(key);
                self.target = Found::Unsure;
                Ok(())
            }
            compared => compared,
        }
    }
}

impl Progress {
    pub(super) fn looked(&self, keys: u64) {
        self.done.fetch_add(keys, Ordering::Relaxed);
    }
}
