//! Many keys of one side at once: their sizes first, then all that are small in one row of commands.
//!
//! Strings are not asked for their sizes: the first bytes of each are read, which is all of most of them.
//!
//! Invariants: no reply is asked for that is larger than [`Sizes::small`] by what the server says; together those of
//!   one row are at most [`Sizes::row`]; how many round trips are made does not depend on the number of keys.
//! Facts: `GETRANGE` answers the empty string for no key too, and takes a fraction of the server's time of `MEMORY
//!   USAGE` and `DUMP`.

use super::access::{Access, Reads, text};
use super::dump;
use super::error::CheckError;
use super::link::Head;
use super::reading::{Kind, Reading};
use super::settings::Mode;
use super::sweep::BATCH;
use super::typed;

/// The largest value that smart mode compares whole.
pub(super) const SMART: u64 = 64 << 10;

/// Bounds of what is asked for at once, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Of one value; above it, it is read in pieces.
    pub small: u64,
    /// Of one row of values.
    pub row: u64,
}

impl Sizes {
    /// For a comparison that may use so much. Both servers have to hold as much for their replies.
    pub fn of(max_memory: u64, mode: Mode) -> Self {
        let row = (max_memory / 16).clamp(256 << 10, 8 << 20);
        let small = match mode {
            Mode::Smart => SMART,
            Mode::Full | Mode::Outline | Mode::Length => (row / 4).clamp(64 << 10, 1 << 20),
        };
        Self { small, row }
    }

    /// How many bytes of a string are read without having asked how many it has.
    pub fn glance(self) -> u64 {
        (self.row / BATCH as u64).min(self.small)
    }
}

/// What was found of a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// There is no such key.
    Absent,
    /// All that the mode asks for.
    Read(Box<Reading>),
    /// It is there, and to be read in pieces.
    Large,
    /// It changed while it was read.
    Unsure,
    /// It cannot be read in pieces, and is too large to be read whole.
    TooLarge,
}

impl Found {
    /// What it is, if it was read.
    pub fn kind(&self) -> Option<Kind> {
        self.reading().map(|reading| reading.kind.clone())
    }

    pub fn reading(&self) -> Option<&Reading> {
        match self {
            Self::Read(reading) => Some(reading),
            Self::Absent | Self::Large | Self::Unsure | Self::TooLarge => None,
        }
    }
}

/// What is known of the types of keys before they are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known<'a> {
    Nothing,
    /// All are taken for strings: most are.
    Strings,
    /// What the source has just said of each.
    Kinds(&'a [Option<Kind>]),
}

impl Known<'_> {
    fn is_string(self, at: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Strings => true,
            Self::Kinds(kinds) => kinds.get(at) == Some(&Some(Kind::String)),
        }
    }
}

/// Reads keys of one database, in their order.
pub(super) async fn read<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    known: Known<'_>,
    mode: Mode,
    sizes: Sizes,
) -> Result<Vec<Found>, CheckError> {
    match mode {
        Mode::Full | Mode::Smart => values(access, db, keys, known, sizes).await,
        Mode::Outline | Mode::Length => {
            let (kinds, expiries) = outlines(access, db, keys, mode).await?;
            let lengths = lengths(access, db, keys, &kinds).await?;
            let readings = kinds.into_iter().zip(expiries).zip(lengths);
            Ok(readings
                .map(|((kind, expiry), length)| match (kind, length) {
                    (None, _) => Found::Absent,
                    (Some(_), None) => Found::Unsure,
                    (Some(kind), Some(length)) => {
                        let mut reading = Reading::new(kind);
                        reading.expires_at_ms = expiry;
                        reading.length = length;
                        Found::Read(Box::new(reading))
                    }
                })
                .collect())
        }
    }
}

/// The types of keys; none of a key that is not there.
pub(super) async fn kinds<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
) -> Result<Vec<Option<Kind>>, CheckError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    access.begin(db);
    ask_kinds(access, keys);
    access.send().await?;
    told_kinds(access, keys.len()).await
}

fn ask_kinds<K: AsRef<[u8]>>(access: &mut Access, keys: &[K]) {
    for key in keys {
        access.link.queue(&[b"TYPE", key.as_ref()]);
    }
}

