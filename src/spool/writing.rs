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
use super::shared::{Ending, Job, Shared, State};
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
    segment: u64,
}

impl Writing {
    pub(super) fn new(shared: Arc<Shared>, unsynced: Arc<Unsynced>, flows: u32) -> Self {
        Self {
            segment: shared.settings.segment(flows),
            open: (0..flows).map(|_| Open::default()).collect(),
            refused: VecDeque::new(),
            looked: Instant::now(),
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
                _ => state.space.queued = state.space.queued.saturating_sub(job.record.len()),
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
        let mut groups: Vec<Vec<Job>> = Vec::new();
        // A segment is little longer than it should be.
        let most = GROUP.min(self.segment);
        for job in jobs {
            let kind = job.record.head().kind;
            let fits = |group: &&mut Vec<Job>| {
                let bytes: u64 = group.iter().map(|job| job.record.len()).sum();
                let same = |of: &Job| of.record.head().kind == kind && of.flow == job.flow;
                bytes < most && group.first().is_some_and(same)
            };
            // The last one of this flow, so that nothing is overtaken.
            let of_flow =
                |group: &&mut Vec<Job>| group.first().is_some_and(|first| first.flow == job.flow);
            let last = groups.iter_mut().rev().find(of_flow).filter(fits);
            match last {
                Some(group) => group.push(job),
                None => groups.push(vec![job]),
            }
        }
        let mut groups = groups.into_iter();
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
                    let free = self.shared.disk.free()?;
                    let mut state = self.shared.lock();
                    state.space.looked(free);
                    state.space.refused = true;
                    drop(state);
                    let rest = groups.flatten();
                    let ahead: VecDeque<Job> = group.into_iter().chain(rest).collect();
                    let behind = std::mem::replace(&mut self.refused, ahead);
                    self.refused.extend(behind);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn remove_doomed(&self) -> io::Result<()> {
        let doomed = std::mem::take(&mut self.shared.lock().space.doomed);
        let mut removed = doomed.iter().map(|path| self.shared.disk.remove(path));
        removed.try_for_each(|result| result)
    }

    /// Appends records of one flow and kind, all or, on an error, none.
    fn append(&mut self, jobs: &mut [Job]) -> io::Result<()> {
        let Some((flow, run, kind)) = jobs
            .first()
            .map(|job| (job.flow, job.run, job.record.head().kind))
        else {
            return Ok(());
        };
        let (shared, segment) = (self.shared.clone(), self.segment);
        let Some(open) = self.open.get_mut(flow as usize) else {
            return Ok(());
        };
        let active = match kind {
            Kind::Overflow => &mut open.overflow,
            Kind::Journal | Kind::Seal => &mut open.journal,
        };
        if let Some(mut full) = active.take_if(|active| active.len >= segment) {
            seal(&shared, &mut full)?;
            self.unsynced.add(&shared, &full.file, false);
        }
        let fresh = active.is_none();
        if fresh {
            let number = {
                let mut state = shared.lock();
                state.segments += 1;
                state.segments
            };
            *active = Some(Active::create(
                &shared.disk,
                flow,
                number,
                kind,
                shared.identity,
            )?);
        }
        let Some(active) = active else {
            return Ok(());
        };
        let mut at = active.len;
        let records = jobs.iter_mut().map(|job| &mut job.record);
        if let Err(error) = active.append(&shared.disk, records) {
            if fresh {
                let path = active.named.path.clone();
                let open = self.open.get_mut(flow as usize);
                let place = open.map(|open| match kind {
                    Kind::Overflow => &mut open.overflow,
                    Kind::Journal | Kind::Seal => &mut open.journal,
                });
                place.map(Option::take);
                shared.disk.remove(&path)?;
            }
            return Err(error);
        }
        if kind == Kind::Journal {
            if shared.settings.sync == Durability::Always {
                // Full or not: what is written cannot be taken back any more.
                let synced = shared.disk.sync(&active.file);
                let synced = synced.and_then(|()| match fresh {
                    true => shared.disk.sync_names(),
                    false => Ok(()),
                });
                synced.map_err(io::Error::other)?;
            } else {
                self.unsynced.add(&shared, &active.file, fresh);
            }
        }
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
        let written: Vec<Written> = written.collect();
        account(&shared, flow, run, active, written, fresh);
        Ok(())
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
    state.space.queued = state.space.queued.saturating_sub(bytes);
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
