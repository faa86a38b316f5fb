//! Every class of difference, planted in values of every type.

use crate::asked::Pair;
use crate::df2redis::Task;
use std::collections::BTreeMap;

/// What both sides hold at first. Each key is named for what then happens to it.
const DATASET: &[&str] = &[
    "SET string:same v",
    "SET string:value abc",
    "SET string:length abc",
    "SET string:missing abc",
    "SET string:type abc",
    "SET string:expiry abc PXAT 4000000000000",
    "SET string:persisted abc PXAT 4000000000000",
    "SET string:expires abc",
    "SET string:within abc PXAT 4000000000000",
    "SET string:both abc PXAT 4000000000000",
    "SET string:number 12345",
    "RPUSH list:same a b 3",
    "RPUSH list:value a b 3",
    "RPUSH list:order a b 3",
    "RPUSH list:length a b 3",
    "RPUSH list:missing a",
    "RPUSH list:empty_string a",
    "SADD set:same a b c",
    "SADD set:value a b c",
    "SADD set:length a b c",
    "SADD set:integers 1 2 3",
    "HSET hash:same a 1 b 2",
    "HSET hash:value a 1 b 2",
    "HSET hash:swapped a 1 b 2",
    "HSET hash:field a 1 b 2",
    "HSET hash:length a 1 b 2",
    "ZADD zset:same 1.5 a inf b -inf c 0 d",
    "ZADD zset:score 0.1 a",
    "ZADD zset:bit 0.1 a",
    "ZADD zset:zero 0 a 1 b 1 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "ZADD zset:length 1 a 2 b",
    "XADD stream:same 1-1 f v",
    "XADD stream:value 1-1 f v",
    "XADD stream:length 1-1 f v",
    "XADD stream:last_id 1-1 f v",
    "XADD stream:added 1-1 f v",
    "XADD stream:deleted 1-1 f v",
    "XADD stream:group 1-1 f v",
    "XADD stream:delivered 1-1 f v",
    "XGROUP CREATE stream:delivered g 0",
    "XADD stream:read 1-1 f v",
    "XGROUP CREATE stream:read g 0 ENTRIESREAD 1",
    "XADD stream:consumer 1-1 f v",
    "XGROUP CREATE stream:consumer g 0",
    "XADD stream:pending 1-1 f v",
    "XGROUP CREATE stream:pending g 0",
    "XREADGROUP GROUP g c STREAMS stream:pending >",
    "XADD stream:owner 1-1 f v",
    "XGROUP CREATE stream:owner g 0",
    "XREADGROUP GROUP g c STREAMS stream:owner >",
    "XGROUP CREATECONSUMER stream:owner g d",
    "XADD stream:deliveries 1-1 f v",
    "XGROUP CREATE stream:deliveries g 0",
    "XREADGROUP GROUP g c STREAMS stream:deliveries >",
    "XADD stream:time 1-1 f v",
    "XGROUP CREATE stream:time g 0",
    "XREADGROUP GROUP g c STREAMS stream:time >",
    "XADD stream:seen 1-1 f v",
    "XGROUP CREATE stream:seen g 0",
    "XREADGROUP GROUP g c STREAMS stream:seen >",
    "XADD stream:emptied 1-1 f v",
    "XDEL stream:emptied 1-1",
];

/// What then happens on the target.
const SPOILED: &[&str] = &[
    "SET string:value abd",
    "SET string:length abcd",
    "DEL string:missing",
    "DEL string:type",
    "RPUSH string:type abc",
    "PEXPIREAT string:expiry 4000000005000",
    "PERSIST string:persisted",
    "PEXPIREAT string:expires 4000000000000",
    "PEXPIREAT string:within 4000000000500",
    "SET string:both abd PXAT 4000000005000",
    "SET string:number 12346",
    "SET string:extra v",
    "LSET list:value 1 c",
    "RPUSH list:order a",
    "LPOP list:order",
    "RPUSH list:length 4",
    "DEL list:missing",
    "SREM set:value c",
    "SADD set:value d",
    "SADD set:length d",
    "SREM set:integers 3",
    "SADD set:integers 4",
    "SADD set:extra a",
    "HSET hash:value b 3",
    "HSET hash:swapped a 2 b 1",
    "HDEL hash:field b",
    "HSET hash:field c 2",
    "HDEL hash:length b",
    "ZADD zset:score 0.2 a",
    "ZADD zset:bit 0.10000000000000002 a",
    "ZREM zset:zero a",
    "ZADD zset:zero -0 a",
    "ZREM zset:length b",
    "DEL stream:value",
    "XADD stream:value 1-1 f w",
    "XADD stream:length 1-2 f v",
    "XSETID stream:last_id 1-2",
    "XSETID stream:added 1-1 ENTRIESADDED 7 MAXDELETEDID 0-0",
    "XSETID stream:deleted 1-1 ENTRIESADDED 1 MAXDELETEDID 1-1",
    "XGROUP CREATE stream:group g 0",
    "XGROUP SETID stream:delivered g 1-1 ENTRIESREAD 0",
    "XGROUP SETID stream:read g 0 ENTRIESREAD 0",
    "XGROUP CREATECONSUMER stream:consumer g c",
    "XACK stream:pending g 1-1",
];

