//! The walker alone: layouts of every type, cut everywhere.

use proptest::prelude::*;

use super::super::{COUNT_LIMIT, Halt, UnknownType, Walker};

/// Values of every layout, and nothing behind them.
fn values() -> Vec<(u8, Vec<u8>)> {
    let stream_head: &[u8] = b"\x01\x10ABCDEFGHIJKLMNOP\x03xyz\x01\x05\x01";
    let group_15: &[u8] = b"\x01\x01g\x05\x01\x01ABCDEFGHIJKLMNOP\0\0\0\0\0\0\0\0\x01\x01\x05alice\
        \0\0\0\0\0\0\0\0\x01ABCDEFGHIJKLMNOP";
    let group_21: &[u8] =
        b"\x01\x01g\x05\x01\x02\x01ABCDEFGHIJKLMNOP\0\0\0\0\0\0\0\0\x01\x01\xC0\x07\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01ABCDEFGHIJKLMNOP";
    let long = [&[0x80, 0, 0, 0x80, 0][..], &[7; 0x8000]].concat();
    vec![
        (0, b"\x03bar".to_vec()),
        (0, b"\xC2\xA0\x86\x01\x00".to_vec()),
        (
            0,
            b"\xC3\x0C\x41\x2C\x01aa\xE0\xFF\0\xE0\x17\0\x01aa".to_vec(),
        ),
        (30, long.clone()),
        (2, b"\x02\x01a\xC0\x05".to_vec()),
        (2, b"\x00".to_vec()),
        (4, b"\x02\x01f\x01v\xC1\x48\xF4\x00".to_vec()),
        (
            5,
            b"\x02\x01a\0\0\0\0\0\0\xF0\x3F\x00\0\0\0\0\0\0\xF0\x7F".to_vec(),
        ),
        (14, [&[2][..], &long, b"\x01x"].concat()),
        (18, [&[2][..], &[1], &long, &[2, 1, 0]].concat()),
        (31, b"\x01\x01f\x01v\xC2\xD3\xAA\x29\x07".to_vec()),
        (32, b"\x01\x01a\xC2\xD3\xAA\x29\x07".to_vec()),
        (15, [stream_head, group_15].concat()),
        (
            21,
            [stream_head, b"\x01\x01\x00\x00\x05", group_21].concat(),
        ),
        (
            33,
            [&[0][..], &[1; 16], b"\x01\x01\x01\x01\x07\x02ab"].concat(),
        ),
        (
            34,
            [&[0][..], &[1; 16], b"\x01\x01\x01\x01\x07\x03\x02ab\x01c"].concat(),
        ),
        (35, [&[2, 3, 9][..], &[1; 48]].concat()),
        (
            36,
            [
                &[0, 3, 8, 7][..],
                &[1; 8],
                b"\x01\x01a\x02\x04\x01\x01\x01\x01",
            ]
            .concat(),
        ),
        (37, b"\x02\x14\x01\x08\x01\x00\x02\x03\x03abc\x00".to_vec()),
    ]
}

/// Feeds the pieces one after another; what was consumed of all of them.
fn consumed(kind: u8, pieces: &[&[u8]]) -> (usize, bool) {
    let mut walker = Walker::new(kind).unwrap();
    let mut total = 0;
    for piece in pieces {
        let walked = walker.walk(piece).unwrap();
        total += walked.consumed;
        assert_eq!(walked.done, walked.missing == 0);
        if walked.done {
            return (total, true);
        }
        assert_eq!(
            walked.consumed,
            piece.len(),
            "all is consumed until the end"
        );
    }
    (total, false)
}

#[test]
fn every_layout_ends_where_its_bytes_end_and_not_before() {
    for (kind, value) in values() {
        let followed = [&value[..], b"\xFF\xFF"].concat();
        assert_eq!(
            consumed(kind, &[&followed]),
            (value.len(), true),
            "type {kind}"
        );
        for cut in (0..value.len()).take(300) {
            let mut walker = Walker::new(kind).unwrap();
            let walked = walker.walk(&value[..cut]).unwrap();
            assert!(!walked.done, "type {kind} cut at {cut}");
            assert!(
                walked.missing <= value.len() - cut,
                "type {kind} cut at {cut}"
            );
        }
    }
}

