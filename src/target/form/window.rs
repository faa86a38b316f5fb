//! What is held in memory of a value that is decoded.

use crate::entry::Spill;

use super::{FormError, WINDOW};

/// What there is to see of a value's bytes.
#[derive(Debug)]
pub(super) enum Window<'a> {
    /// All of them.
    All(&'a [u8]),
    /// Those from `base` on of a file.
    Part {
        /// The file.
        spill: &'a Spill,
        /// What was read and is not done with.
        bytes: Vec<u8>,
        /// Offset of the first of them.
        base: u64,
    },
}

impl<'a> Window<'a> {
    /// A window over a file, with nothing in it yet.
    pub(super) fn of_file(spill: &'a Spill) -> Self {
        Self::from(spill, 0)
    }

    /// The same, beginning at this offset.
    pub(super) fn from(spill: &'a Spill, base: u64) -> Self {
        Self::Part {
            spill,
            bytes: Vec::new(),
            base,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::All(bytes) => bytes,
            Self::Part { bytes, .. } => bytes,
        }
    }

    /// Offset of the first byte into the value.
    pub(super) fn base(&self) -> u64 {
        match self {
            Self::All(_) => 0,
            Self::Part { base, .. } => *base,
        }
    }

    /// Drops `done_with` bytes and appends at least `missing` if the value has them. Whether it
    /// has any more.
    pub(super) fn slide(&mut self, done_with: usize, missing: usize) -> Result<bool, FormError> {
        let Self::Part { spill, bytes, base } = self else {
            return Ok(false);
        };
        bytes.drain(..done_with.min(bytes.len()));
        *base += done_with as u64;
        let end = base.saturating_add(bytes.len() as u64);
        let left = spill.len().saturating_sub(end);
        if left < missing as u64 {
            return Ok(false);
        }
        // Doubling, so that a large element is not looked at once for each window.
        let wanted = missing.max(WINDOW).max(bytes.len());
        let wanted = usize::try_from(left).map_or(wanted, |left| left.min(wanted));
        let had = bytes.len();
        bytes.resize(had + wanted, 0);
        let read = spill
            .fill(bytes.get_mut(had..).unwrap_or_default(), end)
            .map_err(FormError::File)?;
        bytes.truncate(had + read);
        Ok(read > 0)
    }
}
