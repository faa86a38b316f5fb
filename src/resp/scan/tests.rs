use super::*;
use proptest::prelude::*;

/// Feeds bytes in pieces of the given sizes, the last of which repeats.
fn scan(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Reply>, Garbage> {
    let mut scanner = Scanner::new();
    let mut replies = Vec::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().copied().chain(std::iter::repeat(7));
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(cuts.next().unwrap().clamp(1, rest.len()));
        rest = after;
        while !piece.is_empty() {
            let (used, reply) = scanner.feed(piece)?;
            assert!(used > 0);
            assert!(reply.is_some() || used == piece.len());
            assert!(scanner.line.len() <= LINE && scanner.stack.len() <= DEPTH);
            assert!(scanner.line.capacity() <= 2 * LINE, "memory is bounded");
            replies.extend(reply);
            piece = &piece[used..];
        }
    }
    Ok(replies)
}

/// A value as a test makes it, with its bytes and the reply it must be scanned as.
#[derive(Debug, Clone)]
enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    BulkError(String),
    Null(&'static str),
    Aggregate(u8, Vec<Value>),
    Described(Vec<Value>, Box<Value>),
}

impl Value {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => out.extend(format!("+{text}\r\n").bytes()),
            Self::Error(text) => out.extend(format!("-{text}\r\n").bytes()),
            Self::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
            Self::Bulk(bytes) => {
                out.extend(format!("${}\r\n", bytes.len()).bytes());
                out.extend(bytes);
                out.extend(b"\r\n");
            }
            Self::BulkError(text) => out.extend(format!("!{}\r\n{text}\r\n", text.len()).bytes()),
            Self::Null(form) => out.extend(form.bytes()),
            Self::Aggregate(sigil, elements) => {
                let pairs = *sigil == b'%';
                let count = elements.len() / if pairs { 2 } else { 1 };
                out.push(*sigil);
                out.extend(format!("{count}\r\n").bytes());
                let used = if pairs { count * 2 } else { count };
                elements
                    .iter()
                    .take(used)
                    .for_each(|element| element.encode(out));
            }
            Self::Described(attributes, value) => {
                out.extend(format!("|{}\r\n", attributes.len() / 2).bytes());
                let used = attributes.len() / 2 * 2;
                attributes
                    .iter()
                    .take(used)
                    .for_each(|element| element.encode(out));
                value.encode(out);
            }
        }
    }

    fn reply(&self) -> Reply {
        match self {
            Self::Simple(text) if text == "OK" => Reply::Ok,
            Self::Simple(text) if text == "QUEUED" => Reply::Queued,
            Self::Simple(_) | Self::Bulk(_) => Reply::Other,
            Self::Error(text) | Self::BulkError(text) => Reply::Error(text.clone().into_bytes()),
            Self::Integer(number) => Reply::Integer(*number),
            Self::Null(_) => Reply::Null,
            Self::Aggregate(b'>', _) => Reply::Push,
            Self::Aggregate(sigil, elements) => {
                let len = elements.len()
                    - if *sigil == b'%' {
                        elements.len() % 2
                    } else {
                        0
                    };
                let errors = (0u64..)
                    .zip(elements.iter().take(len))
                    .filter_map(|(index, element)| match element.reply() {
                        Reply::Error(text) => Some(ElementError { index, text }),
                        _ => None,
                    })
                    .collect();
                Reply::Array {
                    len: len as u64,
                    errors,
                }
            }
            Self::Described(_, value) => value.reply(),
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Simple("OK".into())),
        Just(Value::Simple("QUEUED".into())),
        "[ -~]{0,20}".prop_map(Value::Simple),
        "[ -~]{0,20}".prop_map(Value::Error),
        "[ -~\r\n]{0,20}".prop_map(Value::BulkError),
        any::<i64>().prop_map(Value::Integer),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bulk),
        Just(Value::Null("$-1\r\n")),
        Just(Value::Null("*-1\r\n")),
        Just(Value::Null("_\r\n")),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            (
                prop::sample::select(&b"*~%>"[..]),
                prop::collection::vec(inner.clone(), 0..6)
            )
                .prop_map(|(sigil, elements)| Value::Aggregate(sigil, elements)),
            (prop::collection::vec(inner.clone(), 0..4), inner)
                .prop_map(|(attributes, value)| Value::Described(attributes, Box::new(value))),
        ]
    })
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |depth: usize| ["*1\r\n".repeat(depth), "+OK\r\n".into()].concat();
    assert!(scan(nested(DEPTH).as_bytes(), &[]).is_ok());
    let error = scan(nested(DEPTH + 1).as_bytes(), &[]).unwrap_err();
    assert_eq!(error.what, "nested too deeply");
}

