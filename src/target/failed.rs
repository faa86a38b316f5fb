//! Journal entries the target refused: recorded on the target, until an operator has settled them.
//!
//! An error inside `EXEC` undoes nothing, and the position has moved past the entry. Before anything else is
//! written, the entry is put into the hash `df2redis:failed:<task>`: field `<flow>:<lsn>:<n>`, the `n`th command of
//! that entry that was refused; value one JSON object, which is also a line of the dead-letter file:
//!
//! ```text
//!  time     when, RFC 3339                    words    the command, in base64: whole words, up to a limit
//!  flow     number, or null                   cut      true if there are more words; then it cannot be repeated
//!  lsn      number, or null                   error    the target's words
//!  db       database of the target            unknown  true if it was repeated and the answer got lost
//!  key      the first word after the name
//! ```
//!
//! Invariant: a recorded command takes effect at most once more, and its record goes only when it was answered for
//!   or an operator gave it up.

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis::{Value, cmd};
use serde::{Deserialize, Serialize};

use super::control::Control;
use super::error::TargetError;
use super::fence::Fence;
use super::node::text_of;
use super::outgoing::Outgoing;
use super::position::Names;
use super::settings::Settings;

/// Bytes of a command's words that are recorded; of one with more only the first words.
const LIMIT: u64 = 1 << 20;
/// Records kept on the target; with `on_error = "skip"` what comes after them is in the dead-letter file only.
pub(super) const MOST: u64 = 10_000;

/// A journal entry, or a command of it, that the target refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its field in the hash: flow, LSN, and a number.
    pub id: String,
    /// When it was refused, RFC 3339.
    pub time: String,
    /// Its flow.
    pub flow: u32,
    /// Its LSN.
    pub lsn: u64,
    /// The database of the target it is for.
    pub db: u32,
    /// The command's words, its name first.
    pub words: Vec<Vec<u8>>,
    /// There are more words than were recorded: it cannot be repeated.
    pub cut: bool,
    /// The target's words.
    pub answer: String,
    /// It was repeated, and the answer got lost: it may have taken effect.
    pub unknown: bool,
}

/// Numbers the commands of one entry that are refused, in order: there is a record of each.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The entry that was refused last, and the number of its last command.
    last: Option<(u64, u32)>,
}

impl Numbers {
    /// How many commands of this entry were refused before; counts this one.
    pub fn next(&mut self, lsn: u64) -> u32 {
        let nth = match self.last {
            Some((last, nth)) if last == lsn => nth + 1,
            _ => 0,
        };
        self.last = Some((lsn, nth));
        nth
    }
}

/// How a repetition ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// It took effect, and the record is gone.
    Applied,
    /// It was refused again, in these words; the record stays.
    Refused(String),
    /// It was not recorded as a whole, so it cannot be repeated.
    CutShort,
    /// An earlier repetition may have taken effect: an operator has to look at the key, and then skip the entry.
    Unknown,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, answer) = (self.command(), &self.answer);
        let Self { flow, lsn, .. } = self;
        write!(f, "{command} (flow {flow}, journal entry {lsn}): {answer}")
    }
}

/// The JSON object.
#[derive(Serialize, Deserialize)]
struct Line {
    time: String,
    flow: Option<u32>,
    lsn: Option<u64>,
    db: u32,
    #[serde(skip_deserializing)]
    key: Option<String>,
    words: Vec<String>,
    cut: bool,
    error: String,
    #[serde(default)]
    unknown: bool,
}

impl Failed {
    /// The `n`th command, the `nth_of_entry`th refused one of its entry.
    pub(super) fn of(
        out: &Outgoing,
        n: usize,
        (flow, lsn, nth_of_entry): (u32, u64, u32),
        db: u32,
        answer: &[u8],
    ) -> Self {
        let (mut words, mut left) = (Vec::new(), LIMIT);
        for word in out.words(n) {
            let mut bytes = Vec::new();
            // A word that cannot be read back is missing, like one that is too long.
            if word.len() > left || word.copy_to(&mut bytes).is_err() {
                break;
            }
            left -= word.len();
            words.push(bytes);
        }
        Self {
            id: format!("{flow}:{lsn}:{nth_of_entry}"),
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            flow,
            lsn,
            db,
            cut: words.len() < out.word_count(n),
            words,
            answer: String::from_utf8_lossy(answer).into_owned(),
            unknown: false,
        }
    }

