//! Small values of the source, each by the command of its type.
//!
//! Facts: Dragonfly v1.40.1 executes commands that come in a row together, by shard, and takes a few microseconds for
//!   `GET`, `LRANGE` or `ZRANGE`, but up to hundreds for `DUMP` and tens for `MEMORY USAGE`. So `DUMP` is left to what
//!   only it tells: expiry times of members, and all that belongs to a stream.

use crate::rdb::{Element, Text};

use super::access::Access;
use super::batch::{Found, Sizes, dumped, outlines};
use super::dump::Digesting;
use super::error::CheckError;
use super::link::Head;
use super::reading::Kind;
use super::settings::Mode;

/// Reads keys of one database, in their order.
pub(super) async fn values<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    sizes: Sizes,
) -> Result<Vec<Found>, CheckError> {
    let (now_ms, kinds, expiries) = outlines(access, db, keys, Mode::Full).await?;
    let bytes = bytes(access, db, keys, &kinds).await?;
    let mut found = Vec::with_capacity(keys.len());
    let mut at = 0;
    while at < keys.len() {
        let mut sum = 0;
        let row = bytes.iter().skip(at).take_while(|size| {
            sum += size.filter(|size| *size <= sizes.small).unwrap_or(0);
            sum <= sizes.row
        });
        let end = (at + row.count().max(1)).min(keys.len());
        let row = Row {
            keys: keys.get(at..end).unwrap_or_default(),
            kinds: kinds.get(at..end).unwrap_or_default(),
            bytes: bytes.get(at..end).unwrap_or_default(),
            now_ms,
        };
        row.read(access, db, sizes, &mut found).await?;
        at = end;
    }
    for (found, expires) in found.iter_mut().zip(expiries) {
        if let Found::Read(reading) = found {
            reading.expires_at_ms = expires;
        }
    }
    Ok(found)
}

/// How large values are; none for no key.
async fn bytes<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    kinds: &[Option<Kind>],
) -> Result<Vec<Option<u64>>, CheckError> {
    access.begin(db);
    // One after the other, so that those of a kind are executed together.
    for strings in [true, false] {
        for (key, kind) in keys.iter().zip(kinds) {
            match kind {
                Some(Kind::String) if strings => access.link.queue(&[b"STRLEN", key.as_ref()]),
                Some(Kind::String) | None => {}
                Some(_) if strings || !access.abilities.sizes => {}
                Some(_) => access.link.queue(&[b"MEMORY", b"USAGE", key.as_ref()]),
            }
        }
    }
    if access.link.queued() == 0 {
        return Ok(vec![None; keys.len()]);
    }
    access.send().await?;
    let mut bytes = vec![None; keys.len()];
    for strings in [true, false] {
        for (bytes, kind) in bytes.iter_mut().zip(kinds) {
            *bytes = match kind {
                None => None,
                Some(kind) if (*kind == Kind::String) != strings => *bytes,
                // Nobody knows, so it is read in pieces.
                Some(_) if !strings && !access.abilities.sizes => Some(u64::MAX),
                Some(_) => match access.link.head().await? {
                    Head::Integer(size) => Some(size.unsigned_abs()),
                    Head::Null => None,
                    // It has become something else.
                    Head::Error(answer) if answer.starts_with("WRONGTYPE") => Some(u64::MAX),
                    other => return Err(access.link.unexpected("MEMORY USAGE", &other)),
                },
            };
        }
    }
    Ok(bytes)
}

/// Keys whose values are asked for together.
struct Row<'a, K> {
    keys: &'a [K],
    kinds: &'a [Option<Kind>],
    bytes: &'a [Option<u64>],
    now_ms: i64,
}

impl<K: AsRef<[u8]>> Row<'_, K> {
    async fn read(
        &self,
        access: &mut Access,
        db: u32,
        sizes: Sizes,
        found: &mut Vec<Found>,
    ) -> Result<(), CheckError> {
        let small = |size: &Option<u64>| size.is_some_and(|size| size <= sizes.small);
        if self.bytes.iter().any(small) {
            access.begin(db);
            for ((key, kind), bytes) in self.keys.iter().zip(self.kinds).zip(self.bytes) {
                let key = key.as_ref();
                match kind {
                    Some(kind) if small(bytes) => ask(access, key, kind),
                    _ => {}
                }
            }
            access.send().await?;
        }
        for (kind, bytes) in self.kinds.iter().zip(self.bytes) {
            found.push(match (kind, bytes) {
                (None, _) | (_, None) => Found::Absent,
                (Some(_), bytes) if !small(bytes) => Found::Large,
                (Some(kind), _) => one(access, kind, self.now_ms, sizes).await?,
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
            let value = access.link.whole(len).await?;
            into.add(&Element::String(Text::Borrowed(&value)));
            return Ok(Found::Read(Box::new(into.finish())));
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
