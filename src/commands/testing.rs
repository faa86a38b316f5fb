//! What the tests of this room share.

use crate::entry::{Args, ArgsWriter};

/// The packed words of a command that a test spells out.
pub(super) struct Words {
    packed: bytes::Bytes,
    count: u32,
}

impl Words {
    /// The words of a line, divided by blanks.
    pub(super) fn of(line: &str) -> Self {
        Self::from(line.split(' ').map(str::as_bytes))
    }

    /// These words.
    pub(super) fn from<'w>(words: impl IntoIterator<Item = &'w [u8]>) -> Self {
        let mut writer = ArgsWriter::default();
        for word in words {
            writer.word(word);
        }
        let (packed, count) = writer.finish();
        Self { packed, count }
    }

    /// The words, checked.
    pub(super) fn args(&self) -> Args<'_> {
        Args::check(&self.packed, self.count).unwrap()
    }
}
