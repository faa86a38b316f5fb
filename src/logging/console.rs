//! The console: where lines go beside the file, and on a real terminal a line or bar of progress for each task below
//! them.
//!
//! A terminal is standard output, by isatty(3). Without one, whoever captures standard error gets the lines: each with
//! its syslog priority in front, as sd-daemon(3) describes, and without a time, which they add themselves.
//!
//! Whoever shows progress only leaves it in a slot; a thread of this file draws it. So a terminal that is slow, or
//! stopped with Ctrl-S, holds up that thread and the console's log thread, and nothing else. One that fails is left
//! alone from then on, and that is said once.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use slog::Level;

use crate::config;

/// The shortest time between two drawings.
const FRAME: Duration = Duration::from_millis(100);

/// How the two kinds of progress are drawn.
const BAR_TEMPLATE: &str = "[{bar:30}] {percent:>3}% {wide_msg}";
const LINE_TEMPLATE: &str = "{wide_msg}";

/// What is shown below the log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Something with an end in sight.
    Bar {
        /// How much is done, in any unit.
        done: u64,
        /// How much there is to do, in the same unit.
        total: u64,
        /// What to say behind the bar; cut at the edge of the terminal.
        text: String,
    },
    /// Something without an end; cut at the edge of the terminal.
    Line(String),
}

/// Where lines go beside the file. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Console {
    output: Option<Arc<Output>>,
}

/// One task's place on the console, for what it shows below the lines. Cloning is cheap.
#[derive(Clone)]
pub struct Terminal {
    place: Option<Place>,
}

#[derive(Clone)]
struct Place {
    output: Arc<Output>,
    slot: usize,
    label: Option<String>,
}

struct Output {
    /// A write failed for good: nothing is written any more.
    dead: AtomicBool,
    /// Told of that failure, once.
    on_death: Mutex<Option<OnDeath>>,
    kind: Kind,
}

type OnDeath = Box<dyn FnOnce(&io::Error) + Send>;

enum Kind {
    /// Standard output is a terminal.
    Terminal { live: Live, coloured: bool },
    /// Somebody captures standard error.
    Captured,
}

struct Live {
    drawings: MultiProgress,
    slots: Mutex<Slots>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Slots {
    progress: Vec<Option<Progress>>,
    changed: bool,
    ended: bool,
}

/// Whether there is a console, and if not, whether that is because nobody would see it.
pub(super) enum Found {
    Console(Console),
    NoTerminal,
    NotWanted,
}

impl Console {
    /// The console that the settings and this process's standard streams make. Fails if no thread can be started.
    pub fn find(wanted: config::Console) -> io::Result<Found> {
        let is_terminal = io::stdout().is_terminal();
        Ok(match wanted {
            config::Console::Never => Found::NotWanted,
            _ if is_terminal => Found::Console(Self::live()?),
            config::Console::Always => Found::Console(Self::captured()),
            config::Console::Auto if is_journal() => Found::Console(Self::captured()),
            config::Console::Auto => Found::NoTerminal,
        })
    }

    fn captured() -> Self {
        Self {
            output: Some(Arc::new(Output {
                dead: AtomicBool::new(false),
                on_death: Mutex::default(),
                kind: Kind::Captured,
            })),
        }
    }

    fn live() -> io::Result<Self> {
        let output = Arc::new(Output {
            dead: AtomicBool::new(false),
            on_death: Mutex::default(),
            kind: Kind::Terminal {
                live: Live {
                    drawings: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
                    slots: Mutex::default(),
                    changed: Condvar::new(),
                    thread: Mutex::default(),
                },
                coloured: has_colours(),
            },
        });
        if let Some(live) = output.live() {
            let own = Arc::clone(&output);
            let thread = thread::Builder::new().name("terminal".into());
            let thread = thread.spawn(move || own.draw_until_ended())?;
            *locked(&live.thread) = Some(thread);
        }
        Ok(Self {
            output: Some(output),
        })
    }

    /// Has somebody told when it fails.
    pub fn on_death(&self, tell: impl FnOnce(&io::Error) + Send + 'static) {
        if let Some(output) = &self.output {
            *locked(&output.on_death) = Some(Box::new(tell));
        }
    }

    /// A place for one task's progress, with its name in front if there are several.
    pub fn terminal(&self, label: Option<&str>) -> Terminal {
        let place = |output: &Arc<Output>| {
            let mut slots = locked(&output.live()?.slots);
            slots.progress.push(None);
            Some(Place {
                output: Arc::clone(output),
                slot: slots.progress.len() - 1,
                label: label.map(str::to_owned),
            })
        };
        Terminal {
            place: self.output.as_ref().and_then(place),
        }
    }

