//! The names of log fields, so that one thing has one name everywhere. Units are part of the name.

/// The task.
pub const TASK: &str = "task";
/// The task file.
pub const FILE: &str = "file";
/// The program's version and commit.
pub const VERSION: &str = "version";
/// A process.
pub const PID: &str = "pid";
/// What a task is doing: the name of a phase.
pub const PHASE: &str = "phase";
/// Which flow, counted from 0.
pub const FLOW: &str = "flow";
/// How many flows.
pub const FLOWS: &str = "flows";
/// Hash slots of a cluster.
pub const SLOTS: &str = "slots";
/// The address of a server.
pub const ADDR: &str = "addr";
/// An error with its causes.
pub const ERROR: &str = "error";
/// Why something is done.
pub const REASON: &str = "reason";
/// What the operator can do about it.
pub const HINT: &str = "hint";
/// Which attempt, counted from 1.
pub const ATTEMPT: &str = "attempt";
/// How long until the next attempt, milliseconds.
pub const WAIT_MS: &str = "wait_ms";
/// A database.
pub const DB: &str = "db";
/// A key, escaped.
pub const KEY: &str = "key";
/// A command's name.
pub const COMMAND: &str = "command";
/// How many keys.
pub const KEYS: &str = "keys";
/// Out of how many.
pub const OF: &str = "of";
/// How many there may be.
pub const LIMIT: &str = "limit";
/// How many entries.
pub const ENTRIES: &str = "entries";
/// How many bytes.
pub const BYTES: &str = "bytes";
/// How many entries a second.
pub const ENTRIES_PER_S: &str = "entries_per_s";
/// Bytes of the memory budget in use.
pub const MEMORY_BYTES: &str = "memory_bytes";
/// How many times a connection was made again.
pub const RECONNECTS: &str = "reconnects";
/// How many were lost.
pub const LOST: &str = "lost";
/// How many were left out by a policy.
pub const SKIPPED: &str = "skipped";
/// How long something took, milliseconds.
pub const TOOK_MS: &str = "took_ms";
/// How far the target is behind the source, entries of the slowest flow.
pub const LAG_ENTRIES: &str = "lag_entries";
/// How far the target is behind the source, milliseconds of the slowest flow.
pub const LAG_MS: &str = "lag_ms";
/// A position in a flow: the LSN of an entry.
pub const POSITION: &str = "position";
/// What kind of thing.
pub const KIND: &str = "kind";
/// What it is about: a key or a command, escaped.
pub const WHAT: &str = "what";
/// What a server is: its kind and release.
pub const SERVER: &str = "server";
/// A replication session at the source.
pub const SESSION: &str = "session";
/// Flows that are done with their snapshot.
pub const FLOWS_DONE: &str = "flows_done";
/// How many keys a second.
pub const KEYS_PER_S: &str = "keys_per_s";
/// How many were left out because the target cannot hold or do them.
pub const UNSUPPORTED: &str = "unsupported";
/// Copies of HyperLogLogs on flows that do not own them, dropped.
pub const GHOSTS: &str = "ghosts";
/// Keys on flows that should not own them, kept.
pub const NOT_OWNED: &str = "not_owned";

/// A hint in a log line, or no field at all where there is none.
pub struct Hint(pub Option<String>);

impl slog::KV for Hint {
    fn serialize(&self, _: &slog::Record<'_>, out: &mut dyn slog::Serializer) -> slog::Result {
        match &self.0 {
            Some(hint) => out.emit_str(HINT, hint),
            None => Ok(()),
        }
    }
}
/// How many were copied with less than the source has: without the expiry of members, say.
pub const REDUCED: &str = "reduced";
/// How long something has been so, milliseconds.
pub const SINCE_MS: &str = "since_ms";
/// Sessions of a task.
pub const SESSIONS: &str = "sessions";
/// How many times a task was started again.
pub const RESTARTS: &str = "restarts";
/// Where entries come from, and what it is.
pub const SOURCE: &str = "source";
/// Where entries go, and what it is.
pub const TARGET: &str = "target";
/// The source's own position in a flow.
pub const SOURCE_POSITION: &str = "source_position";
/// Where in the source code.
pub const PLACE: &str = "place";
/// A thread's name.
pub const THREAD: &str = "thread";
/// One line of a backtrace.
pub const FRAME: &str = "frame";

/// Bytes in use at the source.
pub const SOURCE_BYTES: &str = "source_bytes";
/// Bytes that memory and spool can hold.
pub const ROOM_BYTES: &str = "room_bytes";
/// On disk for the target, bytes.
pub const SPOOL_BYTES: &str = "spool_bytes";
/// Age of the oldest entry that is not applied, milliseconds.
pub const OLDEST_MS: &str = "oldest_ms";
/// Until the target has caught up, milliseconds.
pub const EMPTY_IN_MS: &str = "empty_in_ms";
/// How long the source's ring lasts, milliseconds.
pub const RING_WINDOW_MS: &str = "ring_window_ms";
/// How long the spool lasts, milliseconds.
pub const SPOOL_WINDOW_MS: &str = "spool_window_ms";
/// A master's replication id.
pub const MASTER: &str = "master";
/// The replication id of the master in whose place another one goes on.
pub const LAST_MASTER: &str = "last_master";
/// How a key differs: names of `df2redis check`.
pub const CLASS: &str = "class";
/// How many keys differ.
pub const DIFFERENT: &str = "different";
/// How many of them were set right.
pub const REPAIRED: &str = "repaired";
/// How many keys nothing could be said about.
pub const UNSETTLED: &str = "unsettled";
