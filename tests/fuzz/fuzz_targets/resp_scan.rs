//! Replies: found in the same places however the bytes are cut; what is garbage is garbage either way.
#![no_main]

use df2redis::resp::{Reply, Scanner};
use libfuzzer_sys::fuzz_target;

/// Every reply with the offset at which it ended, and whether the bytes were sound.
fn scan(bytes: &[u8], step: usize) -> (Vec<(usize, Reply)>, bool) {
    let (mut scanner, mut found, mut at) = (Scanner::new(), Vec::new(), 0);
    for mut piece in bytes.chunks(step.max(1)) {
        while !piece.is_empty() {
            let Ok((used, reply)) = scanner.feed(piece) else {
                return (found, false);
            };
            assert!(
                reply.is_some() || used == piece.len(),
                "bytes were left without a reply"
            );
            at += used;
            piece = &piece[used..];
            found.extend(reply.map(|reply| (at, reply)));
        }
    }
    (found, true)
}

fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else {
        return;
    };
    assert_eq!(
        scan(bytes, bytes.len()),
        scan(bytes, usize::from(*step) + 1)
    );
});
