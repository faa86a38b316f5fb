//! The log file: appended to, one write for a line, tried again for ever, and found again when it was moved.
//!
//! Which file a line goes to:
//! - **Renamed, as logrotate does.** Lines go to the renamed file until [`LogFile::reopen`] is called (SIGUSR1), and
//!   to the file of the name from then on: none is lost, none is written twice, whether logrotate made the new file
//!   (`create`) or we do (`nocreate`). Without a signal the name is looked at, at most once a second, and after
//!   [`PATIENCE`] of leading to another file or to none it is opened by itself. That long, so that it never comes
//!   between logrotate's renaming and its signal; nothing is lost by it, for the renamed file has all lines until
//!   then.
//! - **Removed**, alone or with its directory: what is written there can be read by nobody. It is seen after each
//!   line, and the line is written again, to a new file.
//! - **Cut to nothing** (`copytruncate`): the file is open for appending, so the next line is its first.
//! - **Grown over its size** ([`Rotation`]): renamed by us, between two lines.
//! - **Failing** (disk full, directory not writable): opened again by its name with every line. Lines are counted
//!   as lost meanwhile, and the first that works has their number in front of it. What an error left of half a line
//!   is taken away.
//!
//! A file that cannot be opened again while the old one still works is no loss: lines go on to the old one, the name
//! is tried again every second, and the old file says so once.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::rotation::Rotation;

/// How long the name may lead elsewhere before the file is left without having been told to.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The shortest time between two looks at where the name leads.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the file has to say about itself, in front of the next line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// Lines that could not be written, and the first error.
    Lost { lines: u64, error: String },
    /// Lines that the channel could not take.
    Overflowed { lines: u64 },
    /// The name cannot be opened; lines go to the file that was open before.
    NotReopened { error: String },
    /// It should be rotated by size and cannot be.
    NotRotated { error: String },
    /// A rotated file could not be compressed.
    NotCompressed { error: String },
}

/// A log file that may fail for a while.
pub(super) struct LogFile {
    path: PathBuf,
    /// `None` after an error, until opening works again.
    open: Option<Open>,
    /// The file whose last line was cut by an error and could not be mended: the next needs a line end before it.
    torn: Option<Identity>,
    /// To be written in front of the next line, oldest first; at most one of each kind.
    notices: Vec<Notice>,
    /// Somebody asked for it to be opened by its name again.
    wants_reopening: bool,
    /// Reopening failed and the file has said so.
    reopening_fails: bool,
    look_at: Option<Instant>,
    /// Since when the name leads elsewhere.
    astray: Option<Instant>,
    rotation: Option<Rotation>,
}

struct Open {
    file: File,
    identity: Identity,
    size: u64,
}

/// Which file: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// Puts a notice into a line of the log's format.
pub(super) type InWords<'w> = &'w dyn Fn(&Notice) -> Vec<u8>;

impl LogFile {
    /// Opens or creates it (0640, less what the umask takes), with its directories.
    pub fn open(path: PathBuf, rotation: Option<Rotation>) -> io::Result<Self> {
        let open = Open::by_name(&path)?;
        Ok(Self {
            path,
            open: Some(open),
            torn: None,
            notices: Vec::new(),
            wants_reopening: false,
            reopening_fails: false,
            look_at: None,
            astray: None,
            rotation,
        })
    }

    /// Appends a line, or counts it as lost.
    pub fn append(&mut self, line: &[u8], now: Instant, in_words: InWords<'_>) {
        self.follow(now);
        self.rotate_if_due(line.len(), now);
        if let Err(error) = self.try_append(line, in_words) {
            self.lose(&error);
        }
    }

    /// Opens it again by its name, at once if possible, else as soon as it is.
    pub fn reopen(&mut self, now: Instant) {
        self.wants_reopening = true;
        self.look_at = None;
        self.follow(now);
    }

    /// Has lines to confess that never came here.
    pub fn overflowed(&mut self, lost: u64) {
        for notice in &mut self.notices {
            if let Notice::Overflowed { lines } = notice {
                *lines += lost;
                return;
            }
        }
        self.notices.push(Notice::Overflowed { lines: lost });
    }

    /// Writes what it has to say, without waiting for a line. What cannot be said now is kept.
    pub fn confess(&mut self, in_words: InWords<'_>) {
        if !self.notices.is_empty() {
            // The next line comes to the same error, and counts it.
            let _ = self.try_append(b"", in_words);
        }
    }

    fn lose(&mut self, error: &io::Error) {
        for notice in &mut self.notices {
            if let Notice::Lost { lines, .. } = notice {
                *lines += 1;
                return;
            }
        }
        let error = error.to_string();
        self.notices.push(Notice::Lost { lines: 1, error });
    }

    /// Leaves the open file if it was told to, or if the name has led elsewhere for long.
    fn follow(&mut self, now: Instant) {
        if self.open.is_none() {
            // Opened by its name with the next line.
            self.wants_reopening = false;
            return;
        }
        if self.look_at.is_some_and(|at| now < at) {
            return;
        }
        self.look_at = Some(now + LOOK_EVERY);
        if !self.wants_reopening {
            if self.is_found_by_name() {
                self.astray = None;
                return;
            }
            let since = *self.astray.get_or_insert(now);
            if now.duration_since(since) < PATIENCE {
                return;
            }
        }
        self.leave();
    }