async fn told_kinds(access: &mut Access, count: usize) -> Result<Vec<Option<Kind>>, CheckError> {
    let mut kinds = Vec::with_capacity(count);
    for _ in 0..count {
        let name = access.link.text("TYPE").await?;
        kinds.push(Kind::of_name(&String::from_utf8_lossy(&name)));
    }
    Ok(kinds)
}

/// Types and, unless only lengths matter, expiry times.
async fn outlines<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    mode: Mode,
) -> Result<(Vec<Option<Kind>>, Vec<Option<i64>>), CheckError> {
    let expiries = mode != Mode::Length;
    access.begin(db);
    access.link.queue(&[b"TIME"]);
    ask_kinds(access, keys);
    for key in keys.iter().filter(|_| expiries) {
        ask_expiry(access, key.as_ref());
    }
    access.send().await?;
    let now_ms = time(access).await?;
    let kinds = told_kinds(access, keys.len()).await?;
    let mut times = Vec::with_capacity(keys.len());
    for _ in keys {
        times.push(match expiries {
            true => expiry(access, now_ms).await?.time(),
            false => None,
        });
    }
    Ok((kinds, times))
}

/// Lengths by the commands of the types; none for a key that has become something else meanwhile.
pub(super) async fn lengths<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    kinds: &[Option<Kind>],
) -> Result<Vec<Option<u64>>, CheckError> {
    access.begin(db);
    for (key, kind) in keys.iter().zip(kinds) {
        if let Some(command) = kind.as_ref().and_then(length_of) {
            access.link.queue(&[command, key.as_ref()]);
        }
    }
    if access.link.queued() > 0 {
        access.send().await?;
    }
    let mut lengths = Vec::with_capacity(keys.len());
    for kind in kinds {
        lengths.push(match kind.as_ref().and_then(length_of) {
            None => Some(0),
            Some(_) => match access.link.head().await? {
                Head::Integer(length) => u64::try_from(length).ok().filter(|length| {
                    // Gone meanwhile; only a string may be empty, and a stream.
                    *length > 0 || matches!(kind, Some(Kind::String | Kind::Stream))
                }),
                Head::Error(answer) if answer.starts_with("WRONGTYPE") => None,
                other => return Err(access.link.unexpected("a question for a length", &other)),
            },
        });
    }
    Ok(lengths)
}

fn length_of(kind: &Kind) -> Option<&'static [u8]> {
    Some(match kind {
        Kind::String => b"STRLEN",
        Kind::List => b"LLEN",
        Kind::Set => b"SCARD",
        Kind::Hash => b"HLEN",
        Kind::Sorted => b"ZCARD",
        Kind::Stream => b"XLEN",
        Kind::Json | Kind::Other(_) => return None,
    })
}

/// The server's clock, in Unix milliseconds: the reply to `TIME`.
pub(super) async fn time(access: &mut Access) -> Result<i64, CheckError> {
    access.link.array("TIME").await?;
    let seconds = access.link.integer("TIME").await?;
    let micros = access.link.integer("TIME").await?;
    Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
}

pub(super) fn ask_expiry(access: &mut Access, key: &[u8]) {
    match access.abilities.expiry_times {
        true => access.link.queue(&[b"PEXPIRETIME", key]),
        false => access.link.queue(&[b"PTTL", key]),
    }
}

/// When a key expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// There is no such key.
    Absent,
    /// It does not.
    Never,
    /// At this time, in Unix milliseconds.
    At(i64),
}

impl Expiry {
    /// The time, if there is one.
    pub fn time(self) -> Option<i64> {
        match self {
            Self::Absent | Self::Never => None,
            Self::At(at) => Some(at),
        }
    }
}

/// The reply to [`ask_expiry`].
pub(super) async fn expiry(access: &mut Access, now_ms: i64) -> Result<Expiry, CheckError> {
    let answer = access.link.integer("PEXPIRETIME").await?;
    Ok(match (answer, access.abilities.expiry_times) {
        (-1, _) => Expiry::Never,
        (..0, _) => Expiry::Absent,
        (at, true) => Expiry::At(at),
        (left, false) => Expiry::At(now_ms.saturating_add(left)),
    })
}

