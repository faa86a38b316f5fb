//! How a value becomes commands for a target: `SET`, `RESTORE`, `JSON.SET`, or native commands
//! that build the same value.
//!
//! ```text
//!  string            SET key value [PXAT ms]
//!  loadable type     RESTORE key ms payload REPLACE ABSTTL
//!  stream            the same, without the fields that the target does not know
//!  fields expire     the same, as the type that the target knows
//!  anything else     small: DEL key, RPUSH | SADD | HSET | ZADD …, PEXPIREAT key ms
//!                    large: the same for a temporary key, in steps, then RENAME to the key
//! ```
//!
//! Invariants: what stands in a file is sent from the file and never held in memory whole; a
//!   value that turns out to be unsupported or broken leaves nothing in the [`Outgoing`]; an
//!   ordinary client sees a key before or after, never half-built (small values count on the
//!   caller's transaction for that).
//! Units: sizes are bytes, times Unix milliseconds by the source's clock.
//! Reading a file blocks: whoever calls this for a spilled value must be allowed to.

mod chunk;
mod native;
mod way;
mod window;

use std::io;
use std::path::Path;

use self::way::{Way, no_form};
use self::window::Window;
use super::Outgoing;
use crate::commands::{Features, Kind, MemberExpiry, Reason, Unsupported};
use crate::entry::{Spill, SpillWriter};
use crate::rdb::convert::{self, StreamConverter};
use crate::rdb::payload::{self, PayloadError, Seal};
use crate::rdb::{Cursor, Halt, Text, hash_expiry, string};

pub use self::native::{Build, Step, temporary};

/// How much of a file is read at a time.
const WINDOW: usize = 64 << 10;

/// The longest head of a string: an encoding byte and two packed integers of 9 bytes.
const HEAD: usize = 19;

/// A value's bytes, without type and key.
#[derive(Debug, Clone, Copy)]
pub enum Bytes<'a> {
    /// In memory.
    Inline(&'a [u8]),
    /// In a file.
    Spilled(&'a Spill),
}

impl Bytes<'_> {
    /// Size in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Spilled(spill) => spill.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A key and its value, as the source serialised it.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    /// The key.
    pub key: &'a [u8],
    /// RDB type number.
    pub kind: u8,
    /// The value.
    pub bytes: Bytes<'a>,
    /// Absolute expiry.
    pub expire_at_ms: Option<i64>,
}

/// Sizes from which on another way is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of one word: the target's `proto-max-bulk-len`.
    pub word: u64,
    /// Most bytes of a payload that `RESTORE` gets if there is another way: the target holds the
    /// payload and the value at once.
    pub restore: u64,
    /// Most bytes of words in one native command, and in one step of a large value.
    pub command: usize,
    /// Most elements in one native command.
    pub elements: usize,
    /// Most bytes of a value in memory that is sent at once and not in steps.
    pub whole: u64,
    /// Most bytes of one element that pass through memory if `RESTORE` is another way.
    pub element: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            word: 512 << 20,
            restore: 64 << 20,
            command: 256 << 10,
            elements: 512,
            whole: 1 << 20,
            element: 4 << 20,
        }
    }
}

/// What the form of a value depends on besides the value.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'s> {
    /// The target.
    pub features: &'s Features,
    /// The policy for the expiry of single members.
    pub on_member_expiry: MemberExpiry,
    /// Names temporary keys: `df2redis:tmp:<task>:<key>`.
    pub task: &'s str,
    /// Whether the target is a cluster, where a temporary key has a hash tag, `df2redis:tmp:<task>:{<tag>}:<key>`, so
    /// that it is in its key's slot.
    pub of_cluster: bool,
    /// Where a value in a file is rewritten, if it must be.
    pub spill_dir: &'s Path,
    /// When the value was received.
    pub now_ms: i64,
    /// Sizes.
    pub limits: Limits,
}

/// In what the target's value falls short of the source's, or what was left out of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notes {
    /// Members whose expiry the target cannot keep.
    pub expiry_dropped: u64,
    /// When the first member expires whose expiry the target does not keep.
    pub due_ms: Option<i64>,
    /// Members that had expired already and were not sent.
    pub members_expired: u64,
    /// The key had expired already; it was deleted on the target instead.
    pub key_expired: bool,
}

/// A member that was left out because its time had passed here is looked for once more so much later: the source's clock
/// may be slower.
pub const LATER_MS: i64 = 2_000;

impl Notes {
    /// A member, or what may be left of one, has to be looked at by then.
    fn due(&mut self, at_ms: i64) {
        self.due_ms = Some(self.due_ms.map_or(at_ms, |due| due.min(at_ms)));
    }
}

