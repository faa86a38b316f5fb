//! The thread that writes: records into segments, in order, and nothing else waits for the disk.
//!
//! Invariants: a record counts as written, and is dropped from memory, when it is whole in its segment and, if so
//!   asked, on the device; one that could not be written stays first in line, and nothing of its flow overtakes it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::disk::is_full;
use super::flow::{Flow, Overflow, Segment, Written};
use super::record::Kind;
use super::segment::Active;
use super::shared::{Ending, Job, Shared, State, cost};
use super::space::Durability;
use super::syncing::Unsynced;

/// Bytes written at once.
const GROUP: u64 = 1 << 20;

/// Bytes taken from the queue at once: what stays in memory a little longer than it has to.
const TURN: u64 = 4 << 20;

/// How often kept segments are looked through, and the file system's free space is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After the system refused to write, it is asked again this much later, or when something was removed.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// After a write, more is gathered for this long before anybody has to wake the thread: at a high rate that would be
/// a system call for each batch, and a switch between threads.
const GATHER: Duration = Duration::from_millis(1);

/// What there is to do.
enum Turn {
    Write(Vec<Job>),
    Look,
    End { finish: bool },
}

/// The segments one flow is written to.
#[derive(Debug, Default)]
struct Open {
    journal: Option<Active>,
    overflow: Option<Active>,
}

impl Open {
    fn place(&mut self, kind: Kind) -> &mut Option<Active> {
        match kind {
            Kind::Overflow => &mut self.overflow,
            Kind::Journal | Kind::Seal => &mut self.journal,
        }
    }

    /// Lets go of segments that are not wanted any more: a file takes space as long as it is open.
    fn follow(&mut self, flow: &Flow) {
        let number = |active: &Active| active.named.number;
        if self.journal.as_ref().map(number) != flow.journal {
            self.journal = None;
        }
        if self.overflow.as_ref().map(number) != flow.overflow {
            self.overflow = None;
        }
    }
}

/// The writing thread's own.
pub(super) struct Writing {
    shared: Arc<Shared>,
    unsynced: Arc<Unsynced>,
    open: Vec<Open>,
    /// Records that the system had no room for.
    refused: VecDeque<Job>,
    looked: Instant,
    /// Nothing came while more was gathered.
    gathered: bool,
    segment: u64,
}

impl Writing {
    pub(super) fn new(shared: Arc<Shared>, unsynced: Arc<Unsynced>, flows: u32) -> Self {
        Self {
            segment: shared.settings.segment(flows),
            open: (0..flows).map(|_| Open::default()).collect(),
            refused: VecDeque::new(),
            looked: Instant::now(),
            gathered: true,
            shared,
            unsynced,
        }
    }

    /// Writes until the spool ends or can no longer be written.
    pub(super) fn run(mut self) -> Result<(), Arc<io::Error>> {
        // Whatever ends this thread, a panic too, the others have to know.
        let _told = EndTold(self.shared.clone());
        match self.write_on() {
            Ok(()) => self.shared.lock().failed.clone().map_or(Ok(()), Err),
            Err(error) => Err(self.shared.fail(error)),
        }
    }

    fn write_on(&mut self) -> io::Result<()> {
        loop {
            match self.turn()? {
                Turn::Write(jobs) => self.write(jobs)?,
                Turn::Look => self.look()?,
                Turn::End { finish } => return if finish { self.finish() } else { Ok(()) },
            }
        }
    }

