//! Hash slots of Redis Cluster.
//!
//! Facts: the Redis Cluster specification: CRC16 (XMODEM) of the hash tag or key, modulo 16384.

use std::fmt::Write;
use std::sync::LazyLock;

/// Slots of every cluster.
pub const SLOTS: u16 = 16384;

/// The slot of a key.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = match has_brace(key) {
        true => tag_of_key(key),
        false => None,
    };
    crc(tag.unwrap_or(key)) % SLOTS
}

/// Whether a brace opens anywhere, eight bytes at a time. Keys are short: a library takes longer to choose how to look.
fn has_brace(key: &[u8]) -> bool {
    const ALL: u64 = u64::MAX / 255;
    let (eights, rest) = key.as_chunks::<8>();
    let is_in = |eight: &[u8; 8]| {
        // What is equal is 0, and only from 0 does a borrow reach the highest bit of a byte that had it not.
        let differs = u64::from_ne_bytes(*eight) ^ (ALL * u64::from(b'{'));
        differs.wrapping_sub(ALL) & !differs & (ALL << 7) != 0
    };
    eights.iter().any(is_in) || rest.contains(&b'{')
}

fn tag_of_key(key: &[u8]) -> Option<&[u8]> {
    let open = memchr::memchr(b'{', key)?;
    tag_in(key.get(open + 1..)?)
}

