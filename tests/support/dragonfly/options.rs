//! How a simulated master is set up.

use super::dataset::Dataset;
use super::release::Release;
use super::snapshot::{Compression, Framing};
use super::{SimulatedDragonfly, replay::Replay};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A user of the access control list.
#[derive(Clone, Debug)]
pub struct User {
    /// The password.
    pub password: String,
    /// The commands that are allowed, in lower case; `None` for all.
    pub commands: Option<Vec<String>>,
}

/// Settings of a simulated master; [`Options::start`] starts it.
#[derive(Clone)]
pub struct Options {
    pub(super) release: Release,
    pub(super) flows: usize,
    pub(super) dataset: Dataset,
    pub(super) framing: Framing,
    pub(super) ring: u64,
    pub(super) initial_lsn: u64,
    pub(super) last_master: Option<(String, Vec<u64>)>,
    pub(super) output_limit: usize,
    pub(super) replication_timeout: Duration,
    pub(super) gather_for: Duration,
    pub(super) send_buffer: Option<usize>,
    pub(super) users: BTreeMap<String, User>,
    pub(super) backing: bool,
    pub(super) offset_in_blob: bool,
    pub(super) port: u16,
    pub(super) master_id: Option<String>,
    pub(super) first_session: u32,
    pub(super) replay: Option<Replay>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) used_memory: Option<u64>,
    pub(super) clock_ms: Option<i64>,
    pub(super) defects: bool,
    pub(super) holds: Option<u16>,
}

