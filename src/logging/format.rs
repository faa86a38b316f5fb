//! From a record to one line, in one of four forms.
//!
//! What a peer sent can forge no line and play no tricks on a terminal: control characters, the eight-bit ones
//! included, are escaped, and colour is put around text that has been escaped already.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use slog::{BorrowedKV, Drain, FnValue, Level, OwnedKVList, PushFnValue, Record, o, record_static};
use slog_json::Json;
use slog_term::{Decorator, FullFormat, RecordDecorator, ThreadSafeTimestampFn};

/// The forms of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Time, level, message, then `field: value` pairs.
    Text,
    /// One JSON object.
    Json,
    /// Text for eyes, with the task's name if the record's tag holds one.
    Terminal {
        /// With colours.
        coloured: bool,
    },
    /// Text for a service manager: the syslog priority in front, and no time.
    Syslog,
}

/// Makes lines of records.
pub(super) struct Lines {
    buffer: Buffer,
    form: Form,
    format: Format,
}

enum Format {
    Text(FullFormat<Painter>),
    Json(Json<Buffer>),
}

/// UTC, RFC 3339, milliseconds.
fn now() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(SystemTime::now())
}

impl Lines {
    pub fn new(form: Form) -> Self {
        let buffer = Buffer::default();
        let format = match form {
            Form::Json => Format::Json(json(buffer.clone())),
            Form::Text | Form::Terminal { .. } | Form::Syslog => {
                Format::Text(text(buffer.clone(), form))
            }
        };
        Self {
            buffer,
            form,
            format,
        }
    }

    /// The record as one line with its end.
    pub fn line(&self, record: &Record<'_>, values: &OwnedKVList) -> Vec<u8> {
        let done = match &self.format {
            Format::Text(text) => text.log(record, values),
            Format::Json(json) => json.log(record, values),
        };
        let line = self.buffer.take();
        match done {
            Ok(()) if self.form == Form::Json => escape_rest(line),
            Ok(()) => line,
            // Writing to memory does not fail, so a value could not be shown. The line is made without values.
            Err(error) => {
                let what = format!("{} ({error})", record.msg());
                self.plain(record.level(), &what, BorrowedKV(&()))
            }
        }
    }

    /// A line of the log about itself.
    pub fn warning(&self, what: &str, pairs: BorrowedKV<'_>) -> Vec<u8> {
        self.plain(Level::Warning, what, pairs)
    }

    fn plain(&self, level: Level, what: &str, pairs: BorrowedKV<'_>) -> Vec<u8> {
        let mut place = record_static!(Level::Warning, "");
        place.level = level;
        let (what, none) = (format_args!("{what}"), OwnedKVList::from(o!()));
        let record = Record::new(&place, &what, pairs);
        // Errors come from values only, and ours have none.
        let _ = match &self.format {
            Format::Text(text) => text.log(&record, &none),
            Format::Json(json) => json.log(&record, &none),
        };
        self.buffer.take()
    }
}

fn text(buffer: Buffer, form: Form) -> FullFormat<Painter> {
    let coloured = form == Form::Terminal { coloured: true };
    let format = FullFormat::new(Painter { buffer, coloured })
        .use_custom_timestamp(|out| write!(out, "{}", now()))
        .use_original_order();
    match form {
        Form::Text | Form::Json => format.build(),
        Form::Terminal { .. } => format
            .use_custom_header_print(|timestamp, out, record, _| {
                print_terminal_header(timestamp, out, record)
            })
            .build(),
        Form::Syslog => format
            .use_custom_header_print(|_, out, record, _| {
                out.start_whitespace()?;
                write!(out, "<{}>", priority(record.level()))?;
                print_level_and_message(out, record)
            })
            .build(),
    }
}

fn print_terminal_header(
    timestamp: &dyn ThreadSafeTimestampFn<Output = io::Result<()>>,
    mut out: &mut dyn RecordDecorator,
    record: &Record<'_>,
) -> io::Result<bool> {
    out.start_timestamp()?;
    timestamp(&mut out)?;
    out.start_whitespace()?;
    write!(out, " ")?;
    print_level_and_message(out, record)
}

