//! Ends of keys put off, for targets that get entries late (`policy.expiry_grace`).

use bytes::Bytes;

use super::end::end_of;
use crate::entry::{Args, ArgsWriter};

/// The same command with the end of its key put off by `grace_ms`: packed words and how many. `None` for commands that
/// set no end, and for `RESTORE`, whose end is put off where its value is formed.
pub fn with_grace(args: &Args<'_>, grace_ms: i64) -> Option<(Bytes, u32)> {
    let end = end_of(args)?;
    // Seconds are put off by whole ones, rather more than less.
    let by = grace_ms.saturating_add(end.unit_ms - 1) / end.unit_ms;
    let put_off = end.number(args)?.saturating_add(by).to_string();
    let mut words = ArgsWriter::default();
    for (index, word) in args.iter().enumerate() {
        words.word(if index == end.word {
            put_off.as_bytes()
        } else {
            word
        });
    }
    Some(words.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_off(words: &[&str]) -> Option<Vec<String>> {
        let mut writer = ArgsWriter::default();
        words.iter().for_each(|word| {
            writer.word(word.as_bytes());
        });
        let (packed, count) = writer.finish();
        let (packed, count) = with_grace(&Args::check(&packed, count).unwrap(), 1_500)?;
        let args = Args::check(&packed, count).unwrap();
        let text = |word: &[u8]| String::from_utf8(word.to_vec()).unwrap();
        Some(args.iter().map(text).collect())
    }

    #[test]
    fn the_end_is_put_off_and_nothing_else_changes() {
        for (words, expected) in [
            (
                &["PEXPIREAT", "k", "1000", "GT"][..],
                &["PEXPIREAT", "k", "2500", "GT"][..],
            ),
            (&["EXPIRE", "k", "10"], &["EXPIRE", "k", "12"]),
            (&["SETEX", "k", "1", "v"], &["SETEX", "k", "3", "v"]),
            (
                &["SET", "k", "PX", "PXAT", "1000"],
                &["SET", "k", "PX", "PXAT", "2500"],
            ),
            (&["GETEX", "k", "EXAT", "1"], &["GETEX", "k", "EXAT", "3"]),
        ] {
            let expected: Vec<String> = expected.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(put_off(words), Some(expected));
        }
        for words in [
            &["SET", "k", "v"][..],
            &["SET", "k", "v", "KEEPTTL"],
            &["PERSIST", "k"],
            &["RESTORE", "k", "5", "x"],
            &["PEXPIREAT", "k"],
            &["PEXPIREAT", "k", "soon"],
        ] {
            assert_eq!(put_off(words), None);
        }
    }
}
