//! Streams that no master sends, built by hand: each error in its place, and bounded memory.

use std::io::Write;
use std::path::Path;

use bytes::Bytes;

use super::{ReadSettings, SourceError, StreamDecoder};
use crate::entry::{Args, Body, Item, Text};

const TOKEN: &[u8; 40] = b"0123456789012345678901234567890123456789";
const HEADER: &[u8] = b"REDIS0009";
const END: &[u8] = b"\xC8\0\0\0\0\0\0\0\0";

fn packed(value: usize) -> Vec<u8> {
    let mut bytes = vec![0x80];
    bytes.extend_from_slice(&u32::try_from(value).unwrap().to_be_bytes());
    bytes
}

fn lz4(content: &[u8]) -> Vec<u8> {
    let blocks = lz4_flex::frame::BlockSize::Max64KB;
    let info = lz4_flex::frame::FrameInfo::new().block_size(blocks);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    let frame = encoder.finish().unwrap();
    [&[0xCA][..], &packed(frame.len()), &frame].concat()
}

fn chunk(id: u32, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).unwrap();
    [&[0xE0][..], &id.to_le_bytes(), &len.to_le_bytes(), content].concat()
}

/// Feeds a stream; gives each batch to `each`.
fn feed(
    dir: &Path,
    threshold: usize,
    parts: &[&[u8]],
    mut each: impl FnMut(&Bytes, &Item),
) -> Result<(), SourceError> {
    let mut decoder = StreamDecoder::new(1, 2, *TOKEN, ReadSettings::new(dir, threshold));
    for part in [&[HEADER], parts].concat() {
        for piece in part.chunks(1 << 16) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(decoded) = decoder.decode()? {
                for item in &decoded.items {
                    each(&decoded.bytes, item);
                }
            }
        }
    }
    Ok(())
}

fn error(parts: &[&[u8]]) -> SourceError {
    let dir = tempfile::tempdir().unwrap();
    feed(dir.path(), 1 << 20, parts, |_, _| {}).expect_err("a broken stream")
}

/// Key and value sizes of the records of a stream.
fn records(threshold: usize, parts: &[&[u8]]) -> Vec<(u32, Vec<u8>, u64)> {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    feed(dir.path(), threshold, parts, |bytes, item| {
        if let Item::Record(record) = item {
            let key = match &record.key {
                Text::Raw(span) => bytes[span.start as usize..][..span.len as usize].to_vec(),
                Text::Owned(key) => key.to_vec(),
            };
            all.push((record.db, key, record.value.len()));
        }
    })
    .unwrap();
    all
}

#[test]
fn errors_name_the_flow_and_the_byte_even_inside_a_blob() {
    let text = error(&[b"\x00\x01k\x01v\xF7"]).to_string();
    assert_eq!(text, "unknown opcode 247 on flow 1 at byte 14");
    let text = error(&[b"\x63\x01k"]).to_string();
    assert_eq!(text, "unknown value type 99 on flow 1 at byte 9");
    let text = error(&[&lz4(b"\x00\x01k\x01v\xDE")]).to_string();
    assert_eq!(
        text,
        "unknown opcode 222 on flow 1 at byte 5 of the blob at byte 9"
    );
    let last = error(&[END, &[0xD3], &[0; 8], &[0xFF], &[0; 8], TOKEN, b"\x0D\x2D"]);
    assert_eq!(
        last.to_string(),
        "flow 1 carries an error text instead of an entry at byte 77"
    );
    assert!(last.is_temporary());
}

#[test]
fn a_stream_of_another_flow_session_or_number_of_flows_is_refused() {
    let text = error(&[b"\xFA\x08shard-id\xC0\x00"]).to_string();
    assert!(text.contains("another flow"), "{text}");
    let changed = error(&[b"\xFA\x0Bshard-count\xC0\x04"]);
    assert!(matches!(
        changed,
        SourceError::FlowCount {
            expected: 2,
            got: Some(4)
        }
    ));
    let token = [b'x'; 40];
    let wrong = error(&[END, &[0xD3], &[0; 8], &[0xFF], &[0; 8], &token]);
    assert!(matches!(wrong, SourceError::WrongToken { flow: 1, .. }));
}

