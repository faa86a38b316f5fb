//! Why decoding stopped, before flow and place are known.

use std::borrow::Cow;
use std::io;

use crate::rdb::Halt;

use super::error::{Place, SourceError};

/// Flow and place are added by [`Fault::at`], once, where they are known.
#[derive(Debug)]
pub(super) enum Fault {
    /// More bytes are needed, or the bytes are wrong.
    Halt(Halt),
    /// The bytes are wrong in a way that needs more words.
    Invalid(Cow<'static, str>),
    /// An opcode without known meaning.
    Opcode(u8),
    /// A value type without known layout.
    Kind(u8),
    /// A RESP text instead of a journal entry.
    ErrorText,
    /// The source counts differently.
    Lsn { expected: u64, got: u64 },
    /// The token at the end is not the one promised.
    Token,
    /// The source has another number of flows than announced.
    FlowCount { expected: u32, got: u32 },
    /// A large value could not be written to disk.
    Spill(io::Error),
}

impl From<Halt> for Fault {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl Fault {
    /// A phrase that fits after "invalid data: ".
    pub(super) fn invalid(what: &'static str) -> Self {
        Self::Invalid(Cow::Borrowed(what))
    }

    /// The error with its place. `Incomplete` must have been handled before.
    pub(super) fn at(self, flow: u32, at: Place) -> SourceError {
        let what = match self {
            Self::Halt(Halt::Incomplete { .. }) => Cow::Borrowed("cut off"),
            Self::Halt(Halt::Invalid { what, .. }) => Cow::Borrowed(what),
            Self::Invalid(what) => what,
            Self::Opcode(opcode) => return SourceError::UnknownOpcode { flow, at, opcode },
            Self::Kind(kind) => return SourceError::UnknownType { flow, at, kind },
            Self::ErrorText => return SourceError::ErrorText { flow, at },
            Self::Lsn { expected, got } => {
                return SourceError::LsnMismatch {
                    flow,
                    expected,
                    got,
                };
            }
            Self::Token => return SourceError::WrongToken { flow, at },
            Self::FlowCount { expected, got } => {
                return SourceError::FlowCount {
                    expected,
                    got: Some(got),
                };
            }
            Self::Spill(cause) => return SourceError::Spill { flow, cause },
        };
        SourceError::Invalid { flow, at, what }
    }
}