    /// The value of its field.
    pub(super) fn json(&self) -> String {
        let line = Line {
            time: self.time.clone(),
            flow: Some(self.flow),
            lsn: Some(self.lsn),
            db: self.db,
            key: self.words.get(1).map(|key| STANDARD.encode(key)),
            words: self
                .words
                .iter()
                .map(|word| STANDARD.encode(word))
                .collect(),
            cut: self.cut,
            error: self.answer.clone(),
            unknown: self.unknown,
        };
        // Strings and numbers alone: this cannot fail.
        serde_json::to_string(&line).unwrap_or_default()
    }

    /// Reads a field and its value; else says what is wrong with it.
    pub(super) fn read(id: &[u8], json: &[u8]) -> Result<Self, String> {
        let id = String::from_utf8_lossy(id).into_owned();
        let damaged = |what: &dyn fmt::Display| format!("field \"{}\": {what}", id.escape_debug());
        let line: Line = serde_json::from_slice(json).map_err(|error| damaged(&error))?;
        let (Some(flow), Some(lsn)) = (line.flow, line.lsn) else {
            return Err(damaged(&"it has no flow or no lsn"));
        };
        let words: Result<Vec<_>, _> = line
            .words
            .iter()
            .map(|word| STANDARD.decode(word))
            .collect();
        let words = words.map_err(|error| damaged(&error))?;
        if words.is_empty() && !line.cut {
            return Err(damaged(&"it has no words"));
        }
        Ok(Self {
            time: line.time,
            flow,
            lsn,
            db: line.db,
            words,
            cut: line.cut,
            answer: line.error,
            unknown: line.unknown,
            id,
        })
    }

