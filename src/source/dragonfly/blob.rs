//! Compressed blobs: one LZ4 or Zstandard frame, unpacked in steps the caller sizes.
//!
//! Invariants: a content size in a frame is never trusted; memory is the codec's own window, bounded
//!   by [`WINDOW_LOG_MAX`] and [`LZ4_BLOCKS_MAX`], whatever the frame unpacks to; a frame that ends
//!   early, or before its blob does, is an error.
//! Facts: Dragonfly writes LZ4 blocks of 64 KiB and, from v1.30 on, at most 1 MiB of content.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use lz4_flex::frame::FrameDecoder;
use zstd::stream::raw::{DParameter, Decoder, Operation};

use crate::entry::Spill;

use super::fault::Fault;

/// Largest Zstandard window: 8 MiB, what the compressor's ordinary levels can ask for.
const WINDOW_LOG_MAX: u32 = 23;

/// Largest LZ4 block by its code in the frame's header: 6 is 1 MiB.
const LZ4_BLOCKS_MAX: u8 = 6;

const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4D, 0x18];

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Lz4,
    Zstd,
}

impl Codec {
    /// By opcode.
    pub(super) fn of(opcode: u8) -> Option<Self> {
        match opcode {
            201 => Some(Self::Zstd),
            202 => Some(Self::Lz4),
            _ => None,
        }
    }
}

/// A whole blob's bytes, read once from the start.
#[derive(Debug)]
pub(super) enum Packed {
    Memory(Bytes),
    File { spill: Spill, at: u64 },
}

/// Reads a blob, and remembers whether somebody wanted more than there is.
#[derive(Debug)]
struct Source {
    packed: Packed,
    exhausted: bool,
}

impl Source {
    fn new(packed: Packed) -> Self {
        Self {
            packed,
            exhausted: false,
        }
    }

    fn is_empty(&self) -> bool {
        match &self.packed {
            Packed::Memory(bytes) => bytes.is_empty(),
            Packed::File { spill, at } => *at >= spill.len(),
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.packed {
            Packed::Memory(bytes) => {
                let taken = bytes.split_to(bytes.len().min(buffer.len()));
                if let Some(part) = buffer.get_mut(..taken.len()) {
                    part.copy_from_slice(&taken);
                }
                taken.len()
            }
            Packed::File { spill, at } => {
                let read = spill.read_at(buffer, *at)?;
                *at += read as u64;
                read
            }
        };
        self.exhausted |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

/// Unpacks one blob after the other.
pub(super) struct Inflater {
    /// Kept between blobs, since making one is dear.
    zstd: Option<Decoder<'static>>,
    blob: Option<Blob>,
}

/// The blob being unpacked.
enum Blob {
    Lz4(Box<FrameDecoder<Source>>),
    Zstd {
        input: BufReader<Source>,
        ended: bool,
    },
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self {
            zstd: None,
            blob: None,
        }
    }

    /// Starts a blob.
    pub(super) fn begin(&mut self, codec: Codec, packed: Packed) -> Result<(), Fault> {
        self.blob = Some(match codec {
            Codec::Lz4 => begin_lz4(packed)?,
            Codec::Zstd => self.begin_zstd(packed)?,
        });
        Ok(())
    }

    fn begin_zstd(&mut self, packed: Packed) -> Result<Blob, Fault> {
        match &mut self.zstd {
            Some(decoder) => decoder.reinit().map_err(broken)?,
            slot => {
                let mut decoder = Decoder::new().map_err(broken)?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
                    .map_err(broken)?;
                *slot = Some(decoder);
            }
        }
        Ok(Blob::Zstd {
            input: BufReader::with_capacity(32 << 10, Source::new(packed)),
            ended: false,
        })
    }

    /// Unpacks into `out`, which is not empty. 0 at the blob's end, once it was found to be whole.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let written = match (&mut self.blob, &mut self.zstd) {
            (Some(Blob::Lz4(decoder)), _) => {
                let written = decoder.read(out).map_err(broken)?;
                if written == 0 {
                    whole(decoder.get_ref().exhausted, decoder.get_ref().is_empty())?;
                }
                written
            }
            (Some(Blob::Zstd { input, ended }), Some(decoder)) => {
                read_zstd(decoder, input, ended, out)?
            }
            _ => 0,
        };
        if written == 0 {
            self.blob = None;
        }
        Ok(written)
    }
}

/// A new decoder for each blob: one that kept its place in a broken frame would misread the next.
fn begin_lz4(packed: Packed) -> Result<Blob, Fault> {
    let mut start = [0; 6];
    match &packed {
        Packed::Memory(bytes) => {
            if let Some(first) = bytes.first_chunk() {
                start = *first;
            }
        }
        Packed::File { spill, .. } => {
            spill.read_at(&mut start, 0).map_err(Fault::Spill)?;
        }
    }
    let [magic @ .., _, blocks] = start;
    if magic != LZ4_MAGIC {
        return Err(Fault::invalid("not an LZ4 frame"));
    }
    if blocks >> 4 > LZ4_BLOCKS_MAX {
        return Err(Fault::invalid("an LZ4 frame with blocks over 1 MiB"));
    }
    Ok(Blob::Lz4(Box::new(FrameDecoder::new(Source::new(packed)))))
}

