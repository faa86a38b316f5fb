//! A collection without an order in pieces: members of a set; fields of a hash, their values and when they expire.
//!
//! Invariant: of a hash no more names are held than [`NAMES`] has room for.
//! Facts: `HPEXPIRETIME` is in Redis 7.4, Valkey 9.0 and Dragonfly v1.40.1, where it reads and nothing else, and tells whole
//!   seconds in milliseconds, as `DUMP` does there.

use crate::check::access::{FieldExpiry, text};
use crate::check::digest::Parts;
use crate::check::dump::Digesting;
use crate::check::link::Head;

use super::{Halted, Reader, Step};

/// How far a scan has come.
struct Scan {
    /// None before the first step.
    cursor: Option<Vec<u8>>,
    step: Step,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            cursor: None,
            step: Step::first(),
        }
    }
}

/// Bytes of names that are held at a time, to ask when the fields expire. Those of one reply are far fewer, unless they
/// are much longer than the values.
const NAMES: u64 = 1 << 20;

/// Fields whose expiry times are still to be asked for.
#[derive(Default)]
struct Names {
    held: Vec<Vec<u8>>,
    bytes: u64,
}

impl Names {
    fn has_room(&self, len: u64) -> bool {
        self.bytes.saturating_add(len) <= NAMES
    }

    fn hold(&mut self, name: Vec<u8>) {
        self.bytes += name.len() as u64;
        self.held.push(name);
    }
}

impl Reader<'_> {
    /// Members of a set.
    pub(super) async fn members(&mut self, into: &mut Digesting) -> Result<(), Halted> {
        let mut scan = Scan::default();
        let mut element = Parts::default();
        while let Some(found) = self.scan(b"SSCAN", &mut scan).await? {
            let mut bytes = 0;
            for _ in 0..found {
                bytes += self.part(&mut element, "a scan").await? + 16;
                into.sum(element.finish());
            }
            scan.step.after(bytes);
        }
        Ok(())
    }

    /// Fields and values of a hash, and when they expire. Whether that is told of all of them.
    pub(super) async fn fields(&mut self, into: &mut Digesting) -> Result<bool, Halted> {
        let expiry = self.access.abilities.field_expiry;
        let mut told = expiry != FieldExpiry::Untold;
        let mut scan = Scan::default();
        let mut element = Parts::default();
        while let Some(words) = self.scan(b"HSCAN", &mut scan).await? {
            let mut bytes = 0;
            let mut names = Names::default();
            for _ in 0..words / 2 {
                let asked = told && expiry == FieldExpiry::Told;
                let (field, is_held) = self.field(&mut element, &mut names, asked).await?;
                told &= is_held || !asked;
                let value = self.part(&mut element, "a scan").await?;
                bytes += field + value + 32;
                into.sum(element.finish());
            }
            if told && !names.held.is_empty() {
                self.field_expiry(&names, into).await?;
            }
            scan.step.after(bytes);
        }
        Ok(told)
    }

    /// The name of a field as a part of an element; it is held too if that is asked for and it is not too long. Yields its
    /// length, and whether it is held.
    async fn field(
        &mut self,
        element: &mut Parts,
        names: &mut Names,
        asked: bool,
    ) -> Result<(u64, bool), Halted> {
        let Head::Bulk(len) = self.head("a scan").await? else {
            return Err(self
                .access
                .link
                .strange("a scan", b"a field that is no string")
                .into());
        };
        element.begin(len);
        let mut name = (asked && names.has_room(len)).then(Vec::new);
        let pieces = self.access.link.pieces(len, |piece| {
            element.go_on(piece);
            if let Some(name) = &mut name {
                name.extend_from_slice(piece);
            }
        });
        pieces.await?;
        let is_held = name.is_some();
        if let Some(name) = name {
            names.hold(name);
        }
        Ok((len, is_held))
    }

    /// When fields expire.
    async fn field_expiry(&mut self, names: &Names, into: &mut Digesting) -> Result<(), Halted> {
        const COMMAND: &str = "HPEXPIRETIME";
        let count = text(names.held.len());
        let mut words: Vec<&[u8]> = vec![COMMAND.as_bytes(), self.key, b"FIELDS", count.as_bytes()];
        words.extend(names.held.iter().map(Vec::as_slice));
        self.ask(&words).await?;
        let times = self.array(COMMAND).await?;
        if times != names.held.len() as u64 {
            self.access.link.skip(Head::Array(times)).await?;
            return Err(Halted::Changed);
        }
        let mut gone = false;
        for name in &names.held {
            match self.access.link.integer(COMMAND).await? {
                -1 => {}
                at @ 0.. => into.expiry(name, Some(at.unsigned_abs())),
                _ => gone = true,
            }
        }
        match gone {
            true => Err(Halted::Changed),
            false => Ok(()),
        }
    }

    /// Asks for the next part of a collection without an order. Yields how many strings follow; none at the end.
    async fn scan(&mut self, command: &[u8], scan: &mut Scan) -> Result<Option<u64>, Halted> {
        let cursor = match &scan.cursor {
            Some(cursor) if cursor == b"0" => return Ok(None),
            Some(cursor) => cursor.as_slice(),
            None => b"0",
        };
        let (key, count) = (self.key, text(scan.step.0));
        self.ask(&[command, key, cursor, b"COUNT", count.as_bytes()])
            .await?;
        self.array("a scan").await?;
        scan.cursor = Some(self.access.link.text("a scan").await?);
        Ok(Some(self.array("a scan").await?))
    }
}
