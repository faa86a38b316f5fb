//! One key in pieces, by the commands of its type: for values that are too large for one reply, and for those whose
//! serialised form is not known.
//!
//! Invariants: of a value no more is held than one reply's buffer, whatever it is made of; the digest is the one that
//!   the serialised value has. A collection of which not exactly as many elements were seen as the server counts has
//!   changed meanwhile, or its table has been rebuilt under the scan (which may show an element twice): it was not
//!   read, and is read again.
//! Not compared of such values: when consumers of streams were seen; which entries are pending, where that is too much
//!   for one reply (only how many for each consumer); when members of sets expire, which Dragonfly v1.40.1 tells of one at
//!   a time (`FIELDTTL`) and no target has; when fields of hashes expire with very long names.

mod scan;
mod stream;

use super::access::{Access, text};
use super::batch::{Found, ask_expiry, expiry, lengths, time};
use super::digest::Parts;
use super::dump::Digesting;
use super::error::CheckError;
use super::link::Head;
use super::reading::{Kind, Reading};
use super::settings::{Mode, Side};

/// The fewest bytes of a string at a time.
const STRING: u64 = 1 << 20;
/// The most pieces of a string: Dragonfly v1.40.1 copies all of it for each.
const STRING_PIECES: u64 = 8;
/// Bytes that one reply should have.
const REPLY: u64 = 256 << 10;
/// Most elements of one reply, so that a run of large ones behind small ones is not asked for at once.
const MOST: u64 = 1024;
/// Elements at each place where a large value is looked at.
const SAMPLE: u64 = 64;

/// How many elements to ask for next.
struct Step(u64);

impl Step {
    fn first() -> Self {
        Self(64)
    }

    /// Reacts to a reply of so many bytes.
    fn after(&mut self, bytes: u64) {
        self.0 = match bytes {
            0..REPLY => (self.0 * 2).min(MOST),
            _ => (self.0.saturating_mul(REPLY) / bytes).clamp(1, MOST),
        };
    }
}

/// The largest document, which has no pieces.
const DOCUMENT: u64 = 16 << 20;

/// Why a reading in pieces has no result.
enum Halted {
    /// It changed.
    Changed,
    TooLarge,
    Failed(CheckError),
}

impl From<CheckError> for Halted {
    fn from(error: CheckError) -> Self {
        Self::Failed(error)
    }
}

/// Reads one key. In smart mode only samples of its value.
pub(super) async fn read(
    access: &mut Access,
    db: u32,
    key: &[u8],
    mode: Mode,
) -> Result<Found, CheckError> {
    let mut reader = Reader { access, db, key };
    match reader.read(mode).await {
        Ok(Some(reading)) => Ok(Found::Read(Box::new(reading))),
        Ok(None) => Ok(Found::Absent),
        Err(Halted::Changed) => Ok(Found::Unsure),
        Err(Halted::TooLarge) => Ok(Found::TooLarge),
        Err(Halted::Failed(error)) => Err(error),
    }
}

struct Reader<'a> {
    access: &'a mut Access,
    db: u32,
    key: &'a [u8],
}

