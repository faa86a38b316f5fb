//! A small blocking Redis client for tests: raw bytes, RESP2, one connection.
//!
//! Invariants: requests go out as arrays; replies are read in order; nothing is retried.
//! Facts: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A reply, as it came. `Map` and the other RESP3 forms arrive as arrays of their elements.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+text`
    Simple(String),
    /// `-text`
    Error(String),
    /// `:n`
    Int(i64),
    /// `$n`, bytes
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`
    Nil,
    /// `*n`, `%n` or `~n` with their elements
    Array(Vec<Reply>),
}

impl Reply {
    /// The bytes of a bulk or simple string, the digits of an integer; empty for anything else.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Simple(text) => text.clone().into_bytes(),
            Self::Int(n) => n.to_string().into_bytes(),
            Self::Bulk(bytes) => bytes.clone(),
            Self::Error(_) | Self::Nil | Self::Array(_) => Vec::new(),
        }
    }

    /// [`Reply::bytes`] as text, with replacement characters where it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// An integer, or the integer that a string spells.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            Self::Simple(_) | Self::Bulk(_) => self.text().parse().ok(),
            Self::Error(_) | Self::Nil | Self::Array(_) => None,
        }
    }

    /// The elements of an array; none for anything else.
    #[must_use]
    pub fn items(&self) -> &[Reply] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// Whether it is an error reply.
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// The reply as it goes over the wire in RESP2.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Self::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Self::Int(n) => out.extend_from_slice(format!(":{n}\r\n").as_bytes()),
            Self::Bulk(bytes) => bulk(bytes, out),
            Self::Nil => out.extend_from_slice(b"$-1\r\n"),
            Self::Array(items) => {
                out.extend_from_slice(format!("*{}\r\n", items.len()).as_bytes());
                items.iter().for_each(|item| item.encode(out));
            }
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Int(n) => write!(f, ":{n}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Nil => f.write_str("nil"),
            Self::Array(items) => f.debug_list().entries(items).finish(),
        }
    }
}

impl PartialEq<&str> for Reply {
    fn eq(&self, other: &&str) -> bool {
        match self {
            Self::Error(text) => text == other,
            _ => self.bytes() == other.as_bytes(),
        }
    }
}

/// One request as a RESP array, appended to `out`.
pub fn encode_request<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    args.iter().for_each(|arg| bulk(arg.as_ref(), out));
}

fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// One connection. A failure of the connection panics in [`Client::cmd`] and is an error in [`Client::try_cmd`].
pub struct Client {
    reader: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Client {
    /// Connects to a port of 127.0.0.1.
    ///
    /// # Panics
    /// When nothing listens there.
    #[must_use]
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        Self::try_connect(("127.0.0.1", port))
            .unwrap_or_else(|error| panic!("cannot connect to port {port}: {error}"))
    }

    /// Connects to any address; reads give up after 60 s.
    ///
    /// # Errors
    /// What the connection attempt came to.
    pub fn try_connect(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            reader: BufReader::with_capacity(1 << 16, stream),
            out: Vec::new(),
        })
    }

    /// Sends one command and reads its reply; an error reply is a reply.
    ///
    /// # Panics
    /// When the connection fails.
    #[track_caller]
    pub fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        match self.try_cmd(args) {
            Ok(reply) => reply,
            Err(error) => panic!("connection failed at {:?}: {error}", printable(args)),
        }
    }

    /// As [`Client::cmd`], and an error reply panics too.
    ///
    /// # Panics
    /// On an error reply or a failed connection.
    #[track_caller]
    pub fn ok<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let reply = self.cmd(args);
        assert!(
            !reply.is_error(),
            "{:?} was answered {reply:?}",
            printable(args)
        );
        reply
    }

    /// Sends one command and reads its reply.
    ///
    /// # Errors
    /// When the connection fails or what comes is not RESP.
    pub fn try_cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Reply> {
        self.send(args)?;
        self.reply()
    }

    /// Sends one command without waiting for its reply.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        self.out.clear();
        encode_request(args, &mut self.out);
        let mut stream = self.reader.get_ref();
        stream.write_all(&self.out)
    }

    /// Sends all commands at once and reads all replies.
    ///
    /// # Panics
    /// When the connection fails.
    #[track_caller]
    pub fn pipeline(&mut self, commands: &[Vec<Vec<u8>>]) -> Vec<Reply> {
        self.try_pipeline(commands)
            .unwrap_or_else(|error| panic!("connection failed in a pipeline: {error}"))
    }

    /// Commands whose words have no spaces, sent together.
    ///
    /// # Panics
    /// When the connection fails.
    #[track_caller]
    pub fn lines(&mut self, lines: &[impl AsRef<str>]) -> Vec<Reply> {
        let words = |line: &str| {
            line.split(' ')
                .map(|word| word.as_bytes().to_vec())
                .collect()
        };
        let commands: Vec<_> = lines.iter().map(|line| words(line.as_ref())).collect();
        self.pipeline(&commands)
    }

    /// As [`Client::pipeline`], in slices small enough that neither side's buffers fill up.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn try_pipeline(&mut self, commands: &[Vec<Vec<u8>>]) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::with_capacity(commands.len());
        for part in commands.chunks(512) {
            self.out.clear();
            part.iter()
                .for_each(|args| encode_request(args, &mut self.out));
            let mut stream = self.reader.get_ref();
            stream.write_all(&self.out)?;
            for _ in part {
                replies.push(self.reply()?);
            }
        }
        Ok(replies)
    }

    /// Reads the next reply.
    ///
    /// # Errors
    /// When the connection fails or what comes is not RESP.
    pub fn reply(&mut self) -> io::Result<Reply> {
        read_reply(&mut self.reader, 0)
    }

    /// The connection itself, to set options or to shut it down.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The buffered reading side, for what follows the last RESP reply on a flow.
    pub fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.reader
    }
}

fn printable<A: AsRef<[u8]>>(args: &[A]) -> Vec<String> {
    args.iter()
        .take(4)
        .map(|arg| {
            arg.as_ref()
                .iter()
                .take(60)
                .copied()
                .collect::<Vec<_>>()
                .escape_ascii()
                .to_string()
        })
        .collect()
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads one reply from any buffered reader; nesting deeper than 64 is refused.
///
/// # Errors
/// When reading fails or what comes is not RESP.
pub fn read_reply(reader: &mut impl BufRead, depth: usize) -> io::Result<Reply> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = line
        .strip_suffix(b"\r\n")
        .ok_or_else(|| invalid("a reply line without its end"))?;
    let (kind, rest) = text
        .split_first()
        .ok_or_else(|| invalid("an empty reply line"))?;
    let rest = std::str::from_utf8(rest).map_err(|_| invalid("a reply line that is not text"))?;
    let number = || {
        rest.parse::<i64>()
            .map_err(|_| invalid(format!("not a number: {rest}")))
    };
    match kind {
        b'+' | b',' | b'#' | b'(' => Ok(Reply::Simple(rest.to_owned())),
        b'-' => Ok(Reply::Error(rest.to_owned())),
        b':' => Ok(Reply::Int(number()?)),
        b'_' => Ok(Reply::Nil),
        b'$' | b'=' => match usize::try_from(number()?) {
            Err(_) => Ok(Reply::Nil),
            Ok(len) => {
                let mut bytes = Vec::with_capacity(len.min(1 << 20));
                reader.take(len as u64 + 2).read_to_end(&mut bytes)?;
                if bytes.len() != len + 2 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                bytes.truncate(len);
                Ok(Reply::Bulk(bytes))
            }
        },
        b'*' | b'~' | b'%' | b'>' => {
            let Ok(count) = usize::try_from(number()?) else {
                return Ok(Reply::Nil);
            };
            if depth > 64 {
                return Err(invalid("a reply nested too deeply"));
            }
            let count = if *kind == b'%' { count * 2 } else { count };
            (0..count)
                .map(|_| read_reply(reader, depth + 1))
                .collect::<io::Result<_>>()
                .map(Reply::Array)
        }
        other => Err(invalid(format!(
            "no RESP type starts with {:?}",
            char::from(*other)
        ))),
    }
}
