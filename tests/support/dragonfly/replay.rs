//! A recorded capture, to be served as it was recorded.
//!
//! Facts: `meta.json` gives the handshake, the tokens, where STARTSTABLE fell in each flow's bytes, and the
//!   positions; `flow-N.bin` is what flow N received after its `DFLY FLOW` reply; `flow-N.partial.bin` the same
//!   after a reconnection with positions.

use bytes::Bytes;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// One flow of a capture.
#[derive(Clone, Debug)]
pub struct RecordedFlow {
    /// The token of its `DFLY FLOW` reply.
    pub token: String,
    /// What it sent before STARTSTABLE.
    pub snapshot: Bytes,
    /// What it sent from there on.
    pub stable: Bytes,
    /// The next position when STARTSTABLE was given, and when the recording ended.
    pub lsn: (u64, u64),
    /// The token of its `DFLY FLOW` reply after the reconnection, if there was one.
    pub second_token: Option<String>,
    /// What came after the reconnection, if there was one that led to a partial sync.
    pub partial: Option<RecordedPartial>,
}

/// One flow of a partial sync.
#[derive(Clone, Debug)]
pub struct RecordedPartial {
    /// The position that was asked for.
    pub from: u64,
    /// What was sent.
    pub bytes: Bytes,
    /// The next position when the recording ended.
    pub lsn_end: u64,
}

/// A capture.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The release.
    pub server: String,
    /// The master's id.
    pub master_id: String,
    /// The number of the first session.
    pub first_session: u32,
    /// How many flows there are.
    pub flows: usize,
    /// What each flow sent.
    pub recorded: Vec<RecordedFlow>,
}

impl Replay {
    /// Reads a capture's directory.
    ///
    /// # Panics
    /// When it holds no capture.
    #[must_use]
    #[track_caller]
    pub fn load(directory: &Path) -> Self {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
        };
        let meta: Value = serde_json::from_slice(&read("meta.json")).expect("meta.json is JSON");
        let flows = number(&meta["flows"]) as usize;
        let partial = |flow: usize| {
            let kind = text(&meta["partial"]["flow_replies"][flow][0]);
            (kind == "PARTIAL").then(|| RecordedPartial {
                from: number(&meta["partial"]["from_lsn"][flow]),
                bytes: read(&format!("flow-{flow}.partial.bin")).into(),
                lsn_end: number(&meta["partial"]["lsn_end"][flow]),
            })
        };
        let recorded = (0..flows).map(|flow| {
            let all = Bytes::from(read(&format!("flow-{flow}.bin")));
            let split = number(&meta["bytes_before_startstable"][flow]) as usize;
            RecordedFlow {
                token: text(&meta["flow_replies"][flow][1]),
                snapshot: all.slice(..split),
                stable: all.slice(split..),
                lsn: (
                    number(&meta["lsn_before_startstable"][flow]),
                    number(&meta["lsn_end"][flow]),
                ),
                second_token: meta["partial"]["flow_replies"][flow][1]
                    .as_str()
                    .map(|token| token.trim_start_matches('+').to_owned()),
                partial: partial(flow),
            }
        });
        let session = text(&meta["master_reply"][1]);
        Self {
            server: text(&meta["server"]),
            master_id: text(&meta["master_reply"][0]),
            first_session: session
                .trim_start_matches("SYNC")
                .parse()
                .expect("a session such as SYNC1"),
            flows,
            recorded: recorded.collect(),
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number in meta.json")
}

/// A string without the recorder's mark of a simple string.
fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_default()
        .trim_start_matches('+')
        .to_owned()
}
