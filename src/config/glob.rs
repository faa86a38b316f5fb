//! Key patterns, with the meaning that `KEYS` gives them, on raw bytes.
//!
//! `*` any bytes, `?` one byte, `[ab]`, `[a-z]`, `[^ab]` one byte of a set or not of it, `\x` the byte x itself.
//! Matching takes at most pattern length times key length steps, whatever the two are: on a mismatch only the
//! last `*` is extended, because extending an earlier one cannot find more.
//! Two differences from Redis 7.0: a set that is never closed is refused instead of being closed by the end, and
//! two or more stars match the empty key too, as one does.

use std::fmt;

/// One compiled pattern.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    text: Vec<u8>,
    pieces: Vec<Piece>,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// A `[` without its `]`.
    #[error("has a \"[\" that is never closed, expected \"]\" (or '\\[' for the character itself)")]
    Unclosed,
}

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    /// Any number of bytes, none included.
    Star,
    /// Any one byte.
    Any,
    /// This byte.
    Byte(u8),
    /// One byte of this set.
    Set(Box<Set>),
}

/// A set of bytes, one bit each.
#[derive(Clone, PartialEq, Eq)]
struct Set([u64; 4]);

impl Set {
    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn holds(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }
}

impl Piece {
    /// Whether the piece, not a star, stands for this byte.
    fn stands_for(&self, byte: u8) -> bool {
        match self {
            Self::Star => false,
            Self::Any => true,
            Self::Byte(own) => *own == byte,
            Self::Set(set) => set.holds(byte),
        }
    }
}

impl Glob {
    /// Compiles a pattern.
    pub fn new(text: &[u8]) -> Result<Self, GlobError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            match first {
                // Two stars mean the same as one.
                b'*' if pieces.last() == Some(&Piece::Star) => {}
                b'*' => pieces.push(Piece::Star),
                b'?' => pieces.push(Piece::Any),
                b'[' => {
                    let (set, behind) = parse_set(tail)?;
                    pieces.push(Piece::Set(Box::new(set)));
                    rest = behind;
                }
                b'\\' => match tail.split_first() {
                    Some((&escaped, behind)) => {
                        pieces.push(Piece::Byte(escaped));
                        rest = behind;
                    }
                    None => pieces.push(Piece::Byte(b'\\')),
                },
                byte => pieces.push(Piece::Byte(byte)),
            }
        }
        Ok(Self {
            text: text.to_vec(),
            pieces,
        })
    }

    /// The pattern as written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// Whether every key matches, the empty one included.
    pub fn matches_all(&self) -> bool {
        self.pieces == [Piece::Star]
    }

    /// Whether the whole key matches.
    pub fn matches(&self, key: &[u8]) -> bool {
        let (mut piece, mut byte) = (0, 0);
        // Behind the last star seen: the piece to go on with, and the first byte the star did not take.
        let mut resume: Option<(usize, usize)> = None;
        loop {
            match (self.pieces.get(piece), key.get(byte)) {
                (None, None) => return true,
                (Some(Piece::Star), _) => {
                    piece += 1;
                    resume = Some((piece, byte));
                    continue;
                }
                (Some(own), Some(&next)) if own.stands_for(next) => {
                    piece += 1;
                    byte += 1;
                    continue;
                }
                _ => {}
            }
            match resume {
                Some((behind, taken)) if taken < key.len() => {
                    piece = behind;
                    byte = taken + 1;
                    resume = Some((behind, byte));
                }
                _ => return false,
            }
        }
    }
}