impl Reader<'_> {
    async fn read(&mut self, mode: Mode) -> Result<Option<Reading>, Halted> {
        self.access.begin(self.db);
        self.access.link.queue(&[b"TIME"]);
        self.access.link.queue(&[b"TYPE", self.key]);
        ask_expiry(self.access, self.key);
        self.access.send().await?;
        let now_ms = time(self.access).await?;
        let name = self.access.link.text("TYPE").await?;
        let expires = expiry(self.access, now_ms).await?.time();
        let Some(kind) = Kind::of_name(&String::from_utf8_lossy(&name)) else {
            return Ok(None);
        };
        let kinds = [Some(kind.clone())];
        let length = lengths(self.access, self.db, &[self.key], &kinds).await?;
        let length = length.first().copied().flatten().ok_or(Halted::Changed)?;
        let mut into = Digesting::new(kind.clone(), now_ms);
        let sampled = mode == Mode::Smart && length > SAMPLE * 4;
        // Members of sets expire at the source only, which tells of one at a time.
        let mut told = kind == Kind::Set && self.access.side() == Side::Target;
        match (&kind, sampled) {
            (Kind::String, false) => self.string(0, length, &mut into).await?,
            (Kind::String, true) => {
                for from in [0, length / 2, length.saturating_sub(STRING / 64)] {
                    let len = (length - from).min(STRING / 64);
                    self.string(from, len, &mut into).await?;
                }
            }
            (Kind::List | Kind::Sorted, false) => self.ranks(&kind, 0, length, &mut into).await?,
            (Kind::List | Kind::Sorted, true) => {
                for from in [0, length / 2, length - SAMPLE] {
                    self.ranks(&kind, from, from + SAMPLE, &mut into).await?;
                }
            }
            (Kind::Set, false) => self.members(&mut into).await?,
            (Kind::Hash, false) => told = self.fields(&mut into).await?,
            // A sample of what has no order is asked for by name, when both sides are known to be there.
            (Kind::Set | Kind::Hash, true) => {}
            (Kind::Stream, _) => {
                let most = if sampled { SAMPLE } else { u64::MAX };
                self.stream(most, &mut into).await?;
            }
            (Kind::Json, _) => self.json(&mut into).await?,
            (Kind::Other(_), _) => {}
        }
        let unordered = matches!(kind, Kind::Set | Kind::Hash);
        let counted = !sampled && !matches!(kind, Kind::String | Kind::Json | Kind::Other(_));
        let mut reading = into.finish();
        if counted && reading.length != length {
            return Err(Halted::Changed);
        }
        reading.length = match kind {
            Kind::Json | Kind::Other(_) => 0,
            _ => length,
        };
        reading.member_expiry = reading.member_expiry.filter(|_| told && !sampled);
        reading.members_expire = reading.member_expiry.is_some_and(|some| some.count > 0);
        reading.sampled = sampled;
        if sampled && unordered {
            reading.value = None;
        }
        reading.expires_at_ms = expires;
        Ok(Some(reading))
    }

    /// The head of a reply, which must be no error but those of a key that has become something else.
    async fn head(&mut self, command: &str) -> Result<Head, Halted> {
        match self.access.link.head().await? {
            Head::Error(answer)
                if answer.starts_with("WRONGTYPE") || answer.contains("no such key") =>
            {
                Err(Halted::Changed)
            }
            error @ Head::Error(_) => Err(self.access.link.unexpected(command, &error).into()),
            head => Ok(head),
        }
    }

    async fn array(&mut self, command: &str) -> Result<u64, Halted> {
        match self.head(command).await? {
            Head::Array(len) => Ok(len),
            // XINFO and the like of a key that is gone.
            Head::Null => Err(Halted::Changed),
            other => Err(self.access.link.unexpected(command, &other).into()),
        }
    }

    /// One string as a part of an element. Yields its length.
    async fn part(&mut self, parts: &mut Parts, command: &str) -> Result<u64, Halted> {
        match self.head(command).await? {
            Head::Bulk(len) => {
                parts.begin(len);
                let pieces = self.access.link.pieces(len, |piece| parts.go_on(piece));
                pieces.await?;
                Ok(len)
            }
            other => Err(self.access.link.unexpected(command, &other).into()),
        }
    }

    async fn ask(&mut self, words: &[&[u8]]) -> Result<(), Halted> {
        self.access.begin(self.db);
        self.access.link.queue(words);
        Ok(self.access.send().await?)
    }

    async fn string(&mut self, from: u64, len: u64, into: &mut Digesting) -> Result<(), Halted> {
        let (mut at, end) = (from, from + len);
        let piece = STRING.max(len.div_ceil(STRING_PIECES));
        while at < end {
            let to = (at + piece).min(end);
            let key = self.key;
            let (first, last) = (text(at), text(to - 1));
            self.ask(&[b"GETRANGE", key, first.as_bytes(), last.as_bytes()])
                .await?;
            match self.head("GETRANGE").await? {
                Head::Bulk(len) if len == to - at => {
                    let ordered = into.ordered();
                    let pieces = self.access.link.pieces(len, |piece| ordered.go_on(piece));
                    pieces.await?;
                }
                head => {
                    self.access.link.skip(head).await?;
                    return Err(Halted::Changed);
                }
            }
            at = to;
        }
        Ok(())
    }

    /// Elements of a list or sorted set, by their ranks.
    async fn ranks(
        &mut self,
        kind: &Kind,
        from: u64,
        to: u64,
        into: &mut Digesting,
    ) -> Result<(), Halted> {
        let (mut at, mut step) = (from, Step::first());
        let key = self.key;
        while at < to {
            let (first, last) = (text(at), text((at + step.0).min(to) - 1));
            let (first, last) = (first.as_bytes(), last.as_bytes());
            let scored = *kind == Kind::Sorted;
            match scored {
                true => {
                    self.ask(&[b"ZRANGE", key, first, last, b"WITHSCORES"])
                        .await?
                }
                false => self.ask(&[b"LRANGE", key, first, last]).await?,
            }
            let words = self.array("a range").await?;
            let mut bytes = 0;
            let elements = if scored { words / 2 } else { words };
            for _ in 0..elements {
                bytes += 16
                    + match scored {
                        true => self.scored(into).await?,
                        false => {
                            into.reading.length += 1;
                            self.part(into.ordered(), "LRANGE").await?
                        }
                    };
            }
            if elements == 0 {
                return Err(Halted::Changed);
            }
            at += elements;
            step.after(bytes);
        }
        Ok(())
    }

    async fn scored(&mut self, into: &mut Digesting) -> Result<u64, Halted> {
        let mut member = Parts::default();
        let len = self.part(&mut member, "ZRANGE").await?;
        let score = self.access.link.text("ZRANGE").await?;
        let number = std::str::from_utf8(&score)
            .ok()
            .and_then(|text| text.parse::<f64>().ok());
        let score = number.ok_or_else(|| self.access.link.strange("ZRANGE", &score))?;
        into.scored_parts(member, score);
        Ok(len)
    }

    async fn json(&mut self, into: &mut Digesting) -> Result<(), Halted> {
        let key = self.key;
        self.ask(&[b"JSON.GET", key]).await?;
        match self.head("JSON.GET").await? {
            head @ Head::Bulk(DOCUMENT..) => {
                self.access.link.skip(head).await?;
                Err(Halted::TooLarge)
            }
            Head::Bulk(len) => {
                let document = self.access.link.whole(len).await?;
                into.json(&document);
                Ok(())
            }
            Head::Null => Err(Halted::Changed),
            other => Err(self.access.link.unexpected("JSON.GET", &other).into()),
        }
    }
}
