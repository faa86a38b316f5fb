//! What must hold for every value, and for every sequence of bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::string::{read, write, write_packed, write_raw};
use super::super::{
    Cursor, Elements, Halt, Intset, Listpack, ListpackWriter, Value, ValueError, Walker, Ziplist,
    convert, decode, encode, kind, payload,
};
use super::values::{encoded, score, stream, text};
use super::{decode_sliding, find_end};

const WITH_ELEMENTS: [u8; 17] = [
    0, 2, 4, 5, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 31, 32,
];

/// Equal to the last bit, which `==` on scores is not.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Sorted(left), Value::Sorted(right)) => {
            let bits = |sorted: &Vec<(Vec<u8>, f64)>| -> Vec<_> {
                let members = sorted.iter();
                members
                    .map(|(member, score)| (member.clone(), score.to_bits()))
                    .collect()
            };
            bits(left) == bits(right)
        }
        (left, right) => left == right,
    }
}

/// Looks at bytes in every way there is; the walker and the decoder agree where a value ends.
fn exercise(kind: u8, bytes: &[u8]) -> Result<(), TestCaseError> {
    let walked = find_end(kind, bytes, usize::MAX);
    let decoded = decode(kind, bytes);
    match &decoded {
        Ok((_, used)) => prop_assert_eq!(walked, Ok(Some(*used))),
        Err(ValueError::Short { missing }) => {
            prop_assert!(*missing > 0);
            prop_assert_eq!(walked, Ok(None));
        }
        // The walker does not look into strings.
        Err(_) => {}
    }
    if walked.is_err() {
        prop_assert!(decoded.is_err());
    }
    let slid = decode_sliding(kind, bytes, 11);
    match (decoded, slid) {
        (Ok(whole), Ok(slid)) => {
            prop_assert!(same(&whole.0, &slid.0));
            prop_assert_eq!(whole.1, slid.1);
        }
        (Err(_), Err(_)) => {}
        (whole, slid) => prop_assert!(false, "{whole:?} but through a window {slid:?}"),
    }
    if matches!(kind, 15 | 19 | 21) {
        let converter = convert::StreamConverter::new(kind, kind::STREAM_15).unwrap();
        let _ = convert::stream(converter, bytes);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_form_of_a_value_decodes_to_it((value, forms) in encoded(), step in 1usize..5000) {
        for (kind, bytes) in forms {
            let followed = [&bytes[..], b"\x00\xFF"].concat();
            let (decoded, used) = decode(kind, &followed).unwrap();
            prop_assert_eq!(used, bytes.len());
            prop_assert!(same(&decoded, &value), "type {kind}: {decoded:?}");
            let (slid, used) = decode_sliding(kind, &bytes, step).unwrap();
            prop_assert_eq!(used, bytes.len());
            prop_assert!(same(&slid, &value), "type {kind}: {slid:?}");
            prop_assert_eq!(find_end(kind, &followed, usize::MAX), Ok(Some(bytes.len())));
            prop_assert_eq!(find_end(kind, &followed, step), Ok(Some(bytes.len())));
        }
    }

    #[test]
    fn a_value_cut_short_is_incomplete_and_never_invalid(
        (_, forms) in encoded(),
        cut in any::<prop::sample::Index>(),
    ) {
        for (kind, bytes) in forms {
            let cut = cut.index(bytes.len());
            let decoded = decode(kind, &bytes[..cut]);
            prop_assert!(
                matches!(decoded, Err(ValueError::Short { .. })),
                "type {kind} cut at {cut}: {decoded:?}"
            );
            prop_assert_eq!(find_end(kind, &bytes[..cut], 9), Ok(None));
        }
    }

    #[test]
    fn a_damaged_value_is_decoded_or_refused_but_never_worse(
        (_, forms) in encoded(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (kind, mut bytes) in forms {
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            exercise(kind, &bytes)?;
        }
    }

    #[test]
    fn arbitrary_bytes_are_decoded_or_refused_but_never_worse(
        kind in prop::sample::select(WITH_ELEMENTS.to_vec()),
        bytes in vec(prop_oneof![0u8..4, any::<u8>()], 0..300),
    ) {
        exercise(kind, &bytes)?;
    }

    #[test]
    fn arbitrary_packed_nodes_are_decoded_or_refused_but_never_worse(
        kind in prop::sample::select(vec![11u8, 12, 13, 14, 16, 17, 18, 21]),
        body in vec(prop_oneof![0u8..4, any::<u8>()], 0..60),
        count in prop_oneof![0u16..20, Just(u16::MAX)],
    ) {
        let mut node = Vec::new();
        match kind {
            11 => node.extend([2, 0, 0, 0, (body.len() / 2) as u8, 0, 0, 0]),
            12..=14 => {
                node.extend((body.len() as u32 + 11).to_le_bytes());
                node.extend(10u32.to_le_bytes());
                node.extend(count.to_le_bytes());
            }
            _ => {
                node.extend((body.len() as u32 + 7).to_le_bytes());
                node.extend(count.to_le_bytes());
            }
        }
        node.extend(&body);
        if kind != 11 {
            node.push(0xFF);
        }
        let mut value = Vec::new();
        if matches!(kind, 14 | 18 | 21) {
            value.push(1);
        }
        match kind {
            18 => value.push(2),
            21 => write_raw(&mut value, &[0; 16]),
            _ => {}
        }
        write_raw(&mut value, &node);
        exercise(kind, &value)?;
        let _ = (Listpack::new(&node).map(Iterator::count), Ziplist::new(&node), Intset::new(&node));
    }

    #[test]
    fn strings_read_back_in_every_form_and_end_where_they_end(text in text()) {
        for compressed in [false, true] {
            let mut bytes = Vec::new();
            if compressed {
                super::super::string::write_compressed(&mut bytes, &text);
            } else {
                write(&mut bytes, &text);
            }
            let mut cursor = Cursor::new(&bytes);
            prop_assert_eq!(&*read(&mut cursor).unwrap(), &text[..]);
            prop_assert!(cursor.is_empty());
            for cut in (0..bytes.len()).step_by(bytes.len() / 20 + 1) {
                let mut cursor = Cursor::new(&bytes[..cut]);
                let cut_short = matches!(read(&mut cursor), Err(Halt::Incomplete { .. }));
                prop_assert!(cut_short);
                prop_assert_eq!(cursor.position(), 0);
            }
        }
    }

    #[test]
    fn packed_integers_read_back(value in any::<u64>(), shift in 0u32..64) {
        let mut bytes = Vec::new();
        write_packed(&mut bytes, value >> shift);
        let mut cursor = Cursor::new(&bytes);
        prop_assert_eq!(cursor.packed(), Ok(value >> shift));
        prop_assert!(cursor.is_empty());
    }

    #[test]
    fn scores_keep_every_bit_in_both_forms(score in score()) {
        let text = encode::score_text(score);
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), score.to_bits(), "{}", text);
    }

    #[test]
    fn listpacks_read_back_element_by_element(items in vec(text(), 0..30)) {
        let mut writer = ListpackWriter::new();
        items.iter().for_each(|item| writer.push(item));
        let bytes = writer.finish();
        let found: Vec<_> = Listpack::new(&bytes)
            .unwrap()
            .map(|item| item.unwrap().text().into_bytes())
            .collect();
        prop_assert_eq!(found, items);
    }

    #[test]
    fn a_stream_converted_in_pieces_is_the_stream_converted_whole(
        stream in stream(),
        to in prop::sample::select(vec![15u8, 19, 21]),
        step in 1usize..300,
    ) {
        let mut bytes = Vec::new();
        encode::stream(&mut bytes, &stream);
        let new = || convert::StreamConverter::new(kind::STREAM, to).unwrap();
        let whole = convert::stream(new(), &bytes).unwrap();
        let (mut converter, mut out, mut window) = (new(), Vec::new(), Vec::new());
        let mut done = false;
        for piece in bytes.chunks(step) {
            prop_assert!(!done);
            window.extend_from_slice(piece);
            let converted = converter.convert(&window, &mut out).unwrap();
            window.drain(..converted.consumed);
            done = converted.done;
        }
        prop_assert!(done && window.is_empty());
        prop_assert_eq!(&out, &whole);
        let (decoded, used) = decode(to, &whole).unwrap();
        prop_assert_eq!(used, whole.len());
        let Value::Stream(decoded) = decoded else { panic!("a stream") };
        prop_assert_eq!(decoded.entries, stream.entries);
        prop_assert_eq!(decoded.groups.len(), stream.groups.len());
    }

    #[test]
    fn payloads_open_to_what_was_sealed_and_arbitrary_bytes_do_not_open(
        kind in any::<u8>(),
        value in vec(any::<u8>(), 0..200),
    ) {
        let mut sealed = Vec::new();
        payload::seal(&mut sealed, kind, &value);
        prop_assert_eq!(payload::open(&sealed), Ok((kind, &value[..])));
        prop_assert!(payload::open(&value).is_err());
    }
}

