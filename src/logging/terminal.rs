//! Standard output as a place for log lines and, on a real terminal, one line or bar of progress below them.
//!
//! Whoever shows progress only leaves it in a slot; a thread of this file draws it. So a terminal that is slow,
//! or stopped with Ctrl-S, holds up that thread and the console's log thread, and nothing else.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

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

/// Standard output, shared by the log and whoever shows progress. Cloning is cheap.
#[derive(Clone)]
pub struct Terminal {
    output: Option<Arc<Output>>,
}

struct Output {
    /// A write failed for good: nothing is written any more.
    dead: AtomicBool,
    live: Option<Live>,
}

struct Live {
    drawings: MultiProgress,
    slot: Mutex<Slot>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Slot {
    progress: Option<Progress>,
    changed: bool,
    ended: bool,
}

impl Terminal {
    /// Nothing is written or drawn.
    pub fn off() -> Self {
        Self { output: None }
    }

    /// Lines are written, progress is not drawn.
    pub(super) fn plain() -> Self {
        let output = Output {
            dead: AtomicBool::new(false),
            live: None,
        };
        Self {
            output: Some(Arc::new(output)),
        }
    }

    /// Lines are written and progress is drawn; fails if no thread can be started.
    pub(super) fn live() -> io::Result<Self> {
        let output = Arc::new(Output {
            dead: AtomicBool::new(false),
            live: Some(Live {
                drawings: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
                slot: Mutex::default(),
                changed: Condvar::new(),
                thread: Mutex::default(),
            }),
        });
        if let Some(live) = &output.live {
            let own = Arc::clone(&output);
            let thread = thread::Builder::new().name("terminal".into());
            let thread = thread.spawn(move || own.draw_until_ended())?;
            *locked(&live.thread) = Some(thread);
        }
        Ok(Self {
            output: Some(output),
        })
    }

    /// Whether nothing is written at all.
    pub(super) fn is_off(&self) -> bool {
        self.output.is_none()
    }

    /// Whether progress is drawn: if not, there is no need to put it into words.
    pub fn shows_progress(&self) -> bool {
        self.live_part().is_some()
    }

    /// Shows this from now on, or nothing any more. Returns at once, and can be called as often as one likes.
    pub fn show(&self, progress: Option<Progress>) {
        if let Some(live) = self.live_part() {
            let mut slot = locked(&live.slot);
            slot.progress = progress;
            slot.changed = true;
            live.changed.notify_one();
        }
    }

    fn live_part(&self) -> Option<&Live> {
        self.output.as_ref()?.live.as_ref()
    }

    /// Writes whole lines above what is drawn. May wait for the terminal.
    pub(super) fn print(&self, lines: &[u8]) {
        let Some(output) = &self.output else {
            return;
        };
        if output.dead.load(Ordering::Relaxed) {
            return;
        }
        let write = || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(lines)?;
            stdout.flush()
        };
        let written = match &output.live {
            Some(live) => live.drawings.suspend(write),
            None => write(),
        };
        if written.is_err() {
            output.dead.store(true, Ordering::Relaxed);
        }
    }

    /// Takes away what is drawn and ends the thread that draws. May wait for the terminal.
    pub(super) fn end(&self) {
        let Some(live) = self.live_part() else {
            return;
        };
        locked(&live.slot).ended = true;
        live.changed.notify_one();
        let thread = locked(&live.thread).take();
        if let Some(thread) = thread {
            // It does not panic; if it did, its message has been printed.
            let _ = thread.join();
        }
    }
}

impl Output {
    fn draw_until_ended(&self) {
        let Some(live) = &self.live else {
            return;
        };
        let mut shown: Option<(ProgressBar, Progress)> = None;
        while let Some(progress) = live.next() {
            if self.dead.load(Ordering::Relaxed) {
                break;
            }
            shown = match (shown.take(), progress) {
                (None, None) => None,
                (None, Some(new)) => {
                    let bar = live.drawings.add(ProgressBar::new(0));
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
            };
            thread::sleep(FRAME);
        }
        if let Some((bar, _)) = shown {
            bar.finish_and_clear();
        }
    }
}

impl Live {
    /// What is to be shown, once it has changed; `None` at the end.
    fn next(&self) -> Option<Option<Progress>> {
        let mut slot = locked(&self.slot);
        loop {
            if slot.ended {
                return None;
            }
            if std::mem::take(&mut slot.changed) {
                return Some(slot.progress.clone());
            }
            let woken = self.changed.wait(slot);
            slot = woken.unwrap_or_else(PoisonError::into_inner);
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
        assert!(terminal.is_off() && !terminal.shows_progress());
        terminal.show(Some(Progress::Line("x".into())));
        terminal.print(b"x\n");
        terminal.end();
    }

    #[test]
    fn the_thread_that_draws_ends_when_told_to() {
        let terminal = Terminal::live().unwrap();
        terminal.show(Some(Progress::Line("x".into())));
        terminal.show(None);
        terminal.end();
        let live = terminal.live_part().unwrap();
        assert!(locked(&live.thread).is_none());
    }

    #[test]
    fn the_templates_are_right() {
        for template in [BAR_TEMPLATE, LINE_TEMPLATE] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
