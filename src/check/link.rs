//! One connection as an ordinary client: commands out in a row, replies back in the same order, long strings in pieces.
//!
//! Invariants: what is held of a reply is bounded by what the caller asks to have whole; writing never waits for
//!   a server that waits for us to read; a connection that is closed was shut for writing first.
//! Facts: the Redis serialization protocol, version 2, which every server speaks to who asks for nothing else.

use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::net::{self, Stream};
use crate::resp::{bulk, command_start};

use super::error::CheckError;
use super::settings::{Server, Side};

/// How long a server may take until it says anything at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to close.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);
/// The longest line of a reply; error texts are far shorter.
const LINE: usize = 64 << 10;
/// Read at a time.
const READ: usize = 64 << 10;

/// How a reply, or an element of one, begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head {
    /// `+OK` and the like.
    Simple(String),
    /// The server's words.
    Error(String),
    /// A number.
    Integer(i64),
    /// Nothing.
    Null,
    /// So many bytes follow, to be taken by [`Link::whole`], [`Link::pieces`] or [`Link::skip`].
    Bulk(u64),
    /// So many elements follow.
    Array(u64),
}

#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    pub side: Side,
    addr: String,
    input: BytesMut,
    output: BytesMut,
    /// Commands queued since the last [`Link::flush`].
    queued: usize,
    /// Bytes that have come.
    pub received: u64,
    /// The current database.
    pub db: u32,
}

impl Link {
    /// Connects and logs in; database 0 is selected.
    pub async fn connect(server: &Server) -> Result<Self, CheckError> {
        let addr = server.endpoint.to_string();
        let connecting = net::connect(
            &server.endpoint,
            server.tls.as_ref(),
            server.connect_timeout,
        );
        let stream = connecting.await.map_err(|cause| CheckError::Connect {
            side: server.side,
            addr: addr.clone(),
            cause: Box::new(cause),
        })?;
        let mut link = Self {
            stream,
            side: server.side,
            addr,
            input: BytesMut::new(),
            output: BytesMut::new(),
            queued: 0,
            received: 0,
            db: 0,
        };
        if let Some(password) = &server.password {
            let password = password.expose();
            match &server.username {
                Some(name) => link.queue(&[b"AUTH", name.as_bytes(), password]),
                None => link.queue(&[b"AUTH", password]),
            }
            link.flush().await?;
            if let Head::Error(answer) = link.head().await? {
                return Err(CheckError::Permission {
                    side: link.side,
                    addr: link.addr,
                    command: "AUTH".to_owned(),
                    answer,
                });
            }
        }
        Ok(link)
    }

    /// Adds a command to what the next [`Self::flush`] sends.
    pub fn queue(&mut self, words: &[&[u8]]) {
        command_start(&mut self.output, words.len());
        for word in words {
            bulk(&mut self.output, word);
        }
        self.queued += 1;
    }

    /// How many commands the next flush sends.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Sends what is queued. While the server does not take it, its replies are read.
    pub async fn flush(&mut self) -> Result<(), CheckError> {
        self.queued = 0;
        while !self.output.is_empty() {
            let (stream, output, input) = (&mut self.stream, &mut self.output, &mut self.input);
            let received = &mut self.received;
            let moved = std::future::poll_fn(|cx| {
                if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, output) {
                    return Poll::Ready(written.map(|written| output.advance(written)));
                }
                input.reserve(READ);
                let mut space = ReadBuf::uninit(input.spare_capacity_mut());
                match Pin::new(&mut *stream).poll_read(cx, &mut space) {
                    Poll::Ready(Ok(())) if space.filled().is_empty() => {
                        Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
                    }
                    Poll::Ready(Ok(())) => {
                        let read = space.filled().to_vec();
                        input.extend_from_slice(&read);
                        *received += read.len() as u64;
                        Poll::Ready(Ok(()))
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Pending,
                }
            });
            match timeout(ANSWER_WITHIN, moved).await {
                Ok(moved) => moved.map_err(|cause| self.lost(cause))?,
                Err(_) => return Err(self.silent()),
            }
        }
        let flushed = timeout(ANSWER_WITHIN, self.stream.flush()).await;
        match flushed {
            Ok(flushed) => flushed.map_err(|cause| self.lost(cause)),
            Err(_) => Err(self.silent()),
        }
    }

    async fn receive(&mut self) -> Result<(), CheckError> {
        self.input.reserve(READ);
        match timeout(ANSWER_WITHIN, self.stream.read_buf(&mut self.input)).await {
            Ok(Ok(0)) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(Ok(read)) => {
                self.received += read as u64;
                Ok(())
            }
            Ok(Err(cause)) => Err(self.lost(cause)),
            Err(_) => Err(self.silent()),
        }
    }

    /// How the next reply, or element of the one that was begun, begins.
    pub async fn head(&mut self) -> Result<Head, CheckError> {
        let mut looked = 0;
        loop {
            let rest = self.input.get(looked..).unwrap_or_default();
            if let Some(found) = memchr::memchr(b'\n', rest) {
                let end = looked + found;
                let line = self.input.get(..end.saturating_sub(1)).unwrap_or_default();
                let head = head(line).ok_or_else(|| self.strange("a command", line));
                self.input.advance(end + 1);
                return head;
            }
            looked = self.input.len();
            if looked > LINE {
                return Err(self.strange("a reply", &self.input));
            }
            self.receive().await?;
        }
    }

