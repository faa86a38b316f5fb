//! Which keys of a flow may expire on the target, whole or single fields of them: those that were given an end in this
//! session.
//!
//! Invariant: a key that has an end, and was given it in this session, is always told; of others few are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xxhash_rust::xxh64::xxh64;

use crate::commands::{self, KeyUse};
use crate::entry::Args;

/// Lines of the filter, each of eight words, which a processor fetches at once: 1 MiB for each flow.
const LINES: usize = 1 << 14;
const WORDS: u64 = 8;
const WORD: u64 = 64;

/// A Bloom filter with four bits for each key, all in one line: of a million keys that have no end, with a million that
/// have, about one in thirty is taken for one that has.
///
/// Clones are the same filter: it outlives the connection to the target, as the keys do.
#[derive(Debug, Clone)]
pub(crate) struct Expiring(Arc<Filter>);

#[derive(Debug)]
struct Filter {
    lines: Box<[Line]>,
    is_any: AtomicBool,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; WORDS as usize]);

impl Expiring {
    pub fn new() -> Self {
        let lines = (0..LINES).map(|_| Line::default()).collect();
        let is_any = AtomicBool::new(false);
        Self(Arc::new(Filter { lines, is_any }))
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        !self.0.is_any.load(Ordering::Relaxed)
    }

    pub fn note(&self, key: &[u8]) {
        self.0.is_any.store(true, Ordering::Relaxed);
        let (line, bits) = places(key);
        let line = self.0.lines.get(line);
        for (word, bit) in bits {
            if let Some(word) = line.and_then(|line| line.0.get(word)) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    pub fn may_have(&self, key: &[u8]) -> bool {
        let (line, mut bits) = places(key);
        let Some(Line(words)) = self.0.lines.get(line) else {
            return false;
        };
        let is_set = |word: &AtomicU64, bit: u64| word.load(Ordering::Relaxed) & bit != 0;
        !self.is_empty()
            && bits.all(|(word, bit)| words.get(word).is_some_and(|word| is_set(word, bit)))
    }

    /// Notes what a command gives an end: by itself, or by handing on that of another key.
    #[inline]
    pub(super) fn note_given(&self, gives: &Gives, args: &Args<'_>) {
        match gives {
            Gives::Nothing | Gives::Life => {}
            Gives::End => {
                if let Some(key) = args.get(1) {
                    self.note(key);
                }
            }
            Gives::OthersEnd => {
                let hands_on = |used: &KeyUse<'_>| used.read && self.may_have(used.key);
                if commands::keys(args).any(|used| hands_on(&used)) {
                    let written = commands::keys(args).filter(|used| used.written);
                    written.for_each(|used| self.note(used.key));
                }
            }
        }
    }
}

/// What a command does about the end of keys.
#[derive(Debug)]
pub(super) enum Gives {
    Nothing,
    /// Its first key has none any more.
    Life,
    /// Its first key gets one.
    End,
    /// What it writes may get that of a key it reads.
    OthersEnd,
}

#[inline]
pub(super) fn gives(args: &Args<'_>) -> Gives {
    let name = args.name();
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match name.first().map(u8::to_ascii_uppercase) {
        Some(b'R') if is("RESTORE") => Gives::End,
        Some(b'R') if is("RENAME") || is("RENAMENX") => Gives::OthersEnd,
        Some(b'C') if is("COPY") => Gives::OthersEnd,
        // Fields of it.
        Some(b'H') if is("HSETEX") || is("HEXPIRE") || is("HGETEX") => Gives::End,
        Some(b'F') if is("FIELDEXPIRE") => Gives::End,
        // It has the same name in another database.
        Some(b'M') if is("MOVE") => Gives::End,
        Some(b'P') if is("PERSIST") => Gives::Life,
        _ if commands::end_of(args).is_some() => Gives::End,
        _ => Gives::Nothing,
    }
}

/// The line of a key, and word and bit of each of its places there. Databases are not told apart.
fn places(key: &[u8]) -> (usize, impl Iterator<Item = (usize, u64)>) {
    let hash = xxh64(key, 0);
    let line = usize::try_from(hash % LINES as u64).unwrap_or_default();
    let bits = (0..4u64).map(move |n| {
        let bit = (hash >> (20 + 9 * n)) % (WORDS * WORD);
        let word = usize::try_from(bit / WORD).unwrap_or_default();
        (word, 1 << (bit % WORD))
    });
    (line, bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::ArgsWriter;

    fn after(commands: &[&str]) -> Expiring {
        let expiring = Expiring::new();
        for command in commands {
            let mut writer = ArgsWriter::default();
            command.split(' ').for_each(|word| {
                writer.word(word.as_bytes());
            });
            let (packed, count) = writer.finish();
            let args = Args::check(&packed, count).unwrap();
            expiring.note_given(&gives(&args), &args);
        }
        expiring
    }

    #[test]
    fn every_way_to_an_end_is_noted() {
        for command in [
            "PEXPIREAT k 1",
            "expire k 1",
            "SET k v PXAT 1",
            "SETEX k 1 v",
            "GETEX k PXAT 1",
            "RESTORE k 1 x",
            "MOVE k 3",
            "HSETEX k 5 f v",
            "FIELDEXPIRE k 5 f",
        ] {
            assert!(after(&[command]).may_have(b"k"), "{command}");
        }
        let handed_on = after(&["PEXPIREAT a 1", "RENAME a b", "COPY b c"]);
        assert!(handed_on.may_have(b"b") && handed_on.may_have(b"c"));
        let none = after(&["SET k v", "INCR k", "RENAME k l", "PERSIST k"]);
        assert!(!none.may_have(b"k") && !none.may_have(b"l"));
    }

    #[test]
    fn few_others_are_told() {
        let expiring = Expiring::new();
        let key = |n: u32| format!("key:{n}");
        (0..1_000_000).for_each(|n| expiring.note(key(n).as_bytes()));
        assert!((0..1_000_000).all(|n| expiring.may_have(key(n).as_bytes())));
        let told = (1_000_000..1_100_000).filter(|n| expiring.may_have(key(*n).as_bytes()));
        let told = told.count();
        assert!(told < 5_000, "{told} of 100,000");
    }
}