/// The set whose `[` was just read, and what stands behind its `]`.
fn parse_set(text: &[u8]) -> Result<(Set, &[u8]), GlobError> {
    let (negated, mut rest) = match text.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut set = Set([0; 4]);
    loop {
        rest = match rest {
            [] => return Err(GlobError::Unclosed),
            [b'\\', escaped, behind @ ..] => {
                set.insert(*escaped);
                behind
            }
            [b']', behind @ ..] => {
                if negated {
                    set.0.iter_mut().for_each(|bits| *bits = !*bits);
                }
                return Ok((set, behind));
            }
            [from, b'-', to, behind @ ..] => {
                let (low, high) = (from.min(to), from.max(to));
                (*low..=*high).for_each(|byte| set.insert(byte));
                behind
            }
            [byte, behind @ ..] => {
                set.insert(*byte);
                behind
            }
        };
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text.escape_ascii())
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob(\"{self}\")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &[u8], key: &[u8]) -> bool {
        Glob::new(pattern).unwrap().matches(key)
    }

    #[test]
    fn patterns_mean_what_keys_gives_them() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "a*b"][..], &[][..]),
            ("", &[""], &["a"]),
            ("user:*", &["user:", "user:1"], &["user", "xuser:1"]),
            ("*:tmp", &[":tmp", "a:tmp:tmp"], &["tmp", ":tmp:"]),
            ("h?llo", &["hello", "h?llo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hallo", "hello"], &["hillo"]),
            ("h[^e]llo", &["hallo"], &["hello", "hllo"]),
            ("h[a-c]llo", &["hbllo"], &["hdllo", "h-llo"]),
            ("h[c-a]llo", &["hbllo"], &["hdllo"]),
            (r"h[\]a]llo", &["h]llo", "hallo"], &[r"h\llo"]),
            ("h[]llo", &[], &["hllo", "h]llo"]),
            (r"a\*b", &["a*b"], &["aab", r"a\*b"]),
            (r"a\", &[r"a\"], &["a"]),
            ("a**b", &["ab", "axb"], &["a"]),
        ] {
            for key in yes {
                assert!(
                    matches(pattern.as_bytes(), key.as_bytes()),
                    "{pattern} {key}"
                );
            }
            for key in no {
                assert!(
                    !matches(pattern.as_bytes(), key.as_bytes()),
                    "{pattern} {key}"
                );
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_bytes_like_any_other() {
        assert!(matches(b"?\xff[\x80-\xfe]", b"\x00\xff\x90"));
        assert!(!matches(b"?\xff[\x80-\xfe]", b"\x00\xff\xff"));
    }

    #[test]
    fn a_set_that_is_never_closed_is_refused() {
        for pattern in [&b"["[..], b"a[b", b"[^", b"[a-z", b"[a-]", br"[\]"] {
            assert_eq!(Glob::new(pattern), Err(GlobError::Unclosed));
        }
    }

    #[test]
    fn a_pattern_of_many_stars_does_not_explode() {
        let pattern = b"a*".repeat(2_000);
        let key = b"a".repeat(1_999);
        // Backtracking into every star would take longer than the universe has.
        assert!(!matches(&pattern, &key));
    }

    /// The textbook definition, exponential and obviously right.
    fn by_definition(pieces: &[Piece], key: &[u8]) -> bool {
        match (pieces.split_first(), key.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((Piece::Star, behind)), rest) => {
                by_definition(behind, key)
                    || rest.is_some_and(|(_, tail)| by_definition(pieces, tail))
            }
            (Some((piece, behind)), Some((byte, tail))) => {
                piece.stands_for(*byte) && by_definition(behind, tail)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn the_quick_matcher_agrees_with_the_definition(
            pattern in "[ab*?\\[\\]^\\\\-]{0,10}", key in "[ab\\]^\\\\-]{0,10}"
        ) {
            if let Ok(glob) = Glob::new(pattern.as_bytes()) {
                prop_assert_eq!(glob.matches(key.as_bytes()), by_definition(&glob.pieces, key.as_bytes()));
            }
        }

        #[test]
        fn any_key_escaped_byte_by_byte_matches_itself_and_nothing_longer(
            key in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let escaped: Vec<u8> = key.iter().flat_map(|byte| [b'\\', *byte]).collect();
            let glob = Glob::new(&escaped).unwrap();
            prop_assert!(glob.matches(&key));
            prop_assert!(!glob.matches(&[&key[..], b"x"].concat()));
        }

        #[test]
        fn no_pattern_and_key_panic(
            pattern in prop::collection::vec(any::<u8>(), 0..60), key in prop::collection::vec(any::<u8>(), 0..60)
        ) {
            if let Ok(glob) = Glob::new(&pattern) {
                let _ = glob.matches(&key);
            }
        }
    }
}
