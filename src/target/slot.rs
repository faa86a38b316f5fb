//! Hash slots of Redis Cluster.
//!
//! Facts: the Redis Cluster specification: CRC16 (XMODEM) of the hash tag or key, modulo 16384.

use crc_fast::{CrcAlgorithm, checksum};

/// The slot of a key.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = memchr::memchr(b'}', rest)?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    // The remainder is below 2^14.
    (checksum(CrcAlgorithm::Crc16Xmodem, tag.unwrap_or(key)) % 16384) as u16
}

#[cfg(test)]
mod tests {
    use super::slot_of;

    #[test]
    fn slots_are_those_the_specification_gives() {
        assert_eq!(slot_of(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
    }
}
