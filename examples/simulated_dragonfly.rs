//! Runs a simulated Dragonfly master to try things on: ordinary clients write to it, replicas follow it.
//!
//! `cargo run --example simulated_dragonfly -- --port 6380 --flows 4 --keys 10000 --writes 500`

#[path = "../tests/support/mod.rs"]
mod support;

use clap::Parser;
use std::io::Read;
use std::time::{Duration, Instant};
use support::{Client, Dataset, SimulatedDragonfly};

/// A simulated Dragonfly master with demonstration data. It ends when its standard input ends.
#[derive(Parser)]
struct Arguments {
    /// Port on 127.0.0.1; 0 for any free one
    #[arg(long, default_value_t = 6380)]
    port: u16,
    /// Number of flows (a real master has one for each of its threads)
    #[arg(long, default_value_t = 4)]
    flows: usize,
    /// The release whose behaviour is shown
    #[arg(long, default_value = "df-v1.40.1")]
    release: String,
    /// Keys of the demonstration data
    #[arg(long, default_value_t = 10_000)]
    keys: usize,
    /// Writes per second that arrive by themselves
    #[arg(long, default_value_t = 0)]
    writes: u64,
    /// A password that clients must give
    #[arg(long)]
    password: Option<String>,
    /// Serve a fixed data set without the real Redis behind it: clients cannot write then
    #[arg(long)]
    no_backing: bool,
    /// End by itself after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() {
    let arguments = Arguments::parse();
    let mut options = SimulatedDragonfly::options()
        .port(arguments.port)
        .flows(arguments.flows)
        .release(&arguments.release);
    if let Some(password) = &arguments.password {
        options = options.require_password(password);
    }
    options = if arguments.no_backing {
        options.dataset(Dataset::collections(arguments.keys))
    } else {
        options.backing_store()
    };
    let source = options.start();
    if !arguments.no_backing {
        fill(&mut client(&source, &arguments), arguments.keys);
        // Whoever compares wants to know where the truth is.
        println!("backing store on 127.0.0.1:{}", source.oracle());
    }
    println!(
        "simulated {} with {} flows on {}",
        arguments.release,
        arguments.flows,
        source.address()
    );
    serve(&source, &arguments);
    for harm in source.take_violations() {
        eprintln!("a real master would have been harmed: {harm}");
    }
}

fn client(source: &SimulatedDragonfly, arguments: &Arguments) -> Client {
    let mut client = source.client();
    if let Some(password) = &arguments.password {
        client.ok(&["AUTH", password]);
    }
    client
}

/// Writes by itself until the time is over or the input ends.
fn serve(source: &SimulatedDragonfly, arguments: &Arguments) {
    let ended = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let started = Instant::now();
    let mut client = client(source, arguments);
    let mut written = 0_u64;
    let over = || {
        arguments.seconds.map_or_else(
            || ended.is_finished(),
            |limit| started.elapsed().as_secs() >= limit,
        )
    };
    while !over() {
        let due = (started.elapsed().as_secs_f64() * arguments.writes as f64) as u64;
        if !arguments.no_backing && written < due {
            write(&mut client, written);
            written += 1;
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write(client: &mut Client, n: u64) {
    let key = n % 1000;
    let words = match n % 6 {
        0 => format!("INCR counter:{key}"),
        1 => format!("SET string:{key} written-{n} EX 100000"),
        2 => format!("RPUSH list:{key} element-{n}"),
        3 => format!("HSET hash:{key} field-{} {n}", n % 50),
        4 => format!("ZADD zset:{key} {}.5 member-{}", n % 997, n % 50),
        _ => format!("DEL string:{}", (n * 7) % 5000),
    };
    client.ok(&words.split(' ').collect::<Vec<_>>());
}

fn fill(client: &mut Client, keys: usize) {
    let words = |n: usize| match n % 5 {
        0 => format!("SET string:{n} value-{n}"),
        1 => format!("RPUSH list:{n} a b c {n}"),
        2 => format!("HSET hash:{n} field value number {n}"),
        3 => format!("ZADD zset:{n} 0.1 a {n}.25 b"),
        _ => format!("SADD set:{n} x y {n}"),
    };
    let commands: Vec<Vec<Vec<u8>>> = (0..keys)
        .map(|n| {
            words(n)
                .split(' ')
                .map(|word| word.as_bytes().to_vec())
                .collect()
        })
        .collect();
    client.pipeline(&commands);
}
