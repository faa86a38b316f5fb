//! What can go wrong with a spool.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A spool that cannot be opened, or whose threads have ended.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory, or a file in it, cannot be used.
    #[error("cannot use the spool in {dir}")]
    Io {
        /// The spool's directory.
        dir: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A flow's inlet or outlet is in use, or there is no such flow.
    #[error("flow {flow} of the spool is in use, or there is none")]
    InUse {
        /// Which.
        flow: u32,
    },
    /// What is asked for is not in the spool.
    #[error("flow {flow} of the spool does not hold the entry {lsn}: {}", held(.there))]
    NotThere {
        /// Which flow.
        flow: u32,
        /// The first entry asked for.
        lsn: u64,
        /// What is there.
        there: Vec<Range<u64>>,
    },
}

fn held(there: &[Range<u64>]) -> String {
    let runs = there
        .iter()
        .map(|run| format!("{} to {}", run.start, run.end));
    match there {
        [] => "it is empty".to_owned(),
        _ => format!("it holds {}", runs.collect::<Vec<_>>().join(", ")),
    }
}

/// A batch that was not taken. It is still in the inlet.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PushError {
    /// There is no room.
    #[error("the spool is full: {0}")]
    Full(Full),
    /// The batch's first entry is not the next one.
    #[error("flow {flow} goes on with the entry {found}, the spool with {expected}")]
    Gap {
        /// Which flow.
        flow: u32,
        /// What the spool goes on with.
        expected: u64,
        /// What the batch begins with.
        found: u64,
    },
    /// The flow holds entries of an earlier run: it has to be told which are needed, or to forget them.
    #[error("flow {flow} of the spool was neither positioned nor emptied")]
    Unplaced {
        /// Which flow.
        flow: u32,
    },
    /// The batch is none that a source yields.
    #[error("a batch that cannot be spooled: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The spool has ended, or can no longer be written.
    #[error("the spool cannot be written")]
    Failed(#[source] Arc<io::Error>),
}

/// Why there is no room, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// What the batch needs.
    pub needed: u64,
    /// What the spool has, waiting batches included.
    pub used: u64,
    /// What it may have.
    pub max_size: u64,
    /// What is left of the file system when the waiting batches are written.
    pub free: u64,
    /// What has to be left of it.
    pub min_free: u64,
    /// The system itself refused to write: file system or quota are full.
    pub refused: bool,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            needed,
            used,
            max_size,
            free,
            min_free,
            refused,
        } = self;
        write!(
            f,
            "{needed} bytes needed, {used} of max_size = {max_size} used, {free} free on the file system, min_free = {min_free}"
        )?;
        match refused {
            true => f.write_str("; the system refuses to write more"),
            false => Ok(()),
        }
    }
}

/// A batch that could not be read back.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The file is damaged. It was renamed, and nothing behind can be read.
    #[error("flow {flow} of the spool is damaged at byte {at} of {}: {what}", .file.display())]
    Damaged {
        /// Which flow.
        flow: u32,
        /// Where the file is now.
        file: PathBuf,
        /// Offset of the first byte that is no whole record.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read {} of the spool", .file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        cause: Arc<io::Error>,
    },
    /// The spool has ended before everything was written that was to be read.
    #[error("the spool has ended")]
    Failed(#[source] Arc<io::Error>),
}
