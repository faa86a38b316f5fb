//! What all threads of a simulated master share: shards, sessions, faults, violations.
//!
//! Invariants: locks are taken in the order front, sessions, shards by number, and the small ones (faults,
//!   violations) last and alone; a session's end closes all of its connections, as the real master does.
//! Facts: the orders that harm a real master are those observed on v1.40.1 and v1.27.4.

use super::connection::Conn;
use super::faults::{Fault, Faults, Met};
use super::front::Front;
use super::link::Phase;
use super::options::Options;
use super::shard::Shard;
use super::snapshot::{FlowPlan, plans};
use super::tokens;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// The master's view of one replica.
pub struct Session {
    /// The announced address.
    pub ip: String,
    /// The announced port.
    pub port: u32,
    /// The announced version number.
    pub version: Option<u64>,
    /// How far it is: the most advanced phase of the session as a whole.
    pub phase: Phase,
    /// Its flows, as far as they are registered, with their connections.
    pub flows: BTreeMap<usize, (u64, Arc<Conn>)>,
    /// Its control connection.
    pub control: Arc<Conn>,
}

/// All sessions, and how many there were.
#[derive(Default)]
pub struct Sessions {
    /// Those that live.
    pub live: BTreeMap<u32, Session>,
    /// The number of the next one.
    pub next: u32,
    /// What ended the others.
    pub ended: Vec<String>,
}

/// The state of a simulated master.
pub struct Hub {
    /// How it was set up.
    pub options: Options,
    /// Its id, 40 hexadecimal characters.
    pub master_id: String,
    /// Its shards, one for each flow.
    pub shards: Vec<Shard>,
    /// Where in the data set each key is, once somebody has asked for one.
    pub(super) places: OnceLock<HashMap<(u32, Vec<u8>), usize>>,
    /// The backing store, if there is one.
    pub front: Option<Mutex<Front>>,
    plans: Mutex<Vec<Arc<FlowPlan>>>,
    sessions: Mutex<Sessions>,
    faults: Mutex<Faults>,
    faulty: AtomicBool,
    violations: Mutex<Vec<String>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    conns: Mutex<Vec<std::sync::Weak<Conn>>>,
    stopping: AtomicBool,
    txid: AtomicU64,
    /// How often each key that some client has watched was in a command that writes.
    pub(super) touched: Mutex<HashMap<Vec<u8>, u64>>,
    pub(super) link_id: AtomicU64,
    pub(super) syncs: (AtomicU64, AtomicU64),
    pub(super) started: std::time::SystemTime,
}

/// A refusal: the text after `-ERR `.
pub type Refusal = &'static str;

impl Hub {
    /// The state of a master that has just been started.
    #[must_use]
    pub fn new(options: Options, front: Option<Front>) -> Self {
        let last_master = options.last_master.as_ref();
        let first = |flow: usize| match (&options.replay, last_master) {
            (Some(replay), _) => replay.recorded[flow].lsn.0.max(1),
            (None, Some((_, lsns))) => lsns[flow],
            (None, None) => options.initial_lsn,
        };
        let shards: Vec<Shard> = (0..options.flows)
            .map(|flow| Shard::new(options.ring, first(flow)))
            .collect();
        // A replica that is promoted starts its journal.
        for shard in &shards {
            shard.lock().running = last_master.is_some();
        }
        let prepared = match &options.replay {
            Some(replay) => replay
                .recorded
                .iter()
                .map(|flow| FlowPlan::raw(flow.snapshot.to_vec()))
                .collect(),
            None => plans(&options.dataset, options.flows, options.framing),
        };
        let master_id = options.master_id.clone().unwrap_or_else(tokens::token);
        let sessions = Sessions {
            next: options.first_session,
            ..Sessions::default()
        };
        Self {
            master_id,
            shards,
            places: OnceLock::new(),
            front: front.map(Mutex::new),
            plans: Mutex::new(prepared.into_iter().map(Arc::new).collect()),
            sessions: Mutex::new(sessions),
            faults: Mutex::default(),
            faulty: AtomicBool::new(false),
            violations: Mutex::default(),
            threads: Mutex::default(),
            conns: Mutex::default(),
            stopping: AtomicBool::new(false),
            txid: AtomicU64::new(1),
            touched: Mutex::default(),
            link_id: AtomicU64::new(1),
            started: std::time::SystemTime::now(),
            syncs: (AtomicU64::new(0), AtomicU64::new(0)),
            options,
        }
    }

    /// A request or an order of requests that would have harmed a real master.
    pub fn violation(&self, what: impl Into<String>) {
        lock(&self.violations).push(what.into());
    }

