//! The keys of a command, and what a filter of keys makes of it.
//!
//! | command | with a filter of keys |
//! |---|---|
//! | one key | sent if the key is kept, else dropped |
//! | `DEL`, `UNLINK`, `MSET`, `MSETNX`, `JSON.MSET`, `STICK` | the words of keys that are not kept are taken out; dropped if none is left |
//! | `RENAME`, `COPY`, `LMOVE`, `SMOVE`, `BITOP`, `PFMERGE`, `SORT … STORE`, the other `…STORE` | sent if every key is kept; dropped if no key that it writes is kept; else it crosses the filter, which is as if it could not be translated |
//! | no key | sent: a filter of keys says nothing about it |
//!
//! A command that crosses the filter writes a kept key from one that is not copied, or would
//! need only half of its effect: neither can be had from the journal alone.

use super::table::{Keys, Roles, Spec, lookup};
use crate::entry::{Args, ArgsIter, ArgsWriter};

/// One key of a command and what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse<'a> {
    /// Index of the word; the name is 0.
    pub index: usize,
    /// The key.
    pub key: &'a [u8],
    /// Another key's new value depends on it.
    pub read: bool,
    /// It is changed.
    pub written: bool,
    /// It is replaced or deleted whole: what it held before does not matter to it.
    pub whole: bool,
}

/// Iterates over the keys of a command, in the order of its words.
#[derive(Debug, Clone)]
pub struct KeyIter<'a> {
    words: ArgsIter<'a>,
    /// Index of the next word of `words`.
    at: usize,
    /// Index of the word that is the next key.
    next: usize,
    step: usize,
    /// Keys still to come, at most.
    left: usize,
    /// Keys given so far.
    given: usize,
    /// The key that stands apart from the run, after it.
    apart: Option<usize>,
    roles: Roles,
}

/// The keys of `args`; none if the command is not known.
pub fn keys<'a>(args: &Args<'a>) -> KeyIter<'a> {
    let nowhere = KeyIter {
        words: args.iter(),
        at: 0,
        next: 0,
        step: 1,
        left: 0,
        given: 0,
        apart: None,
        roles: Roles::Each,
    };
    match lookup(args.name()) {
        Some(spec) => keys_of(spec, args, nowhere),
        None => nowhere,
    }
}

fn keys_of<'a>(spec: &Spec, args: &Args<'a>, nowhere: KeyIter<'a>) -> KeyIter<'a> {
    let run = |first: usize, step: usize, left: usize| KeyIter {
        next: first,
        step,
        left,
        roles: spec.roles,
        ..nowhere.clone()
    };
    // What a source journals for a command over several shards has no count and only keys.
    let every = || run(1, 1, usize::MAX);
    match spec.keys {
        Keys::None => nowhere,
        Keys::At(index) => run(usize::from(index), 1, 1),
        Keys::Two => run(1, 1, 2),
        Keys::Every { first, step } => run(usize::from(first), usize::from(step), usize::MAX),
        Keys::Counted => match counted(args, 1) {
            Some(count) => run(2, 1, count),
            None => every(),
        },
        Keys::CountedInto => match counted(args, 2) {
            // The first key is word 1, the count is passed over.
            Some(count) => KeyIter {
                apart: Some(1),
                ..run(3, 1, count)
            },
            None => every(),
        },
        Keys::Sort => KeyIter {
            apart: sort_store(args),
            ..run(1, 1, 1)
        },
        Keys::Geo(from) => KeyIter {
            apart: geo_store(args, usize::from(from)),
            ..run(1, 1, 1)
        },
    }
}

/// The count in word `at`, if that many words follow it and it is not 0.
pub(super) fn counted(args: &Args<'_>, at: usize) -> Option<usize> {
    let count = args.get(at)?;
    let count: usize = std::str::from_utf8(count).ok()?.parse().ok()?;
    let follow = args.len().checked_sub(at + 1)?;
    (1..=follow).contains(&count).then_some(count)
}

/// Index of the key after `STORE` in a `SORT`.
pub(super) fn sort_store(args: &Args<'_>) -> Option<usize> {
    let mut store = None;
    let mut words = args.iter().enumerate().skip(2);
    while let Some((_, word)) = words.next() {
        if word.eq_ignore_ascii_case(b"STORE") {
            store = words.next().map(|(index, _)| index).or(store);
        } else if word.eq_ignore_ascii_case(b"BY") || word.eq_ignore_ascii_case(b"GET") {
            words.next();
        } else if word.eq_ignore_ascii_case(b"LIMIT") {
            words.nth(1);
        }
    }
    store
}

