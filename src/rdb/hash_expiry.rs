//! Hashes of which fields expire, as Redis 7.4 and Valkey 9 hold them.
//!
//! Invariants: every field that has not expired is kept with its value and expiry, in the order it came; the result is
//!   not larger than the input, decompressed, by more than 16 bytes for each field.
//! Units: expiry is Unix milliseconds.
//! Facts: dumps of Redis 8.2.3 and Valkey 9.1.2. Type 24: the earliest expiry as u64 LE, a count, and for each field 0
//!   for none or the distance to the earliest expiry plus 1, then field and value. Type 22 of Valkey: a count, and for
//!   each field itself, value, and expiry as i64 LE, -1 for none. Each refuses the other's type; both take a field that
//!   has expired, and let it expire then.

use super::string::{write, write_packed};
use super::{Cursor, Element, Elements, Halt, Text, kind};

/// A hash in another type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The value, without type byte and key.
    pub bytes: Vec<u8>,
    /// Fields that are in it.
    pub kept: u64,
    /// Fields that had expired and are not.
    pub expired: u64,
}

/// Makes a hash of type 31 one of type 24 or 22. Bytes left over are an error.
pub fn convert(value: &[u8], to: u8, now_ms: i64) -> Result<Converted, Halt> {
    let now = u64::try_from(now_ms).unwrap_or_default();
    let (mut kept, mut expired, mut earliest) = (0, 0, None::<u64>);
    each(value, |_, _, expires| match expires {
        Some(at) if at <= now => expired += 1,
        expires => {
            kept += 1;
            earliest = earliest.into_iter().chain(expires).min();
        }
    })?;
    let earliest = earliest.unwrap_or_default();
    let mut bytes = Vec::with_capacity(value.len());
    if to == kind::HASH_EXPIRING_REDIS {
        bytes.extend_from_slice(&earliest.to_le_bytes());
    }
    write_packed(&mut bytes, kept);
    each(value, |field, text, expires| {
        if expires.is_some_and(|at| at <= now) {
            return;
        }
        if to == kind::HASH_EXPIRING_REDIS {
            let distance = expires.map_or(0, |at| at.saturating_sub(earliest).saturating_add(1));
            write_packed(&mut bytes, distance);
        }
        write(&mut bytes, field);
        write(&mut bytes, text);
        if to != kind::HASH_EXPIRING_REDIS {
            let at = expires.map_or(-1, |at| i64::try_from(at).unwrap_or(i64::MAX));
            bytes.extend_from_slice(&at.to_le_bytes());
        }
    })?;
    Ok(Converted {
        bytes,
        kept,
        expired,
    })
}

/// Shows every field with its value and expiry.
fn each(value: &[u8], mut show: impl FnMut(&Text<'_>, &Text<'_>, Option<u64>)) -> Result<(), Halt> {
    let none = |_| Cursor::new(value).invalid("not a hash of which fields expire");
    let mut elements = Elements::new(kind::HASH_EXPIRING).map_err(none)?;
    while let Some(element) = elements.next(value)? {
        if let Element::Field {
            field,
            value,
            expires,
        } = element
        {
            show(&field, &value, expires);
        }
    }
    match elements.shift() {
        at if at == value.len() => Ok(()),
        at => Err(Halt::Invalid {
            at,
            what: "bytes left over",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_795_380_000_000;

    fn hash(fields: &[(&str, &str, Option<u64>)]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::hash_expiring(&mut out, fields);
        out
    }

    #[test]
    fn both_types_are_the_bytes_that_servers_dump() {
        let at = 9_795_380_000_000;
        let value = hash(&[("a", "1", Some(at)), ("x", "y", None)]);
        let redis = convert(&value, kind::HASH_EXPIRING_REDIS, NOW).unwrap();
        assert_eq!(
            redis.bytes,
            b"\x00\x35\x25\xaa\xe8\x08\x00\x00\x02\x01\x01a\xc0\x01\x00\x01x\x01y"
        );
        let valkey = convert(&value, kind::HASH_EXPIRING_VALKEY, NOW).unwrap();
        assert_eq!(
            valkey.bytes,
            b"\x02\x01a\xc0\x01\x00\x35\x25\xaa\xe8\x08\x00\x00\x01x\x01y\xff\xff\xff\xff\xff\xff\xff\xff"
        );
        assert_eq!((redis.kept, redis.expired), (2, 0));
    }

    #[test]
    fn fields_that_expired_are_left_out_and_counted() {
        let past = u64::try_from(NOW).unwrap();
        let value = hash(&[("a", "1", Some(past)), ("b", "2", Some(past + 1000))]);
        for to in [kind::HASH_EXPIRING_REDIS, kind::HASH_EXPIRING_VALKEY] {
            let converted = convert(&value, to, NOW).unwrap();
            assert_eq!((converted.kept, converted.expired), (1, 1));
            assert!(!converted.bytes.contains(&b'a'));
        }
    }

    #[test]
    fn what_stands_behind_the_value_is_an_error() {
        let mut value = hash(&[("a", "1", None)]);
        value.push(0);
        let result = convert(&value, kind::HASH_EXPIRING_REDIS, NOW);
        assert!(matches!(result, Err(Halt::Invalid { .. })));
        value.truncate(value.len() - 2);
        let result = convert(&value, kind::HASH_EXPIRING_REDIS, NOW);
        assert!(matches!(result, Err(Halt::Incomplete { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_and_stay_small(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            for to in [kind::HASH_EXPIRING_REDIS, kind::HASH_EXPIRING_VALKEY] {
                if let Ok(converted) = convert(&value, to, NOW) {
                    // LZF makes at most 264 bytes of 3.
                    prop_assert!(converted.bytes.len() <= 16 + 100 * value.len());
                }
            }
        }
    }
}