/// What came of a value.
#[derive(Debug)]
pub enum Formed<'a> {
    /// All its commands are in the [`Outgoing`].
    Whole(Notes),
    /// It is large: call [`Build::step`] until it is done. Nothing is in the [`Outgoing`] yet.
    Steps(Box<Build<'a>>),
}

/// Why a value has no commands.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// The target cannot hold it, or not as it is: the policy for its kind decides.
    #[error("{0}")]
    Unsupported(Unsupported),
    /// Its bytes are not a value of its type.
    #[error("value of type {kind} is damaged at byte {at}: {what}")]
    Damaged {
        /// RDB type number.
        kind: u8,
        /// Offset into the value.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file that holds it cannot be read.
    #[error("cannot read back a spilled value")]
    File(#[source] io::Error),
}

impl FormError {
    fn unsupported(kind: Kind, reason: Reason) -> Self {
        Self::Unsupported(Unsupported { kind, reason })
    }

    /// What a decoder said about bytes that start at `start` of a value of type `kind`.
    fn halted(kind: u8, start: u64, bytes: u64, halt: Halt) -> Self {
        match halt {
            Halt::Incomplete { .. } => Self::Damaged {
                kind,
                at: start.saturating_add(bytes),
                what: "it ends too early",
            },
            Halt::Invalid { at, what } => Self::Damaged {
                kind,
                at: start.saturating_add(at as u64),
                what,
            },
        }
    }
}

/// The value inside the payload of a `RESTORE`: checked against its checksum, not decoded.
pub fn restored<'a>(restore: &crate::commands::Restore<'a>) -> Result<Value<'a>, PayloadError> {
    let (kind, value) = payload::open(restore.payload)?;
    Ok(Value {
        key: restore.key,
        kind,
        bytes: Bytes::Inline(value),
        expire_at_ms: restore.expire_at_ms,
    })
}

/// The type and the value in a payload that is in a file; `None` if its checksum is wrong.
pub fn restored_in_file(payload: &Spill) -> Result<Option<(u8, Spill)>, FormError> {
    const ENDS: u64 = 1 + payload::FOOTER as u64;
    let value = payload.part(1, payload.len().saturating_sub(ENDS));
    let (mut kind, mut footer) = ([0], [0; payload::FOOTER]);
    let heads = payload.fill(&mut kind, 0).map_err(FormError::File)?;
    let [kind] = kind;
    let mut seal = Seal::new(kind);
    seal_file(&mut seal, &value)?;
    let ends = payload
        .fill(&mut footer, 1 + value.len())
        .map_err(FormError::File)?;
    if heads + ends < 1 + payload::FOOTER {
        return Err(FormError::File(io::ErrorKind::UnexpectedEof.into()));
    }
    // A master writes format version 9, as the seal does.
    Ok((seal.finish() == footer).then_some((kind, value)))
}

/// Appends the commands that give the target this value, or prepares the steps that will.
/// On an error nothing was appended.
pub fn form<'a>(
    value: &Value<'a>,
    settings: &Settings<'a>,
    lsn: Option<u64>,
    out: &mut Outgoing,
) -> Result<Formed<'a>, FormError> {
    let job = Job {
        value: *value,
        settings: *settings,
        lsn,
    };
    if value.expire_at_ms.is_some_and(|at| at <= settings.now_ms) {
        job.delete(value.key, out);
        return Ok(Formed::Whole(Notes {
            key_expired: true,
            ..Notes::default()
        }));
    }
    match job.way()? {
        Way::Set => job.set(out)?,
        Way::Restore => job.restore(out)?,
        Way::Stream(kind) => job.stream(kind, out)?,
        Way::Hash(kind) => return job.hash(kind, out).map(Formed::Whole),
        Way::Json => job.json(out)?,
        Way::Native => return Build::start(job, out),
    }
    Ok(Formed::Whole(Notes::default()))
}

/// One value on its way.
#[derive(Debug, Clone, Copy)]
struct Job<'a> {
    value: Value<'a>,
    settings: Settings<'a>,
    lsn: Option<u64>,
}

