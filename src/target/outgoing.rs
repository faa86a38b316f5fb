//! Encoded commands on their way out: one buffer, and the parts of it that stand in files.
//!
//! Invariants: `commands` are in order of their offsets; so are `parts`, each of which belongs
//!   between the bytes before and from its offset on; a part is never empty. What is declared (words of a
//!   command, bytes of a word) is what follows, or debug builds panic.
//! Units: lengths on the wire are bytes, file parts included, unless they say "in memory".

use std::io::{self, Write};

use bytes::BytesMut;

use crate::entry::Spill;
use crate::rdb::Cursor;
use crate::resp;

/// How much of a file is held in memory while it is copied.
const COPY: usize = 64 << 10;

/// Encoded commands, in order.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: BytesMut,
    commands: Vec<Start>,
    parts: Vec<Part>,
    in_files: u64,
    unfinished: Unfinished,
}

/// Where a command starts.
#[derive(Debug, Clone, Copy)]
struct Start {
    at: usize,
    part: usize,
    lsn: Option<u64>,
    /// Words whose heads are in memory; those behind stand encoded in a file.
    legible: Option<usize>,
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

/// A command as an operator may see it: for errors and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name, in upper case.
    pub name: String,
    /// The words after the name, at most [`Described::WORDS`], each cut at [`Described::BYTES`].
    pub words: Vec<Vec<u8>>,
    /// Number of words, the name included.
    pub count: usize,
    /// What the command was started with.
    pub lsn: Option<u64>,
}

impl Described {
    /// Most words that are kept.
    pub const WORDS: usize = 8;
    /// Most bytes of a word that are kept.
    pub const BYTES: usize = 512;

    /// The first word after the name, where most commands have their key.
    pub fn key(&self) -> &[u8] {
        self.words.first().map(Vec::as_slice).unwrap_or_default()
    }
}

