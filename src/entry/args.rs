//! The words of a journal command, in the packed form of the wire: for each, its length and bytes.

use bytes::{BufMut, BytesMut};

use crate::rdb::{Cursor, Halt};

/// The words do not add up to what the entry claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed journal command at byte {at}: {what}")]
pub struct MalformedArgs {
    /// Offset into the packed words.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// The words of one command, borrowed. Checked once by [`Args::check`]; iterating cannot fail.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    packed: &'a [u8],
    words: usize,
    /// The first two words, which are asked for again and again; the second one is empty where there is none.
    name: &'a [u8],
    second: &'a [u8],
}

impl<'a> Args<'a> {
    /// Walks the words once: `words` of them, nothing left over, at least one.
    pub fn check(packed: &'a [u8], words: u32) -> Result<Self, MalformedArgs> {
        let mut cursor = Cursor::new(packed);
        let (mut name, mut second) = (&packed[..0], &packed[..0]);
        for index in 0..words {
            let len = cursor.packed().map_err(|halt| malformed(halt, &cursor))?;
            let word = cursor
                .take(len, packed.len())
                .map_err(|halt| malformed(halt, &cursor))?;
            match index {
                0 => name = word,
                1 => second = word,
                _ => {}
            }
        }
        cursor.finish().map_err(|halt| malformed(halt, &cursor))?;
        if words == 0 {
            return Err(MalformedArgs {
                at: 0,
                what: "a command without words",
            });
        }
        Ok(Self {
            packed,
            words: words as usize,
            name,
            second,
        })
    }

    /// Number of words, the name included.
    pub fn len(&self) -> usize {
        self.words
    }

    /// Never true for checked words.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The command's name, as sent.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The word at `index`, the name being 0.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        match index {
            0 => Some(self.name),
            1 => Some(self.second).filter(|_| self.words > 1),
            _ => self.iter().nth(index),
        }
    }

    /// All words in order.
    pub fn iter(&self) -> ArgsIter<'a> {
        ArgsIter {
            cursor: Cursor::new(self.packed),
        }
    }
}

fn malformed(halt: Halt, cursor: &Cursor<'_>) -> MalformedArgs {
    match halt {
        Halt::Incomplete { .. } => MalformedArgs {
            at: cursor.position(),
            what: "a word reaches past the end",
        },
        Halt::Invalid { at, what } => MalformedArgs { at, what },
    }
}

/// Iterates over the words of checked [`Args`].
#[derive(Debug, Clone)]
pub struct ArgsIter<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for ArgsIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = self.cursor.packed().ok()?;
        self.cursor.take(len, usize::MAX).ok()
    }
}

/// Builds packed words, for commands that are made rather than received.
#[derive(Debug, Default)]
pub struct ArgsWriter {
    packed: BytesMut,
    words: u32,
}

impl ArgsWriter {
    /// Appends one word.
    pub fn word(&mut self, word: &[u8]) -> &mut Self {
        put_packed(&mut self.packed, word.len() as u64);
        self.packed.put_slice(word);
        self.words += 1;
        self
    }

    /// The packed words and how many there are.
    pub fn finish(self) -> (bytes::Bytes, u32) {
        (self.packed.freeze(), self.words)
    }
}

/// Appends a packed unsigned integer (reference: journal, packed integers).
fn put_packed(out: &mut BytesMut, value: u64) {
    match value {
        0..=0x3F => out.put_u8(value as u8),
        0x40..=0x3FFF => out.put_u16(0x4000 | value as u16),
        0x4000..=0xFFFF_FFFF => {
            out.put_u8(0x80);
            out.put_u32(value as u32);
        }
        _ => {
            out.put_u8(0x81);
            out.put_u64(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_that_do_not_add_up_are_refused() {
        assert!(Args::check(b"\x03SET\x01k", 3).is_err());
        assert!(Args::check(b"\x03SET\x01k", 1).is_err());
        assert!(Args::check(b"\x03SE", 1).is_err());
        assert!(Args::check(b"", 0).is_err());
        assert!(Args::check(b"\x81\xff\xff\xff\xff\xff\xff\xff\xffx", 1).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..9)) {
            let mut writer = ArgsWriter::default();
            for word in &words {
                writer.word(word);
            }
            let (packed, count) = writer.finish();
            let args = Args::check(&packed, count).unwrap();
            prop_assert_eq!(args.len(), words.len());
            prop_assert!(args.iter().eq(words.iter().map(Vec::as_slice)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(packed in prop::collection::vec(any::<u8>(), 0..64), words in 0u32..9) {
            if let Ok(args) = Args::check(&packed, words) {
                prop_assert_eq!(args.iter().count(), words as usize);
            }
        }
    }
}
