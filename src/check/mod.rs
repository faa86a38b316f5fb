//! Comparing the two servers of a task, also while it runs. Knows where a task keeps its positions, and nothing else
//! of it.
//!
//! First every key is looked at once (`sweep`): what is the same on both sides is equal. What is not may be a write
//! on its way, so it is a suspect, and looked at again (`rounds`) until it is proved to differ or found equal. What
//! is neither is `unsettled`, never equal.
//!
//! # When two readings prove a difference
//!
//! By flow, let the journal's entries be numbered, and a *place* be the number of the next one. For a suspect `k`, in
//! this order, each step behind the answer to the one before:
//!
//! ```text
//!  source  1  WATCH k
//!          2  v := value and expiry of k
//!          3  L := DFLY REPLICAOFFSET, a place in each flow
//!  target  4  wait until the positions are of this master, and at or behind L in every flow
//!          5  in one transaction: P := the positions, w := value and expiry of k;  P >= L in every flow
//!  source  6  MULTI, EXISTS k, EXEC: executed, not null
//! ```
//!
//! *Claim: then `v` and `w` are the same, unless the copy is wrong.* Given
//!
//! - (a) `EXEC` is null if anything was done to `k` since the `WATCH`: it was set, even to what it was, was deleted,
//!   expired or flushed, or its expiry, groups or consumers were changed (each seen with v1.40.1);
//! - (b) what a reading shows was journalled before a later `REPLICAOFFSET` (measured: value and offset may be apart,
//!   but a value between two offsets was right in each of thousands of samples);
//! - (c) the target's transaction shows `k` as all entries before `P` make it and none from `P` on: what a task
//!   guarantees for a right copy;
//!
//! then by (b) all entries that made `v` are before `L`, so before `P`. An entry of `k` before `P` that is not in `v`
//! was executed after step 2, as (b) leaves no room for earlier ones, and before step 5, since the target had it, so
//! between 1 and 6, which (a) excludes. So the entries of `k` before `P` are those that made `v`, and by (c) they
//! made `w`. Which flow is the key's does not matter, as `P` is behind `L` in all of them. Were only places compared,
//! with `L` read before and after the value, a key that goes to and fro between two values would seem to differ. A
//! value read in pieces is covered as well: each piece of `v` lies between 1 and 6, each piece of `w` is in a
//! transaction as in step 5, and the argument is about all of them. A command that reads but counts as a write for who
//! watches the key (`XPENDING` in v1.40.1) is none to read `v` with.
//!
//! What is not in the journal is not covered: a key whose time has come is removed by each server by its own clock.
//! So a key that is on one side only, with an expiry in the past or within a second and the tolerance, is open; so
//! are, for the same reason, members that expire by themselves, where the target holds more of them and the task's
//! policy lets it.
//!
//! (c) does not hold for keys on the task's list of those to be read again: their entries are passed and not applied.
//! Such a key is open. The list is looked at between 4 and 5, which is enough: an entry that would put the key there is
//! either before `L`, and the key was put there by 4, or excluded by (a). Nor does a full sync leave the target without
//! keys that the source deleted before, until the task has removed them: until then a key of the target only is open.
//!
//! In a cluster no transaction has both `k` and the positions. There `P` is the least of what all nodes say, read before
//! and after `w`, and must be at or behind `L` both times, of the same nodes in the same life. On each node a position
//! says that all entries before it are there, so `w` shows all of `k` before `L`. It may show later ones: by (a) there
//! is none before 6. Had a node failed over to a replica that lacks some of it, the second reading would be of another
//! node, or of less.
//!
//! A target without positions, or with positions of another history of the source, proves nothing. Then a difference
//! is what stays as it is on both sides in all rounds: good for two servers that nobody writes to.
//!
//! Invariants: the source is sent nothing but `SCAN`, `WATCH`, commands that read, and `DFLY REPLICAOFFSET`, at no more
//!   than the rate that was asked for; no reply is asked for that is much larger than `Sizes::row`.

mod access;
mod batch;
mod digest;
mod dump;
mod error;
mod link;
mod pace;
mod pieces;
mod reading;
mod rounds;
mod sample;
mod settings;
mod sweep;
mod tally;
mod target;
mod typed;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::process::Stop;

