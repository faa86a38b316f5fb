//! One flow's socket: bytes out from a batch, bytes in for the scanner.
//!
//! Invariants: of a batch, prelude, commands and epilogue leave in this order and each byte once;
//!   file parts are read in pieces of [`PIECE`], and replies are read meanwhile.
//! Cancel safety: all progress is in the link; nothing here is `async` but the login.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::batch::{Batch, words};
use crate::fail_point;
use crate::net::Stream;
use crate::resp::{Reply, Scanner};
use crate::target::error::TargetError;
use crate::target::fence::ServerId;
use crate::target::outgoing::{Piece, Place};
use crate::target::settings::Settings;

/// Bytes read of a file at a time.
const PIECE: usize = 256 << 10;
/// Bytes kept of an answer during the login: more than any section of `INFO` that is asked for has.
const INFO: usize = 64 << 10;
/// Bytes of replies read at a time.
const REPLIES: usize = 16 << 10;

/// How far the batch being written has come.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    prelude: usize,
    body: Place,
    epilogue: usize,
}

/// A piece of a file in memory, partly written.
#[derive(Debug, Default)]
struct Loaded {
    bytes: Vec<u8>,
    written: usize,
}

#[derive(Debug)]
pub(in crate::target) struct Link {
    stream: Stream,
    progress: Option<Progress>,
    loaded: Loaded,
    must_flush: bool,
    /// Bytes written so far.
    pub written: u64,
    pub replies: Box<[u8]>,
}

/// Why bytes could not be written.
#[derive(Debug)]
pub(in crate::target) enum WriteError {
    Socket(io::Error),
    Spill(io::Error),
}

impl Link {
    /// Connects and logs in, within the connect timeout each; before anything else it gets its name, if there is one.
    /// With a server it must be this one, and the position database becomes the current one.
    pub async fn open(
        settings: &Settings,
        server: Option<&ServerId>,
        name: Option<&str>,
    ) -> Result<Self, TargetError> {
        let mut stream = settings.stream(&settings.endpoint).await?;
        let starting = async {
            log_in(&mut stream, settings).await?;
            if let Some(name) = name {
                set_name(&mut stream, settings, name).await?;
            }
            match server {
                Some(server) => recognise(&mut stream, settings, server).await,
                None => Ok(()),
            }
        };
        tokio::time::timeout(settings.connect_timeout, starting)
            .await
            .map_err(|_| TargetError::Silent {
                addr: settings.addr(),
                doing: "logging in".to_owned(),
                after: settings.connect_timeout,
            })??;
        Ok(Self {
            stream,
            progress: None,
            loaded: Loaded::default(),
            must_flush: false,
            written: 0,
            replies: vec![0; REPLIES].into(),
        })
    }

    /// Whether a batch is not completely written.
    pub fn is_writing(&self) -> bool {
        self.progress.is_some()
    }

    /// Starts writing a prepared batch.
    pub fn start(&mut self, batch: &Batch) {
        fail_point::pass(match batch.sending.transaction {
            true => fail_point::Place::TransactionSend,
            false => fail_point::Place::BatchSend,
        });
        self.progress = Some(Progress {
            prelude: 0,
            body: batch.out.place_of(batch.sending.from),
            epilogue: 0,
        });
    }

