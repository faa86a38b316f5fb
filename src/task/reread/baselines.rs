//! Which keys of a snapshot have been seen lately.
//!
//! A write to a key that the snapshot has not reached is preceded by the key itself. So a journalled write to a key
//! that was not seen is about a key that the source has just made, or one seen long ago: what the target has of it may
//! be older than this snapshot.
//!
//! Invariant: a key that was not noted is taken for noted only if 64 bits of its hash are those of one that was.

use xxhash_rust::xxh64::xxh64;

/// Keys remembered by each flow: 1 MiB. What hashes to the same place replaces what was there.
const PLACES: usize = 1 << 17;

/// The keys seen lately by one flow.
#[derive(Debug)]
pub(crate) struct Baselines(Vec<u64>);

impl Baselines {
    pub fn new() -> Self {
        Self(vec![0; PLACES])
    }

    /// A key's value on the target is of this full sync.
    pub fn note(&mut self, db: u32, key: &[u8]) {
        let (place, hash) = place(db, key);
        if let Some(noted) = self.0.get_mut(place) {
            *noted = hash;
        }
    }

    /// Whether that is known.
    pub fn has(&self, db: u32, key: &[u8]) -> bool {
        let (place, hash) = place(db, key);
        self.0.get(place) == Some(&hash)
    }
}

fn place(db: u32, key: &[u8]) -> (usize, u64) {
    // 0 is an empty place.
    let hash = xxh64(key, u64::from(db)).max(1);
    (hash as usize % PLACES, hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_lately_is_known_and_nothing_else() {
        let mut seen = Baselines::new();
        let keys: Vec<String> = (0..1_000).map(|n| format!("key:{n}")).collect();
        keys.iter().for_each(|key| seen.note(3, key.as_bytes()));
        let known = keys.iter().filter(|key| seen.has(3, key.as_bytes()));
        assert!(known.count() > 950, "few places are taken twice");
        assert!(seen.has(3, b"key:999"));
        assert!(!seen.has(2, b"key:999") && !seen.has(3, b"key:1000"));
    }
}