#[test]
fn what_breaks_the_grammar_is_refused() {
    let nested = lz4(&lz4(b"\x00\x01k\x01v"));
    let cut = lz4(b"\x00\x01k\x05v");
    let offset = [&[0xD3][..], &[1; 8]].concat();
    let open = chunk(7, b"\x02\x01s\x02\x01a");
    let beyond = chunk(7, b"\x02\x01s\x01\x01a\x01b");
    let blobs: [(&[&[u8]], &str); 14] = [
        (&[b"\xC8\0\0\0\0\0\0\0\x01"], "not all zeros"),
        (&[END, END], "second end"),
        (&[END, b"\x00\x01k\x01v"], "after the end of the snapshot"),
        (&[&offset], "before the snapshot's end"),
        (&[b"\xFF", &[0; 48]], "before the journal offset"),
        (&[&nested], "inside another"),
        (&[&cut], "cut off at the end of its blob"),
        (&[&open, END], "1 unfinished chunked records"),
        (&[&beyond], "after the end of a chunked record"),
        (&[&chunk(0, b"x")], "without number"),
        (&[&chunk(1, b"")], "without number or content"),
        (&[b"\xD2\x02\x01\x0D"], "count is not 1"),
        (
            &[b"\xD2\x01\x05\x0A\x00\x01\x01\x04"],
            "cut off at the end of its blob",
        ),
        (&[b"\xFE\x81\0\0\0\x01\0\0\0\0"], "database number"),
    ];
    for (parts, what) in blobs {
        let found = error(parts).to_string();
        assert!(found.contains(what), "{found}, expected {what}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut decoder = StreamDecoder::new(0, 1, *TOKEN, ReadSettings::new(dir.path(), 100));
    decoder.buffer().extend_from_slice(b"HTTP/1.1 ");
    let found = decoder.decode().unwrap_err().to_string();
    assert!(found.contains("no RDB header"), "{found}");
}

#[test]
fn impossible_lengths_are_refused_or_awaited_without_memory() {
    let huge = b"\x81\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF";
    for start in [
        &b"\x00"[..],
        b"\x00\x01k",
        b"\x02\x01k",
        b"\x12\x01k",
        b"\x0F\x01k",
        b"\x23\x01k\x81\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        b"\xD2\x01",
        b"\xCA",
        b"\xC9",
        b"\xFA",
        b"\xD2\x01\x3F\x0A\x00\x01",
        b"\xD2\x01\x3F\x0A\x00\x01\x01",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let settings = ReadSettings::new(dir.path(), 1 << 10);
        let mut decoder = StreamDecoder::new(1, 2, *TOKEN, settings);
        let stream = [HEADER, start, huge, &[0; 40]].concat();
        decoder.buffer().extend_from_slice(&stream);
        while let Ok(Some(_)) = decoder.decode() {}
        assert!(decoder.buffer().capacity() < 1 << 20, "{start:?}");
    }
}

#[test]
fn chunks_join_across_blobs_and_may_themselves_be_compressed() {
    let set = b"\x02\x03big\x03\x01a\x01b\x01c";
    let (one, rest) = set.split_at(7);
    let (two, three) = rest.split_at(2);
    let other = b"\x00\x05other\x01v";
    let blob = |content: &[u8]| chunk(900, &lz4(content));
    let select = b"\xFE\x01";
    let expected = [
        (0, b"other".to_vec(), 2),
        (1, b"big".to_vec(), 7),
        (0, b"other".to_vec(), 2),
    ];
    for threshold in [0, 1 << 20] {
        let plain = records(
            threshold,
            &[
                select,
                &lz4(&chunk(900, one)),
                b"\xFE\x00",
                &lz4(&[&other[..], &chunk(900, two)].concat()),
                &chunk(900, three),
                &lz4(other),
                END,
            ],
        );
        assert_eq!(plain, expected);
        let compressed = records(
            threshold,
            &[
                select,
                &blob(one),
                b"\xFE\x00",
                other,
                &blob(two),
                &blob(three),
                other,
                END,
            ],
        );
        assert_eq!(compressed, expected);
    }
}

#[test]
fn a_journal_blob_may_be_an_lzf_string_and_a_single_ping_has_no_effect() {
    let entries = [
        b"\x06\x03\x0A\x00\x01\x02\x2C\x03DEL\x29".as_slice(),
        &[b'k'; 41],
        b"\x0A\x00\x01\x01\x04\x04ping",
    ]
    .concat();
    let small = lzf::compress(&entries).unwrap();
    let blob = [
        b"\xD2\x01\xC3".as_slice(),
        &packed(small.len()),
        &packed(entries.len()),
        &small,
    ]
    .concat();
    let plain = [b"\xD2\x01".as_slice(), &packed(entries.len()), &entries].concat();
    let dir = tempfile::tempdir().unwrap();
    for threshold in [10, 1 << 20] {
        let mut seen = Vec::new();
        feed(
            dir.path(),
            threshold,
            &[&blob, &plain, &lz4(&blob)],
            |bytes, item| match item {
                Item::Command(command) => {
                    let args = match &command.args {
                        Body::Inline(span) => {
                            bytes[span.start as usize..][..span.len as usize].to_vec()
                        }
                        Body::Spilled(spill) => {
                            let mut args = vec![0; spill.len() as usize];
                            spill.read_at(&mut args, 0).unwrap();
                            args
                        }
                    };
                    let args = Args::check(&args, command.words).unwrap();
                    seen.push((command.db, args.get(1).unwrap().len()));
                }
                Item::Nothing {
                    lsn: None,
                    acknowledge: false,
                } => seen.push((99, 0)),
                other => panic!("{other:?}"),
            },
        )
        .unwrap();
        assert_eq!(seen, [(3, 41), (99, 0)].repeat(3));
    }
}

#[test]
fn bombs_and_long_values_pass_in_bounded_batches() {
    // A string of 64 MiB inside a blob of 260 KiB, then 200,000 keys of 5 bytes inside one of 4 KiB.
    let long = [
        b"\x00\x01k".as_slice(),
        &packed(64 << 20),
        &vec![0; 64 << 20],
    ]
    .concat();
    let tiny = b"\x00\x01k\x01v".repeat(200_000);
    let dir = tempfile::tempdir().unwrap();
    let settings = ReadSettings::new(dir.path(), 100_000);
    let mut decoder = StreamDecoder::new(1, 2, *TOKEN, settings);
    let (mut keys, mut spilled) = (0, 0);
    for part in [
        HEADER,
        &lz4(&long),
        &lz4(&tiny),
        b"\x00\x01k",
        &packed(8 << 20),
        &vec![1; 8 << 20],
        END,
    ] {
        for piece in part.chunks(10_000) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(decoded) = decoder.decode().unwrap() {
                assert!(decoded.bytes.len() <= 512 << 10, "{}", decoded.bytes.len());
                assert!(decoded.items.len() <= 4096);
                for item in &decoded.items {
                    if let Item::Record(record) = item {
                        keys += 1;
                        if let Body::Spilled(spill) = &record.value {
                            spilled += spill.len();
                        }
                    }
                }
            }
            assert!(decoder.buffer().capacity() <= 1 << 20);
        }
    }
    assert_eq!(keys, 200_002);
    assert_eq!(spilled, (72 << 20) + 10);
}
