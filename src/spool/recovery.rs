//! What a spool's directory holds when a task starts.
//!
//! A segment with a seal is taken at its word where the machine has not been started anew since: the kernel has all
//! that was written, and every record is compared with its checksum when it is read. One without, of which there is
//! one a flow after a kill, is read whole; after a start of the machine all are.
//!
//! Invariants: runs of LSNs without a gap, in order, of whole records only; a torn end is cut off, so that the file
//!   ends with a whole record; what is damaged before its end is put aside and no part of any run.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::flow::Segment;
use super::identity::{ASIDE, files};
use super::reading::{ReadFault, Records, seal};
use super::record::{self, Head, Kind};
use super::segment::{self, SegmentFile};

/// Bytes read at once.
const STRETCH: usize = 1 << 20;

/// What was found of one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which flow.
    pub flow: u32,
    /// The LSNs that are there, run by run without a gap inside, oldest first.
    pub runs: Vec<Range<u64>>,
    /// Bytes of records that were not whole, cut off.
    pub cut: u64,
    /// Files that were damaged, under the names they have now.
    pub damaged: Vec<PathBuf>,
}

/// A flow's segments, oldest first.
pub(super) struct FoundFlow {
    pub(super) segments: Vec<Segment>,
    pub(super) cut: u64,
    pub(super) damaged: Vec<PathBuf>,
}

/// What one file turned out to be.
enum Looked {
    Good { segment: Box<Segment>, cut: u64 },
    Empty { cut: u64 },
    Damaged,
}

/// The segments of all flows, and the highest number of any. Removes what has no use after a start: overflow segments
/// and empty ones.
pub(super) fn segments(
    dir: &Path,
    flows: u32,
    identity: u64,
    trusted: bool,
) -> io::Result<(BTreeMap<u32, FoundFlow>, u64)> {
    let mut named: Vec<(u32, SegmentFile)> = Vec::new();
    for path in files(dir)? {
        if path
            .extension()
            .is_some_and(|extension| extension == "overflow")
        {
            std::fs::remove_file(&path)?;
        } else if let Some(found) = SegmentFile::of_journal(&path) {
            named.push(found);
        }
    }
    named.sort_by_key(|(flow, named)| (*flow, named.number));
    let highest = named.iter().map(|(_, named)| named.number).max();
    let mut found = BTreeMap::new();
    for flow in 0..flows {
        let nothing = FoundFlow {
            segments: Vec::new(),
            cut: 0,
            damaged: Vec::new(),
        };
        found.insert(flow, nothing);
    }
    for (flow, named) in named {
        let path = named.path.clone();
        let Some(this) = found.get_mut(&flow) else {
            std::fs::remove_file(&path)?;
            continue;
        };
        match look(flow, named, identity, trusted)? {
            Looked::Good { segment, cut } => {
                this.segments.push(*segment);
                this.cut += cut;
            }
            Looked::Empty { cut } => {
                this.cut += cut;
                std::fs::remove_file(&path)?;
            }
            Looked::Damaged => this.damaged.push(put_aside(&path)?),
        }
    }
    Ok((found, highest.unwrap_or(0)))
}

/// Renames a damaged file, which takes the place of an earlier one of its flow.
pub(super) fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let flow = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        name.split_once('-').map(|(flow, _)| flow.to_owned())
    };
    for old in files(dir)? {
        if old.extension().is_some_and(|it| it == ASIDE) && flow(&old) == flow(path) {
            std::fs::remove_file(old)?;
        }
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ASIDE);
    std::fs::rename(path, &name)?;
    Ok(name.into())
}