use access::Access;
use batch::Sizes;
use pace::Pace;
use reading::Rules;
use rounds::Rounds;
use sweep::{BATCH, Gait, Lane, Looked, Plan, Scanned, Suspect};
use tally::Ledger;
use target::{Keys, Target};

pub use digest::Digest;
pub use error::CheckError;
pub use reading::{Class, Kind, MemberExpiry, Reading, StreamParts};
pub use rounds::Method;
pub use settings::{ALL, Audit, Difference, Lists, Losses, Mode, Scope, Server, Settings, Side};
pub use sweep::Progress;
pub use tally::{Open, Tally};

/// Connections to each server that compare at the same time.
const LANES: usize = 3;
/// The same, beside replication.
const AUDIT_LANES: usize = 1;
/// How long a suspect of an audit waits for others to be looked at again with.
const GATHER: Duration = Duration::from_secs(1);
/// After so long the connections for looking again are used, if nothing else has: servers close idle ones.
const IDLE: Duration = Duration::from_secs(10);

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The numbers.
    pub tally: Tally,
    /// How differences were told from writes on their way.
    pub method: Method,
    /// Whether every key was looked at: it was not stopped before.
    pub complete: bool,
}

impl Outcome {
    /// Whether both servers hold the same, as far as was asked for.
    pub fn is_equal(&self) -> bool {
        self.complete && self.tally.different == 0 && self.tally.open() == 0
    }
}

/// Compares. When `stop` says so it ends soon, with what is known by then.
pub async fn check(
    settings: &Settings,
    progress: &Arc<Progress>,
    stop: watch::Receiver<Stop>,
) -> Result<Outcome, CheckError> {
    let began = Instant::now();
    let audit = settings.audit.as_ref();
    let mut ledger = Ledger::open(settings.report.as_deref(), settings.differences.clone())?;
    let pace = Pace::new(settings.qps);
    let gait = gait(settings, &pace);
    let lanes = audit.map_or(LANES, |_| AUDIT_LANES);
    let plan = plan(settings);
    let open_source = async || {
        let mut access = Access::open(&settings.source, pace.clone(), None).await?;
        if audit.is_some() {
            access.count_bytes(gait.pace.clone());
        }
        Ok::<_, CheckError>(access)
    };
    let open_target = async || {
        let lists = settings.lists.as_ref();
        Target::open(&settings.target, lists).await
    };
    let mut rounds = Rounds::of(settings, open_source().await?, open_target().await?, &stop);
    let method = rounds.method().await?;
    for side in [Side::Source, Side::Target] {
        let keyspace = match side {
            Side::Source => rounds.source.keyspace().await?,
            Side::Target => rounds.target.keyspace().await?,
        };
        let databases = sweep::databases(&plan.scope, side, &keyspace);
        let keys = keyspace.iter().map(|(_, keys)| keys).sum();
        progress.total.fetch_add(keys, Ordering::Relaxed);
        let mut parts = JoinSet::new();
        let (give, batches) = mpsc::channel(lanes);
        let (tell, looked) = mpsc::channel(lanes);
        let scanning = match side {
            Side::Source => Scanned::Server(open_source().await?),
            Side::Target => match Keys::of_cluster(&settings.target).await? {
                Some(keys) => Scanned::Cluster(keys),
                None => {
                    let access = Access::open(&settings.target, Pace::new(None), None).await?;
                    Scanned::Server(access)
                }
            },
        };
        let scope = Arc::clone(&plan.scope);
        let scan = sweep::scan(scanning, scope, databases, gait.clone(), give, stop.clone());
        parts.spawn(scan);
        let batches = Arc::new(Mutex::new(batches));
        for _ in 0..lanes {
            let lane = Lane {
                source: open_source().await?,
                target: open_target().await?,
                plan: plan.clone(),
                strings: false,
            };
            parts.spawn(lane.run(Arc::clone(&batches), tell.clone(), stop.clone()));
        }
        drop((tell, batches));
        let patience = Patience {
            most: usize::try_from(settings.max_memory / 4).unwrap_or(usize::MAX),
            longest: audit.map(|_| GATHER),
        };
        collect(looked, &mut rounds, &mut ledger, progress, patience).await?;
        while let Some(ended) = parts.join_next().await {
            ended.map_err(|error| CheckError::Internal(error.to_string()))??;
        }
    }
    let complete = *stop.borrow() == Stop::Run;
    rounds.close().await;
    let tally = ledger.finish(complete, began.elapsed())?;
    Ok(Outcome {
        tally,
        method,
        complete,
    })
}

