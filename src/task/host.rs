//! All tasks of a process, side by side. What ends one does not end another.
//!
//! ```text
//!            ┌────────── restart, after a wait ───────────┐
//!            ▼                                            │
//!     run ───┴── stopped ──► done                        │
//!            ├── panicked ────────────────────────────────┤
//!            └── failed for good ─┬─ others can run ──────┘
//!                                 └─ nobody can ──► all end with their errors
//! ```
//!
//! A failure "for good" is one that trying again at once does not mend, such as a wrong password. Somebody may mend it
//! at the server, so as long as the process lives for other tasks' sake it is tried again now and then; but not a task
//! that another process has taken over, which would take it back and forth.

use std::any::Any;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use slog::{Logger, error, info, warn};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::Task;
use crate::logging::{Terminal, fields};
use crate::process::Stop;

use super::backoff::{self, Backoff};
use super::error::{TaskError, chain};
use super::millis;
use super::reporter::Reporter;
use super::status::Phase;

/// How long a task that was told to end at once may take before it is abandoned.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// How often what is known of a task is saved, for when the process is gone.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Waits before a task is started again.
const RESTARTS: backoff::Limits = backoff::Limits {
    initial: Duration::from_secs(1),
    max: Duration::from_secs(300),
    max_elapsed: None,
};

/// A task to be run, and where it tells of itself.
#[derive(Clone)]
pub struct Hosted {
    /// The task. Its lock is held.
    pub task: Arc<Task>,
    /// Its log.
    pub log: Logger,
    /// Its part of the terminal.
    pub terminal: Terminal,
    /// Its reports.
    pub reporter: Reporter,
}

/// Runs all tasks until `stop` says otherwise or none of them can run. Each has its own `task.shutdown_timeout`.
///
/// # Errors
/// The names and errors of the tasks that failed for good, which then are all of them, or that did not end well when
/// they were told to.
pub async fn host(
    tasks: Vec<Hosted>,
    stop: watch::Receiver<Stop>,
) -> Result<(), Vec<(String, TaskError)>> {
    host_with(tasks, stop, |hosted, stop| {
        let Hosted {
            task,
            log,
            terminal,
            reporter,
        } = hosted;
        super::run(task, log, terminal, reporter, stop)
    })
    .await
}

/// [`host`], with what a task does as an argument.
async fn host_with<Run, Running>(
    tasks: Vec<Hosted>,
    stop: watch::Receiver<Stop>,
    run: Run,
) -> Result<(), Vec<(String, TaskError)>>
where
    Run: Fn(Hosted, watch::Receiver<Stop>) -> Running,
    Running: Future<Output = Result<(), TaskError>> + Send + 'static,
{
    let failed = watch::Sender::new(0);
    let all = tasks.len();
    let kept = tasks.iter().map(|hosted| {
        let keeper = Keeper {
            hosted,
            failed: &failed,
            all,
            run: &run,
        };
        keeper.keep(stop.clone())
    });
    let ended = join_all(kept).await;
    let names = tasks.iter().map(|hosted| hosted.task.name.clone());
    let failures = names
        .zip(ended)
        .filter_map(|(name, ended)| Some((name, ended.err()?)));
    let failures: Vec<_> = failures.collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures),
    }
}

/// Keeps one task running.
struct Keeper<'a, Run> {
    hosted: &'a Hosted,
    /// How many tasks have failed for good and wait.
    failed: &'a watch::Sender<usize>,
    all: usize,
    run: &'a Run,
}

