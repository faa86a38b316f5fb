//! A task's spool: found, opened, looked at, ended.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use super::disk::Disk;
use super::error::SpoolError;
use super::flow::Flow;
use super::identity::{self, Identity};
use super::inlet::Inlet;
use super::outlet::Outlet;
use super::recovery::{self, Recovered};
use super::shared::{Ending, Shared, State};
use super::space::{Durability, Settings, Space};
use super::syncing::Unsynced;
use super::writing::Writing;

/// A spool's directory before anything in it is used or removed.
#[derive(Debug)]
pub struct Found {
    dir: PathBuf,
    /// And whether all that was written is still what the kernel has.
    identity: Option<(Identity, bool)>,
    unreadable: Option<String>,
}

/// How much a spool holds. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Flow by flow.
    pub flows: Vec<FlowStatus>,
    /// On disk, kept segments included.
    pub bytes: u64,
    /// Waiting to be written.
    pub queued: u64,
    /// Free on the file system, as far as known.
    pub free: u64,
    /// The system refuses to write: file system or quota are full.
    pub refused: bool,
    /// Nothing can be written any more, because of this.
    pub failed: Option<String>,
    /// Written since the spool was opened.
    pub written_bytes: u64,
    /// Written since the spool was opened.
    pub written_records: u64,
    /// Read back since the spool was opened.
    pub read_bytes: u64,
    /// Read back since the spool was opened.
    pub read_records: u64,
}

/// How much a spool holds of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowStatus {
    /// On disk.
    pub bytes: u64,
    /// Journal records on disk.
    pub records: u64,
    /// Of the bytes, those of complete segments that are applied.
    pub kept: u64,
    /// Of the bytes, those the outlet has not read yet and has to.
    pub unread: u64,
    /// The outlet is not level with the inlet: batches do not stay in memory.
    pub disk_mode: bool,
    /// When the oldest entry that is not applied was received, by the source's clock; up to a second, after a restart
    /// up to a segment, too early.
    pub oldest_ms: Option<i64>,
    /// The LSN the flow goes on with, once its journal has begun.
    pub next: Option<u64>,
    /// Every entry before this LSN is on disk; 0 for none.
    pub on_disk: u64,
    /// Every entry before this LSN is in the target, as the outlet was told.
    pub applied: u64,
}

impl Found {
    /// Looks at `dir`, which need not exist. Changes nothing. Blocks.
    pub fn at(dir: &Path) -> Result<Self, SpoolError> {
        let (identity, unreadable) = match identity::read(dir) {
            Ok(identity) => (identity, None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                (None, Some(error.to_string()))
            }
            Err(cause) => return Err(failed(dir, cause)),
        };
        Ok(Self {
            dir: dir.to_owned(),
            identity,
            unreadable,
        })
    }

    /// Whose entries are there, if any.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref().map(|(identity, _)| identity)
    }

    /// Why what is there cannot be used: it is of another release, or damaged.
    pub fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    /// Removes what is there, damaged files that were put aside too, and the directory if nothing else is in it. Bytes
    /// that were removed. Blocks.
    pub fn remove(self) -> Result<u64, SpoolError> {
        let removed = identity::remove(&self.dir);
        removed.map_err(|cause| failed(&self.dir, cause))
    }

    /// Opens what is there, and says what that is. Every flow that holds something has to be told where it goes on
    /// ([`Outlet::read_from`]) or emptied ([`Spool::forget`]) before anything is pushed. Without an identity there is
    /// nothing to open: `Ok(None)`. Blocks, for as long as it takes to read what has no seal.
    pub fn resume(self, settings: Settings) -> Result<Option<(Spool, Vec<Recovered>)>, SpoolError> {
        let Some((identity, trusted)) = self.identity else {
            return Ok(None);
        };
        open(self.dir, &identity, trusted, settings).map(Some)
    }

    /// [Opens](Self::resume) what is there if its positions are those of this master; anything else is removed, and it
    /// starts with nothing.
    pub fn resume_of(
        self,
        identity: &Identity,
        settings: Settings,
    ) -> Result<(Spool, Vec<Recovered>), SpoolError> {
        match self.identity {
            Some((found, trusted)) if found.is_of(&identity.master, identity.flows) => {
                open(self.dir, &found, trusted, settings)
            }
            _ => Ok((start_anew(self.dir, identity, settings)?, Vec::new())),
        }
    }

    /// Removes what is there and starts with nothing. Damaged files that were put aside stay. Blocks.
    pub fn start_anew(self, identity: &Identity, settings: Settings) -> Result<Spool, SpoolError> {
        start_anew(self.dir, identity, settings)
    }
}

