//! What a simulated master holds when a snapshot is taken: databases of encoded records.
//!
//! Invariants: records keep the order in which they were added; a key is there once per database.
//! Units: expiry is Unix milliseconds.

use super::encode::raw_string;
use super::encode::string;
use super::release::Release;
use super::stream_value::Stream;
use super::value::Value;

/// One key of the snapshot.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its database.
    pub db: u32,
    /// Its name.
    pub key: Vec<u8>,
    /// When it expires.
    pub expire_at_ms: Option<i64>,
    /// Whether it is exempt from eviction.
    pub sticky: bool,
    /// Its memcache flags.
    pub mcflags: Option<u32>,
    /// Its value.
    pub value: Value,
}

impl Record {
    /// A key of database 0 that does not expire.
    #[must_use]
    pub fn new(key: impl AsRef<[u8]>, value: Value) -> Self {
        let key = key.as_ref().to_vec();
        Self {
            db: 0,
            key,
            expire_at_ms: None,
            sticky: false,
            mcflags: None,
            value,
        }
    }

    /// The same in another database.
    #[must_use]
    pub fn in_db(mut self, db: u32) -> Self {
        self.db = db;
        self
    }

    /// The same with an expiry.
    #[must_use]
    pub fn expiring(mut self, at_ms: i64) -> Self {
        self.expire_at_ms = Some(at_ms);
        self
    }

    /// The same, exempt from eviction.
    #[must_use]
    pub fn sticky(mut self) -> Self {
        self.sticky = true;
        self
    }

    /// What precedes the value in the snapshot: expiry, mask, type and key.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        if let Some(at) = self.expire_at_ms {
            out.push(0xFC);
            out.extend_from_slice(&at.to_le_bytes());
        }
        if self.sticky || self.mcflags.is_some() {
            let mask = u32::from(self.sticky) | (u32::from(self.mcflags.is_some()) << 1);
            out.push(0xDC);
            out.extend_from_slice(&mask.to_le_bytes());
            out.extend(self.mcflags.map(u32::to_le_bytes).into_iter().flatten());
        }
        out.push(self.value.kind);
        string(&self.key, out);
    }

    /// The whole record as it stands in the snapshot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.len() + self.value.bytes.len() + 24);
        self.encode_head(&mut out);
        out.extend_from_slice(&self.value.bytes);
        out
    }
}

/// A data set, encoded for one release.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The release whose encodings its constructors use.
    pub release: Release,
    /// The keys.
    pub records: Vec<Record>,
    /// Bodies of known scripts, sent in the header of flow 0.
    pub scripts: Vec<Vec<u8>>,
}

impl Default for Dataset {
    fn default() -> Self {
        Self::new()
    }
}

impl Dataset {
    /// An empty one in the encodings of v1.40.1.
    #[must_use]
    pub fn new() -> Self {
        Self::for_release("df-v1.40.1")
    }

    /// An empty one in the encodings of a release.
    ///
    /// # Panics
    /// When the text names no release.
    #[must_use]
    #[track_caller]
    pub fn for_release(release: &str) -> Self {
        Self {
            release: Release::parse(release),
            records: Vec::new(),
            scripts: Vec::new(),
        }
    }

    /// Adds a record as it is.
    pub fn push(&mut self, record: Record) -> &mut Self {
        self.records.push(record);
        self
    }

    /// Adds a string to database 0.
    pub fn string(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(Record::new(key, Value::string(value.as_ref())))
    }

    /// Adds a list to database 0.
    pub fn list<A: AsRef<[u8]>>(&mut self, key: impl AsRef<[u8]>, elements: &[A]) -> &mut Self {
        self.push(Record::new(key, Value::list(elements)))
    }

    /// Adds a set to database 0.
    pub fn set<A: AsRef<[u8]>>(&mut self, key: impl AsRef<[u8]>, members: &[A]) -> &mut Self {
        self.push(Record::new(key, Value::set(members)))
    }

    /// Adds a hash to database 0.
    pub fn hash<A: AsRef<[u8]>>(&mut self, key: impl AsRef<[u8]>, fields: &[(A, A)]) -> &mut Self {
        let value = Value::hash(fields, self.release);
        self.push(Record::new(key, value))
    }

