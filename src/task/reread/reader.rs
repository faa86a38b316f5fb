//! The connection on which withheld keys are read, shared by all flows of a session.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::list::{Answer, Place};
use crate::source::dragonfly::{Monitor, Reading, Settings, SourceError};

/// Keys read between two positions. More would make it likelier that one of them is written meanwhile.
pub(crate) const AT_ONCE: usize = 128;

/// Bytes of values read at once without a rest, and how fast more of them are read: the source serves nobody else of a
/// shard while it serialises a large value.
const WITHOUT_REST: u64 = 1 << 20;
const BYTES_PER_MS: u64 = 50_000;

/// How long is waited before the source is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// A flow's question.
#[derive(Debug)]
pub(crate) struct Ask {
    pub flow: u32,
    /// At most [`AT_ONCE`].
    pub places: Vec<Place>,
    pub answer: oneshot::Sender<Answer>,
}

/// Answers questions for ever. A source that cannot be reached is tried again: the flows notice by themselves.
///
/// # Errors
/// What trying again does not mend, such as a permission that is missing.
pub(crate) async fn read_again(
    source: Settings,
    spill_dir: PathBuf,
    mut asks: mpsc::Receiver<Ask>,
) -> Result<Infallible, SourceError> {
    let mut monitor = None;
    while let Some(ask) = asks.recv().await {
        let reading = loop {
            match read(&source, &spill_dir, &mut monitor, &ask).await {
                Ok(reading) => break reading,
                Err(error) if error.is_temporary() => {
                    monitor = None;
                    sleep(AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        };
        let flow = ask.flow as usize;
        let position = |positions: &[u64]| positions.get(flow).copied().unwrap_or_default();
        let answer = Answer {
            from: position(&reading.from),
            to: position(&reading.to),
            values: ask.places.into_iter().zip(reading.values).collect(),
        };
        let rest = rest(&answer);
        // A flow that has ended wants no answer.
        drop(ask.answer.send(answer));
        sleep(rest).await;
    }
    // The sender lives in the context, which outlives every part.
    std::future::pending().await
}

/// How long the source is left in peace after this.
fn rest(answer: &Answer) -> Duration {
    let found = answer.values.iter().filter_map(|(_, found)| found.as_ref());
    let bytes: u64 = found.map(|found| found.payload.len()).sum();
    Duration::from_millis(bytes.saturating_sub(WITHOUT_REST) / BYTES_PER_MS)
}

async fn read(
    source: &Settings,
    spill_dir: &std::path::Path,
    monitor: &mut Option<Monitor>,
    ask: &Ask,
) -> Result<Reading, SourceError> {
    let mut open = match monitor.take() {
        Some(open) => open,
        None => Monitor::open(source).await?,
    };
    let keys: Vec<_> = ask
        .places
        .iter()
        .map(|place| (place.db, &*place.key))
        .collect();
    let reading = open.read(&keys, spill_dir).await?;
    *monitor = Some(open);
    Ok(reading)
}
