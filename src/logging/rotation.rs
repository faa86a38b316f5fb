//! Rotation by size: `orders.log` becomes `orders.log.1`, that `orders.log.2`, and so on; the oldest goes.
//!
//! Renaming is done by the log's own thread, between two lines, so that none is lost. Compressing is done by another
//! thread, which writes aside and renames at the end; what a process that was killed left half done is taken away by
//! the next rotation.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::config;

/// What a compressed file's name ends with, and one that is being written.
const COMPRESSED: &str = ".gz";
const ASIDE: &str = ".gz.tmp";

/// When and how a log is rotated.
#[derive(Debug)]
pub(super) struct Rotation {
    settings: config::Rotate,
    compressing: Option<JoinHandle<()>>,
}

impl Rotation {
    pub(super) fn new(settings: config::Rotate) -> Self {
        Self {
            settings,
            compressing: None,
        }
    }

    /// The size that a file may have, bytes.
    pub(super) fn size(&self) -> u64 {
        self.settings.size
    }

    /// Gives `path` the name `path.1`, after those that have such names. The oldest are removed.
    pub(super) fn rotate(&mut self, path: &Path) -> io::Result<()> {
        if let Some(compressing) = self.compressing.take_if(|it| !it.is_finished()) {
            // It works on the file that is about to be renamed.
            let _ = compressing.join();
        }
        let keep = self.settings.keep;
        if keep == 0 {
            return fs::remove_file(path);
        }
        for n in (1..=keep).rev() {
            remove(&numbered(path, n, ASIDE))?;
            let (plain, compressed) = (numbered(path, n, ""), numbered(path, n, COMPRESSED));
            // Both: it was compressed whole, and its removal did not come about.
            if compressed.exists() {
                remove(&plain)?;
            }
            for (name, kind) in [(plain, ""), (compressed, COMPRESSED)] {
                match n == keep {
                    true => remove(&name)?,
                    false => rename(&name, &numbered(path, n + 1, kind))?,
                }
            }
        }
        let first = numbered(path, 1, "");
        fs::rename(path, &first)?;
        if self.settings.compress {
            let compress = move || {
                // It stays as it is then, which is only larger.
                let _ = compress(&first);
            };
            let thread = thread::Builder::new().name("log-compress".into());
            self.compressing = thread.spawn(compress).ok();
        }
        Ok(())
    }
}

impl Drop for Rotation {
    fn drop(&mut self) {
        if let Some(compressing) = self.compressing.take() {
            // What it has not written would be done again at the next rotation.
            let _ = compressing.join();
        }
    }
}

fn numbered(path: &Path, n: u32, kind: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}{kind}"));
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    none_is_fine(fs::remove_file(path))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    none_is_fine(fs::rename(from, to))
}

fn none_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Replaces a file by `<name>.gz`, with the same permissions.
fn compress(path: &Path) -> io::Result<()> {
    let with = |kind: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(kind);
        PathBuf::from(name)
    };
    let aside = with(ASIDE);
    let mut plain = File::open(path)?;
    let mut options = OpenOptions::new();
    let made = options
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(&aside)?;
    let written = (|| {
        let mut packed = GzEncoder::new(made, Compression::default());
        io::copy(&mut plain, &mut packed)?;
        packed.finish()?.sync_all()
    })();
    if let Err(error) = written {
        remove(&aside)?;
        return Err(error);
    }
    fs::rename(&aside, with(COMPRESSED))?;
    remove(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    fn rotation(keep: u32, compress: bool) -> Rotation {
        Rotation::new(config::Rotate {
            size: 10,
            keep,
            compress,
        })
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let name =
            |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn the_youngest_has_the_lowest_number_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut rotation = rotation(2, false);
        for text in ["one", "two", "three"] {
            fs::write(&path, text).unwrap();
            rotation.rotate(&path).unwrap();
        }
        assert_eq!(names(dir.path()), ["a.log.1", "a.log.2"]);
        let read = |n| fs::read_to_string(numbered(&path, n, "")).unwrap();
        assert_eq!((read(1), read(2)), ("three".into(), "two".into()));
    }

    #[test]
    fn without_any_to_keep_the_file_goes_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(&path, "one").unwrap();
        rotation(0, false).rotate(&path).unwrap();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn compressed_files_move_up_like_others_and_hold_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut rotation = rotation(3, true);
        for text in ["one", "two"] {
            fs::write(&path, text).unwrap();
            rotation.rotate(&path).unwrap();
        }
        drop(rotation);
        assert_eq!(names(dir.path()), ["a.log.1.gz", "a.log.2.gz"]);
        let mut text = String::new();
        let oldest = File::open(numbered(&path, 2, COMPRESSED)).unwrap();
        GzDecoder::new(oldest).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
    }

    #[test]
    fn what_a_killed_process_left_half_compressed_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        for (n, kind) in [(1, ""), (1, ASIDE), (2, ""), (2, COMPRESSED)] {
            fs::write(numbered(&path, n, kind), "x").unwrap();
        }
        fs::write(&path, "new").unwrap();
        rotation(4, false).rotate(&path).unwrap();
        assert_eq!(names(dir.path()), ["a.log.1", "a.log.2", "a.log.3.gz"]);
    }
}
