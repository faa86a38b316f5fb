//! A record of the spool: what decodes encodes to a record of the same batch, and any change to it is noticed.
#![no_main]

use df2redis::entry::{Batch, Body, Item};
use df2redis::spool::{decode, encode};
use libfuzzer_sys::fuzz_target;

/// The items with bytes instead of places.
fn flat(batch: &Batch) -> Vec<String> {
    let body = |body: &Body| match body {
        Body::Inline(span) => batch.slice(*span).to_vec(),
        Body::Spilled(_) => panic!("a record in memory has no spilled body"),
    };
    let flat = batch.items.iter().map(|item| match item {
        Item::Command(it) => format!("{:?}", (it.db, it.lsn, it.txid, it.words, body(&it.args))),
        Item::Record(it) => {
            let head = (
                it.db,
                it.kind,
                it.expire_at_ms,
                it.sticky,
                it.memcache_flags,
            );
            format!("{head:?} {:?} {:?}", batch.text(&it.key), body(&it.value))
        }
        Item::Script(span) => format!("{:?}", batch.slice(*span)),
        Item::Nothing { .. } | Item::SnapshotEnd | Item::Stable { .. } => format!("{item:?}"),
    });
    flat.collect()
}

fuzz_target!(|input: &[u8]| {
    // Checksums keep a fuzzer out: it gives what they cover, and they are put in.
    for input in [input.to_vec(), df2redis::spool::with_checksums(input)] {
        let Ok((batch, used)) = decode(&input) else {
            continue;
        };
        assert!(used <= input.len() && batch.bytes.len() < used);
        let again = encode(&batch).expect("what was decoded can be encoded");
        let (second, whole) = decode(&again).expect("what was encoded can be decoded");
        assert_eq!(whole, again.len());
        assert_eq!(flat(&batch), flat(&second));
        assert_eq!(batch.received_at_ms, second.received_at_ms);
        for at in [0, used / 2, used - 1] {
            let mut changed = input.clone();
            changed[at] ^= 1;
            assert!(
                decode(&changed).is_err(),
                "a changed byte {at} was not noticed"
            );
        }
    }
});
