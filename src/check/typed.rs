//! Small values of the source, each by the command of its type.
//!
//! Facts: Dragonfly v1.40.1 executes commands that come in a row together, by shard, and takes a few microseconds for
//!   `GETRANGE`, `GET`, `LRANGE` or `ZRANGE`, but up to hundreds for `DUMP` and tens for `MEMORY USAGE`. So `DUMP` is
//!   left to what only it tells: expiry times of members, and all that belongs to a stream.

use crate::rdb::{Element, Text};

use super::access::Access;
use super::batch::{Found, Sizes, ask_glance, dumped, glance, lengths, outlines};
use super::dump::{self, Digesting};
use super::error::CheckError;
use super::link::Head;
use super::reading::{Kind, Reading};
use super::settings::Mode;

/// What is known of a key before its value is asked for.
#[derive(Debug)]
enum Seen {
    Absent,
    /// So many bytes, about.
    Sized(u64),
    /// A string that may be longer than what was asked for, or none.
    Longer,
    /// All of it.
    Whole(Box<Reading>),
}

/// Reads keys of one database, in their order.
pub(super) async fn values<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    sizes: Sizes,
) -> Result<Vec<Found>, CheckError> {
    let (now_ms, kinds, expiries) = outlines(access, db, keys, Mode::Full).await?;
    let mut seen = first_look(access, db, keys, &kinds, sizes).await?;
    measure(access, db, keys, &mut seen).await?;
    let mut found = Vec::with_capacity(keys.len());
    let mut kinds = kinds.as_slice();
    let mut keys = keys;
    while !keys.is_empty() {
        let mut sum = 0;
        let row = seen.iter().take_while(|seen| {
            sum += small(seen, sizes).unwrap_or(0);
            sum <= sizes.row
        });
        let count = row.count().clamp(1, keys.len());
        let row = Row {
            keys: keys.get(..count).unwrap_or_default(),
            kinds: kinds.get(..count).unwrap_or_default(),
            seen: seen.drain(..count.min(seen.len())).collect(),
            now_ms,
        };
        row.read(access, db, sizes, &mut found).await?;
        keys = keys.get(count..).unwrap_or_default();
        kinds = kinds.get(count..).unwrap_or_default();
    }
    for (found, expires) in found.iter_mut().zip(expiries) {
        if let Found::Read(reading) = found {
            reading.expires_at_ms = expires;
        }
    }
    Ok(found)
}

/// How many bytes a value has that is to be read whole; none if it is not.
fn small(seen: &Seen, sizes: Sizes) -> Option<u64> {
    match seen {
        Seen::Sized(bytes) if *bytes <= sizes.small => Some(*bytes),
        _ => None,
    }
}

/// The first bytes of strings, and how large all others are.
async fn first_look<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    kinds: &[Option<Kind>],
    sizes: Sizes,
) -> Result<Vec<Seen>, CheckError> {
    access.begin(db);
    // One after the other, so that those of a kind are executed together.
    for strings in [true, false] {
        for (key, kind) in keys.iter().zip(kinds) {
            match kind {
                Some(Kind::String) if strings => ask_glance(access, key.as_ref(), sizes),
                Some(Kind::String) | None => {}
                Some(_) if strings || !access.abilities.sizes => {}
                Some(_) => access.link.queue(&[b"MEMORY", b"USAGE", key.as_ref()]),
            }
        }
    }
    if access.link.queued() > 0 {
        access.send().await?;
    }
    let mut seen: Vec<Seen> = keys.iter().map(|_| Seen::Absent).collect();
    for strings in [true, false] {
        for (seen, kind) in seen.iter_mut().zip(kinds) {
            *seen = match kind {
                Some(Kind::String) if strings => {
                    let whole = glance(access, sizes).await?;
                    whole.map_or(Seen::Longer, |reading| Seen::Whole(Box::new(reading)))
                }
                Some(Kind::String) | None => continue,
                Some(_) if strings => continue,
                // Nobody knows, so it is read in pieces.
                Some(_) if !access.abilities.sizes => Seen::Sized(u64::MAX),
                Some(_) => match access.link.head().await? {
                    Head::Integer(size) => Seen::Sized(size.unsigned_abs()),
                    Head::Null => Seen::Absent,
                    other => return Err(access.link.unexpected("MEMORY USAGE", &other)),
                },
            };
        }
    }
    Ok(seen)
}

/// How long strings are that may have more than their first bytes.
async fn measure<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    seen: &mut [Seen],
) -> Result<(), CheckError> {
    let longer = keys.iter().zip(seen.iter_mut());
    let longer = longer.filter(|(_, seen)| matches!(seen, Seen::Longer));
    let (keys, longer): (Vec<&K>, Vec<&mut Seen>) = longer.unzip();
    if keys.is_empty() {
        return Ok(());
    }
    let kinds = vec![Some(Kind::String); keys.len()];
    let lengths = lengths(access, db, &keys, &kinds).await?;
    for (seen, length) in longer.into_iter().zip(lengths) {
        // Without a length it has become something else.
        *seen = Seen::Sized(length.unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Keys whose values are asked for together.
struct Row<'a, K> {
    keys: &'a [K],
    kinds: &'a [Option<Kind>],
    seen: Vec<Seen>,
    now_ms: i64,
}

impl<K: AsRef<[u8]>> Row<'_, K> {
    async fn read(
        self,
        access: &mut Access,
        db: u32,
        sizes: Sizes,
        found: &mut Vec<Found>,
    ) -> Result<(), CheckError> {
        if self.seen.iter().any(|seen| small(seen, sizes).is_some()) {
            access.begin(db);
            for ((key, kind), seen) in self.keys.iter().zip(self.kinds).zip(&self.seen) {
                match kind {
                    Some(kind) if small(seen, sizes).is_some() => ask(access, key.as_ref(), kind),
                    _ => {}
                }
            }
            access.send().await?;
        }
        for (kind, seen) in self.kinds.iter().zip(self.seen) {
            let is_small = small(&seen, sizes).is_some();
            found.push(match (kind, seen) {
                (None, _) | (_, Seen::Absent) => Found::Absent,
                (_, Seen::Whole(reading)) => Found::Read(reading),
                (Some(kind), _) if is_small => one(access, kind, self.now_ms, sizes).await?,
                (Some(_), _) => Found::Large,
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
            return Ok(Found::Read(Box::new(dump::of_string(&value))));
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
