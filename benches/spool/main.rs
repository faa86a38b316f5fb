//! What the spool costs: throughput through memory and disk, time from push to the other side, and what reading back
//! gives.
//!
//! `cargo bench --bench spool`. Batches of about 64 KiB of small SET commands, on the file system of `$SPOOL_DIR` (the
//! system's directory for temporary files). `BENCH_SCALE=4` pushes four times as much.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use df2redis::entry::{Batch, Body, Budget, Command, Item, Share, Span};
use df2redis::spool::{Durability, Found, Identity, Inlet, Outlet, Settings, Spool, encode};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::sync::mpsc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Bytes of one batch, about.
const BATCH: usize = 64 << 10;
/// Bytes of one command's words.
const WORDS: usize = 60;
/// Commands of one batch.
const COMMANDS: u64 = (BATCH / (WORDS + 4)) as u64;

/// Batches that differ only in their LSNs.
struct Source {
    bytes: Bytes,
    next: u64,
}

impl Source {
    fn new() -> Self {
        let mut bytes = Vec::new();
        for key in 0..COMMANDS {
            let key = format!("\x03SET\x0ckey:{key:08}\x28");
            bytes.extend_from_slice(b"head");
            bytes.extend(key.bytes().chain(std::iter::repeat(b'v')).take(WORDS));
        }
        let bytes = bytes.into();
        Self { bytes, next: 1 }
    }

    fn batch(&mut self) -> Batch {
        self.batch_of(COMMANDS)
    }

    fn batch_of(&mut self, commands: u64) -> Batch {
        let items = (0..commands).map(|command| {
            let start = command as u32 * (WORDS as u32 + 4) + 4;
            let lsn = Some(self.next + command);
            let len = WORDS as u32;
            Item::Command(Command {
                db: 0,
                lsn,
                txid: 0,
                words: 3,
                args: Body::Inline(Span { start, len }),
            })
        });
        let items = items.collect();
        self.next += commands;
        let len = commands as usize * (WORDS + 4);
        Batch {
            // As from a socket: bytes that are not shared with the batch before.
            bytes: Bytes::copy_from_slice(self.bytes.get(..len).unwrap_or_default()),
            items,
            received_at_ms: 0,
            share: Share::none(),
        }
    }
}

/// Wall clock and processor time of some bytes: the program's own, and the kernel's.
struct Took {
    bytes: u64,
    wall: Duration,
    own: Duration,
    kernel: Duration,
}

fn cpu() -> (Duration, Duration) {
    getrusage(UsageWho::RUSAGE_SELF).map_or((Duration::ZERO, Duration::ZERO), |usage| {
        let part = |time: nix::sys::time::TimeVal| {
            Duration::from_secs(time.tv_sec().unsigned_abs())
                + Duration::from_micros(time.tv_usec().unsigned_abs())
        };
        (part(usage.user_time()), part(usage.system_time()))
    })
}

/// Measures what `moving` needs for `bytes`.
async fn measure<T>(bytes: u64, moving: impl Future<Output = Result<T>>) -> Result<(Took, T)> {
    let (wall, (own, kernel)) = (Instant::now(), cpu());
    let moved = moving.await?;
    let (wall, after) = (wall.elapsed(), cpu());
    let took = Took {
        bytes,
        wall,
        own: after.0 - own,
        kernel: after.1 - kernel,
    };
    Ok((took, moved))
}

fn print(what: &str, took: &Took, without: Option<&Took>) {
    let gigabytes = took.bytes as f64 / 1e9;
    let spared = without.map_or(Duration::ZERO, |without| without.own);
    let per_gigabyte = |time: Duration| time.as_secs_f64() / gigabytes;
    println!(
        "  {what:<50}{:>6.2} GB/s   per GB: {:>5.2} s own, {:>5.2} s kernel",
        gigabytes / took.wall.as_secs_f64(),
        per_gigabyte(took.own.saturating_sub(spared)),
        per_gigabyte(took.kernel)
    );
}

