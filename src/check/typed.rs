//! Small values of a Dragonfly, each by the command of its type.
//!
//! Facts: Dragonfly v1.40.1 executes commands that come in a row together, by shard, and takes a few microseconds for
//!   `GETRANGE`, `GET`, `LRANGE` or `ZRANGE`, but up to hundreds for `DUMP` and tens for `MEMORY USAGE`. So `DUMP` is
//!   left to what only it tells: expiry times of members, and all that belongs to a stream.

use crate::rdb::{Element, Text};

use super::access::Access;
use super::batch::{Expiry, Found, Sizes, ask_expiry, dumped, expiry, found, time};
use super::dump::{self, Digesting};
use super::error::CheckError;
use super::link::Head;
use super::reading::Kind;

/// Reads keys of one database, in their order.
pub(super) async fn values<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    kinds: &[Option<Kind>],
    sizes: Sizes,
) -> Result<Vec<Found>, CheckError> {
    let (now_ms, expiries) = expiries(access, db, keys, kinds).await?;
    let lengths = measure(access, keys, kinds).await?;
    let mut read = Vec::with_capacity(keys.len());
    let mut at = 0;
    while at < keys.len() {
        let rest = lengths.get(at..).unwrap_or_default();
        let mut sum = 0;
        let row = rest.iter().take_while(|length| {
            sum += small(**length, sizes).unwrap_or(0);
            sum <= sizes.row
        });
        let end = at + row.count().clamp(1, keys.len() - at);
        let row = Row {
            keys: keys.get(at..end).unwrap_or_default(),
            kinds: kinds.get(at..end).unwrap_or_default(),
            lengths: lengths.get(at..end).unwrap_or_default(),
            now_ms,
        };
        row.read(access, db, sizes, &mut read).await?;
        at = end;
    }
    let read = read.into_iter().zip(expiries);
    Ok(read.map(|(value, expiry)| found(value, expiry)).collect())
}

/// How many bytes a value has that is to be read whole; none if it is not.
fn small(length: Option<u64>, sizes: Sizes) -> Option<u64> {
    length.filter(|bytes| *bytes <= sizes.small)
}

/// Asks for expiry times and sizes, and answers the server's clock and the former. Sizes are to be read by [`measure`].
async fn expiries<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    kinds: &[Option<Kind>],
) -> Result<(i64, Vec<Expiry>), CheckError> {
    let there = || keys.iter().zip(kinds).filter(|(_, kind)| kind.is_some());
    if there().next().is_none() {
        return Ok((0, vec![Expiry::Absent; keys.len()]));
    }
    access.begin(db);
    access.link.queue(&[b"TIME"]);
    // One after the other, so that those of a kind are executed together.
    there().for_each(|(key, _)| ask_expiry(access, key.as_ref()));
    for strings in [true, false] {
        for (key, kind) in there() {
            match kind == &Some(Kind::String) {
                true if strings => access.link.queue(&[b"STRLEN", key.as_ref()]),
                false if !strings && access.abilities.sizes => {
                    access.link.queue(&[b"MEMORY", b"USAGE", key.as_ref()]);
                }
                true | false => {}
            }
        }
    }
    access.send().await?;
    let now_ms = time(access).await?;
    let mut expiries = Vec::with_capacity(keys.len());
    for kind in kinds {
        expiries.push(match kind {
            Some(_) => expiry(access, now_ms).await?,
            None => Expiry::Absent,
        });
    }
    Ok((now_ms, expiries))
}

