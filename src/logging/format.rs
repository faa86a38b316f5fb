//! From a record to one line.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use slog::{Drain, FnValue, OwnedKVList, PushFnValue, Record, o};
use slog_json::Json;
use slog_term::{FullFormat, PlainDecorator};

use crate::config::LogFormat;

/// Bytes that a drain writes and we take away. The lock is for the type system: one thread does both.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes lines of records.
pub(super) struct Lines {
    buffer: Buffer,
    form: Form,
}

enum Form {
    Text(FullFormat<PlainDecorator<Buffer>>),
    Json(Json<Buffer>),
}

/// UTC, RFC 3339, milliseconds.
fn now() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(SystemTime::now())
}

impl Lines {
    pub fn new(format: LogFormat) -> Self {
        let buffer = Buffer::default();
        let form = match format {
            LogFormat::Text => Form::Text(
                FullFormat::new(PlainDecorator::new(buffer.clone()))
                    .use_custom_timestamp(|out| write!(out, "{}", now()))
                    .use_original_order()
                    .build(),
            ),
            // slog writes the last pair first.
            LogFormat::Json => Form::Json(
                Json::new(buffer.clone())
                    .add_key_value(o!(
                        "msg" => PushFnValue(|record: &Record<'_>, out| out.emit(record.msg())),
                        "level" => FnValue(|record: &Record<'_>| record.level().as_str().to_lowercase()),
                        "ts" => FnValue(|_: &Record<'_>| now().to_string()),
                    ))
                    .build(),
            ),
        };
        Self { buffer, form }
    }

    /// The record as one line with its end. Control characters, which a peer may have sent to forge lines or to
    /// play with a terminal, are escaped.
    pub fn line(&self, record: &Record<'_>, values: &OwnedKVList) -> Vec<u8> {
        let done = match &self.form {
            Form::Text(text) => text.log(record, values),
            Form::Json(json) => json.log(record, values),
        };
        let bytes = self.buffer.take();
        if let Err(error) = done {
            // Only a value that cannot be shown gets here: writing to memory does not fail.
            return format!("{} {} ({error})\n", now(), record.msg()).into_bytes();
        }
        one_line(bytes)
    }
}

fn one_line(bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if !body.iter().any(u8::is_ascii_control) {
        return bytes;
    }
    let mut line = Vec::with_capacity(bytes.len() + 16);
    for byte in body {
        match byte.is_ascii_control() {
            true => line.extend(byte.escape_ascii()),
            false => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{Level, b, record_static};

    fn line(format: LogFormat) -> String {
        let record_static = record_static!(Level::Warning, "");
        let arguments = format_args!("target lost");
        let pairs = b!("addr" => "a:1", "error" => "x\n2026 INFO forged\x1b[2J");
        let record = Record::new(&record_static, &arguments, pairs);
        String::from_utf8(Lines::new(format).line(&record, &o!("task" => "orders").into())).unwrap()
    }

    #[test]
    fn a_text_line_has_time_level_message_and_fields_and_cannot_be_forged() {
        let line = line(LogFormat::Text);
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-01-02T03:04:05.678Z".len(), "{time}");
        humantime::parse_rfc3339(time).unwrap();
        assert_eq!(
            rest,
            "WARN target lost, task: orders, addr: a:1, error: x\\n2026 INFO forged\\x1b[2J\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = line(LogFormat::Json);
        assert_eq!(line.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        humantime::parse_rfc3339(object["ts"].as_str().unwrap()).unwrap();
        assert_eq!(object["level"], "warning");
        assert_eq!(object["msg"], "target lost");
        assert_eq!(object["error"], "x\n2026 INFO forged\u{1b}[2J");
        assert_eq!(object["task"], "orders");
    }
}
