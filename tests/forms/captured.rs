//! The records of a recorded snapshot, taken apart by the simplest means.

use std::io::Read;

use df2redis::rdb::{Cursor, Walker, string};
use df2redis::target::form::{Bytes, Value};

/// One key of a snapshot.
pub struct Captured {
    pub db: u32,
    pub kind: u8,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub expire_at_ms: Option<i64>,
}

impl Captured {
    /// The record as a value in memory.
    pub fn value(&self) -> Value<'_> {
        Value {
            key: &self.key,
            kind: self.kind,
            bytes: Bytes::Inline(&self.value),
            expire_at_ms: self.expire_at_ms,
        }
    }

    /// The key as the recorded state names it: what is not UTF-8 is escaped.
    pub fn name(&self) -> String {
        self.key
            .utf8_chunks()
            .map(|chunk| {
                let escaped: String = chunk
                    .invalid()
                    .iter()
                    .map(|b| format!("\\x{b:02x}"))
                    .collect();
                chunk.valid().to_string() + &escaped
            })
            .collect()
    }
}

/// The records of scenario `types`, of all flows.
pub fn types(release: &str) -> Vec<Captured> {
    let mut records = Vec::new();
    for flow in 0..2 {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/captures/dragonfly");
        let bytes = std::fs::read(format!("{dir}/{release}/types/flow-{flow}.bin")).unwrap();
        let mut found = Records::default();
        found.read(bytes.strip_prefix(b"REDIS0009").unwrap());
        assert!(found.chunks.is_empty(), "a value without its end");
        records.append(&mut found.records);
    }
    assert!(records.len() > 35, "{}", records.len());
    records
}

#[derive(Default)]
struct Records {
    records: Vec<Captured>,
    db: u32,
    expire_at_ms: Option<i64>,
    /// Values in chunks: id, database, bytes so far.
    chunks: Vec<(u32, u32, Vec<u8>)>,
}

impl Records {
    /// Reads items to the end of the snapshot, or of a compressed part of it.
    fn read(&mut self, bytes: &[u8]) {
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_empty() {
            match cursor.byte().unwrap() {
                0xFA => {
                    string::read(&mut cursor).unwrap();
                    string::read(&mut cursor).unwrap();
                }
                0xFE => self.db = cursor.packed().unwrap() as u32,
                0xFC => self.expire_at_ms = Some(i64::from_le_bytes(cursor.array().unwrap())),
                0xDC => {
                    let mask = u32::from_le_bytes(cursor.array().unwrap());
                    if mask & 2 != 0 {
                        cursor.array::<4>().unwrap();
                    }
                }
                0xCA => {
                    let len = cursor.packed().unwrap();
                    let frame = cursor.take(len, usize::MAX).unwrap();
                    let mut items = Vec::new();
                    lz4_flex::frame::FrameDecoder::new(frame)
                        .read_to_end(&mut items)
                        .unwrap();
                    self.read(&items);
                }
                0xE0 => {
                    let id = u32::from_le_bytes(cursor.array().unwrap());
                    let len = u32::from_le_bytes(cursor.array().unwrap());
                    let part = cursor.take(len.into(), usize::MAX).unwrap();
                    self.chunk(id, part);
                }
                0xC8 | 0xD3 => _ = cursor.array::<8>().unwrap(),
                0xFF => return,
                kind if kind < 0xC8 => {
                    let used = self.record(kind, cursor.rest());
                    cursor.take(used.unwrap() as u64, usize::MAX).unwrap();
                }
                opcode => panic!("opcode {opcode:#x}"),
            }
        }
    }

    fn chunk(&mut self, id: u32, part: &[u8]) {
        let at = self
            .chunks
            .iter()
            .position(|chunk| chunk.0 == id)
            .unwrap_or_else(|| {
                self.chunks.push((id, self.db, Vec::new()));
                self.chunks.len() - 1
            });
        self.chunks[at].2.extend_from_slice(part);
        let (_, db, whole) = self.chunks[at].clone();
        let mut inner = Self {
            db,
            ..Self::default()
        };
        if inner.whole(&whole) {
            self.records.append(&mut inner.records);
            self.chunks.remove(at);
        }
    }

    /// Reads one record with what stands before it, if it is whole.
    fn whole(&mut self, bytes: &[u8]) -> bool {
        let mut cursor = Cursor::new(bytes);
        loop {
            match cursor.byte().unwrap() {
                0xFC => self.expire_at_ms = Some(i64::from_le_bytes(cursor.array().unwrap())),
                0xDC => _ = cursor.array::<4>().unwrap(),
                kind => return self.record(kind, cursor.rest()).is_some(),
            }
        }
    }

    /// Reads key and value; how many bytes they take, unless some are missing.
    fn record(&mut self, kind: u8, bytes: &[u8]) -> Option<usize> {
        let mut cursor = Cursor::new(bytes);
        let key = string::read(&mut cursor).unwrap().into_bytes();
        let value = cursor.rest();
        let walked = Walker::new(kind).unwrap().walk(value).unwrap();
        if !walked.done {
            return None;
        }
        self.records.push(Captured {
            db: self.db,
            kind,
            key,
            value: value[..walked.consumed].to_vec(),
            expire_at_ms: self.expire_at_ms.take(),
        });
        Some(cursor.position() + walked.consumed)
    }
}
