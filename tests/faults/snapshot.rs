//! A full sync that is cut, damaged or hostile.

use std::io::{Read, Write};

use crate::program::{Task, fill, filled, source};
use crate::support::dragonfly::encode::packed;
use crate::support::dragonfly::release::Release;
use crate::support::dragonfly::snapshot::{compressed, header};
use crate::support::dragonfly::{Compression, Fault};
use crate::support::{RedisServer, SimulatedDragonfly};

/// Bytes of a flow before its first record.
fn header_len(flow: usize) -> u64 {
    header(Release::parse("df-v1.40.1"), flow, 2, &[]).len() as u64
}

/// `count` as the longest form of a length.
fn longest() -> Vec<u8> {
    let mut bytes = Vec::new();
    packed(u64::MAX, &mut bytes);
    bytes
}

#[test]
fn a_snapshot_that_breaks_off_anywhere_is_copied_again_and_ends_equal() {
    let target = RedisServer::start();
    for (compression, what) in [(Compression::Lz4, "blob"), (Compression::None, "entry")] {
        target.client().ok(&["FLUSHALL"]);
        let options = SimulatedDragonfly::options().compression(compression);
        let source = filled(options.clone());
        let start = header_len(0);
        // In the header, in the first blob or record, far behind it, by an end in order or by a reset.
        let cuts = [
            Fault::CloseFlow { flow: 0, after: 5 },
            Fault::CloseFlow {
                flow: 0,
                after: start,
            },
            Fault::CloseFlow {
                flow: 0,
                after: start + 3,
            },
            Fault::ResetFlow {
                flow: 0,
                after: start + 60,
            },
            Fault::CloseFlow {
                flow: 0,
                after: start + 400,
            },
        ];
        // So that each session begins with a snapshot.
        let task = Task::between(&source, &target).target("positions = \"none\"");
        let mut running = task.start();
        running.follows(1);
        for (n, cut) in cuts.into_iter().enumerate() {
            source.inject(cut);
            source.drop_replicas();
            running.follows(n + 2);
        }
        running.says(&["session ended", "during the snapshot"]);
        running.ends_equal(&source, &target);
        assert!(source.full_syncs() >= 6, "{what}");
        running.stops();
    }
}

#[test]
fn a_wrong_token_at_the_snapshots_end_means_a_new_full_sync() {
    let target = RedisServer::start();
    let source = source();
    source.inject(Fault::WrongToken { flow: 1 });
    let mut running = Task::between(&source, &target).start();
    running.retries(2, "the snapshot of flow 1 ends at byte ");
    assert_eq!(running.lines(&["following writes"]).len(), 0);
    source.clear_faults();
    running.ends_equal(&source, &target);
    running.stops();
}

#[test]
fn a_snapshot_that_stalls_does_not_hold_up_the_end() {
    let target = RedisServer::start();
    let source = source();
    source.inject(Fault::StallFlow {
        flow: 0,
        after: 300,
    });
    let mut running = Task::between(&source, &target).start();
    running.says(&["full sync started"]);
    running.stops();
}

/// Sends `bytes` behind the header of flow 0, and expects the program to end with 76 and `why`.
#[track_caller]
fn refused(target: &RedisServer, bytes: Vec<u8>, why: &str) {
    let source = SimulatedDragonfly::start();
    source.inject(Fault::AfterHeader { flow: 0, bytes });
    let ended = Task::between(&source, target).run();
    ended.with(76, &[&source.address(), "flow 0", why]);
    ended.was_modest();
}

#[test]
fn an_unknown_opcode_or_type_ends_with_76_and_its_place() {
    let target = RedisServer::start();
    let place = format!("byte {}", header_len(0));
    refused(
        &target,
        vec![0xE7],
        &format!("unknown opcode 231 on flow 0 at {place}"),
    );
    refused(
        &target,
        vec![99, 1, b'k', 1, b'v'],
        &format!("unknown value type 99 on flow 0 at {place}"),
    );
    refused(
        &target,
        vec![0xE7],
        "the source is newer than this df2redis, or the stream is corrupt",
    );
}

