//! Whose spool a directory holds: the file `identity`.
//!
//! Invariant: it is written aside, put on the device and renamed, before the first segment exists.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, checksum};

/// What a spool's content belongs to. Of another master, or another number of shards, nothing can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The master's replication id.
    pub master: String,
    /// Its number of flows.
    pub flows: u32,
    /// The master that goes on with the same positions in the place of that one, if there is one.
    pub successor: Option<String>,
}

/// The first line: format and version.
const FORMAT: &str = "df2redis spool 1";
const NAME: &str = "identity";
/// The extension of damaged files that were put aside.
pub(super) const ASIDE: &str = "corrupt";
/// No identity is longer.
const LONGEST: u64 = 4096;

impl Identity {
    /// Of this master, and nobody went on in its place.
    pub fn of(master: impl Into<String>, flows: u32) -> Self {
        Self {
            master: master.into(),
            flows,
            successor: None,
        }
    }

    /// Whether positions of `master`, with this number of flows, mean what they mean here.
    pub fn is_of(&self, master: &str, flows: u32) -> bool {
        let named = self.master == master || self.successor.as_deref() == Some(master);
        named && self.flows == flows
    }

    /// Stands in every segment, so that a file that strayed in is found out.
    pub(super) fn sum(&self) -> u64 {
        let text = format!("{}\n{}", self.master, self.flows);
        checksum(CrcAlgorithm::Crc64Nvme, text.as_bytes())
    }
}

/// The identity in `dir`, and whether the machine has not been started anew since it was written: then the kernel has
/// every byte that was ever written. `Ok(None)` if there is none; an error if there is one that means nothing.
pub(super) fn read(dir: &Path) -> io::Result<Option<(Identity, bool)>> {
    let mut text = String::new();
    match File::open(dir.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?.take(LONGEST).read_to_string(&mut text)?,
    };
    let mut lines = text.lines();
    let known = lines.next() == Some(FORMAT);
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let read = (|| {
        let master = field("master")?.to_owned();
        let flows = field("flows")?.parse().ok()?;
        let boot = field("boot")?;
        let identity = Identity {
            master,
            flows,
            successor: field("successor").map(str::to_owned),
        };
        Some((identity, !boot.is_empty() && boot == self::boot()))
    })();
    match read.filter(|_| known) {
        Some(read) => Ok(Some(read)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not the identity of a spool, or of another release of df2redis",
        )),
    }
}

/// Writes the identity, for this start of the machine.
pub(super) fn write(dir: &Path, identity: &Identity) -> io::Result<()> {
    let (aside, path) = (dir.join("identity.new"), dir.join(NAME));
    let mut file = File::create(&aside)?;
    write!(
        file,
        "{FORMAT}\nmaster {}\nflows {}\nboot {}\n",
        identity.master,
        identity.flows,
        boot()
    )?;
    if let Some(successor) = &identity.successor {
        writeln!(file, "successor {successor}")?;
    }
    file.sync_all()?;
    fs::rename(&aside, &path)?;
    File::open(dir)?.sync_all()
}

/// What a spool writes, besides its identity.
const WRITTEN: [&str; 3] = ["journal", "overflow", "new"];

/// Removes everything but files kept aside.
pub(super) fn clear(dir: &Path) -> io::Result<()> {
    remove_files(dir, &WRITTEN).map(|_bytes| ())
}

/// Removes everything that a spool ever wrote to `dir`, and `dir` itself if that was all. Bytes that were removed.
pub(super) fn remove(dir: &Path) -> io::Result<u64> {
    let bytes = remove_files(dir, &[&WRITTEN[..], &[ASIDE]].concat())?;
    use io::ErrorKind::{DirectoryNotEmpty, NotFound};
    match fs::remove_dir(dir) {
        Err(error) if ![NotFound, DirectoryNotEmpty].contains(&error.kind()) => Err(error),
        _ => Ok(bytes),
    }
}

/// Removes the identity and what has one of these extensions. Bytes that were removed.
fn remove_files(dir: &Path, extensions: &[&str]) -> io::Result<u64> {
    let mut bytes = 0;
    for path in files(dir)? {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let ours = extension.is_some_and(|extension| extensions.contains(&extension));
        if ours || path.file_name().is_some_and(|name| name == NAME) {
            bytes += path.metadata()?.len();
            fs::remove_file(path)?;
        }
    }
    Ok(bytes)
}

/// The files in `dir`; none if there is no such directory.
pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Names this start of the machine; empty where nothing does.
fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
