//! A place in bytes we hold, and the three outcomes of reading from it.
//!
//! Invariants: `at <= bytes.len()`; nothing here reads a socket or allocates. A length on the wire
//! is compared before use and never added to.

/// Why a decoder halted. `Incomplete` is ordinary: get more bytes, then resume. `Invalid` is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// At least `missing` more bytes are needed; fewer cannot make progress.
    Incomplete {
        /// Lower bound of the bytes still to come, at least 1.
        missing: usize,
    },
    /// The bytes cannot be what they claim to be.
    Invalid {
        /// Offset into the bytes the cursor was made from.
        at: usize,
        /// What is wrong, as a phrase that fits after "invalid data: ".
        what: &'static str,
    },
}

/// Reads forward through borrowed bytes.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes consumed so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// What has not been consumed.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Whether everything was consumed.
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// An [`Halt::Invalid`] at the current place.
    pub fn invalid(&self, what: &'static str) -> Halt {
        Halt::Invalid { at: self.at, what }
    }

    /// The next `len` bytes, borrowed. `len` is the sender's word; over `limit` it is invalid.
    pub fn take(&mut self, len: u64, limit: usize) -> Result<&'a [u8], Halt> {
        let over = self.invalid("length over the limit");
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= limit)
            .ok_or(over)?;
        let rest = self.rest();
        let taken = rest.get(..len).ok_or(Halt::Incomplete {
            missing: len.saturating_sub(rest.len()),
        })?;
        self.at += len;
        Ok(taken)
    }

    /// The next `N` bytes by value.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Halt> {
        let rest = self.rest();
        let Some(taken) = rest.first_chunk::<N>() else {
            return Err(Halt::Incomplete {
                missing: N.saturating_sub(rest.len()),
            });
        };
        self.at += N;
        Ok(*taken)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, Halt> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next byte without consuming it.
    pub fn peek(&self) -> Result<u8, Halt> {
        self.rest()
            .first()
            .copied()
            .ok_or(Halt::Incomplete { missing: 1 })
    }

    /// A packed unsigned integer, the code shared by RDB lengths and the journal: 6, 14, 32 or
    /// 64 bits, big endian. A first byte `11xxxxxx` is no length and is invalid here.
    pub fn packed(&mut self) -> Result<u64, Halt> {
        let first = self.peek()?;
        let (value, used) = match first >> 6 {
            0 => (u64::from(first & 0x3F), 1),
            1 => {
                let mut ahead = self.clone();
                let [high, low] = ahead.array::<2>()?;
                (u64::from(u16::from_be_bytes([high & 0x3F, low])), 2)
            }
            _ if first == 0x80 => {
                let mut ahead = self.clone();
                let [_, a, b, c, d] = ahead.array::<5>()?;
                (u64::from(u32::from_be_bytes([a, b, c, d])), 5)
            }
            _ if first == 0x81 => {
                let mut ahead = self.clone();
                let [_, a, b, c, d, e, f, g, h] = ahead.array::<9>()?;
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 9)
            }
            _ => return Err(self.invalid("not a packed integer")),
        };
        self.at += used;
        Ok(value)
    }

    /// Fails unless everything was consumed: bytes left over are an error too.
    pub fn finish(&self) -> Result<(), Halt> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.invalid("bytes left over"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_integers_decode_as_the_reference_lists_them() {
        for (hex, value) in [
            (&[0x00][..], 0),
            (&[0x3F], 63),
            (&[0x40, 0x40], 64),
            (&[0x7F, 0xFF], 16383),
            (&[0x80, 0, 0, 0x40, 0], 16384),
            (&[0x80, 0xFF, 0xFF, 0xFF, 0xFF], u64::from(u32::MAX)),
            (&[0x81, 0, 0, 0, 1, 0, 0, 0, 0], 1 << 32),
            (&[0x81, 255, 255, 255, 255, 255, 255, 255, 255], u64::MAX),
        ] {
            let mut cursor = Cursor::new(hex);
            assert_eq!(cursor.packed(), Ok(value));
            assert_eq!(cursor.finish(), Ok(()));
            for cut in 0..hex.len() {
                let mut short = Cursor::new(&hex[..cut]);
                assert_eq!(
                    short.packed(),
                    Err(Halt::Incomplete {
                        missing: if cut == 0 { 1 } else { hex.len() - cut }
                    })
                );
                assert_eq!(short.position(), 0, "a halted read consumes nothing");
            }
        }
        assert!(Cursor::new(&[0xC0, 1]).packed().is_err());
        assert!(Cursor::new(&[0x82, 1]).packed().is_err());
    }

    #[test]
    fn a_length_of_two_to_the_64_is_refused_without_being_added_to() {
        let mut cursor = Cursor::new(b"abc");
        cursor.byte().unwrap();
        assert_eq!(
            cursor.take(u64::MAX, 1 << 20),
            Err(Halt::Invalid {
                at: 1,
                what: "length over the limit"
            })
        );
        assert_eq!(
            cursor.take(5, 1 << 20),
            Err(Halt::Incomplete { missing: 3 })
        );
    }
}
