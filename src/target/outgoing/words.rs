//! What encoded commands say, read back from the buffer and its files.

use std::io::{self, Write};

use super::{Outgoing, Piece, Place};
use crate::rdb::Cursor;

/// How much of a file is held in memory while it is copied.
const COPY: usize = 64 << 10;

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

/// How a command begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning<'a> {
    /// Number of its words, the name included.
    pub words: usize,
    /// Its name.
    pub name: &'a [u8],
    /// The word behind the name, if there is one.
    pub second: Option<&'a [u8]>,
}

/// One word of an encoded command.
#[derive(Debug, Clone)]
pub struct Word<'a> {
    out: &'a Outgoing,
    place: Place,
    len: u64,
}

impl Outgoing {
    /// The `index`th word of the `n`th command, the name being word 0; `None` where there is none, or where it stands
    /// in a tail.
    pub fn word_at(&self, n: usize, index: usize) -> Option<Word<'_>> {
        let start = self.commands.get(n)?;
        let mut place = self.place_of(n);
        let count = self.header(&mut place)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if index >= start.legible().unwrap_or(count).min(count) {
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

    /// The words of the `n`th command, its name first; without those of a tail.
    pub fn words(&self, n: usize) -> impl Iterator<Item = Word<'_>> {
        let mut place = self.place_of(n);
        let count = self.header(&mut place).unwrap_or(0);
        let legible = self.commands.get(n).and_then(|start| start.legible());
        let mut left = legible.map_or(count, |words| words as u64);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let len = self.header(&mut place)?;
            let word = Word {
                out: self,
                place,
                len,
            };
            // The content and its CR LF.
            place = self.skip(place, len + 2);
            Some(word)
        })
    }

    /// Number of words of the `n`th command, its name and those of a tail included.
    pub fn word_count(&self, n: usize) -> usize {
        let count = self.header(&mut self.place_of(n));
        count.map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The `n`th command, cut to what an operator can read.
    pub fn describe(&self, n: usize) -> Described {
        let mut heads = self
            .words(n)
            .take(Described::WORDS + 1)
            .map(|word| word.head(Described::BYTES));
        let name = heads.next().unwrap_or_default();
        Described {
            name: String::from_utf8_lossy(&name).to_ascii_uppercase(),
            words: heads.collect(),
            count: self.words(n).count(),
            lsn: self.lsn(n),
        }
    }

    /// How the `n`th command begins; nothing if any of that is in a file.
    pub fn beginning(&self, n: usize) -> Option<Beginning<'_>> {
        let mut rest = self.in_one(n).filter(|_| self.parts.is_empty())?;
        let count = sized(&mut rest)?;
        let mut word = || {
            let len = usize::try_from(sized(&mut rest)?).ok()?;
            let word = rest.get(..len)?;
            rest = rest.get(len.checked_add(2)?..)?;
            Some(word)
        };
        let name = word()?;
        Some(Beginning {
            words: usize::try_from(count).ok()?,
            name,
            second: word().filter(|_| count > 1),
        })
    }

    /// Reads `*<n>\r\n` or `$<n>\r\n`, which never stand in a file.
    fn header(&self, place: &mut Place) -> Option<u64> {
        let mut rest = self.bytes.get(place.at..)?;
        let number = sized(&mut rest)?;
        place.at = self.bytes.len() - rest.len();
        Some(number)
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
}

/// Reads `*<n>\r\n` or `$<n>\r\n`.
#[inline]
fn sized(rest: &mut &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    // Nearly all have one or two digits.
    if let [_, one, b'\r', _, behind @ ..] = *rest {
        *rest = behind;
        return digit(one);
    }
    if let [_, ten, one, b'\r', _, behind @ ..] = *rest {
        *rest = behind;
        return Some(digit(ten)? * 10 + digit(one)?);
    }
    let (mut number, mut count) = (0_u64, 0);
    // Few: it is not worth looking for the end first.
    for byte in rest.get(1..)? {
        match byte {
            b'0'..=b'9' => {
                number = number
                    .checked_mul(10)?
                    .checked_add(u64::from(byte - b'0'))?;
                count += 1;
            }
            _ => break,
        }
    }
    // The sigil, the digits, CR LF.
    *rest = rest.get(count + 3..).filter(|_| count > 0)?;
    Some(number)
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
