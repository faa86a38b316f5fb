//! Rotation by size: `x.log` becomes `x.log.1`, that becomes `x.log.2`, and so on; the oldest goes.
//!
//! Renaming is done by the thread that writes the log, between two lines. Compressing is done by a thread of its own,
//! beside the log; while it runs nothing is rotated, so a log that grows faster than it can be compressed grows over
//! its size, and loses nothing.
//!
//! What always holds, whenever the process is killed:
//! - A number is moved only to a free one, so nothing is overwritten. A number left free by a kill is the next to
//!   be filled.
//! - `x.log.N.gz` exists only whole: it is written as `x.log.N.gz.tmp`, synced, and renamed. Where both `x.log.N`
//!   and `x.log.N.gz` exist, the first is what a kill left to be removed.
//! - The next rotation removes such leftovers, and compresses what an earlier one did not get to.
//!
//! Files with other names are left alone. Numbers beyond the number to keep are removed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::config::Rotate;

/// How long to wait after a rotation that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// When to rotate one log, and what is under way.
pub(super) struct Rotation {
    settings: Rotate,
    /// After a failure.
    not_before: Option<Instant>,
    compressing: Option<JoinHandle<io::Result<()>>>,
}

/// What there is of one number.
#[derive(Debug, Default, Clone, Copy)]
struct Rotated {
    plain: bool,
    compressed: bool,
}

impl Rotation {
    pub fn new(settings: Rotate) -> Self {
        Self {
            settings,
            not_before: None,
            compressing: None,
        }
    }

    /// Whether the file is to be rotated before that many bytes are added to it.
    pub fn is_due(&self, size: u64, adding: usize, now: Instant) -> bool {
        let compressing = self.compressing.as_ref();
        size > 0
            && size.saturating_add(adding as u64) > self.settings.size
            && self.not_before.is_none_or(|not_before| now >= not_before)
            && compressing.is_none_or(JoinHandle::is_finished)
    }

    /// The error of the compression that has ended, once.
    pub fn failure(&mut self) -> Option<io::Error> {
        let ended = self.compressing.take_if(|thread| thread.is_finished())?;
        match ended.join() {
            Ok(done) => done.err(),
            Err(_) => Some(io::Error::other("the thread that compresses panicked")),
        }
    }

    /// Not again for a while.
    pub fn put_off(&mut self, now: Instant) {
        self.not_before = Some(now + AGAIN_AFTER);
    }

    /// Renames the log to its first number, the others out of its way. Where none is kept, removes it.
    pub fn rotate(&self, log: &Path) -> io::Result<()> {
        let keep = self.settings.keep;
        let mut all = tidied(log)?;
        for (number, rotated) in all.split_off(&keep.saturating_add(1)) {
            remove(log, number, rotated)?;
        }
        let free = (1..=keep).find(|number| !all.contains_key(number));
        if free.is_none()
            && let Some(last) = all.remove(&keep)
        {
            remove(log, keep, last)?;
        }
        for number in (1..free.unwrap_or(keep)).rev() {
            let rotated = all.get(&number).copied().unwrap_or_default();
            let (plain, compressed) = (plain(log, number), compressed(log, number));
            if rotated.plain {
                fs::rename(plain, self::plain(log, number + 1))?;
            } else {
                fs::rename(compressed, self::compressed(log, number + 1))?;
            }
        }
        match keep {
            0 => fs::remove_file(log),
            _ => fs::rename(log, plain(log, 1)),
        }
    }

    /// Starts to compress what is not, if it is to be.
    pub fn compress(&mut self, log: &Path) {
        if self.settings.compress {
            let log = log.to_owned();
            let thread = thread::Builder::new().name("log-compress".into());
            // Without a thread it is left to the next rotation.
            self.compressing = thread.spawn(move || compress_all(&log)).ok();
        }
    }

    /// Waits for the compression under way.
    #[cfg(test)]
    pub fn finish(&mut self) {
        if let Some(thread) = self.compressing.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(log);
    name.push(suffix);
    name.into()
}

fn plain(log: &Path, number: u32) -> PathBuf {
    with_suffix(log, &format!(".{number}"))
}

fn compressed(log: &Path, number: u32) -> PathBuf {
    with_suffix(log, &format!(".{number}.gz"))
}

/// What the rotated files of a log are, after removal of what a kill has left.
fn tidied(log: &Path) -> io::Result<BTreeMap<u32, Rotated>> {
    let mut all: BTreeMap<u32, Rotated> = BTreeMap::new();
    for entry in fs::read_dir(log.parent().unwrap_or(Path::new("/")))? {
        let entry = entry?;
        match suffix(log, &entry.file_name()) {
            Some((_, ".gz.tmp")) => fs::remove_file(entry.path())?,
            Some((number, ".gz")) => all.entry(number).or_default().compressed = true,
            Some((number, "")) => all.entry(number).or_default().plain = true,
            _ => {}
        }
    }
    for (number, rotated) in &mut all {
        if rotated.plain && rotated.compressed {
            fs::remove_file(plain(log, *number))?;
            rotated.plain = false;
        }
    }
    Ok(all)
}

/// The number of a rotated file and what its name has behind it; `None` for any other name.
fn suffix<'n>(log: &Path, name: &'n OsStr) -> Option<(u32, &'n str)> {
    let rest = name.as_bytes().strip_prefix(log.file_name()?.as_bytes())?;
    let rest = std::str::from_utf8(rest).ok()?.strip_prefix('.')?;
    let end = rest.find('.').unwrap_or(rest.len());
    let (digits, behind) = rest.split_at(end);
    let number: u32 = digits.parse().ok()?;
    // Not "01" or "+1", which are not ours.
    (number > 0 && number.to_string() == digits).then_some((number, behind))
}

fn remove(log: &Path, number: u32, rotated: Rotated) -> io::Result<()> {
    if rotated.plain {
        fs::remove_file(plain(log, number))?;
    }
    if rotated.compressed {
        fs::remove_file(compressed(log, number))?;
    }
    Ok(())
}

fn compress_all(log: &Path) -> io::Result<()> {
    for (number, rotated) in tidied(log)? {
        if rotated.plain {
            compress_one(log, number)?;
        }
    }
    Ok(())
}

fn compress_one(log: &Path, number: u32) -> io::Result<()> {
    let (from, to) = (plain(log, number), compressed(log, number));
    let aside = with_suffix(log, &format!(".{number}.gz.tmp"));
    let written = write_compressed(&from, &aside).and_then(|()| fs::rename(&aside, &to));
    if let Err(error) = written {
        // It may not be there.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    File::open(log.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    fs::remove_file(&from)
}

/// Synced, with mode and time of the original.
fn write_compressed(from: &Path, to: &Path) -> io::Result<()> {
    let mut original = File::open(from)?;
    let metadata = original.metadata()?;
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(to)?;
    let mut encoder = GzEncoder::new(BufWriter::new(file), Compression::default());
    io::copy(&mut original, &mut encoder)?;
    let file = encoder
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.set_permissions(metadata.permissions())?;
    file.set_modified(metadata.modified()?)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
