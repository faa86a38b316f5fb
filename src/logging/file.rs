//! The log file: appended to, one write for a line, tried again for ever.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A log file that may fail for a while.
pub(super) struct LogFile {
    path: PathBuf,
    /// `None` after an error, until opening works again.
    file: Option<File>,
    /// A line was cut by an error: the next one needs a line end before it.
    torn: bool,
    loss: Option<Loss>,
}

/// What could not be written since it last worked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub lines: u64,
    /// The first error.
    pub error: String,
}

impl LogFile {
    /// Opens or creates it (0640), with its directories; an error names the file.
    pub fn open(path: PathBuf) -> Result<Self, (PathBuf, io::Error)> {
        match open(&path) {
            Ok(file) => Ok(Self {
                path,
                file: Some(file),
                torn: false,
                loss: None,
            }),
            Err(error) => Err((path, error)),
        }
    }

    /// Opens it again by its name. While that fails, lines go where they went before.
    pub fn reopen(&mut self) {
        if let Ok(file) = open(&self.path) {
            self.file = Some(file);
        }
    }

    /// Appends a line, or counts it as lost. What was lost before is reported first, in the line that `report`
    /// makes of it.
    pub fn append(&mut self, line: &[u8], report: impl FnOnce(&Loss) -> Vec<u8>) {
        if let Err(error) = self.try_append(line, report) {
            let loss = self.loss.get_or_insert_with(|| Loss {
                lines: 0,
                error: error.to_string(),
            });
            loss.lines += 1;
            self.file = None;
        }
    }

    fn try_append(&mut self, line: &[u8], report: impl FnOnce(&Loss) -> Vec<u8>) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.path)?),
        };
        if let Some(loss) = &self.loss {
            let mut first = if self.torn {
                b"\n".to_vec()
            } else {
                Vec::new()
            };
            first.append(&mut report(loss));
            write_line(file, &first, &mut self.torn)?;
            self.loss = None;
        }
        write_line(file, line, &mut self.torn)
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path)
}

/// Writes all of a line; `torn` becomes true if an error cut it, false if it is whole.
fn write_line(file: &mut impl Write, line: &[u8], torn: &mut bool) -> io::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                rest = rest.get(n..).unwrap_or_default();
                *torn = !rest.is_empty();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn report(loss: &Loss) -> Vec<u8> {
        format!("lost {}: {}\n", loss.lines, loss.error).into_bytes()
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_appended_to_what_is_there_and_the_file_is_not_public() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/orders.log");
        for line in ["one\n", "two\n"] {
            LogFile::open(path.clone())
                .unwrap()
                .append(line.as_bytes(), report);
        }
        assert_eq!(read(&path), "one\ntwo\n");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn a_write_error_costs_lines_and_the_first_line_that_works_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        log.append(b"one\n", report);
        // /dev/full: every write fails with "no space left".
        log.file = Some(OpenOptions::new().append(true).open("/dev/full").unwrap());
        log.path = PathBuf::from("/dev/full");
        log.append(b"two\n", report);
        log.append(b"three\n", report);
        log.path = path.clone();
        log.append(b"four\n", report);
        log.append(b"five\n", report);
        let full = io::Error::from_raw_os_error(nix::libc::ENOSPC);
        assert_eq!(read(&path), format!("one\nlost 2: {full}\nfour\nfive\n"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_is_tried_with_every_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/orders.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        log.file = None;
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        fs::write(dir.path().join("logs"), "in the way").unwrap();
        log.append(b"one\n", report);
        fs::remove_file(dir.path().join("logs")).unwrap();
        log.append(b"two\n", report);
        let text = read(&path);
        assert!(
            text.starts_with("lost 1: ") && text.ends_with("\ntwo\n"),
            "{text}"
        );
    }

    #[test]
    fn a_line_cut_in_the_middle_is_known_to_be_torn() {
        /// Takes two bytes, then nothing.
        struct Small(usize);
        impl Write for Small {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let taken = bytes.len().min(self.0);
                self.0 -= taken;
                match taken {
                    0 => Err(io::ErrorKind::StorageFull.into()),
                    _ => Ok(taken),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut torn = false;
        assert!(write_line(&mut Small(2), b"abcd\n", &mut torn).is_err());
        assert!(torn);
        assert!(write_line(&mut Small(0), b"abcd\n", &mut torn).is_err());
        assert!(
            torn,
            "nothing was written, so the cut line is still the last"
        );
        write_line(&mut Small(9), b"abcd\n", &mut torn).unwrap();
        assert!(!torn);
    }
}
