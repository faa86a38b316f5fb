//! Hash slots of Redis Cluster.
//!
//! Facts: the Redis Cluster specification: CRC16 (XMODEM) of the hash tag or key, modulo 16384.

use std::fmt::Write;
use std::sync::LazyLock;

/// Slots of every cluster.
pub const SLOTS: u16 = 16384;

/// The slot of a key.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = memchr::memchr(b'}', rest)?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc(tag.unwrap_or(key)) % SLOTS
}

/// CRC16 (XMODEM) a byte at a time: keys are short, and libraries take longer to choose how to go about them.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let at = usize::from((crc >> 8) as u8 ^ byte);
        (crc << 8) ^ CRC_OF.get(at).copied().unwrap_or_default()
    })
}

/// By byte, its checksum.
static CRC_OF: [u16; 256] = {
    let mut all = [0; 256];
    let mut byte = 0;
    while byte < all.len() {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc << 1) ^ (0x1021 * (crc >> 15));
            bit += 1;
        }
        all[byte] = crc;
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

/// A word whose slot this is, to be put between braces in a key that is to be there. Of at most five letters and digits.
pub fn tag_of(slot: u16) -> &'static str {
    static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut tags = vec![String::new(); usize::from(SLOTS)];
        let mut missing = tags.len();
        let mut word = String::new();
        for n in 0_u32.. {
            // One for all: it takes ten times as many words as there are slots. A string takes all of it.
            word.clear();
            let _ = write!(word, "{n:x}");
            if let Some(tag) = tags.get_mut(usize::from(slot_of(word.as_bytes())))
                && tag.is_empty()
            {
                tag.clone_from(&word);
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        tags
    });
    TAGS.get(usize::from(slot % SLOTS))
        .map_or("", String::as_str)
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
