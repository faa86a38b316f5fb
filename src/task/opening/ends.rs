//! Both ends of a session, once they are reached, and what its parts share of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slog::{Logger, info, warn};
use tokio::sync::{mpsc, watch};

use crate::entry::unix_ms;
use crate::logging::fields;
use crate::source::dragonfly::{self, Master, Monitor, Session};
use crate::target::{Control, Fence, Ownership, Profile, Settings};
use crate::task::barrier::Barrier;
use crate::task::context::{Context, Losses};
use crate::task::error::TaskError;
use crate::task::reread::{Ask, Expiring};
use crate::task::session::Setup;
use crate::task::settings;
use crate::task::status::Status;

/// Both ends, as they were reached.
pub(super) struct Ends {
    pub(super) source: dragonfly::Settings,
    pub(super) target: Settings,
    pub(super) control: Control,
    pub(super) profile: Profile,
    pub(super) master: Master,
    pub(super) monitor: Monitor,
}

/// What the parts of a session share, and an opening session has found.
pub(super) struct Held {
    pub(super) ownership: Ownership,
    pub(super) fence: Option<Fence>,
    pub(super) status: Arc<Status>,
    pub(super) ask: mpsc::Sender<Ask>,
    pub(super) is_resumed: bool,
    pub(super) is_unreconciled: bool,
}

/// Connects to both ends, and says who they are.
pub(super) async fn reach(setup: &Setup<'_>) -> Result<(Ends, Session), TaskError> {
    let task = &setup.task;
    let source = settings::source(task);
    let target = settings::target(task);
    let mut control = Control::connect(&target).await?;
    let profile = Profile::read(&mut control).await?;
    setup.reporter.target_is(&profile.features.to_string());
    info!(setup.log, "target reached"; fields::ADDR => target.endpoint.to_string(),
        fields::SERVER => profile.features.to_string());
    let mut session = Session::open(&source).await?;
    let master = session.master().clone();
    let mut monitor = session.monitor().await?;
    refuse_other_databases(setup, &mut monitor).await?;
    let release = master.release.as_deref().unwrap_or("release unknown");
    setup.reporter.source_is(&format!("Dragonfly {release}"));
    info!(setup.log, "source reached"; fields::ADDR => source.endpoint.to_string(),
        fields::SERVER => release,
        fields::FLOWS => master.flows, fields::SESSION => master.sync_id.clone());
    warn_of(setup.log, &profile);
    let ends = Ends {
        source,
        target,
        control,
        profile,
        master,
        monitor,
    };
    Ok((ends, session))
}

impl Ends {
    pub(super) async fn own(&mut self, setup: &Setup<'_>) -> Result<Ownership, TaskError> {
        let source = self.source.endpoint.to_string();
        let wanted = settings::wanted(&setup.task, self.profile.databases, source);
        let (control, target) = (&mut self.control, &self.target);
        Ok(Ownership::establish(control, target, wanted, unix_ms()).await?)
    }

    /// What was written while nobody listened comes late, whenever it is received.
    pub(super) async fn expect_late_entries(&mut self, status: &Status) -> Result<(), TaskError> {
        let offsets = self.monitor.offsets().await?;
        for (flow, next) in status.flows.iter().zip(offsets) {
            flow.late_until.store(next, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn context(
        self,
        setup: &Setup<'_>,
        held: Held,
    ) -> (Context, dragonfly::Settings, Monitor) {
        let Self {
            profile,
            master,
            control,
            source,
            monitor,
            ..
        } = self;
        let context = Context {
            task: setup.task.clone(),
            longest_word: profile.longest_word(),
            features: profile.features,
            known: profile.known,
            barrier: Barrier::new(master.flows),
            ghosts: Arc::default(),
            ownership: held.ownership,
            omits_deletions: master.omits_deletions(),
            reads_end_keys: master.reads_end_keys(),
            fence: held.fence,
            control: tokio::sync::Mutex::new(control),
            losses: Losses::default(),
            asks: held.ask,
            expiring: match held.is_resumed {
                true => Vec::new(),
                false => (0..master.flows).map(|_| Expiring::new()).collect(),
            },
            master_id: master.id,
            is_unreconciled: held.is_unreconciled.into(),
            moves: Arc::default(),
            flushed_whole: true.into(),
            copied: watch::Sender::new(0),
            spoilt: watch::Sender::new(None),
            status: held.status,
        };
        (context, source, monitor)
    }
}

/// A cluster takes one database: whoever has more in the source is told before anything begins.
async fn refuse_other_databases(setup: &Setup<'_>, monitor: &mut Monitor) -> Result<(), TaskError> {
    let task = &setup.task;
    if task.target.cluster.is_none() {
        return Ok(());
    }
    let mut others = monitor.keyspace().await?.unwrap_or_default();
    others.retain(|(db, keys)| *keys > 0 && task.filter.allows_db(*db) && task.target.db(*db) != 0);
    match others.is_empty() {
        true => Ok(()),
        false => Err(TaskError::OtherDatabases(others)),
    }
}

/// What the operator should know of a target before anything is written to it.
fn warn_of(log: &Logger, profile: &Profile) {
    if let Some(eviction) = profile.eviction.as_ref()
        && eviction != "noeviction"
        && profile.max_memory.is_some()
    {
        warn!(log, "the target evicts keys when it is full"; fields::REASON => eviction.clone(),
            fields::HINT => "set maxmemory-policy noeviction on the target");
    }
    if profile.is_replica {
        warn!(
            log,
            "the target is a replica and refuses writes until it is promoted"
        );
    }
}
