//! The file of commands the target refused for good and the task passed over.
//!
//! Journal entries are also [recorded on the target](super::failed), where they can be repeated; of snapshot keys, of
//! commands too large to be recorded there, and without positions, this is the only record. It has no limit.
//!
//! Invariant: the file is private to its owner and only ever appended to, a JSON object per line, the same as on
//!   the target.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;

use super::error::TargetError;
use super::outgoing::{Outgoing, Word};

/// What to do after an error that waiting does not mend.
#[derive(Debug, Clone)]
pub enum ErrorPolicy {
    /// The task ends.
    Stop,
    /// The command is recorded and counted, and the task goes on.
    Skip {
        /// Where it is recorded; shared by all flows of a task.
        dead_letter: Arc<DeadLetter>,
    },
}

/// A file of commands that could not be applied.
#[derive(Debug)]
pub struct DeadLetter {
    path: PathBuf,
    file: Mutex<File>,
}

impl DeadLetter {
    /// Opens or creates the file, readable by its owner alone.
    pub fn open(path: &Path) -> Result<Self, TargetError> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|cause| TargetError::DeadLetter {
                path: path.to_owned(),
                cause,
            })?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
        })
    }

    /// Appends the `n`th command of a flow, with all its words.
    pub(super) fn record(
        &self,
        out: &Outgoing,
        n: usize,
        flow: Option<u32>,
        db: u32,
        error: &[u8],
    ) -> Result<(), TargetError> {
        // The file has no state that a panic elsewhere could have left half done.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        write_line(&mut file, out, n, flow, db, error).map_err(|cause| TargetError::DeadLetter {
            path: self.path.clone(),
            cause,
        })
    }
}

/// Words go straight from their files into this one: they can be of any size.
fn write_line(
    file: &mut File,
    out: &Outgoing,
    n: usize,
    flow: Option<u32>,
    db: u32,
    error: &[u8],
) -> io::Result<()> {
    let mut line = BufWriter::new(file);
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let number = |number: Option<u64>| number.map_or("null".to_owned(), |n| n.to_string());
    let flow = number(flow.map(u64::from));
    let lsn = number(out.lsn(n));
    let words: Vec<_> = out.words(n).collect();
    let cut = words.len() < out.word_count(n);
    write!(
        line,
        "{{\"time\":\"{now}\",\"flow\":{flow},\"lsn\":{lsn},\"db\":{db},\"key\":"
    )?;
    match words.get(1) {
        Some(key) => base64_string(&mut line, key)?,
        None => write!(line, "null")?,
    }
    write!(line, ",\"words\":[")?;
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            line.write_all(b",")?;
        }
        base64_string(&mut line, word)?;
    }
    write!(line, "],\"cut\":{cut},\"error\":")?;
    serde_json::to_writer(&mut line, &String::from_utf8_lossy(error))?;
    line.write_all(b"}\n")?;
    line.flush()
}

fn base64_string(line: &mut impl Write, word: &Word<'_>) -> io::Result<()> {
    line.write_all(b"\"")?;
    let mut encoder = EncoderWriter::new(&mut *line, &STANDARD);
    word.copy_to(&mut encoder)?;
    encoder.finish()?;
    drop(encoder);
    line.write_all(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_refused_command_can_be_read_back_to_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead.jsonl");
        let mut out = Outgoing::new();
        out.command(3, Some(9));
        out.word(b"LPUSH");
        out.word(b"k\xff");
        out.word(b"\0\r\n");
        out.command(1, None);
        out.word(b"PING");
        for _ in 0..2 {
            let letters = DeadLetter::open(&path).unwrap();
            letters
                .record(&out, 0, Some(4), 3, b"WRONGTYPE \"x\\\x01")
                .unwrap();
        }
        DeadLetter::open(&path)
            .unwrap()
            .record(&out, 1, None, 0, b"ERR")
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1]["lsn"], 9);
        assert_eq!(lines[1]["db"], 3);
        assert_eq!(lines[1]["key"], STANDARD.encode(b"k\xff"));
        assert_eq!(lines[1]["words"][2], STANDARD.encode(b"\0\r\n"));
        assert_eq!(lines[1]["error"], "WRONGTYPE \"x\\\x01");
        let line = text.lines().next().unwrap();
        let read = crate::target::Failed::read(b"4:9:0", line.as_bytes()).unwrap();
        assert_eq!(
            (read.flow, read.lsn, read.db, read.cut),
            (4, 9, 3, false),
            "it is a record like those on the target"
        );
        assert_eq!(read.words, [&b"LPUSH"[..], b"k\xff", b"\0\r\n"]);
        assert_eq!(lines[2]["lsn"], serde_json::Value::Null);
        assert_eq!(lines[2]["key"], serde_json::Value::Null);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