    /// What the bytes of a string that was begun are, once all have come.
    pub async fn with<T>(
        &mut self,
        len: u64,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, CheckError> {
        let Ok(len) = usize::try_from(len) else {
            return Err(self.strange("a command", b"a string larger than memory"));
        };
        while self.input.len() < len.saturating_add(2) {
            self.receive().await?;
        }
        let read = read(self.input.get(..len).unwrap_or_default());
        self.input.advance(len + 2);
        Ok(read)
    }

    /// The bytes of a string that was begun.
    pub async fn whole(&mut self, len: u64) -> Result<Vec<u8>, CheckError> {
        self.with(len, <[u8]>::to_vec).await
    }

    /// The bytes of a string that was begun, as they come.
    pub async fn pieces(
        &mut self,
        len: u64,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(), CheckError> {
        let mut left = len;
        while left > 0 {
            if self.input.is_empty() {
                self.receive().await?;
            }
            let count = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.input.len());
            sink(self.input.get(..count).unwrap_or_default());
            self.input.advance(count);
            left -= count as u64;
        }
        while self.input.len() < 2 {
            self.receive().await?;
        }
        self.input.advance(2);
        Ok(())
    }

    /// Passes over what was begun.
    pub async fn skip(&mut self, head: Head) -> Result<(), CheckError> {
        let mut pending = 0_u64;
        let mut next = Some(head);
        loop {
            let head = match next.take() {
                Some(head) => head,
                None if pending == 0 => return Ok(()),
                None => {
                    pending -= 1;
                    self.head().await?
                }
            };
            match head {
                Head::Bulk(len) => self.pieces(len, |_| {}).await?,
                Head::Array(len) => pending = pending.saturating_add(len),
                Head::Simple(_) | Head::Error(_) | Head::Integer(_) | Head::Null => {}
            }
        }
    }

    /// A reply that must be a string or a line of text.
    pub async fn text(&mut self, command: &str) -> Result<Vec<u8>, CheckError> {
        match self.head().await? {
            Head::Bulk(len) => self.whole(len).await,
            Head::Simple(text) => Ok(text.into_bytes()),
            Head::Integer(number) => Ok(number.to_string().into_bytes()),
            other => Err(self.unexpected(command, &other)),
        }
    }

    /// A reply that must be a number, or a string of digits.
    pub async fn integer(&mut self, command: &str) -> Result<i64, CheckError> {
        match self.head().await? {
            Head::Integer(number) => Ok(number),
            Head::Bulk(len) if len <= 20 => {
                let text = self.whole(len).await?;
                digits(&text).ok_or_else(|| self.strange(command, &text))
            }
            other => Err(self.unexpected(command, &other)),
        }
    }

    /// A reply that must be an array: how many elements follow.
    pub async fn array(&mut self, command: &str) -> Result<u64, CheckError> {
        match self.head().await? {
            Head::Array(len) => Ok(len),
            other => Err(self.unexpected(command, &other)),
        }
    }

    /// What a reply that should not have come means.
    pub fn unexpected(&self, command: &str, head: &Head) -> CheckError {
        let Head::Error(answer) = head else {
            return self.strange(command, format!("{head:?}").as_bytes());
        };
        let (side, addr, answer) = (self.side, self.addr.clone(), answer.clone());
        let command = command.to_owned();
        match answer.split(' ').next() {
            Some("NOPERM" | "NOAUTH" | "WRONGPASS") => CheckError::Permission {
                side,
                addr,
                command,
                answer,
            },
            Some("LOADING" | "BUSY" | "MASTERDOWN") => CheckError::Unready { side, addr, answer },
            _ => CheckError::Answer {
                side,
                addr,
                command,
                answer,
            },
        }
    }

    /// An answer that fits nothing.
    pub fn strange(&self, command: &str, answer: &[u8]) -> CheckError {
        let answer = answer.get(..200).unwrap_or(answer);
        CheckError::Answer {
            side: self.side,
            addr: self.addr.clone(),
            command: command.to_owned(),
            answer: format!("\"{}\"", answer.escape_ascii()),
        }
    }

    fn lost(&self, cause: io::Error) -> CheckError {
        CheckError::Lost {
            side: self.side,
            addr: self.addr.clone(),
            cause,
        }
    }

    fn silent(&self) -> CheckError {
        CheckError::Silent {
            side: self.side,
            addr: self.addr.clone(),
            after: ANSWER_WITHIN,
        }
    }

    /// Closes in order: a Dragonfly should see an end and not a reset.
    pub async fn close(mut self) {
        let orderly = async {
            self.stream.shutdown().await?;
            let mut rest = [0; 4096];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // An error or a timeout means that nobody is there any more.
        drop(timeout(CLOSE_WITHIN, orderly).await);
    }
}

/// What a line begins, without its end.
fn head(line: &[u8]) -> Option<Head> {
    let (sigil, text) = line.split_first()?;
    let words = || String::from_utf8_lossy(text).into_owned();
    Some(match sigil {
        b'+' => Head::Simple(words()),
        b'-' => Head::Error(words()),
        b':' => Head::Integer(digits(text)?),
        b'$' | b'*' => match (digits(text)?, sigil) {
            (..0, _) => Head::Null,
            (len, b'$') => Head::Bulk(len.unsigned_abs()),
            (len, _) => Head::Array(len.unsigned_abs()),
        },
        _ => return None,
    })
}

/// A number in decimal digits.
fn digits(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
