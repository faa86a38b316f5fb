//! Replies: where one ends and what kind it is, without building its value.
//!
//! Invariants: every byte is looked at once, however the stream is cut; what is kept of a reply is
//!   bounded by [`LINE`], [`ERRORS`] and [`Scanner::keep`], whatever lengths it claims; nesting is at most [`DEPTH`].
//! Facts: the Redis serialization protocol specification, versions 2 and 3, without the streamed
//!   types, which no release sends.

/// Bytes kept of one line or error; an error text that is longer is cut.
const LINE: usize = 512;
/// Bytes of element errors kept for one reply; past them, errors are kept without their text.
const ERRORS: usize = 1 << 20;
/// Most element errors of one reply.
const ERROR_COUNT: usize = 1 << 20;
/// Deepest nesting of aggregates.
const DEPTH: usize = 32;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Ok,
    /// `+QUEUED`
    Queued,
    /// A string, as far as it was to be kept.
    Text(Vec<u8>),
    /// Another scalar: a string that was not to be kept, a number that is no integer, a boolean.
    Other,
    /// An integer.
    Integer(i64),
    /// No value; for `EXEC`: not executed.
    Null,
    /// An error, without its sigil.
    Error(Vec<u8>),
    /// An array, set or map.
    Array {
        /// Number of elements; of a map, keys and values.
        len: u64,
        /// Elements of the array itself that are errors, in order.
        errors: Vec<ElementError>,
    },
    /// Not an answer to any command: RESP3 out-of-band bytes.
    Push,
}

/// An error as an element of an array, as `EXEC` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementError {
    /// Which element, the first being 0.
    pub index: u64,
    /// The error, without its sigil.
    pub text: Vec<u8>,
}

/// Bytes that are no reply. The connection cannot be used further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a reply ({what}): \"{}\"", .head.escape_ascii())]
pub struct Garbage {
    /// What is wrong.
    pub what: &'static str,
    /// The beginning of the offending line.
    pub head: Vec<u8>,
}

/// Finds the ends of replies in a stream of bytes.
#[derive(Debug, Default)]
pub struct Scanner {
    /// What was kept of the unfinished line, or of a bulk error.
    line: Vec<u8>,
    /// Whether the byte before was a CR.
    after_cr: bool,
    /// Content and CR LF of a bulk string still to come.
    bulk: Option<Bulk>,
    stack: Vec<Aggregate>,
    /// Most bytes of a string to be kept.
    keep: usize,
    /// What was kept of the unfinished string.
    kept: Vec<u8>,
    errors: Vec<ElementError>,
    error_bytes: usize,
    /// Whether elements that are 0, or have an element -2, are noted.
    note_zeros: bool,
    zeros: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Bulk {
    content: u64,
    end: u8,
    is_error: bool,
    is_kept: bool,
}

#[derive(Debug, Clone, Copy)]
struct Aggregate {
    sigil: u8,
    len: u64,
    left: u64,
}

impl Scanner {
    /// At the beginning of a reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// From the next reply on, bulk strings that are no part of another value are kept, up to `most` bytes of each. 0,
    /// which it is at first, keeps none.
    #[inline]
    pub fn keep(&mut self, most: usize) {
        self.keep = most;
    }

    /// From the next reply on, it is noted which elements of an array are the integer 0, or an array with an element -2;
    /// or no longer.
    #[inline]
    pub fn note_zeros(&mut self, wanted: bool) {
        self.note_zeros = wanted;
        self.zeros.clear();
    }

    /// The first of those that [`take_zeros`](Self::take_zeros) yields.
    pub fn first_zero(&self) -> Option<u64> {
        self.zeros.first().copied()
    }

    /// The elements of the last array that were so, in order, the first being 0. At most 2^20.
    pub fn take_zeros(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.zeros)
    }

    /// Whether no reply has been begun.
    #[inline]
    pub fn is_between(&self) -> bool {
        self.line.is_empty() && self.bulk.is_none() && self.stack.is_empty()
    }