/// Where the bytes of a value that is one string are.
enum Located<'a> {
    Memory(Text<'a>),
    /// From `offset` to the end of the file.
    File {
        spill: &'a Spill,
        offset: u64,
        len: u64,
    },
    /// Compressed, in a file.
    Compressed(&'a Spill),
}

impl<'a> Job<'a> {
    fn damaged(&self, at: u64, what: &'static str) -> FormError {
        FormError::Damaged {
            kind: self.value.kind,
            at,
            what,
        }
    }

    fn delete(&self, key: &[u8], out: &mut Outgoing) {
        out.command(2, self.lsn);
        out.word(b"DEL");
        out.word(key);
    }

    fn expire(&self, key: &[u8], out: &mut Outgoing) {
        if let Some(at) = self.value.expire_at_ms {
            out.command(3, self.lsn);
            out.word(b"PEXPIREAT");
            out.word(key);
            out.int(at);
        }
    }

    /// Fails when a word of `len` bytes is more than the target takes.
    fn check_size(&self, len: u64) -> Result<(), FormError> {
        if len > self.settings.limits.word {
            return Err(FormError::unsupported(Kind::Value, Reason::Size(len)));
        }
        Ok(())
    }

    /// Finds the string that the value is.
    fn located(&self) -> Result<Located<'a>, FormError> {
        let halted = |halt| FormError::halted(self.value.kind, 0, self.value.bytes.len(), halt);
        let spill = match self.value.bytes {
            Bytes::Inline(bytes) => {
                let mut cursor = Cursor::new(bytes);
                let text = string::read(&mut cursor).map_err(halted)?;
                cursor.finish().map_err(halted)?;
                return Ok(Located::Memory(text));
            }
            Bytes::Spilled(spill) => spill,
        };
        let mut head = [0; HEAD];
        let read = spill.fill(&mut head, 0).map_err(FormError::File)?;
        let mut cursor = Cursor::new(head.get(..read).unwrap_or_default());
        if cursor.peek() == Ok(0xC3) {
            return Ok(Located::Compressed(spill));
        }
        if cursor.peek().is_ok_and(|first| first >= 0xC0) {
            let text = string::read(&mut cursor).map_err(halted)?.into_bytes();
            cursor.finish().map_err(halted)?;
            return Ok(Located::Memory(Text::Owned(text)));
        }
        let len = cursor.packed().map_err(halted)?;
        let offset = cursor.position() as u64;
        match spill.len().checked_sub(offset) {
            Some(left) if left == len => Ok(Located::File { spill, offset, len }),
            _ => Err(self.damaged(offset, "its length is not that of its bytes")),
        }
    }

    /// `SET key value [PXAT ms]`; before Redis 6.2 the expiry is a command of its own.
    fn set(&self, out: &mut Outgoing) -> Result<(), FormError> {
        let located = match self.located()? {
            // The target decompresses it: here it would have to fit into memory.
            Located::Compressed(_) => return self.restore(out),
            located => located,
        };
        self.check_size(located.len())?;
        let pxat = self
            .value
            .expire_at_ms
            .filter(|_| self.settings.features.at_least(6, 2));
        out.command(if pxat.is_some() { 5 } else { 3 }, self.lsn);
        out.word(b"SET");
        out.word(self.value.key);
        located.put(out);
        match pxat {
            Some(at) => {
                out.word(b"PXAT");
                out.int(at);
            }
            None => self.expire(self.value.key, out),
        }
        Ok(())
    }

    /// `DEL`, then `JSON.SET key $ text`: over a value of another type it would be an error.
    fn json(&self, out: &mut Outgoing) -> Result<(), FormError> {
        let located = match self.located()? {
            Located::Compressed(spill) => {
                let bytes = spill.read_all().map_err(FormError::File)?;
                let text = string::read(&mut Cursor::new(&bytes))
                    .map_err(|halt| FormError::halted(self.value.kind, 0, spill.len(), halt))?;
                Located::Memory(Text::Owned(text.into_bytes()))
            }
            located => located,
        };
        self.check_size(located.len())?;
        self.delete(self.value.key, out);
        out.command(4, self.lsn);
        out.word(b"JSON.SET");
        out.word(self.value.key);
        out.word(b"$");
        located.put(out);
        self.expire(self.value.key, out);
        Ok(())
    }

    /// `RESTORE` of the value as it came.
    fn restore(&self, out: &mut Outgoing) -> Result<(), FormError> {
        self.restore_as(self.value.kind, self.value.bytes, out)
    }

    /// `RESTORE` of these bytes.
    fn restore_as(&self, kind: u8, bytes: Bytes<'_>, out: &mut Outgoing) -> Result<(), FormError> {
        let payload = bytes.len().saturating_add(1 + payload::FOOTER as u64);
        self.check_size(payload)?;
        let mut seal = Seal::new(kind);
        match bytes {
            Bytes::Inline(bytes) => seal.update(bytes),
            Bytes::Spilled(spill) => seal_file(&mut seal, spill)?,
        }
        out.command(6, self.lsn);
        out.word(b"RESTORE");
        out.word(self.value.key);
        out.int(self.value.expire_at_ms.unwrap_or(0));
        out.word_of(payload);
        out.raw(&[kind]);
        match bytes {
            Bytes::Inline(bytes) => out.raw(bytes),
            Bytes::Spilled(spill) => out.file(spill, 0, spill.len()),
        }
        out.raw(&seal.finish());
        out.end_word();
        out.word(b"REPLACE");
        out.word(b"ABSTTL");
        Ok(())
    }

    /// `RESTORE` of a stream as an older type, which goes through a file if the value is in one.
    fn stream(&self, kind: u8, out: &mut Outgoing) -> Result<(), FormError> {
        let mut converter =
            StreamConverter::new(self.value.kind, kind).map_err(|_| no_form(self.value.kind))?;
        if self.settings.features.narrow_listpacks() {
            converter = converter.narrowed();
        }
        match self.value.bytes {
            Bytes::Inline(bytes) => {
                let halted = |halt| FormError::halted(self.value.kind, 0, bytes.len() as u64, halt);
                let older = convert::stream(converter, bytes).map_err(halted)?;
                self.restore_as(kind, Bytes::Inline(&older), out)
            }
            Bytes::Spilled(spill) => {
                let older = self.convert_file(converter, spill)?;
                self.restore_as(kind, Bytes::Spilled(&older), out)
            }
        }
    }

    /// `RESTORE` of a hash of which fields expire as another type, or `DEL` if all have expired.
    fn hash(&self, kind: u8, out: &mut Outgoing) -> Result<Notes, FormError> {
        let Bytes::Inline(bytes) = self.value.bytes else {
            return Err(no_form(self.value.kind));
        };
        let halted = |halt| FormError::halted(self.value.kind, 0, bytes.len() as u64, halt);
        let converted = hash_expiry::convert(bytes, kind, self.settings.now_ms).map_err(halted)?;
        match converted.kept {
            0 => self.delete(self.value.key, out),
            _ => self.restore_as(kind, Bytes::Inline(&converted.bytes), out)?,
        }
        Ok(Notes {
            members_expired: converted.expired,
            ..Notes::default()
        })
    }

    fn convert_file(
        &self,
        mut converter: StreamConverter,
        spill: &Spill,
    ) -> Result<Spill, FormError> {
        let mut older = SpillWriter::create_in(self.settings.spill_dir).map_err(FormError::File)?;
        let mut window = Window::of_file(spill);
        let mut converted = Vec::new();
        loop {
            let step = converter
                .convert(window.bytes(), &mut converted)
                .map_err(|halt| FormError::halted(self.value.kind, window.base(), 0, halt))?;
            older.write(&converted).map_err(FormError::File)?;
            converted.clear();
            if step.done {
                let end = window.base().saturating_add(step.consumed as u64);
                return match end == spill.len() {
                    true => Ok(older.finish()),
                    false => Err(self.damaged(end, "bytes left over")),
                };
            }
            // The window doubles: how much is missing need not be known.
            if !window.slide(step.consumed, 1)? {
                return Err(self.damaged(spill.len(), "it ends too early"));
            }
        }
    }
}

