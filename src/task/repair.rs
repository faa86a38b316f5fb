//! Keys that somebody outside has found to differ, `check --repair`: read again like those of an audit.
//!
//! Replication comes first here too: one batch at a time is with the flows, and who brings more is told to wait.
//!
//! Invariant: nothing is written here, only handed to flows; keys that are not the task's are left alone, whoever asks.

use std::sync::{Arc, PoisonError};

use slog::{Logger, info, warn};
use tokio::sync::mpsc;

use super::context::Context;
use super::error::chain;
use super::reporter::Reporter;
use super::reread::{Flows, Place};
use super::status::Phase;
use crate::logging::fields;
use crate::target::{PREFIX, TargetError};

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubted {
    /// Database of the source.
    pub db: u32,
    /// The key.
    pub key: Vec<u8>,
    /// Only the target has it.
    pub extra: bool,
}

/// Why keys are not repaired now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrepaired {
    /// Others are being repaired; these can be brought again in a moment.
    Busy,
    /// The task is not in a state in which it could.
    NotNow(String),
}

/// Where keys to be repaired are brought.
#[derive(Debug, Default)]
pub(super) struct Desk(std::sync::Mutex<Option<mpsc::Sender<Vec<Doubted>>>>);

impl Desk {
    /// From now on they come here.
    fn open(&self) -> mpsc::Receiver<Vec<Doubted>> {
        let (bring, brought) = mpsc::channel(1);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bring);
        brought
    }

    fn bring(&self, keys: Vec<Doubted>) -> Result<(), Unrepaired> {
        let desk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match desk.as_ref().map(|desk| desk.try_send(keys)) {
            Some(Ok(())) => Ok(()),
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err(Unrepaired::Busy),
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => Err(not_stable()),
        }
    }
}

fn not_stable() -> Unrepaired {
    Unrepaired::NotNow("the task does not follow writes now".to_owned())
}

impl Reporter {
    /// Has keys that differ repaired, soon. Whoever wants to know compares them again.
    ///
    /// # Errors
    /// Nothing was taken, and why.
    pub fn repair(&self, keys: Vec<Doubted>) -> Result<(), Unrepaired> {
        if self.phase() != Phase::Stable {
            return Err(not_stable());
        }
        self.desk().bring(keys)
    }
}

/// What repairing needs.
pub(super) struct Repairing {
    pub(super) context: Arc<Context>,
    pub(super) reporter: Reporter,
    pub(super) log: Logger,
    pub(super) flows: Flows,
}

impl Repairing {
    /// Repairs what is brought, for ever.
    pub(super) async fn run(self) {
        let mut brought = self.reporter.desk().open();
        while let Some(keys) = brought.recv().await {
            let count = keys.len();
            match self.repair(keys).await {
                Ok(repaired) if repaired < count => {
                    warn!(self.log, "left keys as they are that df2redis check has found to differ: they are not the task's, or \
                        which flow owns them is not certain";
                        fields::KEYS => count - repaired, fields::OF => count);
                }
                Ok(repaired) => {
                    info!(self.log, "read keys again that df2redis check has found to differ"; fields::KEYS => repaired,
                        fields::OF => count);
                }
                Err(error) => {
                    warn!(self.log, "keys that df2redis check has found to differ were not read again";
                        fields::KEYS => count, fields::ERROR => chain(&error));
                }
            }
        }
        // Another session has opened the desk since.
        std::future::pending().await
    }

    async fn repair(&self, mut keys: Vec<Doubted>) -> Result<usize, TargetError> {
        let context = &self.context;
        let task = &context.task;
        let flows = context.status.flows.len() as u32;
        keys.retain(|doubted| {
            !doubted.key.starts_with(PREFIX) && task.filter.allows(doubted.db, &doubted.key)
        });
        let places: Vec<_> = keys
            .iter()
            .map(|doubted| (task.target.db(doubted.db), &doubted.key[..]))
            .collect();
        let foreign = context.foreign(&places).await?;
        let own = keys.into_iter().zip(foreign);
        // What was there before the task, and the source never had, is somebody else's.
        let own = own.filter(|(doubted, foreign)| !(doubted.extra && *foreign));
        let places: Vec<(u32, Place)> = own
            .filter_map(|(doubted, _)| {
                let flow = context.ghosts.likely_owner(&doubted.key, flows)?;
                let key = doubted.key.into();
                Some((
                    flow,
                    Place {
                        db: doubted.db,
                        key,
                    },
                ))
            })
            .collect();
        let count = places.len();
        self.flows.settle(places).await;
        Ok(count)
    }
}
