//! Where a command says when its key ends.

use crate::entry::Args;

/// The word that says it, and how it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Index of the word; the name is 0.
    pub word: usize,
    /// Milliseconds in its unit.
    pub unit_ms: i64,
    /// Counted from the receipt of the entry instead of from 1970.
    pub is_relative: bool,
}

impl End {
    /// The number in its word.
    pub fn number(self, args: &Args<'_>) -> Option<i64> {
        std::str::from_utf8(args.get(self.word)?).ok()?.parse().ok()
    }

    /// In Unix milliseconds, for an entry received at `received_at_ms`.
    pub fn at_ms(self, args: &Args<'_>, received_at_ms: i64) -> Option<i64> {
        let ms = self.number(args)?.saturating_mul(self.unit_ms);
        Some(match self.is_relative {
            true => received_at_ms.saturating_add(ms),
            false => ms,
        })
    }
}

/// Where a command gives its first key an end; `None` for those that give none, and for `RESTORE`, which says it beside
/// its value.
#[inline]
pub fn end_of(args: &Args<'_>) -> Option<End> {
    let name = args.name();
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    let second = |unit_ms, is_relative| {
        Some(End {
            word: 2,
            unit_ms,
            is_relative,
        })
    };
    match name.first().map(u8::to_ascii_uppercase) {
        // The usual one.
        Some(b'S') if name.len() == 3 && args.len() == 3 => None,
        // The value of a SET may look like an option.
        Some(b'S') if is("SET") => option(args, 3),
        Some(b'S') if is("SETEX") => second(1_000, true),
        Some(b'P') if is("PEXPIREAT") => second(1, false),
        Some(b'P') if is("PEXPIRE") || is("PSETEX") => second(1, true),
        Some(b'E') if is("EXPIREAT") => second(1_000, false),
        Some(b'E') if is("EXPIRE") => second(1_000, true),
        Some(b'G') if is("GETEX") => option(args, 2),
        _ => None,
    }
}

/// The first option that sets an end, from word `first` on.
fn option(args: &Args<'_>, first: usize) -> Option<End> {
    args.iter().enumerate().skip(first).find_map(|(at, word)| {
        let is = |option: &str| word.eq_ignore_ascii_case(option.as_bytes());
        let (unit_ms, is_relative) = if is("PXAT") {
            (1, false)
        } else if is("EXAT") {
            (1_000, false)
        } else if is("PX") {
            (1, true)
        } else if is("EX") {
            (1_000, true)
        } else {
            return None;
        };
        Some(End {
            word: at + 1,
            unit_ms,
            is_relative,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::ArgsWriter;

    fn end(words: &[&str]) -> Option<i64> {
        let mut writer = ArgsWriter::default();
        words.iter().for_each(|word| {
            writer.word(word.as_bytes());
        });
        let (packed, count) = writer.finish();
        let args = Args::check(&packed, count).unwrap();
        end_of(&args)?.at_ms(&args, 1_000_000)
    }

    #[test]
    fn the_end_of_a_key_is_read_from_every_form_that_sets_one() {
        for (words, at) in [
            (&["PEXPIREAT", "k", "5"][..], Some(5)),
            (&["EXPIREAT", "k", "5"], Some(5_000)),
            (&["EXPIRE", "k", "5"], Some(1_005_000)),
            (&["PSETEX", "k", "5", "v"], Some(1_000_005)),
            (&["SET", "k", "v", "KEEPTTL"], None),
            (&["SET", "k", "PXAT"], None),
            (&["SET", "k", "PXAT", "KEEPTTL"], None),
            (&["set", "k", "v", "pxat", "7"], Some(7)),
            (&["SET", "k", "v", "EX", "7"], Some(1_007_000)),
            (&["GETEX", "k", "EXAT", "7"], Some(7_000)),
            (&["PEXPIREAT", "k", "soon"], None),
            (&["INCR", "k"], None),
        ] {
            assert_eq!(end(words), at, "{words:?}");
        }
    }
}
