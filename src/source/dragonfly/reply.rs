//! Replies of the handshake and of ordinary requests: RESP2 and RESP3, bounded.
//! Invariants: no reply over [`REPLY_MAX`] bytes, deeper than [`DEPTH_MAX`] or with more than
//!   [`ELEMENTS_MAX`] elements is read; nothing is reserved by a count.

use crate::rdb::{Cursor, Halt};

/// Longest reply. 16 MiB: none of the handshake is near it.
const REPLY_MAX: usize = 16 << 20;

/// Longest line: simple strings, errors, numbers.
const LINE_MAX: usize = 64 << 10;

const DEPTH_MAX: u8 = 8;

const ELEMENTS_MAX: u64 = 1 << 16;

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A simple string.
    Simple(String),
    /// An error, without the leading `-`.
    Error(String),
    /// An integer.
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// No value.
    Null,
    /// Several; a map is its keys and values in turn.
    Array(Vec<Reply>),
}

impl Reply {
    /// The bytes of a string of either kind.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Simple(text) => Some(text.as_bytes()),
            Self::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A number, sent as such or as text.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Integer(value) => u64::try_from(*value).ok(),
            other => std::str::from_utf8(other.text()?).ok()?.parse().ok(),
        }
    }

    /// A short form for errors; values are not shown.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Simple(text) => format!("+{}", shorten(text.as_bytes())),
            Self::Error(text) => format!("-{}", shorten(text.as_bytes())),
            Self::Integer(value) => format!(":{value}"),
            Self::Bulk(bytes) => format!("a string of {} bytes", bytes.len()),
            Self::Null => "nothing".to_owned(),
            Self::Array(elements) => format!("an array of {}", elements.len()),
        }
    }
}

/// At most 200 characters, none of which moves a terminal's cursor.
pub(super) fn shorten(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(200).collect::<String>().trim_end().to_owned()
}

/// The first reply in `bytes` and its length.
pub(super) fn parse(bytes: &[u8]) -> Result<(Reply, usize), Halt> {
    let mut cursor = Cursor::new(bytes);
    let reply = element(&mut cursor, 0)?;
    Ok((reply, cursor.position()))
}

fn element(cursor: &mut Cursor<'_>, depth: u8) -> Result<Reply, Halt> {
    if depth > DEPTH_MAX || cursor.position() > REPLY_MAX {
        return Err(cursor.invalid("a reply that is too deep or too long"));
    }
    // At once: what is no reply may never send a line's end.
    if !b"+-:$*,(_#!=~>%".contains(&cursor.peek()?) {
        return Err(cursor.invalid("not a reply"));
    }
    let start = cursor.clone();
    let line = line(cursor)?;
    let (kind, rest) = line.split_first().ok_or(start.invalid("an empty line"))?;
    let text = || String::from_utf8_lossy(rest).into_owned();
    match kind {
        b'+' | b',' | b'(' => Ok(Reply::Simple(text())),
        b'-' => Ok(Reply::Error(text())),
        b':' => Ok(Reply::Integer(integer(rest, &start)?)),
        b'_' => Ok(Reply::Null),
        b'#' => Ok(Reply::Integer(i64::from(rest == b"t"))),
        b'$' | b'!' | b'=' => {
            let len = integer(rest, &start)?;
            let Ok(len) = u64::try_from(len) else {
                return Ok(Reply::Null);
            };
            let bytes = cursor.take(len, REPLY_MAX)?.to_vec();
            if cursor.array()? != *b"\r\n" {
                return Err(cursor.invalid("a string without its end"));
            }
            Ok(match kind {
                b'!' => Reply::Error(String::from_utf8_lossy(&bytes).into_owned()),
                _ => Reply::Bulk(bytes),
            })
        }
        b'*' | b'~' | b'>' => array(cursor, integer(rest, &start)?, 1, depth),
        b'%' => array(cursor, integer(rest, &start)?, 2, depth),
        _ => Err(start.invalid("not a reply")),
    }
}

fn array(cursor: &mut Cursor<'_>, count: i64, each: u64, depth: u8) -> Result<Reply, Halt> {
    let Ok(count) = u64::try_from(count) else {
        return Ok(Reply::Null);
    };
    if count > ELEMENTS_MAX {
        return Err(cursor.invalid("a reply with too many elements"));
    }
    let mut elements = Vec::new();
    for _ in 0..count * each {
        elements.push(element(cursor, depth + 1)?);
    }
    Ok(Reply::Array(elements))
}

fn line<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Halt> {
    let rest = cursor.rest();
    let within = rest.get(..rest.len().min(LINE_MAX)).unwrap_or_default();
    let Some(end) = memchr::memchr(b'\n', within) else {
        return Err(if rest.len() >= LINE_MAX {
            cursor.invalid("a line without end")
        } else {
            Halt::Incomplete { missing: 1 }
        });
    };
    let line = cursor.take(end as u64 + 1, LINE_MAX)?;
    line.strip_suffix(b"\r\n")
        .ok_or(cursor.invalid("a line without its carriage return"))
}

fn integer(text: &[u8], at: &Cursor<'_>) -> Result<i64, Halt> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(at.invalid("not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn replies_of_both_versions_are_read_and_nothing_beyond_them() {
        let array = |elements: &[Reply]| Reply::Array(elements.to_vec());
        let simple = |text: &str| Reply::Simple(text.to_owned());
        for (bytes, reply) in [
            (&b"+OK\r\n"[..], simple("OK")),
            (b"-ERR no\r\n", Reply::Error("ERR no".to_owned())),
            (
                b"*2\r\n+FULL\r\n:5\r\n",
                array(&[simple("FULL"), Reply::Integer(5)]),
            ),
            (b"$3\r\na\r\n\r\n", Reply::Bulk(b"a\r\n".to_vec())),
            (b"$-1\r\n", Reply::Null),
            (b"%1\r\n+k\r\n_\r\n", array(&[simple("k"), Reply::Null])),
        ] {
            let more = [bytes, b"REDIS0009"].concat();
            assert_eq!(parse(&more).unwrap(), (reply, bytes.len()));
            for cut in 0..bytes.len() {
                assert!(matches!(parse(&bytes[..cut]), Err(Halt::Incomplete { .. })));
            }
        }
    }

    #[test]
    fn other_protocols_and_impossible_sizes_are_refused() {
        let deep = b"*1\r\n".repeat(20);
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\x15\x03\x01\x00\x02\x02\n",
            b"$99999999999\r\n",
            b"*99999999999\r\n",
            b":x\r\n",
            b"+no carriage return\n",
            &deep,
            &[b'+'; LINE_MAX],
        ] {
            assert!(matches!(parse(bytes), Err(Halt::Invalid { .. })));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(prop::sample::select(b"+-:$*%\r\n019a".to_vec()), 0..60)) {
            if let Ok((_, len)) = parse(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
