//! Bytes too large for memory, in a file that has no name and so leaves nothing behind.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Complete spilled bytes. Clones share the file; its space is freed with the last one.
#[derive(Debug, Clone)]
pub struct Spill {
    file: Arc<File>,
    /// Offset of the first byte in the file.
    start: u64,
    len: u64,
}

impl Spill {
    /// `len` bytes of `file` from `start` on, which the caller knows to be there and to stay.
    pub fn within(file: Arc<File>, start: u64, len: u64) -> Self {
        Self { file, start, len }
    }

    /// Offset of the first byte in its file.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was spilled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads at `offset` into `buffer`, as much as there is: 0 at the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len.saturating_sub(offset);
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match buffer.get_mut(..wanted) {
            Some(part) if !part.is_empty() => self.file.read_at(part, self.start + offset),
            _ => Ok(0),
        }
    }

    /// Reads at `offset` until `buffer` is full or the bytes end. How much that was.
    pub fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// All bytes, in memory.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(usize::MAX)];
        let read = self.fill(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// A stretch of these bytes, cut where they end.
    pub fn part(&self, offset: u64, len: u64) -> Self {
        let offset = offset.min(self.len);
        Self {
            file: self.file.clone(),
            start: self.start + offset,
            len: len.min(self.len - offset),
        }
    }
}

/// Collects spilled bytes in order.
#[derive(Debug)]
pub struct SpillWriter {
    file: File,
    len: u64,
}

impl SpillWriter {
    /// Opens an unnamed file in `dir`.
    pub fn create_in(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile_in(dir)?,
            len: 0,
        })
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Size so far in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The complete bytes.
    pub fn finish(self) -> Spill {
        Spill {
            file: Arc::new(self.file),
            start: 0,
            len: self.len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spilled_bytes_are_read_back_at_any_offset_and_end_where_they_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpillWriter::create_in(dir.path()).unwrap();
        writer.write(b"hello ").unwrap();
        writer.write(b"world").unwrap();
        let spill = writer.finish();
        let mut buffer = [0; 8];
        assert_eq!(spill.read_at(&mut buffer, 6).unwrap(), 5);
        assert_eq!(&buffer[..5], b"world");
        assert_eq!(spill.read_at(&mut buffer, 11).unwrap(), 0);
        let part = spill.part(4, 4);
        assert_eq!(part.read_at(&mut buffer, 0).unwrap(), 4);
        assert_eq!(&buffer[..4], b"o wo");
        assert_eq!(spill.part(9, u64::MAX).len(), 2);
        assert_eq!(spill.fill(&mut buffer, 8).unwrap(), 3);
        assert_eq!(spill.read_all().unwrap(), b"hello world");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
