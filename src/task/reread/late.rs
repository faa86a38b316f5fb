//! Entries that come late: the target may have let their keys expire, which at the source were alive.
//!
//! A late INCR would then make a key without its value and without its expiry, and no answer would tell. So before late
//! entries are applied, the target is asked which of their keys it has, and for how long yet, unless their end is known to
//! be far away; those that it lost, or is about to lose, are read again from the source. Entries that are not late by
//! more than [`LATE`] are applied at once, and what they find missing is noticed by their answers (see `missed` in the
//! writer).
//!
//! Units: times are Unix milliseconds by the source's clock.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::commands;
use crate::entry::Args;

/// An entry older than that is late.
pub(crate) const LATE: Duration = Duration::from_millis(LATE_MS.unsigned_abs());
pub(crate) const LATE_MS: i64 = 500;

/// A key that the target would let expire within that is taken for lost. What is known of the target's keys is good for
/// half of it, and what was sent by that knowledge may take the other half.
pub(crate) const MARGIN: Duration = Duration::from_millis(MARGIN_MS.unsigned_abs());
pub(crate) const MARGIN_MS: i64 = 2_000;

/// Entries, and bytes of them, that are asked about at once.
pub(crate) const MOST_ITEMS: usize = 8_192;
pub(crate) const MOST_BYTES: u64 = 1 << 20;

/// Database of the source, and key.
pub(crate) type LateKey = (u32, Box<[u8]>);

/// What is known of the target's keys, for the entries that are being taken.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// When the target was asked; none while entries are not late.
    asked_at: Option<Instant>,
    /// Keys it has not, or not for long.
    lost: HashSet<LateKey>,
}

impl Late {
    /// The target was asked, and has lost these.
    pub fn know(&mut self, asked_at: Instant, lost: HashSet<LateKey>) {
        self.asked_at = Some(asked_at);
        self.lost = lost;
    }

    /// Entries are not late any more.
    pub fn end(&mut self) {
        self.asked_at = None;
        self.lost.clear();
    }

    /// Whether entries are late.
    #[inline]
    pub fn is_late(&self) -> bool {
        self.asked_at.is_some()
    }

    /// Whether what is known is too old: a key may have expired since.
    pub fn is_stale(&self) -> bool {
        self.asked_at
            .is_some_and(|asked| asked.elapsed() > MARGIN / 2)
    }

    /// Whether the target lost this key.
    pub fn has_lost(&self, db: u32, key: &[u8]) -> bool {
        !self.lost.is_empty() && self.lost.contains(&(db, Box::from(key)))
    }

    /// An entry that gives the key a value, or an end, will be applied; perhaps an end within [`MARGIN_MS`].
    pub fn written(&mut self, db: u32, key: &[u8], expires_soon: bool, whole: bool) {
        if !self.is_late() {
            return;
        }
        if expires_soon {
            self.lost.insert((db, key.into()));
        } else if whole && !self.lost.is_empty() {
            self.lost.remove(&(db, Box::from(key)));
        }
    }
}

/// When the key of a command will expire by it, as far as it says. `received_ms` is what relative times are counted from.
pub(crate) fn expiry_in(args: &Args<'_>, received_ms: i64) -> Option<i64> {
    if args.name().eq_ignore_ascii_case(b"RESTORE") {
        let at = std::str::from_utf8(args.get(2)?).ok()?.parse().ok();
        return at.filter(|at| *at > 0);
    }
    commands::end_of(args)?.at_ms(args, received_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::ArgsWriter;

    fn expiry(words: &[&str]) -> Option<i64> {
        let mut writer = ArgsWriter::default();
        words.iter().for_each(|word| {
            writer.word(word.as_bytes());
        });
        let (packed, count) = writer.finish();
        expiry_in(&Args::check(&packed, count).unwrap(), 1_000_000)
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
            (&["set", "k", "v", "pxat", "7"], Some(7)),
            (&["SET", "k", "v", "EX", "7"], Some(1_007_000)),
            (&["RESTORE", "k", "0", "payload"], None),
            (&["RESTORE", "k", "9", "payload", "ABSTTL"], Some(9)),
            (&["INCR", "k"], None),
        ] {
            assert_eq!(expiry(words), at, "{words:?}");
        }
    }

    #[test]
    fn a_key_is_lost_until_it_is_written_whole_for_longer_than_the_margin() {
        let mut late = Late::default();
        late.written(0, b"k", true, true);
        assert!(!late.is_late() && !late.has_lost(0, b"k"));
        late.know(Instant::now(), HashSet::from([(0, Box::from(&b"k"[..]))]));
        assert!(late.has_lost(0, b"k") && !late.has_lost(1, b"k"));
        late.written(0, b"k", false, true);
        assert!(!late.has_lost(0, b"k"));
        late.written(0, b"k", true, false);
        assert!(late.has_lost(0, b"k"));
        late.written(0, b"k", false, true);
        assert!(!late.has_lost(0, b"k"));
        late.end();
        assert!(!late.is_late());
    }
}
