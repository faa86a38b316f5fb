//! What differs between Dragonfly releases, as far as a replica can see it.
//!
//! Facts: the public sources of v1.14 to v1.40.1; the handshakes and streams of v1.27.4 and v1.40.1 as recorded
//!   in `tests/captures/dragonfly`.

use std::time::Duration;

/// A release, ordered as releases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Release {
    /// Reads `df-v1.40.1`, `v1.40.1` or `1.40.1`.
    ///
    /// # Panics
    /// When it is none of these.
    #[must_use]
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let digits = text.trim_start_matches("df-").trim_start_matches('v');
        let numbers: Vec<u32> = digits
            .split('.')
            .filter_map(|part| part.parse().ok())
            .collect();
        let [major, minor, patch] = numbers[..] else {
            panic!("{text} is no release such as df-v1.40.1")
        };
        Self {
            major,
            minor,
            patch,
        }
    }

    /// `df-v1.40.1`.
    #[must_use]
    pub fn name(self) -> String {
        format!("df-v{}.{}.{}", self.major, self.minor, self.patch)
    }

    fn at_least(self, minor: u32, patch: u32) -> bool {
        (self.major, self.minor, self.patch) >= (1, minor, patch)
    }

    /// The backport branch v1.28.30 and later, which has parts of v1.30.
    fn backport(self, patch: u32) -> bool {
        (self.major, self.minor) == (1, 28) && self.patch >= patch
    }

    /// The fourth element of the handshake reply; before v1.4 there is none.
    #[must_use]
    pub fn handshake_number(self) -> Option<i64> {
        match self.minor {
            0..=3 => None,
            4..=10 => Some(1),
            11..=15 => Some(2),
            16..=21 => Some(4),
            22..=29 if !self.backport(30) => Some(3),
            22..=36 => Some(4),
            _ => Some(5),
        }
    }

    /// Whether the handshake reply has a fifth element.
    #[must_use]
    pub fn has_lineage(self) -> bool {
        self.at_least(40, 0)
    }

    /// Whether `DFLY FLOW` takes a position.
    #[must_use]
    pub fn flow_takes_lsn(self) -> bool {
        self.at_least(11, 0)
    }

    /// Whether `DFLY FLOW` takes an old master's id and a vector of positions.
    #[must_use]
    pub fn flow_takes_vector(self) -> bool {
        self.at_least(30, 0) || self.backport(30)
    }

    /// Whether a position can lead to `+PARTIAL`.
    #[must_use]
    pub fn resumes(self) -> bool {
        (self.at_least(11, 0) && !self.at_least(20, 2)) || self.backport(32) || self.at_least(31, 0)
    }

    /// Whether a partial sync goes straight to `DFLY STARTSTABLE`; before, `DFLY SYNC` comes in between.
    #[must_use]
    pub fn resumes_without_sync(self) -> bool {
        self.at_least(35, 0)
    }

    /// Whether LSN opcodes are sent to a replica that announced this number.
    #[must_use]
    pub fn sends_lsn(self, announced: u64) -> bool {
        let ver4 = if self.at_least(22, 0) { 3 } else { 4 };
        self.at_least(30, 0) || (self.at_least(16, 0) && announced >= ver4)
    }

    /// Entries kept for replicas that come back.
    #[must_use]
    pub fn ring(self) -> u64 {
        if self.at_least(34, 0) { 8192 } else { 1024 }
    }

    /// Unsent bytes of a flow at which writers are held up.
    #[must_use]
    pub fn output_limit(self) -> usize {
        if self.at_least(34, 0) {
            1 << 20
        } else {
            64 << 10
        }
    }

    /// How long writers are held up, or a snapshot write may hang, before the replica is dropped.
    #[must_use]
    pub fn replication_timeout(self) -> Duration {
        Duration::from_millis(match self.minor {
            0..=19 => u64::MAX,
            20..=21 => 500,
            22 => 10_000,
            _ => 30_000,
        })
    }

    /// Journal bytes gathered before they are sent, or a moment's delay; before v1.33 nothing is gathered.
    #[must_use]
    pub fn gathers(self) -> usize {
        if self.at_least(33, 0) { 1500 } else { 1 }
    }

    /// Whether the snapshot names the release in its header.
    #[must_use]
    pub fn has_version_field(self) -> bool {
        self.at_least(26, 0)
    }

    /// Whether the snapshot's header names the shard.
    #[must_use]
    pub fn has_shard_fields(self) -> bool {
        self.at_least(32, 0)
    }

    /// Whether big values are cut into tagged chunks unless told otherwise.
    #[must_use]
    pub fn tags_chunks(self) -> bool {
        self.at_least(40, 0)
    }

    /// The opcode of a deletion by expiry: `EXPIRED` up to v1.37.
    #[must_use]
    pub fn expiry_opcode(self) -> u8 {
        if self.at_least(38, 0) { 10 } else { 9 }
    }

    /// Whether entries carry the true number of shards; from v1.38 they always say 1.
    #[must_use]
    pub fn counts_shards(self) -> bool {
        !self.at_least(38, 0)
    }

    /// Whether a PING entry is preceded by SELECT.
    #[must_use]
    pub fn selects_before_ping(self) -> bool {
        !self.at_least(16, 0)
    }

    /// The word `INFO` and `ROLE` use for a replica in stable sync.
    #[must_use]
    pub fn stable_word(self) -> &'static str {
        if self.at_least(22, 0) {
            "online"
        } else {
            "stable_sync"
        }
    }

    /// Small hashes and sorted sets travel as listpacks from v1.31.
    #[must_use]
    pub fn sends_listpacks(self) -> bool {
        self.at_least(31, 0)
    }

    /// Streams carry their newer fields (type 21) from v1.27.
    #[must_use]
    pub fn sends_stream_3(self) -> bool {
        self.at_least(27, 0)
    }

    /// The type number of JSON documents.
    #[must_use]
    pub fn json_type(self) -> u8 {
        if self.at_least(15, 0) { 30 } else { 20 }
    }
}
