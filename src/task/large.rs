//! Journal commands too large for memory: their words stand in a file and are sent from there.
//!
//! A command is understood by its short words. The long ones are replaced by placeholders, the
//! command is planned like any other, and where a placeholder comes out the file's bytes are sent.
//! A command that is large by the number of its words (an RPUSH of a million elements) is copied
//! to a file in the form it is sent in.
//!
//! Invariant: what is in memory of such a command is bounded by [`SHORT_TOTAL`], except for
//!   commands of more words than that which also need translation, which no client library sends.

use std::io;

use bytes::BytesMut;

use crate::commands;
use crate::entry::{Args, ArgsWriter, MalformedArgs, Spill, SpillWriter};
use crate::rdb::{Cursor, Halt};
use crate::resp;
use crate::target::Outgoing;

/// Words up to this size are taken into memory.
const SHORT: u64 = 16 << 10;

/// Most bytes of short words in memory.
const SHORT_TOTAL: u64 = 4 << 20;

/// How much of a file is read at a time.
const WINDOW: usize = 64 << 10;

/// Why a large command cannot be read.
#[derive(Debug)]
pub(super) enum LargeError {
    /// Its words do not add up.
    Malformed(MalformedArgs),
    /// The file cannot be read or written.
    File(io::Error),
}

impl From<io::Error> for LargeError {
    fn from(cause: io::Error) -> Self {
        Self::File(cause)
    }
}

/// A word of a spilled command.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    len: u64,
}

/// A spilled command, with placeholders for what is only in the file.
#[derive(Debug)]
pub(super) struct Large {
    spill: Spill,
    packed: bytes::Bytes,
    words: u32,
    nonce: [u8; 16],
    places: Vec<Place>,
    /// The words in memory are only the first ones.
    pub(super) cut_short: bool,
}

impl Large {
    /// Reads the words of a spilled command.
    pub(super) fn read(spill: &Spill, words: u32) -> Result<Self, LargeError> {
        let mut large = Self {
            spill: spill.clone(),
            packed: bytes::Bytes::new(),
            words: 0,
            nonce: rand::random(),
            places: Vec::new(),
            cut_short: false,
        };
        let mut writer = ArgsWriter::default();
        let mut walk = Walk::new(spill);
        let mut total = 0;
        for _ in 0..words {
            let place = walk.next()?;
            if place.len > SHORT {
                writer.word(&large.placeholder(large.places.len()));
                large.places.push(place);
            } else {
                writer.word(&walk.bytes(place)?);
                total += place.len + 32;
            }
            if total > SHORT_TOTAL {
                large.cut_short = true;
                break;
            }
        }
        if !large.cut_short {
            walk.finish()?;
        }
        (large.packed, large.words) = writer.finish();
        large.refuse_long_keys()?;
        Ok(large)
    }

    /// A key decides about filters and ownership, so it must be in memory.
    fn refuse_long_keys(&self) -> Result<(), LargeError> {
        let args = self.args().map_err(LargeError::Malformed)?;
        if commands::keys(&args).any(|used| self.long(used.key).is_some()) {
            return Err(LargeError::Malformed(MalformedArgs {
                at: 0,
                what: "a key too long for a command of this size",
            }));
        }
        Ok(())
    }

    /// The words in memory, placeholders among them.
    pub(super) fn into_packed(self) -> bytes::Bytes {
        self.packed
    }

    /// The words, long ones as placeholders.
    pub(super) fn args(&self) -> Result<Args<'_>, MalformedArgs> {
        Args::check(&self.packed, self.words)
    }

    fn placeholder(&self, index: usize) -> [u8; 24] {
        let mut word = [0; 24];
        let (nonce, number) = word.split_at_mut(16);
        nonce.copy_from_slice(&self.nonce);
        number.copy_from_slice(&(index as u64).to_be_bytes());
        word
    }

    /// What a placeholder stands for.
    pub(super) fn long(&self, word: &[u8]) -> Option<Spill> {
        let number = word.strip_prefix(&self.nonce)?.try_into().ok()?;
        let place = self.places.get(u64::from_be_bytes(number) as usize)?;
        Some(self.spill.part(place.offset, place.len))
    }

    /// Appends a word, from the file if it is a placeholder.
    pub(super) fn word(&self, word: &[u8], out: &mut Outgoing) {
        match self.long(word) {
            Some(long) => out.word_in_file(&long),
            None => out.word(word),
        }
    }

    /// Copies the words from the `from`th on into a file, in the form in which they are sent.
    pub(super) fn encode(
        spill: &Spill,
        from: u32,
        words: u32,
        dir: &std::path::Path,
    ) -> Result<Spill, LargeError> {
        let mut walk = Walk::new(spill);
        let mut writer = SpillWriter::create_in(dir)?;
        let mut gathered = BytesMut::with_capacity(2 * WINDOW);
        for index in 0..words {
            let place = walk.next()?;
            if index < from {
                continue;
            }
            resp::bulk_start(&mut gathered, place.len);
            let mut at = 0;
            while at < place.len {
                let part = (place.len - at).min(WINDOW as u64);
                let part = Place {
                    offset: place.offset + at,
                    len: part,
                };
                gathered.extend_from_slice(&walk.bytes(part)?);
                at += part.len;
                if gathered.len() >= WINDOW {
                    writer.write(&gathered)?;
                    gathered.clear();
                }
            }
            resp::bulk_end(&mut gathered);
        }
        writer.write(&gathered)?;
        walk.finish()?;
        Ok(writer.finish())
    }
}

