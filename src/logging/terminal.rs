//! The terminal below the log lines: one bar or line of progress for each task.
//!
//! Whoever shows progress only leaves it in the task's slot; a thread of this file draws it, at most ten times a
//! second. So a terminal that is slow, or stopped with Ctrl-S, holds up that thread and the console's, and nothing
//! else. A process in the background of its terminal draws nothing, for the screen is somebody else's then; its log
//! lines are printed all the same, like those of any job. A terminal that failed is not written to again.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::outlet::Outlet;
use super::screen::Screen;

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

/// A task's part of the terminal. Cloning shares it.
#[derive(Clone)]
pub struct Terminal {
    slot: Option<(Arc<Drawing>, usize)>,
}

impl Terminal {
    /// Nothing is drawn.
    pub fn off() -> Self {
        Self { slot: None }
    }

    /// A new slot below those that are there, with the task's name if it is to be shown.
    pub(super) fn on(drawing: &Arc<Drawing>, label: Option<&str>) -> Self {
        let mut slots = drawing.locked();
        slots.all.push(Slot {
            label: label.map(str::to_owned),
            progress: None,
        });
        let number = slots.all.len() - 1;
        drop(slots);
        Self {
            slot: Some((Arc::clone(drawing), number)),
        }
    }

    /// Whether progress is drawn: if not, there is no need to put it into words.
    pub fn shows_progress(&self) -> bool {
        self.slot
            .as_ref()
            .is_some_and(|(drawing, _)| !drawing.outlet.has_failed())
    }

    /// Shows this from now on, or nothing any more. Returns at once, and can be called as often as one likes.
    pub fn show(&self, progress: Option<Progress>) {
        let Some((drawing, number)) = &self.slot else {
            return;
        };
        let mut slots = drawing.locked();
        if let Some(slot) = slots.all.get_mut(*number) {
            slot.progress = progress;
        }
        slots.changed = true;
        drawing.changed.notify_one();
    }
}

/// The drawn part of the terminal, and the thread that draws.
pub(super) struct Drawing {
    outlet: Arc<Outlet>,
    bars: MultiProgress,
    slots: Mutex<Slots>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    changed: bool,
    ended: bool,
}

#[derive(Clone)]
struct Slot {
    label: Option<String>,
    progress: Option<Progress>,
}

impl Drawing {
    /// Starts the thread.
    pub fn start(outlet: Arc<Outlet>) -> io::Result<Arc<Self>> {
        let drawing = Arc::new(Self {
            outlet,
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            slots: Mutex::default(),
            changed: Condvar::new(),
            thread: Mutex::default(),
        });
        let own = Arc::clone(&drawing);
        let thread = thread::Builder::new().name("terminal".into());
        let thread = thread.spawn(move || own.draw_until_ended())?;
        *drawing
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(drawing)
    }

    /// Writes whole lines above what is drawn. May wait for the terminal.
    pub fn print(&self, lines: &[u8]) {
        self.bars.suspend(|| self.outlet.write(lines));
    }

    /// Takes away what is drawn and ends the thread. May wait for the terminal.
    pub fn end(&self) {
        self.locked().ended = true;
        self.changed.notify_one();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // It does not panic; if it did, its message has been logged.
            let _ = thread.join();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be shown, once it has changed; `None` at the end.
    fn next(&self) -> Option<Vec<Slot>> {
        let mut slots = self.locked();
        loop {
            if slots.ended {
                return None;
            }
            if std::mem::take(&mut slots.changed) {
                return Some(slots.all.clone());
            }
            let woken = self.changed.wait(slots);
            slots = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn draw_until_ended(&self) {
        let mut shown = Shown::default();
        while let Some(slots) = self.next() {
            if self.outlet.has_failed() {
                break;
            }
            self.take_turns(&mut shown);
            for (number, slot) in slots.iter().enumerate() {
                let progress = slot.progress.as_ref();
                let named = progress.map(|progress| match &slot.label {
                    None => progress.clone(),
                    Some(task) => progress.of_task(task),
                });
                shown.set(&self.bars, number, named);
            }
            thread::sleep(FRAME);
        }
        shown.clear(&self.bars);
    }

    /// Draws while in the foreground, and stops drawing in the background.
    fn take_turns(&self, shown: &mut Shown) {
        let foreground = is_foreground(&self.outlet);
        if foreground != shown.drawn {
            // What stands on the screen is left there: somebody else may have written below it.
            self.bars.set_draw_target(match foreground {
                true => ProgressDrawTarget::term_like(Box::new(Screen::new(&self.outlet))),
                false => ProgressDrawTarget::hidden(),
            });
            shown.drawn = foreground;
        }
    }
}

impl Progress {
    fn of_task(&self, task: &str) -> Self {
        match self {
            Self::Bar { done, total, text } => Self::Bar {
                done: *done,
                total: *total,
                text: format!("{task}  {text}"),
            },
            Self::Line(text) => Self::Line(format!("{task}  {text}")),
        }
    }
}

/// The bars on the screen, by slot.
#[derive(Default)]
struct Shown {
    bars: Vec<Option<(ProgressBar, Progress)>>,
    /// Not hidden.
    drawn: bool,
}

impl Shown {
    fn set(&mut self, all: &MultiProgress, number: usize, progress: Option<Progress>) {
        if self.bars.len() <= number {
            self.bars.resize_with(number + 1, || None);
        }
        let above = self.bars.iter().take(number).flatten().count();
        let Some(place) = self.bars.get_mut(number) else {
            return;
        };
        *place = match (place.take(), progress) {
            (Some((bar, old)), Some(new)) => {
                draw(&bar, Some(&old), &new);
                Some((bar, new))
            }
            (None, Some(new)) => {
                let bar = all.insert(above, ProgressBar::new(0));
                draw(&bar, None, &new);
                Some((bar, new))
            }
            (Some((bar, _)), None) => {
                remove(all, &bar);
                None
            }
            (None, None) => None,
        };
    }

    fn clear(&mut self, all: &MultiProgress) {
        for (bar, _) in self.bars.drain(..).flatten() {
            remove(all, &bar);
        }
    }
}

fn remove(all: &MultiProgress, bar: &ProgressBar) {
    bar.finish_and_clear();
    all.remove(bar);
}

/// Shows progress on a bar that showed `before`. indicatif draws at each change, so only changes are made.
fn draw(bar: &ProgressBar, before: Option<&Progress>, progress: &Progress) {
    if before == Some(progress) {
        return;
    }
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
    // It may quote a peer, who shall not play with the terminal.
    bar.set_message(text.replace(char::is_control, "\u{fffd}"));
}

/// The style of that template; the default one if a template is wrong, which a test excludes.
fn style(template: &str) -> ProgressStyle {
    match ProgressStyle::with_template(template) {
        Ok(style) => style.progress_chars("=> "),
        Err(_) => ProgressStyle::default_bar(),
    }
}

/// Whether the terminal is ours to draw on. One that is not our controlling terminal has no foreground, and is.
fn is_foreground(outlet: &Outlet) -> bool {
    match nix::unistd::tcgetpgrp(outlet.fd()) {
        Ok(group) => group == nix::unistd::getpgrp(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests;
