//! Where the words of a journal command end, while they are still arriving.
//!
//! Invariants: `walk` consumes every byte it is given until the words end; the announced total is
//! never exceeded and must be met; memory is the walker's own size.

use crate::rdb::{Cursor, Halt, Walked};

/// The longest head of a word: a packed 64-bit integer.
const HEAD_MAX: usize = 9;

/// Passes over packed words, each a packed length and bytes.
#[derive(Debug, Clone)]
pub(super) struct Words {
    /// Words whose head has not passed.
    left: u64,
    /// Bytes those words may still have.
    total: u64,
    /// Bytes left of the current word.
    skip: u64,
    carry: [u8; HEAD_MAX],
    carried: u8,
}

impl Words {
    /// `words` words of `total` bytes together, heads not counted.
    pub(super) fn new(words: u64, total: u64) -> Self {
        Self {
            left: words,
            total,
            skip: 0,
            carry: [0; HEAD_MAX],
            carried: 0,
        }
    }

    /// Passes over the bytes that belong to the words; as `rdb::Walker::walk`.
    pub(super) fn walk(&mut self, bytes: &[u8]) -> Result<Walked, Halt> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if self.skip > 0 {
                let passed = self.skip.min(rest.len() as u64);
                self.skip -= passed;
                at += passed as usize; // at most the slice's length
                if self.skip > 0 {
                    break;
                }
                continue;
            }
            if self.left == 0 {
                if self.total != 0 {
                    return Err(short(at));
                }
                return Ok(Walked {
                    consumed: at,
                    done: true,
                    missing: 0,
                });
            }
            let Some((len, used)) = self.head(rest, at)? else {
                at = bytes.len();
                break;
            };
            if len > self.total {
                return Err(Halt::Invalid {
                    at,
                    what: "a command's words are longer than their total",
                });
            }
            at += used;
            self.total -= len;
            self.left -= 1;
            self.skip = len;
        }
        let missing = self
            .skip
            .saturating_add(self.left)
            .saturating_add(self.total)
            .max(1);
        Ok(Walked {
            consumed: at,
            done: false,
            missing: usize::try_from(missing).unwrap_or(usize::MAX),
        })
    }

    /// A word's length and the bytes used for it, or nothing when it is cut: what there is is kept.
    fn head(&mut self, rest: &[u8], at: usize) -> Result<Option<(u64, usize)>, Halt> {
        if self.carried == 0 {
            let mut cursor = Cursor::new(rest);
            match cursor.packed() {
                Ok(len) => return Ok(Some((len, cursor.position()))),
                Err(Halt::Incomplete { .. }) => {}
                Err(Halt::Invalid { what, .. }) => return Err(Halt::Invalid { at, what }),
            }
        }
        for (used, byte) in rest.iter().enumerate() {
            let filled = usize::from(self.carried);
            if let Some(slot) = self.carry.get_mut(filled) {
                *slot = *byte;
                self.carried += 1;
            }
            let head = self.carry.get(..=filled).unwrap_or_default();
            match Cursor::new(head).packed() {
                Ok(len) => {
                    self.carried = 0;
                    return Ok(Some((len, used + 1)));
                }
                Err(Halt::Incomplete { .. }) => {}
                Err(Halt::Invalid { what, .. }) => return Err(Halt::Invalid { at, what }),
            }
        }
        Ok(None)
    }
}

fn short(at: usize) -> Halt {
    Halt::Invalid {
        at,
        what: "a command's words are shorter than their total",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::ArgsWriter;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_end_at_the_same_place_however_they_are_cut(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..9),
            cut in 1usize..40,
        ) {
            let mut writer = ArgsWriter::default();
            for word in &words {
                writer.word(word);
            }
            let (mut packed, count) = (writer.finish().0.to_vec(), words.len() as u64);
            let whole = packed.len();
            packed.extend_from_slice(b"next entry");
            let total = words.iter().map(|word| word.len() as u64).sum();
            let mut walker = Words::new(count, total);
            let mut at = 0;
            for piece in packed.chunks(cut) {
                let walked = walker.walk(piece).unwrap();
                at += walked.consumed;
                if walked.done {
                    break;
                }
                prop_assert_eq!(walked.consumed, piece.len());
                prop_assert!(walked.missing <= whole - at);
            }
            prop_assert_eq!(at, whole);
        }

        #[test]
        fn a_wrong_total_is_refused(words in 1u64..5, total in 0u64..20, len in 0u8..20) {
            let packed: Vec<u8> = (0..words).flat_map(|_| {
                let mut word = vec![len];
                word.resize(1 + usize::from(len), b'x');
                word
            }).collect();
            let walked = Words::new(words, total).walk(&packed);
            let right = words * u64::from(len) == total;
            prop_assert_eq!(matches!(walked, Ok(Walked { done: true, .. })), right);
        }
    }
}