    /// Opens the name, and keeps the open file if that fails.
    fn leave(&mut self) {
        match Open::by_name(&self.path) {
            Ok(open) => self.adopt(open),
            Err(error) => {
                self.wants_reopening = true;
                if !self.reopening_fails {
                    self.reopening_fails = true;
                    let error = error.to_string();
                    self.notices.push(Notice::NotReopened { error });
                }
            }
        }
    }

    fn adopt(&mut self, open: Open) {
        self.open = Some(open);
        self.wants_reopening = false;
        self.reopening_fails = false;
        self.astray = None;
    }

    fn is_found_by_name(&self) -> bool {
        let found = fs::metadata(&self.path).map(|metadata| Identity::of(&metadata));
        match (&self.open, found) {
            (Some(open), Ok(found)) => open.identity == found,
            _ => false,
        }
    }

    /// Whether what is written now can be read by nobody. (Some file systems have no link counts, so the name is
    /// looked at too.)
    fn is_removed(&self) -> bool {
        let open = self.open.as_ref();
        let links = open.and_then(|open| open.file.metadata().ok());
        links.is_some_and(|metadata| metadata.nlink() == 0) && !self.is_found_by_name()
    }

    fn rotate_if_due(&mut self, adding: usize, now: Instant) {
        let (Some(rotation), Some(open)) = (&mut self.rotation, &self.open) else {
            return;
        };
        // What was renamed by somebody else is no longer ours to rename; and no symbolic link, for its file would
        // stay where it is.
        let by_name = fs::symlink_metadata(&self.path).map(|metadata| Identity::of(&metadata));
        if !rotation.is_due(open.size, adding, now)
            || !by_name.is_ok_and(|found| found == open.identity)
        {
            return;
        }
        if let Some(error) = rotation.failure() {
            let error = error.to_string();
            push_once(&mut self.notices, Notice::NotCompressed { error });
        }
        match rotation.rotate(&self.path) {
            Ok(()) => {
                // If this fails, the file is the first rotated one, and goes on to be written.
                self.leave();
                if self.is_found_by_name()
                    && let Some(rotation) = &mut self.rotation
                {
                    rotation.compress(&self.path);
                }
            }
            Err(error) => {
                rotation.put_off(now);
                let error = error.to_string();
                push_once(&mut self.notices, Notice::NotRotated { error });
            }
        }
    }

    /// Writes what there is to say and the line, both or neither: on a disk that is all but full the report of losses
    /// may fit where the line does not, and would be one of many.
    fn try_append(&mut self, line: &[u8], in_words: InWords<'_>) -> io::Result<()> {
        if self.open.is_none() || self.is_removed() {
            let open = Open::by_name(&self.path)?;
            self.adopt(open);
        }
        let mut bytes = Vec::new();
        if self.torn.is_some_and(|torn| self.is_open(torn)) {
            bytes.push(b'\n');
        }
        for notice in &self.notices {
            bytes.append(&mut in_words(notice));
        }
        bytes.extend_from_slice(line);
        let mut written = self.write_whole(&bytes);
        if written.is_ok() && self.is_removed() {
            written = Open::by_name(&self.path).and_then(|open| {
                self.adopt(open);
                self.write_whole(&bytes)
            });
        }
        match written {
            Ok(()) => {
                self.notices.clear();
                self.torn = None;
            }
            Err(_) => self.open = None,
        }
        written
    }

    fn is_open(&self, identity: Identity) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| open.identity == identity)
    }

    /// Writes all of it or leaves nothing of it; what cannot be taken back makes the file torn.
    fn write_whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let Err((error, written)) = write_all(&mut open.file, bytes) else {
            open.size += bytes.len() as u64;
            if let Ok(metadata) = open.file.metadata() {
                // It may have been cut by somebody else.
                open.size = metadata.len();
            }
            return Ok(());
        };
        if written > 0 && open.take_back(written).is_err() {
            self.torn = Some(open.identity);
        }
        Err(error)
    }
}

impl Open {
    fn by_name(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o640).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            file,
            identity: Identity::of(&metadata),
            size: metadata.len(),
        })
    }

    /// Cuts off the last bytes, which we have just written.
    fn take_back(&mut self, written: u64) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        let size = size
            .checked_sub(written)
            .ok_or(io::ErrorKind::InvalidInput)?;
        self.file.set_len(size)
    }
}

fn push_once(notices: &mut Vec<Notice>, notice: Notice) {
    let kind = std::mem::discriminant(&notice);
    if !notices
        .iter()
        .any(|known| std::mem::discriminant(known) == kind)
    {
        notices.push(notice);
    }
}

/// Writes all; the error comes with how much was written before it.
fn write_all(file: &mut impl Write, bytes: &[u8]) -> Result<(), (io::Error, u64)> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = (bytes.len() - rest.len()) as u64;
        match file.write(rest) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((error, written)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
