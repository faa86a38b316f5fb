//! Replies: where one ends and what kind it is, without building its value.
//!
//! Invariants: every byte is looked at once, however the stream is cut; what is kept of a reply is
//!   bounded by [`LINE`], [`ERRORS`] and [`Scanner::keep`], whatever lengths it claims; nesting is at most [`DEPTH`].
//! Facts: the Redis serialization protocol specification, versions 2 and 3, without the streamed
//!   types, which no release sends.

/// The answer to nearly every command.
pub const OK: &[u8; 5] = b"+OK\r\n";
/// The answer to one in a transaction.
pub const QUEUED: &[u8; 9] = b"+QUEUED\r\n";

/// Bytes kept of one line or error; an error text that is longer is cut.
const LINE: usize = 512;
/// Bytes of element errors kept for one reply; past them, errors are kept without their text.
const ERRORS: usize = 1 << 20;
/// Most element errors of one reply.
const ERROR_COUNT: usize = 1 << 20;
/// What a reply may begin with.
const SIGILS: &[u8] = b"+-:$*_#,(!=%~|>";
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
                None => {
                    self.take_usual(&mut rest);
                    if rest.is_empty() {
                        break;
                    }
                    self.take_line(&mut rest)?
                }
            };
            if let Some(reply) = value.and_then(|value| self.complete(value)) {
                return Ok((bytes.len() - rest.len(), Some(reply)));
            }
        }
        Ok((bytes.len(), None))
    }

    /// The fast path: elements of an array that are `OK` or natural numbers, as nearly all are that `EXEC` answers. Not
    /// the last one, nor one that is cut.
    fn take_usual(&mut self, rest: &mut &[u8]) {
        let [array] = self.stack.as_mut_slice() else {
            return;
        };
        if array.sigil != b'*' || !self.line.is_empty() {
            return;
        }
        while array.left > 1
            && let Some((len, is_zero)) = usual(rest)
        {
            if is_zero && self.note_zeros && self.zeros.len() < ERROR_COUNT {
                self.zeros.push(array.len - array.left);
            }
            array.left -= 1;
            *rest = rest.get(len..).unwrap_or_default();
        }
    }

    fn take_line(&mut self, rest: &mut &[u8]) -> Result<Option<Reply>, Garbage> {
        let (taken, ended) = match memchr::memchr(b'\n', rest) {
            Some(end) => (end, true),
            None => (rest.len(), false),
        };
        let (part, after) = rest.split_at(taken);
        *rest = after.get(usize::from(ended)..).unwrap_or_default();
        // Nearly all lines come whole, and need not be copied.
        if ended
            && self.line.is_empty()
            && part.len() < LINE
            && let Some(line) = part.strip_suffix(b"\r")
            && line.first().is_some_and(|sigil| SIGILS.contains(sigil))
        {
            return self.value_of(line);
        }
        let room = LINE - self.line.len();
        self.line
            .extend_from_slice(part.get(..room).unwrap_or(part));
        if let Some(last) = part.last() {
            self.after_cr = *last == b'\r';
        }
        match self.line.first() {
            None => return Err(garbage("an empty line", &self.line)),
            Some(sigil) if !SIGILS.contains(sigil) => {
                return Err(garbage("an unknown type", &self.line));
            }
            Some(b'+' | b'-') => {}
            Some(_) if self.line.len() == LINE => {
                return Err(garbage("an endless number", &self.line));
            }
            Some(_) => {}
        }
        if !ended {
            return Ok(None);
        }
        if !std::mem::take(&mut self.after_cr) {
            return Err(garbage("a line that does not end in CR LF", &self.line));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        let mut line = std::mem::take(&mut self.line);
        let value = self.value_of(&line);
        line.clear();
        self.line = line;
        value
    }

    /// What a whole line is: a value, or the beginning of one.
    fn value_of(&mut self, line: &[u8]) -> Result<Option<Reply>, Garbage> {
        let Some((sigil, text)) = line.split_first() else {
            return Err(garbage("an empty line", line));
        };
        match sigil {
            b'+' if text == b"OK" => Ok(Some(Reply::Ok)),
            b'+' if text == b"QUEUED" => Ok(Some(Reply::Queued)),
            b'+' | b'#' | b',' | b'(' => Ok(Some(Reply::Other)),
            b'_' => Ok(Some(Reply::Null)),
            b'-' => Ok(Some(Reply::Error(text.to_vec()))),
            b':' => match number(text) {
                Some(number) => Ok(Some(Reply::Integer(number))),
                None => Err(garbage("not an integer", line)),
            },
            _ => match number(text) {
                Some(-1) if matches!(sigil, b'$' | b'*') => Ok(Some(Reply::Null)),
                Some(len) if len >= 0 => self.begin(*sigil, len.unsigned_abs(), line),
                _ => Err(garbage("not a length", line)),
            },
        }
    }

    fn begin(&mut self, sigil: u8, len: u64, line: &[u8]) -> Result<Option<Reply>, Garbage> {
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
            return Err(garbage("nested too deeply", line));
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
                return Err(garbage("a string longer than its length", &self.line));
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
}

/// The length of a reply, or an array's element, that is whole, `OK` or a natural number; and whether that is 0.
pub fn usual(bytes: &[u8]) -> Option<(usize, bool)> {
    /// The greatest integer has one more.
    const DIGITS: usize = 18;
    let Some(text) = bytes.strip_prefix(b":") else {
        return bytes.starts_with(OK).then_some((OK.len(), false));
    };
    let mut is_zero = true;
    for (count, byte) in text.iter().take(DIGITS + 1).enumerate() {
        match byte {
            b'0'..=b'9' => is_zero &= *byte == b'0',
            b'\r' if count > 0 && text.get(count + 1) == Some(&b'\n') => {
                return Some((count + 3, is_zero));
            }
            _ => return None,
        }
    }
    None
}

/// The answers to a whole transaction of `count` commands, if they are all there and as nearly all are: how long they
/// are, and the first command that is answered with 0. Nothing of any other answers.
pub fn usual_transaction(bytes: &[u8], count: usize) -> Option<(usize, Option<usize>)> {
    let mut rest = bytes.strip_prefix(OK)?;
    for _ in 0..count {
        rest = rest.strip_prefix(QUEUED)?;
    }
    let (head, elements) = rest.split_at_checked(memchr::memchr(b'\n', rest)? + 1)?;
    let len = number(head.strip_prefix(b"*")?.strip_suffix(b"\r\n")?)?;
    rest = elements;
    if usize::try_from(len) != Ok(count) {
        return None;
    }
    let mut first_zero = None;
    for element in 0..count {
        let (len, is_zero) = usual(rest)?;
        if is_zero {
            first_zero = first_zero.or(Some(element));
        }
        rest = rest.get(len..)?;
    }
    Some((bytes.len() - rest.len(), first_zero))
}

fn garbage(what: &'static str, line: &[u8]) -> Garbage {
    Garbage {
        what,
        head: line.get(..64).unwrap_or(line).to_vec(),
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
mod tests;
