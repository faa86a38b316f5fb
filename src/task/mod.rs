//! Tasks: one's life, which is sessions one after the other until it is stopped or cannot go on, and several side by side.
//!
//! A session that ends in a temporary error is followed by another, after a wait. Each goes on where the target is, if
//! the source still has what came since, and else with a full sync, which overwrites in place.

mod applier;
mod audit;
mod backlog;
mod backoff;
mod barrier;
mod context;
mod cross_slot;
mod error;
mod ghosts;
mod host;
mod items;
mod lag;
mod large;
mod opening;
mod preflight;
mod progress;
mod reconcile;
mod repair;
mod report;
mod reporter;
mod reread;
mod session;
mod settings;
mod settle;
mod silence;
mod sizing;
mod status;
mod watching;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, error, info, warn};
use tokio::sync::watch;

use crate::config::Task;
use crate::logging::{Progress, Terminal, fields};
use crate::process::Stop;
use crate::target;

pub use error::{TaskError, chain};
pub use host::{Hosted, host};
pub use preflight::{Finding, Grade, Preflight, TypeForm, preflight};
pub use repair::{Doubted, Unrepaired};
pub use report::{
    Approval, Audit, AuditPass, Flow, Lag, LastError, PerSecond, Report, Server, SpoolReport,
};
pub use reporter::{Reporter, Stage};
pub(crate) use settings::comparison as comparison_settings;
pub use settle::{
    Settling, discard_position, failed, forget, forget_locally, has_position, local_state, records,
};

pub use sizing::TooLarge;
pub use status::Phase;

use backoff::Backoff;
use session::{SessionEnd, Setup};

/// How closely a task watches its servers. Nobody but tests needs others than the default.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often the master's own positions are asked for.
    pub watch_every: Duration,
    /// A flow that has brought nothing for this long, while the master went on, is half-open.
    pub silence: Duration,
    /// A connection to the target on which nothing has moved for this long, though an answer is due, is half-open.
    pub answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch_every: Duration::from_secs(1),
            silence: Duration::from_secs(10),
            answer: target::Limits::default().answer,
        }
    }
}

/// [`run_with`] the default timing.
pub async fn run(
    task: Arc<Task>,
    log: Logger,
    terminal: Terminal,
    reporter: Reporter,
    stop: watch::Receiver<Stop>,
) -> Result<(), TaskError> {
    run_with(Timing::default(), task, log, terminal, reporter, stop).await
}

/// Runs a task until `stop` says otherwise or an error that trying again cannot mend. Its state
/// directory is there: whoever holds the task's lock has made it.
///
/// With [`Stop::Drain`] what has been read is finished, confirmed and acknowledged first; with
/// [`Stop::Now`] nothing is waited for.
pub async fn run_with(
    timing: Timing,
    task: Arc<Task>,
    log: Logger,
    terminal: Terminal,
    reporter: Reporter,
    mut stop: watch::Receiver<Stop>,
) -> Result<(), TaskError> {
    let mut backoff = Backoff::new(settings::backoff(&task));
    let setup = Setup {
        task: task.clone(),
        log: &log,
        terminal: &terminal,
        reporter: &reporter,
        timing,
        copies_all: false.into(),
    };
    loop {
        reporter.session_begins();
        let mut reached_stable = || backoff.succeeded();
        let session = session::run(&setup, stop.clone(), &mut reached_stable);
        let failure = match Box::pin(session).await {
            Ok(SessionEnd::Stopped) => {
                info!(log, "stopped");
                return Ok(());
            }
            Ok(SessionEnd::FlushedEarly) => continue,
            Err(failure) => failure.of_source(&task.source.address),
        };
        if *stop.borrow() != Stop::Run || !failure.is_temporary() {
            return Err(failure);
        }
        reporter.failed(&failure);
        let Some(wait) = backoff.failed(Instant::now()) else {
            error!(log, "giving up"; fields::ERROR => chain(&failure),
                fields::ATTEMPT => backoff.failures());
            return Err(TaskError::GaveUp {
                after: task.retry.max_elapsed.unwrap_or_default(),
                last: Box::new(failure),
            });
        };
        reporter.enter(Phase::Waiting);
        warn!(log, "session ended, another follows";
            fields::ERROR => chain(&failure), fields::ATTEMPT => backoff.failures(),
            fields::WAIT_MS => millis(wait),
            fields::Hint(failure.hint()));
        terminal.show(Some(Progress::Line(format!(
            "waiting {:.1} s: {}",
            wait.as_secs_f64(),
            chain(&failure)
        ))));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop != Stop::Run) => {
                terminal.show(None);
                return Ok(());
            }
        }
    }
}

/// A duration in the unit of log fields.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
