//! `df2redis check`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};

use super::alone::{printable, the_task};
use super::arguments::{Comparison, Thoroughness};
use super::complain;
use super::repair::{Bringer, Way};
use crate::check::{
    ALL, CheckError, Class, Method, Mode, Open, Outcome, Progress, Settings, Tally, check,
    look_again,
};
use crate::config::Task;
use crate::process::{Exit, Signals, Stop};
use crate::task::{chain, comparison_settings};

/// Threads that read and digest.
const THREADS: usize = 4;
/// How long between two drawings of the progress.
const FRAME: Duration = Duration::from_millis(100);
/// Differences that wait to be brought to the task.
const AT_ONCE: usize = 64;
/// How long a stop may take until what is in flight is given up.
const DRAIN: Duration = Duration::from_secs(5);

/// Compares, and prints what came out.
pub(super) fn run(arguments: &Comparison) -> Exit {
    let task = match the_task(&arguments.task) {
        Ok(task) => task,
        Err(exit) => return exit,
    };
    for warning in &task.warnings {
        complain(format_args!("warning: {warning}"));
    }
    let threads = std::thread::available_parallelism().map_or(THREADS, |n| n.get().min(THREADS));
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start the runtime: {error}"));
            return Exit::Internal;
        }
    };
    let began = Instant::now();
    let ended = runtime.block_on(async {
        let (_signals, stop, _requests) = Signals::listen(DRAIN).map_err(Failure::Signals)?;
        compare_and_repair(&task, arguments, stop).await
    });
    // What is left are name lookups and connections of a comparison that was given up.
    runtime.shutdown_background();
    match ended {
        Ok(found) => {
            let text = table(&task, arguments, &found, began.elapsed());
            if let Err(exit) = print(&text) {
                return exit;
            }
            match found.is_equal() {
                true => Exit::Done,
                false => Exit::DIFFERENT,
            }
        }
        Err(Failure::Repair(exit)) => exit,
        Err(Failure::Check(error)) => {
            complain(printable(&chain(&error)));
            error.exit()
        }
        Err(Failure::Signals(error)) => {
            complain(format_args!("cannot listen to signals: {error}"));
            Exit::Internal
        }
        Err(Failure::GivenUp) => {
            complain("stopped at once: nothing is known");
            Exit::DIFFERENT
        }
    }
}

/// Why there is nothing to print.
enum Failure {
    Check(CheckError),
    Signals(io::Error),
    /// Keys cannot be repaired, which was said.
    Repair(Exit),
    /// A second signal, or no end in time after the first.
    GivenUp,
}

/// What came out of it all.
struct Findings {
    outcome: Outcome,
    /// Keys that differed, and were compared again after they were repaired.
    again: Option<Tally>,
    /// What else is to be said, by line.
    notes: Vec<String>,
}

impl Findings {
    fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            again: None,
            notes: Vec::new(),
        }
    }

    fn repaired(&self) -> u64 {
        self.again.as_ref().map_or(0, |again| again.equal)
    }

    fn different(&self) -> u64 {
        self.outcome.tally.different.saturating_sub(self.repaired())
    }

    fn is_equal(&self) -> bool {
        let Outcome {
            tally, complete, ..
        } = &self.outcome;
        *complete && self.different() == 0 && tally.open() == 0
    }
}

/// Compares, and does about differences what was asked for.
async fn compare_and_repair(
    task: &Task,
    arguments: &Comparison,
    stop: watch::Receiver<Stop>,
) -> Result<Findings, Failure> {
    let mut settings = settings(task, arguments);
    if !arguments.repair {
        return Ok(Findings::of(compare(settings, stop).await?));
    }
    let way = Way::find(task, arguments.discard_position).await;
    let way = way.map_err(Failure::Repair)?;
    if matches!(way, Way::Stopped { .. }) {
        let mut found = Findings::of(compare(settings, stop).await?);
        let left = way.leave_to_full_sync(task, &found.outcome).await;
        found.notes.extend(left.map_err(Failure::Repair)?);
        return Ok(found);
    }
    let again = settings.clone();
    let (tell, told) = mpsc::channel(AT_ONCE);
    settings.differences = Some(tell);
    let bringer = Bringer::new(task, settings.max_memory / 4, stop.clone());
    let bringing = tokio::spawn(bringer.bring_all(told));
    let mut found = Findings::of(compare(settings, stop.clone()).await?);
    let bringer = bringing
        .await
        .map_err(|error| Failure::Check(CheckError::Internal(error.to_string())))?;
    let brought = bringer.finish(&found.outcome).await;
    found.notes = brought.left();
    let tally = look_again(&again, &brought.keys, stop).await;
    found.again = Some(tally.map_err(Failure::Check)?);
    Ok(found)
}

