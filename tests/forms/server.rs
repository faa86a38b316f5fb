//! A redis-server of its own for each test, and a client that sends what is to be sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use df2redis::commands::{Features, Flavour};
use df2redis::target::{Outgoing, Piece, Place};

use super::view::View;
use crate::support::compare::expire_time;
use crate::support::{RedisServer, Target};

/// The target as the program would find it.
pub fn features(target: Target) -> Features {
    let (flavour, version) = match target {
        Target::Redis62 => (Flavour::Redis, (6, 2, 5)),
        Target::Redis70 => (Flavour::Redis, (7, 0, 15)),
        Target::Redis82 => (Flavour::Redis, (8, 2, 3)),
        Target::Valkey81 => (Flavour::Valkey, (8, 1, 8)),
        Target::Valkey91 => (Flavour::Valkey, (9, 1, 2)),
    };
    Features {
        flavour,
        version,
        json: false,
        bloom: false,
    }
}

/// A running server; killed when dropped.
pub struct Server {
    redis: RedisServer,
    db: u32,
    connection: BufReader<TcpStream>,
}

impl Server {
    /// Starts one on a free port and waits until it answers.
    pub fn start() -> Self {
        Self::start_of(Target::Redis70)
    }

    /// The same of another release.
    pub fn start_of(target: Target) -> Self {
        Self::around(target.start_with(&["--sanitize-dump-payload", "yes"]))
    }

    /// One that was started already.
    pub fn around(redis: RedisServer) -> Self {
        let connection = BufReader::new(TcpStream::connect(redis.address()).unwrap());
        let mut server = Self {
            redis,
            db: 0,
            connection,
        };
        assert_eq!(server.ok(&[b"PING"]), View::Text(b"PONG".to_vec()));
        server
    }

    /// Sends a command; its reply, which must not be an error.
    pub fn ok(&mut self, words: &[&[u8]]) -> View {
        let mut out = Outgoing::new();
        out.command(words.len(), None);
        words.iter().for_each(|word| out.word(word));
        self.send(&out);
        self.reply()
            .unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(words[0])))
    }

    /// Sends a command; whether its reply is no error.
    pub fn try_words(&mut self, words: &[&[u8]]) -> bool {
        let mut out = Outgoing::new();
        out.command(words.len(), None);
        words.iter().for_each(|word| out.word(word));
        self.send(&out);
        self.reply().is_ok()
    }

    /// Selects a database.
    pub fn select(&mut self, db: u32) {
        self.ok(&[b"SELECT", db.to_string().as_bytes()]);
        self.db = db;
    }

    /// When a key expires, in Unix milliseconds; as `PEXPIRETIME`, which servers before Redis 7.0 do not have.
    pub fn expire_time(&mut self, key: &[u8]) -> i64 {
        let mut client = self.redis.client();
        client.ok(&["SELECT", &self.db.to_string()]);
        expire_time(&mut client, key)
    }

    /// Sends commands; no reply may be an error.
    pub fn run(&mut self, out: &Outgoing) {
        self.send(out);
        for n in 0..out.commands() {
            if let Err(error) = self.reply() {
                panic!("{:?}: {error}", out.describe(n));
            }
        }
    }

    fn send(&mut self, out: &Outgoing) {
        let stream = self.connection.get_mut();
        let mut place = Place::default();
        loop {
            let sent = match out.piece(place) {
                Piece::Bytes(bytes) => {
                    stream.write_all(bytes).unwrap();
                    bytes.len() as u64
                }
                Piece::File { spill, offset, len } => {
                    let mut buffer = vec![0; len.min(1 << 16) as usize];
                    let read = spill.read_at(&mut buffer, offset).unwrap();
                    assert!(read > 0);
                    stream.write_all(&buffer[..read]).unwrap();
                    read as u64
                }
                Piece::End => return,
            };
            place = out.advance(place, sent);
        }
    }

    fn reply(&mut self) -> Result<View, String> {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" => Ok(View::Text(rest.as_bytes().to_vec())),
            "-" => Err(rest.to_string()),
            ":" => Ok(View::Number(rest.parse().unwrap())),
            "$" if rest == "-1" => Ok(View::Nothing),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.connection.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Ok(View::Text(bytes))
            }
            "*" if rest == "-1" => Ok(View::Nothing),
            "*" => (0..rest.parse::<usize>().unwrap())
                .map(|_| self.reply())
                .collect::<Result<_, _>>()
                .map(View::List),
            other => panic!("not a reply: {other}"),
        }
    }
}