/// Goes from word to word of a spilled command.
struct Walk<'s> {
    spill: &'s Spill,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'s> Walk<'s> {
    fn new(spill: &'s Spill) -> Self {
        Self {
            spill,
            at: 0,
            window: Vec::new(),
            window_at: 0,
        }
    }

    /// The bytes from `offset` on that are in the window, after filling it if there are less than
    /// `wanted` and the file has more.
    fn window(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let end = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + wanted as u64 > end {
            self.window.resize(WINDOW.max(wanted), 0);
            self.window_at = offset;
            let filled = self.spill.fill(&mut self.window, offset)?;
            self.window.truncate(filled);
        }
        let start = (offset - self.window_at) as usize;
        Ok(self.window.get(start..).unwrap_or_default())
    }

    fn next(&mut self) -> Result<Place, LargeError> {
        let at = self.at;
        let len = self.spill.len();
        let mut cursor = Cursor::new(self.window(at, 9)?);
        let word = cursor.packed().map_err(|halt| malformed(halt, at))?;
        let offset = at + cursor.position() as u64;
        if word > len - offset {
            return Err(LargeError::Malformed(MalformedArgs {
                at: at as usize,
                what: "a word reaches past the end",
            }));
        }
        self.at = offset + word;
        Ok(Place { offset, len: word })
    }

    /// The bytes of a word of at most [`WINDOW`] bytes.
    fn bytes(&mut self, place: Place) -> io::Result<Vec<u8>> {
        let wanted = place.len as usize;
        let window = self.window(place.offset, wanted)?;
        window
            .get(..wanted)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    fn finish(&self) -> Result<(), LargeError> {
        if self.at == self.spill.len() {
            return Ok(());
        }
        Err(LargeError::Malformed(MalformedArgs {
            at: self.at as usize,
            what: "bytes left over",
        }))
    }
}

fn malformed(halt: Halt, at: u64) -> LargeError {
    LargeError::Malformed(MalformedArgs {
        at: at as usize,
        what: match halt {
            Halt::Incomplete { .. } => "a word reaches past the end",
            Halt::Invalid { what, .. } => what,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spilled(words: &[Vec<u8>]) -> (Spill, u32) {
        let mut writer = ArgsWriter::default();
        for word in words {
            writer.word(word);
        }
        let (packed, count) = writer.finish();
        let mut file = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
        file.write(&packed).unwrap();
        (file.finish(), count)
    }

    fn sent(out: &Outgoing) -> Vec<Vec<u8>> {
        out.words(0).map(|word| word.head(usize::MAX)).collect()
    }

    #[test]
    fn a_long_word_is_sent_from_the_file_and_the_rest_from_memory() {
        let long: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let words = vec![b"SET".to_vec(), b"k".to_vec(), long, b"KEEPTTL".to_vec()];
        let (spill, count) = spilled(&words);
        let large = Large::read(&spill, count).unwrap();
        assert!(!large.cut_short);
        let args = large.args().unwrap();
        assert!(
            args.iter().all(|word| word.len() < 100),
            "nothing long in memory"
        );
        let mut out = Outgoing::new();
        out.command(args.len(), None);
        for word in args.iter() {
            large.word(word, &mut out);
        }
        assert!(out.in_memory() < 1_000);
        assert_eq!(sent(&out), words);
    }

    #[test]
    fn a_command_of_very_many_words_is_cut_short_and_encoded_in_a_file() {
        let words: Vec<Vec<u8>> = [b"RPUSH".to_vec(), b"k".to_vec()]
            .into_iter()
            .chain((0..200_000).map(|n| format!("element {n}").into_bytes()))
            .collect();
        let (spill, count) = spilled(&words);
        let large = Large::read(&spill, count).unwrap();
        assert!(large.cut_short);
        assert_eq!(large.args().unwrap().get(1), Some(&b"k"[..]));
        let encoded = Large::encode(&spill, 2, count, &std::env::temp_dir()).unwrap();
        let bytes = encoded.read_all().unwrap();
        let expected: Vec<u8> = words
            .iter()
            .skip(2)
            .flat_map(|word| [format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat())
            .collect();
        assert!(bytes == expected);
        let mut out = Outgoing::new();
        out.command_with_tail(&[b"RPUSH", b"k"], &encoded, words.len(), Some(7));
        assert_eq!(sent(&out), words[..2], "the head is legible, for errors");
        assert_eq!(out.describe(0).key(), b"k");
        assert!(out.in_memory() < 100 && out.len() > 2_000_000);
    }

    #[test]
    fn words_that_do_not_add_up_are_refused() {
        let mut file = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
        file.write(b"\x03SET\x81\xff\xff\xff\xff\xff\xff\xff\xff")
            .unwrap();
        let spill = file.finish();
        assert!(matches!(
            Large::read(&spill, 2),
            Err(LargeError::Malformed(_))
        ));
        assert!(matches!(
            Large::read(&spill, 1),
            Err(LargeError::Malformed(_))
        ));
    }
}
