//! Encoded commands on their way out: one buffer, and the parts of it that stand in files.
//!
//! Invariants: `commands` are in order of their offsets; so are `parts`, each of which belongs
//!   between the bytes before and from its offset on; a part is never empty. What is declared (words of a
//!   command, bytes of a word) is what follows, or debug builds panic.
//! Units: lengths on the wire are bytes, file parts included, unless they say "in memory".

mod words;

use bytes::BytesMut;

use crate::entry::Spill;
use crate::resp;

pub use words::{Described, Word};

/// Encoded commands, in order.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: BytesMut,
    commands: Vec<Start>,
    parts: Vec<Part>,
    in_files: u64,
    unfinished: Unfinished,
}

/// Where a command starts. There are many of them: kept small.
#[derive(Debug, Clone, Copy)]
struct Start {
    at: usize,
    /// Or [`Start::NONE`].
    lsn: u64,
    part: u32,
    /// Words whose heads are in memory, those behind standing encoded in a file; or [`Start::ALL`].
    legible: u32,
}

impl Start {
    const NONE: u64 = u64::MAX;
    const ALL: u32 = u32::MAX;

    /// Of a command all of whose words are legible.
    #[inline]
    fn new(at: usize, part: usize, lsn: Option<u64>) -> Self {
        Self {
            at,
            lsn: lsn.unwrap_or(Self::NONE),
            part: u32::try_from(part).unwrap_or(u32::MAX),
            legible: Self::ALL,
        }
    }

    fn part(self) -> usize {
        self.part as usize
    }

    fn lsn(self) -> Option<u64> {
        Some(self.lsn).filter(|lsn| *lsn != Self::NONE)
    }

    fn legible(self) -> Option<usize> {
        Some(self.legible as usize).filter(|_| self.legible != Self::ALL)
    }
}

/// Bytes of a file that stand before `bytes[at..]`.
#[derive(Debug)]
struct Part {
    at: usize,
    spill: Spill,
    offset: u64,
    len: u64,
}

/// What was declared and has not followed yet.
#[derive(Debug, Default)]
struct Unfinished {
    words: usize,
    word: Option<u64>,
}

/// How far somebody has come in sending an [`Outgoing`]. The default is its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    at: usize,
    part: usize,
    in_part: u64,
}

/// What stands at a [`Place`].
#[derive(Debug)]
pub enum Piece<'a> {
    /// Bytes in memory, up to the next file part or the end.
    Bytes(&'a [u8]),
    /// Bytes of a file.
    File {
        /// The file.
        spill: &'a Spill,
        /// Offset of the first byte that is meant.
        offset: u64,
        /// Number of bytes, at least 1.
        len: u64,
    },
    /// Nothing: everything stands before.
    End,
}

impl Outgoing {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a command of `words` words, its name included, made from the entry `lsn`.
    #[inline]
    pub fn command(&mut self, words: usize, lsn: Option<u64>) {
        self.assert_finished();
        debug_assert!(words > 0, "a command without words");
        let start = Start::new(self.bytes.len(), self.parts.len(), lsn);
        self.commands.push(start);
        self.unfinished.words = words;
        resp::command_start(&mut self.bytes, words);
    }

    /// Appends a command, made from the entry `lsn`, that is encoded already.
    pub fn encoded_of(&mut self, lsn: Option<u64>, bytes: &[u8]) {
        self.encoded(bytes);
        if let Some(start) = self.commands.last_mut() {
            *start = Start::new(start.at, start.part(), lsn);
        }
    }

    /// The `n`th command as it is sent; none if not all of it is in memory.
    pub fn in_one(&self, n: usize) -> Option<&[u8]> {
        let start = self.commands.get(n)?;
        let (end, end_part) = match self.commands.get(n + 1) {
            Some(next) => (next.at, next.part()),
            None => (self.bytes.len(), self.parts.len()),
        };
        let whole = start.part() == end_part && start.legible().is_none();
        self.bytes.get(start.at..end).filter(|_| whole)
    }

    /// Appends a command of our own that is encoded already.
    #[inline]
    pub fn encoded(&mut self, bytes: &[u8]) {
        let start = Start::new(self.bytes.len(), self.parts.len(), None);
        self.commands.push(start);
        self.encoded_unlisted(&[bytes]);
    }