/// The reply to a question for the first bytes of a string, whose expiry time was read before: all of it; none if that
/// is not sure, or it is no string.
async fn glance(
    access: &mut Access,
    expiry: Expiry,
    sizes: Sizes,
) -> Result<Option<Found>, CheckError> {
    match access.link.head().await? {
        Head::Bulk(len) => {
            let reading = access.link.with(len, dump::of_string).await?;
            Ok(match len {
                0 => (expiry == Expiry::Absent).then_some(Found::Absent),
                len if len < sizes.glance() => Some(found(Found::Read(Box::new(reading)), expiry)),
                _ => None,
            })
        }
        Head::Error(answer) if answer.starts_with("WRONGTYPE") => Ok(None),
        other => Err(access.link.unexpected("GETRANGE", &other)),
    }
}

/// A value, and the expiry time that was read before it.
pub(super) fn found(value: Found, expiry: Expiry) -> Found {
    match (value, expiry) {
        // It has come meanwhile, and nobody knows when it expires.
        (Found::Read(_), Expiry::Absent) => Found::Unsure,
        (Found::Read(mut reading), expiry) => {
            reading.expires_at_ms = expiry.time();
            Found::Read(reading)
        }
        (value, _) => value,
    }
}

/// How large keys of the target are in the memory of their server; none for no key.
async fn memory<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
) -> Result<Vec<Option<u64>>, CheckError> {
    access.begin(db);
    if !access.abilities.sizes {
        for key in keys {
            access.link.queue(&[b"EXISTS", key.as_ref()]);
        }
        access.send().await?;
        let mut sizes = Vec::with_capacity(keys.len());
        for _ in keys {
            let there = access.link.integer("EXISTS").await? > 0;
            // Nobody knows, so it is read in pieces.
            sizes.push(there.then_some(u64::MAX));
        }
        return Ok(sizes);
    }
    for key in keys {
        access.link.queue(&[b"MEMORY", b"USAGE", key.as_ref()]);
    }
    access.send().await?;
    let mut sizes = Vec::with_capacity(keys.len());
    for _ in keys {
        sizes.push(match access.link.head().await? {
            Head::Null => None,
            Head::Integer(size) => Some(size.unsigned_abs()),
            other => return Err(access.link.unexpected("MEMORY USAGE", &other)),
        });
    }
    Ok(sizes)
}

