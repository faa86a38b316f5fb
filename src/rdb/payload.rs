//! The payload of DUMP and RESTORE: a type byte, a value, and a footer that vouches for both.
//!
//! Invariants: a footer is computed over exactly the bytes that were passed, in their order, so a
//! payload can be sent in pieces as its value streams by.
//! Facts: footer = u16 LE format version, u64 LE CRC-64 "Jones" over all before it. Version 9 is
//! accepted by every Redis since 5 for every type it knows, so 9 is what is written.

use crc_fast::{CrcAlgorithm, Digest};

/// The format version written into footers.
pub const VERSION: u16 = 9;

/// The newest format version of Redis that [`open`] accepts, that of Redis 8.2.
const NEWEST: u16 = 12;

/// The format version of Valkey 9. Valkey 8 still writes 11, and nobody writes those in between.
const VALKEY_9: u16 = 80;

/// Bytes of a footer.
pub const FOOTER: usize = 10;

/// Why bytes are no payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not even a type byte and a footer.
    #[error("a payload of {0} bytes is too short")]
    Short(usize),
    /// Written by a server newer than this program.
    #[error("payload has format version {0}, newest known is {NEWEST}")]
    Version(u16),
    /// The bytes are not those the footer was made for.
    #[error("payload is damaged: its checksum is {found:016x}, it says {said:016x}")]
    Checksum {
        /// Of the bytes as they are.
        found: u64,
        /// In the footer.
        said: u64,
    },
}

/// The footer of a payload of which the bytes pass by in pieces.
#[derive(Debug, Clone)]
pub struct Seal {
    digest: Digest,
}

impl Seal {
    /// For a value of this type. The type byte is counted here; the caller sends it.
    pub fn new(kind: u8) -> Self {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Redis);
        digest.update(&[kind]);
        Self { digest }
    }

    /// Counts the next bytes of the value.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The footer that goes behind the value.
    pub fn finish(mut self) -> [u8; FOOTER] {
        let [a, b] = VERSION.to_le_bytes();
        self.digest.update(&[a, b]);
        let [c, d, e, f, g, h, i, j] = self.digest.finalize().to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }
}

/// The length of the payload of a value of `len` bytes.
pub fn sealed_len(len: usize) -> usize {
    1 + len + FOOTER
}

/// Appends the payload of a value.
pub fn seal(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let mut seal = Seal::new(kind);
    seal.update(value);
    out.reserve(sealed_len(value.len()));
    out.push(kind);
    out.extend_from_slice(value);
    out.extend_from_slice(&seal.finish());
}

/// Opens a payload: the value's type and bytes. Whether the value is sound is not looked at.
pub fn open(payload: &[u8]) -> Result<(u8, &[u8]), PayloadError> {
    let short = PayloadError::Short(payload.len());
    let (covered, crc) = payload.split_last_chunk::<8>().ok_or(short)?;
    let (body, version) = covered.split_last_chunk::<2>().ok_or(short)?;
    let (kind, value) = body.split_first().ok_or(short)?;
    let version = u16::from_le_bytes(*version);
    if version > NEWEST && version != VALKEY_9 {
        return Err(PayloadError::Version(version));
    }
    let found = crc_fast::checksum(CrcAlgorithm::Crc64Redis, covered);
    let said = u64::from_le_bytes(*crc);
    if found != said {
        return Err(PayloadError::Checksum { found, said });
    }
    Ok((*kind, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_redis_uses() {
        assert_eq!(
            crc_fast::checksum(CrcAlgorithm::Crc64Redis, b"123456789"),
            0xE9C6_D914_C4B8_D9CA
        );
    }

    #[test]
    fn payloads_are_the_bytes_a_real_dump_gives() {
        for (kind, value, footer) in [
            (
                0,
                &b"\x03bar"[..],
                &b"\x09\x00\x36\x4C\x18\xAC\xBA\xE0\x9E\xA6"[..],
            ),
            (
                11,
                b"\x0C\x02\0\0\0\x02\0\0\0\x01\0\x02\0",
                b"\x09\x00\xBF\x8B\x69\x7D\x60\x6D\x43\x9F",
            ),
        ] {
            let mut payload = Vec::new();
            seal(&mut payload, kind, value);
            assert_eq!(payload, [&[kind][..], value, footer].concat());
            assert_eq!(payload.len(), sealed_len(value.len()));
            assert_eq!(open(&payload), Ok((kind, value)));
            let mut pieces = Seal::new(kind);
            value.chunks(1).for_each(|piece| pieces.update(piece));
            assert_eq!(&pieces.finish()[..], footer);
        }
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let mut payload = Vec::new();
        seal(&mut payload, 0, b"\x03bar");
        for at in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[at] ^= 1;
            assert!(open(&damaged).is_err(), "byte {at}");
        }
        assert_eq!(open(&payload[..10]), Err(PayloadError::Short(10)));
        let mut newer = payload.clone();
        for version in [13, 79, 81] {
            newer[5] = version;
            assert_eq!(open(&newer), Err(PayloadError::Version(version.into())));
        }
        newer[5] = 80;
        assert!(matches!(open(&newer), Err(PayloadError::Checksum { .. })));
    }
}
