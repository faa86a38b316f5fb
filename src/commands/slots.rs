//! What becomes of a command in a cluster, where the keys of one command are in one slot.
//!
//! | command | with keys in several slots |
//! |---|---|
//! | `DEL`, `UNLINK`, `MSET`, `MSETNX`, `JSON.MSET`, `STICK` | one command for each slot, with the keys of that slot |
//! | `RENAME`, `COPY`, `LMOVE`, `SMOVE`, `BITOP`, `PFMERGE`, `SORT … STORE`, the other `…STORE`, `LMPOP` | cannot be run |
//!
//! `SORT … BY` and `GET` name further keys by a pattern, which no cluster allows: with `STORE` it cannot be run either.

use super::keys::{KeyIter, keys, sort_store};
use super::table::Roles;
use crate::entry::{Args, ArgsWriter};

/// A command by the slots of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slots {
    /// All keys are in one slot, or there is none.
    One,
    /// One command for each slot, by the first key in it: words, packed, and how many they are; for [`Args::check`].
    Parts(Vec<(bytes::Bytes, u32)>),
    /// What is written depends on keys in other slots.
    Across,
}

/// Takes a command with these keys apart by the slots of its keys, by the rules at the head of this file.
pub fn by_slot(args: &Args<'_>, uses: &KeyIter<'_>, slot_of: impl Fn(&[u8]) -> u16) -> Slots {
    let is_one = || {
        let mut slots = uses.clone().map(|used| slot_of(used.key));
        let first = slots.next();
        slots.all(|slot| Some(slot) == first)
    };
    // Most have one key.
    if uses.is_single() || is_one() {
        return match reads_by_pattern(args) {
            true => Slots::Across,
            false => Slots::One,
        };
    }
    match uses.roles() {
        Roles::Each | Roles::EachWhole => Slots::Parts(parts(args, slot_of)),
        _ => Slots::Across,
    }
}

/// Whether a `SORT` that stores its result takes some of it from keys that a pattern names.
fn reads_by_pattern(args: &Args<'_>) -> bool {
    if !args.name().eq_ignore_ascii_case(b"SORT") || sort_store(args).is_none() {
        return false;
    }
    let mut words = args.iter().skip(2);
    while let Some(word) = words.next() {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"BY") && words.next().is_some_and(|pattern| pattern.contains(&b'*'))
            || is(b"GET") && words.next().is_some_and(|pattern| pattern != b"#")
        {
            return true;
        }
        if is(b"LIMIT") {
            words.nth(1);
        } else if is(b"STORE") {
            words.next();
        }
    }
    false
}

fn parts(args: &Args<'_>, slot_of: impl Fn(&[u8]) -> u16) -> Vec<(bytes::Bytes, u32)> {
    let (first, step) = keys(args).run();
    let mut head = args.iter();
    let head: Vec<&[u8]> = head.by_ref().take(first).collect();
    let mut parts: Vec<(u16, ArgsWriter)> = Vec::new();
    let mut rest = args.iter().skip(first);
    while let Some(key) = rest.next() {
        let slot = slot_of(key);
        let at = parts.iter().position(|(of, _)| *of == slot);
        let at = at.unwrap_or_else(|| {
            let mut part = ArgsWriter::default();
            for word in &head {
                part.word(word);
            }
            parts.push((slot, part));
            parts.len() - 1
        });
        if let Some((_, part)) = parts.get_mut(at) {
            part.word(key);
            for word in rest.by_ref().take(step - 1) {
                part.word(word);
            }
        }
    }
    parts.into_iter().map(|(_, part)| part.finish()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Words;
    use super::*;
    use proptest::prelude::*;

    /// The slot is the first letter.
    fn slot_of(key: &[u8]) -> u16 {
        key.first().copied().unwrap_or_default().into()
    }

    fn shown(line: &str) -> String {
        let words = Words::of(line);
        let args = words.args();
        match by_slot(&args, &keys(&args), slot_of) {
            Slots::One => "one".into(),
            Slots::Across => "across".into(),
            Slots::Parts(parts) => parts
                .iter()
                .map(|(packed, count)| {
                    let args = Args::check(packed, *count).unwrap();
                    let words: Vec<_> = args.iter().map(String::from_utf8_lossy).collect();
                    words.join(" ")
                })
                .collect::<Vec<_>>()
                .join(" | "),
        }
    }

    #[test]
    fn single_keys_are_parted_and_combinations_are_not() {
        for (line, expected) in [
            ("SET a v", "one"),
            ("DEL a1 a2", "one"),
            ("FLUSHALL", "one"),
            ("NOSUCH a b", "one"),
            ("DEL a1 b1 a2 c", "DEL a1 a2 | DEL b1 | DEL c"),
            ("MSET a1 b b a1 a2 x", "MSET a1 b a2 x | MSET b a1"),
            ("MSET a 1 b", "MSET a 1 | MSET b"),
            ("JSON.MSET a $ 1 b $ 2", "JSON.MSET a $ 1 | JSON.MSET b $ 2"),
            ("RENAME a1 a2", "one"),
            ("RENAME a b", "across"),
            ("SMOVE a b m", "across"),
            ("BITOP OR a1 a2 b", "across"),
            ("PFMERGE a b", "across"),
            ("ZUNIONSTORE a1 2 a2 b WEIGHTS 1 2", "across"),
            ("ZUNIONSTORE a1 1 a2 WEIGHTS b", "one"),
            ("LMPOP 2 a b LEFT", "across"),
            ("SORT a STORE b", "across"),
            ("SORT a1 STORE a2", "one"),
            ("SORT a1 BY w* STORE a2", "across"),
            ("SORT a1 BY nosort GET # STORE a2", "one"),
            ("SORT a1 GET w STORE a2", "across"),
            ("SORT a1 BY w* GET x", "one"),
            ("SORT a1 LIMIT BY w* STORE a2", "one"),
            ("GEORADIUS a 1 1 1 m STORE b", "across"),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn parts_hold_every_key_with_its_value_once_and_in_order(
            pairs in prop::collection::vec(("[a-c][0-9]?", "[a-z0-9]{0,3}"), 1..12),
        ) {
            let words: Vec<String> = pairs.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect();
            let line = format!("MSET {}", words.iter().map(|word| if word.is_empty() { "-" } else { word }).collect::<Vec<_>>().join(" "));
            let words = Words::of(&line);
            let args = words.args();
            let Slots::Parts(parts) = by_slot(&args, &keys(&args), slot_of) else {
                let first = slot_of(pairs[0].0.as_bytes());
                prop_assert!(pairs.iter().all(|(key, _)| slot_of(key.as_bytes()) == first));
                return Ok(());
            };
            let mut left: Vec<(String, String)> = Vec::new();
            for (packed, count) in &parts {
                let args = Args::check(packed, *count).unwrap();
                let all: Vec<String> = args.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
                let slot = slot_of(all[1].as_bytes());
                for pair in all[1..].chunks(2) {
                    prop_assert_eq!(slot_of(pair[0].as_bytes()), slot);
                    left.push((pair[0].clone(), pair[1].clone()));
                }
            }
            let value = |text: &String| if text.is_empty() { "-".to_owned() } else { text.clone() };
            let mut expected: Vec<_> = pairs.iter().map(|(key, text)| (key.clone(), value(text))).collect();
            // In one slot the order stays: a key that is set twice keeps its last value.
            expected.sort_by_key(|(key, _)| slot_of(key.as_bytes()));
            left.sort_by_key(|(key, _)| slot_of(key.as_bytes()));
            prop_assert_eq!(left, expected);
        }
    }
}
