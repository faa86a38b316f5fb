//! What follows a stream's entries: its own numbers, its groups, their pending entries, consumers.
//!
//! Invariants: a halted call changes nothing; every count only ever falls, so no count from the
//! wire can make it turn without reading.
//! Facts: the order of fields in Redis' stream types 15, 19 and 21.

use super::elements::Element;
use super::stream::{StreamId, StreamInfo};
use super::string;
use super::walk::count;
use super::{Cursor, Halt, kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Info,
    Group,
    Pending { left: u64 },
    Consumer { left: u64 },
    Owned { left: u64, consumers: u64 },
}

/// Reads the part of a stream behind its nodes.
#[derive(Debug, Clone)]
pub(super) struct StreamTail {
    kind: u8,
    /// Live entries that came before.
    live: u64,
    groups: u64,
    step: Step,
}

impl StreamTail {
    pub(super) fn new(kind: u8, live: u64) -> Self {
        Self {
            kind,
            live,
            groups: 0,
            step: Step::Info,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Group && self.groups == 0
    }

    /// The next element, `None` behind the last.
    pub(super) fn next<'a>(
        &mut self,
        cursor: &mut Cursor<'a>,
    ) -> Result<Option<Element<'a>>, Halt> {
        let mut ahead = cursor.clone();
        let mut after = self.clone();
        let element = after.step(&mut ahead)?;
        (*cursor, *self) = (ahead, after);
        Ok(element)
    }

    fn step<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Option<Element<'a>>, Halt> {
        loop {
            let element = match self.step {
                Step::Info => {
                    let info = self.read_info(cursor)?;
                    self.groups = count(cursor)?;
                    self.step = Step::Group;
                    Element::Info(info)
                }
                Step::Group => {
                    let Some(left) = self.groups.checked_sub(1) else {
                        return Ok(None);
                    };
                    self.groups = left;
                    self.read_group(cursor)?
                }
                Step::Pending { left: 0 } => {
                    self.step = Step::Consumer {
                        left: count(cursor)?,
                    };
                    continue;
                }
                Step::Pending { left } => {
                    self.step = Step::Pending { left: left - 1 };
                    Element::Pending {
                        id: StreamId::from_be_bytes(cursor.array()?),
                        delivered_at: i64::from_le_bytes(cursor.array()?),
                        deliveries: cursor.packed()?,
                    }
                }
                Step::Consumer { left: 0 } => {
                    self.step = Step::Group;
                    continue;
                }
                Step::Consumer { left } => self.read_consumer(cursor, left - 1)?,
                Step::Owned { left: 0, consumers } => {
                    self.step = Step::Consumer { left: consumers };
                    continue;
                }
                Step::Owned { left, consumers } => {
                    self.step = Step::Owned {
                        left: left - 1,
                        consumers,
                    };
                    Element::Owned(StreamId::from_be_bytes(cursor.array()?))
                }
            };
            return Ok(Some(element));
        }
    }

    fn read_info(&self, cursor: &mut Cursor<'_>) -> Result<StreamInfo, Halt> {
        let wrong = cursor.invalid("stream with another length than it says");
        let mut info = StreamInfo {
            length: cursor.packed()?,
            last: read_id(cursor)?,
            ..StreamInfo::default()
        };
        if info.length != self.live {
            return Err(wrong);
        }
        if self.kind != kind::STREAM_15 {
            info.first = Some(read_id(cursor)?);
            info.max_deleted = Some(read_id(cursor)?);
            info.added = Some(cursor.packed()?);
        }
        Ok(info)
    }

    fn read_group<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Element<'a>, Halt> {
        let group = Element::Group {
            name: string::read(cursor)?,
            delivered: read_id(cursor)?,
            read: match self.kind {
                kind::STREAM_15 => None,
                _ => Some(cursor.packed()?.cast_signed()),
            },
        };
        self.step = Step::Pending {
            left: count(cursor)?,
        };
        Ok(group)
    }

    fn read_consumer<'a>(
        &mut self,
        cursor: &mut Cursor<'a>,
        consumers: u64,
    ) -> Result<Element<'a>, Halt> {
        let consumer = Element::Consumer {
            name: string::read(cursor)?,
            seen: i64::from_le_bytes(cursor.array()?),
            active: match self.kind {
                kind::STREAM => Some(i64::from_le_bytes(cursor.array()?)),
                _ => None,
            },
        };
        self.step = Step::Owned {
            left: count(cursor)?,
            consumers,
        };
        Ok(consumer)
    }
}

fn read_id(cursor: &mut Cursor<'_>) -> Result<StreamId, Halt> {
    Ok(StreamId {
        ms: cursor.packed()?,
        seq: cursor.packed()?,
    })
}
