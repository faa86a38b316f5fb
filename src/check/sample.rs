//! Some elements of a set or hash that is too large for smart mode: those that the source's scan shows first, asked
//! for by name on the target. Of what has an order, [`pieces`](super::pieces) looks at the same places on both sides.
//!
//! Invariants: at most [`ELEMENTS`] elements, with names of at most [`NAME`] bytes, are held.

use super::access::Access;
use super::digest::{Digest, Parts};
use super::error::CheckError;
use super::link::Head;
use super::reading::{Kind, Reading};

/// How many elements are compared.
const ELEMENTS: usize = 64;
/// The longest name of one.
const NAME: u64 = 64 << 10;

/// Compares samples, if these are readings of which only the outline is known: the digest of each then is that of its
/// sample. Leaves all other readings as they are.
pub(super) async fn compare(
    (source, db): (&mut Access, u32),
    (target, target_db): (&mut Access, u32),
    key: &[u8],
    here: &mut Reading,
    there: &mut Reading,
) -> Result<(), CheckError> {
    let sampled = here.sampled && there.sampled && here.kind == there.kind;
    let kind = here.kind.clone();
    if !sampled || !matches!(kind, Kind::Set | Kind::Hash) {
        return Ok(());
    }
    let (names, digest) = take(source, db, key, &kind).await?;
    here.value = Some(digest);
    there.value = Some(ask_for(target, target_db, key, &kind, &names).await?);
    Ok(())
}

/// Some elements of the source: their names, and the digest of all of them.
async fn take(
    access: &mut Access,
    db: u32,
    key: &[u8],
    kind: &Kind,
) -> Result<(Vec<Vec<u8>>, Digest), CheckError> {
    let command: &[u8] = match kind {
        Kind::Hash => b"HSCAN",
        _ => b"SSCAN",
    };
    access.begin(db);
    access.link.queue(&[command, key, b"0", b"COUNT", b"64"]);
    access.send().await?;
    let (mut names, mut sum) = (Vec::new(), Digest::default());
    if !is_there(access, "a scan").await? {
        return Ok((names, sum));
    }
    let cursor = access.link.head().await?;
    access.link.skip(cursor).await?;
    let mut left = access.link.array("a scan").await?;
    while left > 0 {
        let name = match access.link.head().await? {
            Head::Bulk(len) if len <= NAME && names.len() < ELEMENTS => {
                Some(access.link.whole(len).await?.to_vec())
            }
            head => {
                access.link.skip(head).await?;
                None
            }
        };
        left -= 1;
        let mut element = Parts::default();
        if let Some(name) = &name {
            element.part(name);
        }
        if *kind == Kind::Hash {
            value(access, &mut element).await?;
            left -= 1;
        }
        if let Some(name) = name {
            names.push(name);
            sum.add(element.finish());
        }
    }
    Ok((names, sum))
}

/// The digest of the elements of these names, as far as they are there.
async fn ask_for(
    access: &mut Access,
    db: u32,
    key: &[u8],
    kind: &Kind,
    names: &[Vec<u8>],
) -> Result<Digest, CheckError> {
    let mut sum = Digest::default();
    if names.is_empty() {
        return Ok(sum);
    }
    access.begin(db);
    for name in names {
        match kind {
            Kind::Hash => access.link.queue(&[b"HGET", key, name]),
            _ => access.link.queue(&[b"SISMEMBER", key, name]),
        }
    }
    access.send().await?;
    for name in names {
        let mut element = Parts::default();
        element.part(name);
        let there = match kind {
            Kind::Hash => value(access, &mut element).await?,
            _ => match access.link.head().await? {
                Head::Integer(there) => there > 0,
                Head::Error(answer) if answer.starts_with("WRONGTYPE") => false,
                other => return Err(access.link.unexpected("SISMEMBER", &other)),
            },
        };
        if there {
            sum.add(element.finish());
        }
    }
    Ok(sum)
}

/// A value as a part of an element; whether there is one.
async fn value(access: &mut Access, element: &mut Parts) -> Result<bool, CheckError> {
    match access.link.head().await? {
        Head::Bulk(len) => {
            element.begin(len);
            access
                .link
                .pieces(len, |piece| element.go_on(piece))
                .await?;
            Ok(true)
        }
        Head::Null => Ok(false),
        Head::Error(answer) if answer.starts_with("WRONGTYPE") => Ok(false),
        other => Err(access.link.unexpected("HGET", &other)),
    }
}

/// Whether a scan's reply begins; not if the key has become something else.
async fn is_there(access: &mut Access, command: &str) -> Result<bool, CheckError> {
    match access.link.head().await? {
        Head::Array(_) => Ok(true),
        Head::Error(answer) if answer.starts_with("WRONGTYPE") => Ok(false),
        other => Err(access.link.unexpected(command, &other)),
    }
}
