//! The console: one for all tasks of the process, on the terminal or for a service manager.

use std::io;
use std::sync::Arc;

use slog::{BorrowedKV, Drain, Never, OwnedKVList, Record, RecordStatic, b};
use slog_async::AsyncGuard;

use super::channel::{Channel, Overflow, is_nudge};
use super::fields;
use super::format::{Form, Lines};
use super::outlet::Outlet;
use super::place::Place;
use super::terminal::{Drawing, Terminal};

/// Records between whoever logs and the console.
const CHANNEL: usize = 1_024;

/// The console of a process.
pub(super) struct Console {
    channel: Channel,
    guard: AsyncGuard,
    drawing: Option<Arc<Drawing>>,
    /// More than one task writes here, so lines and progress show which one.
    several: bool,
}

impl Console {
    /// Opens it, for several tasks or one; `None` if there is to be none. `on_failure` is called at most once, when it
    /// is lost.
    pub fn open(
        place: Place,
        several: bool,
        on_failure: impl FnOnce(&io::Error) + Send + 'static,
    ) -> io::Result<Option<Self>> {
        let on_failure = Box::new(on_failure);
        let (outlet, form, drawn) = match place {
            Place::Terminal { drawn, coloured } => {
                let outlet = Outlet::of(io::stdout(), on_failure)?;
                (outlet, Form::Terminal { coloured }, drawn)
            }
            Place::Syslog => (Outlet::of(io::stderr(), on_failure)?, Form::Syslog, false),
            Place::Nowhere => return Ok(None),
        };
        let outlet = Arc::new(outlet);
        let drawing = match drawn {
            true => Some(Drawing::start(Arc::clone(&outlet))?),
            false => None,
        };
        Ok(Some(Self::on(outlet, form, drawing, several)))
    }

    /// The console on that outlet.
    pub(super) fn on(
        outlet: Arc<Outlet>,
        form: Form,
        drawing: Option<Arc<Drawing>>,
        several: bool,
    ) -> Self {
        let overflow = Overflow::default();
        let drain = ConsoleDrain {
            lines: Lines::new(form),
            outlet,
            drawing: drawing.clone(),
            overflow: overflow.clone(),
        };
        let (channel, guard) = Channel::start(drain, overflow, CHANNEL, "log-console");
        Self {
            channel,
            guard,
            drawing,
            several,
        }
    }

    /// A task's way to it: for lines, and for progress.
    pub fn add(&self, task: &str) -> (ConsoleEnd, Terminal) {
        let label = self.several.then_some(task);
        let end = ConsoleEnd {
            channel: self.channel.clone(),
            label: label.map(Into::into),
        };
        let terminal = match &self.drawing {
            Some(drawing) => Terminal::on(drawing, label),
            None => Terminal::off(),
        };
        (end, terminal)
    }

    /// Writes out everything and takes away what is drawn. May wait for the console.
    pub fn end(self) {
        if let Some(drawing) = &self.drawing {
            drawing.end();
        }
        drop(self.guard);
    }
}

/// Where one task's lines go in.
pub(super) struct ConsoleEnd {
    channel: Channel,
    /// The task's name, if lines show it.
    label: Option<Box<str>>,
}

impl Drain for ConsoleEnd {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let Some(label) = &self.label else {
            return self.channel.log(record, values);
        };
        // The tag, which nothing else here uses, is what survives the way through the channel.
        let place = RecordStatic {
            location: record.location(),
            level: record.level(),
            tag: label,
        };
        let pairs = record.kv();
        self.channel.log(
            &Record::new(&place, record.msg(), BorrowedKV(&pairs)),
            values,
        )
    }
}

/// Lines onto the console, in its own thread.
struct ConsoleDrain {
    lines: Lines,
    outlet: Arc<Outlet>,
    drawing: Option<Arc<Drawing>>,
    overflow: Overflow,
}

impl ConsoleDrain {
    fn print(&self, line: &[u8]) {
        match &self.drawing {
            Some(drawing) => drawing.print(line),
            None => self.outlet.write(line),
        }
    }
}

impl Drain for ConsoleDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if let Some(lost) = self.overflow.take() {
            let what = "lines lost, more came than this console could take; the log file has them";
            self.print(&self.lines.warning(what, b!(fields::LOST => lost)));
        }
        if !is_nudge(record) && !self.outlet.has_failed() {
            self.print(&self.lines.line(record, values));
        }
        Ok(())
    }
}
