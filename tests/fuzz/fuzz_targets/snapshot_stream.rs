//! A flow from its RDB header on: cut anywhere it yields the same items, and it never panics.
#![no_main]

mod flat;

use df2redis::source::dragonfly::StreamDecoder;
use libfuzzer_sys::fuzz_target;

/// The token that the stream must end with.
const TOKEN: [u8; 40] = [b't'; 40];

fuzz_target!(|input: &[u8]| {
    let Some((choice, stream)) = input.split_first() else {
        return;
    };
    let decoder = || {
        let settings = flat::settings(choice & 1 == 1);
        StreamDecoder::new(0, 2, TOKEN, settings)
    };
    let whole = flat::flat(decoder(), stream, stream.len());
    let cut = flat::flat(decoder(), stream, usize::from(choice >> 1) + 1);
    flat::compare(&whole, &cut);
});