#[test]
fn a_value_that_arrives_byte_by_byte_ends_at_the_same_place() {
    for (kind, value) in values() {
        let pieces: Vec<&[u8]> = value.chunks(1).collect();
        assert_eq!(consumed(kind, &pieces), (value.len(), true), "type {kind}");
    }
}

#[test]
fn the_largest_count_is_waited_for_and_a_larger_one_refused() {
    let count = |count: u64| [&[0x81][..], &count.to_be_bytes()].concat();
    for kind in [2, 4, 5, 14, 15, 18, 19, 21, 31, 32] {
        let most = Walker::new(kind).unwrap().walk(&count(COUNT_LIMIT));
        let most = most.unwrap();
        assert!(!most.done && most.missing >= 1, "type {kind}");
        for more in [COUNT_LIMIT + 1, u64::MAX] {
            let refused = Walker::new(kind).unwrap().walk(&count(more));
            assert!(
                matches!(refused, Err(Halt::Invalid { .. })),
                "type {kind}: {refused:?}"
            );
        }
    }
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    for (kind, bytes) in [
        (0, &b"\x81\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"[..]),
        (0, b"\xC4"),
        (0, b"\x82"),
        (0, b"\xC3\x01\x40\x59"), // 89 bytes out of one
        (2, b"\xC0\x01"),
        (18, b"\x01\x03"),
        (35, b"\x81\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"),
        (37, b"\x02\x14\x01\x08\x01\x00\x01\x03\x00"),
        (37, b"\x02\x14\x01\x08\x01\x00\x01\x03\x04"),
    ] {
        let whole = Walker::new(kind).unwrap().walk(bytes);
        assert!(
            matches!(whole, Err(Halt::Invalid { .. })),
            "type {kind}: {whole:?}"
        );
        let mut walker = Walker::new(kind).unwrap();
        let halted = bytes.chunks(1).find_map(|byte| walker.walk(byte).err());
        assert!(halted.is_some(), "type {kind} byte by byte");
    }
    assert_eq!(Walker::new(1).unwrap_err(), UnknownType(1));
}

proptest! {
    #[test]
    fn however_bytes_are_cut_the_walker_comes_to_the_same_place(
        kind in prop::sample::select(vec![0u8, 2, 4, 5, 14, 15, 18, 19, 21, 31, 33, 34, 35, 36, 37]),
        bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..200),
        size in 1usize..40,
    ) {
        let whole = Walker::new(kind).unwrap().walk(&bytes);
        let mut walker = Walker::new(kind).unwrap();
        let mut total = 0;
        let mut outcome = walker.walk(&[]).map(|walked| (walked.done, walked.missing)).map_err(|_| ());
        for piece in bytes.chunks(size) {
            match walker.walk(piece) {
                Ok(walked) => {
                    total += walked.consumed;
                    outcome = Ok((walked.done, walked.missing));
                    if walked.done { break; }
                }
                Err(_) => { outcome = Err(()); break; }
            }
        }
        match whole {
            Ok(walked) => {
                prop_assert_eq!(walked.consumed, total);
                prop_assert_eq!(outcome, Ok((walked.done, walked.missing)));
            }
            Err(_) => prop_assert_eq!(outcome, Err(())),
        }
    }
}

#[test]
fn a_key_ends_where_its_value_begins() {
    for (key, len) in [(&b"\x03key\x03bar"[..], 4), (b"\xC1\x48\xF4\x03bar", 3)] {
        let mut walker = Walker::string();
        let walked = walker.walk(key).unwrap();
        assert!(walked.done && walked.consumed == len && walked.missing == 0);
        let again = walker.walk(key).unwrap();
        assert!(
            again.done && again.consumed == 0,
            "an ended walker takes no more"
        );
    }
}