/// What a full comparison has to say.
const FOUND: &[(&str, &str)] = &[
    ("string:value", "value"),
    ("string:length", "value length"),
    ("string:missing", "missing"),
    ("string:type", "type"),
    ("string:expiry", "expiry"),
    ("string:persisted", "expiry"),
    ("string:expires", "expiry"),
    ("string:both", "value expiry"),
    ("string:number", "value"),
    ("string:extra", "extra"),
    ("list:value", "value"),
    ("list:order", "value"),
    ("list:length", "value length"),
    ("list:missing", "missing"),
    ("set:value", "value"),
    ("set:length", "value length"),
    ("set:integers", "value"),
    ("set:extra", "extra"),
    ("hash:value", "value"),
    ("hash:swapped", "value"),
    ("hash:field", "value"),
    ("hash:length", "value length"),
    ("zset:score", "value"),
    ("zset:bit", "value"),
    ("zset:length", "value length"),
    ("stream:value", "value"),
    ("stream:length", "value length stream_metadata"),
    ("stream:last_id", "stream_metadata"),
    ("stream:added", "stream_metadata"),
    ("stream:deleted", "stream_metadata"),
    ("stream:group", "stream_metadata"),
    ("stream:delivered", "stream_metadata"),
    ("stream:read", "stream_metadata"),
    ("stream:consumer", "stream_metadata"),
    ("stream:pending", "stream_metadata"),
    ("stream:owner", "stream_metadata consumer_times"),
    ("stream:deliveries", "stream_metadata consumer_times"),
    ("stream:time", "stream_metadata consumer_times"),
];

/// Two servers with all of it.
fn spoiled() -> Pair {
    let pair = Pair::start();
    pair.fill(DATASET);
    pair.copy(0, 0);
    pair.check(&[]).assert_equal();
    pair.spoil(SPOILED);
    let mut target = pair.target.client();
    // The times of pending entries as they are, or others.
    for (key, owner, words) in [
        ("stream:owner", "d", "TIME KEEP RETRYCOUNT 1"),
        ("stream:deliveries", "c", "TIME KEEP RETRYCOUNT 5"),
        ("stream:time", "c", "TIME 1000 RETRYCOUNT 1"),
    ] {
        let idle = target.ok(&["XPENDING", key, "g", "-", "+", "1"]);
        let idle = idle.items()[0].items()[2].int().unwrap();
        let now = target.ok(&["TIME"]);
        let now = now.items()[0].int().unwrap() * 1000 + now.items()[1].int().unwrap() / 1000;
        let words = words.replace("KEEP", &(now - idle).to_string());
        let command = format!("XCLAIM {key} g {owner} 0 1-1 {words} FORCE JUSTID");
        target.ok(&command.split(' ').collect::<Vec<_>>());
    }
    // Reading what is pending behind all that is moves only the time at which the consumer was seen.
    let read = "XREADGROUP GROUP g c STREAMS stream:seen 99-0";
    target.ok(&read.split(' ').collect::<Vec<_>>());
    pair
}

fn expected(of: impl Fn(&str, &str) -> Option<String>) -> BTreeMap<String, String> {
    FOUND
        .iter()
        .filter_map(|(key, classes)| Some(((*key).to_owned(), of(key, classes)?)))
        .collect()
}