fn read_zstd(
    decoder: &mut Decoder<'static>,
    input: &mut BufReader<Source>,
    ended: &mut bool,
    out: &mut [u8],
) -> Result<usize, Fault> {
    loop {
        let piece = input.fill_buf().map_err(Fault::Spill)?;
        if *ended {
            whole(false, piece.is_empty())?;
            return Ok(0);
        }
        let dry = piece.is_empty();
        let status = decoder.run_on_buffers(piece, out).map_err(broken)?;
        input.consume(status.bytes_read);
        *ended = status.remaining == 0;
        if status.bytes_written > 0 {
            return Ok(status.bytes_written);
        }
        if dry && !*ended {
            whole(true, true)?;
        }
    }
}

fn whole(exhausted: bool, empty: bool) -> Result<(), Fault> {
    if exhausted {
        return Err(Fault::invalid("a compressed frame is cut off"));
    }
    if !empty {
        return Err(Fault::invalid("bytes after the frame of a compressed blob"));
    }
    Ok(())
}

fn broken(error: io::Error) -> Fault {
    Fault::Invalid(format!("broken compressed blob: {error}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::SpillWriter;
    use proptest::prelude::*;
    use std::io::Write;

    fn lz4(content: &[u8]) -> Vec<u8> {
        let blocks = lz4_flex::frame::BlockSize::Max64KB;
        let info = lz4_flex::frame::FrameInfo::new().block_size(blocks);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(
        inflater: &mut Inflater,
        codec: Codec,
        packed: &[u8],
        step: usize,
    ) -> Result<Vec<u8>, Fault> {
        inflater.begin(codec, Packed::Memory(Bytes::copy_from_slice(packed)))?;
        let (mut all, mut out) = (Vec::new(), vec![0; step]);
        loop {
            match inflater.read(&mut out)? {
                0 => return Ok(all),
                read => all.extend_from_slice(&out[..read]),
            }
        }
    }

    #[test]
    fn every_truncation_and_every_byte_too_much_is_noticed() {
        // Ends in zeros, which look like an LZ4 end mark.
        let content = [[7_u8; 300].as_slice(), &[0; 64]].concat();
        for (codec, packed) in [(Codec::Lz4, lz4(&content)), (Codec::Zstd, zstd(&content))] {
            let mut inflater = Inflater::new();
            for cut in 0..packed.len() {
                assert!(
                    unpack(&mut inflater, codec, &packed[..cut], 100).is_err(),
                    "{codec:?} {cut}"
                );
                inflater = Inflater::new();
            }
            let more = [&packed[..], b"x"].concat();
            assert!(unpack(&mut inflater, codec, &more, 100).is_err());
            let mut inflater = Inflater::new();
            for step in [1, 7, 1000] {
                assert_eq!(
                    unpack(&mut inflater, codec, &packed, step).unwrap(),
                    content
                );
            }
        }
    }

    #[test]
    fn a_bomb_comes_out_in_steps_and_a_blob_can_come_from_a_file() {
        let content = vec![0_u8; 64 << 20];
        let dir = tempfile::tempdir().unwrap();
        for (codec, packed) in [(Codec::Lz4, lz4(&content)), (Codec::Zstd, zstd(&content))] {
            assert!(packed.len() < 1 << 20);
            let mut file = SpillWriter::create_in(dir.path()).unwrap();
            file.write(&packed).unwrap();
            let packed = Packed::File {
                spill: file.finish(),
                at: 0,
            };
            let mut inflater = Inflater::new();
            inflater.begin(codec, packed).unwrap();
            let (mut out, mut total) = (vec![1; 64 << 10], 0);
            loop {
                let read = inflater.read(&mut out).unwrap();
                assert!(out[..read].iter().all(|byte| *byte == 0));
                total += read;
                if read == 0 {
                    break;
                }
            }
            assert_eq!(total, content.len());
        }
    }

    #[test]
    fn frames_that_ask_for_much_memory_or_are_no_frames_are_refused() {
        let mut inflater = Inflater::new();
        let mut large = lz4(b"x");
        large[5] = 0x70;
        assert!(unpack(&mut inflater, Codec::Lz4, &large, 10).is_err());
        assert!(
            unpack(
                &mut inflater,
                Codec::Lz4,
                &[0x02, 0x21, 0x4C, 0x18, 0, 0],
                10
            )
            .is_err()
        );
        assert!(unpack(&mut inflater, Codec::Lz4, b"", 10).is_err());
        assert!(unpack(&mut inflater, Codec::Zstd, b"", 10).is_err());
        assert!(unpack(&mut inflater, Codec::Zstd, &lz4(b"x"), 10).is_err());
    }

    proptest! {
        #[test]
        fn mutated_frames_never_panic_and_the_next_blob_is_unharmed(
            content in prop::collection::vec(any::<u8>(), 0..600), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            for (codec, mut packed) in [(Codec::Lz4, lz4(&content)), (Codec::Zstd, zstd(&content))] {
                let mut inflater = Inflater::new();
                let good = packed.clone();
                let at = at.index(packed.len());
                packed[at] = byte;
                if unpack(&mut inflater, codec, &packed, 64).is_ok() {
                    prop_assert_eq!(unpack(&mut inflater, codec, &good, 64).unwrap(), content.clone());
                }
            }
        }
    }
}
