//! Requests and replies of one connection, matched, to know what a client was not told.
//!
//! Facts: <https://redis.io/docs/latest/develop/reference/protocol-spec/>; every request is an array of bulk strings
//!   and gets one reply.

use std::collections::VecDeque;

/// What a request is, as far as transactions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Multi,
    Exec,
    Other,
}

/// What is under way on a connection.
#[derive(Debug, Default)]
pub struct Watched {
    sent: Vec<u8>,
    answered: Vec<u8>,
    unanswered: VecDeque<Request>,
    /// `MULTI` is answered, and `EXEC` was not sent.
    open: bool,
}

impl Watched {
    /// The client has sent these.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((request, len)) = request(&self.sent[at..]) {
            at += len;
            self.open = match request {
                Request::Multi => true,
                Request::Exec => false,
                Request::Other => self.open,
            };
            self.unanswered.push_back(request);
        }
        self.sent.drain(..at);
    }

    /// The client was sent these.
    pub fn answered(&mut self, bytes: &[u8]) {
        self.answered.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(len) = value(&self.answered[at..]) {
            at += len;
            self.unanswered.pop_front();
        }
        self.answered.drain(..at);
    }

    /// Whether the client does not know what has become of a transaction of its own.
    #[must_use]
    pub fn has_transaction(&self) -> bool {
        self.open || self.unanswered.contains(&Request::Exec)
    }
}

/// The first line without its end, and its length with it.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], end + 2))
}

fn number(text: &[u8]) -> i64 {
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.parse()
        .unwrap_or_else(|_| panic!("no number in a line of RESP: {text:?}"))
}

/// The length of the first value, if it is whole.
fn value(bytes: &[u8]) -> Option<usize> {
    let (text, mut at) = line(bytes)?;
    match text.split_first() {
        Some((b'$', len)) => {
            let body = usize::try_from(number(len)).map_or(0, |len| len + 2);
            (bytes.len() >= at + body).then_some(at + body)
        }
        Some((b'*', count)) => {
            for _ in 0..number(count).max(0) {
                at += value(bytes.get(at..)?)?;
            }
            Some(at)
        }
        _ => Some(at),
    }
}

/// What the first request is, and its length, if it is whole.
fn request(bytes: &[u8]) -> Option<(Request, usize)> {
    let len = value(bytes)?;
    let (_, head) = line(bytes)?;
    let (size, name) = line(&bytes[head..])?;
    let from = head + name;
    let name = bytes.get(from..from + usize::try_from(number(&size[1..])).ok()?)?;
    let request = match name.to_ascii_uppercase().as_slice() {
        b"MULTI" => Request::Multi,
        b"EXEC" => Request::Exec,
        _ => Request::Other,
    };
    Some((request, len))
}