    /// Consumes bytes up to the end of one reply. Yields how many were consumed, and the reply if
    /// its end was among them; without one, all were consumed.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Reply>), Garbage> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let value = match self.bulk {
                Some(bulk) => self.take_bulk(bulk, &mut rest)?,
                None => self.take_line(&mut rest)?,
            };
            if let Some(reply) = value.and_then(|value| self.complete(value)) {
                return Ok((bytes.len() - rest.len(), Some(reply)));
            }
        }
        Ok((bytes.len(), None))
    }

    fn take_line(&mut self, rest: &mut &[u8]) -> Result<Option<Reply>, Garbage> {
        let (taken, ended) = match memchr::memchr(b'\n', rest) {
            Some(end) => (end, true),
            None => (rest.len(), false),
        };
        let (part, after) = rest.split_at(taken);
        *rest = after.get(usize::from(ended)..).unwrap_or_default();
        let room = LINE - self.line.len();
        self.line
            .extend_from_slice(part.get(..room).unwrap_or(part));
        if let Some(last) = part.last() {
            self.after_cr = *last == b'\r';
        }
        match self.line.first() {
            None => return Err(self.garbage("an empty line")),
            Some(sigil) if !b"+-:$*_#,(!=%~|>".contains(sigil) => {
                return Err(self.garbage("an unknown type"));
            }
            Some(b'+' | b'-') => {}
            Some(_) if self.line.len() == LINE => return Err(self.garbage("an endless number")),
            Some(_) => {}
        }
        if !ended {
            return Ok(None);
        }
        if !std::mem::take(&mut self.after_cr) {
            return Err(self.garbage("a line that does not end in CR LF"));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        let value = self.value_of_line();
        self.line.clear();
        value
    }

    /// What a whole line is: a value, or the beginning of one.
    fn value_of_line(&mut self) -> Result<Option<Reply>, Garbage> {
        let Some((sigil, text)) = self.line.split_first() else {
            return Err(self.garbage("an empty line"));
        };
        match sigil {
            b'+' if text == b"OK" => Ok(Some(Reply::Ok)),
            b'+' if text == b"QUEUED" => Ok(Some(Reply::Queued)),
            b'+' | b'#' | b',' | b'(' => Ok(Some(Reply::Other)),
            b'_' => Ok(Some(Reply::Null)),
            b'-' => Ok(Some(Reply::Error(text.to_vec()))),
            b':' => match number(text) {
                Some(number) => Ok(Some(Reply::Integer(number))),
                None => Err(self.garbage("not an integer")),
            },
            _ => match number(text) {
                Some(-1) if matches!(sigil, b'$' | b'*') => Ok(Some(Reply::Null)),
                Some(len) if len >= 0 => self.begin(*sigil, len.unsigned_abs()),
                _ => Err(self.garbage("not a length")),
            },
        }
    }

    fn begin(&mut self, sigil: u8, len: u64) -> Result<Option<Reply>, Garbage> {
        if matches!(sigil, b'$' | b'=' | b'!') {
            self.bulk = Some(Bulk {
                content: len,
                end: 2,
                is_error: sigil == b'!',
                is_kept: sigil == b'$' && self.keep > 0 && self.stack.is_empty(),
            });
            return Ok(None);
        }
        let len = match sigil {
            // A length is at most 2^63 - 1.
            b'%' | b'|' => len * 2,
            _ => len,
        };
        if len == 0 && sigil == b'|' {
            return Ok(None);
        }
        if len == 0 {
            return Ok(Some(aggregate(sigil, 0, Vec::new())));
        }
        if self.stack.len() == DEPTH {
            return Err(self.garbage("nested too deeply"));
        }
        self.stack.push(Aggregate {
            sigil,
            len,
            left: len,
        });
        Ok(None)
    }

    fn take_bulk(&mut self, mut bulk: Bulk, rest: &mut &[u8]) -> Result<Option<Reply>, Garbage> {
        let count = usize::try_from(bulk.content)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        let (content, after) = rest.split_at(count);
        *rest = after;
        bulk.content -= count as u64;
        if bulk.is_kept {
            let room = self.keep.saturating_sub(self.kept.len());
            self.kept
                .extend_from_slice(content.get(..room).unwrap_or(content));
        }
        if bulk.is_error {
            let room = LINE - self.line.len();
            self.line
                .extend_from_slice(content.get(..room).unwrap_or(content));
        }
        while bulk.content == 0 && bulk.end > 0 {
            let Some((byte, after)) = rest.split_first() else {
                break;
            };
            let expected = if bulk.end == 2 { b'\r' } else { b'\n' };
            if *byte != expected {
                return Err(self.garbage("a string longer than its length"));
            }
            bulk.end -= 1;
            *rest = after;
        }
        if bulk.end > 0 {
            self.bulk = Some(bulk);
            return Ok(None);
        }
        self.bulk = None;
        Ok(Some(match (bulk.is_error, bulk.is_kept) {
            (true, _) => Reply::Error(std::mem::take(&mut self.line)),
            (false, true) => Reply::Text(std::mem::take(&mut self.kept)),
            (false, false) => Reply::Other,
        }))
    }

    /// A value is complete; with it, perhaps, what it is part of.
    fn complete(&mut self, value: Reply) -> Option<Reply> {
        let depth = self.stack.len();
        if self.note_zeros
            && matches!(
                (depth, &value),
                (1, Reply::Integer(0)) | (2, Reply::Integer(-2))
            )
        {
            self.note_element();
        }
        let Some(parent) = self.stack.last_mut() else {
            return Some(value);
        };
        if let Reply::Error(text) = value
            && depth == 1
            && matches!(parent.sigil, b'*' | b'~' | b'%')
            && self.errors.len() < ERROR_COUNT
        {
            let index = parent.len - parent.left;
            let text = match self.error_bytes + text.len() <= ERRORS {
                true => text,
                false => Vec::new(),
            };
            self.error_bytes += text.len();
            self.errors.push(ElementError { index, text });
        }
        while let Some(parent) = self.stack.last_mut() {
            parent.left -= 1;
            if parent.left > 0 {
                return None;
            }
            let whole = *parent;
            self.stack.pop();
            if whole.sigil == b'|' {
                // An attribute is no value: what it describes is still to come.
                return None;
            }
            if self.stack.is_empty() {
                self.error_bytes = 0;
                let errors = std::mem::take(&mut self.errors);
                return Some(aggregate(whole.sigil, whole.len, errors));
            }
        }
        None
    }

    /// Notes the element of the outermost array that is being read, once.
    fn note_element(&mut self) {
        if let Some(outermost) = self.stack.first() {
            let element = outermost.len - outermost.left;
            if self.zeros.len() < ERROR_COUNT && self.zeros.last() != Some(&element) {
                self.zeros.push(element);
            }
        }
    }

    fn garbage(&self, what: &'static str) -> Garbage {
        Garbage {
            what,
            head: self.line.get(..64).unwrap_or(&self.line).to_vec(),
        }
    }
}

