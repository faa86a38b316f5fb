//! The head of one journal entry, and the count of entries.
//! Units: LSNs count entries of one flow, the first being 1; `next` is that of the entry to come.
//! Facts: opcodes of v1.14 to v1.40, current and former; integers are packed and big endian.
//!   What no release sends to a replica is refused, not guessed.

use crate::rdb::Cursor;

use super::fault::Fault;

/// Most words a command may have. A count over it is corrupt: no server accepts such a command.
const WORDS_LIMIT: u64 = 1 << 26;

/// Most bytes the words of a command may have together. 16 GiB.
const TOTAL_LIMIT: u64 = 1 << 34;

/// What an entry is, up to the words of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryHead {
    /// The database of what follows. Counts for no LSN.
    Select(u32),
    /// The words follow.
    Command { txid: u64, words: u32, total: u64 },
    /// An entry without effect.
    Nothing { acknowledge: bool },
    /// The LSN of the entry before, as the source counts. Counts for no LSN itself.
    Lsn(u64),
}

/// Reads one entry's head; returns it with its length in bytes.
pub(super) fn entry_head(bytes: &[u8]) -> Result<(EntryHead, usize), Fault> {
    let mut cursor = Cursor::new(bytes);
    let head = match cursor.byte()? {
        6 => EntryHead::Select(database(&mut cursor)?),
        // 9 was an expired key's DEL, 11 a command inside MULTI.
        9..=11 => {
            let txid = cursor.packed()?;
            cursor.packed()?; // number of shards, always 1 in recent releases
            command(&mut cursor, txid)?
        }
        12 => {
            cursor.packed()?;
            cursor.packed()?;
            EntryHead::Nothing { acknowledge: false }
        }
        13 => EntryHead::Nothing { acknowledge: true },
        14 => EntryHead::Nothing { acknowledge: false },
        15 => EntryHead::Lsn(cursor.packed()?),
        b'+' | b'-' => return Err(Fault::ErrorText),
        opcode => return Err(Fault::Opcode(opcode)),
    };
    Ok((head, cursor.position()))
}

fn command(cursor: &mut Cursor<'_>, txid: u64) -> Result<EntryHead, Fault> {
    let words = cursor.packed()?;
    if words == 0 {
        return Err(Fault::invalid("a command without words"));
    }
    let words = u32::try_from(words)
        .ok()
        .filter(|words| u64::from(*words) <= WORDS_LIMIT)
        .ok_or(Fault::invalid("a command with too many words"))?;
    let total = cursor.packed()?;
    if total > TOTAL_LIMIT {
        return Err(Fault::invalid("a command that is too long"));
    }
    Ok(EntryHead::Command { txid, words, total })
}

/// A database number.
pub(super) fn database(cursor: &mut Cursor<'_>) -> Result<u32, Fault> {
    u32::try_from(cursor.packed()?).map_err(|_| Fault::invalid("database number too large"))
}

/// Whether a command's packed words are the single word PING, which some failures leave behind.
pub(super) fn is_ping(words: u32, packed: &[u8]) -> bool {
    words == 1 && packed.eq_ignore_ascii_case(b"\x04PING")
}

/// Counts entries. Without a start it counts nothing: entries inside a snapshot have no LSN.
#[derive(Debug, Default)]
pub(super) struct Count {
    next: Option<u64>,
}

impl Count {
    /// Counts from `next` on.
    pub(super) fn from(next: u64) -> Self {
        Self { next: Some(next) }
    }

    /// The LSN of the entry that was just read.
    pub(super) fn take(&mut self) -> Result<Option<u64>, Fault> {
        let Some(lsn) = self.next else {
            return Ok(None);
        };
        let over = Fault::invalid("the entry count overflows");
        self.next = Some(lsn.checked_add(1).ok_or(over)?);
        Ok(Some(lsn))
    }

    /// Compares with the LSN the source gives for the entry before.
    pub(super) fn check(&self, got: u64) -> Result<(), Fault> {
        match self.next {
            Some(next) if got.checked_add(1) != Some(next) => Err(Fault::Lsn {
                expected: next.wrapping_sub(1),
                got,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::Halt;

    #[test]
    fn entries_of_every_release_are_known() {
        let command = |txid, words, total| EntryHead::Command { txid, words, total };
        for (bytes, head) in [
            (&[6, 3][..], EntryHead::Select(3)),
            (&[10, 0, 1, 3, 9], command(0, 3, 9)),
            (
                &[10, 0x80, 0, 1, 0x11, 0x70, 1, 5, 8],
                command(70_000, 5, 8),
            ),
            (&[9, 0, 1, 2, 6], command(0, 2, 6)),
            (&[11, 0x40, 0xC8, 2, 2, 5], command(200, 2, 5)),
            (
                &[12, 0x40, 0xC8, 2],
                EntryHead::Nothing { acknowledge: false },
            ),
            (&[13], EntryHead::Nothing { acknowledge: true }),
            (&[14], EntryHead::Nothing { acknowledge: false }),
            (&[15, 0x41, 0x2C], EntryHead::Lsn(300)),
        ] {
            assert_eq!(entry_head(bytes).unwrap(), (head, bytes.len()));
            for cut in 0..bytes.len() {
                assert!(matches!(
                    entry_head(&bytes[..cut]),
                    Err(Fault::Halt(Halt::Incomplete { .. }))
                ));
            }
        }
    }

    #[test]
    fn text_and_unknown_opcodes_and_impossible_counts_are_told_apart() {
        assert!(matches!(entry_head(b"-ERR x"), Err(Fault::ErrorText)));
        assert!(matches!(entry_head(&[0]), Err(Fault::Opcode(0))));
        assert!(matches!(entry_head(&[99]), Err(Fault::Opcode(99))));
        for bytes in [
            &[10, 0, 1, 0, 0][..],
            &[10, 0, 1, 0x80, 255, 255, 255, 255, 0],
            &[10, 0, 1, 1, 0x81, 255, 255, 255, 255, 255, 255, 255, 255],
            &[6, 0x81, 0, 0, 0, 1, 0, 0, 0, 0],
        ] {
            assert!(
                matches!(entry_head(bytes), Err(Fault::Invalid(_))),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn the_count_moves_by_one_and_notices_every_difference() {
        let mut count = Count::from(7);
        count.check(6).unwrap();
        assert_eq!(count.take().unwrap(), Some(7));
        count.check(7).unwrap();
        for got in [0, 6, 8, u64::MAX] {
            assert!(matches!(
                count.check(got),
                Err(Fault::Lsn { expected: 7, .. })
            ));
        }
        assert!(Count::from(u64::MAX).take().is_err());
        let mut inside = Count::default();
        inside.check(99).unwrap();
        assert_eq!(inside.take().unwrap(), None);
    }
}
