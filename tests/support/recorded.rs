//! A plain decoder of flow streams for tests of the simulator: items with the very bytes they were made of.
//!
//! It trusts its input, as recordings and our own output may be trusted, and panics when that was wrong.

use super::dragonfly::encode::{
    OP_COMMAND, OP_EXPIRED, OP_LSN, OP_MULTI_COMMAND, OP_PING, OP_SELECT,
};
use std::io::Read;

/// One item of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A field of the header.
    Aux(Vec<u8>, Vec<u8>),
    /// A key with its value.
    Record(RawRecord),
    /// A part of a key: its id, and its payload.
    Chunk(u32, Vec<u8>),
    /// A journal entry between the records.
    Journal(Vec<u8>),
    /// `FULLSYNC_END`.
    End,
    /// The position of the first entry to come.
    Offset(u64),
    /// The end, with its token.
    Eof(String),
}

/// A key as it stands in a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct RawRecord {
    /// The database that was selected.
    pub db: u32,
    /// Its name.
    pub key: Vec<u8>,
    /// The type number.
    pub kind: u8,
    /// Everything from expiry or type on.
    pub bytes: Vec<u8>,
    /// The compressed blob it came in: its opcode, or 0.
    pub blob: u8,
}

/// One entry of a journal.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A command: opcode, database, transaction, shards, words, and the bytes of SELECT and command together.
    Command {
        /// The opcode.
        op: u8,
        /// The database.
        db: u32,
        /// The transaction id.
        txid: u64,
        /// The number of shards.
        shards: u64,
        /// The words.
        args: Vec<Vec<u8>>,
        /// All its bytes.
        bytes: Vec<u8>,
    },
    /// A PING.
    Ping,
    /// The position of the entry before.
    Lsn(u64),
}

/// The items of a flow's snapshot as far as whole ones are there, and how many bytes they took.
#[must_use]
pub fn items(stream: &[u8]) -> (Vec<Item>, usize) {
    let mut reader = Reader {
        bytes: stream,
        at: 0,
    };
    let mut items = Vec::new();
    if stream.len() < 9 {
        return (items, 0);
    }
    assert_eq!(
        reader.take(9),
        Some(b"REDIS0009".as_slice()),
        "the magic of a snapshot"
    );
    let (mut db, mut done) = (0, reader.at);
    while !matches!(items.last(), Some(Item::Eof(_))) {
        match item(&mut reader, &mut db, 0, &mut items) {
            Some(()) => done = reader.at,
            None => break,
        }
    }
    (items, done)
}

/// The entries of a bare journal as far as whole ones are there, and how many bytes they took.
#[must_use]
pub fn entries(stream: &[u8]) -> (Vec<Entry>, usize) {
    let mut reader = Reader {
        bytes: stream,
        at: 0,
    };
    let (mut entries, mut done, mut db) = (Vec::new(), 0, 0);
    while let Some(found) = entry(&mut reader, &mut db) {
        entries.push(found);
        done = reader.at;
    }
    (entries, done)
}

fn entry(reader: &mut Reader<'_>, db: &mut u32) -> Option<Entry> {
    let from = reader.at;
    loop {
        let op = reader.byte()?;
        match op {
            OP_SELECT => *db = reader.length()?.try_into().ok()?,
            OP_COMMAND | OP_EXPIRED | OP_MULTI_COMMAND => {
                let (txid, shards, count, total) = (
                    reader.length()?,
                    reader.length()?,
                    reader.length()?,
                    reader.length()?,
                );
                let mut args = Vec::new();
                for _ in 0..count {
                    let len = reader.length()?;
                    args.push(reader.take(len as usize)?.to_vec());
                }
                assert_eq!(
                    args.iter().map(Vec::len).sum::<usize>() as u64,
                    total,
                    "the total of a command"
                );
                let bytes = reader.bytes[from..reader.at].to_vec();
                return Some(Entry::Command {
                    op,
                    db: *db,
                    txid,
                    shards,
                    args,
                    bytes,
                });
            }
            OP_PING => return Some(Entry::Ping),
            OP_LSN => return Some(Entry::Lsn(reader.length()?)),
            other => panic!("journal opcode {other} at {}", reader.at - 1),
        }
    }
}

fn item(reader: &mut Reader<'_>, db: &mut u32, blob: u8, items: &mut Vec<Item>) -> Option<()> {
    let from = reader.at;
    match reader.byte()? {
        0xFA => items.push(Item::Aux(reader.string()?, reader.string()?)),
        0xFE => *db = reader.length()?.try_into().ok()?,
        0xC8 => reader.take(8).map(|_| items.push(Item::End))?,
        0xD3 => items.push(Item::Offset(u64::from_le_bytes(
            reader.take(8)?.try_into().ok()?,
        ))),
        0xFF => {
            let end = reader.take(48)?;
            items.push(Item::Eof(String::from_utf8_lossy(&end[8..]).into_owned()));
        }
        0xD2 => {
            assert_eq!(reader.length()?, 1, "the count of a journal blob");
            items.push(Item::Journal(reader.string()?));
        }
        0xE0 => {
            let id = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
            let len = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
            items.push(Item::Chunk(id, reader.take(len as usize)?.to_vec()));
        }
        kind @ (0xC9 | 0xCA) => {
            let len = reader.length()?;
            let bytes = decompress(kind, reader.take(len as usize)?);
            let mut inner = Reader {
                bytes: &bytes,
                at: 0,
            };
            while inner.at < bytes.len() {
                item(&mut inner, db, kind, items).expect("whole items in a compressed blob");
            }
        }
        mut kind => {
            while matches!(kind, 0xFC | 0xDC) {
                reader.take(if kind == 0xFC { 8 } else { 4 })?;
                kind = reader.byte()?;
            }
            let key = reader.string()?;
            reader.value(kind)?;
            let bytes = reader.bytes[from..reader.at].to_vec();
            items.push(Item::Record(RawRecord {
                db: *db,
                key,
                kind,
                bytes,
                blob,
            }));
        }
    }
    Some(())
}