fn aggregate(sigil: u8, len: u64, errors: Vec<ElementError>) -> Reply {
    match sigil {
        b'>' => Reply::Push,
        _ => Reply::Array { len, errors },
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds bytes in pieces of the given sizes, the last of which repeats.
    fn scan(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Reply>, Garbage> {
        let mut scanner = Scanner::new();
        let mut replies = Vec::new();
        let mut rest = bytes;
        let mut cuts = cuts.iter().copied().chain(std::iter::repeat(7));
        while !rest.is_empty() {
            let (mut piece, after) = rest.split_at(cuts.next().unwrap().clamp(1, rest.len()));
            rest = after;
            while !piece.is_empty() {
                let (used, reply) = scanner.feed(piece)?;
                assert!(used > 0);
                assert!(reply.is_some() || used == piece.len());
                assert!(scanner.line.len() <= LINE && scanner.stack.len() <= DEPTH);
                assert!(scanner.line.capacity() <= 2 * LINE, "memory is bounded");
                replies.extend(reply);
                piece = &piece[used..];
            }
        }
        Ok(replies)
    }

    /// A value as a test makes it, with its bytes and the reply it must be scanned as.
    #[derive(Debug, Clone)]
    enum Value {
        Simple(String),
        Error(String),
        Integer(i64),
        Bulk(Vec<u8>),
        BulkError(String),
        Null(&'static str),
        Aggregate(u8, Vec<Value>),
        Described(Vec<Value>, Box<Value>),
    }

    impl Value {
        fn encode(&self, out: &mut Vec<u8>) {
            match self {
                Self::Simple(text) => out.extend(format!("+{text}\r\n").bytes()),
                Self::Error(text) => out.extend(format!("-{text}\r\n").bytes()),
                Self::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
                Self::Bulk(bytes) => {
                    out.extend(format!("${}\r\n", bytes.len()).bytes());
                    out.extend(bytes);
                    out.extend(b"\r\n");
                }
                Self::BulkError(text) => {
                    out.extend(format!("!{}\r\n{text}\r\n", text.len()).bytes())
                }
                Self::Null(form) => out.extend(form.bytes()),
                Self::Aggregate(sigil, elements) => {
                    let pairs = *sigil == b'%';
                    let count = elements.len() / if pairs { 2 } else { 1 };
                    out.push(*sigil);
                    out.extend(format!("{count}\r\n").bytes());
                    let used = if pairs { count * 2 } else { count };
                    elements
                        .iter()
                        .take(used)
                        .for_each(|element| element.encode(out));
                }
                Self::Described(attributes, value) => {
                    out.extend(format!("|{}\r\n", attributes.len() / 2).bytes());
                    let used = attributes.len() / 2 * 2;
                    attributes
                        .iter()
                        .take(used)
                        .for_each(|element| element.encode(out));
                    value.encode(out);
                }
            }
        }

        fn reply(&self) -> Reply {
            match self {
                Self::Simple(text) if text == "OK" => Reply::Ok,
                Self::Simple(text) if text == "QUEUED" => Reply::Queued,
                Self::Simple(_) | Self::Bulk(_) => Reply::Other,
                Self::Error(text) | Self::BulkError(text) => {
                    Reply::Error(text.clone().into_bytes())
                }
                Self::Integer(number) => Reply::Integer(*number),
                Self::Null(_) => Reply::Null,
                Self::Aggregate(b'>', _) => Reply::Push,
                Self::Aggregate(sigil, elements) => {
                    let len = elements.len()
                        - if *sigil == b'%' {
                            elements.len() % 2
                        } else {
                            0
                        };
                    let errors = (0u64..)
                        .zip(elements.iter().take(len))
                        .filter_map(|(index, element)| match element.reply() {
                            Reply::Error(text) => Some(ElementError { index, text }),
                            _ => None,
                        })
                        .collect();
                    Reply::Array {
                        len: len as u64,
                        errors,
                    }
                }
                Self::Described(_, value) => value.reply(),
            }
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Simple("OK".into())),
            Just(Value::Simple("QUEUED".into())),
            "[ -~]{0,20}".prop_map(Value::Simple),
            "[ -~]{0,20}".prop_map(Value::Error),
            "[ -~\r\n]{0,20}".prop_map(Value::BulkError),
            any::<i64>().prop_map(Value::Integer),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bulk),
            Just(Value::Null("$-1\r\n")),
            Just(Value::Null("*-1\r\n")),
            Just(Value::Null("_\r\n")),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                (
                    prop::sample::select(&b"*~%>"[..]),
                    prop::collection::vec(inner.clone(), 0..6)
                )
                    .prop_map(|(sigil, elements)| Value::Aggregate(sigil, elements)),
                (prop::collection::vec(inner.clone(), 0..4), inner)
                    .prop_map(|(attributes, value)| Value::Described(attributes, Box::new(value))),
            ]
        })
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| ["*1\r\n".repeat(depth), "+OK\r\n".into()].concat();
        assert!(scan(nested(DEPTH).as_bytes(), &[]).is_ok());
        let error = scan(nested(DEPTH + 1).as_bytes(), &[]).unwrap_err();
        assert_eq!(error.what, "nested too deeply");
    }

    #[test]
    fn what_is_no_redis_is_refused_at_once() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"\r\n",
            b"\n",
            b"+OK\n",
            b":12x\r\n",
            b"$-2\r\n",
            b"*9999999999999999999999\r\n",
            b"$3\r\nabcd\r\n",
            b"$\r\n",
        ] {
            for cut in [1, 100] {
                assert!(scan(bytes, &[cut; 64]).is_err(), "{bytes:?}");
            }
        }
        assert_eq!(
            scan(b"HTTP/1.1", &[8]).unwrap_err().to_string(),
            "not a reply (an unknown type): \"HTTP/1.1\""
        );
    }

    #[test]
    fn claimed_lengths_and_long_lines_cost_no_memory() {
        let long = [
            b"-ERR ".to_vec(),
            vec![b'x'; 100_000],
            b"\r\n:1\r\n".to_vec(),
        ]
        .concat();
        let replies = scan(&long, &[4096; 64]).unwrap();
        assert!(matches!(&replies[0], Reply::Error(text) if text.len() == LINE - 1));
        assert_eq!(replies[1], Reply::Integer(1));
        assert_eq!(
            scan(b"*9223372036854775807\r\n%9223372036854775807\r\n", &[]),
            Ok(vec![])
        );
        assert_eq!(scan(b"$9223372036854775807\r\nabc", &[]), Ok(vec![]));
        assert!(scan(&[b":".to_vec(), vec![b'1'; 1000]].concat(), &[]).is_err());
    }

    proptest! {
        #[test]
        fn only_strings_of_their_own_are_kept_and_no_more_of_them_than_wanted(
            text in prop::collection::vec(any::<u8>(), 0..40),
            most in 0usize..30,
            cut in 1usize..20,
        ) {
            let mut string = Vec::new();
            Value::Bulk(text.clone()).encode(&mut string);
            let bytes = [b"*1\r\n", &string[..], &string[..], b"+OK\r\n"].concat();
            let mut scanner = Scanner::new();
            scanner.keep(most);
            let mut replies = Vec::new();
            for mut piece in bytes.chunks(cut) {
                while !piece.is_empty() {
                    let (used, reply) = scanner.feed(piece).unwrap();
                    replies.extend(reply);
                    piece = &piece[used..];
                }
            }
            let kept = match most {
                0 => Reply::Other,
                _ => Reply::Text(text[..most.min(text.len())].to_vec()),
            };
            prop_assert_eq!(&replies[1..], [kept, Reply::Ok]);
            let array = matches!(replies[0], Reply::Array { len: 1, .. });
            prop_assert!(array);
        }

        #[test]
        fn replies_are_found_however_the_stream_is_cut(
            values in prop::collection::vec(values(), 1..8),
            cuts in prop::collection::vec(1usize..30, 0..60),
        ) {
            let mut bytes = Vec::new();
            values.iter().for_each(|value| value.encode(&mut bytes));
            let expected: Vec<_> = values.iter().map(Value::reply).collect();
            prop_assert_eq!(scan(&bytes, &cuts), Ok(expected.clone()));
            prop_assert_eq!(scan(&bytes, &[bytes.len()]), Ok(expected));
        }

        #[test]
        fn arbitrary_bytes_scan_alike_however_they_are_cut(
            bytes in prop::collection::vec(prop::sample::select(&b"+-:$*_#,(!=%~|>012\r\n\r\n\r\nOK"[..]), 0..80),
            cuts in prop::collection::vec(1usize..9, 0..40),
        ) {
            let whole = scan(&bytes, &[bytes.len().max(1)]).map_err(|garbage| garbage.what);
            let cut = scan(&bytes, &cuts).map_err(|garbage| garbage.what);
            prop_assert_eq!(whole, cut);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan(&bytes, &[]);
        }
    }
}
