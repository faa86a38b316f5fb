//! Commands that wait for long, in files without a name: what is parked would else take all of a flow's memory, and
//! nothing else of the flow could go on.
//!
//! Invariant: what is read is what was written, or an error. Nothing here outlives the process: the spool has it all,
//!   as none of it is applied.
//!
//! ```text
//! command: kind and what it tolerates (1)  has an LSN (1)  LSN (8)  length (8)  bytes as they are sent
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::round::Item;
use crate::entry::Spill;
use crate::target::answer::Tolerate;
use crate::target::outgoing::Outgoing;
use crate::target::writer::Kind;

/// Bytes after which the next file is begun. The space of one is freed when nothing in it waits any more.
const FILE: u64 = 64 << 20;
/// Bytes before those of a command.
const HEAD: usize = 18;

const TOLERATES: [Tolerate; 4] = [
    Tolerate::Nothing,
    Tolerate::NoSuchKey,
    Tolerate::BusyGroup,
    Tolerate::StreamId,
];

/// Where commands are written.
#[derive(Debug)]
pub(super) struct Overflow {
    dir: PathBuf,
    file: Option<(Arc<File>, u64)>,
}

/// Commands that were.
#[derive(Debug)]
pub(super) struct Filed(Spill);

impl Overflow {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, file: None }
    }

    /// Writes commands, all of which are in memory.
    pub fn write(&mut self, out: &Outgoing, items: &[Item]) -> io::Result<Filed> {
        let mut bytes = Vec::with_capacity(out.in_memory() + out.commands() * HEAD);
        let mut items = items.iter().peekable();
        let mut now = None;
        for n in 0..out.commands() {
            while let Some(item) = items.next_if(|item| item.first <= n) {
                now = Some(item);
            }
            let (Some(item), Some(command)) = (now, out.in_one(n)) else {
                return Err(io::Error::other("a command that is not in memory"));
            };
            let tolerates = TOLERATES.iter().position(|it| *it == item.tolerate);
            let kind = u8::from(item.kind == Kind::Entry);
            bytes.push(kind | u8::try_from(tolerates.unwrap_or(0)).unwrap_or(0) << 1);
            bytes.push(u8::from(out.lsn(n).is_some()));
            bytes.extend_from_slice(&out.lsn(n).unwrap_or(0).to_le_bytes());
            bytes.extend_from_slice(&(command.len() as u64).to_le_bytes());
            bytes.extend_from_slice(command);
        }
        let (file, end) = match self.file.take() {
            Some((file, end)) if end < FILE => (file, end),
            _ => (Arc::new(tempfile::tempfile_in(&self.dir)?), 0),
        };
        // What is half-written is written over.
        let written = file.write_all_at(&bytes, end);
        let len = bytes.len() as u64;
        let filed = Spill::within(file.clone(), end, len);
        self.file = Some((file, end + written.as_ref().map_or(0, |()| len)));
        written.map(|()| Filed(filed))
    }

    /// Nothing waits here any more.
    pub fn is_empty_now(&mut self) {
        self.file = None;
    }
}

impl Filed {
    /// Reads the commands again.
    pub fn read(&self) -> io::Result<(Outgoing, Vec<Item>)> {
        let bytes = self.0.read_all()?;
        let (mut out, mut items) = (Outgoing::new(), Vec::new());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            rest = take(rest, &mut out, &mut items).ok_or_else(damaged)?;
        }
        match bytes.len() as u64 == self.0.len() {
            true => Ok((out, items)),
            false => Err(damaged()),
        }
    }
}

fn damaged() -> io::Error {
    io::Error::other("entries that waited for their slot are not in their file as they were")
}

/// Appends the first command; answers what follows it.
fn take<'a>(bytes: &'a [u8], out: &mut Outgoing, items: &mut Vec<Item>) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let [what, has_lsn, numbers @ ..] = head;
    let number = |at: usize| {
        let bytes = numbers.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let (lsn, len) = (number(0)?, usize::try_from(number(8)?).ok()?);
    let (command, rest) = (rest.get(..len)?, rest.get(len..)?);
    items.push(Item {
        first: out.commands(),
        kind: match what & 1 {
            0 => Kind::Record,
            _ => Kind::Entry,
        },
        tolerate: *TOLERATES.get(usize::from(what >> 1))?,
    });
    out.encoded_of((*has_lsn != 0).then_some(lsn), command);
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A word, the entry, whether it is one's, and what it tolerates.
    type Command = (Vec<u8>, Option<u64>, bool, usize);

    fn commands(of: &[Command]) -> (Outgoing, Vec<Item>) {
        let (mut out, mut items) = (Outgoing::new(), Vec::new());
        for (word, lsn, is_entry, tolerates) in of {
            items.push(Item {
                first: out.commands(),
                kind: if *is_entry { Kind::Entry } else { Kind::Record },
                tolerate: TOLERATES[*tolerates],
            });
            out.command(2, *lsn);
            out.word(b"DEL");
            out.word(word);
        }
        (out, items)
    }

    fn text(of: &(Outgoing, Vec<Item>)) -> Vec<String> {
        let (out, items) = of;
        let command = |n: usize| format!("{:?} {:?} {:?}", out.in_one(n), out.lsn(n), items[n]);
        (0..out.commands()).map(command).collect()
    }

    fn some() -> impl Strategy<Value = Vec<Command>> {
        let word = prop::collection::vec(any::<u8>(), 0..40);
        prop::collection::vec(
            (word, any::<Option<u64>>(), any::<bool>(), 0..4_usize),
            0..20,
        )
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(first in some(), second in some()) {
            let dir = tempfile::tempdir().unwrap();
            let mut overflow = Overflow::new(dir.path().to_owned());
            let [first, second] = [first, second].map(|of| {
                let of = commands(&of);
                let filed = overflow.write(&of.0, &of.1).unwrap();
                (of, filed)
            });
            overflow.is_empty_now();
            for (of, filed) in [first, second] {
                prop_assert_eq!(text(&filed.read().unwrap()), text(&of));
            }
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }

        #[test]
        fn bytes_of_any_kind_are_commands_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            let filed = Filed(Spill::within(Arc::new(file), 0, bytes.len() as u64));
            if let Ok((out, items)) = filed.read() {
                prop_assert_eq!(out.commands(), items.len());
                prop_assert!(out.in_memory() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error_and_the_next_may_be_better() {
        let dir = tempfile::tempdir().unwrap();
        let mut overflow = Overflow::new(dir.path().join("missing"));
        let (out, items) = commands(&[(b"k".to_vec(), Some(7), true, 1)]);
        overflow.write(&out, &items).unwrap_err();
        std::fs::create_dir(dir.path().join("missing")).unwrap();
        let filed = overflow.write(&out, &items).unwrap();
        assert_eq!(text(&filed.read().unwrap()), text(&(out, items)));
    }
}
