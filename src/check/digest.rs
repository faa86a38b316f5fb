//! Digests of values: equal for equal values however they came, in order or not, whole or in pieces.
//!
//! Invariants: every part of an element is hashed behind its length, so no two elements are hashed from the same
//!   bytes; an element costs the same digest in one piece or in many; of one element at most [`INLINE`] bytes are held.
//! A digest has 128 bits of XXH3, which is made for speed and not against somebody who wants two values to collide.
//!   That of elements without an order is the sum of theirs, which adds an element again that occurs twice.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Bytes of an element that are gathered before they are hashed in pieces.
const INLINE: usize = 16 << 10;

/// What stands for a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Digest {
    /// The same as of [`Parts`] that went on with these bytes and nothing else.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }

    /// Takes in one more element of several without an order.
    pub(super) fn add(&mut self, element: Digest) {
        self.0 = self.0.wrapping_add(element.0);
    }
}

/// Hashes a sequence of parts: an element, or all elements of something that has an order.
#[derive(Default)]
pub(super) struct Parts {
    held: Vec<u8>,
    long: Option<Box<Xxh3>>,
}

impl Parts {
    /// A whole part.
    pub fn part(&mut self, bytes: &[u8]) {
        self.begin(bytes.len() as u64);
        self.go_on(bytes);
    }

    /// Begins a part of so many bytes.
    pub fn begin(&mut self, len: u64) {
        self.go_on(&len.to_le_bytes());
    }

    /// More bytes of the part that was begun.
    pub fn go_on(&mut self, bytes: &[u8]) {
        if let Some(long) = &mut self.long {
            return long.update(bytes);
        }
        if self.held.len() + bytes.len() <= INLINE {
            return self.held.extend_from_slice(bytes);
        }
        let mut long = Box::new(Xxh3::new());
        long.update(&self.held);
        long.update(bytes);
        self.held.clear();
        self.long = Some(long);
    }

    /// The digest of all parts; from here on, of none.
    pub fn finish(&mut self) -> Digest {
        match self.long.take() {
            Some(long) => Digest(long.digest128()),
            None => {
                let digest = Digest::of(&self.held);
                self.held.clear();
                digest
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_and_lengths_do_not_matter_and_borders_do(
            bytes in prop::collection::vec(any::<u8>(), 0..40_000),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut whole = Parts::default();
            whole.part(&bytes);
            let (left, right) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut pieces = Parts::default();
            pieces.begin(bytes.len() as u64);
            pieces.go_on(left);
            pieces.go_on(right);
            let digest = whole.finish();
            prop_assert_eq!(digest, pieces.finish());
            pieces.go_on(left);
            pieces.go_on(right);
            prop_assert_eq!(pieces.finish(), Digest::of(&bytes));
            let mut two = Parts::default();
            two.part(left);
            two.part(right);
            prop_assert_ne!(digest, two.finish());
        }
    }
}
