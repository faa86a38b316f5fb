//! What the demo's clients write: a data set of all ordinary types, then many kinds of commands on it.
//!
//! Keys of one type share a prefix, so that no command meets a key of another type. Expiries are either far away,
//! or on the `brief:*` keys, which are gone before anything is compared.

use crate::source::Source;
use crate::support::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The databases that are written.
const DATABASES: [u32; 2] = [0, 3];
/// Clients that write at the same time.
const WRITERS: u64 = 2;
/// Keys of each collection type in each database.
const COLLECTIONS: u64 = 2_000;
/// Strings in each database.
const STRINGS: u64 = 16_000;
/// Short-lived keys.
const BRIEF: u64 = 20;

type Words = Vec<Vec<u8>>;

fn words(text: &str) -> Words {
    text.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

/// Fills the databases; answers how many keys there are.
pub fn seed(client: &mut Client) -> u64 {
    let mut dice = Dice::new(1);
    for db in DATABASES {
        client.ok(&["SELECT", &db.to_string()]);
        let strings: Vec<u64> = (0..STRINGS).collect();
        let mut commands: Vec<Words> = strings
            .chunks(100)
            .map(|part| strings_of(part, &mut dice))
            .collect();
        for n in 0..COLLECTIONS {
            commands.extend(collections(n, &mut dice).iter().map(|text| words(text)));
        }
        commands.push(
            [
                words("RPUSH list:big"),
                (0..20_000)
                    .map(|n| format!("element {n}").into_bytes())
                    .collect(),
            ]
            .concat(),
        );
        let fields = (0..10_000).flat_map(|n| [format!("field:{n}").into_bytes(), dice.text(60)]);
        commands.push([words("HSET hash:big"), fields.collect()].concat());
        for n in (0..STRINGS).step_by(10) {
            commands.push(words(&format!("EXPIRE string:{n} {}", 3_600 + n)));
        }
        let failed = client
            .pipeline(&commands)
            .into_iter()
            .find(|reply| reply.is_error());
        assert!(failed.is_none(), "the source refused its data: {failed:?}");
    }
    keys(client)
}

/// How many keys the databases hold.
pub fn keys(client: &mut Client) -> u64 {
    DATABASES
        .map(|db| {
            client.ok(&["SELECT", &db.to_string()]);
            client.ok(&["DBSIZE"]).int().unwrap_or(0).unsigned_abs()
        })
        .iter()
        .sum()
}

fn strings_of(part: &[u64], dice: &mut Dice) -> Words {
    let mut command = words("MSET");
    for n in part {
        command.push(format!("string:{n}").into_bytes());
        // Texts that compress and texts that do not, and integers, which travel in a form of their own.
        command.push(match n % 3 {
            0 => n.to_string().into_bytes(),
            1 => "lorem ipsum ".repeat(8).into_bytes(),
            _ => {
                let len = 20 + dice.below(200);
                dice.text(len)
            }
        });
    }
    command
}

fn collections(n: u64, dice: &mut Dice) -> [String; 5] {
    let size = 2 + dice.below(30);
    let join = |word: &dyn Fn(u64) -> String| (0..size).map(word).collect::<Vec<_>>().join(" ");
    let stream = format!(
        "XADD stream:{n} {} user {n} action visit",
        1_700_000_000_000 + n
    );
    [
        format!("RPUSH list:{n} {}", join(&|i| format!("item-{i}-{n}"))),
        format!(
            "SADD set:{n} {}",
            join(&|i| if n.is_multiple_of(2) {
                (i * n).to_string()
            } else {
                format!("member-{i}")
            })
        ),
        format!(
            "HSET hash:{n} {}",
            join(&|i| format!("field-{i} value-{n}"))
        ),
        format!(
            "ZADD zset:{n} {}",
            join(&|i| format!("{} member-{i}", (i * 7 + n) as f64 / 8.0))
        ),
        if n.is_multiple_of(4) {
            format!("XGROUP CREATE stream:{n} workers 0 MKSTREAM")
        } else {
            stream
        },
    ]
}

/// Several clients write for as long as it is said, or until `stop`; answers how many commands they gave.
pub fn write(source: &Source, time: Duration, mut stop: impl FnMut() -> bool) -> u64 {
    let over = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|seed| {
                let (client, over) = (source.client(), &over);
                scope.spawn(move || writer(client, seed, over))
            })
            .collect();
        while started.elapsed() < time && !stop() {
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap_or(0))
            .sum()
    })
}