    /// Writes a whole line, above what is drawn. May wait for whoever reads.
    pub fn print(&self, level: Level, line: Vec<u8>) {
        let Some(output) = &self.output else {
            return;
        };
        if output.dead.load(Ordering::Relaxed) {
            return;
        }
        let written = match &output.kind {
            Kind::Captured => io::stderr().lock().write_all(&for_journal(level, &line)),
            Kind::Terminal { live, coloured } => {
                let line = if *coloured { colour(level, line) } else { line };
                // Not `suspend`, which panics where the terminal has hung up.
                live.drawings
                    .println(String::from_utf8_lossy(&line).trim_end_matches('\n'))
            }
        };
        if let Err(error) = written {
            output.dead.store(true, Ordering::Relaxed);
            if let Some(tell) = locked(&output.on_death).take() {
                tell(&error);
            }
        }
    }

    /// Takes away what is drawn and ends the thread that draws. May wait for the terminal.
    pub fn end(&self) {
        let Some(live) = self.output.as_ref().and_then(|output| output.live()) else {
            return;
        };
        locked(&live.slots).ended = true;
        live.changed.notify_one();
        let thread = locked(&live.thread).take();
        if let Some(thread) = thread {
            // It does not panic; if it did, its message has been printed.
            let _ = thread.join();
        }
    }
}

/// Whether standard error is what systemd's journal reads: then `JOURNAL_STREAM` names it by device and inode.
pub(super) fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let named = named.as_deref().and_then(|text| text.split_once(':'));
    let number = |text: &str| text.parse::<u64>().ok();
    let Some((Some(device), Some(inode))) = named.map(|(dev, ino)| (number(dev), number(ino)))
    else {
        return false;
    };
    // Opened anew it would be a different thing where it is a socket; its own metadata is what counts.
    let about = rustix::fs::fstat(io::stderr());
    about.is_ok_and(|about| (about.st_dev, about.st_ino) == (device, inode))
}

/// Whether this terminal may be coloured: see no-color.org.
fn has_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_some_and(|kind| kind != "dumb")
}

/// A line as sd-daemon(3) wants it: the syslog priority in front, no time.
fn for_journal(level: Level, line: &[u8]) -> Vec<u8> {
    let priority = match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let time = line
        .iter()
        .position(|byte| *byte == b' ')
        .map_or(0, |n| n + 1);
    let mut whole = format!("<{priority}>").into_bytes();
    whole.extend_from_slice(line.get(time..).unwrap_or_default());
    whole
}

/// A line whose level, its second word, is coloured.
fn colour(level: Level, line: Vec<u8>) -> Vec<u8> {
    let colour: &[u8] = match level {
        Level::Critical | Level::Error => b"\x1b[31m",
        Level::Warning => b"\x1b[33m",
        Level::Info => b"\x1b[32m",
        Level::Debug | Level::Trace => b"\x1b[36m",
    };
    let mut words = line.splitn(3, |byte| *byte == b' ');
    match (words.next(), words.next(), words.next()) {
        (Some(time), Some(word), Some(rest)) => {
            [time, b" ", colour, word, b"\x1b[0m ", rest].concat()
        }
        _ => line,
    }
}

impl Terminal {
    /// Nothing is drawn.
    pub fn off() -> Self {
        Self { place: None }
    }

    /// Whether progress is drawn: if not, there is no need to put it into words.
    pub fn shows_progress(&self) -> bool {
        self.place.is_some()
    }

    /// Shows this from now on, or nothing any more. Returns at once, and can be called as often as one likes.
    pub fn show(&self, progress: Option<Progress>) {
        let Some(place) = &self.place else {
            return;
        };
        let Some(live) = place.output.live() else {
            return;
        };
        let mut slots = locked(&live.slots);
        if let Some(slot) = slots.progress.get_mut(place.slot) {
            *slot = progress.map(|progress| progress.labelled(place.label.as_deref()));
        }
        slots.changed = true;
        live.changed.notify_one();
    }
}

impl Progress {
    fn labelled(mut self, label: Option<&str>) -> Self {
        if let Some(label) = label {
            let (Self::Bar { text, .. } | Self::Line(text)) = &mut self;
            text.insert_str(0, &format!("{label}: "));
        }
        self
    }
}

impl Output {
    fn live(&self) -> Option<&Live> {
        match &self.kind {
            Kind::Terminal { live, .. } => Some(live),
            Kind::Captured => None,
        }
    }