/// Index of the key after `STORE` or `STOREDIST`, from word `from` on.
pub(super) fn geo_store(args: &Args<'_>, from: usize) -> Option<usize> {
    let mut store = None;
    let mut words = args.iter().enumerate().skip(from);
    while let Some((_, word)) = words.next() {
        if word.eq_ignore_ascii_case(b"STORE") || word.eq_ignore_ascii_case(b"STOREDIST") {
            store = words.next().map(|(index, _)| index).or(store);
        } else if word.eq_ignore_ascii_case(b"COUNT") {
            words.next();
        }
    }
    store
}

impl<'a> KeyIter<'a> {
    /// What the command does with its keys.
    pub(super) fn roles(&self) -> Roles {
        self.roles
    }

    /// Before the first key is taken: its index, and the words from one key to the next.
    pub(super) fn run(&self) -> (usize, usize) {
        (self.next, self.step.max(1))
    }

    /// Whether there is no more than one still to come.
    pub(super) fn is_single(&self) -> bool {
        self.left <= 1 && self.apart.is_none()
    }

    fn take(&mut self, index: usize) -> Option<&'a [u8]> {
        let word = self.words.nth(index.checked_sub(self.at)?)?;
        self.at = index + 1;
        Some(word)
    }

    fn describe(&mut self, index: usize, key: &'a [u8]) -> KeyUse<'a> {
        let first = self.given == 0;
        self.given += 1;
        let (read, written, whole) = match (self.roles, first) {
            (Roles::Each, _) => (false, true, false),
            (Roles::EachWhole, _) => (false, true, true),
            (Roles::Rename, true) => (true, true, true),
            (Roles::Rename, false) | (Roles::Copy, false) => (false, true, true),
            (Roles::Copy, true) => (true, false, false),
            (Roles::Transfer, true) | (Roles::Pop, _) => (true, true, false),
            (Roles::Transfer, false) | (Roles::Into, true) => (false, true, false),
            (Roles::IntoWhole, true) => (false, true, true),
            (Roles::Into | Roles::IntoWhole, false) => (true, false, false),
        };
        KeyUse {
            index,
            key,
            read,
            written,
            whole,
        }
    }
}

impl<'a> Iterator for KeyIter<'a> {
    type Item = KeyUse<'a>;

    fn next(&mut self) -> Option<KeyUse<'a>> {
        let run_is_due = self.left > 0 && self.apart.is_none_or(|apart| self.next < apart);
        let index = if run_is_due {
            self.left -= 1;
            let index = self.next;
            self.next = index.checked_add(self.step)?;
            index
        } else {
            self.apart.take()?
        };
        let key = self.take(index)?;
        Some(self.describe(index, key))
    }
}

/// What a filter of keys leaves of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filtered<'a> {
    /// All of it: send it as it is.
    All,
    /// Part of it: the words that are left, packed, and how many they are; for [`Args::check`].
    Part(bytes::Bytes, u32),
    /// Nothing that matters.
    Nothing,
    /// It writes a kept key and needs this one, which is not kept.
    Crosses(&'a [u8]),
}

/// Applies a filter of keys to a command, by the rules at the head of this file. `keep` is asked
/// once or twice about each key.
pub fn filtered<'a>(args: &Args<'a>, keep: impl Fn(&[u8]) -> bool) -> Filtered<'a> {
    let uses = keys(args);
    let mut total = 0;
    let mut kept = 0;
    let mut written_kept = false;
    let mut refused = None;
    for used in uses.clone() {
        total += 1;
        if keep(used.key) {
            kept += 1;
            written_kept |= used.written;
        } else {
            refused = Some(used.key);
        }
    }
    let Some(refused) = refused else {
        return Filtered::All;
    };
    if kept == 0 || !written_kept {
        return Filtered::Nothing;
    }
    debug_assert!(kept < total);
    match uses.roles {
        Roles::Each | Roles::EachWhole => without(args, uses, keep),
        _ => Filtered::Crosses(refused),
    }
}