fn settings() -> Settings {
    Settings {
        max_size: 1 << 40,
        min_free: 0,
        keep: Duration::ZERO,
        sync: Durability::Never,
        memory: 32 << 20,
    }
}

fn spool(dir: &Path) -> Result<Spool> {
    let identity = Identity::of("0".repeat(40), 1);
    Ok(Found::at(dir)?.start_anew(&identity, settings())?)
}

async fn push(mut inlet: Inlet, mut source: Source, batches: u64) -> Result<Inlet> {
    for _ in 0..batches {
        inlet.push(source.batch()).await?;
    }
    Ok(inlet)
}

/// Consumes batches, and says how many bytes they had.
async fn consume(outlet: &mut Outlet, batches: u64) -> Result<u64> {
    let mut bytes = 0;
    for _ in 0..batches {
        let Some(batch) = outlet.next().await? else {
            return Err("the flow ended early".into());
        };
        bytes += batch.bytes.len() as u64;
        outlet.applied(match batch.items.last() {
            Some(Item::Command(Command { lsn: Some(lsn), .. })) => lsn + 1,
            _ => 0,
        });
    }
    Ok(bytes)
}

/// The channel that stood where the spool stands.
async fn channel(batches: u64) -> Result<()> {
    let budget = Budget::new(16 << 20);
    let (sender, mut receiver) = mpsc::channel(32);
    let pushing = tokio::spawn(async move {
        let mut source = Source::new();
        for _ in 0..batches {
            let mut batch = source.batch();
            batch.share = budget.take(batch.bytes.len() * 2).await;
            if sender.send(batch).await.is_err() {
                break;
            }
        }
    });
    while receiver.recv().await.is_some() {}
    Ok(pushing.await?)
}

/// The same bytes into a file, and nothing else: what the kernel takes for it.
async fn plain_file(dir: &Path, batches: u64, keep: bool) -> Result<()> {
    let bytes = Source::new().bytes;
    let path = dir.join("plain");
    let writing = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let per_file = (16 << 20) / BATCH as u64;
        let mut left = batches;
        while left > 0 {
            let name = if keep {
                format!("plain-{left}")
            } else {
                "plain".to_owned()
            };
            let mut file = File::create(path.with_file_name(name))?;
            for _ in 0..per_file.min(left) {
                file.write_all(&bytes)?;
            }
            left -= per_file.min(left);
        }
        Ok(())
    });
    writing.await??;
    for entry in std::fs::read_dir(dir)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

async fn through_memory(dir: &Path, batches: u64) -> Result<()> {
    let spool = spool(dir)?;
    let (inlet, mut outlet) = (spool.inlet(0)?, spool.outlet(0)?);
    let pushing = tokio::spawn(async move {
        let pushed = push(inlet, Source::new(), batches).await;
        pushed.map_err(|error| error.to_string())
    });
    consume(&mut outlet, batches).await?;
    let inlet = pushing.await??;
    let mut on_disk = inlet.on_disk().ok_or("no such flow")?;
    on_disk.reached(batches * COMMANDS + 1).await;
    println!(
        "    read back from disk: {} bytes",
        spool.status().read_bytes
    );
    Ok(())
}

async fn to_disk(spool: &Spool, batches: u64) -> Result<()> {
    let inlet = push(spool.inlet(0)?, Source::new(), batches).await?;
    let mut on_disk = inlet.on_disk().ok_or("no such flow")?;
    on_disk.reached(batches * COMMANDS + 1).await;
    Ok(())
}