    fn draw_until_ended(&self) {
        let Some(live) = self.live() else {
            return;
        };
        let mut shown: Vec<Option<(ProgressBar, Progress)>> = Vec::new();
        while let Some(wanted) = live.next() {
            if self.dead.load(Ordering::Relaxed) {
                break;
            }
            shown.resize_with(wanted.len().max(shown.len()), || None);
            for (shown, wanted) in shown.iter_mut().zip(wanted) {
                *shown = live.redraw(shown.take(), wanted);
            }
            thread::sleep(FRAME);
        }
        for (bar, _) in shown.into_iter().flatten() {
            bar.finish_and_clear();
        }
    }
}

impl Live {
    /// What is to be shown, once it has changed; `None` at the end.
    fn next(&self) -> Option<Vec<Option<Progress>>> {
        let mut slots = locked(&self.slots);
        loop {
            if slots.ended {
                return None;
            }
            if std::mem::take(&mut slots.changed) {
                return Some(slots.progress.clone());
            }
            let woken = self.changed.wait(slots);
            slots = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One task's progress, from what is shown to what is wanted.
    fn redraw(
        &self,
        shown: Option<(ProgressBar, Progress)>,
        wanted: Option<Progress>,
    ) -> Option<(ProgressBar, Progress)> {
        match (shown, wanted) {
            (None, None) => None,
            (None, Some(new)) => {
                let bar = self.drawings.add(ProgressBar::new(0));
                draw(&bar, None, &new);
                Some((bar, new))
            }
            (Some((bar, old)), Some(new)) => {
                draw(&bar, Some(&old), &new);
                Some((bar, new))
            }
            (Some((bar, _)), None) => {
                bar.finish_and_clear();
                None
            }
        }
    }
}

/// Shows progress on a bar that showed `before`. indicatif draws at each change, so only changes are made.
fn draw(bar: &ProgressBar, before: Option<&Progress>, progress: &Progress) {
    let text = match progress {
        Progress::Bar { done, total, text } => {
            if !matches!(before, Some(Progress::Bar { .. })) {
                bar.set_style(style(BAR_TEMPLATE));
            }
            bar.update(|state| {
                state.set_len(*total);
                state.set_pos(*done);
            });
            text
        }
        Progress::Line(text) => {
            if !matches!(before, Some(Progress::Line(_))) {
                bar.set_style(style(LINE_TEMPLATE));
            }
            text
        }
    };
    bar.set_message(text.clone());
}

/// The style of that template; the default one if a template is wrong, which a test excludes.
fn style(template: &str) -> ProgressStyle {
    match ProgressStyle::with_template(template) {
        Ok(style) => style.progress_chars("=> "),
        Err(_) => ProgressStyle::default_bar(),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_is_off_takes_everything_and_shows_nothing() {
        let terminal = Terminal::off();
        assert!(!terminal.shows_progress());
        terminal.show(Some(Progress::Line("x".into())));
        let captured = Console::captured();
        assert!(!captured.terminal(Some("orders")).shows_progress());
        captured.end();
    }

    #[test]
    fn the_thread_that_draws_ends_when_told_to() {
        let console = Console::live().unwrap();
        let terminals = [Some("a"), None].map(|label| console.terminal(label));
        for terminal in &terminals {
            terminal.show(Some(Progress::Line("x".into())));
        }
        terminals[0].show(None);
        console.end();
        let live = console
            .output
            .as_ref()
            .and_then(|output| output.live())
            .unwrap();
        assert!(locked(&live.thread).is_none());
    }

    #[test]
    fn the_templates_are_right() {
        for template in [BAR_TEMPLATE, LINE_TEMPLATE] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn a_task_among_several_is_named() {
        let line = Progress::Line("stable sync".into()).labelled(Some("orders"));
        assert_eq!(line, Progress::Line("orders: stable sync".into()));
    }

    const LINE: &[u8] = b"2026-01-02T03:04:05.678Z WARN target lost, addr: a:1\n";

    #[test]
    fn a_captured_line_has_a_priority_and_no_time() {
        assert_eq!(
            for_journal(Level::Warning, LINE),
            b"<4>WARN target lost, addr: a:1\n"
        );
        assert!(for_journal(Level::Critical, LINE).starts_with(b"<2>"));
    }

    #[test]
    fn only_the_level_is_coloured() {
        let coloured = colour(Level::Warning, LINE.to_vec());
        assert_eq!(
            coloured,
            b"2026-01-02T03:04:05.678Z \x1b[33mWARN\x1b[0m target lost, addr: a:1\n"
        );
    }
}