fn look(flow: u32, named: SegmentFile, identity: u64, trusted: bool) -> io::Result<Looked> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&named.path)?;
    let len = file.metadata()?.len();
    let mut head = [0; segment::HEAD];
    if len < head.len() as u64 {
        return Ok(Looked::Empty { cut: len });
    }
    file.read_exact_at(&mut head, 0)?;
    if head != segment::head(flow, identity) {
        return Ok(Looked::Damaged);
    }
    let sealed = seal(&file, len)?;
    if let Some(seal) = sealed.filter(|seal| trusted && seal.first < seal.next) {
        return Ok(Looked::Good {
            segment: Box::new(Segment {
                named: Arc::new(named),
                first: seal.first,
                next: seal.next,
                end: len - record::HEAD as u64,
                bytes: len,
                records: u64::from(seal.items),
                received_at_ms: seal.received_at_ms,
                applied_at: None,
            }),
            cut: 0,
        });
    }
    scan(named, file, len)
}

/// Reads a segment to its end.
fn scan(named: SegmentFile, file: File, len: u64) -> io::Result<Looked> {
    let file = Arc::new(file);
    let mut records = Records::new(file.clone(), segment::HEAD as u64, STRETCH);
    let (mut first, mut seen): (Option<Head>, Option<Head>) = (None, None);
    let (mut count, mut end) = (0_u32, segment::HEAD as u64);
    let mut sealed = false;
    while records.at() < len {
        let raw = match records.next(len) {
            Ok(raw) => raw,
            Err(ReadFault::Io(error)) => return Err(error),
            Err(ReadFault::Damaged { at, .. }) => {
                if continues(&file, at, len, seen.map_or(0, |head| head.next))? {
                    return Ok(Looked::Damaged);
                }
                break;
            }
        };
        if raw.head.kind == Kind::Seal {
            if records.at() != len || raw.head.items != count {
                return Ok(Looked::Damaged);
            }
            sealed = true;
            break;
        }
        let follows = seen.is_none_or(|before| before.next == raw.head.first);
        if raw.head.kind != Kind::Journal || raw.head.first >= raw.head.next || !follows {
            return Ok(Looked::Damaged);
        }
        match records.check_spills(&raw) {
            Ok(()) => {}
            Err(ReadFault::Io(error)) => return Err(error),
            Err(ReadFault::Damaged { .. }) if records.at() == len => break,
            Err(ReadFault::Damaged { .. }) => return Ok(Looked::Damaged),
        }
        first = first.or(Some(raw.head));
        seen = Some(raw.head);
        count = count.saturating_add(1);
        end = records.at();
    }
    let cut = if sealed { 0 } else { len - end };
    let (Some(first), Some(last)) = (first, seen) else {
        return Ok(Looked::Empty { cut });
    };
    let mut bytes = len;
    if !sealed {
        file.set_len(end)?;
        let seal = record::seal(count, first.first, last.next, first.received_at_ms);
        let mut appending = OpenOptions::new().append(true).open(&named.path)?;
        bytes = end;
        // Without a seal the segment is only read whole again the next time.
        match appending.write_all(&seal) {
            Ok(()) => bytes += seal.len() as u64,
            Err(error) if super::disk::is_full(&error) => file.set_len(end)?,
            Err(error) => return Err(error),
        }
    }
    Ok(Looked::Good {
        segment: Box::new(Segment {
            named: Arc::new(named),
            first: first.first,
            next: last.next,
            end,
            bytes,
            records: u64::from(count),
            received_at_ms: first.received_at_ms,
            applied_at: None,
        }),
        cut,
    })
}

/// Whether a record, or a seal, that begins behind `at` belongs to the same segment: then what is at `at` was not torn
/// off at the end but damaged. `next` is the LSN the segment had come to.
fn continues(file: &File, at: u64, len: u64, next: u64) -> io::Result<bool> {
    let left = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX);
    let mut window = vec![0; left.min(STRETCH)];
    let mut begin = at + 1;
    while begin < len {
        let mut filled = 0;
        while let Some(rest) = window.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, begin + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        let bytes = window.get(..filled).unwrap_or_default();
        for found in memchr::memmem::find_iter(bytes, &record::MAGIC) {
            let head = bytes.get(found..).map(Head::read);
            if let Some(Ok(head)) = head
                && head.next >= next
            {
                return Ok(true);
            }
        }
        if filled < record::HEAD {
            break;
        }
        // A head may lie across two windows.
        begin += (filled - record::HEAD + 1) as u64;
    }
    Ok(false)
}