impl Located<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(text) => text.len() as u64,
            Self::File { len, .. } => *len,
            Self::Compressed(spill) => spill.len(),
        }
    }

    /// Appends it as a word.
    fn put(&self, out: &mut Outgoing) {
        match self {
            Self::Memory(text) => out.word(text),
            Self::File { spill, offset, len } => out.word_in_file(&spill.part(*offset, *len)),
            Self::Compressed(spill) => out.word_in_file(spill),
        }
    }
}

/// Counts a file into a footer.
fn seal_file(seal: &mut Seal, spill: &Spill) -> Result<(), FormError> {
    let mut buffer = vec![0; WINDOW];
    let mut offset = 0;
    while offset < spill.len() {
        let read = spill.fill(&mut buffer, offset).map_err(FormError::File)?;
        if read == 0 {
            return Err(FormError::File(io::ErrorKind::UnexpectedEof.into()));
        }
        seal.update(buffer.get(..read).unwrap_or_default());
        offset += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_in_a_file_is_checked_against_its_checksum() {
        let mut sealed = Vec::new();
        payload::seal(&mut sealed, 0, &vec![7; 200_000]);
        let spill = |bytes: &[u8]| {
            let mut file = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
            file.write(bytes).unwrap();
            file.finish()
        };
        let (kind, value) = restored_in_file(&spill(&sealed)).unwrap().unwrap();
        assert_eq!((kind, value.len()), (0, 200_000));
        sealed[100_000] ^= 1;
        assert!(restored_in_file(&spill(&sealed)).unwrap().is_none());
    }
}
