//! What holds for any words.

use proptest::prelude::*;

use super::super::*;
use super::{ALL, NOW, Words, map_db, show, target};

/// Names and options that lead into every branch.
const VOCABULARY: &[&str] = &[
    "k",
    "1",
    "0",
    "-1",
    "2",
    "99999999999999999999",
    "",
    "*",
    "NX",
    "FNX",
    "KEEPTTL",
    "EX",
    "PXAT",
    "FIELDS",
    "STORE",
    "COUNT",
    "LIMIT",
    "BY",
    "LEFT",
    "ENTRIESREAD",
    "MAXLEN",
    "~",
    "STICK",
    "_MCFLAGS",
    "ABSTTL",
    "FLUSHSLOTS",
    "LOAD",
    "DB",
    "GET",
    "OVERFLOW",
    "9223372036854775807",
];

proptest! {
    #[test]
    fn no_words_make_it_panic_and_every_planned_command_has_words(
        row in 0..table::COMMANDS.len(),
        words in prop::collection::vec(prop::sample::select(VOCABULARY), 0..12),
        on in prop::sample::select(&ALL[..]),
        stop in any::<bool>(),
        txid in 0u64..2,
        (reads_again, is_vague, reads_end_keys) in any::<(bool, bool, bool)>(),
    ) {
        let name = table::COMMANDS[row].name;
        let words = Words::from(std::iter::once(name).chain(words).map(str::as_bytes));
        let args = words.args();
        let features = target(on);
        let on_member_expiry = if stop { MemberExpiry::Stop } else { MemberExpiry::Drop };
        let circumstances = Circumstances { reads_again, is_vague, reads_end_keys };
        let context = Context {
            features: &features,
            received_at_ms: NOW,
            on_member_expiry,
            db: 0,
            txid,
            circumstances,
            map_db: &map_db,
        };
        let planned = plan(&args, &context);
        if let Plan::Words(commands, _) = &planned {
            prop_assert!(commands.iter().all(|words| !words.is_empty()));
            prop_assert_eq!(commands.iter().count(), commands.count());
        }
        show(&planned);
        let uses: Vec<_> = keys(&args).collect();
        prop_assert!(uses.windows(2).all(|pair| pair[0].index < pair[1].index));
        for used in &uses {
            prop_assert_eq!(args.get(used.index), Some(used.key));
        }
        prop_assert_eq!(filtered(&args, |_| true), Filtered::All);
        let nothing_kept = filtered(&args, |_| false);
        prop_assert!(matches!(nothing_kept, Filtered::Nothing | Filtered::All));
        prop_assert_eq!(nothing_kept == Filtered::All, uses.is_empty());
        if let Filtered::Part(packed, count) = filtered(&args, |key| key == b"k") {
            let left = crate::entry::Args::check(&packed, count).unwrap();
            prop_assert!(keys(&left).all(|used| used.key == b"k"));
        }
    }

    #[test]
    fn arbitrary_names_and_words_never_panic(
        words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..8),
    ) {
        let words = Words::from(words.iter().map(Vec::as_slice));
        let features = target("7.4");
        let context = Context {
            features: &features,
            received_at_ms: NOW,
            on_member_expiry: MemberExpiry::Drop,
            db: 0,
            txid: 0,
            circumstances: Circumstances::default(),
            map_db: &map_db,
        };
        show(&plan(&words.args(), &context));
        prop_assert!(keys(&words.args()).count() <= words.args().len());
    }
}