#[test]
fn nothing_is_reserved_for_a_count_or_length_that_the_bytes_do_not_bear_out() {
    let most = b"\x81\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF";
    for kind in WITH_ELEMENTS {
        let decoded = decode(kind, most);
        assert!(decoded.is_err(), "type {kind}: {decoded:?}");
    }
    // 4 GiB out of one byte; out of a length that is not there yet.
    let bomb = b"\xC3\x01\x80\xFF\xFF\xFF\xFFx";
    let invalid = read(&mut Cursor::new(bomb));
    assert!(matches!(invalid, Err(Halt::Invalid { .. })));
    let bomb = b"\xC3\x80\x7F\xFF\xFF\xFF\x80\xFF\xFF\xFF\xFFx";
    let waits = read(&mut Cursor::new(bomb));
    assert!(matches!(waits, Err(Halt::Incomplete { .. })));
}

#[test]
fn wrong_counts_lengths_and_orders_inside_packed_nodes_are_refused() {
    let refused = |kind: u8, node: &[u8], what: &str| {
        let mut value = Vec::new();
        write_raw(&mut value, node);
        let decoded = decode(kind, &value);
        assert!(
            matches!(decoded, Err(ValueError::Invalid { .. })),
            "{what}: {decoded:?}"
        );
    };
    refused(16, b"\x0E\0\0\0\x02\0\x81f\x02\x81v\x02\xFF", "total");
    refused(16, b"\x0D\0\0\0\x03\0\x81f\x02\x81v\x02\xFF", "count");
    refused(16, b"\x0D\0\0\0\x02\0\x81f\x03\x81v\x02\xFF", "back-length");
    refused(
        16,
        b"\x0D\0\0\0\x02\0\x81f\x02\x82v\x02\xFF",
        "over the end",
    );
    refused(16, b"\x0A\0\0\0\x01\0\x81f\x02\xFF", "a field alone");
    refused(17, b"\x0D\0\0\0\x02\0\x81f\x02\x81v\x02\xFF", "score");
    refused(
        17,
        b"\x0F\0\0\0\x02\0\x81f\x02\x83nan\x04\xFF",
        "not a number",
    );
    refused(11, b"\x02\0\0\0\x02\0\0\0\x02\0\x01\0", "order");
    refused(11, b"\x03\0\0\0\0\0\0\0", "width");
    refused(11, b"\x02\0\0\0\x02\0\0\0\x01\0", "size");
    refused(
        13,
        b"\x11\0\0\0\x0C\0\0\0\x02\0\x00\x01f\x03\x01v\xFF",
        "tail",
    );
    refused(
        13,
        b"\x11\0\0\0\x0D\0\0\0\x02\0\x00\x01f\x02\x01v\xFF",
        "previous",
    );
    let nan = [&b"\x01\x01m"[..], &f64::NAN.to_le_bytes()].concat();
    let decoded = decode(kind::SORTED, &nan);
    assert!(matches!(decoded, Err(ValueError::Invalid { .. })));
}

