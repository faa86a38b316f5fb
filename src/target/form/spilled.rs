//! A journal command that is in a file, because it is too large for memory.
//!
//! Its words of ordinary size are read into memory, the large ones stay where they are: in the
//! words that [`SpilledCommand::args`] gives, an empty word stands for each. A plan borrows its
//! words from there, so each is known again by its place, and [`SpilledCommand::put`] sends the
//! large ones from the file.

use std::path::Path;

use bytes::Bytes as Packed;

use super::window::Window;
use super::{FormError, read_some};
use crate::commands::{Restore, keys};
use crate::entry::{Args, ArgsWriter, MalformedArgs, Spill, SpillWriter};
use crate::rdb::payload::{FOOTER, Seal};
use crate::rdb::{Cursor, Halt};
use crate::target::Outgoing;

/// A word of more bytes stays in the file.
const LARGE: u64 = 64 << 10;

/// A command in a file, of which the large words stay there.
#[derive(Debug)]
pub struct SpilledCommand {
    spill: Spill,
    packed: Packed,
    words: u32,
    large: Vec<Large>,
}

/// A word that stays in the file.
#[derive(Debug, Clone, Copy)]
struct Large {
    /// Index of the word.
    index: usize,
    /// Offset of its stand-in into the packed words.
    at: usize,
    offset: u64,
    len: u64,
}

impl SpilledCommand {
    /// Reads the words of a command that is in a file. Blocks on the file. Memory: its words of
    /// at most 64 KiB.
    pub fn read(spill: &Spill, words: u32) -> Result<Self, FormError> {
        let mut reader = Reader {
            spill,
            window: Window::of_file(spill),
            used: 0,
        };
        let (mut writer, mut large) = (ArgsWriter::default(), Vec::new());
        for index in 0..words as usize {
            let len = reader.length()?;
            if len <= LARGE {
                writer.word(reader.take(len as usize)?);
            } else {
                let offset = reader.pass(len)?;
                let at = 0;
                large.push(Large {
                    index,
                    at,
                    offset,
                    len,
                });
                writer.word(b"");
            }
        }
        if reader.position() != spill.len() {
            return Err(reader.damaged("bytes left over"));
        }
        let (packed, words) = writer.finish();
        let mut command = Self {
            spill: spill.clone(),
            packed,
            words,
            large: Vec::new(),
        };
        for place in &mut large {
            let word = command.args().ok().and_then(|args| args.get(place.index));
            place.at = word.map_or(usize::MAX, |word| command.offset_of(word));
        }
        command.large = large;
        command.refuse_large_keys()?;
        Ok(command)
    }

    /// A key decides about filters and routes: it must be in memory.
    fn refuse_large_keys(&self) -> Result<(), FormError> {
        let large_key = self
            .args()
            .is_ok_and(|args| keys(&args).any(|used| self.large(used.key).is_some()));
        if large_key {
            return Err(FormError::Entry {
                at: 0,
                what: "a key of more than 64 KiB",
            });
        }
        Ok(())
    }

    /// The words, with an empty one in the place of each that stays in the file.
    pub fn args(&self) -> Result<Args<'_>, MalformedArgs> {
        Args::check(&self.packed, self.words)
    }

    fn offset_of(&self, word: &[u8]) -> usize {
        (word.as_ptr() as usize).wrapping_sub(self.packed.as_ptr() as usize)
    }

    /// Where the word is that this one, borrowed from [`Self::args`], stands for.
    fn large(&self, word: &[u8]) -> Option<&Large> {
        let at = self.offset_of(word);
        let found = self.large.binary_search_by_key(&at, |large| large.at);
        found
            .ok()
            .filter(|_| word.is_empty())
            .and_then(|n| self.large.get(n))
    }

    /// Appends a word of [`Self::args`], or of a plan made from them, to a command.
    pub fn put(&self, word: &[u8], out: &mut Outgoing) {
        match self.large(word) {
            None => out.word(word),
            Some(large) => {
                out.word_of(large.len);
                out.file(&self.spill, large.offset, large.len);
                out.end_word();
            }
        }
    }

    /// The value in the payload of a `RESTORE` planned from [`Self::args`], checked against its
    /// checksum and copied into a file in `dir`: its type and its bytes. `None` if the payload is
    /// in memory: then [`restored`](super::restored) opens it.
    pub fn restored(
        &self,
        restore: &Restore<'_>,
        dir: &Path,
    ) -> Result<Option<(u8, Spill)>, FormError> {
        let Some(large) = self.large(restore.payload) else {
            return Ok(None);
        };
        let damaged = FormError::Entry {
            at: large.offset,
            what: "a payload that is damaged",
        };
        let mut kind = [0];
        read_some(&self.spill, &mut kind, large.offset)?;
        let [kind] = kind;
        let (mut seal, mut value) = (
            Seal::new(kind),
            SpillWriter::create_in(dir).map_err(FormError::File)?,
        );
        let end = large.offset.saturating_add(large.len) - FOOTER as u64;
        let mut offset = large.offset + 1;
        let mut buffer = vec![0; super::WINDOW];
        while offset < end {
            let wanted = (end - offset).min(super::WINDOW as u64) as usize;
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            let read = read_some(&self.spill, part, offset)?;
            let part = part.get(..read).unwrap_or_default();
            if part.is_empty() {
                return Err(damaged);
            }
            seal.update(part);
            value.write(part).map_err(FormError::File)?;
            offset += read as u64;
        }
        let mut footer = [0; FOOTER];
        read_some(&self.spill, &mut footer, end)?;
        // The source writes format version 9, as the seal does.
        if seal.finish() != footer {
            return Err(damaged);
        }
        Ok(Some((kind, value.finish())))
    }
}

