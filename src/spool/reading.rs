//! Records out of a segment, a stretch of the file at a time.
//!
//! Invariants: a record is handed out whole and with its checksums compared, spilled bodies included, or not at all;
//!   memory is one stretch, or one record where that is longer, and never more than there is of the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::entry::{Batch, Spill};

use super::record::{self, Damage, HEAD, Head, Kind, SUM};

/// Why nothing could be read.
#[derive(Debug)]
pub(super) enum ReadFault {
    /// The bytes at `at` are no record.
    Damaged { at: u64, damage: Damage },
    /// The file could not be read.
    Io(io::Error),
}

impl From<io::Error> for ReadFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// One whole record.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) head: Head,
    /// Descriptors and bytes.
    body: Bytes,
    /// Where its spilled bodies begin.
    spilled_at: u64,
}

/// Reads records forward.
#[derive(Debug)]
pub(super) struct Records {
    file: Arc<File>,
    /// What was read ahead, from `at` on.
    window: Bytes,
    at: u64,
    stretch: usize,
}

impl Records {
    /// From `at`, a record's first byte, reading about `stretch` bytes at a time.
    pub(super) fn new(file: Arc<File>, at: u64, stretch: usize) -> Self {
        Self {
            file,
            window: Bytes::new(),
            at,
            stretch: stretch.max(HEAD),
        }
    }

    /// Where the next record begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Whether a whole record, or the head of one that is longer than a stretch, has been read ahead already.
    pub(super) fn holds_more(&self) -> bool {
        Head::read(&self.window).is_ok_and(|head| {
            head.total()
                .is_some_and(|total| total <= self.window.len() as u64)
        })
    }

    /// The record that begins at [`Self::at`]. `end` is where the last one ends, at most the file's length.
    pub(super) fn next(&mut self, end: u64) -> Result<Raw, ReadFault> {
        let damaged = |at, damage| ReadFault::Damaged { at, damage };
        let at = self.at;
        let left = end.saturating_sub(at);
        self.fill(HEAD as u64, left)?;
        let head = Head::read(&self.window).map_err(|damage| damaged(at, damage))?;
        let total = head.total().filter(|total| *total <= left);
        let total = total.ok_or(damaged(at, Damage::Short))?;
        let resident = HEAD as u64 + head.body();
        self.fill(resident, left)?;
        // No more than `left`, which was read into memory.
        let resident = resident as usize;
        if self.window.len() < resident {
            return Err(damaged(at, Damage::Short));
        }
        let body = self.window.slice(HEAD..resident);
        if !head.covers(&body) {
            let what = "the checksum of a record is wrong";
            return Err(damaged(at, Damage::Wrong(what)));
        }
        let spilled_at = at + resident as u64;
        self.at = at + total;
        let kept = usize::try_from(total).unwrap_or(usize::MAX);
        self.window = match self.window.len() > kept {
            true => self.window.slice(kept..),
            false => Bytes::new(),
        };
        Ok(Raw {
            head,
            body,
            spilled_at,
        })
    }

    /// Reads until the window has `wanted` bytes, or all of the `left` that there are.
    fn fill(&mut self, wanted: u64, left: u64) -> Result<(), ReadFault> {
        if self.window.len() as u64 >= wanted || wanted > left {
            return Ok(());
        }
        let stretch = (self.stretch as u64).max(wanted).min(left);
        let stretch =
            usize::try_from(stretch).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mut window = BytesMut::zeroed(stretch);
        let had = self.window.len().min(stretch);
        window
            .get_mut(..had)
            .unwrap_or_default()
            .copy_from_slice(self.window.get(..had).unwrap_or_default());
        let mut filled = had;
        while let Some(rest) = window.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, self.at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        window.truncate(filled);
        self.window = window.freeze();
        Ok(())
    }

    /// Compares the record's spilled bodies with their checksums.
    pub(super) fn check_spills(&self, raw: &Raw) -> Result<(), ReadFault> {
        self.spills(raw).map(drop)
    }

    /// The record's batch.
    pub(super) fn batch(&self, raw: &Raw) -> Result<Batch, ReadFault> {
        let mut spills = self.spills(raw)?.into_iter();
        let mut spill = |len| spills.next().filter(|spill: &Spill| spill.len() == len);
        record::batch(&raw.head, &raw.body, &mut spill).map_err(|what| self.wrong(raw, what))
    }

    fn wrong(&self, raw: &Raw, what: &'static str) -> ReadFault {
        let at = raw.spilled_at - HEAD as u64 - raw.body.len() as u64;
        let damage = Damage::Wrong(what);
        ReadFault::Damaged { at, damage }
    }

    /// The record's spilled bodies, which stay in the file. Their lengths stand only in the descriptors.
    fn spills(&self, raw: &Raw) -> Result<Vec<Spill>, ReadFault> {
        if raw.head.spills == 0 {
            return match raw.head.spilled {
                0 => Ok(Vec::new()),
                _ => Err(self.wrong(raw, "spilled bytes of no body")),
            };
        }
        let (mut at, end) = (raw.spilled_at, raw.spilled_at + raw.head.spilled);
        let mut found = Vec::new();
        // The first pass yields the lengths; where each begins follows from those before it.
        let mut spill = |len: u64| {
            let next = at.checked_add(len)?.checked_add(SUM)?;
            if next > end {
                return None;
            }
            let spill = Spill::within(self.file.clone(), at, len);
            at = next;
            found.push(spill.clone());
            Some(spill)
        };
        record::batch(&raw.head, &raw.body, &mut spill).map_err(|what| self.wrong(raw, what))?;
        if at != end || found.len() != raw.head.spills as usize {
            return Err(self.wrong(raw, "other spilled bodies than the record claims"));
        }
        for spill in &found {
            self.check(raw, spill)?;
        }
        Ok(found)
    }

    fn check(&self, raw: &Raw, spill: &Spill) -> Result<(), ReadFault> {
        let mut piece = record::piece_of(spill);
        let mut sum = record::spill_sum();
        let mut at = 0;
        while at < spill.len() {
            let filled = spill.fill(&mut piece, at)?;
            match piece.get(..filled).filter(|part| !part.is_empty()) {
                Some(part) => sum.update(part),
                None => return Err(self.wrong(raw, "a spilled body is cut off")),
            }
            at += filled as u64;
        }
        let mut written = [0; SUM as usize];
        self.file
            .read_exact_at(&mut written, spill.start() + spill.len())?;
        if u64::from_le_bytes(written) != sum.finalize() {
            return Err(self.wrong(raw, "the checksum of a spilled body is wrong"));
        }
        Ok(())
    }
}

/// What the seal at the end of a file of `len` bytes says, if one is there.
pub(super) fn seal(file: &File, len: u64) -> io::Result<Option<Head>> {
    let Some(at) = len.checked_sub(HEAD as u64) else {
        return Ok(None);
    };
    let mut bytes = [0; HEAD];
    file.read_exact_at(&mut bytes, at)?;
    let head = Head::read(&bytes).ok();
    Ok(head.filter(|head| head.kind == Kind::Seal))
}