#[test]
fn what_is_no_redis_is_refused_at_once() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"\r\n",
        b"\n",
        b"+OK\n",
        b":12x\r\n",
        b"$-2\r\n",
        b"*9999999999999999999999\r\n",
        b"$3\r\nabcd\r\n",
        b"$\r\n",
    ] {
        for cut in [1, 100] {
            assert!(scan(bytes, &[cut; 64]).is_err(), "{bytes:?}");
        }
    }
    assert_eq!(
        scan(b"HTTP/1.1", &[8]).unwrap_err().to_string(),
        "not a reply (an unknown type): \"HTTP/1.1\""
    );
}

#[test]
fn claimed_lengths_and_long_lines_cost_no_memory() {
    let long = [
        b"-ERR ".to_vec(),
        vec![b'x'; 100_000],
        b"\r\n:1\r\n".to_vec(),
    ]
    .concat();
    let replies = scan(&long, &[4096; 64]).unwrap();
    assert!(matches!(&replies[0], Reply::Error(text) if text.len() == LINE - 1));
    assert_eq!(replies[1], Reply::Integer(1));
    assert_eq!(
        scan(b"*9223372036854775807\r\n%9223372036854775807\r\n", &[]),
        Ok(vec![])
    );
    assert_eq!(scan(b"$9223372036854775807\r\nabc", &[]), Ok(vec![]));
    assert!(scan(&[b":".to_vec(), vec![b'1'; 1000]].concat(), &[]).is_err());
}

proptest! {
    #[test]
    fn only_strings_of_their_own_are_kept_and_no_more_of_them_than_wanted(
        text in prop::collection::vec(any::<u8>(), 0..40),
        most in 0usize..30,
        cut in 1usize..20,
    ) {
        let mut string = Vec::new();
        Value::Bulk(text.clone()).encode(&mut string);
        let bytes = [b"*1\r\n", &string[..], &string[..], b"+OK\r\n"].concat();
        let mut scanner = Scanner::new();
        scanner.keep(most);
        let mut replies = Vec::new();
        for mut piece in bytes.chunks(cut) {
            while !piece.is_empty() {
                let (used, reply) = scanner.feed(piece).unwrap();
                replies.extend(reply);
                piece = &piece[used..];
            }
        }
        let kept = match most {
            0 => Reply::Other,
            _ => Reply::Text(text[..most.min(text.len())].to_vec()),
        };
        prop_assert_eq!(&replies[1..], [kept, Reply::Ok]);
        let array = matches!(replies[0], Reply::Array { len: 1, .. });
        prop_assert!(array);
    }

    #[test]
    fn replies_are_found_however_the_stream_is_cut(
        values in prop::collection::vec(values(), 1..8),
        cuts in prop::collection::vec(1usize..30, 0..60),
    ) {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| value.encode(&mut bytes));
        let expected: Vec<_> = values.iter().map(Value::reply).collect();
        prop_assert_eq!(scan(&bytes, &cuts), Ok(expected.clone()));
        prop_assert_eq!(scan(&bytes, &[bytes.len()]), Ok(expected));
    }

    #[test]
    fn zeros_of_an_array_are_noted_however_the_stream_is_cut(
        elements in prop::collection::vec(
            prop::sample::select(vec![
                (":0\r\n", true), (":1\r\n", false), (":10\r\n", false), (":-1\r\n", false), (":00\r\n", true),
                (":9223372036854775807\r\n", false), ("+OK\r\n", false), ("$1\r\n0\r\n", false), ("_\r\n", false),
                ("*2\r\n:1\r\n:-2\r\n", true), ("*1\r\n:0\r\n", false), (":-2\r\n", false), ("-ERR\r\n", false),
            ]),
            0..12,
        ),
        wanted: bool,
        cuts in prop::collection::vec(1usize..30, 1..60),
    ) {
        let bytes: String = elements.iter().map(|(text, _)| *text).collect();
        let bytes = format!("*{}\r\n{bytes}", elements.len());
        let mut scanner = Scanner::new();
        scanner.note_zeros(wanted);
        let mut rest = bytes.as_bytes();
        let mut cuts = cuts.into_iter().cycle();
        let mut replies = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            replies.extend(scanner.feed(piece).unwrap().1);
            rest = after;
        }
        prop_assert_eq!(replies.len(), 1);
        let zeros: Vec<u64> = (0..).zip(&elements).filter(|(_, (_, zero))| *zero && wanted).map(|(at, _)| at).collect();
        prop_assert_eq!(scanner.take_zeros(), zeros);
    }

    #[test]
    fn arbitrary_bytes_scan_alike_however_they_are_cut(
        bytes in prop::collection::vec(prop::sample::select(&b"+-:$*_#,(!=%~|>012\r\n\r\n\r\nOK"[..]), 0..80),
        cuts in prop::collection::vec(1usize..9, 0..40),
    ) {
        let whole = scan(&bytes, &[bytes.len().max(1)]).map_err(|garbage| garbage.what);
        let cut = scan(&bytes, &cuts).map_err(|garbage| garbage.what);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = scan(&bytes, &[]);
    }
}

