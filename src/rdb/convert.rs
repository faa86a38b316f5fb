//! Streams for older targets: the same bytes without the fields those do not know.
//!
//! Invariants: entries and pending entries are copied as they are; what a step copies or drops is
//! whole, so a halted call has appended nothing of it; what is not kept by the older type is only
//! what that type has no place for.
//! Facts: type 21 holds over 19 each consumer's active time; 19 over 15 the first and greatest
//! deleted ids, the count of entries ever added, and each group's count of entries read.

use super::string::{self, write_packed};
use super::{Cursor, Halt, kind, narrowed};

/// The types asked for are not two stream types, the later first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value of type {from} cannot be made one of type {to}")]
pub struct NoConversion {
    /// The type that the value is.
    pub from: u8,
    /// The type that was wanted.
    pub to: u8,
}

/// How far one call of [`StreamConverter::convert`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of the window that were used; the caller presents the others again, with more.
    pub consumed: usize,
    /// Whether the value is finished.
    pub done: bool,
    /// Bytes needed at least beyond the window; 0 exactly when `done`.
    pub missing: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nodes,
    Node {
        left: u64,
    },
    Info,
    Group {
        left: u64,
    },
    Pending {
        left: u64,
        groups: u64,
    },
    Consumers {
        groups: u64,
    },
    Consumer {
        left: u64,
        groups: u64,
    },
    Owned {
        left: u64,
        consumers: u64,
        groups: u64,
    },
    Done,
}

/// Makes a stream of an older type from one of a later type, as it comes in pieces.
///
/// The caller announces the new type byte itself. To learn the length beforehand, run it twice.
#[derive(Debug, Clone)]
pub struct StreamConverter {
    from: u8,
    to: u8,
    /// Entries go out with the back-lengths of Valkey 9.1.
    narrow: bool,
    step: Step,
}

impl StreamConverter {
    /// From 21 to 19 or 15, or from 19 to 15 (or from a type to itself).
    pub fn new(from: u8, to: u8) -> Result<Self, NoConversion> {
        let stream = |kind| matches!(kind, kind::STREAM_15 | kind::STREAM_19 | kind::STREAM);
        if !stream(from) || !stream(to) || to > from {
            return Err(NoConversion { from, to });
        }
        let step = Step::Nodes;
        let narrow = false;
        Ok(Self {
            from,
            to,
            narrow,
            step,
        })
    }

    /// The same, with entries as [`narrowed()`] makes them.
    pub fn narrowed(mut self) -> Self {
        self.narrow = true;
        self
    }

    /// Appends what the window holds whole. Needs more when not `done`; `Invalid` is final.
    pub fn convert(&mut self, window: &[u8], out: &mut Vec<u8>) -> Result<Converted, Halt> {
        let mut cursor = Cursor::new(window);
        while self.step != Step::Done {
            let (before, kept) = (cursor.clone(), out.len());
            match self.advance(&mut cursor, out) {
                Ok(step) => self.step = step,
                Err(Halt::Incomplete { missing }) => {
                    out.truncate(kept);
                    let consumed = before.position();
                    return Ok(Converted {
                        consumed,
                        done: false,
                        missing,
                    });
                }
                Err(invalid) => return Err(invalid),
            }
        }
        let consumed = cursor.position();
        Ok(Converted {
            consumed,
            done: true,
            missing: 0,
        })
    }

    /// One step: copies what both types hold, drops the rest; what comes next.
    fn advance(&self, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<Step, Halt> {
        let (from_19, to_19) = (self.from != kind::STREAM_15, self.to != kind::STREAM_15);
        Ok(match self.step {
            Step::Nodes => Step::Node {
                left: copy_packed(cursor, out)?,
            },
            Step::Node { left: 0 } => Step::Info,
            Step::Node { left } => {
                copy_string(cursor, out)?;
                if self.narrow {
                    copy_narrowed(cursor, out)?;
                } else {
                    copy_string(cursor, out)?;
                }
                Step::Node { left: left - 1 }
            }
            Step::Info => {
                for _ in 0..3 {
                    copy_packed(cursor, out)?;
                }
                for _ in 0..if from_19 { 5 } else { 0 } {
                    copy_packed_if(to_19, cursor, out)?;
                }
                Step::Group {
                    left: copy_packed(cursor, out)?,
                }
            }
            Step::Group { left: 0 } | Step::Done => Step::Done,
            Step::Group { left } => {
                copy_string(cursor, out)?;
                copy_packed(cursor, out)?;
                copy_packed(cursor, out)?;
                if from_19 {
                    copy_packed_if(to_19, cursor, out)?;
                }
                Step::Pending {
                    left: copy_packed(cursor, out)?,
                    groups: left - 1,
                }
            }
            Step::Pending { left: 0, groups } => Step::Consumers { groups },
            Step::Pending { left, groups } => {
                out.extend_from_slice(&cursor.array::<24>()?);
                copy_packed(cursor, out)?;
                Step::Pending {
                    left: left - 1,
                    groups,
                }
            }
            Step::Consumers { groups } => Step::Consumer {
                left: copy_packed(cursor, out)?,
                groups,
            },
            Step::Consumer { left: 0, groups } => Step::Group { left: groups },
            Step::Consumer { left, groups } => {
                copy_string(cursor, out)?;
                out.extend_from_slice(&cursor.array::<8>()?);
                if self.from == kind::STREAM {
                    let active = cursor.array::<8>()?;
                    if self.to == kind::STREAM {
                        out.extend_from_slice(&active);
                    }
                }
                Step::Owned {
                    left: copy_packed(cursor, out)?,
                    consumers: left - 1,
                    groups,
                }
            }
            Step::Owned {
                left: 0,
                consumers,
                groups,
            } => Step::Consumer {
                left: consumers,
                groups,
            },
            Step::Owned {
                left,
                consumers,
                groups,
            } => {
                out.extend_from_slice(&cursor.array::<16>()?);
                Step::Owned {
                    left: left - 1,
                    consumers,
                    groups,
                }
            }
        })
    }
}

/// Converts a stream that is in memory whole. Bytes left over are an error.
pub fn stream(mut converter: StreamConverter, value: &[u8]) -> Result<Vec<u8>, Halt> {
    let mut out = Vec::with_capacity(value.len());
    let converted = converter.convert(value, &mut out)?;
    if !converted.done {
        return Err(Halt::Incomplete {
            missing: converted.missing,
        });
    }
    if converted.consumed != value.len() {
        return Err(Halt::Invalid {
            at: converted.consumed,
            what: "bytes left over",
        });
    }
    Ok(out)
}

fn copy_packed(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<u64, Halt> {
    copy_packed_if(true, cursor, out)
}

fn copy_packed_if(keep: bool, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<u64, Halt> {
    let value = cursor.packed()?;
    if keep {
        write_packed(out, value);
    }
    Ok(value)
}

/// Copies a node's entries, rewritten if they have to be.
fn copy_narrowed(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), Halt> {
    let mut behind = cursor.clone();
    let entries = string::read(&mut behind)?;
    match narrowed(&entries)? {
        Some(entries) => {
            *cursor = behind;
            string::write_raw(out, &entries);
            Ok(())
        }
        None => copy_string(cursor, out),
    }
}

/// Copies a string in the form it has.
fn copy_string(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), Halt> {
    let before = cursor.clone();
    string::pass(cursor)?;
    let used = cursor.position() - before.position();
    out.extend_from_slice(before.rest().get(..used).unwrap_or_default());
    Ok(())
}
