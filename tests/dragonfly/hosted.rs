//! A task inside the test's own process, for what the program does not let anybody set.
//!
//! Invariant: it is stopped, and has ended well, when its value is dropped without a panic.

use crate::df2redis::Task;
use crate::support::eventually;
use ::df2redis::config;
use ::df2redis::logging::Terminal;
use ::df2redis::process::Stop;
use ::df2redis::task::{Phase, Report, Reporter, TaskError, Timing, run_with};
use slog::{Discard, Logger, o};
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A running task.
pub struct Hosted {
    runtime: Runtime,
    reporter: Reporter,
    stop: watch::Sender<Stop>,
    running: Option<JoinHandle<Result<(), TaskError>>>,
}

impl Hosted {
    /// Runs the task with this timing.
    #[must_use]
    #[track_caller]
    pub fn start(task: &Task, timing: Timing) -> Self {
        let file = task.write_to(task.dir());
        let mut tasks = config::load(&[file], &[]).expect("a task file");
        let task = Arc::new(tasks.remove(0));
        std::fs::create_dir_all(&task.state_dir).expect("a state directory");
        let reporter = Reporter::new(&task, task.file.with_extension("log"));
        let (stop, stopping) = watch::channel(Stop::Run);
        let runtime = Runtime::new().expect("a runtime");
        let log = Logger::root(Discard, o!());
        let reports = reporter.clone();
        let running = runtime.spawn(async move {
            let running = run_with(timing, task, log, Terminal::off(), reports, stopping);
            Box::pin(running).await
        });
        Self {
            runtime,
            reporter,
            stop,
            running: Some(running),
        }
    }

    /// What there is to know of it now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.reporter.report()
    }

    /// Waits until it follows the source's writes.
    #[track_caller]
    pub fn wait_stable(&self) {
        eventually("stable sync", || self.report().phase == Phase::Stable);
    }

    /// Waits until the source has been asked for its positions so many times more.
    #[track_caller]
    pub fn wait_looks(&self, looks: u64) {
        let before = self.report().offsets_read;
        eventually("looks at the source's positions", || {
            self.report().offsets_read >= before + looks
        });
    }

    /// What ended a session last.
    #[must_use]
    pub fn last_error(&self) -> String {
        let error = self.report().last_error;
        error.map(|error| error.text).unwrap_or_default()
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.stop.send_replace(Stop::Drain);
        let Some(running) = self.running.take().filter(|_| !std::thread::panicking()) else {
            return;
        };
        let ended = self.runtime.block_on(running).expect("no panic");
        self.runtime
            .block_on(::df2redis::source::dragonfly::all_closed());
        ended.expect("it ends well when it is stopped");
    }
}
