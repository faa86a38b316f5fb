//! Connections that are always closed in order.
//!
//! A Dragonfly master must see FIN, never RST: a reset in the middle of its writes is one of the ends it
//! handles worst. The kernel resets a socket that is closed with unread bytes, so a connection is
//! shut for writing and then read until the master closes too, at most [`CLOSE_WITHIN`]. A
//! connection that is dropped, by an error or a cancelled task, is handed to a task of its own
//! that does the same; it outlives its owner by that long and holds nothing but the socket.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::net::Stream;
use crate::rdb::Halt;

use super::error::{Link, Phase, SourceError};
use super::reply::{Reply, parse, shorten};

/// How long a master is given to close its side.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// The longest line that can begin a string.
const HEAD_MAX: usize = 64 << 10;

/// Dropped connections that are still being closed.
static CLOSING: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Waits until every dropped connection is closed: at most 2 s, and to be called
/// before a runtime ends, since the kernel would reset what is left.
pub async fn all_closed() {
    // The sender is never dropped.
    let _ = CLOSING.subscribe().wait_for(|closing| *closing == 0).await;
}

/// A socket with an orderly end.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Option<Stream>,
    /// The other side has closed.
    ended: bool,
    /// This side has closed.
    shut: bool,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream: Some(stream),
            ended: false,
            shut: false,
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        let gone = io::ErrorKind::NotConnected;
        self.stream.as_mut().map(Pin::new).ok_or(gone.into())
    }
}

/// Shuts for writing and reads until the other side has closed, or for [`CLOSE_WITHIN`].
pub(super) async fn close(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let orderly = async {
        stream.shutdown().await?;
        drain(stream).await
    };
    // An error means that the connection is gone already, a timeout that nobody answers.
    drop(tokio::time::timeout(CLOSE_WITHIN, orderly).await);
}

/// Reads and discards until the other side has closed.
pub(super) async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut discarded = vec![0; 16 << 10];
    while stream.read(&mut discarded).await? > 0 {}
    Ok(())
}

impl Drop for Wire {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        if self.ended && self.shut {
            return;
        }
        // Without a runtime the process is ending, and there is nobody to wait.
        if let Ok(runtime) = Handle::try_current() {
            CLOSING.send_modify(|closing| *closing += 1);
            runtime.spawn(async move {
                close(&mut stream).await;
                CLOSING.send_modify(|closing| *closing -= 1);
            });
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.stream()?.poll_read(cx, buffer))?;
        self.ended |= buffer.filled().len() == before && buffer.remaining() > 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream()?.poll_shutdown(cx))?;
        self.shut = true;
        Poll::Ready(Ok(()))
    }
}

/// A connection on which requests are answered in order.
#[derive(Debug)]
pub(super) struct Conn {
    wire: Wire,
    input: BytesMut,
    link: Link,
    phase: Phase,
    /// Bytes to come of a string that is taken in pieces, its end included.
    bulk: u64,
}

/// A part of a long string.
#[derive(Debug)]
pub(super) enum Piece {
    /// Some bytes, at least one.
    Bytes(BytesMut),
    /// There are no more.
    End,
}

impl Conn {
    pub(super) fn new(stream: Stream, link: Link, phase: Phase) -> Self {
        Self {
            wire: Wire::new(stream),
            input: BytesMut::new(),
            link,
            phase,
            bulk: 0,
        }
    }

    /// For the errors from now on.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// The socket, and what was received after the last reply.
    pub(super) fn into_parts(self) -> (Wire, BytesMut) {
        (self.wire, self.input)
    }

    pub(super) async fn close(mut self) {
        close(&mut self.wire).await;
    }

    fn closed(&self, cause: Option<io::Error>) -> SourceError {
        SourceError::Closed {
            link: self.link,
            phase: self.phase,
            cause,
        }
    }

    /// Sends one request. Not cancel safe: a request cut in two must be the connection's last.
    pub(super) async fn send(&mut self, words: &[&[u8]]) -> Result<(), SourceError> {
        let request = encode(words);
        let sent = async {
            self.wire.write_all(&request).await?;
            self.wire.flush().await
        };
        sent.await.map_err(|cause| self.closed(Some(cause)))
    }

    /// Sends several requests at once. Not cancel safe.
    pub(super) async fn send_all(&mut self, requests: &[Vec<&[u8]>]) -> Result<(), SourceError> {
        let mut out = Vec::new();
        for words in requests {
            out.extend_from_slice(&encode(words));
        }
        let sent = async {
            self.wire.write_all(&out).await?;
            self.wire.flush().await
        };
        sent.await.map_err(|cause| self.closed(Some(cause)))
    }

