//! Commands, as RESP arrays of bulk strings, appended to a buffer.
//!
//! Facts: the Redis serialization protocol specification; the form is the same in RESP2 and RESP3.

use bytes::BytesMut;

/// Longest header: a sigil, 20 digits, CR LF.
const HEADER: usize = 23;

/// Starts a command of `words` words: `*<words>\r\n`.
#[inline]
pub fn command_start(out: &mut BytesMut, words: usize) {
    header(out, b'*', words as u64);
}

/// Starts a bulk string of `len` bytes: `$<len>\r\n`. The content and [`bulk_end`] follow.
#[inline]
pub fn bulk_start(out: &mut BytesMut, len: u64) {
    header(out, b'$', len);
}

/// Ends a bulk string.
#[inline]
pub fn bulk_end(out: &mut BytesMut) {
    out.extend_from_slice(b"\r\n");
}

/// A whole bulk string.
#[inline]
pub fn bulk(out: &mut BytesMut, content: &[u8]) {
    out.reserve(content.len() + HEADER + 2);
    header(out, b'$', content.len() as u64);
    out.extend_from_slice(content);
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn header(out: &mut BytesMut, sigil: u8, number: u64) {
    match number {
        0..=9 => out.extend_from_slice(&[sigil, b'0' + number as u8, b'\r', b'\n']),
        10..=99 => {
            let (tens, ones) = ((number / 10) as u8, (number % 10) as u8);
            out.extend_from_slice(&[sigil, b'0' + tens, b'0' + ones, b'\r', b'\n']);
        }
        _ => {
            out.reserve(HEADER);
            out.extend_from_slice(&[sigil]);
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings_of_any_length() {
        let mut out = BytesMut::new();
        command_start(&mut out, 3);
        bulk(&mut out, b"SET");
        bulk(&mut out, &[b'k'; 10]);
        bulk(&mut out, &[b'v'; 100]);
        let expected = format!(
            "*3\r\n$3\r\nSET\r\n$10\r\n{}\r\n$100\r\n{}\r\n",
            "k".repeat(10),
            "v".repeat(100)
        );
        assert_eq!(out, expected.as_bytes());
        out.clear();
        bulk_start(&mut out, u64::MAX);
        bulk_end(&mut out);
        assert_eq!(out, &b"$18446744073709551615\r\n\r\n"[..]);
    }
}
