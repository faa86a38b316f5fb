//! The commands that a target says it has, for those that the table does not know.
//!
//! Facts: each element of the answer to `COMMAND` begins with the name, the number of words, and the flags; `write`
//!   marks what changes keys.

use std::collections::HashSet;

/// The names of a target's writing commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// In upper case.
    names: HashSet<Vec<u8>>,
}

impl Known {
    /// Remembers that the target has a command that writes.
    pub fn insert(&mut self, name: &[u8]) {
        self.names.insert(name.to_ascii_uppercase());
    }

    /// Whether the target has it, and it writes. `false` of all where the target did not say.
    pub fn has(&self, name: &[u8]) -> bool {
        // Longer than any name: not even looked for.
        name.len() <= 64 && self.names.contains(&name.to_ascii_uppercase())
    }

    /// Those that two targets have.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            names: self.names.intersection(&other.names).cloned().collect(),
        }
    }

    /// How many there are; 0 where the target did not say.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whatever_their_case() {
        let mut known = Known::default();
        assert!(known.is_empty() && !known.has(b"SET"));
        known.insert(b"set");
        known.insert(b"SET");
        assert_eq!(known.len(), 1);
        assert!(known.has(b"Set") && !known.has(b"SETT") && !known.has(&[b'S'; 1000]));
    }
}