#[test]
fn every_planted_difference_is_found_and_named() {
    let pair = spoiled();
    let found = pair.check(&[]);
    assert_eq!(found.code, 1, "{}{}", found.text, found.messages);
    let expected = expected(|_, classes| Some(classes.to_owned()));
    assert_eq!(found.events("different"), expected);
    let lossy = [("stream:seen", "consumer_times")];
    let lossy = BTreeMap::from(lossy.map(|(key, class)| (key.to_owned(), class.to_owned())));
    assert_eq!(found.events("expected"), lossy);
    assert_eq!(found.events("unsettled"), BTreeMap::new());
    let summary = found.summary();
    assert_eq!(summary["different"], FOUND.len());
    assert_eq!(summary["classes"]["missing"], 2);
    assert_eq!(summary["classes"]["extra"], 2);
    assert_eq!(summary["complete"], true);
    let row = "\n    stream_metadata                       12\n";
    assert!(found.text.contains(row), "{}", found.text);
    let row = "\n    but for consumer_times                 4\n";
    assert!(found.text.contains(row), "{}", found.text);
    assert!(
        found
            .text
            .contains(&format!("and {} more", FOUND.len() - 10))
    );
    assert!(found.text.ends_with("\ndifferent\n"), "{}", found.text);
    let both = found
        .report
        .iter()
        .find(|line| line["key"] == "string:both")
        .unwrap();
    assert_eq!(both["class"], "value");
    assert_eq!(both["source"]["type"], "string");
    assert_eq!(both["source"]["expires_at_ms"], 4_000_000_000_000_i64);
    assert_eq!(both["target"]["expires_at_ms"], 4_000_000_005_000_i64);
    assert_eq!(both["source"]["length"], 3);
    assert_ne!(both["source"]["digest"], both["target"]["digest"]);
    assert_eq!(both["source"]["digest"].as_str().map(str::len), Some(32));
}

#[test]
fn an_outline_tells_types_expiry_times_and_lengths() {
    let found = spoiled().check(&["--mode", "outline"]);
    assert_eq!(found.code, 1);
    let told = expected(|_, classes| {
        let told = ["missing", "extra", "type", "length", "expiry"];
        let words = classes.split(' ').filter(|word| told.contains(word));
        let words: Vec<_> = words.collect();
        (!words.is_empty()).then(|| words.join(" "))
    });
    assert_eq!(found.events("different"), told);
}

#[test]
fn lengths_tell_types_and_lengths() {
    let found = spoiled().check(&["--mode", "length"]);
    assert_eq!(found.code, 1);
    let told = expected(|_, classes| {
        let told = ["missing", "extra", "type", "length"];
        let words = classes.split(' ').filter(|word| told.contains(word));
        let words: Vec<_> = words.collect();
        (!words.is_empty()).then(|| words.join(" "))
    });
    assert_eq!(found.events("different"), told);
}

#[test]
fn smart_mode_compares_what_is_small_like_full_mode() {
    let found = spoiled().check(&["--mode", "smart"]);
    let expected = expected(|_, classes| Some(classes.to_owned()));
    assert_eq!(found.events("different"), expected);
}

#[test]
fn how_far_expiry_times_may_be_apart_can_be_said() {
    let pair = Pair::start();
    pair.fill(&["SET a 1 PXAT 4000000000000"]);
    pair.spoil(&["SET a 1 PXAT 4000000000500"]);
    pair.check(&[]).assert_equal();
    let strict = pair.check(&["--expiry-tolerance", "499ms"]);
    assert_eq!(strict.code, 1);
    pair.check(&["--expiry-tolerance", "500ms"]).assert_equal();
}

#[test]
fn keys_that_live_longer_by_policy_are_equal() {
    let mut pair = Pair::start();
    pair.fill(&["SET a 1 PXAT 4000000000000", "SET b 1 PXAT 4000000000000"]);
    pair.spoil(&["SET a 1 PXAT 4000000030000", "SET b 1 PXAT 3999999990000"]);
    pair.task = Task::between(&pair.source.address(), &pair.target.address())
        .with("policy.expiry_grace = \"30s\"");
    let found = pair.check(&[]);
    let earlier = BTreeMap::from([("b".to_owned(), "expiry".to_owned())]);
    assert_eq!(found.events("different"), earlier, "{}", found.text);
}

#[test]
fn a_key_that_is_no_text_is_told_in_base64() {
    let pair = Pair::start();
    pair.source
        .client()
        .ok(&[b"SET".as_slice(), b"\xff\x00\n", b"v"]);
    let found = pair.check(&[]);
    let missing = BTreeMap::from([("/wAK".to_owned(), "missing".to_owned())]);
    assert_eq!(found.events("different"), missing);
    assert!(found.report[0].get("key").is_none());
    assert!(
        found.text.contains(r#"db 0 "\xff\x00\n": missing"#),
        "{}",
        found.text
    );
}
