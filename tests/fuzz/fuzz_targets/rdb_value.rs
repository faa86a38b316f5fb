//! A value of any type: the walker and the decoder agree on where it ends, and what is encoded decodes to the same.
#![no_main]

use df2redis::rdb::{Value, Walker, decode, encode, kind};
use libfuzzer_sys::fuzz_target;

/// Where the walker sees the end of the value that `bytes` begin with, if it is there.
fn walk(kind: u8, bytes: &[u8], step: usize) -> Option<usize> {
    let (mut walker, mut used) = (Walker::new(kind).ok()?, 0);
    for piece in bytes.chunks(step.max(1)) {
        let walked = walker.walk(piece).ok()?;
        used += walked.consumed;
        assert_eq!(walked.done, walked.missing == 0);
        if walked.done {
            return Some(used);
        }
    }
    None
}

/// The value in a form that can be encoded: type and bytes.
fn encoded(value: &Value, from: u8, out: &mut Vec<u8>) -> Option<u8> {
    match value {
        Value::String(text) => (encode::string(out, text), kind::STRING).1.into(),
        Value::Json(text) => (encode::string(out, text), kind::JSON).1.into(),
        Value::Set(members) => (encode::set_expiring(out, members), kind::SET_EXPIRING)
            .1
            .into(),
        Value::Hash(fields) => (encode::hash_expiring(out, fields), kind::HASH_EXPIRING)
            .1
            .into(),
        Value::Sorted(members) => (encode::sorted(out, members), kind::SORTED).1.into(),
        Value::List(items) => {
            let nodes: Vec<_> = items
                .iter()
                .map(|item| encode::ListNode::Plain(item))
                .collect();
            (encode::list(out, &nodes), kind::LIST).1.into()
        }
        Value::Stream(stream) if from == kind::STREAM => {
            (encode::stream(out, stream), kind::STREAM).1.into()
        }
        Value::Stream(_) => None, // Older types lack fields, which the newest holds.
    }
}

fuzz_target!(|input: &[u8]| {
    let [kind, step, bytes @ ..] = input else {
        return;
    };
    let end = walk(*kind, bytes, bytes.len());
    assert_eq!(
        end,
        walk(*kind, bytes, usize::from(*step)),
        "the walk depends on how the bytes were cut"
    );
    let Ok((value, used)) = decode(*kind, bytes) else {
        return;
    };
    assert_eq!(end, Some(used), "walker and decoder disagree on the end");
    let mut again = Vec::new();
    if let Some(kind) = encoded(&value, *kind, &mut again) {
        assert_eq!(decode(kind, &again), Ok((value, again.len())));
    }
});