    /// Waits for something to do.
    fn turn(&mut self) -> io::Result<Turn> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let mut waited = false;
        loop {
            let doomed = std::mem::take(&mut state.space.doomed);
            if !doomed.is_empty() {
                for (open, flow) in self.open.iter_mut().zip(&state.flows) {
                    open.follow(flow);
                }
                drop(state);
                for path in doomed {
                    shared.disk.remove(&path)?;
                }
                shared.room.notify_waiters();
                waited = true;
                state = shared.lock();
                continue;
            }
            let ending = state.ending;
            if ending == Some(Ending::Now) || state.failed.is_some() {
                return Ok(Turn::End { finish: false });
            }
            if self.refused.is_empty() || waited {
                let jobs = self.next_jobs(&mut state);
                if !jobs.is_empty() {
                    // A single one is no high rate.
                    self.gathered = jobs.len() < 2;
                    return Ok(Turn::Write(jobs));
                }
                // What was refused is not wanted any more: whether the system still refuses, the next will tell.
                state.space.refused = false;
            }
            if ending.is_some() {
                return Ok(Turn::End { finish: true });
            }
            let due = LOOK_EVERY.saturating_sub(self.looked.elapsed());
            if due.is_zero() {
                return Ok(Turn::Look);
            }
            if !std::mem::replace(&mut self.gathered, true) {
                state = shared.wait(state, GATHER);
                continue;
            }
            let most = match self.refused.is_empty() {
                true => due,
                false => RETRY_AFTER.min(due),
            };
            state.idle = true;
            state = shared.wait(state, most);
            state.idle = false;
            waited = true;
        }
    }

    /// The records to write next, oldest first; those of runs that have ended are dropped.
    fn next_jobs(&mut self, state: &mut State) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut bytes = 0;
        while bytes < TURN {
            let Some(job) = self.refused.pop_front().or_else(|| state.jobs.pop_front()) else {
                break;
            };
            let flow = state.flows.get(job.flow as usize);
            let wanted = flow.filter(|flow| flow.run == job.run);
            match (wanted, self.open.get_mut(job.flow as usize)) {
                (Some(flow), Some(open)) => {
                    open.follow(flow);
                    bytes += job.record.len();
                    jobs.push(job);
                }
                _ => state.space.queued = state.space.queued.saturating_sub(job.cost()),
            }
        }
        jobs
    }

    fn look(&mut self) -> io::Result<()> {
        self.looked = Instant::now();
        let free = self.shared.disk.free()?;
        let mut state = self.shared.lock();
        state.space.looked(free);
        self.shared.expire(&mut state);
        drop(state);
        self.shared.room.notify_waiters();
        Ok(())
    }

    fn write(&mut self, jobs: Vec<Job>) -> io::Result<()> {
        // A segment is little longer than it should be.
        let mut groups = groups(jobs, GROUP.min(self.segment)).into_iter();
        while let Some(mut group) = groups.next() {
            let result = match self.append(&mut group) {
                Err(error) if is_full(&error) && self.shared.give_up_kept() => {
                    self.remove_doomed()?;
                    self.append(&mut group)
                }
                other => other,
            };
            match result {
                Ok(()) => {}
                Err(error) if is_full(&error) => {
                    return self.refuse(group.into_iter().chain(groups.flatten()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// These are written before everything else when there is room again.
    fn refuse(&mut self, jobs: impl Iterator<Item = Job>) -> io::Result<()> {
        let free = self.shared.disk.free()?;
        let mut state = self.shared.lock();
        state.space.looked(free);
        state.space.refused = true;
        drop(state);
        let behind = std::mem::replace(&mut self.refused, jobs.collect());
        self.refused.extend(behind);
        Ok(())
    }

    fn remove_doomed(&self) -> io::Result<()> {
        let doomed = std::mem::take(&mut self.shared.lock().space.doomed);
        let mut removed = doomed.iter().map(|path| self.shared.disk.remove(path));
        removed.try_for_each(|result| result)
    }

    /// Appends records of one flow and kind, all or, on an error, none.
    fn append(&mut self, jobs: &mut [Job]) -> io::Result<()> {
        let Some(first) = jobs.first() else {
            return Ok(());
        };
        let (flow, run, kind) = (first.flow, first.run, first.record.head().kind);
        let (mut active, fresh) = self.active(flow, kind)?;
        let at = active.len;
        let records = jobs.iter_mut().map(|job| &mut job.record);
        if let Err(error) = active.append(&self.shared.disk, records) {
            match fresh {
                true => self.shared.disk.remove(&active.named.path)?,
                false => self.keep_open(flow, active),
            }
            return Err(error);
        }
        if kind == Kind::Journal {
            self.make_durable(&active, fresh)?;
        }
        account(
            &self.shared,
            flow,
            run,
            &active,
            written(&active, at, jobs),
            fresh,
        );
        self.keep_open(flow, active);
        Ok(())
    }

    /// The segment to append to, and whether it is new.
    fn active(&mut self, flow: u32, kind: Kind) -> io::Result<(Active, bool)> {
        let open = self.open.get_mut(flow as usize);
        let open = open.and_then(|open| open.place(kind).take());
        match open {
            Some(active) if active.len < self.segment => return Ok((active, false)),
            Some(mut full) if kind == Kind::Journal => {
                seal(&self.shared, &mut full)?;
                self.unsynced.add(&self.shared, &full.file, false);
            }
            _ => {}
        }
        let number = {
            let mut state = self.shared.lock();
            state.segments += 1;
            state.segments
        };
        let (disk, identity) = (&self.shared.disk, self.shared.identity);
        Ok((Active::create(disk, flow, number, kind, identity)?, true))
    }

    fn keep_open(&mut self, flow: u32, active: Active) {
        if let Some(open) = self.open.get_mut(flow as usize) {
            let kind = active.named.kind;
            *open.place(kind) = Some(active);
        }
    }

    /// Puts what was appended on the device, or on the list for it.
    fn make_durable(&self, active: &Active, fresh: bool) -> io::Result<()> {
        if self.shared.settings.sync != Durability::Always {
            self.unsynced.add(&self.shared, &active.file, fresh);
            return Ok(());
        }
        let disk = &self.shared.disk;
        let synced = disk.sync(&active.file).and_then(|()| match fresh {
            true => disk.sync_names(),
            false => Ok(()),
        });
        // Full or not: what is written cannot be taken back any more.
        synced.map_err(io::Error::other)
    }

    /// Seals what is open, and puts everything on the device if it ever has to be.
    fn finish(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        if !self.refused.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        for open in &mut self.open {
            if let Some(active) = &mut open.journal {
                seal(&shared, active)?;
                self.unsynced.add(&shared, &active.file, false);
            }
        }
        match shared.settings.sync {
            Durability::Never => Ok(()),
            Durability::Always | Durability::Interval => self.unsynced.sync(&shared),
        }
    }
}

/// Seals a segment, if there is room: one without a seal is only slower to open.
fn seal(shared: &Shared, active: &mut Active) -> io::Result<()> {
    let before = active.len;
    match active.seal(&shared.disk) {
        Ok(()) => {
            let mut state = shared.lock();
            let state = &mut *state;
            let mut segments = state.flows.iter_mut().flat_map(|flow| &mut flow.segments);
            if let Some(segment) = segments.find(|it| it.named.number == active.named.number) {
                segment.bytes = active.len;
                state.space.grew(active.len - before);
            }
            Ok(())
        }
        Err(error) if is_full(&error) => active.file.set_len(before),
        Err(error) => Err(error),
    }
}

/// Records that are written together: of one flow and kind, in order, and little more than `most` bytes.
fn groups(jobs: Vec<Job>, most: u64) -> Vec<Vec<Job>> {
    struct Group {
        flow: u32,
        kind: Kind,
        bytes: u64,
        jobs: Vec<Job>,
    }
    let mut groups: Vec<Group> = Vec::new();
    for job in jobs {
        let (flow, kind, len) = (job.flow, job.record.head().kind, job.record.len());
        // The last one of this flow, so that nothing is overtaken.
        let last = groups.iter_mut().rev().find(|group| group.flow == flow);
        match last.filter(|group| group.kind == kind && group.bytes < most) {
            Some(group) => {
                group.bytes += len;
                group.jobs.push(job);
            }
            None => groups.push(Group {
                flow,
                kind,
                bytes: len,
                jobs: vec![job],
            }),
        }
    }
    groups.into_iter().map(|group| group.jobs).collect()
}

/// Where these records stand, the first at `at`.
fn written(active: &Active, mut at: u64, jobs: &[Job]) -> Vec<Written> {
    let written = jobs.iter().map(|job| {
        let (head, len) = (job.record.head(), job.record.len());
        let written = Written {
            number: job.number,
            segment: active.named.clone(),
            at,
            len,
            first: head.first,
        };
        at += len;
        written
    });
    written.collect()
}

/// Records have been written to `active`, which is new if `fresh`.
fn account(
    shared: &Shared,
    flow: u32,
    run: u64,
    active: &Active,
    written: Vec<Written>,
    fresh: bool,
) {
    let bytes: u64 = written.iter().map(|written| written.len).sum();
    let records = written.len() as u64;
    let counters = &shared.counters;
    counters.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    counters
        .written_records
        .fetch_add(records, Ordering::Relaxed);
    let mut state = shared.lock();
    let state = &mut *state;
    let set_apart = written.iter().map(|written| cost(written.len));
    state.space.queued = state.space.queued.saturating_sub(set_apart.sum());
    state.space.refused = false;
    let named = active.named.clone();
    let Some(this) = state
        .flows
        .get_mut(flow as usize)
        .filter(|it| it.run == run)
    else {
        // Its flow has been emptied meanwhile.
        state.space.doomed.push(named.path.clone());
        return;
    };
    let head = if fresh { super::segment::HEAD } else { 0 };
    state.space.grew(bytes + head as u64);
    if named.kind == Kind::Overflow {
        this.overflow = Some(named.number);
        match this.overflows.back_mut() {
            Some(last) if last.named.number == named.number => last.bytes = active.len,
            _ => this.overflows.push_back(Overflow {
                bytes: active.len,
                named,
            }),
        }
    } else {
        this.journal = Some(named.number);
        let applied_at = (active.next <= this.applied).then(Instant::now);
        match this.segments.back_mut() {
            Some(last) if last.named.number == named.number => {
                (last.next, last.end, last.bytes) = (active.next, active.len, active.len);
                last.records += records;
                last.applied_at = applied_at;
            }
            _ => this.segments.push_back(Segment {
                named,
                first: active.first,
                next: active.next,
                end: active.len,
                bytes: active.len,
                records,
                received_at_ms: active.received_at_ms,
                applied_at,
            }),
        }
        this.on_disk.send_replace(active.next);
    }
    for written in written {
        this.written(written);
    }
    state.remove_overflows(flow);
}

/// Tells everybody that nothing is written any more.
struct EndTold(Arc<Shared>);

impl Drop for EndTold {
    fn drop(&mut self) {
        self.0.fail(io::Error::other("the spool has ended"));
    }
}
