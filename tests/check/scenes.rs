//! What must hold of any source, simulated or real.

use crate::asked::Checked;
use crate::df2redis::Task;
use crate::support::{Client, RedisServer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Keys that go to and fro between two values, so that what is read at two places of the journal seems to differ
/// again and again, and to be the same in between.
const WRITES: &[[&str; 2]] = &[
    ["SET to_and_fro:{} a", "SET to_and_fro:{} b"],
    ["SET here_and_gone:{} v", "DEL here_and_gone:{}"],
    ["INCR up_and_down:{}", "DECR up_and_down:{}"],
    ["LPUSH in_and_out:{} v", "LPOP in_and_out:{}"],
    ["SADD set:{} a", "SREM set:{} a"],
    ["HSET hash:{} f a", "HSET hash:{} f b"],
    ["ZADD zset:{} 1 a", "ZADD zset:{} 2 a"],
    ["PEXPIREAT expiring:{} 4000000000000", "PERSIST expiring:{}"],
    ["RENAME one:{} other:{}", "RENAME other:{} one:{}"],
];

/// Compares again and again under writes. Each time the one planted difference is found, so that a comparison that finds
/// nothing would not pass, and nothing else; at the end all is equal.
#[track_caller]
pub fn writes_are_no_differences(
    task: &Task,
    source: u16,
    target: &RedisServer,
    runs: usize,
    settle: &dyn Fn(),
) {
    let mut client = Client::connect(source);
    for n in 0..20 {
        for key in ["expiring:", "one:", "still:"] {
            client.ok(&["SET", &format!("{key}{n}"), "v"]);
        }
    }
    let running = task.start_stable();
    settle();
    let over = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (mut client, over) = (Client::connect(source), Arc::clone(&over));
            let written = Arc::clone(&written);
            thread::spawn(move || {
                let mut round = 0;
                while !over.load(Ordering::Relaxed) {
                    round += 1;
                    let mut row = Vec::new();
                    for n in 0..10 {
                        let n = (writer * 10 + n).to_string();
                        for pair in WRITES {
                            let command = pair[round % 2].replace("{}", &n);
                            let words = command.split(' ').map(|word| word.as_bytes().to_vec());
                            row.push(words.collect());
                        }
                    }
                    // As fast as it can be copied, so that the target is never far behind.
                    thread::sleep(Duration::from_millis(20));
                    written.fetch_add(row.len() as u64, Ordering::Relaxed);
                    client.pipeline(&row);
                }
            })
        })
        .collect();
    target.client().ok(&["SET", "still:7", "w"]);
    let planted = BTreeMap::from([("still:7".to_owned(), "value".to_owned())]);
    for _ in 0..runs {
        let found = Checked::of(task, &["--interval", "300ms", "--rounds", "10"]);
        assert_eq!(found.events("different"), planted, "{}", found.text);
    }
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }
    assert!(written.load(Ordering::Relaxed) > 1_000);
    settle();
    target.client().ok(&["SET", "still:7", "v"]);
    Checked::of(task, &[]).assert_equal();
    running.stop();
}