/// One word of an encoded command.
#[derive(Debug, Clone)]
pub struct Word<'a> {
    out: &'a Outgoing,
    place: Place,
    len: u64,
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
        self.commands.push(Start {
            at: self.bytes.len(),
            part: self.parts.len(),
            lsn,
            legible: None,
        });
        self.unfinished.words = words;
        resp::command_start(&mut self.bytes, words);
    }

    /// Appends a command of our own that is encoded already, in pieces.
    #[inline]
    pub fn encoded(&mut self, pieces: &[&[u8]]) {
        self.assert_finished();
        self.commands.push(Start {
            at: self.bytes.len(),
            part: self.parts.len(),
            lsn: None,
            legible: None,
        });
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
            start.legible = Some(head.len());
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
                .drain(start.part..)
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
        let (gone, gone_parts) = (next.at - start.at, next.part - start.part);
        self.bytes.copy_within(next.at.., start.at);
        self.bytes.truncate(self.bytes.len() - gone);
        self.in_files -= self
            .parts
            .drain(start.part..next.part)
            .map(|part| part.len)
            .sum::<u64>();
        self.parts
            .iter_mut()
            .skip(start.part)
            .for_each(|part| part.at -= gone);
        self.commands.remove(n);
        for later in self.commands.iter_mut().skip(n) {
            later.at -= gone;
            later.part -= gone_parts;
        }
    }

    /// Appends the `n`th command of another one, as it is.
    pub fn append(&mut self, other: &Self, n: usize) {
        self.assert_finished();
        let Some(start) = other.commands.get(n).copied() else {
            return;
        };
        let next = other.commands.get(n + 1);
        let (end, end_part) = next.map_or((other.bytes.len(), other.parts.len()), |next| {
            (next.at, next.part)
        });
        let base = self.bytes.len();
        self.commands.push(Start {
            at: base,
            part: self.parts.len(),
            ..start
        });
        for part in other.parts.get(start.part..end_part).unwrap_or_default() {
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

    /// The `index`th word of the `n`th command, the name being word 0; `None` where there is none, or where it stands
    /// in a tail.
    pub fn word_at(&self, n: usize, index: usize) -> Option<Word<'_>> {
        let start = self.commands.get(n)?;
        let mut place = self.place_of(n);
        let count = self.header(&mut place)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if index >= start.legible.unwrap_or(count).min(count) {
            return None;
        }
        for _ in 0..index {
            let len = self.header(&mut place)?;
            place = self.skip(place, len + 2);
        }
        let len = self.header(&mut place)?;
        Some(Word {
            out: self,
            place,
            len,
        })
    }

    /// The entry the `n`th command was made from.
    pub fn lsn(&self, n: usize) -> Option<u64> {
        self.commands.get(n).and_then(|start| start.lsn)
    }

    /// Where the `n`th command starts; past the last one, the end.
    pub fn place_of(&self, n: usize) -> Place {
        match self.commands.get(n) {
            Some(start) => Place {
                at: start.at,
                part: start.part,
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

    /// The words of the `n`th command, its name first; without those of a tail.
    pub fn words(&self, n: usize) -> Vec<Word<'_>> {
        let mut words = Vec::new();
        let mut place = self.place_of(n);
        let Some(count) = self.header(&mut place) else {
            return words;
        };
        let legible = self.commands.get(n).and_then(|start| start.legible);
        for _ in 0..legible.map_or(count, |words| words as u64) {
            let Some(len) = self.header(&mut place) else {
                break;
            };
            words.push(Word {
                out: self,
                place,
                len,
            });
            // The content and its CR LF.
            place = self.skip(place, len + 2);
        }
        words
    }

    /// Number of words of the `n`th command, its name and those of a tail included.
    pub fn word_count(&self, n: usize) -> usize {
        let count = self.header(&mut self.place_of(n));
        count.map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The `n`th command, cut to what an operator can read.
    pub fn describe(&self, n: usize) -> Described {
        let words = self.words(n);
        let mut heads = words
            .iter()
            .take(Described::WORDS + 1)
            .map(|word| word.head(Described::BYTES));
        let name = heads.next().unwrap_or_default();
        Described {
            name: String::from_utf8_lossy(&name).to_ascii_uppercase(),
            words: heads.collect(),
            count: words.len(),
            lsn: self.lsn(n),
        }
    }

    /// Reads `*<n>\r\n` or `$<n>\r\n`, which never stand in a file.
    fn header(&self, place: &mut Place) -> Option<u64> {
        let rest = self.bytes.get(place.at..)?;
        let end = memchr::memchr(b'\n', rest)?;
        let digits = rest.get(1..end.checked_sub(1)?)?;
        place.at += end + 1;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    fn skip(&self, mut place: Place, mut count: u64) -> Place {
        while count > 0 {
            let here = match self.piece(place) {
                Piece::Bytes(bytes) => count.min(bytes.len() as u64),
                Piece::File { len, .. } => count.min(len),
                Piece::End => break,
            };
            place = self.advance(place, here);
            count -= here;
        }
        place
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

impl<'a> Word<'a> {
    /// Its bytes, unless some of them are in a file.
    pub fn in_memory(&self) -> Option<&'a [u8]> {
        match self.out.piece(self.place) {
            _ if self.len == 0 => Some(&[]),
            Piece::Bytes(bytes) => bytes.get(..usize::try_from(self.len).ok()?),
            Piece::File { .. } | Piece::End => None,
        }
    }
}

impl Word<'_> {
    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is the empty word.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// At most `limit` bytes of its beginning. Those that cannot be read from a file are missing.
    pub fn head(&self, limit: usize) -> Vec<u8> {
        let mut head = Vec::new();
        // What was read before an error is still worth showing.
        let _ = self.copy_some(&mut head, self.len.min(limit as u64));
        head
    }

    /// Writes all its bytes, reading files in small pieces.
    pub fn copy_to(&self, to: &mut dyn Write) -> io::Result<()> {
        self.copy_some(to, self.len)
    }

    fn copy_some(&self, to: &mut dyn Write, mut left: u64) -> io::Result<()> {
        let mut place = self.place;
        let mut buffer = Vec::new();
        while left > 0 {
            let copied = match self.out.piece(place) {
                Piece::Bytes(bytes) => {
                    let mut cursor = Cursor::new(bytes);
                    let count = left.min(bytes.len() as u64);
                    to.write_all(cursor.take(count, bytes.len()).unwrap_or_default())?;
                    count
                }
                Piece::File { spill, offset, len } => {
                    let wanted = left.min(len).min(COPY as u64) as usize;
                    buffer.resize(wanted, 0);
                    let read = spill.read_at(&mut buffer, offset)?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    buffer.truncate(read);
                    to.write_all(&buffer)?;
                    read as u64
                }
                Piece::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            place = self.out.advance(place, copied);
            left -= copied;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::SpillWriter;
    use proptest::prelude::*;

    fn spill(bytes: &[u8]) -> Spill {
        let mut writer = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
        writer.write(bytes).unwrap();
        writer.finish()
    }

    fn wire(out: &Outgoing, mut place: Place) -> Vec<u8> {
        let mut wire = Vec::new();
        loop {
            let count = match out.piece(place) {
                Piece::Bytes(bytes) => {
                    wire.extend_from_slice(bytes);
                    bytes.len() as u64
                }
                Piece::File { spill, offset, len } => {
                    let mut buffer = vec![0; len.min(3) as usize];
                    let read = spill.read_at(&mut buffer, offset).unwrap();
                    wire.extend_from_slice(&buffer[..read]);
                    read as u64
                }
                Piece::End => return wire,
            };
            place = out.advance(place, count);
        }
    }

    fn three() -> Outgoing {
        let mut out = Outgoing::new();
        out.command(3, Some(7));
        out.word(b"set");
        out.word(b"k");
        out.int(-12);
        out.command(4, Some(8));
        out.word(b"RESTORE");
        out.word(b"big");
        out.word(b"0");
        out.word_of(13);
        out.raw(b"<");
        out.file(&spill(b"0123456789"), 2, 6);
        out.raw(b"|");
        out.file(&spill(b"abcd"), 0, 4);
        out.raw(b">");
        out.end_word();
        out.command(2, None);
        out.word(b"DEL");
        out.word(b"gone");
        out
    }

    const FIRST: &[u8] = b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$3\r\n-12\r\n";
    const SECOND: &[u8] =
        b"*4\r\n$7\r\nRESTORE\r\n$3\r\nbig\r\n$1\r\n0\r\n$13\r\n<234567|abcd>\r\n";
    const THIRD: &[u8] = b"*2\r\n$3\r\nDEL\r\n$4\r\ngone\r\n";

    #[test]
    fn file_parts_stand_where_they_were_put() {
        let out = three();
        let expected = [FIRST, SECOND, THIRD].concat();
        assert_eq!(wire(&out, Place::default()), expected);
        assert_eq!(out.len(), expected.len() as u64);
        assert_eq!(out.in_memory(), expected.len() - 10);
        assert_eq!(wire(&out, out.place_of(1)), [SECOND, THIRD].concat());
        assert_eq!(wire(&out, out.place_of(3)), b"");
    }

    #[test]
    fn a_command_is_described_by_what_was_encoded() {
        let out = three();
        let first = out.describe(0);
        assert_eq!((first.name.as_str(), first.key()), ("SET", &b"k"[..]));
        assert_eq!((first.count, first.lsn), (3, Some(7)));
        let second = out.describe(1);
        assert_eq!(second.words[2], b"<234567|abcd>");
        let mut copy = Vec::new();
        out.words(1)[3].copy_to(&mut copy).unwrap();
        assert_eq!(copy, b"<234567|abcd>");
        assert_eq!(out.describe(2).key(), b"gone");
        assert_eq!(out.describe(3).name, "");
    }

    #[test]
    fn a_removed_command_leaves_the_others_as_they_were() {
        for (gone, rest) in [
            (0, [SECOND, THIRD]),
            (1, [FIRST, THIRD]),
            (2, [FIRST, SECOND]),
        ] {
            let mut out = three();
            out.remove(gone);
            assert_eq!(wire(&out, Place::default()), rest.concat());
            assert_eq!(wire(&out, out.place_of(1)), rest[1]);
            assert_eq!(out.len(), rest.concat().len() as u64);
            out.truncate_to(1);
            assert_eq!(wire(&out, Place::default()), rest[0]);
            assert_eq!(out.len(), rest[0].len() as u64);
        }
    }

    #[test]
    fn a_command_is_appended_as_it_is_with_what_it_has_in_files() {
        let (from, mut to) = (three(), Outgoing::new());
        for n in [1, 0, 2, 1] {
            to.append(&from, n);
        }
        assert_eq!(
            wire(&to, Place::default()),
            [SECOND, FIRST, THIRD, SECOND].concat()
        );
        assert_eq!(wire(&to, to.place_of(2)), [THIRD, SECOND].concat());
        assert_eq!((to.lsn(0), to.lsn(1), to.commands()), (Some(8), Some(7), 4));
        let word = |n, index| to.word_at(n, index).map(|word| word.head(9));
        assert_eq!(word(0, 1), Some(b"big".to_vec()));
        assert_eq!(word(3, 3), Some(b"<234567|a".to_vec()));
        assert_eq!(word(1, 3), None);
        assert_eq!(to.word_at(0, 3).unwrap().in_memory(), None);
        assert_eq!(to.word_at(1, 1).unwrap().in_memory(), Some(&b"k"[..]));
    }

    proptest! {
        #[test]
        fn words_come_back_as_they_went_in(
            commands in prop::collection::vec(
                prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 1..6),
                0..6,
            ),
        ) {
            let mut out = Outgoing::new();
            for words in &commands {
                out.command(words.len(), None);
                for (word, in_file) in words {
                    if *in_file {
                        out.word_of(word.len() as u64);
                        out.file(&spill(word), 0, word.len() as u64);
                        out.end_word();
                    } else {
                        out.word(word);
                    }
                }
            }
            prop_assert_eq!(out.commands(), commands.len());
            prop_assert_eq!(out.len(), wire(&out, Place::default()).len() as u64);
            for (n, words) in commands.iter().enumerate() {
                let read: Vec<_> = out.words(n).iter().map(|word| word.head(100)).collect();
                let expected: Vec<_> = words.iter().map(|(word, _)| word.clone()).collect();
                prop_assert_eq!(read, expected);
            }
        }
    }
}