fn start_anew(dir: PathBuf, identity: &Identity, settings: Settings) -> Result<Spool, SpoolError> {
    let mut private = fs::DirBuilder::new();
    let emptied = private
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .and_then(|()| identity::clear(&dir))
        .and_then(|()| identity::write(&dir, identity));
    emptied.map_err(|cause| failed(&dir, cause))?;
    let flows = (0..identity.flows).map(|_| Flow::new(0, settings.memory));
    let state = state(flows.collect(), Space::default(), 0);
    Spool::start(state, settings, identity, Disk::new(dir))
}

fn state(flows: Vec<Flow>, space: Space, segments: u64) -> State {
    State {
        flows,
        jobs: VecDeque::new(),
        space,
        idle: false,
        ending: None,
        failed: None,
        segments,
    }
}

fn failed(dir: &Path, cause: io::Error) -> SpoolError {
    let dir = dir.to_owned();
    SpoolError::Io { dir, cause }
}

fn open(
    dir: PathBuf,
    identity: &Identity,
    trusted: bool,
    settings: Settings,
) -> Result<(Spool, Vec<Recovered>), SpoolError> {
    let disk = Disk::new(dir);
    let opened = resume(&disk, identity, trusted, settings.memory);
    let (state, recovered) = opened.map_err(|cause| failed(disk.dir(), cause))?;
    Ok((Spool::start(state, settings, identity, disk)?, recovered))
}

fn resume(
    disk: &Disk,
    identity: &Identity,
    trusted: bool,
    memory: u64,
) -> io::Result<(State, Vec<Recovered>)> {
    let count = identity.flows;
    let (found, highest) = recovery::segments(disk.dir(), count, identity.sum(), trusted)?;
    // From here on this start of the machine is the one that wrote, or has read, all there is.
    identity::write(disk.dir(), identity)?;
    let mut space = Space::default();
    let (mut flows, mut recovered) = (Vec::new(), Vec::new());
    for (number, found) in found {
        let mut flow = Flow::new(0, memory);
        space.grew(found.segments.iter().map(|segment| segment.bytes).sum());
        flow.unplaced = !found.segments.is_empty();
        flow.segments = found.segments.into();
        recovered.push(Recovered {
            flow: number,
            runs: flow.runs(),
            cut: found.cut,
            damaged: found.damaged,
        });
        flows.push(flow);
    }
    Ok((state(flows, space, highest), recovered))
}

/// A task's spool. Dropped, it ends at once: what is not on disk yet is lost, as it was never acknowledged; inlets and
/// outlets then yield errors. Dropping waits for a write that is under way.
#[derive(Debug)]
pub struct Spool {
    pub(super) shared: Arc<Shared>,
    identity: Identity,
    unsynced: Arc<Unsynced>,
    writing: Option<JoinHandle<Result<(), Arc<io::Error>>>>,
    syncing: Option<JoinHandle<()>>,
}

impl Spool {
    fn start(
        mut state: State,
        settings: Settings,
        identity: &Identity,
        disk: Disk,
    ) -> Result<Self, SpoolError> {
        let free = disk.free().map_err(|cause| failed(disk.dir(), cause))?;
        state.space.looked(free);
        let interval = settings.sync == Durability::Interval;
        let shared = Arc::new(Shared::new(state, settings, identity.sum(), disk));
        let mut spool = Self {
            unsynced: Arc::default(),
            shared,
            identity: identity.clone(),
            writing: None,
            syncing: None,
        };
        let writing = Writing::new(spool.shared.clone(), spool.unsynced.clone(), identity.flows);
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let started = named("spool").spawn(move || writing.run());
        let failed = |cause| failed(spool.shared.disk.dir(), cause);
        spool.writing = Some(started.map_err(failed)?);
        if interval {
            let (shared, unsynced) = (spool.shared.clone(), spool.unsynced.clone());
            let started = named("spool sync").spawn(move || unsynced.run(&shared));
            spool.syncing = Some(started.map_err(failed)?);
        }
        Ok(spool)
    }

    /// Notes that another master goes on with the same positions: what is there, and what comes, is of both. Blocks.
    pub fn succeeded_by(&mut self, master: &str) -> Result<(), SpoolError> {
        let identity = Identity {
            successor: Some(master.to_owned()),
            ..self.identity.clone()
        };
        let dir = self.shared.disk.dir();
        identity::write(dir, &identity).map_err(|cause| failed(dir, cause))?;
        self.identity = identity;
        Ok(())
    }