/// What the scanner makes of the answers to a transaction: which was the first 0.
fn scanned(bytes: &[u8], count: usize) -> Option<usize> {
    let mut scanner = Scanner::new();
    let mut rest = bytes;
    let mut next = |zeros| {
        scanner.note_zeros(zeros);
        let (used, reply) = scanner.feed(rest).unwrap();
        rest = &rest[used..];
        reply.unwrap()
    };
    assert_eq!(next(false), Reply::Ok);
    (0..count).for_each(|_| assert_eq!(next(false), Reply::Queued));
    let array = Reply::Array {
        len: count as u64,
        errors: Vec::new(),
    };
    assert_eq!(next(true), array);
    assert!(rest.is_empty());
    scanner.first_zero().map(|zero| zero as usize)
}

proptest! {
    #[test]
    fn usual_answers_to_a_transaction_are_what_the_scanner_says(
        elements in prop::collection::vec(prop_oneof![Just(-1_i64), 0..3_i64, any::<i64>()], 1..5),
        behind: Vec<u8>,
        spoilt in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let count = elements.len();
        let mut bytes = OK.to_vec();
        (0..count).for_each(|_| bytes.extend(QUEUED));
        bytes.extend(format!("*{count}\r\n").bytes());
        for element in &elements {
            match element {
                -1 => bytes.extend(OK),
                number => bytes.extend(format!(":{number}\r\n").bytes()),
            }
        }
        let len = bytes.len();
        for cut in 0..len {
            prop_assert_eq!(usual_transaction(&bytes[..cut], count), None);
        }
        let is_usual = elements.iter().all(|number| (-1..10_i64.pow(18)).contains(number));
        bytes.extend(behind);
        let found = usual_transaction(&bytes, count);
        prop_assert_eq!(found.is_some(), is_usual);
        prop_assert_eq!(usual_transaction(&bytes, count + 1), None);
        if let Some((used, zero)) = found {
            prop_assert_eq!(used, len);
            prop_assert_eq!(zero, scanned(&bytes[..used], count));
        }
        if let Some((at, byte)) = spoilt {
            bytes[at.index(len)] = byte;
            if let Some((used, zero)) = usual_transaction(&bytes, count) {
                prop_assert_eq!(zero, scanned(&bytes[..used], count));
            }
        }
    }
}
