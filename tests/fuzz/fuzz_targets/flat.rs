//! What a decoder made of a stream, in a form that does not depend on how the stream was cut.

use df2redis::entry::{Body, Item, Text};
use df2redis::source::dragonfly::{Decoded, ReadSettings, StreamDecoder};

/// Settings under which even small values go to files, or under which nothing here does.
pub fn settings(spilling: bool) -> ReadSettings {
    ReadSettings::new(std::env::temp_dir(), if spilling { 48 } else { 1 << 20 })
}

/// Feeds the stream in pieces of `step` bytes: every item as text, and whether the stream was sound.
pub fn flat(mut decoder: StreamDecoder, stream: &[u8], step: usize) -> (Vec<String>, bool) {
    let mut items = Vec::new();
    for piece in stream.chunks(step.max(1)) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.decode() {
                Ok(Some(decoded)) => {
                    items.extend(decoded.items.iter().map(|item| text(&decoded, item)))
                }
                Ok(None) => break,
                Err(_) => return (items, false),
            }
        }
    }
    (items, true)
}

fn text(decoded: &Decoded, item: &Item) -> String {
    let span = |start: u32, len: u32| &decoded.bytes[start as usize..][..len as usize];
    let body = |body: &Body| match body {
        Body::Inline(at) => span(at.start, at.len).to_vec(),
        Body::Spilled(spill) => {
            let mut bytes = vec![0; spill.len() as usize];
            let mut read = 0;
            while read < bytes.len() {
                let more = spill.read_at(&mut bytes[read..], read as u64);
                read += more
                    .ok()
                    .filter(|more| *more > 0)
                    .expect("a spilled value that is all there");
            }
            bytes
        }
    };
    match item {
        Item::Record(record) => {
            let key = match &record.key {
                Text::Raw(at) => span(at.start, at.len).to_vec(),
                Text::Owned(bytes) => bytes.to_vec(),
            };
            let about = (
                record.db,
                record.kind,
                record.expire_at_ms,
                record.sticky,
                record.memcache_flags,
            );
            format!("{about:?} {key:?} {:?}", body(&record.value))
        }
        Item::Command(command) => {
            let about = (command.db, command.lsn, command.txid, command.words);
            format!("{about:?} {:?}", body(&command.args))
        }
        Item::Script(at) => format!("script {:?}", span(at.start, at.len)),
        other => format!("{other:?}"),
    }
}

/// However a stream is cut, it yields the same items. One that is not sound may be refused sooner or later, as what
/// is wrong stands in an item that is not whole yet: then one way of cutting yields a beginning of the other's items.
pub fn compare(whole: &(Vec<String>, bool), cut: &(Vec<String>, bool)) {
    let common = whole.0.len().min(cut.0.len());
    assert_eq!(whole.0[..common], cut.0[..common]);
    assert!(
        !whole.1 || !cut.1 || whole.0.len() == cut.0.len(),
        "items are missing"
    );
}