    /// The flow's inlet. One at a time: when a session with the source has ended, the next one gets a new one.
    pub fn inlet(&self, flow: u32) -> Result<Inlet, SpoolError> {
        let mut state = self.shared.lock();
        let this = state.flows.get_mut(flow as usize);
        let this = this.filter(|this| !this.has_inlet);
        let this = this.ok_or(SpoolError::InUse { flow })?;
        this.has_inlet = true;
        Ok(Inlet::new(self.shared.clone(), flow, this))
    }

    /// The flow's outlet. One at a time: a later one yields what no outlet has taken yet, unless it is told where to
    /// start ([`Outlet::read_from`]).
    pub fn outlet(&self, flow: u32) -> Result<Outlet, SpoolError> {
        let mut state = self.shared.lock();
        let this = state.flows.get_mut(flow as usize);
        let this = this.filter(|this| !this.has_outlet);
        let this = this.ok_or(SpoolError::InUse { flow })?;
        this.has_outlet = true;
        Ok(Outlet::new(self.shared.clone(), flow, this))
    }

    /// Removes all there is of a flow, in memory and on disk: before a full sync. Its inlet and outlet must be gone.
    pub fn forget(&self, flow: u32) -> Result<(), SpoolError> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let this = state.flows.get_mut(flow as usize);
        let this = this.filter(|this| !this.has_inlet && !this.has_outlet);
        let this = this.ok_or(SpoolError::InUse { flow })?;
        let new = Flow::new(this.run + 1, self.shared.settings.memory);
        let old = std::mem::replace(this, new);
        for segment in old.segments {
            state
                .space
                .remove(segment.named.path.clone(), segment.bytes);
        }
        for overflow in old.overflows {
            state
                .space
                .remove(overflow.named.path.clone(), overflow.bytes);
        }
        self.shared.wake(state);
        Ok(())
    }

    /// How much there is.
    pub fn status(&self) -> Status {
        let state = self.shared.lock();
        let counters = &self.shared.counters;
        Status {
            flows: state.flows.iter().map(flow_status).collect(),
            bytes: state.space.used,
            queued: state.space.queued,
            free: state.space.free(),
            refused: state.space.refused,
            failed: state.failed.as_ref().map(ToString::to_string),
            written_bytes: counters.written_bytes.load(Ordering::Relaxed),
            written_records: counters.written_records.load(Ordering::Relaxed),
            read_bytes: counters.read_bytes.load(Ordering::Relaxed),
            read_records: counters.read_records.load(Ordering::Relaxed),
        }
    }

    /// Writes what was taken, puts it on the device unless told never to, and ends. Blocks.
    pub fn finish(mut self) -> Result<(), SpoolError> {
        let result = self.end(Ending::Finish);
        let dir = self.shared.disk.dir();
        result.map_err(|cause| failed(dir, io::Error::new(cause.kind(), cause)))
    }

    fn end(&mut self, how: Ending) -> Result<(), Arc<io::Error>> {
        {
            let mut state = self.shared.lock();
            state.ending = state.ending.max(Some(how));
            self.shared.wake(&mut state);
        }
        let written = self.writing.take().map(JoinHandle::join);
        self.unsynced.end();
        let synced = self.syncing.take().map(JoinHandle::join);
        let panicked = || Arc::new(io::Error::other("a thread of the spool panicked"));
        synced.transpose().map_err(|_| panicked())?;
        match written {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(panicked()),
            None => Ok(()),
        }
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> &super::tests::faults::Faults {
        &self.shared.disk.faults
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Whoever wants to know what became of the rest calls `finish`.
        let _ = self.end(Ending::Now);
    }
}

fn flow_status(flow: &Flow) -> FlowStatus {
    let segments = flow.segments.iter();
    let overflows = flow.overflows.iter().map(|overflow| overflow.bytes);
    let kept = segments.clone().filter(|segment| flow.is_kept(segment));
    let unread = flow.extents.iter().map(|extent| extent.end - extent.at);
    FlowStatus {
        bytes: segments.clone().map(|segment| segment.bytes).sum::<u64>() + overflows.sum::<u64>(),
        records: segments.map(|segment| segment.records).sum(),
        kept: kept.map(|segment| segment.bytes).sum(),
        unread: unread.sum(),
        disk_mode: flow.is_behind(),
        oldest_ms: flow.oldest_ms(),
        next: flow.next,
        on_disk: *flow.on_disk.borrow(),
        applied: flow.applied,
    }
}