    /// The beginning of a reply that is a string of any length: how long it is, or none for no value.
    /// [`bulk_piece`](Self::bulk_piece) brings the string itself.
    pub(super) async fn bulk_begins(
        &mut self,
        request: &'static str,
        within: Duration,
    ) -> Result<Option<u64>, SourceError> {
        let end = loop {
            match memchr::memchr(b'\n', &self.input) {
                Some(end) => break end,
                None if self.input.len() > HEAD_MAX => return Err(foreign(request, &self.input)),
                None => self.receive_within(request, within).await?,
            }
        };
        let is_null = |line: &[u8]| matches!(line, b"$-1\r" | b"_\r");
        let line = self.input.get(..end).unwrap_or_default();
        match line.split_first() {
            _ if is_null(line) => {
                self.input.advance(end + 1);
                Ok(None)
            }
            Some((b'$', digits)) => {
                let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
                let len = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|text| text.parse().ok());
                let len: u64 = len.ok_or_else(|| foreign(request, &self.input))?;
                self.input.advance(end + 1);
                self.bulk = len.saturating_add(2);
                Ok(Some(len))
            }
            _ => {
                let reply = self.reply(request).await?;
                let reply = super::handshake::accepted(request, reply)?;
                Err(SourceError::Unexpected {
                    request,
                    answer: reply.describe(),
                })
            }
        }
    }

    /// More of the string that has begun. What is taken is given back as memory as soon as it is dropped.
    pub(super) async fn bulk_piece(
        &mut self,
        request: &'static str,
        within: Duration,
    ) -> Result<Piece, SourceError> {
        while self.bulk > 2 && self.input.is_empty() || self.bulk <= 2 && self.input.len() < 2 {
            self.receive_within(request, within).await?;
        }
        if self.bulk <= 2 {
            if self.input.get(..2) != Some(&b"\r\n"[..]) {
                return Err(foreign(request, &self.input));
            }
            self.input.advance(2);
            self.bulk = 0;
            return Ok(Piece::End);
        }
        let left = usize::try_from(self.bulk - 2).unwrap_or(usize::MAX);
        let piece = self.input.split_to(self.input.len().min(left));
        self.bulk -= piece.len() as u64;
        Ok(Piece::Bytes(piece))
    }

    async fn receive_within(
        &mut self,
        request: &'static str,
        within: Duration,
    ) -> Result<(), SourceError> {
        let received = tokio::time::timeout(within, self.receive()).await;
        received.unwrap_or(Err(SourceError::NoAnswer {
            request,
            after: within,
        }))
    }

    /// The next reply. Cancel safe.
    pub(super) async fn reply(&mut self, request: &'static str) -> Result<Reply, SourceError> {
        loop {
            match parse(&self.input) {
                Ok((reply, len)) => {
                    self.input.advance(len);
                    return Ok(reply);
                }
                Err(Halt::Incomplete { .. }) => self.receive().await?,
                Err(Halt::Invalid { .. }) => return Err(foreign(request, &self.input)),
            }
        }
    }

    async fn receive(&mut self) -> Result<(), SourceError> {
        match self.wire.read_buf(&mut self.input).await {
            Ok(0) => Err(self.closed(None)),
            Ok(_) => Ok(()),
            Err(cause) => Err(self.closed(Some(cause))),
        }
    }

    /// Sends one request and waits for its reply, an error or not.
    pub(super) async fn ask(
        &mut self,
        request: &'static str,
        words: &[&[u8]],
        within: Duration,
    ) -> Result<Reply, SourceError> {
        let answered = async {
            self.send(words).await?;
            self.reply(request).await
        };
        let unanswered = SourceError::NoAnswer {
            request,
            after: within,
        };
        tokio::time::timeout(within, answered)
            .await
            .unwrap_or(Err(unanswered))
    }

    /// Waits while nothing is asked: until the connection ends, or brings what nobody asked for.
    /// Cancel safe.
    pub(super) async fn watch(&mut self) -> SourceError {
        while self.input.is_empty() {
            if let Err(error) = self.receive().await {
                return error;
            }
        }
        SourceError::Unexpected {
            request: "nothing",
            answer: shorten(&self.input),
        }
    }
}

/// A request as an array of strings.
pub(super) fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The answer is no reply at all: TLS, HTTP, something else.
fn foreign(request: &'static str, bytes: &[u8]) -> SourceError {
    // The record types of TLS: an alert, or a handshake.
    if matches!(bytes, [0x15 | 0x16, ..]) {
        return SourceError::NeedsTls;
    }
    let line = bytes.split(|byte| *byte == b'\n').next();
    SourceError::NotDragonfly {
        request,
        answer: shorten(line.unwrap_or_default()),
    }
}