/// Shows progress until the end.
async fn compare(settings: Settings, mut stop: watch::Receiver<Stop>) -> Result<Outcome, Failure> {
    let progress = Arc::new(Progress::default());
    let own = Arc::clone(&progress);
    let heard = stop.clone();
    let mut comparing = tokio::spawn(async move { Box::pin(check(&settings, &own, heard)).await });
    let bar = bar();
    let mut frames = tokio::time::interval(FRAME);
    let ended = loop {
        tokio::select! {
            ended = &mut comparing => break ended,
            _ = stop.wait_for(|stop| *stop == Stop::Now) => {
                comparing.abort();
                bar.finish_and_clear();
                return Err(Failure::GivenUp);
            }
            _ = frames.tick() => draw(&bar, &progress),
        }
    };
    bar.finish_and_clear();
    match ended {
        Ok(outcome) => outcome.map_err(Failure::Check),
        Err(error) => Err(Failure::Check(CheckError::Internal(error.to_string()))),
    }
}

/// A bar on standard error, if that is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {percent:>3}% {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    let of = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    let (done, total) = (of(&progress.done), of(&progress.total));
    let mut text = format!("{} keys", HumanCount(done));
    let (different, suspects) = (of(&progress.different), of(&progress.suspects));
    // Writing to a string does not fail.
    if suspects > 0 {
        let _ = write!(text, ", looking again at {}", HumanCount(suspects));
    }
    if different > 0 {
        let _ = write!(text, ", {} different", HumanCount(different));
    }
    bar.set_length(total.max(done));
    bar.set_position(done);
    bar.set_message(text);
}

/// The task and the options, in the words of the comparison.
fn settings(task: &Task, arguments: &Comparison) -> Settings {
    let mut settings = comparison_settings(task);
    settings.scope.matching.clone_from(&arguments.matching);
    settings.scope.sample = arguments.sample.unwrap_or(ALL);
    Settings {
        mode: match arguments.mode {
            Thoroughness::Full => Mode::Full,
            Thoroughness::Outline => Mode::Outline,
            Thoroughness::Length => Mode::Length,
            Thoroughness::Smart => Mode::Smart,
        },
        rounds: arguments.rounds,
        interval: arguments.interval,
        qps: arguments.qps,
        max_memory: arguments.max_memory,
        tolerance: arguments.expiry_tolerance,
        report: arguments.report.clone(),
        ..settings
    }
}

/// What is printed at the end.
fn table(task: &Task, arguments: &Comparison, found: &Findings, took: Duration) -> String {
    let outcome = &found.outcome;
    let tally = &outcome.tally;
    let mut text = format!(
        "task {}: {} and {}, {} keys in {:.1} s\n",
        task.name,
        task.source.address,
        task.target.address,
        HumanCount(tally.keys()),
        took.as_secs_f64(),
    );
    // Writing to a string does not fail.
    let mut row = |indent: usize, name: &str, count: u64| {
        let width = 30 - indent;
        let _ = writeln!(
            text,
            "{:indent$}{name:<width$}{:>14}",
            "",
            HumanCount(count).to_string()
        );
    };
    row(2, "equal", tally.equal);
    for class in Class::ALL.into_iter().filter(|class| class.is_expected()) {
        if tally.of(class) > 0 {
            row(4, &format!("but for {}", class.name()), tally.of(class));
        }
    }
    row(2, "different", tally.different);
    for class in Class::ALL.into_iter().filter(|class| !class.is_expected()) {
        if tally.of(class) > 0 {
            row(4, class.name(), tally.of(class));
        }
    }
    if let Some(again) = &found.again {
        row(4, "repaired", again.equal);
        row(4, "still different", again.different);
        row(4, "unsettled since", again.open());
    }
    row(2, "unsettled", tally.open());
    for (open, count) in Open::ALL.into_iter().zip(tally.unsettled) {
        if count > 0 {
            row(4, open.reason(), count);
        }
    }
    let listed = tally.examples.len() as u64;
    if listed > 0 {
        let _ = writeln!(text, "different keys:");
        for example in &tally.examples {
            let _ = writeln!(text, "  {}", printable(example));
        }
        if tally.different > listed {
            let _ = writeln!(text, "  and {} more", HumanCount(tally.different - listed));
        }
    }
    if tally.different > 0 || tally.open() > 0 {
        let _ = match &outcome.method {
            Method::Positions => Ok(()),
            Method::Persistence(why) => writeln!(
                text,
                "{why}: a difference is what stayed the same on both sides for {} rounds",
                arguments.rounds
            ),
            Method::FullSync => writeln!(
                text,
                "the task's full sync is not finished: what is different now may be on its way"
            ),
        };
    }
    if !outcome.complete {
        let _ = writeln!(text, "stopped before the end: not every key was looked at");
    }
    for note in &found.notes {
        let _ = writeln!(text, "{}", printable(note));
    }
    let _ = match found.is_equal() {
        true => writeln!(text, "equal"),
        false if found.different() == 0 => writeln!(text, "not known to be equal"),
        false => writeln!(text, "different"),
    };
    text
}

fn print(text: &str) -> Result<(), Exit> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(()),
        // Whoever read it has seen enough; the exit code says the rest.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            complain(format_args!("cannot write to standard output: {error}"));
            Err(Exit::Io)
        }
    }
}
