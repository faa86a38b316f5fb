//! What a task claims of a target, and whether two claims may meet.
//!
//! Invariant: two claims that are not reported as overlapping have no key in common.

use std::collections::HashMap;
use std::fmt;

/// Tells whether a key is meant.
pub type Matches = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// The part of the target that a task writes: databases, and key patterns in each of them.
pub struct Owned {
    /// Databases of the target.
    pub databases: Vec<u32>,
    /// Glob patterns, one of which a key matches; none means all.
    pub include: Vec<Vec<u8>>,
    /// Glob patterns, none of which a key matches.
    pub exclude: Vec<Vec<u8>>,
    /// Whether both hold for a key.
    pub matches: Matches,
}

impl fmt::Debug for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.claim().fmt(f)
    }
}

impl Owned {
    /// Whether every key of its databases is owned.
    pub fn is_whole(&self) -> bool {
        self.exclude.is_empty() && self.include.iter().all(|pattern| pattern == b"*")
    }

    /// Whether a key is owned, given that its database is. Keys of df2redis never are.
    pub fn has(&self, key: &[u8]) -> bool {
        !key.starts_with(super::position::PREFIX) && (self.matches)(key)
    }

    pub(super) fn claim(&self) -> Claim {
        Claim {
            databases: self.databases.clone(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
        }
    }
}

/// An [`Owned`] as it is written down on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    databases: Vec<u32>,
    include: Vec<Vec<u8>>,
    exclude: Vec<Vec<u8>>,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (databases, include, exclude) = self.texts();
        write!(f, "databases {databases}, keys {include}")?;
        match exclude.is_empty() {
            true => Ok(()),
            false => write!(f, " except {exclude}"),
        }
    }
}

impl Claim {
    /// The values of the fields `databases`, `include` and `exclude`: lists with commas between,
    /// patterns with `%XX` for bytes that are not printable, commas and percent signs.
    pub fn texts(&self) -> (String, String, String) {
        let databases: Vec<_> = self.databases.iter().map(u32::to_string).collect();
        let include = match self.include.is_empty() {
            true => "*".to_owned(),
            false => joined(&self.include),
        };
        (databases.join(","), include, joined(&self.exclude))
    }

    /// Reads what [`texts`](Self::texts) wrote.
    pub fn read(fields: &HashMap<String, String>) -> Option<Self> {
        let list = |name: &str| -> Option<Vec<Vec<u8>>> {
            fields.get(name)?.split(',').map(unescaped).collect()
        };
        Some(Self {
            databases: fields
                .get("databases")?
                .split(',')
                .map(|db| db.parse().ok())
                .collect::<Option<_>>()?,
            include: list("include")?,
            exclude: match fields.get("exclude")?.is_empty() {
                true => Vec::new(),
                false => list("exclude")?,
            },
        })
    }

    /// Whether a key may be in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let prefixes = |claim: &Self| match claim.include.is_empty() {
            true => vec![Vec::new()],
            false => claim.include.iter().map(|glob| literal(glob)).collect(),
        };
        let (mine, others) = (prefixes(self), prefixes(other));
        self.databases.iter().any(|db| other.databases.contains(db))
            && mine.iter().any(|one| {
                others.iter().any(|another| {
                    let common = one.len().min(another.len());
                    one.get(..common) == another.get(..common)
                })
            })
    }

    /// Whether this is certainly a part of `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        let all = other.include.is_empty() || other.include.iter().any(|glob| glob == b"*");
        self.databases.iter().all(|db| other.databases.contains(db))
            && (all
                || !self.include.is_empty()
                    && self.include.iter().all(|glob| other.include.contains(glob)))
            && other.exclude.iter().all(|glob| self.exclude.contains(glob))
    }
}

/// A pattern up to its first special character.
fn literal(glob: &[u8]) -> Vec<u8> {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\' | b'{');
    let end = glob.iter().position(special).unwrap_or(glob.len());
    glob.get(..end).unwrap_or_default().to_vec()
}

fn joined(globs: &[Vec<u8>]) -> String {
    let escaped = globs.iter().map(|glob| {
        glob.iter()
            .map(|byte| match byte {
                b'%' | b',' => format!("%{byte:02X}"),
                0x21..=0x7e => char::from(*byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect::<String>()
    });
    escaped.collect::<Vec<_>>().join(",")
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(databases: &[u32], include: &[&str]) -> Claim {
        Claim {
            databases: databases.to_vec(),
            include: include
                .iter()
                .map(|glob| glob.as_bytes().to_vec())
                .collect(),
            exclude: Vec::new(),
        }
    }

    #[test]
    fn only_claims_that_provably_share_no_key_are_disjoint() {
        for (one, another, overlap) in [
            (claim(&[0], &["*"]), claim(&[1], &["*"]), false),
            (claim(&[0, 1], &["*"]), claim(&[1], &["a*"]), true),
            (claim(&[0], &["a:*"]), claim(&[0], &["b:*"]), false),
            (claim(&[0], &["a:*", "b:*"]), claim(&[0], &["b:x*"]), true),
            (claim(&[0], &["*:a"]), claim(&[0], &["*:b"]), true),
            (claim(&[0], &["[ab]*"]), claim(&[0], &["c*"]), true),
            (claim(&[0], &[]), claim(&[0], &["c*"]), true),
        ] {
            assert_eq!(one.overlaps(&another), overlap, "{one} / {another}");
            assert_eq!(another.overlaps(&one), overlap);
        }
    }

    #[test]
    fn a_claim_may_become_narrower_and_not_wider() {
        let all = claim(&[0, 1], &["*"]);
        let some = claim(&[0], &["a*", "b*"]);
        assert!(some.is_within(&all) && !all.is_within(&some));
        assert!(claim(&[0], &["b*"]).is_within(&some));
        assert!(!claim(&[0], &["c*"]).is_within(&some));
        assert!(!claim(&[0], &[]).is_within(&some));
    }

    proptest! {
        #[test]
        fn a_claim_is_read_as_it_was_written(
            databases in prop::collection::vec(any::<u32>(), 1..4),
            include in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 1..4),
            exclude in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 0..4),
        ) {
            let claim = Claim { databases, include, exclude };
            let (databases, include, exclude) = claim.texts();
            let fields = [("databases", databases), ("include", include), ("exclude", exclude)];
            let fields = fields.map(|(name, text)| (name.to_owned(), text)).into();
            prop_assert_eq!(Claim::read(&fields), Some(claim));
        }
    }
}