fn decompress(kind: u8, frame: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = match kind {
        0xCA => lz4_flex::frame::FrameDecoder::new(frame).read_to_end(&mut out),
        _ => zstd::Decoder::new(frame).and_then(|mut decoder| decoder.read_to_end(&mut out)),
    };
    read.expect("a frame that can be decompressed");
    out
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at + len)?;
        self.at += len;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn length(&mut self) -> Option<u64> {
        let first = self.byte()?;
        match first {
            0x00..=0x3F => Some(u64::from(first)),
            0x40..=0x7F => Some((u64::from(first & 0x3F) << 8) | u64::from(self.byte()?)),
            0x80 => Some(u64::from(u32::from_be_bytes(
                self.take(4)?.try_into().ok()?,
            ))),
            0x81 => Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?)),
            other => panic!("{other:#x} begins no length"),
        }
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let width = match self.bytes.get(self.at)? {
            0xC0 => 1,
            0xC1 => 2,
            0xC2 => 4,
            _ => {
                let len = self.length()?;
                return self.take(len as usize).map(<[u8]>::to_vec);
            }
        };
        let number = self.take(1 + width)?;
        let mut wide = [if number[width] & 0x80 == 0 { 0 } else { 0xFF }; 4];
        wide[..width].copy_from_slice(&number[1..]);
        Some(i32::from_le_bytes(wide).to_string().into_bytes())
    }

    fn times(&mut self, count: u64, mut one: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        (0..count).try_for_each(|_| one(self))
    }

    /// Steps over a value.
    fn value(&mut self, kind: u8) -> Option<()> {
        let strings =
            |n: u64| move |reader: &mut Self| reader.times(n, |reader| reader.string().map(drop));
        match kind {
            0 | 11 | 16 | 17 | 30 => self.string().map(drop),
            2 | 4 | 31 | 32 => {
                let count = self.length()?;
                self.times(
                    count,
                    strings(match kind {
                        2 => 1,
                        31 => 3,
                        _ => 2,
                    }),
                )
            }
            5 => {
                let count = self.length()?;
                self.times(count, |reader| {
                    reader.string().and_then(|_| reader.take(8)).map(drop)
                })
            }
            18 => {
                let count = self.length()?;
                self.times(count, |reader| {
                    reader.length().and_then(|_| reader.string()).map(drop)
                })
            }
            21 => self.stream(),
            34 => {
                self.length()?;
                self.take(16)?;
                self.times(3, |reader| reader.length().map(drop))
                    .and_then(|()| self.filters(true))
            }
            37 => self
                .times(6, |reader| reader.length().map(drop))
                .and_then(|()| self.filters(false)),
            35 => {
                let (width, depth, _) = (self.length()?, self.length()?, self.length()?);
                self.take((width * depth * 8) as usize).map(drop)
            }
            36 => {
                self.times(4, |reader| reader.length().map(drop))?;
                self.take(8)?;
                let heap = self.length()?;
                self.times(heap, |reader| {
                    reader.string().and_then(|_| reader.length()).map(drop)
                })?;
                let len = self.length()?;
                self.take(len as usize).map(drop)
            }
            other => panic!("a value of type {other} at {}", self.at),
        }
    }

    fn filters(&mut self, hashes: bool) -> Option<()> {
        let filters = self.length()?;
        self.times(filters, |reader| {
            if hashes {
                reader.length()?;
            }
            let total = reader.length()?;
            let mut got = 0;
            while got < total {
                let len = reader.length()?;
                reader.take(len as usize)?;
                got += len;
            }
            Some(())
        })
    }

    fn stream(&mut self) -> Option<()> {
        let nodes = self.length()?;
        self.times(nodes * 2, |reader| reader.string().map(drop))?;
        self.times(8, |reader| reader.length().map(drop))?;
        let groups = self.length()?;
        self.times(groups, |reader| {
            reader.string()?;
            reader.times(3, |reader| reader.length().map(drop))?;
            let pending = reader.length()?;
            reader.times(pending, |reader| {
                reader.take(24).and_then(|_| reader.length()).map(drop)
            })?;
            let consumers = reader.length()?;
            reader.times(consumers, |reader| {
                reader.string()?;
                reader.take(16)?;
                let own = reader.length()?;
                reader.take(own as usize * 16).map(drop)
            })
        })
    }
}
