//! Generated values, and every form in which each can be encoded.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::value::{Consumer, Group, Stream};
use super::super::{StreamId, StreamInfo, Value, encode, kind};

/// Strings of every stored form: empty, integers of every width, short, longer than each length.
pub fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<i8>().prop_map(|number| number.to_string().into_bytes()),
        any::<i16>().prop_map(|number| number.to_string().into_bytes()),
        any::<i32>().prop_map(|number| number.to_string().into_bytes()),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        prop::sample::select(vec![
            "",
            "-0",
            "007",
            "+1",
            "-",
            "-1",
            "9223372036854775808"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        vec(any::<u8>(), 0..12),
        vec(any::<u8>(), 60..70),
        (any::<u8>(), 120usize..20_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

pub fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("a number", |score| !score.is_nan()),
        prop::sample::select(vec![
            0.0,
            -0.0,
            1.0,
            -1.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            5e-324,
            f64::MIN_POSITIVE,
            f64::MAX,
            1e-6,
            1e-7,
            1e21,
            0.1,
            9_007_199_254_740_993.0,
            1e19,
        ]),
        any::<i32>().prop_map(f64::from),
    ]
}

/// Unix milliseconds that the wire can hold: whole seconds from the epoch on.
fn expiry() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(0u64..1 << 33)
        .prop_map(|after| after.map(|seconds| (seconds + kind::EXPIRY_EPOCH) * 1000))
}

prop_compose! {
    fn group()(
        name in text(),
        delivered in (any::<u64>(), any::<u64>()),
        read in -1i64..1000,
        pending in vec((any::<u64>(), any::<u64>(), any::<i64>(), any::<u64>()), 0..4),
        consumers in vec((text(), any::<i64>(), any::<i64>(), 0usize..3), 0..3),
    ) -> Group {
        let pending: Vec<_> = pending
            .into_iter()
            .map(|(ms, seq, at, count)| (StreamId { ms, seq }, at, count))
            .collect();
        let consumers = consumers
            .into_iter()
            .map(|(name, seen, active, owned)| Consumer {
                name,
                seen,
                active: Some(active),
                pending: pending.iter().take(owned).map(|entry| entry.0).collect(),
            })
            .collect();
        Group {
            name,
            delivered: StreamId { ms: delivered.0, seq: delivered.1 },
            read: Some(read),
            pending,
            consumers,
        }
    }
}

prop_compose! {
    pub fn stream()(
        start in any::<u32>(),
        entries in vec((0u64..3, vec((0usize..3, text()), 0..4)), 0..150),
        groups in vec(group(), 0..3),
        added in any::<u32>(),
    ) -> Stream {
        let names: [&[u8]; 3] = [b"a", b"field", b"12"];
        let mut id = StreamId { ms: u64::from(start), seq: 0 };
        let mut records = Vec::new();
        for (step, fields) in entries {
            id = StreamId {
                ms: id.ms + step,
                seq: if step == 0 { id.seq + 1 } else { 0 },
            };
            let fields = fields.into_iter().map(|(name, value)| (names[name].to_vec(), value));
            records.push((id, fields.collect()));
        }
        let info = StreamInfo {
            length: records.len() as u64,
            last: id,
            first: Some(StreamId { ms: u64::from(start), seq: 0 }),
            max_deleted: Some(StreamId { ms: 1, seq: 2 }),
            added: Some(u64::from(added)),
        };
        Stream { entries: records, info, groups }
    }
}

/// A value, and every (type, bytes) that must decode to it.
pub fn encoded() -> impl Strategy<Value = (Value, Vec<(u8, Vec<u8>)>)> {
    prop_oneof![
        text().prop_map(|text| {
            let mut compressed = Vec::new();
            super::super::string::write_compressed(&mut compressed, &text);
            let plain = form(kind::STRING, |out| encode::string(out, &text));
            (Value::String(text), vec![plain, (kind::STRING, compressed)])
        }),
        text().prop_map(|text| {
            let forms = [kind::JSON, kind::JSON_OLD];
            let forms = forms.map(|kind| form(kind, |out| encode::string(out, &text)));
            (Value::Json(text), forms.to_vec())
        }),
        vec(text(), 0..12).prop_map(list_forms),
        vec((text(), expiry()), 0..8).prop_map(|set| {
            let forms = vec![form(kind::SET_EXPIRING, |out| {
                encode::set_expiring(out, &set);
            })];
            (Value::Set(set), forms)
        }),
        vec(text(), 0..8).prop_map(|set| {
            let forms = vec![form(kind::SET, |out| encode::set(out, &set))];
            let set = set.into_iter().map(|member| (member, None)).collect();
            (Value::Set(set), forms)
        }),
        prop::collection::btree_set(any_width(), 0..8).prop_map(|set| {
            let members: Vec<i64> = set.into_iter().collect();
            let forms = vec![form(kind::SET_INTSET, |out| {
                encode::set_intset(out, &members);
            })];
            let members = members
                .iter()
                .map(|member| (member.to_string().into_bytes(), None));
            (Value::Set(members.collect()), forms)
        }),
        vec((text(), text(), expiry()), 0..8).prop_map(|hash| {
            let forms = vec![form(kind::HASH_EXPIRING, |out| {
                encode::hash_expiring(out, &hash);
            })];
            (Value::Hash(hash), forms)
        }),
        vec((text(), text()), 0..8).prop_map(|hash| {
            let forms = vec![
                form(kind::HASH, |out| encode::hash(out, &hash)),
                form(kind::HASH_LISTPACK, |out| encode::hash_listpack(out, &hash)),
            ];
            let hash = hash.into_iter().map(|(field, value)| (field, value, None));
            (Value::Hash(hash.collect()), forms)
        }),
        vec((text(), score()), 0..8).prop_map(|sorted| {
            let forms = vec![
                form(kind::SORTED, |out| encode::sorted(out, &sorted)),
                form(kind::SORTED_LISTPACK, |out| {
                    encode::sorted_listpack(out, &sorted);
                }),
            ];
            (Value::Sorted(sorted), forms)
        }),
        stream().prop_map(|stream| {
            let forms = vec![form(kind::STREAM, |out| encode::stream(out, &stream))];
            (Value::Stream(stream), forms)
        }),
    ]
}

fn any_width() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i16>().prop_map(i64::from),
        any::<i32>().prop_map(i64::from),
        any::<i64>(),
    ]
}

fn list_forms(list: Vec<Vec<u8>>) -> (Value, Vec<(u8, Vec<u8>)>) {
    let items: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
    let bare: Vec<_> = items
        .iter()
        .map(|item| encode::ListNode::Plain(item))
        .collect();
    let packed: Vec<_> = items.chunks(3).map(encode::ListNode::Packed).collect();
    let mixed: Vec<_> = items
        .chunks(2)
        .map(|pair| match pair {
            [item] => encode::ListNode::Plain(item),
            pair => encode::ListNode::Packed(pair),
        })
        .collect();
    let forms = [bare, packed, mixed];
    let mut forms = forms
        .map(|nodes| form(kind::LIST, |out| encode::list(out, &nodes)))
        .to_vec();
    // What Dragonfly up to v1.23 wrote for a list of huge elements.
    forms.push(form(kind::LIST_ZIPLISTS, |out| encode::set(out, &list)));
    (Value::List(list), forms)
}

fn form(kind: u8, encode: impl FnOnce(&mut Vec<u8>)) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    encode(&mut out);
    (kind, out)
}
