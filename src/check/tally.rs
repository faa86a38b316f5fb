//! What has been found: counts for the table, one line for each key in the report, and the differences for whoever
//! wants to do something about them.
//!
//! Lines of the report are JSON objects; `event` is `different`, `expected` (a loss that was chosen or cannot be
//! helped), `unsettled`, and at the end once `summary`; then, if differences were repaired, `repaired` or again one of the
//! others for each of them, and `repair` at the very end. A key that is no text is in `key_base64` instead of `key`.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use tokio::sync::mpsc;

use super::error::CheckError;
use super::reading::{Class, Reading};
use super::settings::Difference;

/// Keys that are named to who reads only the table.
const EXAMPLES: usize = 10;

/// Why nobody can tell whether a key is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Open {
    /// The target did not get to where the source was.
    Behind,
    /// It was written to, each time.
    Changing,
    /// It is about to expire, or has just expired on one side.
    Expiring,
    /// The task has it on its list of keys to read again from the source.
    Withheld,
    /// The task has still to remove keys that the source deleted before its full sync, and this may be one.
    Reconciling,
    /// The task's full sync is not finished.
    FullSync,
    /// It is one document that is too large.
    TooLarge,
    /// The comparison was stopped before.
    Stopped,
}

impl Open {
    /// All, in the order of the table.
    pub const ALL: [Open; 8] = [
        Self::Behind,
        Self::Changing,
        Self::Expiring,
        Self::Withheld,
        Self::Reconciling,
        Self::FullSync,
        Self::TooLarge,
        Self::Stopped,
    ];

    /// In words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Behind => "the target is behind",
            Self::Changing => "it kept changing",
            Self::Expiring => "it is about to expire",
            Self::Withheld => "the task is about to read it again",
            Self::TooLarge => "a document over 16 MiB",
            Self::Reconciling => "not reconciled after a full sync yet",
            Self::FullSync => "a full sync is not finished",
            Self::Stopped => "the comparison was stopped",
        }
    }

    const fn place(self) -> usize {
        self as usize
    }
}

/// A key, and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// On the source.
    pub db: u32,
    /// On the target.
    pub target_db: u32,
    pub key: &'a [u8],
}

/// Numbers of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// With the same on both sides; also those with nothing but expected losses.
    pub equal: u64,
    /// That differ, each once.
    pub different: u64,
    /// That differ so, by [`Class::ALL`]; a key can differ in several ways.
    pub classes: [u64; Class::ALL.len()],
    /// About which nothing can be said, by [`Open::ALL`].
    pub unsettled: [u64; Open::ALL.len()],
    /// Some that differ, in words.
    pub examples: Vec<String>,
}

impl Tally {
    /// About how many keys nothing can be said.
    pub fn open(&self) -> u64 {
        self.unsettled.iter().sum()
    }

    /// How many keys were looked at.
    pub fn keys(&self) -> u64 {
        self.equal + self.different + self.open()
    }

    /// How many keys are in a class.
    pub fn of(&self, class: Class) -> u64 {
        let counts = Class::ALL.iter().zip(self.classes);
        counts.filter(|(of, _)| **of == class).map(|(_, n)| n).sum()
    }

    fn count(&mut self, classes: &[Class]) {
        for class in classes {
            for (of, count) in Class::ALL.iter().zip(&mut self.classes) {
                *count += u64::from(of == class);
            }
        }
    }
}

/// The counts, the file, and who else is told.
#[derive(Debug)]
pub(super) struct Ledger {
    pub tally: Tally,
    file: Option<(PathBuf, BufWriter<File>)>,
    differences: Option<mpsc::Sender<Difference>>,
    /// All of these keys have differed before.
    pub repaired: bool,
}

impl Ledger {
    pub fn open(
        report: Option<&Path>,
        differences: Option<mpsc::Sender<Difference>>,
    ) -> Result<Self, CheckError> {
        let mut anew = File::options();
        anew.write(true).create(true).truncate(true);
        Self::on(report, &anew, differences, false)
    }

    /// For keys that were to be repaired: it goes on with a report that is there.
    pub fn of_repaired(report: Option<&Path>) -> Result<Self, CheckError> {
        Self::on(report, File::options().append(true), None, true)
    }

