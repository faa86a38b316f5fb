//! Segments: files of records of one flow.
//!
//! ```text
//! FLOW-NUMBER.journal     head, records, [seal]     survives a restart
//! FLOW-NUMBER.overflow    head, records             removed when it was read, and at the next start
//! head = "DFSPOOL1", flow u32, 0 u32, identity u64, checksum of all that u64
//! ```
//!
//! Numbers rise and are never given twice, so a name never means another file than it did.
//!
//! Invariants: [`Active::append`] appends all it is given or nothing; only whole records lie before `len`.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc_fast::{CrcAlgorithm, checksum};

use crate::entry::Spill;
use crate::fail_point::{self, Place};

use super::disk::Disk;
use super::record::{self, Encoded, Kind};

/// Length of a segment's head.
pub(super) const HEAD: usize = 32;

const MAGIC: &[u8; 8] = b"DFSPOOL1";

/// A file of records, by name: it is opened where it is needed, so that a long backlog needs no file descriptors.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

impl SegmentFile {
    pub(super) fn new(dir: &Path, flow: u32, number: u64, kind: Kind) -> Self {
        let ending = match kind {
            Kind::Overflow => "overflow",
            Kind::Journal | Kind::Seal => "journal",
        };
        Self {
            number,
            path: dir.join(format!("{flow:05}-{number:012}.{ending}")),
            kind,
        }
    }

    /// The journal segment that this path names, and its flow.
    pub(super) fn of_journal(path: &Path) -> Option<(u32, Self)> {
        let name = path.file_name()?.to_str()?.strip_suffix(".journal")?;
        let (flow, number) = name.split_once('-')?;
        let (flow, number) = (flow.parse().ok()?, number.parse().ok()?);
        let named = Self::new(path.parent()?, flow, number, Kind::Journal);
        (named.path == path).then_some((flow, named))
    }
}

/// The bytes a segment of this flow begins with.
pub(super) fn head(flow: u32, identity: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let fields = [
        MAGIC.as_slice(),
        &flow.to_le_bytes(),
        &[0; 4],
        &identity.to_le_bytes(),
    ]
    .concat();
    let sum = checksum(CrcAlgorithm::Crc64Nvme, &fields).to_le_bytes();
    for (place, byte) in head.iter_mut().zip(fields.iter().chain(&sum)) {
        *place = *byte;
    }
    head
}

/// A segment that records are appended to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) named: Arc<SegmentFile>,
    pub(super) file: Arc<File>,
    /// Up to the end of the last whole record.
    pub(super) len: u64,
    pub(super) records: u32,
    /// Of all records together; 0 if there is none.
    pub(super) first: u64,
    pub(super) next: u64,
    /// Of the first record.
    pub(super) received_at_ms: i64,
}

impl Active {
    pub(super) fn create(
        disk: &Disk,
        flow: u32,
        number: u64,
        kind: Kind,
        identity: u64,
    ) -> io::Result<Self> {
        let named = SegmentFile::new(disk.dir(), flow, number, kind);
        fail_point::pass(Place::SegmentCreate);
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(0o600)
            .open(&named.path)?;
        let head = head(flow, identity);
        if let Err(error) = disk.write(&file, &mut [IoSlice::new(&head)]) {
            // An empty file would only be in the way; the error that counts is the first.
            let _ = disk.remove(&named.path);
            return Err(error);
        }
        fail_point::pass(Place::SegmentCreated);
        Ok(Self {
            named: Arc::new(named),
            file: Arc::new(file),
            len: HEAD as u64,
            records: 0,
            first: 0,
            next: 0,
            received_at_ms: 0,
        })
    }

    /// Appends these records, all or, on an error, none.
    pub(super) fn append<'a>(
        &mut self,
        disk: &Disk,
        records: impl Iterator<Item = &'a mut Encoded>,
    ) -> io::Result<()> {
        let before = (
            self.len,
            self.records,
            self.first,
            self.next,
            self.received_at_ms,
        );
        let (before_it, behind_it) = match self.named.kind {
            Kind::Overflow => (Place::OverflowWrite, Place::OverflowWritten),
            Kind::Journal | Kind::Seal => (Place::RecordWrite, Place::RecordWritten),
        };
        fail_point::pass(before_it);
        let result = self.write(disk, records);
        fail_point::pass(behind_it);
        if result.is_err() {
            (
                self.len,
                self.records,
                self.first,
                self.next,
                self.received_at_ms,
            ) = before;
            self.file.set_len(self.len)?;
            (&*self.file).seek(SeekFrom::Start(self.len))?;
        }
        result
    }

    fn write<'a>(
        &mut self,
        disk: &Disk,
        records: impl Iterator<Item = &'a mut Encoded>,
    ) -> io::Result<()> {
        let mut waiting: Vec<&Encoded> = Vec::new();
        for record in records {
            record.finish();
            let head = record.head();
            if self.records == 0 {
                (self.first, self.received_at_ms) = (head.first, head.received_at_ms);
            }
            self.next = head.next;
            self.records = self.records.saturating_add(1);
            self.len += record.len();
            let record: &Encoded = record;
            waiting.push(record);
            if !record.spills.is_empty() {
                self.write_parts(disk, &mut waiting)?;
                for spill in &record.spills {
                    copy(disk, &self.file, spill)?;
                }
            }
        }
        self.write_parts(disk, &mut waiting)
    }

    fn write_parts(&self, disk: &Disk, records: &mut Vec<&Encoded>) -> io::Result<()> {
        let parts = records.iter().flat_map(|record| record.parts());
        let mut parts: Vec<_> = parts.map(IoSlice::new).collect();
        records.clear();
        disk.write(&self.file, &mut parts)
    }

    /// Writes the seal: nothing is appended any more.
    pub(super) fn seal(&mut self, disk: &Disk) -> io::Result<()> {
        let seal = record::seal(self.records, self.first, self.next, self.received_at_ms);
        fail_point::pass(Place::SegmentSeal);
        disk.write(&self.file, &mut [IoSlice::new(&seal)])?;
        fail_point::pass(Place::SegmentSealed);
        self.len += seal.len() as u64;
        Ok(())
    }
}

/// Appends a spilled body and its checksum.
fn copy(disk: &Disk, file: &File, spill: &Spill) -> io::Result<()> {
    let mut piece = record::piece_of(spill);
    let mut sum = record::spill_sum();
    let mut at = 0;
    while at < spill.len() {
        let filled = spill.fill(&mut piece, at)?;
        let part = piece.get(..filled).filter(|part| !part.is_empty());
        let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
        sum.update(part);
        disk.write(file, &mut [IoSlice::new(part)])?;
        at += filled as u64;
        fail_point::pass(Place::RecordPart);
    }
    disk.write(file, &mut [IoSlice::new(&sum.finalize().to_le_bytes())])
}