#[test]
fn ziplists_of_every_encoding_decode() {
    // v1.27.4: h = {f:v}, and a list of one ziplist beside one bare element.
    let value = b"\x11\x11\0\0\0\x0D\0\0\0\x02\0\x00\x01f\x03\x01v\xFF";
    let hash = Value::Hash(vec![(b"f".to_vec(), b"v".to_vec(), None)]);
    assert_eq!(decode(13, value), Ok((hash, value.len())));
    let entries: &[&[u8]] = &[
        b"\x00\xF1",
        b"\x02\xFD",
        b"\x02\xFE\x80",
        b"\x03\xC0\x00\x80",
        b"\x04\xF0\x00\x00\x80",
        b"\x05\xD0\x00\x00\x00\x80",
        b"\x06\xE0\x00\x00\x00\x00\x00\x00\x00\x80",
        b"\x0A\x40\x01x",
        b"\xFE\x04\x00\x00\x00\x80\x00\x00\x00\x01y",
    ];
    let body = entries.concat();
    let mut ziplist = (body.len() as u32 + 11).to_le_bytes().to_vec();
    ziplist.extend((10 + body.len() as u32 - 11).to_le_bytes());
    ziplist.extend((entries.len() as u16).to_le_bytes());
    ziplist.extend(&body);
    ziplist.push(0xFF);
    let mut value = vec![2];
    write_raw(&mut value, &ziplist);
    write_raw(&mut value, b"bare");
    let expected = [
        "0",
        "12",
        "-128",
        "-32768",
        "-8388608",
        "-2147483648",
        "-9223372036854775808",
        "x",
        "y",
        "bare",
    ];
    let expected = expected.map(|text| text.as_bytes().to_vec()).to_vec();
    assert_eq!(decode(14, &value), Ok((Value::List(expected), value.len())));
}

#[test]
fn types_without_elements_are_told_apart_from_types_without_a_layout() {
    for kind in 33..=37 {
        assert!(Elements::new(kind).is_err() && Walker::new(kind).is_ok());
    }
    assert!(Elements::new(1).is_err() && Walker::new(1).is_err());
}