/// Reads words one after the other.
struct Reader<'a> {
    spill: &'a Spill,
    window: Window<'a>,
    /// Bytes of the window that are done with.
    used: usize,
}

impl Reader<'_> {
    fn position(&self) -> u64 {
        self.window.base().saturating_add(self.used as u64)
    }

    fn damaged(&self, what: &'static str) -> FormError {
        FormError::Entry {
            at: self.position(),
            what,
        }
    }

    fn more(&mut self, missing: usize) -> Result<(), FormError> {
        let grown = self.window.slide(self.used, missing)?;
        self.used = 0;
        if grown {
            Ok(())
        } else {
            Err(self.damaged("it ends too early"))
        }
    }

    fn length(&mut self) -> Result<u64, FormError> {
        loop {
            let rest = self.window.bytes().get(self.used..).unwrap_or_default();
            let mut cursor = Cursor::new(rest);
            match cursor.packed() {
                Ok(len) => {
                    self.used += cursor.position();
                    return Ok(len);
                }
                Err(Halt::Incomplete { missing }) => self.more(missing)?,
                Err(Halt::Invalid { what, .. }) => return Err(self.damaged(what)),
            }
        }
    }

    fn take(&mut self, len: usize) -> Result<&[u8], FormError> {
        let have = self.window.bytes().len().saturating_sub(self.used);
        if let Some(missing) = len.checked_sub(have).filter(|missing| *missing > 0) {
            self.more(missing)?;
        }
        let start = self.used;
        self.used += len;
        let word = self.window.bytes().get(start..start + len);
        word.ok_or(FormError::Entry {
            at: 0,
            what: "it ends too early",
        })
    }

    /// Passes over `len` bytes; where they begin.
    fn pass(&mut self, len: u64) -> Result<u64, FormError> {
        let start = self.position();
        match start.checked_add(len) {
            Some(end) if end <= self.spill.len() => {
                self.window = Window::from(self.spill, end);
                self.used = 0;
                Ok(start)
            }
            _ => Err(self.damaged("it ends too early")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spilled(words: &[&[u8]]) -> (Spill, u32) {
        let mut writer = ArgsWriter::default();
        for word in words {
            writer.word(word);
        }
        let (packed, count) = writer.finish();
        let mut file = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
        file.write(&packed).unwrap();
        (file.finish(), count)
    }

    #[test]
    fn large_words_are_sent_from_the_file_and_small_ones_from_memory() {
        let (big, bigger) = (vec![b'x'; 70_000], vec![b'y'; 300_000]);
        let edge = vec![b'z'; 65_536];
        let words: [&[u8]; 7] = [b"MSET", b"a", &big, b"b", b"", b"c", &bigger];
        for words in [&words[..], &[b"RPUSH", b"l", &edge, &big, &edge]] {
            let (spill, count) = spilled(words);
            let command = SpilledCommand::read(&spill, count).unwrap();
            let mut out = Outgoing::new();
            out.command(words.len(), None);
            for word in command.args().unwrap().iter() {
                command.put(word, &mut out);
            }
            assert!(out.in_memory() < 140_000);
            for (sent, word) in out.words(0).iter().zip(words) {
                assert!(sent.head(usize::MAX) == *word);
            }
        }
    }

    #[test]
    fn a_planned_restore_is_checked_and_copied_out_of_the_file() {
        let mut value = Vec::new();
        crate::rdb::string::write_raw(&mut value, &vec![b'v'; 100_000]);
        let mut payload = Vec::new();
        crate::rdb::payload::seal(&mut payload, 0, &value);
        for damage in [false, true] {
            payload[5000] ^= u8::from(damage);
            let (spill, count) = spilled(&[b"RESTORE", b"k", b"0", &payload]);
            let command = SpilledCommand::read(&spill, count).unwrap();
            let args = command.args().unwrap();
            let restore = Restore {
                key: args.get(1).unwrap(),
                payload: args.get(3).unwrap(),
                expire_at_ms: None,
            };
            let restored = command.restored(&restore, &std::env::temp_dir());
            match restored {
                Ok(restored) => {
                    let (kind, copy) = restored.unwrap();
                    assert!(!damage && kind == 0 && copy.len() == value.len() as u64);
                }
                Err(error) => assert!(damage, "{error}"),
            }
        }
    }

    #[test]
    fn words_that_do_not_add_up_and_large_keys_are_refused() {
        let big = vec![b'x'; 70_000];
        let (spill, count) = spilled(&[b"SET", b"k", &big]);
        assert!(SpilledCommand::read(&spill, count - 1).is_err());
        assert!(SpilledCommand::read(&spill, count + 1).is_err());
        let (spill, count) = spilled(&[b"SET", &big, b"v"]);
        let error = SpilledCommand::read(&spill, count).unwrap_err();
        assert!(
            error.to_string().contains("a key of more than 64 KiB"),
            "{error}"
        );
        let mut file = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
        file.write(b"\x81\xff\xff\xff\xff\xff\xff\xff\xffSET")
            .unwrap();
        assert!(SpilledCommand::read(&file.finish(), 1).is_err());
    }
}
