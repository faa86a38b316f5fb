//! What goes on beside the tasks: signals, the control socket, whoever waits for readiness, the service manager.

use std::time::Duration;

use futures_util::future::select_all;
use slog::{Logger, info, warn};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::failure::Failure;
use crate::admin::{ControlSocket, Managed};
use crate::cli::VERSION;
use crate::cli::arguments::Ready;
use crate::logging::{LogHandle, fields};
use crate::process::{Readiness, Request, ServiceManager, Signals, Stop, reap_orphans};
use crate::task::{self, Hosted, Reporter, Stage, chain};

/// How often the service manager's one line is looked at, and sent if it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// All that this process runs and answers to.
pub(super) struct Attended {
    pub hosted: Vec<Hosted>,
    pub managed: Vec<Managed>,
    pub control: ControlSocket,
    pub logs: LogHandle,
    pub readiness: Readiness,
    pub ready: Ready,
}

impl Attended {
    /// Until all tasks have ended.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self {
            hosted,
            managed,
            control,
            logs,
            readiness,
            ready,
        } = self;
        let timeouts = hosted.iter().map(|hosted| hosted.task.shutdown_timeout);
        let drain = timeouts.max().unwrap_or_default();
        let (_signals, stop, requests) = Signals::listen(drain).map_err(Failure::Runtime)?;
        let _orphans = reap_orphans().map_err(Failure::Runtime)?;
        let task_logs: Vec<Logger> = hosted.iter().map(|hosted| hosted.log.clone()).collect();
        let reporters: Vec<Reporter> = hosted.iter().map(|one| one.reporter.clone()).collect();
        // Not earlier: whoever reads these lines may send a signal.
        hosted.iter().for_each(announce);
        let manager = service_manager(&task_logs);
        // Ended, by being dropped, when the tasks have.
        let mut beside = JoinSet::new();
        beside.spawn(answer(control, managed, task_logs.clone()));
        beside.spawn(make_ready(reporters.clone(), ready, readiness));
        beside.spawn(attend_to_manager(manager.clone(), reporters.clone()));
        beside.spawn(fulfil(
            requests,
            logs,
            manager.clone(),
            task_logs.clone(),
            reporters,
        ));
        let ended = tokio::select! {
            // A task that ends at once may be faster than the line that says so.
            biased;
            never = tell_stops(stop.clone(), task_logs, manager) => match never {},
            ended = task::host(hosted, stop) => ended,
        };
        ended.map_err(Failure::Tasks)
    }
}

/// Answers on the control socket, as long as that can be listened to.
async fn answer(control: ControlSocket, managed: Vec<Managed>, logs: Vec<Logger>) {
    let error = control.serve(managed).await;
    for log in &logs {
        warn!(log, "the control socket failed, this process cannot be asked any more";
            fields::ERROR => chain(&error));
    }
}

/// The first line of a task's log.
fn announce(hosted: &Hosted) {
    let Hosted { task, log, .. } = hosted;
    info!(log, "df2redis started";
        fields::TASK => &task.name, fields::VERSION => VERSION, fields::PID => std::process::id(),
        fields::FILE => %task.file.display());
    for warning in &task.warnings {
        warn!(log, "task file warning"; fields::REASON => %warning);
    }
}

/// Whoever started this process and wants to hear of it; nobody, if what it left cannot be understood.
fn service_manager(logs: &[Logger]) -> Option<ServiceManager> {
    match ServiceManager::from_environment() {
        Ok(manager) => manager.is_there().then_some(manager),
        Err(error) => {
            for log in logs {
                warn!(log, "the service manager is not told anything"; fields::ERROR => %error);
            }
            None
        }
    }
}

/// Tells whoever started the daemon once all tasks are where they are wanted, and meanwhile which are not.
async fn make_ready(reporters: Vec<Reporter>, ready: Ready, readiness: Readiness) {
    let wanted = match ready {
        Ready::Started => Stage::Started,
        Ready::Connected => Stage::Connected,
        Ready::Stable => Stage::Stable,
    };
    let mut stages: Vec<_> = reporters.iter().map(Reporter::stage).collect();
    loop {
        let behind = reporters.iter().zip(&mut stages);
        let behind = behind.filter_map(|(reporter, stage)| {
            (*stage.borrow_and_update() < wanted).then(|| reporter.task().to_owned())
        });
        let behind: Vec<String> = behind.collect();
        if behind.is_empty() {
            return readiness.ready();
        }
        readiness.waiting_for(&behind);
        let changes = stages.iter_mut().map(|stage| Box::pin(stage.changed()));
        // Reporters live as long as their tasks do, which is longer than this.
        drop(select_all(changes).await);
    }
}

/// Keeps the service manager informed, and assured that this process is alive. Never ends.
async fn attend_to_manager(manager: Option<ServiceManager>, reporters: Vec<Reporter>) {
    let Some(manager) = manager else {
        return;
    };
    // Errors mean that the manager was not told; it draws its own conclusions.
    let _ = manager.ready();
    let alive_every = manager.watchdog_interval();
    let mut tick = interval(alive_every.map_or(STATUS_EVERY, |every| every.min(STATUS_EVERY)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    let mut next_alive = Instant::now();
    loop {
        let now = tick.tick().await;
        if let Some(every) = alive_every.filter(|_| next_alive <= now) {
            let _ = manager.alive();
            next_alive = now + every;
        }
        let headlines = reporters
            .iter()
            .map(|reporter| reporter.report().headline());
        let line = headlines.collect::<Vec<_>>().join("; ");
        if line != told && manager.status(&line).is_ok() {
            told = line;
        }
    }
}

/// Does what signals ask for beside stopping.
async fn fulfil(
    mut requests: mpsc::UnboundedReceiver<Request>,
    logs: LogHandle,
    manager: Option<ServiceManager>,
    task_logs: Vec<Logger>,
    reporters: Vec<Reporter>,
) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::ReopenLogs => {
                // As above: errors are the manager's loss.
                let _ = manager.as_ref().map(ServiceManager::reloading);
                logs.reopen();
                for log in &task_logs {
                    info!(log, "log file opened again");
                }
                let _ = manager.as_ref().map(ServiceManager::ready);
            }
            Request::Report => {
                for (reporter, log) in reporters.iter().zip(&task_logs) {
                    reporter.log_report(log);
                }
            }
        }
    }
}

/// Logs each rise of `stop`.
async fn tell_stops(
    mut stop: watch::Receiver<Stop>,
    logs: Vec<Logger>,
    manager: Option<ServiceManager>,
) -> std::convert::Infallible {
    // The sender lives as long as signals are listened to, which is longer than this.
    let _ = stop.wait_for(|stop| *stop >= Stop::Drain).await;
    let _ = manager.as_ref().map(ServiceManager::stopping);
    for log in &logs {
        info!(log, "stopping, finishing what is in flight");
    }
    let _ = stop.wait_for(|stop| *stop >= Stop::Now).await;
    for log in &logs {
        warn!(log, "stopping at once");
    }
    std::future::pending().await
}
