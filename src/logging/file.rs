//! The log file: appended to, one write for a line, tried again for ever, rotated by itself or by others.
//!
//! Who rotates, and what happens to the lines:
//! - **logrotate with `create` or `nocreate`** renames the file and then asks, by SIGUSR1, to open it again. Until then
//!   lines go to the renamed file, and the new one is opened before the old one is left: none is lost or written twice.
//! - **logrotate with `copytruncate`** cuts the file we have open; we append, so the next line is at its new end.
//! - **Somebody removed the file or its directory**: it has no name left, which is seen with the next line, and it is
//!   made again. If it was only renamed, and nobody says anything for a while, it is made again as well.
//! - **`log.rotate_size`**: see [`super::rotation`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::rotation::Rotation;

/// How often it is looked whether the file still has its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a file without its name is written to before one of that name is made: whoever rotates has long said so
/// by then.
const NAMELESS_FOR: Duration = Duration::from_secs(10);

/// After a rotation that failed, the next attempt waits this long.
const ROTATE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How often all files have been asked to be opened again.
#[derive(Debug, Clone, Default)]
pub(super) struct Reopen(Arc<AtomicU64>);

impl Reopen {
    /// Asks. Each file heeds it with its next line.
    pub(super) fn ask(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn asked(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A log file that may fail for a while.
pub(super) struct LogFile {
    path: PathBuf,
    /// `None` after an error, until opening works again.
    file: Option<File>,
    /// A line was cut by an error: the next one needs a line end before it.
    torn: bool,
    loss: Option<Loss>,
    reopen: Reopen,
    reopened: u64,
    looked: Instant,
    nameless_since: Option<Instant>,
    rotation: Option<Rotation>,
    rotate_not_before: Option<Instant>,
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
    pub fn open(
        path: PathBuf,
        rotation: Option<Rotation>,
        reopen: Reopen,
    ) -> Result<Self, (PathBuf, io::Error)> {
        match open(&path) {
            Ok(file) => Ok(Self {
                path,
                file: Some(file),
                torn: false,
                loss: None,
                reopened: reopen.asked(),
                reopen,
                looked: Instant::now(),
                nameless_since: None,
                rotation,
                rotate_not_before: None,
            }),
            Err(error) => Err((path, error)),
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
        self.keep_name();
        self.rotate_for(line.len() as u64);
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

    /// Opens the file again if that was asked for, or if the open one has lost its name. Where that does not work the
    /// open one goes on.
    fn keep_name(&mut self) {
        let asked = self.reopen.asked();
        if asked == self.reopened && !self.lost_name(Instant::now()) {
            return;
        }
        if let Ok(file) = open(&self.path) {
            self.file = Some(file);
            self.reopened = asked;
            self.nameless_since = None;
        }
    }

    fn lost_name(&mut self, now: Instant) -> bool {
        let Some(Ok(about)) = self.file.as_ref().map(File::metadata) else {
            return false;
        };
        if about.nlink() == 0 && about.is_file() {
            return true;
        }
        if now.duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            // Followed: the name may be a symbolic link.
            let named = fs::metadata(&self.path);
            let is_named = named.is_ok_and(|it| (it.dev(), it.ino()) == (about.dev(), about.ino()));
            self.nameless_since = match is_named {
                true => None,
                false => self.nameless_since.or(Some(now)),
            };
        }
        let since = self.nameless_since;
        since.is_some_and(|since| now.duration_since(since) >= NAMELESS_FOR)
    }

    /// Makes room for so many bytes by giving the file another name, if it is large enough for that.
    fn rotate_for(&mut self, bytes: u64) {
        let (Some(rotation), Some(file)) = (&mut self.rotation, &self.file) else {
            return;
        };
        let now = Instant::now();
        let length = file.metadata().map_or(0, |about| about.len());
        let too_early = self.rotate_not_before.is_some_and(|then| now < then);
        if length == 0 || length.saturating_add(bytes) <= rotation.size() || too_early {
            return;
        }
        let rotated = rotation.rotate(&self.path).and_then(|()| open(&self.path));
        match rotated {
            Ok(file) => {
                self.file = Some(file);
                self.rotate_not_before = None;
            }
            // It grows on, under whatever name it has.
            Err(_) => self.rotate_not_before = now.checked_add(ROTATE_AGAIN_AFTER),
        }
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
mod tests;
