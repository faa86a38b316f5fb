//! A simulated Dragonfly master: the replication protocol over TCP, from a data set and a script of writes.
//!
//! It behaves as a real one does where a replica can tell: handshake by release, one connection per flow,
//! snapshots with compressed blobs and tagged chunks, journal entries between them, a ring for replicas that come
//! back, writers that wait for slow replicas. It also watches the replica: an order that would crash or freeze a
//! real master is a violation, and [`SimulatedDragonfly`] panics when it is dropped with one.
//!
//! ```text
//! let source = SimulatedDragonfly::options().flows(4).dataset(Dataset::strings(1000, 100)).start();
//! ... a replica connects to source.address() ...
//! source.journal(0, ["SET", "k", "v"]);
//! source.wait_acked();
//! ```
//!
//! Without a backing store the data set does not change with the journal: a later snapshot is the same as the
//! first. With one ([`Options::backing_store`]) ordinary clients write to it, and snapshots are taken from it.

pub mod commands;
pub mod connection;
pub mod convert;
pub mod dataset;
pub mod encode;
pub mod faults;
pub mod front;
pub mod hub;
pub mod journal;
pub mod link;
pub mod options;
pub mod release;
pub mod replay;
pub mod report;
pub mod rewrite;
pub mod ring;
pub mod script;
pub mod sender;
pub mod shard;
pub mod snapshot;
pub mod socket_queue;
pub mod stream_value;
pub mod sync;
pub mod tokens;
pub mod value;

pub use dataset::{Dataset, Record};
pub use faults::Fault;
pub use journal::Stamp;
pub use options::Options;
pub use script::Script;
pub use shard::BlockedWrites;
pub use snapshot::Compression;
pub use stream_value::{Consumer, Group, Pending, Stream, StreamId};
pub use value::Value;

use self::connection::{Conn, serve};
use self::front::Front;
use self::hub::Hub;
use self::link::Phase;
use self::snapshot::plans;
use super::client::Client;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A running simulated master. Dropping it ends it.
pub struct SimulatedDragonfly {
    hub: Arc<Hub>,
    addr: SocketAddr,
    oracle: Option<u16>,
    acceptor: Option<JoinHandle<()>>,
}

impl SimulatedDragonfly {
    /// How to set one up: v1.40.1, two flows, empty, until told otherwise.
    #[must_use]
    pub fn options() -> Options {
        Options::new()
    }