/// About how many bytes values have; none where no key is.
async fn measure<K: AsRef<[u8]>>(
    access: &mut Access,
    keys: &[K],
    kinds: &[Option<Kind>],
) -> Result<Vec<Option<u64>>, CheckError> {
    let mut lengths = vec![None; keys.len()];
    for strings in [true, false] {
        for (length, kind) in lengths.iter_mut().zip(kinds) {
            match kind {
                None => {}
                Some(kind) if (*kind == Kind::String) != strings => {}
                // Nobody knows, so it is read in pieces.
                Some(_) if !strings && !access.abilities.sizes => *length = Some(u64::MAX),
                Some(_) => {
                    *length = match access.link.head().await? {
                        Head::Integer(bytes) => Some(bytes.unsigned_abs()),
                        Head::Null => None,
                        // It has become something else.
                        Head::Error(answer) if answer.starts_with("WRONGTYPE") => Some(u64::MAX),
                        other => return Err(access.link.unexpected("a size", &other)),
                    }
                }
            }
        }
    }
    Ok(lengths)
}

/// Keys whose values are asked for together.
struct Row<'a, K> {
    keys: &'a [K],
    kinds: &'a [Option<Kind>],
    lengths: &'a [Option<u64>],
    now_ms: i64,
}

impl<K: AsRef<[u8]>> Row<'_, K> {
    async fn read(
        self,
        access: &mut Access,
        db: u32,
        sizes: Sizes,
        read: &mut Vec<Found>,
    ) -> Result<(), CheckError> {
        let is_small = |length: &Option<u64>| small(*length, sizes).is_some();
        if self.lengths.iter().any(is_small) {
            access.begin(db);
            for ((key, kind), length) in self.keys.iter().zip(self.kinds).zip(self.lengths) {
                match kind {
                    Some(kind) if is_small(length) => ask(access, key.as_ref(), kind),
                    _ => {}
                }
            }
            access.send().await?;
        }
        for (kind, length) in self.kinds.iter().zip(self.lengths) {
            read.push(match kind {
                Some(kind) if is_small(length) => one(access, kind, self.now_ms, sizes).await?,
                Some(_) if length.is_some() => Found::Large,
                Some(_) | None => Found::Absent,
            });
        }
        Ok(())
    }
}

fn ask(access: &mut Access, key: &[u8], kind: &Kind) {
    match kind {
        Kind::String => access.link.queue(&[b"GET", key]),
        Kind::List => access.link.queue(&[b"LRANGE", key, b"0", b"-1"]),
        Kind::Sorted => access
            .link
            .queue(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
        Kind::Set | Kind::Hash | Kind::Stream | Kind::Json | Kind::Other(_) => {
            access.link.queue(&[b"DUMP", key]);
        }
    }
}

/// The reply to [`ask`].
async fn one(
    access: &mut Access,
    kind: &Kind,
    now_ms: i64,
    sizes: Sizes,
) -> Result<Found, CheckError> {
    if !matches!(kind, Kind::String | Kind::List | Kind::Sorted) {
        return dumped(access, now_ms, sizes).await;
    }
    let mut into = Digesting::new(kind.clone(), now_ms);
    let words = match access.link.head().await? {
        Head::Null => return Ok(Found::Absent),
        Head::Error(answer) if answer.starts_with("WRONGTYPE") => return Ok(Found::Unsure),
        Head::Bulk(len) if *kind == Kind::String => {
            let reading = access.link.with(len, dump::of_string).await?;
            return Ok(Found::Read(Box::new(reading)));
        }
        Head::Array(words) if *kind != Kind::String => words,
        other => return Err(access.link.unexpected("a value", &other)),
    };
    let scored = *kind == Kind::Sorted;
    for _ in 0..if scored { words / 2 } else { words } {
        let element = match access.link.head().await? {
            Head::Bulk(len) => access.link.whole(len).await?,
            other => return Err(access.link.unexpected("a value", &other)),
        };
        match scored {
            false => into.add(&Element::Item(Text::Borrowed(&element))),
            true => {
                let score = access.link.text("ZRANGE").await?;
                let number = std::str::from_utf8(&score).ok();
                let number = number.and_then(|text| text.parse::<f64>().ok());
                let number = number.ok_or_else(|| access.link.strange("ZRANGE", &score))?;
                into.scored(&element, number);
            }
        }
    }
    // Nothing is left of it.
    if words == 0 {
        return Ok(Found::Absent);
    }
    Ok(Found::Read(Box::new(into.finish())))
}