    /// The violations so far; they are forgotten here.
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.violations))
    }

    /// The violations so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    /// Whether it is being stopped.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The faults that are set.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    /// Whether any fault is set.
    #[must_use]
    pub fn faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    /// Sets a fault.
    pub fn inject(&self, fault: Fault) {
        if let Fault::WrongLsn { flow, by } = &fault
            && let Some(shard) = self.shards.get(*flow)
        {
            shard
                .lock()
                .links
                .iter_mut()
                .for_each(|link| link.lsn_error = *by);
        }
        self.faults().add(fault);
        self.faulty.store(true, Ordering::SeqCst);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.faults().clear();
        self.faulty.store(false, Ordering::SeqCst);
        self.shards.iter().for_each(|shard| {
            shard
                .lock()
                .links
                .iter_mut()
                .for_each(|link| link.lsn_error = 0)
        });
    }

    /// What a request meets instead of its answer.
    #[must_use]
    pub fn meet(&self, request: &[Vec<u8>]) -> Option<Met> {
        if !self.faulty() {
            return None;
        }
        let words: Vec<String> = request
            .iter()
            .take(4)
            .map(|word| String::from_utf8_lossy(word).to_uppercase())
            .collect();
        self.faults().meet(&words.join(" "))
    }

    /// The sessions.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }

    /// A new transaction id.
    pub fn next_txid(&self) -> u64 {
        self.txid.fetch_add(1, Ordering::SeqCst)
    }

    /// How many full and partial syncs have reached stable sync.
    #[must_use]
    pub fn syncs(&self) -> (u64, u64) {
        (
            self.syncs.0.load(Ordering::SeqCst),
            self.syncs.1.load(Ordering::SeqCst),
        )
    }

    /// Replaces what snapshots hold from now on.
    pub fn set_plans(&self, new: Vec<FlowPlan>) {
        *lock(&self.plans) = new.into_iter().map(Arc::new).collect();
    }

    /// What a snapshot started now would send.
    #[must_use]
    pub fn plans(&self) -> Vec<Arc<FlowPlan>> {
        lock(&self.plans).clone()
    }

    /// Runs a thread that [`Hub::stop`] waits for.
    pub fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) {
        if let Ok(thread) = std::thread::Builder::new().name(name).spawn(body) {
            let mut threads = lock(&self.threads);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        }
    }

    /// Remembers a connection, so that [`Hub::stop`] can end it.
    pub fn remember(&self, conn: &Arc<Conn>) {
        let mut conns = lock(&self.conns);
        conns.retain(|conn| conn.strong_count() > 0);
        conns.push(Arc::downgrade(conn));
    }

    /// Ends all sessions and connections, and waits for their threads.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for shard in &self.shards {
            shard.lock().stopping = true;
            shard.room_made();
        }
        let live: Vec<u32> = self.sessions().live.keys().copied().collect();
        live.into_iter()
            .for_each(|session| self.drop_session(session, "the master ended"));
        lock(&self.conns)
            .iter()
            .filter_map(std::sync::Weak::upgrade)
            .for_each(|conn| {
                conn.close();
                let _ = conn.stream.shutdown(std::net::Shutdown::Both);
            });
        loop {
            let Some(thread) = lock(&self.threads).pop() else {
                return;
            };
            let _ = thread.join();
        }
    }

    /// Creates a session for a control connection; answers its number.
    pub fn open_session(&self, control: &Arc<Conn>, ip: String, port: u32) -> u32 {
        let mut sessions = self.sessions();
        let id = sessions.next;
        sessions.next += 1;
        let control = Arc::clone(control);
        let session = Session {
            ip,
            port,
            version: None,
            phase: Phase::Registered,
            flows: BTreeMap::new(),
            control,
        };
        sessions.live.insert(id, session);
        id
    }

    /// Ends a session: its flows, and all of its connections.
    pub fn drop_session(&self, id: u32, why: &str) {
        let mut sessions = self.sessions();
        let Some(session) = sessions.live.remove(&id) else {
            return;
        };
        sessions.ended.push(format!("SYNC{id}: {why}"));
        for shard in &self.shards {
            shard.lock().drop_session(id);
            shard.room_made();
        }
        session.flows.values().for_each(|(_, conn)| conn.close());
        session.control.close();
    }

    /// Ends the session that a flow belongs to.
    pub fn drop_session_of(&self, shard: usize, link: u64, why: &str) {
        let session = self.shards[shard]
            .lock()
            .link(link)
            .map(|link| link.session);
        if let Some(session) = session {
            self.drop_session(session, why);
        }
    }

    /// Notes an acknowledgement.
    pub fn acknowledge(&self, flow: usize, link: u64, position: u64) {
        let mut state = self.shards[flow].lock();
        // The flow may have ended on this side while its last acknowledgement was on its way.
        state.acked = Some(position);
        if let Some(link) = state.link(link) {
            link.acked = position;
        }
    }
}

/// A lock, also after a panic elsewhere.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