impl Options {
    /// A master of v1.40.1 with two flows and nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Release::parse("df-v1.40.1"))
    }

    fn of(release: Release) -> Self {
        Self {
            release,
            flows: 2,
            dataset: Dataset {
                release,
                records: Vec::new(),
                scripts: Vec::new(),
            },
            framing: Framing::of(release),
            ring: release.ring(),
            initial_lsn: 1,
            last_master: None,
            output_limit: release.output_limit(),
            replication_timeout: release.replication_timeout(),
            gather_for: Duration::from_millis(1),
            send_buffer: None,
            users: BTreeMap::new(),
            backing: false,
            offset_in_blob: false,
            port: 0,
            master_id: None,
            first_session: 1,
            replay: None,
            settings: Vec::new(),
            used_memory: None,
            clock_ms: None,
            defects: false,
            holds: None,
        }
    }

    /// Another release, with its behaviour. Call it before what it would overwrite: data and sizes.
    ///
    /// # Panics
    /// When the text names no release.
    #[must_use]
    #[track_caller]
    pub fn release(self, name: &str) -> Self {
        Self {
            flows: self.flows,
            backing: self.backing,
            users: self.users,
            port: self.port,
            defects: self.defects,
            ..Self::of(Release::parse(name))
        }
    }

    /// The number of flows.
    #[must_use]
    pub fn flows(self, flows: usize) -> Self {
        Self { flows, ..self }
    }

    /// What a snapshot holds. It is encoded, framed and compressed before [`Options::start`] returns.
    #[must_use]
    pub fn dataset(self, dataset: Dataset) -> Self {
        Self { dataset, ..self }
    }

    /// How flushes are compressed.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.framing.compression = compression;
        self
    }

    /// Whether big values are cut into tagged chunks.
    #[must_use]
    pub fn tagged_chunks(mut self, tagged: bool) -> Self {
        self.framing.tagged = tagged;
        self
    }

    /// The size of a tagged chunk.
    #[must_use]
    pub fn chunk_bytes(mut self, bytes: usize) -> Self {
        self.framing.chunk_bytes = bytes;
        self
    }

    /// The size of a flush.
    #[must_use]
    pub fn flush_bytes(mut self, bytes: usize) -> Self {
        self.framing.flush_bytes = bytes;
        self
    }

    /// Whether other keys stand between the chunks of one key.
    #[must_use]
    pub fn interleaved(mut self, interleaved: bool) -> Self {
        self.framing.interleaved = interleaved;
        self
    }

    /// Keys with a hash tag are on the flow of the tag, as with `--lock_on_hashtags` and in a cluster mode.
    #[must_use]
    pub fn by_hash_tag(mut self) -> Self {
        self.framing.by_tag = true;
        self
    }

    /// How many entries are kept for replicas that come back.
    #[must_use]
    pub fn ring(self, entries: u64) -> Self {
        Self {
            ring: entries,
            ..self
        }
    }

    /// It was a replica of the master with this id until it was promoted, and goes on with these positions, one for
    /// each flow.
    #[must_use]
    pub fn promoted_from(self, master_id: &str, lsns: Vec<u64>) -> Self {
        Self {
            last_master: Some((master_id.to_owned(), lsns)),
            ..self
        }
    }

    /// The position of the first entry on every flow.
    #[must_use]
    pub fn initial_lsn(self, lsn: u64) -> Self {
        Self {
            initial_lsn: lsn,
            ..self
        }
    }

    /// Unsent bytes of a flow at which writers wait.
    #[must_use]
    pub fn output_limit(self, bytes: usize) -> Self {
        Self {
            output_limit: bytes,
            ..self
        }
    }

    /// How long writers wait, and a snapshot may hang, before the replica is dropped.
    #[must_use]
    pub fn replication_timeout(self, timeout: Duration) -> Self {
        Self {
            replication_timeout: timeout,
            ..self
        }
    }

    /// The kernel's send buffer of each connection, to make "unsent" begin early.
    #[must_use]
    pub fn send_buffer(self, bytes: usize) -> Self {
        Self {
            send_buffer: Some(bytes),
            ..self
        }
    }

    /// A password for the default user.
    #[must_use]
    pub fn require_password(self, password: &str) -> Self {
        self.user("default", password, None)
    }

    /// A user and the commands it may give, in lower case; `None` for all.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str, commands: Option<&[&str]>) -> Self {
        let commands =
            commands.map(|list| list.iter().map(|command| (*command).to_owned()).collect());
        self.users.insert(
            name.to_owned(),
            User {
                password: password.to_owned(),
                commands,
            },
        );
        self
    }

    /// Lets `CONFIG GET` show this flag. Without, it shows none: a real master hides most of them, too.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets `INFO memory` show so many bytes in use. Without, it shows none.
    #[must_use]
    pub fn used_memory(self, bytes: u64) -> Self {
        Self {
            used_memory: Some(bytes),
            ..self
        }
    }

    /// A real Redis behind it: ordinary clients can then write, snapshots are taken from it, and
    /// [`SimulatedDragonfly::oracle`] is what a replica's target must come to hold.
    #[must_use]
    pub fn backing_store(self) -> Self {
        Self {
            backing: true,
            ..self
        }
    }

    /// Its journal has the defects of a real one's: see `rewrite`.
    #[must_use]
    pub fn defects(self) -> Self {
        Self {
            defects: true,
            ..self
        }
    }

    /// Keys read from it are as the Redis on this port has them: what a recorded master came to hold.
    #[must_use]
    pub fn holds(self, port: u16) -> Self {
        Self {
            holds: Some(port),
            ..self
        }
    }

    /// Puts the journal's offset into a compressed blob, as a busy master does.
    #[must_use]
    pub fn offset_in_blob(self, wanted: bool) -> Self {
        Self {
            offset_in_blob: wanted,
            ..self
        }
    }

    /// The port; 0 for any free one.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// What its clock shows when it is started, Unix milliseconds; the machine's time until told otherwise.
    #[must_use]
    pub fn clock(self, unix_ms: i64) -> Self {
        Self {
            clock_ms: Some(unix_ms),
            ..self
        }
    }

    /// The master's id, and the number of its first session.
    #[must_use]
    pub fn identity(self, master_id: &str, first_session: u32) -> Self {
        Self {
            master_id: Some(master_id.to_owned()),
            first_session,
            ..self
        }
    }

    /// Serves what was recorded in a directory of `tests/captures`: its handshake, its streams, its positions.
    ///
    /// # Panics
    /// When the directory holds no capture.
    #[must_use]
    #[track_caller]
    pub fn replay(directory: impl AsRef<Path>) -> Self {
        let replay = Replay::load(directory.as_ref());
        Self {
            flows: replay.flows,
            initial_lsn: 1,
            first_session: replay.first_session,
            master_id: Some(replay.master_id.clone()),
            replay: Some(replay.clone()),
            ..Self::of(Release::parse(&replay.server))
        }
    }

    /// Starts it.
    ///
    /// # Panics
    /// When no port is free, or the backing store does not start.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> SimulatedDragonfly {
        SimulatedDragonfly::with(self)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