/// One client; it ends early when the source does.
fn writer(mut client: Client, seed: u64, over: &AtomicBool) -> u64 {
    let mut dice = Dice::new(seed + 2);
    let mut written = 0;
    while !over.load(Ordering::Relaxed) {
        if written % 500 == 0 {
            let db = DATABASES[usize::from(written % 1_000 == 0)];
            if client.try_cmd(&["SELECT", &db.to_string()]).is_err() {
                break;
            }
        }
        let command = words(&live(&mut dice));
        // Refusals, as of LSET beyond a list's end, change nothing and are not journalled.
        if client.try_cmd(&command).is_err() {
            break;
        }
        written += 1;
    }
    written
}

/// One command of many kinds.
fn live(dice: &mut Dice) -> String {
    let (n, m, i) = (
        dice.below(COLLECTIONS),
        dice.below(COLLECTIONS),
        dice.below(30),
    );
    match dice.below(44) {
        0 => format!("SET string:{n} value-{i} EX {}", 3_600 + i),
        1 => format!("SET string:{n} value-{i}"),
        2 => format!("SET brief:{} soon-gone PX {}", i % BRIEF, 200 + i * 20),
        3 => format!("MSET string:{n} a{i} string:{m} b{i} multi:{i} c{n}"),
        4 => format!("APPEND text:{i} -{n}"),
        5 => format!("SETRANGE text:{i} {i} patched"),
        6 | 7 => format!("INCR counter:{i}"),
        8 => format!("DECRBY counter:{i} {n}"),
        9 => format!("GETDEL string:{n}"),
        10 => format!("SETBIT bits:{i} {n} 1"),
        11 => format!("LPUSH list:{n} left-{i} left-{m}"),
        12 => format!("RPUSH list:{n} right-{i}"),
        13 => format!("LPOP list:{n} {}", 1 + i % 3),
        14 => format!("RPOP list:{n}"),
        15 => format!("LSET list:{n} {i} set-{m}"),
        16 => format!("LTRIM list:{n} 0 40"),
        17 => format!("LMOVE list:{n} list:{m} LEFT RIGHT"),
        18 => format!("LINSERT list:{n} BEFORE item-1-{n} inserted-{i}"),
        19 => format!("SADD set:{n} member-{i} extra-{m}"),
        20 => format!("SREM set:{n} member-{i}"),
        21 => format!("SPOP set:{n}"),
        22 => format!("SMOVE set:{n} set:{m} member-{i}"),
        23 => format!("SUNIONSTORE set:union:{i} set:{n} set:{m}"),
        24 | 25 => format!("HSET hash:{n} field-{i} live-{m} more-{i} {m}"),
        26 => format!("HDEL hash:{n} field-{i}"),
        27 => format!("HINCRBY hash:numbers:{i} visits {m}"),
        28 | 29 => format!("ZADD zset:{n} {}.25 member-{i} {m} other-{i}", m),
        30 => format!("ZINCRBY zset:{n} 0.5 member-{i}"),
        31 => format!("ZREM zset:{n} member-{i}"),
        32 => format!("ZPOPMIN zset:{n}"),
        33 | 34 => format!("XADD stream:{n} * user {m} action click-{i}"),
        35 => format!("XTRIM stream:{n} MAXLEN 20"),
        36 => format!("EXPIRE hash:{n} {}", 4_000 + i),
        37 => format!("PEXPIRE list:{n} {}", 4_000_000 + i),
        38 => format!("PERSIST string:{n}"),
        39 => format!("DEL string:{n} string:{m}"),
        40 => format!("UNLINK set:union:{i}"),
        41 => format!("RENAME hash:{n} hash:{m}"),
        42 => format!("COPY zset:{n} zset:{m} REPLACE"),
        _ => format!("HSETNX hash:{n} once-{i} {m}"),
    }
}

/// Whether every short-lived key has expired here.
pub fn brief_are_gone(client: &mut Client) -> bool {
    DATABASES.iter().all(|db| {
        client.ok(&["SELECT", &db.to_string()]);
        let keys = (0..BRIEF).map(|n| format!("brief:{n}"));
        let question: Vec<String> = std::iter::once("EXISTS".to_owned()).chain(keys).collect();
        client.ok(&question).int() == Some(0)
    })
}

/// Reproducible chance (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % limit
    }

    fn text(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| b'a' + self.below(26) as u8).collect()
    }
}
