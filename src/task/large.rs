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

use crate::commands;
use crate::entry::{Args, ArgsWriter, MalformedArgs, Spill, SpillWriter};
use crate::rdb::payload::{FOOTER, Seal};
use crate::rdb::{Cursor, Halt};
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

    /// Reads all words into memory, whatever their size.
    pub(super) fn read_whole(spill: &Spill) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut window = vec![0; WINDOW];
        loop {
            let read = spill.read_at(&mut window, bytes.len() as u64)?;
            match window.get(..read) {
                Some(part) if read > 0 => bytes.extend_from_slice(part),
                _ => return Ok(bytes),
            }
        }
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
            Some(long) => {
                out.word_of(long.len());
                out.file(&long, 0, long.len());
                out.end_word();
            }
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
        let mut gathered = Vec::with_capacity(2 * WINDOW);
        for index in 0..words {
            let place = walk.next()?;
            if index < from {
                continue;
            }
            gathered.extend_from_slice(b"$");
            gathered.extend_from_slice(itoa::Buffer::new().format(place.len).as_bytes());
            gathered.extend_from_slice(b"\r\n");
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
            gathered.extend_from_slice(b"\r\n");
        }
        writer.write(&gathered)?;
        walk.finish()?;
        Ok(writer.finish())
    }
}

/// The type and the value in a DUMP payload; `None` if its checksum is wrong.
pub(super) fn open_payload(payload: &Spill) -> io::Result<Option<(u8, Spill)>> {
    const ENDS: u64 = 1 + FOOTER as u64;
    let mut kind = [0];
    read_exact(payload, &mut kind, 0)?;
    let value = payload.part(1, payload.len().saturating_sub(ENDS));
    let mut seal = Seal::new(kind[0]);
    let mut window = vec![0; WINDOW];
    let mut at = 0;
    while at < value.len() {
        let read = value.read_at(&mut window, at)?;
        match window.get(..read) {
            Some(part) if read > 0 => seal.update(part),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        at += read as u64;
    }
    let mut footer = [0; FOOTER];
    read_exact(payload, &mut footer, 1 + value.len())?;
    // A master writes format version 9, as the seal does.
    Ok((seal.finish() == footer).then_some((kind[0], value)))
}

fn read_exact(spill: &Spill, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..)
        && !rest.is_empty()
    {
        match spill.read_at(rest, offset + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
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
            let mut filled = 0;
            while let Some(rest) = self.window.get_mut(filled..)
                && !rest.is_empty()
            {
                match self.spill.read_at(rest, offset + filled as u64)? {
                    0 => break,
                    read => filled += read,
                }
            }
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
        out.words(0)
            .iter()
            .map(|word| word.head(usize::MAX))
            .collect()
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
        let bytes = Large::read_whole(&encoded).unwrap();
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
    fn a_payload_in_a_file_is_checked_against_its_checksum() {
        let mut sealed = Vec::new();
        crate::rdb::payload::seal(&mut sealed, 0, &vec![7; 200_000]);
        let spill = |bytes: &[u8]| {
            let mut file = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
            file.write(bytes).unwrap();
            file.finish()
        };
        let (kind, value) = open_payload(&spill(&sealed)).unwrap().unwrap();
        assert_eq!((kind, value.len()), (0, 200_000));
        sealed[100_000] ^= 1;
        assert!(open_payload(&spill(&sealed)).unwrap().is_none());
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
