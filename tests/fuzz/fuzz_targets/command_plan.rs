//! The words of a journalled command: its keys are words of it, a filter only takes away, and a plan has commands.
#![no_main]

use df2redis::commands::{
    Circumstances, Context, Features, Filtered, Flavour, MemberExpiry, Plan, filtered, keys, plan,
};
use df2redis::entry::Args;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [count, release, packed @ ..] = input else {
        return;
    };
    let Ok(args) = Args::check(packed, u32::from(*count)) else {
        return;
    };
    let words: Vec<&[u8]> = args.iter().collect();
    for used in keys(&args) {
        assert_eq!(words.get(used.index), Some(&used.key));
    }
    let all = filtered(&args, |_| true);
    assert!(
        matches!(all, Filtered::All),
        "a filter that keeps everything left {all:?}"
    );
    if let Filtered::Part(part, count) =
        filtered(&args, |key| key.first().is_none_or(|byte| byte & 1 == 0))
    {
        let left = Args::check(&part, count).expect("words that add up");
        assert!(left.iter().all(|word| words.contains(&word)));
        assert!(left.len() < words.len());
    }
    let features = Features {
        flavour: if release & 1 == 1 {
            Flavour::Valkey
        } else {
            Flavour::Redis
        },
        version: [(5, 0, 0), (6, 2, 0), (7, 0, 15), (8, 2, 0)][usize::from(release >> 1 & 3)],
        json: release & 8 == 8,
        bloom: release & 16 == 16,
    };
    let context = Context {
        features: &features,
        received_at_ms: 1_700_000_000_000,
        on_member_expiry: if release & 32 == 32 {
            MemberExpiry::Drop
        } else {
            MemberExpiry::Stop
        },
        db: 0,
        txid: 1,
        circumstances: Circumstances {
            reads_again: release & 64 == 64,
            is_vague: release & 128 == 128,
            reads_end_keys: release & 128 == 128,
        },
        map_db: &|db| (db < 4).then_some(db + 1),
    };
    if let Plan::Words(commands, _) = plan(&args, &context) {
        assert_eq!(commands.iter().count(), commands.count());
        assert!(commands.iter().all(|words| !words.is_empty()));
    }
});