    /// Writes on. Ready when the batch is written and flushed, or nothing was being written.
    pub fn poll_write(
        &mut self,
        batch: Option<&Batch>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        while let (Some(progress), Some(batch)) = (self.progress, batch) {
            self.load(batch, progress.body).map_err(WriteError::Spill)?;
            let slices = slices(&self.loaded, batch, &progress);
            if slices.iter().all(|slice| slice.is_empty()) {
                self.progress = None;
                self.must_flush = true;
                fail_point::pass(match batch.sending.transaction {
                    true => fail_point::Place::TransactionSent,
                    false => fail_point::Place::BatchSent,
                });
                break;
            }
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices))
                .map_err(WriteError::Socket)?;
            if written == 0 {
                return Poll::Ready(Err(WriteError::Socket(io::ErrorKind::WriteZero.into())));
            }
            self.written += written as u64;
            let progress = self.advance(batch, progress, written);
            let is_part = progress.epilogue < batch.sending.epilogue.len()
                || !matches!(batch.out.piece(progress.body), Piece::End);
            if batch.sending.transaction && is_part {
                fail_point::pass(fail_point::Place::TransactionPart);
            }
        }
        if self.must_flush {
            ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(WriteError::Socket)?;
            self.must_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into `replies`. Ready with 0 at the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(&mut self.replies);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Has the next piece of a file in memory, if one comes next.
    fn load(&mut self, batch: &Batch, place: Place) -> io::Result<()> {
        if self.loaded.written < self.loaded.bytes.len() {
            return Ok(());
        }
        let Piece::File { spill, offset, len } = batch.out.piece(place) else {
            return Ok(());
        };
        let wanted = usize::try_from(len).unwrap_or(PIECE).min(PIECE);
        self.loaded.written = 0;
        self.loaded.bytes.resize(wanted, 0);
        let read = spill.read_at(&mut self.loaded.bytes, offset)?;
        self.loaded.bytes.truncate(read);
        match read {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn advance(&mut self, batch: &Batch, mut progress: Progress, mut written: usize) -> Progress {
        let prelude = written.min(batch.sending.prelude.len() - progress.prelude);
        progress.prelude += prelude;
        written -= prelude;
        match batch.out.piece(progress.body) {
            Piece::Bytes(bytes) => {
                let count = written.min(bytes.len());
                progress.body = batch.out.advance(progress.body, count as u64);
                written -= count;
            }
            Piece::File { .. } => {
                self.loaded.written += written;
                progress.body = batch.out.advance(progress.body, written as u64);
                written = 0;
            }
            Piece::End => {}
        }
        progress.epilogue += written;
        self.progress = Some(progress);
        progress
    }

    /// One question and its answer, while nothing else is under way.
    pub async fn ask(
        &mut self,
        settings: &Settings,
        command: &[&[u8]],
    ) -> Result<Reply, TargetError> {
        ask(&mut self.stream, settings, command).await
    }

    /// Closes in order: everything written is followed by an end of stream. Cancel safe.
    pub async fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

/// What can be written with one call.
fn slices<'a>(loaded: &'a Loaded, batch: &'a Batch, progress: &Progress) -> [IoSlice<'a>; 3] {
    let sending = &batch.sending;
    let prelude = sending.prelude.get(progress.prelude..).unwrap_or_default();
    let (body, is_last) = match batch.out.piece(progress.body) {
        Piece::Bytes(bytes) => {
            let after = batch.out.advance(progress.body, bytes.len() as u64);
            (bytes, matches!(batch.out.piece(after), Piece::End))
        }
        Piece::File { .. } => {
            let bytes = loaded.bytes.get(loaded.written..);
            (bytes.unwrap_or_default(), false)
        }
        Piece::End => (&[][..], true),
    };
    let epilogue = match is_last {
        true => sending
            .epilogue
            .get(progress.epilogue..)
            .unwrap_or_default(),
        false => &[],
    };
    [prelude, body, epilogue].map(IoSlice::new)
}

/// Sends AUTH, if there is something to send, and PING; each answer is looked at.
async fn log_in(stream: &mut Stream, settings: &Settings) -> Result<(), TargetError> {
    if let Some(password) = &settings.password {
        let password = password.expose();
        let answer = match &settings.username {
            Some(name) => ask(stream, settings, &[b"AUTH", name.as_bytes(), password]).await?,
            None => ask(stream, settings, &[b"AUTH", password]).await?,
        };
        if let Reply::Error(text) = answer {
            return Err(TargetError::Login {
                addr: settings.addr(),
                answer: String::from_utf8_lossy(&text).into_owned(),
            });
        }
    }
    match ask(stream, settings, &[b"PING"]).await? {
        // A user who may not PING may still write; a target that loads is waited for later.
        Reply::Error(text) if !text.starts_with(b"NOAUTH") => {
            let addr = settings.addr();
            let answer = String::from_utf8_lossy(&text).into_owned();
            match TargetError::from_answer(&addr, "logging in", "PING", answer) {
                TargetError::Permission { .. } | TargetError::Unready { .. } => Ok(()),
                error => Err(error),
            }
        }
        Reply::Error(text) => Err(TargetError::Login {
            addr: settings.addr(),
            answer: String::from_utf8_lossy(&text).into_owned(),
        }),
        _ => Ok(()),
    }
}

/// Names the connection, so that whoever takes over can end it.
async fn set_name(stream: &mut Stream, settings: &Settings, name: &str) -> Result<(), TargetError> {
    let words = [&b"CLIENT"[..], b"SETNAME", name.as_bytes()];
    match ask(stream, settings, &words).await? {
        Reply::Ok => Ok(()),
        Reply::Error(text) => Err(TargetError::from_answer(
            &settings.addr(),
            "naming the connection",
            "CLIENT",
            String::from_utf8_lossy(&text).into_owned(),
        )),
        other => Err(TargetError::Answer {
            addr: settings.addr(),
            doing: "naming the connection".to_owned(),
            answer: format!("{other:?}"),
        }),
    }
}

/// Makes sure that this is the server, with the dataset, that the positions were read from.
async fn recognise(
    stream: &mut Stream,
    settings: &Settings,
    expected: &ServerId,
) -> Result<(), TargetError> {
    let refused = |doing: &str, name: &str, reply| match reply {
        Reply::Error(text) => {
            let answer = String::from_utf8_lossy(&text).into_owned();
            TargetError::from_answer(&settings.addr(), doing, name, answer)
        }
        other => TargetError::Answer {
            addr: settings.addr(),
            doing: doing.to_owned(),
            answer: format!("{other:?}"),
        },
    };
    let mut sections = [String::new(), String::new()];
    for (text, section) in sections.iter_mut().zip([&b"server"[..], b"replication"]) {
        match ask(stream, settings, &[b"INFO", section]).await? {
            Reply::Text(info) => *text = String::from_utf8_lossy(&info).into_owned(),
            other => return Err(refused("reading its state", "INFO", other)),
        }
    }
    let [server, replication] = &sections;
    if ServerId::of_info(server, replication) != *expected {
        return Err(TargetError::Replaced {
            addr: settings.addr(),
        });
    }
    let db = settings.position_db.to_string();
    match ask(stream, settings, &[b"SELECT", db.as_bytes()]).await? {
        Reply::Ok => Ok(()),
        other => Err(refused("selecting a database", "SELECT", other)),
    }
}

/// One question and its answer; nothing else is under way.
async fn ask(
    stream: &mut Stream,
    settings: &Settings,
    command: &[&[u8]],
) -> Result<Reply, TargetError> {
    let lost = |cause| TargetError::Lost {
        addr: settings.addr(),
        unanswered: 0,
        cause,
    };
    let mut question = BytesMut::new();
    words(&mut question, command);
    stream.write_all(&question).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut scanner = Scanner::new();
    scanner.keep(INFO);
    let mut buffer = [0; 1024];
    loop {
        let read = stream.read(&mut buffer).await.map_err(lost)?;
        if read == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let (_, reply) = scanner
            .feed(buffer.get(..read).unwrap_or_default())
            .map_err(|cause| TargetError::Protocol {
                addr: settings.addr(),
                cause,
            })?;
        if let Some(reply) = reply {
            return Ok(reply);
        }
    }
}