    /// The same of one in pieces, for which nobody will ask here by its number.
    #[inline]
    pub fn encoded_unlisted(&mut self, pieces: &[&[u8]]) {
        self.assert_finished();
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// Appends a whole command of `words` words: the first ones are `head`, the others stand in
    /// `tail` as they are sent, each with its length. For commands of more words than fit in memory.
    pub fn command_with_tail(
        &mut self,
        head: &[&[u8]],
        tail: &Spill,
        words: usize,
        lsn: Option<u64>,
    ) {
        self.command(words, lsn);
        for word in head {
            self.word(word);
        }
        self.unfinished = Unfinished::default();
        if let Some(start) = self.commands.last_mut() {
            start.legible = u32::try_from(head.len()).unwrap_or(Start::ALL);
        }
        if !tail.is_empty() {
            self.in_files += tail.len();
            self.parts.push(Part {
                at: self.bytes.len(),
                spill: tail.clone(),
                offset: 0,
                len: tail.len(),
            });
        }
    }

    /// Appends a word.
    #[inline]
    pub fn word(&mut self, word: &[u8]) {
        self.count_word();
        resp::bulk(&mut self.bytes, word);
    }

    /// Appends an integer, in decimal, as a word.
    #[inline]
    pub fn int(&mut self, number: i64) {
        self.word(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Starts a word of `len` bytes: [`raw`](Self::raw) and [`file`](Self::file) bring them,
    /// [`end_word`](Self::end_word) ends it.
    #[inline]
    pub fn word_of(&mut self, len: u64) {
        self.count_word();
        self.unfinished.word = Some(len);
        resp::bulk_start(&mut self.bytes, len);
    }

    /// Appends bytes to the word that was started.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.count_bytes(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends `len` bytes of a file from `offset` on to the word that was started. The file is
    /// read when they are sent.
    pub fn file(&mut self, spill: &Spill, offset: u64, len: u64) {
        self.count_bytes(len);
        debug_assert!(
            offset
                .checked_add(len)
                .is_some_and(|end| end <= spill.len()),
            "a part past the end of its file"
        );
        if len > 0 {
            self.in_files += len;
            self.parts.push(Part {
                at: self.bytes.len(),
                spill: spill.clone(),
                offset,
                len,
            });
        }
    }

    /// Appends a word all of which stands in a file.
    pub fn word_in_file(&mut self, spill: &Spill) {
        self.word_of(spill.len());
        self.file(spill, 0, spill.len());
        self.end_word();
    }

    /// Ends the word that was started.
    #[inline]
    pub fn end_word(&mut self) {
        let left = self.unfinished.word.take();
        debug_assert_eq!(left, Some(0), "a word of another length than declared");
        resp::bulk_end(&mut self.bytes);
    }

    /// Bytes on the wire, those in files included.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64 + self.in_files
    }

    /// Bytes held in memory.
    pub fn in_memory(&self) -> usize {
        self.bytes.len()
    }

    /// Whether all of it is.
    pub fn is_in_memory(&self) -> bool {
        self.parts.is_empty()
    }

    /// Number of commands.
    pub fn commands(&self) -> usize {
        self.commands.len()
    }

    /// Whether there are no commands.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Forgets all commands and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.commands.clear();
        self.parts.clear();
        self.in_files = 0;
        self.unfinished = Unfinished::default();
    }

    /// Forgets the commands from the `n`th on, the first being 0.
    pub fn truncate_to(&mut self, n: usize) {
        if let Some(start) = self.commands.get(n).copied() {
            self.bytes.truncate(start.at);
            self.commands.truncate(n);
            self.in_files -= self
                .parts
                .drain(start.part()..)
                .map(|part| part.len)
                .sum::<u64>();
            self.unfinished = Unfinished::default();
        }
    }

    /// Forgets the `n`th command only.
    pub fn remove(&mut self, n: usize) {
        let Some(start) = self.commands.get(n).copied() else {
            return;
        };
        let Some(next) = self.commands.get(n + 1).copied() else {
            return self.truncate_to(n);
        };
        let (gone, gone_parts) = (next.at - start.at, next.part() - start.part());
        self.bytes.copy_within(next.at.., start.at);
        self.bytes.truncate(self.bytes.len() - gone);
        self.in_files -= self
            .parts
            .drain(start.part()..next.part())
            .map(|part| part.len)
            .sum::<u64>();
        self.parts
            .iter_mut()
            .skip(start.part())
            .for_each(|part| part.at -= gone);
        self.commands.remove(n);
        for later in self.commands.iter_mut().skip(n) {
            later.at -= gone;
            later.part -= u32::try_from(gone_parts).unwrap_or_default();
        }
    }

    /// Appends the `n`th command of another one, as it is.
    pub fn append(&mut self, other: &Self, n: usize) {
        let Some(start) = other.commands.get(n).copied() else {
            return;
        };
        self.commands.push(Start {
            legible: start.legible,
            ..Start::new(self.bytes.len(), self.parts.len(), start.lsn())
        });
        self.append_unlisted(other, n);
    }

    /// The same of one for which nobody will ask here by its number.
    pub fn append_unlisted(&mut self, other: &Self, n: usize) {
        self.assert_finished();
        let Some(start) = other.commands.get(n).copied() else {
            return;
        };
        let next = other.commands.get(n + 1);
        let (end, end_part) = next.map_or((other.bytes.len(), other.parts.len()), |next| {
            (next.at, next.part())
        });
        let base = self.bytes.len();
        for part in other.parts.get(start.part()..end_part).unwrap_or_default() {
            self.in_files += part.len;
            self.parts.push(Part {
                at: part.at - start.at + base,
                spill: part.spill.clone(),
                offset: part.offset,
                len: part.len,
            });
        }
        let bytes = other.bytes.get(start.at..end).unwrap_or_default();
        self.bytes.extend_from_slice(bytes);
    }

    /// The entry the `n`th command was made from.
    pub fn lsn(&self, n: usize) -> Option<u64> {
        self.commands.get(n).and_then(|start| start.lsn())
    }

    /// Where the `n`th command starts; past the last one, the end.
    pub fn place_of(&self, n: usize) -> Place {
        match self.commands.get(n) {
            // Also where not all are listed.
            _ if n == 0 => Place::default(),
            Some(start) => Place {
                at: start.at,
                part: start.part(),
                in_part: 0,
            },
            None => Place {
                at: self.bytes.len(),
                part: self.parts.len(),
                in_part: 0,
            },
        }
    }

    /// What stands at a place.
    pub fn piece(&self, place: Place) -> Piece<'_> {
        let part = self.parts.get(place.part);
        match part {
            Some(part) if part.at <= place.at => Piece::File {
                spill: &part.spill,
                offset: part.offset + place.in_part,
                len: part.len - place.in_part,
            },
            _ => {
                let end = part.map_or(self.bytes.len(), |part| part.at);
                match self.bytes.get(place.at..end) {
                    Some(bytes) if !bytes.is_empty() => Piece::Bytes(bytes),
                    _ => Piece::End,
                }
            }
        }
    }

