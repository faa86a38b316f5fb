//! A flow that starts in the journal: cut anywhere it yields the same entries, and positions rise by one.
#![no_main]

mod flat;

use df2redis::source::dragonfly::StreamDecoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((choice, stream)) = input.split_first() else {
        return;
    };
    let decoder = || {
        let settings = flat::settings(choice & 1 == 1);
        StreamDecoder::resumed(0, 2, 1, settings)
    };
    let whole = flat::flat(decoder(), stream, stream.len());
    let cut = flat::flat(decoder(), stream, usize::from(choice >> 1) + 1);
    flat::compare(&whole, &cut);
    for (before, entry) in whole.0.iter().enumerate() {
        assert!(
            entry.contains(&format!("Some({})", before + 1)),
            "entry {before}: {entry}"
        );
    }
});