    /// Adds a sorted set, given in ascending order of scores, to database 0.
    pub fn zset<A: AsRef<[u8]>>(
        &mut self,
        key: impl AsRef<[u8]>,
        members: &[(A, f64)],
    ) -> &mut Self {
        let value = Value::zset(members, self.release);
        self.push(Record::new(key, value))
    }

    /// Adds a stream to database 0.
    pub fn stream(&mut self, key: impl AsRef<[u8]>, stream: &Stream) -> &mut Self {
        let value = stream.value(self.release);
        self.push(Record::new(key, value))
    }

    /// Adds a JSON document to database 0.
    pub fn json(&mut self, key: impl AsRef<[u8]>, text: &str) -> &mut Self {
        let value = Value::json(text, self.release);
        self.push(Record::new(key, value))
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of its keys and encoded values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.records
            .iter()
            .map(|record| (record.key.len() + record.value.bytes.len()) as u64)
            .sum()
    }

    /// `count` strings `key:<n>` of `len` bytes that hardly compress.
    #[must_use]
    pub fn strings(count: usize, len: usize) -> Self {
        let mut noise = Noise::new(1);
        let mut dataset = Self::new();
        dataset.records.reserve(count);
        for n in 0..count {
            let mut bytes = Vec::with_capacity(len + 5);
            raw_string(&noise.text(len), &mut bytes);
            dataset.push(Record::new(format!("key:{n}"), Value::raw(0, bytes)));
        }
        dataset
    }

    /// `count` lists, sets, hashes and sorted sets in turn, of 5 to 60 short elements.
    #[must_use]
    pub fn collections(count: usize) -> Self {
        let mut noise = Noise::new(2);
        let mut dataset = Self::new();
        for n in 0..count {
            let size = 5 + usize::try_from(noise.next() % 56).unwrap_or(0);
            dataset.add_collection(n, &format!("c:{n}"), size, 16, &mut noise);
        }
        dataset
    }

    /// About `total` bytes in `keys` keys: a string, a list, a set, a hash and a sorted set in turn.
    /// Strings stay at or under 512 MiB.
    #[must_use]
    pub fn huge(total: usize, keys: usize) -> Self {
        let mut noise = Noise::new(3);
        let mut dataset = Self::new();
        let each = total / keys.max(1);
        for n in 0..keys {
            let key = format!("huge:{n}");
            if n % 5 == 0 {
                let mut bytes = Vec::with_capacity(each + 9);
                raw_string(&noise.text(each.min(512 << 20)), &mut bytes);
                dataset.push(Record::new(key, Value::raw(0, bytes)));
            } else {
                dataset.add_collection(n % 5 - 1, &key, (each / 100).max(1), 92, &mut noise);
            }
        }
        dataset
    }

    fn add_collection(
        &mut self,
        kind: usize,
        key: &str,
        size: usize,
        len: usize,
        noise: &mut Noise,
    ) {
        let mut word = |n: usize| {
            let mut word = n.to_string().into_bytes();
            word.push(b':');
            word.extend(noise.text(len.saturating_sub(word.len())));
            word
        };
        match kind % 4 {
            0 => self.list(key, &(0..size).map(&mut word).collect::<Vec<_>>()),
            1 => self.set(key, &(0..size).map(&mut word).collect::<Vec<_>>()),
            2 => self.hash(
                key,
                &(0..size)
                    .map(|n| (format!("f{n}").into_bytes(), word(n)))
                    .collect::<Vec<_>>(),
            ),
            _ => self.zset(
                key,
                &(0..size)
                    .map(|n| (word(n), n as f64 + 0.25))
                    .collect::<Vec<_>>(),
            ),
        };
    }
}

/// Reproducible letters and digits (xorshift64*).
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    fn text(&mut self, len: usize) -> Vec<u8> {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            let word = self.next();
            out.extend((0..8).map(|at| LETTERS[(word >> (6 * at)) as usize & 63]));
        }
        out.truncate(len);
        out
    }
}