/// Also the task's name. Returns whether there was a message, which a comma has to follow.
fn print_level_and_message(out: &mut dyn RecordDecorator, record: &Record<'_>) -> io::Result<bool> {
    out.start_level()?;
    write!(out, "{}", record.level().as_short_str())?;
    out.start_whitespace()?;
    write!(out, " ")?;
    if !record.tag().is_empty() {
        out.start_location()?;
        write!(out, "{}: ", record.tag())?;
    }
    out.start_msg()?;
    let message = record.msg().to_string();
    write!(out, "{message}")?;
    Ok(!message.is_empty())
}

/// The priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn json(buffer: Buffer) -> Json<Buffer> {
    // slog writes the last pair first.
    Json::new(buffer)
        .add_key_value(o!(
            "msg" => PushFnValue(|record: &Record<'_>, out| out.emit(record.msg())),
            "level" => FnValue(|record: &Record<'_>| record.level().as_str().to_lowercase()),
            "ts" => FnValue(|_: &Record<'_>| now().to_string()),
        ))
        .build()
}

/// Escapes, as JSON does it, the control characters that JSON allows in strings. There are none elsewhere.
fn escape_rest(line: Vec<u8>) -> Vec<u8> {
    let is_rest = |c: char| c.is_control() && c != '\n';
    match str::from_utf8(&line) {
        Ok(text) if text.contains(is_rest) => {
            let mut escaped = Vec::with_capacity(line.len() + 16);
            for c in text.chars() {
                push(&mut escaped, c, is_rest(c));
            }
            escaped
        }
        _ => line,
    }
}

/// Adds a character, or its escape if it is one.
fn push(bytes: &mut Vec<u8>, c: char, escape: bool) {
    match escape {
        true => bytes.extend(format!("\\u{:04x}", u32::from(c)).bytes()),
        false => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
    }
}

/// Bytes that a drain writes and we take away. The lock is for the type system: one thread does both.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock())
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives slog-term a brush for each record.
struct Painter {
    buffer: Buffer,
    coloured: bool,
}

impl Decorator for Painter {
    fn with_record<F>(&self, record: &Record<'_>, _: &OwnedKVList, paint: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn RecordDecorator) -> io::Result<()>,
    {
        paint(&mut Brush {
            buffer: self.buffer.lock(),
            coloured: self.coloured,
            level: record.level(),
            painting: false,
            ours: false,
        })
    }
}

/// Writes one line. What is written is escaped, but for what is between the parts.
struct Brush<'b> {
    buffer: MutexGuard<'b, Vec<u8>>,
    coloured: bool,
    level: Level,
    /// A colour is set.
    painting: bool,
    /// What comes is ours: spaces, and the end of the line.
    ours: bool,
}

impl Brush<'_> {
    fn paint(&mut self, colour: &str) -> io::Result<()> {
        self.reset()?;
        if self.coloured {
            self.buffer.extend_from_slice(colour.as_bytes());
            self.painting = true;
        }
        Ok(())
    }
}

impl Write for Brush<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.ours {
            self.buffer.extend_from_slice(bytes);
        } else {
            for c in String::from_utf8_lossy(bytes).chars() {
                match c {
                    // As Rust writes them, which people read more easily.
                    '\n' | '\r' | '\t' => self.buffer.extend(c.escape_default().map(|c| c as u8)),
                    c if c.is_ascii_control() => {
                        self.buffer.extend((c as u8).escape_ascii());
                    }
                    c => push(&mut self.buffer, c, c.is_control()),
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl RecordDecorator for Brush<'_> {
    fn reset(&mut self) -> io::Result<()> {
        if self.painting {
            self.buffer.extend_from_slice(b"\x1b[0m");
        }
        self.painting = false;
        self.ours = false;
        Ok(())
    }

    fn start_whitespace(&mut self) -> io::Result<()> {
        self.reset()?;
        self.ours = true;
        Ok(())
    }

    fn start_level(&mut self) -> io::Result<()> {
        self.paint(match self.level {
            Level::Critical | Level::Error => "\x1b[1;31m",
            Level::Warning => "\x1b[33m",
            Level::Info => "\x1b[32m",
            Level::Debug | Level::Trace => "\x1b[36m",
        })
    }

    fn start_msg(&mut self) -> io::Result<()> {
        self.paint("\x1b[1m")
    }
}

#[cfg(test)]
mod tests;