    fn on(
        report: Option<&Path>,
        how: &OpenOptions,
        differences: Option<mpsc::Sender<Difference>>,
        repaired: bool,
    ) -> Result<Self, CheckError> {
        let file = report.map(|path| match how.open(path) {
            Ok(file) => Ok((path.to_owned(), BufWriter::new(file))),
            Err(cause) => Err(CheckError::ReportCreate {
                path: path.to_owned(),
                cause,
            }),
        });
        Ok(Self {
            tally: Tally::default(),
            file: file.transpose()?,
            differences,
            repaired,
        })
    }

    /// Both sides are the same, but perhaps for what is expected.
    pub fn equal(
        &mut self,
        place: Place<'_>,
        expected: &[Class],
        sides: (Option<&Reading>, Option<&Reading>),
    ) -> Result<(), CheckError> {
        self.tally.equal += 1;
        if self.repaired {
            self.write("repaired", place, expected, sides, None)?;
        }
        if expected.is_empty() {
            return Ok(());
        }
        self.tally.count(expected);
        self.write("expected", place, expected, sides, None)
    }

    /// They differ. Waits until whoever is to be told has room.
    pub async fn different(
        &mut self,
        place: Place<'_>,
        classes: &[Class],
        sides: (Option<&Reading>, Option<&Reading>),
    ) -> Result<(), CheckError> {
        self.tally.different += 1;
        self.tally.count(classes);
        if self.tally.examples.len() < EXAMPLES {
            let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
            let key = place.key.get(..100).unwrap_or(place.key);
            let example = format!(
                "db {} \"{}\": {}",
                place.db,
                key.escape_ascii(),
                names.join(", ")
            );
            self.tally.examples.push(example);
        }
        if let Some(differences) = &self.differences {
            // Whoever does not listen any more does not want to know.
            let _ = differences
                .send(Difference {
                    db: place.db,
                    target_db: place.target_db,
                    key: place.key.to_vec(),
                    classes: classes.to_vec(),
                })
                .await;
        }
        self.write("different", place, classes, sides, None)
    }

    /// Nobody can tell.
    pub fn unsettled(
        &mut self,
        place: Place<'_>,
        open: Open,
        classes: &[Class],
        sides: (Option<&Reading>, Option<&Reading>),
    ) -> Result<(), CheckError> {
        if let Some(count) = self.tally.unsettled.get_mut(open.place()) {
            *count += 1;
        }
        self.write("unsettled", place, classes, sides, Some(open))
    }

    fn write(
        &mut self,
        event: &str,
        place: Place<'_>,
        classes: &[Class],
        (source, target): (Option<&Reading>, Option<&Reading>),
        open: Option<Open>,
    ) -> Result<(), CheckError> {
        if self.file.is_none() {
            return Ok(());
        }
        let (name, key) = match std::str::from_utf8(place.key) {
            Ok(text) => ("key", text.to_owned()),
            Err(_) => ("key_base64", STANDARD.encode(place.key)),
        };
        let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
        let mut line = json!({
            "event": event,
            "db": place.db,
            "target_db": place.target_db,
            name: key,
            "class": names.first(),
            "classes": names,
            "source": source.map(Reading::json),
            "target": target.map(Reading::json),
        });
        if let (Some(object), Some(open)) = (line.as_object_mut(), open) {
            object.insert("reason".to_owned(), json!(open.reason()));
        }
        self.put(&line)
    }

    fn put(&mut self, line: &Json) -> Result<(), CheckError> {
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        writeln!(file, "{line}").map_err(|cause| CheckError::ReportWrite {
            path: path.clone(),
            cause,
        })
    }

    /// Writes the summary, and all that was not written yet.
    pub fn finish(mut self, complete: bool, took: Duration) -> Result<Tally, CheckError> {
        let classes = Class::ALL.iter().zip(self.tally.classes);
        let classes = classes.map(|(class, count)| (class.name().to_owned(), json!(count)));
        let line = json!({
            "event": if self.repaired { "repair" } else { "summary" },
            "complete": complete,
            "seconds": took.as_secs_f64(),
            "keys": self.tally.keys(),
            "equal": self.tally.equal,
            "different": self.tally.different,
            "unsettled": self.tally.open(),
            "classes": classes.collect::<serde_json::Map<_, _>>(),
        });
        self.put(&line)?;
        if let Some((path, mut file)) = self.file {
            file.flush()
                .map_err(|cause| CheckError::ReportWrite { path, cause })?;
        }
        Ok(self.tally)
    }
}
