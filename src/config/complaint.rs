//! What is wrong with task files, said in a form an editor can jump to.

use std::fmt;
use std::path::PathBuf;

/// A place in a file: both numbers count from 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Character within the line.
    pub column: usize,
}

/// One thing that is wrong, or worth a warning, at one place of one file.
///
/// Its text is one line: `orders.toml:14:10: limits.memory: "64 M" is not a size, expected ...`.
/// It never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// The file as the user named it, or the option that is wrong.
    pub file: PathBuf,
    /// Where in the file; `None` when it is about the file as a whole.
    pub place: Option<Place>,
    /// The key with its table, such as `source.address`; `None` when no key is meant.
    pub key: Option<String>,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(place) = self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        if let Some(key) = &self.key {
            write!(f, " {key}:")?;
        }
        write!(f, " {}", self.what)
    }
}

/// All that is wrong with the task files of one start: at least one complaint, in order of file and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Complaint>);

impl ConfigErrors {
    /// Sorts; `None` if there is nothing to complain about.
    pub(super) fn of(mut complaints: Vec<Complaint>) -> Option<Self> {
        complaints.sort();
        complaints.dedup();
        (!complaints.is_empty()).then_some(Self(complaints))
    }

    /// The complaints, sorted.
    pub fn complaints(&self) -> &[Complaint] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, complaint) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{complaint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
