//! Every kind of target server: what is the same is equal, whatever its release, and one difference of each class is found.

use crate::asked::{Checked, IDLE, send};
use crate::df2redis::Task;
use crate::support::{RedisServer, Target, on_every_target};
use std::collections::BTreeMap;

const DATASET: &[&str] = &[
    "SET string:same v",
    "SET string:number 12345",
    "SET string:value v",
    "SET string:missing v",
    "SET string:type v",
    "SET string:expiry v PXAT 4000000000000",
    "SET string:later v PXAT 4000000000000",
    "RPUSH list:same a b 3",
    "RPUSH list:value a b 3",
    "RPUSH list:length a b 3",
    "SADD set:same a b c",
    "SADD set:integers 1 2 3",
    "SADD set:value a b c",
    "HSET hash:same a 1 b 2",
    "HSET hash:value a 1 b 2",
    "ZADD zset:same 0.1 a inf b -inf c 3 d",
    "ZADD zset:value 0.1 a",
    "XADD stream:same 1-1 f v",
    "XADD stream:same 1-2 f v",
    "XDEL stream:same 1-1",
    "XGROUP CREATE stream:same g 0",
    "XADD stream:value 1-1 f v",
    "XADD stream:group 1-1 f v",
    "XGROUP CREATE stream:group g 0",
    "PFADD hll:same a b c",
    "PFADD hll:value a b c",
    "GEOADD geo:same 13.361389 38.115556 a",
];

const SPOILED: &[&str] = &[
    "SET string:value w",
    "DEL string:missing",
    "SET string:extra v",
    "DEL string:type",
    "RPUSH string:type v",
    "PERSIST string:expiry",
    "PEXPIREAT string:later 4000000005000",
    "LSET list:value 0 c",
    "RPUSH list:length c",
    "SREM set:value a",
    "SADD set:value d",
    "HSET hash:value a 2",
    "ZADD zset:value 0.10000000000000002 a",
    "XADD stream:value 1-2 f v",
    "XGROUP DESTROY stream:group g",
    "PFADD hll:value d",
];

fn what_is_the_same_is_equal_and_what_differs_is_found(target: Target) {
    let (source, server) = (RedisServer::start(), target.start());
    send(&mut source.client(), DATASET);
    send(&mut server.client(), DATASET);
    let task = Task::between(&source.address(), &server.address());
    for mode in ["full", "smart", "outline", "length"] {
        Checked::of(&task, &[IDLE, &["--mode", mode]].concat()).assert_equal();
    }
    send(&mut server.client(), SPOILED);
    let found = Checked::of(&task, IDLE);
    let expected = [
        ("string:value", "value"),
        ("string:missing", "missing"),
        ("string:extra", "extra"),
        ("string:type", "type"),
        ("string:expiry", "expiry"),
        ("string:later", "expiry"),
        ("list:value", "value"),
        ("list:length", "value length"),
        ("set:value", "value"),
        ("hash:value", "value"),
        ("zset:value", "value"),
        ("stream:value", "value length stream_metadata"),
        ("stream:group", "stream_metadata"),
        ("hll:value", "value length"),
    ];
    let expected = expected.map(|(key, class)| (key.to_owned(), class.to_owned()));
    let different = found.events("different");
    assert_eq!(different, BTreeMap::from(expected), "{}", found.text);
    assert_eq!(found.code, 1);
}

on_every_target!(what_is_the_same_is_equal_and_what_differs_is_found);