    /// The place `count` bytes further; `count` is at most the length of the piece at `place`.
    pub fn advance(&self, place: Place, count: u64) -> Place {
        let mut next = place;
        match self.piece(place) {
            Piece::Bytes(bytes) => {
                next.at += usize::try_from(count).map_or(bytes.len(), |n| n.min(bytes.len()))
            }
            Piece::File { len, .. } if count >= len => {
                next.part += 1;
                next.in_part = 0;
            }
            Piece::File { .. } => next.in_part += count,
            Piece::End => {}
        }
        next
    }

    #[inline]
    fn assert_finished(&self) {
        debug_assert_eq!(self.unfinished.words, 0, "a command without all its words");
        debug_assert_eq!(self.unfinished.word, None, "a word that was not ended");
    }

    #[inline]
    fn count_word(&mut self) {
        debug_assert_eq!(self.unfinished.word, None, "a word that was not ended");
        debug_assert!(self.unfinished.words > 0, "more words than declared");
        self.unfinished.words = self.unfinished.words.saturating_sub(1);
    }

    #[inline]
    fn count_bytes(&mut self, count: u64) {
        let left = self
            .unfinished
            .word
            .and_then(|left| left.checked_sub(count));
        debug_assert!(
            left.is_some(),
            "more bytes than declared, or no word started"
        );
        self.unfinished.word = left;
    }
}

#[cfg(test)]
mod tests;
