//! An ordinary connection beside a session: what the master says of itself.

use std::time::Duration;

use super::error::{Link, Phase, SourceError};
use super::handshake::{accepted, connect};
use super::reply::Reply;
use super::settings::Settings;
use super::wire::Conn;

/// A client like any other. After an error it must not be used again, unless the error is a refusal.
#[derive(Debug)]
pub struct Monitor {
    pub(super) conn: Conn,
    pub(super) within: Duration,
    /// Whether the source is taken to know PEXPIRETIME.
    pub(super) knows_pexpiretime: bool,
}

impl Monitor {
    /// Connects, authenticates, and gives the connection the task's name if it may.
    pub async fn open(settings: &Settings) -> Result<Self, SourceError> {
        let conn = connect(settings, Link::Monitor, Phase::Monitor).await?;
        let within = settings.connect_timeout;
        let mut monitor = Self {
            conn,
            within,
            knows_pexpiretime: true,
        };
        let name = format!("df2redis:{}", settings.task);
        // Refused to many users, and worth nothing but a name in a list.
        monitor
            .request(&[b"CLIENT", b"SETNAME", name.as_bytes()])
            .await?;
        Ok(monitor)
    }

    /// One request and its reply, which may be an error. Not cancel safe: drop the monitor then.
    pub async fn request(&mut self, words: &[&[u8]]) -> Result<Reply, SourceError> {
        self.ask("a request", words).await
    }

    /// Sends requests whose replies are taken with [`next`](Self::next).
    pub(super) async fn send_all(&mut self, requests: &[Vec<&[u8]>]) -> Result<(), SourceError> {
        self.conn.send_all(requests).await
    }

    /// The next reply to what was sent.
    pub(super) async fn next(&mut self, request: &'static str) -> Result<Reply, SourceError> {
        let after = self.within;
        let unanswered = SourceError::NoAnswer { request, after };
        tokio::time::timeout(after, self.conn.reply(request))
            .await
            .unwrap_or(Err(unanswered))
    }

    async fn ask(&mut self, request: &'static str, words: &[&[u8]]) -> Result<Reply, SourceError> {
        self.conn.ask(request, words, self.within).await
    }

    /// As [`Self::ask`]; nothing when the user may not ask.
    async fn permitted(
        &mut self,
        request: &'static str,
        words: &[&[u8]],
    ) -> Result<Option<Reply>, SourceError> {
        let reply = self.ask(request, words).await?;
        match accepted(request, reply) {
            Ok(reply) => Ok(Some(reply)),
            Err(SourceError::NoPermission { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the user may make this request, whatever comes of it.
    pub async fn may(&mut self, words: &[&[u8]]) -> Result<bool, SourceError> {
        let answer = self.permitted("a question about permissions", words).await;
        match answer {
            Ok(answer) => Ok(answer.is_some()),
            Err(error) if error.is_temporary() => Err(error),
            Err(_) => Ok(true),
        }
    }

    /// The LSN of the next entry of each flow; 0 for one whose journal has not started.
    pub async fn offsets(&mut self) -> Result<Vec<u64>, SourceError> {
        let reply = self.ask(OFFSETS, &[b"DFLY", b"REPLICAOFFSET"]).await?;
        positions(reply)
    }

    /// The source's clock in Unix milliseconds; none when the user may not ask.
    pub async fn time_ms(&mut self) -> Result<Option<i64>, SourceError> {
        let Some(reply) = self.permitted("TIME", &[b"TIME"]).await? else {
            return Ok(None);
        };
        let time = match &reply {
            Reply::Array(elements) => match elements.as_slice() {
                [seconds, micros] => seconds.number().zip(micros.number()),
                _ => None,
            },
            _ => None,
        };
        let time = time.and_then(|(seconds, micros)| {
            let ms = seconds.checked_mul(1_000)?.checked_add(micros / 1_000)?;
            i64::try_from(ms).ok()
        });
        time.map(Some).ok_or_else(|| SourceError::Unexpected {
            request: "TIME",
            answer: reply.describe(),
        })
    }

    /// The source's release, such as `df-v1.40.1`; none when neither INFO nor HELLO tells.
    pub async fn release(&mut self) -> Result<Option<String>, SourceError> {
        const FIELD: &str = "dragonfly_version";
        let info = self.permitted("INFO", &[b"INFO", b"server"]).await?;
        if let Some(release) = info.as_ref().and_then(|info| field(info, FIELD)) {
            return Ok(Some(release.to_owned()));
        }
        let hello = self.permitted("HELLO", &[b"HELLO", b"2"]).await?;
        let Some(Reply::Array(elements)) = hello else {
            return Ok(None);
        };
        let mut pairs = elements.iter().zip(elements.iter().skip(1)).step_by(2);
        let found = pairs.find(|(name, _)| name.text() == Some(FIELD.as_bytes()));
        let text = found.and_then(|(_, value)| value.text());
        Ok(text.map(|text| String::from_utf8_lossy(text).into_owned()))
    }

    /// Keys per database; none when the user may not ask.
    pub async fn keyspace(&mut self) -> Result<Option<Vec<(u32, u64)>>, SourceError> {
        let info = self.info("keyspace").await?;
        Ok(info.map(|info| info.lines().filter_map(database).collect()))
    }

    /// A section of `INFO`, as lines of `name:value`; none when the source does not tell.
    pub async fn info(&mut self, section: &str) -> Result<Option<String>, SourceError> {
        let reply = self.ask("INFO", &[b"INFO", section.as_bytes()]).await?;
        let text = reply.text();
        Ok(text.map(|text| String::from_utf8_lossy(text).into_owned()))
    }

    /// A flag the source was started with; none when it does not tell, which it does of few.
    pub async fn setting(&mut self, name: &str) -> Result<Option<String>, SourceError> {
        let words = [&b"CONFIG"[..], b"GET", name.as_bytes()];
        let Reply::Array(pairs) = self.ask("CONFIG GET", &words).await? else {
            return Ok(None);
        };
        let mut pairs = pairs.iter().zip(pairs.iter().skip(1)).step_by(2);
        let found = pairs.find(|(found, _)| found.text() == Some(name.as_bytes()));
        let value = found.and_then(|(_, value)| value.text());
        Ok(value.map(|value| String::from_utf8_lossy(value).into_owned()))
    }

    /// Closes in order.
    pub async fn close(self) {
        self.conn.close().await;
    }
}

/// What asks for positions.
pub(super) const OFFSETS: &str = "DFLY REPLICAOFFSET";

/// The reply to that.
pub(super) fn positions(reply: Reply) -> Result<Vec<u64>, SourceError> {
    let reply = accepted(OFFSETS, reply)?;
    let positions = match &reply {
        Reply::Array(elements) => elements.iter().map(Reply::number).collect(),
        _ => None,
    };
    positions.ok_or_else(|| SourceError::Unexpected {
        request: OFFSETS,
        answer: reply.describe(),
    })
}

/// A field of an INFO reply.
fn field<'a>(info: &'a Reply, name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(info.text()?).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim_end)
}

/// `db0:keys=47,expires=3,avg_ttl=0`
fn database(line: &str) -> Option<(u32, u64)> {
    let (db, rest) = line.strip_prefix("db")?.split_once(":keys=")?;
    let keys = rest.split(',').next()?.trim_end();
    Some((db.parse().ok()?, keys.parse().ok()?))
}