    /// An empty master of v1.40.1 with two flows.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Options::new().start()
    }

    #[track_caller]
    fn with(options: Options) -> Self {
        let listener =
            TcpListener::bind(("127.0.0.1", options.port)).expect("a free port on 127.0.0.1");
        let addr = listener.local_addr().expect("the address of a listener");
        let send_buffer = options.send_buffer;
        if let Some(bytes) = send_buffer {
            socket2::SockRef::from(&listener)
                .set_send_buffer_size(bytes)
                .expect("a send buffer of that size");
        }
        let front = options.backing.then(Front::start);
        let oracle = front.as_ref().map(Front::port);
        let hub = Arc::new(Hub::new(options, front));
        let shared = Arc::clone(&hub);
        let acceptor = std::thread::Builder::new()
            .name("simulated dragonfly".into())
            .spawn(move || accept(&shared, &listener))
            .expect("a thread");
        Self {
            hub,
            addr,
            oracle,
            acceptor: Some(acceptor),
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        self.addr.to_string()
    }

    /// An ordinary connection to it.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.port())
    }

    /// The port of the Redis behind it, which holds what a replica's target must come to hold.
    ///
    /// # Panics
    /// When it has no backing store.
    #[must_use]
    #[track_caller]
    pub fn oracle(&self) -> u16 {
        self.oracle
            .expect("a backing store: Options::backing_store")
    }

    /// The master's id.
    #[must_use]
    pub fn master_id(&self) -> &str {
        &self.hub.master_id
    }

    /// How many flows it has.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.hub.shards.len()
    }

    /// The flow that owns a key.
    #[must_use]
    pub fn flow_of(&self, key: impl AsRef<[u8]>) -> usize {
        self.hub.flow_of(key.as_ref())
    }

    /// Journals a command on the flow that owns its first key; answers its position, or 0 while no replica has
    /// ever come. Waits while that flow's output is full.
    pub fn journal<A: AsRef<[u8]>>(&self, db: u32, args: impl IntoIterator<Item = A>) -> u64 {
        let args: Vec<A> = args.into_iter().collect();
        let flow = encode::first_key(&args).map_or(0, |key| self.hub.flow_of(key));
        self.hub.journal_on(flow, Stamp::single(db), &args)
    }

    /// Journals a command on a flow of choice, whoever owns its keys.
    pub fn journal_on<A: AsRef<[u8]>>(
        &self,
        flow: usize,
        db: u32,
        args: impl IntoIterator<Item = A>,
    ) -> u64 {
        self.journal_stamped(flow, Stamp::single(db), args)
    }

    /// Journals a command with an opcode, a transaction and a number of shards of choice.
    pub fn journal_stamped<A: AsRef<[u8]>>(
        &self,
        flow: usize,
        stamp: Stamp,
        args: impl IntoIterator<Item = A>,
    ) -> u64 {
        self.hub
            .journal_on(flow, stamp, &args.into_iter().collect::<Vec<A>>())
    }

    /// Journals a global command, such as `["FLUSHALL"]`, on every flow at one moment.
    pub fn journal_global<A: AsRef<[u8]>>(
        &self,
        db: u32,
        args: impl IntoIterator<Item = A>,
    ) -> Vec<u64> {
        self.hub
            .journal_global(db, &args.into_iter().collect::<Vec<A>>())
    }

    /// Journals a PING on every flow.
    pub fn ping(&self) -> Vec<u64> {
        self.hub.ping()
    }

    /// Journals the deletion of a key that expired.
    pub fn journal_expired(&self, db: u32, key: impl AsRef<[u8]>) -> u64 {
        let key = key.as_ref();
        let stamp = Stamp {
            op: self.hub.options.release.expiry_opcode(),
            ..Stamp::single(db)
        };
        self.hub
            .journal_on(self.hub.flow_of(key), stamp, &[b"DEL", key])
    }

    /// A new transaction id, for [`Self::journal_stamped`].
    #[must_use]
    pub fn next_txid(&self) -> u64 {
        self.hub.next_txid()
    }

    /// Puts bytes into a flow's stream as they are, after what was journalled before.
    pub fn raw(&self, flow: usize, bytes: &[u8]) {
        self.hub.shards[flow]
            .lock()
            .links
            .iter_mut()
            .for_each(|link| link.inject(bytes));
    }

    /// Lets positions pass without entries, as a master does that omits redundant writes; the ring is emptied.
    pub fn skip_positions(&self, flow: usize, entries: u64) {
        self.hub.shards[flow].lock().ring.skip(entries);
    }

    /// Replaces what snapshots hold from now on.
    pub fn set_dataset(&self, dataset: &Dataset) {
        self.hub
            .set_plans(plans(dataset, self.flows(), self.hub.options.framing));
    }

    /// Bytes of all flows' snapshots as they would be sent, without header and end.
    #[must_use]
    pub fn snapshot_bytes(&self) -> u64 {
        self.hub.plans().iter().map(|plan| plan.bytes()).sum()
    }

    /// The next position of a flow.
    #[must_use]
    pub fn next_lsn(&self, flow: usize) -> u64 {
        self.hub.shards[flow].lock().ring.next()
    }

    /// The oldest position of a flow that a replica can still resume from.
    #[must_use]
    pub fn oldest_lsn(&self, flow: usize) -> u64 {
        self.hub.shards[flow].lock().ring.oldest()
    }

    /// The last position that was acknowledged on a flow, by whatever session.
    #[must_use]
    pub fn acked(&self, flow: usize) -> Option<u64> {
        self.hub.shards[flow].lock().acked
    }

    /// Whether every flow's next position is acknowledged.
    #[must_use]
    pub fn all_acked(&self) -> bool {
        (0..self.flows()).all(|flow| self.acked(flow) == Some(self.next_lsn(flow)))
    }

    /// Waits until every flow's next position is acknowledged.
    ///
    /// # Panics
    /// When that takes longer than the tests' patience.
    #[track_caller]
    pub fn wait_acked(&self) {
        super::eventually("every entry acknowledged", || self.all_acked());
    }

    /// The server on this port holds what this one does, once every entry is acknowledged.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn assert_copied(&self, target: u16) {
        self.wait_acked();
        assert_eq!(super::compare(self.oracle(), target), Vec::<String>::new());
    }

    /// How many replicas are in stable sync.
    #[must_use]
    pub fn stable_replicas(&self) -> usize {
        self.hub
            .sessions()
            .live
            .values()
            .filter(|session| session.phase == Phase::Stable)
            .count()
    }

    /// How many sessions there are, in whatever state.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.hub.sessions().live.len()
    }

    /// Waits until a replica is in stable sync.
    ///
    /// # Panics
    /// When that takes longer than the tests' patience.
    #[track_caller]
    pub fn wait_stable(&self) {
        super::eventually("a replica in stable sync", || self.stable_replicas() > 0);
    }

    /// How many full syncs have reached stable sync.
    #[must_use]
    pub fn full_syncs(&self) -> u64 {
        self.hub.syncs().0
    }

    /// How many partial syncs have reached stable sync.
    #[must_use]
    pub fn partial_syncs(&self) -> u64 {
        self.hub.syncs().1
    }

    /// Why sessions have ended, one line each.
    #[must_use]
    pub fn ended_sessions(&self) -> Vec<String> {
        self.hub.sessions().ended.clone()
    }

    /// Ends all sessions in order, as `CLIENT KILL` would.
    pub fn drop_replicas(&self) {
        let live: Vec<u32> = self.hub.sessions().live.keys().copied().collect();
        live.into_iter()
            .for_each(|session| self.hub.drop_session(session, "the operator ended it"));
    }

    /// Writers that waited because a replica's output was full, over all flows.
    #[must_use]
    pub fn blocked_writes(&self) -> BlockedWrites {
        let all = self.hub.shards.iter().map(|shard| shard.lock().blocked());
        all.fold(BlockedWrites::default(), |sum, one| BlockedWrites {
            count: sum.count + one.count,
            total: sum.total + one.total,
            longest: sum.longest.max(one.longest),
        })
    }

    /// Bytes of a flow that are journalled and not yet taken by the kernel, of the slowest replica.
    #[must_use]
    pub fn unsent(&self, flow: usize) -> usize {
        self.hub.shards[flow]
            .lock()
            .links
            .iter()
            .map(|link| link.unsent)
            .max()
            .unwrap_or(0)
    }

    /// Makes something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.hub.inject(fault);
    }

    /// Makes everything go right again.
    pub fn clear_faults(&self) {
        self.hub.clear_faults();
    }

    /// What would have harmed a real master so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.hub.violations()
    }

    /// The same, and forgets it: the test expected it.
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        self.hub.take_violations()
    }

    /// Ends it as a process ends: all connections at once. Its port can be used again.
    pub fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        self.hub.stop();
        // Wakes the accepting thread.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        let _ = acceptor.join();
    }
}

impl Drop for SimulatedDragonfly {
    fn drop(&mut self) {
        self.stop();
        let violations = self.take_violations();
        if std::thread::panicking() {
            let ended = self.ended_sessions();
            eprintln!(
                "--- simulated dragonfly: violations {violations:#?}, ended sessions {ended:#?}"
            );
        } else {
            assert!(
                violations.is_empty(),
                "a real master would have been harmed: {violations:#?}"
            );
        }
    }
}

fn accept(hub: &Arc<Hub>, listener: &TcpListener) {
    for stream in listener.incoming() {
        if hub.stopping() {
            return;
        }
        let Ok(Ok(conn)) = stream.map(Conn::new) else {
            continue;
        };
        let conn = Arc::new(conn);
        hub.remember(&conn);
        let shared = Arc::clone(hub);
        hub.spawn(format!("connection {}", conn.peer), move || {
            serve(&shared, &conn)
        });
    }
}
