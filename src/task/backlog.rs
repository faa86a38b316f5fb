//! A task's spool, from one session to the next: what the target has not got yet and the source need not send again.
//!
//! Invariant: what is in the spool continues exactly at the position on the target, or it is given up.

use std::path::PathBuf;
use std::sync::Arc;

use slog::{info, warn};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::config::{OnFull, SpoolSync, Task};
use crate::entry::{Batch, unix_ms};
use crate::logging::fields;
use crate::spool::{
    Durability, Found, Full, Identity, Inlet, Outlet, PushError, Recovered, Settings, Spool,
    SpoolError,
};

use super::error::TaskError;
use super::report::SpoolReport;
use super::session::Setup;
use super::settings;
use super::status::Status;

/// Where the task's spool is.
pub(super) fn dir(task: &Task) -> PathBuf {
    task.state_dir.join("spool").join(&task.name)
}

fn spool_settings(task: &Task, flows: u32) -> Settings {
    let spool = &task.spool;
    Settings {
        max_size: spool.max_size,
        min_free: spool.min_free,
        keep: spool.keep,
        sync: match spool.sync {
            SpoolSync::Interval => Durability::Interval,
            SpoolSync::Always => Durability::Always,
            SpoolSync::Never => Durability::Never,
        },
        memory: settings::reading(task, flows),
    }
}

/// A spool with an outlet for each flow, placed where the target is.
pub(super) struct Backlog {
    pub(super) spool: Spool,
    pub(super) outlets: Vec<Outlet>,
}

impl Backlog {
    /// An empty one, for a full sync. What was there is given up.
    pub(super) async fn empty(task: &Arc<Task>, identity: Identity) -> Result<Self, TaskError> {
        let task = task.clone();
        blocking(move || {
            let settings = spool_settings(&task, identity.flows);
            let spool = Found::at(&dir(&task))?.start_anew(&identity, settings)?;
            let outlets = (0..identity.flows).map(|flow| spool.outlet(flow));
            Ok(Self {
                outlets: outlets.collect::<Result<_, _>>()?,
                spool,
            })
        })
        .await
    }

    /// What is there for these positions on the target, flow by flow.
    pub(super) async fn resumed(
        setup: &Setup<'_>,
        identity: Identity,
        positions: &[u64],
    ) -> Result<Self, TaskError> {
        let (task, places) = (setup.task.clone(), positions.to_vec());
        let (backlog, recovered) = blocking(move || {
            let settings = spool_settings(&task, identity.flows);
            let found = Found::at(&dir(&task))?;
            let (spool, recovered) = found.resume_of(&identity, settings)?;
            let placed = (0..identity.flows).zip(places);
            let outlets = placed.map(|(flow, next)| place(&spool, flow, next));
            let outlets = outlets.collect::<Result<_, _>>()?;
            Ok((Self { spool, outlets }, recovered))
        })
        .await?;
        tell(setup, &recovered);
        Ok(backlog)
    }

    /// The source goes on with these positions in the place of another master.
    pub(super) async fn succeeded_by(mut self, master: &str) -> Result<Self, TaskError> {
        let master = master.to_owned();
        blocking(move || {
            self.spool.succeeded_by(&master)?;
            Ok(self)
        })
        .await
    }

    /// By flow, the entry with which the source has to go on.
    pub(super) fn next(&self) -> Result<Vec<u64>, TaskError> {
        let next = self.outlets.iter().map(|outlet| {
            let inlet = self.spool.inlet(outlet.flow())?;
            Ok(inlet.next_lsn().unwrap_or_default())
        });
        next.collect::<Result<_, _>>().map_err(TaskError::Spool)
    }
}

/// An outlet that begins with the entry `next`, wherever it is: here, or still to come from the source.
fn place(spool: &Spool, flow: u32, next: u64) -> Result<Outlet, SpoolError> {
    let mut outlet = spool.outlet(flow)?;
    match outlet.read_from(next) {
        Ok(()) => Ok(outlet),
        Err(SpoolError::NotThere { .. }) => {
            drop(outlet);
            spool.forget(flow)?;
            let mut outlet = spool.outlet(flow)?;
            outlet.read_from(next)?;
            Ok(outlet)
        }
        Err(error) => Err(error),
    }
}

fn tell(setup: &Setup<'_>, recovered: &[Recovered]) {
    for flow in recovered {
        if let Some(run) = flow.runs.last() {
            info!(setup.log, "found in the spool"; fields::FLOW => flow.flow,
                fields::POSITION => run.start, fields::ENTRIES => run.end - run.start);
        }
        if flow.cut > 0 {
            info!(setup.log, "the spool's last record was not whole and is asked for again";
                fields::FLOW => flow.flow, fields::BYTES => flow.cut);
        }
        for file in &flow.damaged {
            warn!(setup.log, "a file of the spool is damaged and was put aside";
                fields::FLOW => flow.flow, fields::FILE => %file.display());
        }
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, TaskError> {
    match spawn_blocking(act).await {
        Ok(done) => done.map_err(TaskError::Spool),
        Err(lost) => Err(TaskError::Panicked(lost.to_string())),
    }
}

/// What a report says of it. `clock_offset_ms` is the source's clock minus ours.
pub(super) fn report(spool: &Spool, task: &Task, clock_offset_ms: i64) -> SpoolReport {
    let status = spool.status();
    let oldest = status.flows.iter().filter_map(|flow| flow.oldest_ms).min();
    let now = unix_ms().saturating_add(clock_offset_ms);
    let behind = status.flows.iter().filter(|flow| flow.disk_mode).count();
    SpoolReport {
        bytes: status.bytes,
        kept_bytes: status.flows.iter().map(|flow| flow.kept).sum(),
        max_bytes: task.spool.max_size,
        free_bytes: status.free,
        unread_bytes: status.flows.iter().map(|flow| flow.unread).sum(),
        oldest_ms: oldest.map(|oldest| now.saturating_sub(oldest).max(0)),
        flows_behind: u32::try_from(behind).unwrap_or(u32::MAX),
        ..SpoolReport::default()
    }
}

/// Hands a flow's batches to its spool, until the reader has ended, or there is no room and the source is to be let go
/// of, which `full` is told.
pub(super) async fn feed(
    mut batches: mpsc::Receiver<Batch>,
    mut inlet: Inlet,
    on_full: OnFull,
    status: &Status,
    full: mpsc::UnboundedSender<Full>,
) -> Result<(), TaskError> {
    while let Some(batch) = batches.recv().await {
        status.count_received(inlet.flow(), batch.size());
        let mut pushed = inlet.push(batch).await;
        while let Err(error) = pushed {
            match (error, on_full) {
                (PushError::Full(_), OnFull::Throttle) => inlet.room().await,
                (PushError::Full(reason), OnFull::Disconnect) => {
                    // The session hears it as long as it lives.
                    let _ = full.send(reason);
                    return Ok(());
                }
                (error, _) => return Err(TaskError::Spooling(error)),
            }
            pushed = inlet.flush().await;
        }
    }
    Ok(())
}
