//! Values much larger than everything the task may hold: they pass in bounded memory, and nobody sees a part of one.

use crate::asked::Checked;
use crate::df2redis::Task;
use crate::dragonfly_with;
use crate::support::{Client, RedisServer, within};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes of one field's value.
const VALUE: usize = 64 << 10;
/// How long the copy may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Fields written with one command.
const TOGETHER: usize = 64;
/// What the task may hold of its flows, and the program besides, as the README says, for two flows.
const BUDGET: &str = "64MiB";
const MOST_MEMORY: u64 = (64 + 16 + 2) << 20;

/// MiB of the hash, and of the string, which cannot have more than 512: `HUGE_MIB` says it, such as 5120.
fn sizes() -> (usize, usize) {
    let told = std::env::var("HUGE_MIB").ok();
    let hash = told.map_or(256, |text| {
        let number = text.parse();
        number.unwrap_or_else(|_| panic!("HUGE_MIB is {text:?}, which is no number"))
    });
    (hash, hash.min(512))
}

fn fill(client: &mut Client, fields: usize) {
    for first in (0..fields).step_by(TOGETHER) {
        let mut words = vec![b"HSET".to_vec(), b"huge".to_vec()];
        for n in first..fields.min(first + TOGETHER) {
            let letter = b'a' + u8::try_from(n % 26).unwrap_or_default();
            words.push(format!("field:{n}").into_bytes());
            words.push([format!("{n}:").into_bytes(), vec![letter; VALUE]].concat());
        }
        client.ok(&words);
    }
}

#[test]
fn huge_values_pass_in_bounded_memory_and_are_never_seen_in_part() {
    let (hash, string) = sizes();
    let fields = (hash << 20) / VALUE;
    let memory = format!("--maxmemory={}mb", 2 * (hash + string) + 1024);
    let source = dragonfly_with(2, &[&memory]);
    let target = RedisServer::start();
    let mut client = Client::connect(source.port());
    fill(&mut client, fields);
    // SETRANGE makes none of more than 256 MiB.
    client.ok(&["SET", "long", &"long".repeat((string << 20) / 4)]);
    let task = Task::between(&format!("127.0.0.1:{}", source.port()), &target.address())
        .with(format!("limits.memory = \"{BUDGET}\""));
    let over = AtomicBool::new(false);
    let running = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut eye = target.client();
            while !over.load(Ordering::Acquire) {
                let seen = eye.ok(&["HLEN", "huge"]).int().expect("a length");
                let seen = usize::try_from(seen).expect("a length");
                assert!(seen == 0 || seen >= fields, "{seen} of {fields} fields");
                let seen = eye.ok(&["STRLEN", "long"]).int();
                assert!(matches!(seen, Some(0)) || seen == i64::try_from(string << 20).ok());
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mut running = task.start();
        running.wait_logged("full sync started");
        for n in 0..100 {
            client.ok(&["HINCRBY", "huge", &format!("count:{}", n % 7), "1"]);
        }
        let stable = || running.log().contains("snapshot finished");
        assert!(within(PATIENCE, stable), "no stable sync");
        over.store(true, Ordering::Release);
        running
    });
    let peak = running.peak_memory();
    assert!(peak < MOST_MEMORY, "{peak} bytes of {MOST_MEMORY}");
    Checked::of(&task, &[]).assert_equal();
    assert_eq!(task.state_files(), Vec::<String>::new());
    running.stop();
}