/// What stands before the brace that closes a tag, if it does and there is anything.
fn tag_in(rest: &[u8]) -> Option<&[u8]> {
    let close = memchr::memchr(b'}', rest)?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

/// CRC16 (XMODEM), four bytes at a time.
fn crc(bytes: &[u8]) -> u16 {
    let [one, two, three, four] = &CRC_OF;
    let of = |table: &[u16; 256], byte: u8| table.get(usize::from(byte)).copied();
    let (fours, rest) = bytes.as_chunks::<4>();
    let crc = fours.iter().fold(0, |crc: u16, [a, b, c, d]| {
        let [high, low] = crc.to_be_bytes();
        let of = |table, byte| of(table, byte).unwrap_or_default();
        of(four, high ^ a) ^ of(three, low ^ b) ^ of(two, *c) ^ of(one, *d)
    });
    rest.iter().fold(crc, |crc, byte| {
        let [high, _] = crc.to_be_bytes();
        (crc << 8) ^ of(one, high ^ byte).unwrap_or_default()
    })
}

/// By byte, its checksum with no, one, two and three zero bytes behind it.
static CRC_OF: [[u16; 256]; 4] = {
    let mut all = [[0; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut behind = 0;
        while behind < all.len() {
            let mut bit = 0;
            while bit < 8 {
                crc = (crc << 1) ^ (0x1021 * (crc >> 15));
                bit += 1;
            }
            all[behind][byte] = crc;
            behind += 1;
        }
        byte += 1;
    }
    all
};

/// Commands whose first key is not the word behind the name, and which word it is.
const ELSEWHERE: [(&[u8], usize); 9] = [
    (b"EVAL", 3),
    (b"EVALSHA", 3),
    (b"FCALL", 3),
    (b"XGROUP", 2),
    (b"XINFO", 2),
    (b"OBJECT", 2),
    (b"BITOP", 2),
    (b"LMPOP", 2),
    (b"ZMPOP", 2),
];

/// Which word of a command with keys is the first of them, the name being word 0.
#[inline]
pub(super) fn first_key_at(name: &[u8]) -> usize {
    // None of the names of most entries is any of them: that is seen by their lengths and first letters.
    if !matches!(
        (name.len(), name.first().map(u8::to_ascii_uppercase)),
        (4, Some(b'E'))
            | (5, Some(b'F' | b'X' | b'B' | b'L' | b'Z'))
            | (6, Some(b'X' | b'O'))
            | (7, Some(b'E'))
    ) {
        return 1;
    }
    let elsewhere = ELSEWHERE
        .iter()
        .find(|(other, _)| name.eq_ignore_ascii_case(other));
    elsewhere.map_or(1, |(_, index)| *index)
}

/// Most letters and digits of a [`tag_of`] a slot.
pub(super) const LONGEST_TAG: usize = 5;

/// A tag, where it stands: many are looked for at random, and should be in one cache.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tag {
    len: u8,
    text: [u8; LONGEST_TAG],
}

impl Tag {
    fn of(word: &str) -> Option<Self> {
        let mut text = [0; LONGEST_TAG];
        text.get_mut(..word.len())?.copy_from_slice(word.as_bytes());
        let len = u8::try_from(word.len()).ok()?;
        Some(Self { len, text })
    }

    /// Its letters and digits.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// A word whose slot this is, to be put between braces in a key that is to be there. Of at most five letters and digits.
pub fn tag_of(slot: u16) -> &'static str {
    let tag = tags().get(usize::from(slot % SLOTS));
    let word = tag.and_then(|tag| std::str::from_utf8(tag.bytes()).ok());
    word.unwrap_or_default()
}

/// Those of all slots, in order.
pub(super) fn tags() -> &'static [Tag] {
    static TAGS: LazyLock<Box<[Tag]>> = LazyLock::new(|| {
        let mut tags = vec![Tag::default(); usize::from(SLOTS)];
        let mut missing = tags.len();
        let mut word = String::new();
        for n in 0_u32.. {
            // One for all: it takes ten times as many words as there are slots. A string takes all of it.
            word.clear();
            let _ = write!(word, "{n:x}");
            if let Some(tag) = tags.get_mut(usize::from(slot_of(word.as_bytes())))
                && tag.len == 0
                && let Some(found) = Tag::of(&word)
            {
                *tag = found;
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        tags.into()
    });
    &TAGS
}

#[cfg(test)]
mod tests {
    use super::{SLOTS, slot_of, tag_of};

    #[test]
    fn slots_are_those_the_specification_gives() {
        assert_eq!(slot_of(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
        for open in 0..40 {
            // Bytes near the brace, and such as a borrow may come from.
            let mut key = [b'|', 0, b'z', 0xfb, 0x80, 0x7a, 0xff].repeat(6);
            assert!(!super::has_brace(&key), "{key:?}");
            key[open] = b'{';
            assert!(super::has_brace(&key), "{open}");
            let close = key.len() - 1;
            key[close] = b'}';
            assert_eq!(slot_of(&key), slot_of(&key[open + 1..close]), "{open}");
        }
        // By hand, bit by bit.
        let by_bits = |key: &[u8]| {
            let bits = key
                .iter()
                .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
            let crc = bits.fold(0_u16, |crc, bit| {
                let carry = (crc >> 15) ^ u16::from(bit);
                (crc << 1) ^ (0x1021 * carry)
            });
            crc % SLOTS
        };
        let key: Vec<u8> = (0..=255).map(|n: u8| n.wrapping_mul(37)).collect();
        for len in 0..80 {
            let key = &key[100..100 + len];
            assert!(!key.contains(&b'{'));
            assert_eq!(slot_of(key), by_bits(key), "{len}");
        }
    }

    #[test]
    fn the_first_key_is_found_whatever_the_case_of_the_name() {
        for (name, index) in super::ELSEWHERE {
            assert_eq!(super::first_key_at(name), index);
            assert_eq!(super::first_key_at(&name.to_ascii_lowercase()), index);
        }
        for name in [&b"SET"[..], b"XADD", b"evalx", b"BITCOUNT", b"LPUSH", b""] {
            assert_eq!(super::first_key_at(name), 1);
        }
    }

    #[test]
    fn every_slot_has_a_short_tag() {
        for slot in 0..SLOTS {
            let tag = tag_of(slot);
            assert!(!tag.is_empty() && tag.len() <= 5, "{tag}");
            assert_eq!(
                slot_of(format!("df2redis:x:task:{{{tag}}}").as_bytes()),
                slot
            );
        }
    }
}
