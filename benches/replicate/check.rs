//! Comparing two servers that hold the same, against the rate at which each of them gives out all of it.
//!
//! (a) is `DUMP` of keys, pipelined over as many connections as there are flows, of each server alone; (b) is
//! `df2redis check` in full mode, which reads both at the same time. Without a real Dragonfly a second Redis stands
//! in for the source: the simulated one is not made to be fast at reading.

use crate::blast::{Lane, blast, connect};
use crate::machine::redis_version;
use crate::support::{Client, RealDragonfly, RedisServer, Reply};
use crate::table::{self, Goal, Row, median};
use crate::workload::Workload;
use crate::{FLOWS, Result};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Commands in a row: Dragonfly v1.40.1 comes to rest on tens of thousands that nobody reads the replies of.
const ROW: usize = 512;

/// Keys of which the values are given out: so many are enough for a rate.
const GIVEN_OUT: usize = 20_000;

/// What stands for the source.
enum Source {
    Real(RealDragonfly),
    Redis(RedisServer),
}

impl Source {
    fn holding(lanes: &[Lane]) -> Result<Self> {
        let source = match RealDragonfly::named() {
            Some(program) => Self::Real(RealDragonfly::start(&program, FLOWS)?),
            None => Self::Redis(RedisServer::start()),
        };
        blast(source.port(), lanes)?;
        Ok(source)
    }

    fn port(&self) -> u16 {
        match self {
            Self::Real(real) => real.port(),
            Self::Redis(redis) => redis.port(),
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Real(_) => "(a) DUMP, the source, Dragonfly",
            Self::Redis(_) => "(a) DUMP, the source, here Redis too",
        }
    }
}

/// Measures one data set and prints its table.
///
/// # Errors
/// When something fails or the two are not found equal; numbers that miss a goal are no failure.
pub fn measure(workload: &Workload, runs: usize) -> Result<()> {
    let target = RedisServer::start();
    let redis = redis_version(&mut target.client());
    let lanes = workload.lanes(&redis)?;
    let source = Source::holding(&lanes)?;
    blast(target.port(), &lanes)?;
    let keys = all_keys(&mut target.client());
    let (mut sources, mut targets, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    let part = keys.get(..GIVEN_OUT).unwrap_or(&keys);
    for _ in 0..runs {
        sources.push(dumps(source.port(), part)?);
        targets.push(dumps(target.port(), part)?);
        checks.push(check(source.port(), target.port(), keys.len())?);
    }
    let slower = median(&sources).min(median(&targets));
    let ratio = median(&checks) / slower;
    table::print(
        &format!("check: {} ({} keys)", workload.about, keys.len()),
        &[
            Row::new(source.about(), "keys/s", sources),
            Row::new("(a) DUMP, the target", "keys/s", targets),
            Row::new("(b) df2redis check, full", "keys/s", checks),
            Row::new("(b) / slower (a)", "of 1", vec![ratio]).goal(Goal::AtLeast(0.5)),
        ],
    );
    Ok(())
}

fn all_keys(client: &mut Client) -> Vec<Vec<u8>> {
    let (mut cursor, mut keys) = (b"0".to_vec(), Vec::new());
    loop {
        let reply = client.ok(&[b"SCAN".as_slice(), &cursor, b"COUNT", b"10000"]);
        if let [next, found] = reply.items() {
            cursor = next.bytes();
            keys.extend(found.items().iter().map(Reply::bytes));
        }
        if cursor == b"0" {
            return keys;
        }
    }
}

/// Keys in a second.
fn dumps(port: u16, keys: &[Vec<u8>]) -> Result<f64> {
    let part = keys.len().div_ceil(FLOWS).max(1);
    let mut lanes = Vec::new();
    for part in keys.chunks(part) {
        let mut rows = Vec::new();
        for row in part.chunks(ROW) {
            let mut lane = Lane::default();
            row.iter()
                .for_each(|key| lane.push(&[b"DUMP", key.as_slice()]));
            rows.push(lane);
        }
        lanes.push((connect(port)?, rows));
    }
    let began = Instant::now();
    std::thread::scope(|scope| {
        let lanes = lanes.iter().map(|(stream, rows)| {
            scope.spawn(move || {
                let mut reader = BufReader::with_capacity(64 << 10, stream);
                let mut writer: &TcpStream = stream;
                // One row ahead, so that the server never waits for us.
                let mut sent = rows.iter();
                sent.next()
                    .map_or(Ok(()), |row| writer.write_all(&row.bytes))?;
                for row in rows {
                    sent.next()
                        .map_or(Ok(()), |row| writer.write_all(&row.bytes))?;
                    payloads(&mut reader, row.ends.len())?;
                }
                io::Result::Ok(())
            })
        });
        for lane in lanes.collect::<Vec<_>>() {
            lane.join()
                .map_err(|_| "a connection's thread panicked")??;
        }
        Result::Ok(())
    })?;
    Ok(keys.len() as f64 / began.elapsed().as_secs_f64())
}

/// Reads so many payloads.
fn payloads(reader: &mut BufReader<&TcpStream>, count: usize) -> io::Result<()> {
    let mut line = Vec::new();
    for _ in 0..count {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        let len = line.strip_prefix(b"$").and_then(|line| {
            let text = std::str::from_utf8(line).ok()?;
            text.trim_end().parse::<u64>().ok()
        });
        let len =
            len.ok_or_else(|| io::Error::other(format!("no payload: {}", line.escape_ascii())))?;
        io::copy(&mut reader.by_ref().take(len + 2), &mut io::sink())?;
    }
    Ok(())
}

/// Keys in a second.
fn check(source: u16, target: u16, keys: usize) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("bench.toml");
    let text = format!(
        "[source]\naddress = \"127.0.0.1:{source}\"\n[target]\naddress = \"127.0.0.1:{target}\"\n"
    );
    fs::write(&config, text)?;
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_df2redis"))
        .args(["check", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .output()?;
    let took = began.elapsed();
    if output.status.code() != Some(0) {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        return Err(format!("the servers were not found equal: {said}").into());
    }
    Ok(keys as f64 / took.as_secs_f64())
}