/// Looks again at keys that differed, after something was done about that: only at them, and as thoroughly as before. Adds
/// what comes out to the report.
pub async fn look_again(
    settings: &Settings,
    keys: &[Difference],
    stop: watch::Receiver<Stop>,
) -> Result<Tally, CheckError> {
    let began = Instant::now();
    let mut ledger = Ledger::of_repaired(settings.report.as_deref())?;
    let source = Access::open(&settings.source, Pace::new(settings.qps), None).await?;
    let target = Target::open(&settings.target, settings.lists.as_ref()).await?;
    let mut rounds = Rounds::of(settings, source, target, &stop);
    for some in keys.chunks(BATCH) {
        let suspects = some.iter().map(Suspect::of).collect();
        rounds.settle(suspects, &mut ledger).await?;
    }
    rounds.close().await;
    ledger.finish(*stop.borrow() == Stop::Run, began.elapsed())
}

fn plan(settings: &Settings) -> Plan {
    Plan {
        scope: Arc::new(settings.scope.clone()),
        mode: settings.mode,
        sizes: Sizes::of(settings.max_memory, settings.mode),
        rules: Rules {
            tolerance: millis(settings.tolerance),
            grace: millis(settings.grace),
            losses: settings.losses,
        },
    }
}

/// How fast keys are walked over.
fn gait(settings: &Settings, pace: &Pace) -> Gait {
    match &settings.audit {
        Some(audit) => {
            let pace = Pace::new(Some(audit.keys_per_second));
            Gait {
                batch: pace.batch(BATCH),
                pace,
                may_go: Some(audit.may_go.clone()),
            }
        }
        None => Gait {
            batch: pace.batch(BATCH),
            pace: Pace::new(None),
            may_go: None,
        },
    }
}

/// When suspects are looked at again.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// When they take more bytes than this.
    most: usize,
    /// When the first has waited for so long; none if all may wait to the end.
    longest: Option<Duration>,
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Takes in what the lanes have seen, and looks again at suspects when there are no more of them or too many.
async fn collect(
    mut looked: mpsc::Receiver<Looked>,
    rounds: &mut Rounds,
    ledger: &mut Ledger,
    progress: &Progress,
    patience: Patience,
) -> Result<(), CheckError> {
    let mut suspects: Vec<Suspect> = Vec::new();
    let mut bytes = 0;
    let mut used = Instant::now();
    let mut first = None;
    loop {
        let waited = first
            .zip(patience.longest)
            .map(|(since, most)| since + most);
        let due = waited.unwrap_or(used + IDLE);
        if due <= Instant::now() {
            match waited {
                Some(_) => again(&mut suspects, rounds, ledger, progress).await?,
                None => {
                    rounds.method().await?;
                }
            }
            (bytes, first, used) = (0, None, Instant::now());
        }
        let batch = match timeout_at(due, looked.recv()).await {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(_) => continue,
        };
        ledger.tally.equal += batch.equal;
        for lossy in batch.lossy {
            let suspect = &lossy.suspect;
            ledger.equal(suspect.place(), &lossy.classes, suspect.sides())?;
        }
        for suspect in batch.suspects {
            bytes += suspect.key.len() + SUSPECT;
            suspects.push(suspect);
            first = first.or_else(|| Some(Instant::now()));
        }
        progress.looked(batch.keys);
        if bytes > patience.most {
            again(&mut suspects, rounds, ledger, progress).await?;
            (bytes, first, used) = (0, None, Instant::now());
        }
    }
    again(&mut suspects, rounds, ledger, progress).await
}

/// About what a suspect takes beside its name.
const SUSPECT: usize = 1 << 10;

async fn again(
    suspects: &mut Vec<Suspect>,
    rounds: &mut Rounds,
    ledger: &mut Ledger,
    progress: &Progress,
) -> Result<(), CheckError> {
    if suspects.is_empty() {
        return Ok(());
    }
    let count = suspects.len() as u64;
    progress.suspects.store(count, Ordering::Relaxed);
    rounds.settle(std::mem::take(suspects), ledger).await?;
    progress.suspects.store(0, Ordering::Relaxed);
    let different = ledger.tally.different;
    progress.different.store(different, Ordering::Relaxed);
    Ok(())
}