async fn values<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    known: Known<'_>,
    sizes: Sizes,
) -> Result<Vec<Found>, CheckError> {
    let told;
    let known = match (known, access.abilities.reads) {
        (Known::Nothing, Reads::ByType) => {
            told = kinds(access, db, keys).await?;
            Known::Kinds(&told)
        }
        (known, _) => known,
    };
    let mut found = glances(access, db, keys, known, sizes).await?;
    let left: Vec<usize> = (0..keys.len())
        .filter(|at| found.get(*at).is_none_or(Option::is_none))
        .collect();
    let at = |at: &usize| keys.get(*at).map(AsRef::as_ref);
    let keys: Vec<&[u8]> = left.iter().filter_map(at).collect();
    let read = match access.abilities.reads {
        Reads::ByPayload => payloads(access, db, &keys, sizes).await?,
        Reads::ByType => {
            let kinds: Vec<_> = match known {
                Known::Kinds(kinds) => {
                    let kinds = left.iter().filter_map(|at| kinds.get(*at).cloned());
                    kinds.collect()
                }
                Known::Nothing | Known::Strings => kinds(access, db, &keys).await?,
            };
            typed::values(access, db, &keys, &kinds, sizes).await?
        }
    };
    for (at, read) in left.into_iter().zip(read) {
        if let Some(found) = found.get_mut(at) {
            *found = Some(read);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Short strings of those that are taken for strings; none for all other keys.
async fn glances<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    known: Known<'_>,
    sizes: Sizes,
) -> Result<Vec<Option<Found>>, CheckError> {
    let mut seen: Vec<Option<Found>> = vec![None; keys.len()];
    let strings = || (0..keys.len()).filter(|at| known.is_string(*at));
    let names = || strings().filter_map(|at| keys.get(at).map(AsRef::as_ref));
    if names().next().is_none() {
        return Ok(seen);
    }
    access.begin(db);
    access.link.queue(&[b"TIME"]);
    // Those of a kind together, so that Dragonfly executes them together.
    names().for_each(|key| ask_expiry(access, key));
    let last = text(sizes.glance().saturating_sub(1));
    for key in names() {
        let link = &mut access.link;
        link.queue(&[b"GETRANGE", key, b"0", last.as_bytes()]);
    }
    access.send().await?;
    let now_ms = time(access).await?;
    let mut expiries = Vec::with_capacity(keys.len());
    for _ in names() {
        expiries.push(expiry(access, now_ms).await?);
    }
    for (at, expiry) in strings().zip(expiries) {
        let read = glance(access, expiry, sizes).await?;
        if let Some(seen) = seen.get_mut(at) {
            *seen = read;
        }
    }
    Ok(seen)
}

/// Values of any type, as `DUMP` gives them.
async fn payloads(
    access: &mut Access,
    db: u32,
    keys: &[&[u8]],
    sizes: Sizes,
) -> Result<Vec<Found>, CheckError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let memory = memory(access, db, keys).await?;
    let mut found = Vec::with_capacity(keys.len());
    let mut at = 0;
    while at < keys.len() {
        let rest = memory.get(at..).unwrap_or_default();
        let mut bytes = 0;
        let row = rest.iter().take_while(|size| {
            bytes += size.filter(|size| *size <= sizes.small).unwrap_or(0);
            bytes <= sizes.row
        });
        let row = row.count().max(1).min(rest.len());
        let keys = keys.get(at..at + row).unwrap_or_default();
        let memory = rest.get(..row).unwrap_or_default();
        dumps(access, db, keys, memory, sizes, &mut found).await?;
        at += row;
    }
    Ok(found)
}

/// One row of values.
async fn dumps<K: AsRef<[u8]>>(
    access: &mut Access,
    db: u32,
    keys: &[K],
    memory: &[Option<u64>],
    sizes: Sizes,
    into: &mut Vec<Found>,
) -> Result<(), CheckError> {
    let is_small = |size: &Option<u64>| size.is_some_and(|size| size <= sizes.small);
    let any = memory.iter().any(is_small);
    if any {
        access.begin(db);
        access.link.queue(&[b"TIME"]);
        for (key, size) in keys.iter().zip(memory) {
            if is_small(size) {
                ask_expiry(access, key.as_ref());
                access.link.queue(&[b"DUMP", key.as_ref()]);
            }
        }
        access.send().await?;
    }
    let now_ms = match any {
        true => time(access).await?,
        false => 0,
    };
    for size in memory {
        into.push(match size {
            None => Found::Absent,
            Some(_) if !is_small(size) => Found::Large,
            Some(_) => {
                let expiry = expiry(access, now_ms).await?;
                found(dumped(access, now_ms, sizes).await?, expiry)
            }
        });
    }
    Ok(())
}

/// The reply to `DUMP`.
pub(super) async fn dumped(
    access: &mut Access,
    now_ms: i64,
    sizes: Sizes,
) -> Result<Found, CheckError> {
    let mut found = match access.link.head().await? {
        Head::Null => Found::Absent,
        // The server thought it smaller than it is.
        Head::Bulk(len) if len > sizes.row => {
            access.link.skip(Head::Bulk(len)).await?;
            Found::Large
        }
        Head::Bulk(len) => {
            let payload = access.link.whole(len).await?;
            match dump::read(&payload, access.side(), now_ms) {
                Ok(Some(reading)) => Found::Read(Box::new(reading)),
                // What only commands can read.
                Ok(None) | Err(_) => Found::Large,
            }
        }
        other => return Err(access.link.unexpected("DUMP", &other)),
    };
    if let Found::Read(reading) = &mut found {
        // All of its members have expired.
        if matches!(reading.kind, Kind::Set | Kind::Hash) && reading.length == 0 {
            found = Found::Absent;
        }
    }
    Ok(found)
}