/// Percentiles of the time from push to the other side, in microseconds, of batches that come one by one.
async fn latency(dir: Option<&Path>, commands: u64) -> Result<String> {
    const ROUNDS: usize = 4000;
    let mut times = Vec::with_capacity(ROUNDS);
    let (sent, mut starts) = mpsc::unbounded_channel();
    let pause = || tokio::time::sleep(Duration::from_millis(1));
    let mut source = Source::new();
    match dir {
        Some(dir) => {
            let spool = spool(dir)?;
            let (mut inlet, mut outlet) = (spool.inlet(0)?, spool.outlet(0)?);
            let pushing = tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    pause().await;
                    let batch = source.batch_of(commands);
                    let _ = sent.send(Instant::now());
                    if let Err(error) = inlet.push(batch).await {
                        return Err(error.to_string());
                    }
                }
                Ok(())
            });
            while outlet.next().await?.is_some() {
                let start = starts.recv().await.ok_or("a batch that was not sent")?;
                times.push(start.elapsed());
            }
            pushing.await??;
        }
        None => {
            let (sender, mut receiver) = mpsc::channel(32);
            let pushing = tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    pause().await;
                    let batch = source.batch_of(commands);
                    let _ = sent.send(Instant::now());
                    if sender.send(batch).await.is_err() {
                        break;
                    }
                }
            });
            while receiver.recv().await.is_some() {
                let start = starts.recv().await.ok_or("a batch that was not sent")?;
                times.push(start.elapsed());
            }
            pushing.await?;
        }
    }
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        let time = times.get(index.min(times.len().saturating_sub(1)));
        time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    let (half, most, nearly_all) = (at(0.5), at(0.9), at(0.99));
    Ok(format!(
        "p50 {half:>7.1} us   p90 {most:>7.1} us   p99 {nearly_all:>7.1} us"
    ))
}

async fn run() -> Result<()> {
    let scale = std::env::var("BENCH_SCALE").ok();
    let scale: f64 = scale.as_deref().unwrap_or("1").parse()?;
    let place = std::env::var_os("SPOOL_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(place)?;
    let dir = dir.path();
    let batches = ((30_000_f64 * scale) as u64).max(1);
    let bytes = batches * COMMANDS * (WORDS as u64 + 4);
    let mut source = Source::new();
    let making = async {
        for _ in 0..batches {
            drop(source.batch());
        }
        Ok(())
    };
    println!(
        "{:.1} GB in batches of {COMMANDS} SET commands; processor time less that of making them",
        bytes as f64 / 1e9
    );
    let (made, ()) = measure(bytes, making).await?;
    print("making the batches", &made, None);
    let encoding = async {
        let batch = source.batch();
        for _ in 0..batches {
            std::hint::black_box(encode(&batch)?);
        }
        Ok(())
    };
    let (took, ()) = measure(bytes, encoding).await?;
    print(
        "records of one batch, checksums and a copy included",
        &took,
        None,
    );
    let (took, ()) = measure(bytes, channel(batches)).await?;
    print("through a channel, nothing on disk", &took, Some(&made));
    let (took, ()) = measure(bytes, plain_file(dir, batches, false)).await?;
    print("write(2) alone, 16 MiB at a time, overwritten", &took, None);
    let (took, ()) = measure(bytes, through_memory(dir, batches)).await?;
    print(
        "through the spool's memory, and all to disk",
        &took,
        Some(&made),
    );
    let (took, ()) = measure(bytes, plain_file(dir, batches, true)).await?;
    print("write(2) alone, and all stays", &took, None);
    let spool = spool(dir)?;
    let (took, ()) = measure(bytes, to_disk(&spool, batches)).await?;
    print("to disk, with nobody at the outlet", &took, Some(&made));
    let mut outlet = spool.outlet(0)?;
    let (took, read) = measure(bytes, consume(&mut outlet, batches)).await?;
    print("and back from disk", &took, None);
    if read != bytes {
        return Err(format!("{read} bytes came back instead of {bytes}").into());
    }
    drop((outlet, spool));
    for commands in [1, COMMANDS] {
        println!("  latency of batches of {commands}");
        println!(
            "    through a channel        {}",
            latency(None, commands).await?
        );
        println!(
            "    through the spool        {}",
            latency(Some(dir), commands).await?
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    // Test runners start every target and ask it for its tests: there are none here.
    if !std::env::args().any(|argument| argument == "--bench") {
        eprintln!("benchmarks are run by `cargo bench`");
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(run())
}