    /// Reads a whole hash, in the order of flows and LSNs.
    pub(super) fn read_all(fields: HashMap<Vec<u8>, Vec<u8>>) -> Result<Vec<Self>, String> {
        let read = fields.iter().map(|(id, json)| Self::read(id, json));
        let mut all = read.collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|one, other| {
            let place = |failed: &Self| (failed.flow, failed.lsn, failed.id.len());
            // Of ids that begin alike the longer one has the higher number.
            (place(one), &one.id).cmp(&(place(other), &other.id))
        });
        Ok(all)
    }

    /// Reads what is recorded, in the order of flows and LSNs, and leaves the fence alone: whoever holds it may
    /// change the records at any time.
    pub async fn recorded(
        control: &mut Control,
        settings: &Settings,
    ) -> Result<Vec<Self>, TargetError> {
        let names = Names::for_target(settings);
        control.select(settings.position_db).await?;
        let read = cmd("HGETALL").arg(&names.failed).take();
        let fields = control.ask("reading the failed entries", &read).await?;
        Self::read_all(fields).map_err(|what| TargetError::Record {
            addr: control.addr().to_owned(),
            key: names.failed,
            what,
        })
    }

    /// The command in short: its name, its key and the database.
    pub fn command(&self) -> String {
        let word = |n: usize| self.words.get(n).map(Vec::as_slice).unwrap_or_default();
        let (name, key) = (word(0).escape_ascii(), word(1).escape_ascii());
        format!("{name} of key \"{key}\" in database {}", self.db)
    }

    /// The command that records it.
    fn record(&self, fence: &Fence) -> redis::Cmd {
        let mut record = cmd("HSET");
        record.arg(&fence.names().failed);
        record.arg(&self.id).arg(self.json());
        record
    }

    /// Runs the command again, exactly once, behind the fence; if it is accepted, the record goes.
    ///
    /// While the answer is not known the record says so: a process that dies meanwhile leaves it with
    /// [`unknown`](Self::unknown) set, if the command may have taken effect.
    pub async fn retry(
        &self,
        fence: &Fence,
        control: &mut Control,
    ) -> Result<Retried, TargetError> {
        const DOING: &str = "repeating a failed entry";
        if self.cut {
            return Ok(Retried::CutShort);
        }
        if self.unknown {
            return Ok(Retried::Unknown);
        }
        let mut again = redis::Cmd::new();
        self.words.iter().for_each(|word| {
            again.arg(word);
        });
        let pending = Self {
            unknown: true,
            ..self.clone()
        };
        let pending = [pending.record(fence)];
        let answers = match fence.topology() {
            None => {
                fence
                    .commit(control, DOING, self.db, &[again], &pending)
                    .await
            }
            // The record may be in another slot than the key, so it says first that the answer is not known.
            Some(_) => {
                let answers = fence.commit(control, DOING, 0, &[], &pending).await?;
                control.first_error(DOING, &pending, &answers)?;
                match fence.each(control, DOING, &[again]).await {
                    // Some are answers, and some errors: both say that it has not taken effect.
                    Err(
                        TargetError::Answer { answer, .. }
                        | TargetError::Unready { answer, .. }
                        | TargetError::Permission { answer, .. },
                    ) => return self.refuse_again(fence, control, answer).await,
                    answers => answers,
                }
            }
        };
        let answer = match answers {
            Ok(answers) => match answers.into_iter().next() {
                Some(Value::ServerError(error)) => text_of(&error.into()),
                _ => {
                    self.skip(fence, control).await?;
                    return Ok(Retried::Applied);
                }
            },
            // Nothing of the transaction was executed, the record is as it was.
            Err(TargetError::Answer { answer, .. }) => return Ok(Retried::Refused(answer)),
            Err(error) => return Err(error),
        };
        self.refuse_again(fence, control, answer).await
    }

    /// Records that it was refused again, and with which words.
    async fn refuse_again(
        &self,
        fence: &Fence,
        control: &mut Control,
        answer: String,
    ) -> Result<Retried, TargetError> {
        const DOING: &str = "recording a failed entry";
        let refused = Self {
            answer: answer.clone(),
            ..self.clone()
        };
        let record = [refused.record(fence)];
        let answers = fence.commit(control, DOING, 0, &[], &record).await?;
        control.first_error(DOING, &record, &answers)?;
        Ok(Retried::Refused(answer))
    }

    /// Gives the entry up: removes its record, behind the fence.
    pub async fn skip(&self, fence: &Fence, control: &mut Control) -> Result<(), TargetError> {
        const DOING: &str = "removing the record of a failed entry";
        let forget = [cmd("HDEL").arg(&fence.names().failed).arg(&self.id).take()];
        let answers = fence.commit(control, DOING, 0, &[], &forget).await?;
        control.first_error(DOING, &forget, &answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::SpillWriter;
    use proptest::prelude::*;

    #[test]
    fn whole_words_are_recorded_up_to_the_limit_and_the_rest_is_said_to_be_missing() {
        let mut large = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
        large.write(&vec![b'v'; LIMIT as usize]).unwrap();
        let large = large.finish();
        let mut out = Outgoing::new();
        out.command(3, Some(9));
        out.word(b"SET");
        out.word(b"k");
        out.word_in_file(&large);
        out.command(2, Some(10));
        out.word(b"INCR");
        out.word(b"k");
        let cut = Failed::of(&out, 0, (2, 9, 0), 5, b"OOM");
        assert_eq!(cut.words, [&b"SET"[..], b"k"]);
        assert!(cut.cut);
        let whole = Failed::of(&out, 1, (2, 10, 0), 5, b"WRONGTYPE \xff");
        assert_eq!((whole.id.as_str(), whole.cut), ("2:10:0", false));
        assert_eq!(
            whole.to_string(),
            "INCR of key \"k\" in database 5 (flow 2, journal entry 10): WRONGTYPE \u{fffd}"
        );
        assert_eq!(Failed::read(b"2:10:0", whole.json().as_bytes()), Ok(whole));
    }

    #[test]
    fn failed_entries_are_listed_in_the_order_of_flows_and_lsns() {
        let mut out = Outgoing::new();
        out.command(1, Some(0));
        out.word(b"X");
        let places = [
            (1, 5, 0),
            (0, 100, 0),
            (0, 99, 10),
            (0, 99, 2),
            (0, 99, 0),
            (1, 10, 0),
        ];
        let fields = places.map(|place| {
            let failed = Failed::of(&out, 0, place, 0, b"ERR");
            (failed.id.clone().into_bytes(), failed.json().into_bytes())
        });
        let read = Failed::read_all(fields.into()).unwrap();
        let ids: Vec<_> = read.iter().map(|failed| failed.id.as_str()).collect();
        assert_eq!(
            ids,
            ["0:99:0", "0:99:2", "0:99:10", "0:100:0", "1:5:0", "1:10:0"]
        );
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6),
            (flow, lsn, db) in any::<(u32, u64, u32)>(),
            answer in ".{0,40}",
            (cut, unknown) in any::<(bool, bool)>(),
        ) {
            let failed = Failed {
                id: format!("{flow}:{lsn}:0"),
                time: "2026-01-01T00:00:00.000Z".to_owned(),
                flow, lsn, db, words, cut, answer, unknown,
            };
            let json = failed.json();
            prop_assert_eq!(Failed::read(failed.id.as_bytes(), json.as_bytes()), Ok(failed));
        }

        #[test]
        fn any_bytes_are_read_without_harm(id in prop::collection::vec(any::<u8>(), 0..20), json in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(failed) = Failed::read(&id, &json) {
                prop_assert!(!failed.words.is_empty() || failed.cut);
            }
        }
    }
}
