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

/// Appends the value in its most general form, and says which type that is.
fn encoded(value: &Value, out: &mut Vec<u8>) -> u8 {
    let ((), kind) = match value {
        Value::String(text) => (encode::string(out, text), kind::STRING),
        Value::Json(text) => (encode::string(out, text), kind::JSON),
        Value::Set(set) => (encode::set_expiring(out, set), kind::SET_EXPIRING),
        Value::Hash(hash) => (encode::hash_expiring(out, hash), kind::HASH_EXPIRING),
        Value::Sorted(sorted) => (encode::sorted(out, sorted), kind::SORTED),
        Value::Stream(stream) => (encode::stream(out, stream), kind::STREAM),
        Value::List(list) => {
            let nodes: Vec<_> = list.iter().map(|it| encode::ListNode::Plain(it)).collect();
            (encode::list(out, &nodes), kind::LIST)
        }
    };
    kind
}

fuzz_target!(|input: &[u8]| {
    let [kind, step, bytes @ ..] = input else {
        return;
    };
    let (whole, cut) = (
        walk(*kind, bytes, bytes.len()),
        walk(*kind, bytes, usize::from(*step)),
    );
    assert_eq!(whole, cut, "the walk depends on how the bytes were cut");
    let Ok((value, used)) = decode(*kind, bytes) else {
        return;
    };
    assert_eq!(whole, Some(used), "walker and decoder disagree on the end");
    // Streams of older types lack fields, which the newest form holds.
    if !matches!(*kind, kind::STREAM_15 | kind::STREAM_19) {
        let mut again = Vec::new();
        let kind = encoded(&value, &mut again);
        assert_eq!(decode(kind, &again), Ok((value, again.len())));
    }
});