/// The command without the words of keys that are not kept.
fn without<'a>(args: &Args<'a>, uses: KeyIter<'a>, keep: impl Fn(&[u8]) -> bool) -> Filtered<'a> {
    let (first, step) = uses.run();
    let mut words = args.iter();
    let mut writer = ArgsWriter::default();
    for word in words.by_ref().take(first) {
        writer.word(word);
    }
    while let Some(key) = words.next() {
        let keep_it = keep(key);
        if keep_it {
            writer.word(key);
        }
        for word in words.by_ref().take(step - 1) {
            if keep_it {
                writer.word(word);
            }
        }
    }
    let (packed, count) = writer.finish();
    Filtered::Part(packed, count)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Words;
    use super::*;

    /// The keys of a command, each marked `r`ead, `w`ritten and whole (`!`).
    fn marked(line: &str) -> String {
        let words = Words::of(line);
        keys(&words.args())
            .map(|used| {
                assert_eq!(words.args().get(used.index), Some(used.key));
                format!(
                    "{}:{}{}{}",
                    String::from_utf8_lossy(used.key),
                    if used.read { "r" } else { "" },
                    if used.written { "w" } else { "" },
                    if used.whole { "!" } else { "" },
                )
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn keys_are_found_where_each_command_has_them() {
        for (line, expected) in [
            ("SET k v", "k:w!"),
            ("append k v", "k:w"),
            ("MSET a 1 b 2", "a:w! b:w!"),
            ("DEL a b c", "a:w! b:w! c:w!"),
            ("JSON.MSET a $ 1 b $ 2", "a:w b:w"),
            ("RENAME a b", "a:rw! b:w!"),
            ("COPY a b REPLACE", "a:r b:w!"),
            ("SMOVE a b m", "a:rw b:w"),
            ("LMOVE a b LEFT RIGHT", "a:rw b:w"),
            ("BITOP OR d a b", "d:w! a:r b:r"),
            ("PFMERGE d a b", "d:w a:r b:r"),
            ("SUNIONSTORE d a b", "d:w! a:r b:r"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d:w! a:r b:r"),
            ("ZUNIONSTORE d a", "d:w! a:r"),
            ("ZUNIONSTORE d 3 a", "d:w! 3:r a:r"),
            ("ZRANGESTORE d a 0 -1", "d:w! a:r"),
            ("CMS.MERGE d 1 a", "d:w a:r"),
            ("LMPOP 2 a b LEFT COUNT 2", "a:rw b:rw"),
            ("SORT a", "a:r"),
            ("SORT a BY store STORE d", "a:r d:w!"),
            ("SORT a LIMIT 0 1 GET STORE store d ALPHA", "a:r d:w!"),
            ("GEORADIUS a 13 38 200 km STORE d", "a:r d:w!"),
            ("GEORADIUS a 13 38 200 km COUNT 3 STOREDIST d", "a:r d:w!"),
            ("GEORADIUSBYMEMBER a STORE 200 km", "a:r"),
            ("GEORADIUS d", "d:r"),
            ("XGROUP CREATE k g $", "k:w"),
            ("XCLAIM k g c 0 1-1", "k:w"),
            ("MOVE k 1", "k:w!"),
            ("FLUSHALL", ""),
            ("NOSUCH a b", ""),
            ("SET", ""),
        ] {
            assert_eq!(marked(line), expected, "{line}");
        }
    }

    fn left(line: &str) -> String {
        let words = Words::of(line);
        match filtered(&words.args(), |key| !key.starts_with(b"x")) {
            Filtered::All => "all".into(),
            Filtered::Nothing => "nothing".into(),
            Filtered::Crosses(key) => format!("crosses {}", String::from_utf8_lossy(key)),
            Filtered::Part(packed, count) => {
                let args = Args::check(&packed, count).unwrap();
                let words: Vec<_> = args.iter().map(String::from_utf8_lossy).collect();
                words.join(" ")
            }
        }
    }

    #[test]
    fn a_filter_takes_out_single_keys_and_never_halves_a_combination() {
        for (line, expected) in [
            ("SET k v", "all"),
            ("SET x v", "nothing"),
            ("FLUSHALL", "all"),
            ("DEL a x b xx", "DEL a b"),
            ("DEL x xx", "nothing"),
            ("MSET x 1 b 2", "MSET b 2"),
            ("MSET b x x 2", "MSET b x"),
            ("JSON.MSET a $ 1 x $ 2", "JSON.MSET a $ 1"),
            ("RENAME a b", "all"),
            ("RENAME x b", "crosses x"),
            ("RENAME a x", "crosses x"),
            ("RENAME x xx", "nothing"),
            ("COPY a x", "nothing"),
            ("COPY x a", "crosses x"),
            ("BITOP OR d a x", "crosses x"),
            ("BITOP OR x a b", "nothing"),
            ("SORT x", "nothing"),
            ("SORT a STORE x", "nothing"),
            ("ZUNIONSTORE d 2 x a", "crosses x"),
            ("LMPOP 2 a x LEFT", "crosses x"),
        ] {
            assert_eq!(left(line), expected, "{line}");
        }
    }
}