impl<Run, Running> Keeper<'_, Run>
where
    Run: Fn(Hosted, watch::Receiver<Stop>) -> Running,
    Running: Future<Output = Result<(), TaskError>> + Send + 'static,
{
    async fn keep(self, stop: watch::Receiver<Stop>) -> Result<(), TaskError> {
        let Hosted { log, reporter, .. } = self.hosted;
        let (own_stop, stop_seen) = watch::channel(Stop::Run);
        let timeout = self.hosted.task.shutdown_timeout;
        let ended = tokio::select! {
            biased;
            ended = self.restart_until_ended(&stop_seen) => ended,
            // Neither ever ends.
            () = pass_on(stop, &own_stop, timeout) => Ok(()),
            () = save_now_and_then(reporter, log) => Ok(()),
        };
        if let Err(failure) = &ended {
            reporter.failed(failure);
        }
        reporter.enter(if ended.is_ok() {
            Phase::Stopped
        } else {
            Phase::Failed
        });
        self.hosted.terminal.show(None);
        if let Err(error) = save(reporter).await {
            warn!(log, "cannot save the last status"; fields::ERROR => %error);
        }
        ended
    }

    async fn restart_until_ended(&self, stop: &watch::Receiver<Stop>) -> Result<(), TaskError> {
        let mut backoff = Backoff::new(RESTARTS);
        loop {
            let began = Instant::now();
            let running = tokio::spawn((self.run)(self.hosted.clone(), stop.clone()));
            let Err(failure) = joined(running, stop.clone()).await else {
                return Ok(());
            };
            if *stop.borrow() != Stop::Run {
                return Err(failure);
            }
            if began.elapsed() > RESTARTS.max {
                backoff.succeeded();
            }
            // It never gives up: there is no limit.
            let wait = backoff.failed(Instant::now()).unwrap_or(RESTARTS.max);
            let wait = match failure.is_displaced() {
                // As long as the others go on.
                true => Duration::MAX,
                false => wait,
            };
            match self.pause(&failure, wait, stop.clone()).await {
                Paused::Over => self.hosted.reporter.restarted(),
                Paused::Stopped => return Ok(()),
                Paused::Nobody => return Err(failure),
            }
        }
    }

    /// Waits before the next start, as long as that makes sense.
    async fn pause(
        &self,
        failure: &TaskError,
        wait: Duration,
        mut stop: watch::Receiver<Stop>,
    ) -> Paused {
        let Hosted { log, reporter, .. } = self.hosted;
        reporter.failed(failure);
        // A defect may not show again; what failed for good will, unless somebody mends it.
        let for_good = !matches!(failure, TaskError::Panicked(_));
        reporter.enter(if for_good {
            Phase::Failed
        } else {
            Phase::Waiting
        });
        let mut failed = self.failed.subscribe();
        if for_good {
            self.failed.send_modify(|failed| *failed += 1);
            if *failed.borrow() == self.all {
                return Paused::Nobody;
            }
        }
        match failure.is_displaced() {
            true => error!(log, "task ended, another process goes on with it";
                fields::ERROR => chain(failure), fields::Hint(failure.hint())),
            false => error!(log, "task ended by an error, it is started again later";
                fields::ERROR => chain(failure), fields::WAIT_MS => millis(wait), fields::Hint(failure.hint())),
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop != Stop::Run) => Paused::Stopped,
            // The sender outlives every keeper.
            _ = failed.wait_for(|failed| *failed == self.all), if for_good => Paused::Nobody,
            () = sleep(wait) => {
                if for_good {
                    self.failed.send_modify(|failed| *failed -= 1);
                }
                info!(log, "task is started again");
                Paused::Over
            }
        }
    }
}

/// How a pause ended.
enum Paused {
    /// It is time to start again.
    Over,
    /// The process is being stopped.
    Stopped,
    /// No task of the process can run.
    Nobody,
}

/// How the running task ended; if it does not when told to, it is abandoned.
async fn joined(
    mut running: JoinHandle<Result<(), TaskError>>,
    mut stop: watch::Receiver<Stop>,
) -> Result<(), TaskError> {
    let overdue = async {
        // The sender lives as long as the keeper.
        let _ = stop.wait_for(|stop| *stop >= Stop::Now).await;
        sleep(LAST_GRACE).await;
    };
    tokio::select! {
        biased;
        ended = &mut running => ended.unwrap_or_else(|error| Err(TaskError::Panicked(text_of(error)))),
        () = overdue => {
            running.abort();
            Err(TaskError::Stuck)
        }
    }
}

/// What a panic said.
fn text_of(error: JoinError) -> String {
    let said = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast::<&str>()
            .map_or_else(|_| "no message".to_owned(), |text| (*text).to_owned()),
    };
    error
        .try_into_panic()
        .map_or_else(|error| error.to_string(), said)
}

/// Passes on what the process is told, and cuts the draining of this task short when its own time is over. Never ends.
async fn pass_on(mut from: watch::Receiver<Stop>, to: &watch::Sender<Stop>, timeout: Duration) {
    // The sender lives as long as signals are listened to, which is longer than any task.
    let _ = from.wait_for(|stop| *stop >= Stop::Drain).await;
    to.send_replace((*from.borrow()).max(Stop::Drain));
    tokio::select! {
        _ = from.wait_for(|stop| *stop >= Stop::Now) => {}
        () = sleep(timeout) => {}
    }
    to.send_replace(Stop::Now);
    pending().await
}

/// Saves reports from time to time and when a phase changes. Never ends.
async fn save_now_and_then(reporter: &Reporter, log: &Logger) {
    let mut phases = reporter.phases();
    let mut tick = interval(SAVE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // The reporter lives.
            _ = phases.changed() => {}
        }
        let saved = save(reporter).await;
        match saved {
            Ok(()) => told = false,
            // Once: the disk may be full for days.
            Err(error) if !told => {
                told = true;
                warn!(log, "cannot save the status, `df2redis status` will show an older one when the process is gone";
                    fields::ERROR => %error);
            }
            Err(_) => {}
        }
    }
}

/// Saves a report.
async fn save(reporter: &Reporter) -> io::Result<()> {
    let reporter = reporter.clone();
    let saving = spawn_blocking(move || reporter.save());
    saving
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests;