#[test]
fn lengths_that_nothing_can_have_end_with_76_and_take_no_memory() {
    let target = RedisServer::start();
    let cases: [(&str, &[u8]); 10] = [
        ("a string", &[0, 1, b'k']),
        ("a key", &[0]),
        ("a list's count", &[18, 1, b'k']),
        ("a set's count", &[2, 1, b'k']),
        ("a hash's count", &[4, 1, b'k']),
        ("a sorted set's count", &[5, 1, b'k']),
        ("an LZ4 blob", &[0xCA]),
        ("a Zstandard blob", &[0xC9]),
        ("the name of a header field", &[0xFA]),
        ("a journal entry's length", &[0xD2, 1]),
    ];
    for (what, start) in cases {
        let bytes = [start, &longest(), &[0; 64]].concat();
        let source = SimulatedDragonfly::start();
        source.inject(Fault::AfterHeader { flow: 0, bytes });
        let ended = Task::between(&source, &target).run();
        assert_eq!(ended.code, Some(76), "{what}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("invalid data on flow 0 at byte "),
            "{what}: {}",
            ended.stderr
        );
        ended.was_modest();
    }
    // LZF text that claims to become huge.
    let lzf = [&[0, 1, b'k', 0xC3, 3][..], &longest(), b"abc"].concat();
    refused(&target, lzf, "invalid data");
}

#[test]
fn a_blob_in_a_blob_is_refused() {
    let target = RedisServer::start();
    let mut bytes = vec![0xFE, 0, 0, 1, b'k', 1, b'v'];
    for _ in 0..50 {
        bytes = compressed(Compression::Lz4, &bytes).expect("a compressed blob");
    }
    refused(&target, bytes, "of the blob at byte ");
}

#[test]
fn a_blob_that_becomes_far_too_large_takes_no_memory() {
    let target = RedisServer::start();
    // A string that claims the impossible, and 1 GiB of zeros behind it, in one frame.
    let mut frame = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    let hostile = [&[0, 1, b'k'][..], &longest()].concat();
    frame.write_all(&hostile).expect("a compressed frame");
    let mut zeros = std::io::repeat(0).take(1 << 30);
    std::io::copy(&mut zeros, &mut frame).expect("a compressed frame");
    let frame = frame.finish().expect("a compressed frame");
    let mut bytes = vec![0xC9];
    packed(frame.len() as u64, &mut bytes);
    bytes.extend(frame);
    refused(&target, bytes, "flow 0");
}

#[test]
fn a_damaged_byte_in_a_compressed_blob_is_noticed_where_the_format_can_tell() {
    let target = RedisServer::start();
    let options = SimulatedDragonfly::options();
    let start = header_len(0);
    // The opcode, the frame's magic number and its flags: nothing of that can be anything else.
    for at in [start + 3, start + 5, start + 8] {
        let source = filled(options.clone().compression(Compression::Lz4));
        source.inject(Fault::CorruptByte {
            flow: 0,
            at,
            xor: 0xFF,
        });
        let ended = Task::between(&source, &target).run();
        ended.with(76, &[&source.address(), "flow 0"]);
        ended.was_modest();
    }
}

#[test]
fn a_damaged_byte_anywhere_never_hangs_or_panics() {
    let target = RedisServer::start();
    let options = SimulatedDragonfly::options();
    let start = header_len(0);
    let source = filled(options.compression(Compression::Lz4));
    for n in 0..12 {
        source.inject(Fault::CorruptByte {
            flow: 0,
            at: start + 11 * n * n,
            xor: 1 << (n % 8),
        });
        let mut running = Task::between(&source, &target).start();
        // Damage that the format cannot tell from data is copied; all other ends the program or the session.
        let follows = crate::support::within(crate::support::PATIENCE, || {
            running.has_ended() || !running.lines(&["following writes"]).is_empty()
        });
        assert!(follows, "it hangs");
        if !running.has_ended() {
            running.is_modest();
            running.stops();
        } else {
            let ended = running.ended();
            assert!(matches!(ended.code, Some(65 | 76)), "{}", ended.stderr);
        }
        source.clear_faults();
    }
}

#[test]
fn a_source_that_comes_back_with_other_data_is_followed() {
    let target = RedisServer::start();
    let source = SimulatedDragonfly::options().backing_store().start();
    let mut running = Task::between(&source, &target).start();
    running.follows(1);
    source.drop_replicas();
    fill(&source);
    running.retries(1, "the source closed ");
    running.follows(2);
    running.ends_equal(&source, &target);
    running.stops();
}
