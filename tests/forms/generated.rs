//! Random parts of values, for the tests of encodings and forms.

use df2redis::rdb::{Stream, StreamId, StreamInfo};
use proptest::collection::vec;
use proptest::prelude::*;

/// Fields of a stream's entry, with values.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Numbers, short bytes, and long runs of one byte shorter than `longest`.
pub fn text(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<i8>().prop_map(|number| number.to_string().into_bytes()),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        vec(any::<u8>(), 0..80),
        (any::<u8>(), 100usize..longest).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

/// A stream without groups, of entries with the steps between their ids.
pub fn stream_of(entries: Vec<(u64, Fields)>) -> Stream {
    let mut ms = 5;
    let entries: Vec<_> = entries
        .into_iter()
        .map(|(step, fields)| {
            ms += step;
            (StreamId { ms, seq: step }, fields)
        })
        .collect();
    let length = entries.len() as u64;
    let info = StreamInfo {
        length,
        last: StreamId { ms: ms + 1, seq: 0 },
        first: entries.first().map(|entry| entry.0),
        max_deleted: Some(StreamId { ms: 2, seq: 1 }),
        added: Some(length + 3),
    };
    Stream {
        entries,
        info,
        groups: Vec::new(),
    }
}
