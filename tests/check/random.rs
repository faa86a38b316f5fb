//! The property: equal random datasets are equal, and one random change of one key is found, and that alone.

use crate::asked::{Checked, IDLE, Pair};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::fmt;

type Words = Vec<Vec<u8>>;

/// A key's value: the commands that make it, and one that changes it for certain.
#[derive(Clone)]
struct Made {
    commands: Vec<Words>,
    change: Words,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for command in self.commands.iter().chain([&self.change]) {
            let words: Vec<_> = command
                .iter()
                .map(|word| word.escape_ascii().to_string())
                .collect();
            writeln!(f, "{}", words.join(" "))?;
        }
        Ok(())
    }
}

fn words(parts: &[&[u8]]) -> Words {
    parts.iter().map(|part| part.to_vec()).collect()
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 2000..9000),
    ]
}

/// Texts, each once.
fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::btree_set(text(), 1..30).prop_map(|set| set.into_iter().collect())
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("a number", |score| !score.is_nan()),
        Just(f64::INFINITY),
        Just(-0.0),
        (-9_i32..9).prop_map(f64::from),
    ]
}

fn made(key: &'static [u8]) -> impl Strategy<Value = Made> {
    let string = text().prop_map(move |text| Made {
        commands: vec![words(&[b"SET", key, &text])],
        change: words(&[b"APPEND", key, b"!"]),
    });
    let list = texts().prop_map(move |items| Made {
        commands: items
            .iter()
            .map(|item| words(&[b"RPUSH", key, item]))
            .collect(),
        change: words(&[b"LSET", key, b"-1", b"not one of them"]),
    });
    let set = texts().prop_map(move |members| Made {
        commands: members
            .iter()
            .map(|member| words(&[b"SADD", key, member]))
            .collect(),
        change: words(&[b"SADD", key, b"not one of them"]),
    });
    let hash = (texts(), text()).prop_map(move |(fields, value)| Made {
        commands: fields
            .iter()
            .map(|field| words(&[b"HSET", key, field, &value]))
            .collect(),
        change: words(&[
            b"HSET",
            key,
            fields.last().map_or(b"", Vec::as_slice),
            b"another value",
        ]),
    });
    let sorted =
        (texts(), prop::collection::vec(score(), 30)).prop_map(move |(members, scores)| {
            let pairs = members.iter().zip(&scores);
            let add = |(member, score): (&Vec<u8>, &f64)| {
                words(&[b"ZADD", key, format!("{score:?}").as_bytes(), member])
            };
            let last = members.last().cloned().unwrap_or_default();
            let was = scores.get(members.len() - 1).copied().unwrap_or(0.0);
            // The next number there is.
            let near = if was == 0.0 {
                5e-324
            } else {
                f64::from_bits(was.to_bits() - 1)
            };
            Made {
                commands: pairs.map(add).collect(),
                change: words(&[b"ZADD", key, format!("{near:?}").as_bytes(), &last]),
            }
        });
    let stream = texts().prop_map(move |values| Made {
        commands: (1..)
            .zip(&values)
            .map(|(n, value)| words(&[b"XADD", key, format!("{n}-{n}").as_bytes(), b"f", value]))
            .collect(),
        change: words(&[b"XSETID", key, b"99999-0"]),
    });
    prop_oneof![string, list, set, hash, sorted, stream]
}

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[test]
fn equal_datasets_are_equal_and_one_change_is_found() {
    let pair = Pair::start();
    let all: Vec<_> = KEYS
        .iter()
        .map(|key| made(key.as_bytes()).boxed())
        .collect();
    let strategy = (all, any::<prop::sample::Index>());
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(24)
    };
    let checked = TestRunner::new(config).run(&strategy, |(dataset, which)| {
        let (mut source, mut target) = (pair.source.client(), pair.target.client());
        for client in [&mut source, &mut target] {
            client.ok(&["FLUSHALL"]);
        }
        for made in &dataset {
            for reply in source.pipeline(&made.commands) {
                prop_assert!(!reply.is_error(), "{reply:?}");
            }
            // In another order, where that does not matter to the value: encodings and tables then differ.
            let mut commands = made.commands.clone();
            let ordered = matches!(commands[0][0].as_slice(), b"RPUSH" | b"XADD");
            if !ordered {
                commands.reverse();
            }
            target.pipeline(&commands);
        }
        let equal = Checked::of(&pair.task, IDLE);
        prop_assert_eq!(equal.code, 0, "{} {:#?}", equal.text, equal.report);
        let chosen = which.index(KEYS.len());
        let reply = target.cmd(&dataset[chosen].change);
        prop_assert!(!reply.is_error(), "{reply:?}");
        let found = Checked::of(&pair.task, IDLE);
        let different: Vec<_> = found.events("different").into_keys().collect();
        prop_assert_eq!(different, [KEYS[chosen]], "{}", found.text);
        prop_assert_eq!(found.events("unsettled"), BTreeMap::new());
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}
