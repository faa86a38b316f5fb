//! Data sets in both forms: as a snapshot of the simulated Dragonfly holds them, and as commands.

use crate::FLOWS;
use crate::blast::Lane;
use crate::support::dragonfly::dataset::{Dataset, Record};
use crate::support::dragonfly::encode::{dump, shard_of};
use crate::support::dragonfly::{Stream, StreamId, Value};
use df2redis::rdb::convert::{self, StreamConverter};
use df2redis::rdb::{self, kind};

/// One data set.
pub struct Workload {
    /// What it is, in words.
    pub about: String,
    /// Its keys.
    pub keys: u64,
    /// Bytes of its keys and values.
    pub bytes: u64,
    /// Whether its entries are small strings.
    pub small_strings: bool,
    /// What the simulated source holds.
    pub dataset: Dataset,
}

impl Workload {
    /// Strings of 100 bytes.
    pub fn strings(count: usize) -> Self {
        let mut workload = Self::of(
            format!("{count} strings of 100 bytes"),
            Dataset::strings(count, 100),
        );
        workload.small_strings = true;
        workload
    }

    /// Small lists, sets, hashes, sorted sets and streams.
    pub fn collections(count: usize) -> Self {
        let streams = count / 5;
        let mut dataset = Dataset::collections(count - streams);
        for n in 0..streams {
            let entries = (0..5 + n as u64 % 20).map(|at| {
                let fields = [("user", n.to_string()), ("action", format!("visit-{at}"))];
                let fields = fields.map(|(name, value)| (name.into(), value.into_bytes()));
                (StreamId(1_700_000_000_000 + at, n as u64), fields.to_vec())
            });
            dataset.stream(format!("s:{n}"), &Stream::of(entries.collect()));
        }
        Self::of(
            format!("{count} lists, sets, hashes, sorted sets and streams"),
            dataset,
        )
    }

    /// So many bytes in one key of each type but streams.
    pub fn huge(bytes: usize) -> Self {
        let about = format!(
            "{} MiB in five keys: a string, a list, a set, a hash, a sorted set",
            bytes >> 20
        );
        Self::of(about, Dataset::huge(bytes, 5))
    }

    fn of(about: String, dataset: Dataset) -> Self {
        Self {
            about,
            keys: dataset.len() as u64,
            bytes: dataset.bytes(),
            small_strings: false,
            dataset,
        }
    }

    /// The cheapest commands that make it, one lane for each flow.
    ///
    /// # Errors
    /// When a value is not one that its type allows.
    pub fn lanes(&self, redis: &str) -> Result<Vec<Lane>, String> {
        let mut lanes = vec![Lane::default(); FLOWS];
        for record in &self.dataset.records {
            let lane = shard_of(&record.key, FLOWS);
            push(record, redis, &mut lanes[lane])
                .map_err(|error| format!("key {}: {error}", record.key.escape_ascii()))?;
        }
        Ok(lanes)
    }
}

/// `SET` for a string, `RESTORE` for anything else.
fn push(record: &Record, redis: &str, lane: &mut Lane) -> Result<(), String> {
    let Value {
        kind: from, bytes, ..
    } = &record.value;
    if *from == kind::STRING {
        let (value, _) = rdb::decode(*from, bytes).map_err(|error| error.to_string())?;
        let rdb::Value::String(text) = value else {
            return Err("a string that is none".to_owned());
        };
        lane.push(&[b"SET", record.key.as_slice(), &text]);
        return Ok(());
    }
    let payload = if *from == kind::STREAM && older_than_7_2(redis) {
        let older =
            StreamConverter::new(*from, kind::STREAM_19).map_err(|error| error.to_string())?;
        let value = convert::stream(older, bytes).map_err(|halt| format!("{halt:?}"))?;
        dump(kind::STREAM_19, &value)
    } else {
        dump(*from, bytes)
    };
    lane.push(&[b"RESTORE", record.key.as_slice(), b"0", &payload]);
    Ok(())
}

fn older_than_7_2(redis: &str) -> bool {
    let mut numbers = redis
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (7, 2)
}
