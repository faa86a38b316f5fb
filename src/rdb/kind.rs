//! The type bytes of values, as they stand before a key in a snapshot and first in a payload.
//!
//! Facts: Redis' RDB type numbers up to 24, of which 22 and later are not Valkey's; from 30 on the numbers are Dragonfly's own. Number 20
//! is JSON in streams of Dragonfly v1.14 and means something else to Redis.

/// One string.
pub const STRING: u8 = 0;
/// Counted strings: the members of a set.
pub const SET: u8 = 2;
/// Counted pairs of strings.
pub const HASH: u8 = 4;
/// Counted pairs of a string and a binary score.
pub const SORTED: u8 = 5;
/// A set of integers, packed.
pub const SET_INTSET: u8 = 11;
/// A sorted set in one ziplist (Dragonfly up to v1.30).
pub const SORTED_ZIPLIST: u8 = 12;
/// A hash in one ziplist (Dragonfly up to v1.30).
pub const HASH_ZIPLIST: u8 = 13;
/// A list of ziplists, or in Dragonfly up to v1.23 of bare elements too.
pub const LIST_ZIPLISTS: u8 = 14;
/// A stream as Redis 5 wrote it.
pub const STREAM_15: u8 = 15;
/// A hash in one listpack.
pub const HASH_LISTPACK: u8 = 16;
/// A sorted set in one listpack.
pub const SORTED_LISTPACK: u8 = 17;
/// A list of listpacks and bare elements.
pub const LIST: u8 = 18;
/// A stream as Redis 7.0 wrote it.
pub const STREAM_19: u8 = 19;
/// A JSON document in Dragonfly v1.14.
pub const JSON_OLD: u8 = 20;
/// A stream as Redis 7.2 writes it.
pub const STREAM: u8 = 21;
/// A hash of which fields may expire, as Valkey 9 writes it.
pub const HASH_EXPIRING_VALKEY: u8 = 22;
/// A hash of which fields may expire, as Redis 7.4 writes it.
pub const HASH_EXPIRING_REDIS: u8 = 24;
/// A JSON document, as text.
pub const JSON: u8 = 30;
/// A hash of which fields may expire, as Dragonfly writes it.
pub const HASH_EXPIRING: u8 = 31;
/// A set of which members may expire.
pub const SET_EXPIRING: u8 = 32;

/// Where Dragonfly's element expiry begins to count: 2023-02-01T00:00:00Z, in Unix seconds.
pub const EXPIRY_EPOCH: u64 = 1_675_209_600;
