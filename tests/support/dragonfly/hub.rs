//! What all threads of a simulated master share: shards, sessions, faults, violations.
//!
//! Invariants: locks are taken in the order front, sessions, shards by number, and the small ones (faults,
//!   violations) last and alone; a session's end closes all of its connections, as the real master does.
//! Facts: the orders that harm a real master are those observed on v1.40.1 and v1.27.4.

use super::connection::Conn;
use super::faults::{Fault, Faults, Met};
use super::front::Front;
use super::link::{Link, Phase};
use super::options::Options;
use super::sender;
use super::shard::Shard;
use super::snapshot::{FlowPlan, header, plans};
use super::{socket_queue, tokens};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

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
    link_id: AtomicU64,
    syncs: (AtomicU64, AtomicU64),
}

/// A refusal: the text after `-ERR `.
pub type Refusal = &'static str;

impl Hub {
    /// The state of a master that has just been started.
    #[must_use]
    pub fn new(options: Options, front: Option<Front>) -> Self {
        let first = |flow: usize| match &options.replay {
            Some(replay) => replay.recorded[flow].lsn.0.max(1),
            None => options.initial_lsn,
        };
        let shards = (0..options.flows)
            .map(|flow| Shard::new(options.ring, first(flow)))
            .collect();
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
            link_id: AtomicU64::new(1),
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

    /// Registers a flow. Answers whether it resumes, its token, its id, and what starts its sending thread.
    ///
    /// # Errors
    /// With the real master's refusals.
    pub fn register(
        self: &Arc<Self>,
        conn: &Arc<Conn>,
        session: u32,
        flow: usize,
        wanted: Option<u64>,
    ) -> Result<(bool, String, u64), Refusal> {
        let mut sessions = self.sessions();
        let live = sessions.live.get_mut(&session).ok_or("syncid not found")?;
        if live.phase != Phase::Registered {
            return Err("invalid state");
        }
        if live.flows.contains_key(&flow) {
            self.violation(format!("flow {flow} of SYNC{session} was registered twice"));
            return Err("invalid state");
        }
        let release = self.options.release;
        let mut state = self
            .shards
            .get(flow)
            .ok_or("value is not an integer or out of range")?
            .lock();
        let resumes = wanted.filter(|from| match &self.options.replay {
            Some(replay) => replay.recorded[flow]
                .partial
                .as_ref()
                .is_some_and(|partial| partial.from == *from),
            None => {
                release.resumes()
                    && state.running
                    && (state.ring.oldest()..=state.ring.next()).contains(from)
            }
        });
        state.running = true;
        let token = self.token(flow, resumes.is_some());
        let id = self.link_id.fetch_add(1, Ordering::SeqCst);
        let options = &self.options;
        let mut link = Link::new(
            id,
            session,
            token.clone(),
            options.framing,
            release.gathers(),
            options.gather_for,
        );
        link.partial_from = resumes;
        link.acked = resumes.unwrap_or(0);
        link.sends_lsn = release.sends_lsn(live.version.unwrap_or(0));
        link.lsn_error = self.faults().lsn_error(flow);
        state.links.push(link);
        live.flows.insert(flow, (id, Arc::clone(conn)));
        Ok((resumes.is_some(), token, id))
    }

    /// Starts the thread that writes a registered flow; only after the reply to `DFLY FLOW` is out.
    pub fn start_sender(self: &Arc<Self>, conn: &Arc<Conn>, flow: usize, link: u64) {
        let (hub, conn) = (Arc::clone(self), Arc::clone(conn));
        self.spawn(format!("flow {flow}"), move || {
            sender::run(&hub, flow, link, &conn)
        });
    }

    fn token(&self, flow: usize, partial: bool) -> String {
        let recorded = self
            .options
            .replay
            .as_ref()
            .and_then(|replay| replay.recorded.get(flow));
        match recorded {
            Some(recorded) if partial => recorded
                .partial
                .as_ref()
                .map(|partial| partial.token.clone()),
            Some(recorded) => Some(recorded.token.clone()),
            None => None,
        }
        .unwrap_or_else(tokens::token)
    }

    /// `DFLY SYNC`: the snapshot of all flows starts at one moment.
    ///
    /// # Errors
    /// With the real master's refusals.
    pub fn start_snapshot(&self, id: u32) -> Result<(), Refusal> {
        // With a backing store no client writes between the copy and the first journal entry.
        let mut front = self.front.as_ref().map(lock);
        let taken = front.as_mut().map(|front| front.snapshot(&self.options));
        let mut sessions = self.sessions();
        let live = sessions.live.get_mut(&id).ok_or("syncid not found")?;
        if live.phase != Phase::Registered || live.flows.len() != self.shards.len() {
            return Err("invalid state");
        }
        let (plans, scripts) = match taken {
            Some(dataset) => {
                let plans = plans(&dataset, self.shards.len(), self.options.framing);
                (plans.into_iter().map(Arc::new).collect(), dataset.scripts)
            }
            None => (self.plans(), self.options.dataset.scripts.clone()),
        };
        let mut states: Vec<_> = self.shards.iter().map(Shard::lock).collect();
        let links = states
            .iter_mut()
            .flat_map(|state| state.links.iter_mut())
            .filter(|link| link.session == id);
        if links.filter(|link| link.partial_from.is_some()).count() > 0
            && self.options.release.resumes_without_sync()
        {
            return Err("invalid state");
        }
        for (flow, state) in states.iter_mut().enumerate() {
            let next = state.ring.next();
            let missed = state
                .links
                .iter()
                .find(|link| link.session == id)
                .and_then(|link| link.partial_from);
            let missed: Vec<Vec<u8>> = match missed {
                Some(from) => state
                    .ring
                    .since(from)
                    .ok_or("partial sync failed")?
                    .iter()
                    .map(|e| e.to_vec())
                    .collect(),
                None => Vec::new(),
            };
            let Some(link) = state.links.iter_mut().find(|link| link.session == id) else {
                continue;
            };
            let recorded = self.options.replay.is_some();
            let mut head = if recorded {
                Vec::new()
            } else {
                header(self.options.release, flow, self.shards.len(), &scripts)
            };
            if self.faulty() {
                head.extend(self.faults().after_header(flow));
            }
            let plan = if link.partial_from.is_some() {
                Arc::default()
            } else {
                Arc::clone(&plans[flow])
            };
            link.start_snapshot(head, plan, recorded);
            let now = Instant::now();
            for entry in missed {
                link.deliver(&entry, next, &[], now);
            }
        }
        live.phase = Phase::Snapshot;
        Ok(())
    }

    /// `DFLY STARTSTABLE`: every flow ends its snapshot and goes on with the journal, all at one moment.
    ///
    /// # Errors
    /// With the real master's refusals.
    pub fn start_stable(&self, id: u32) -> Result<(), Refusal> {
        let early = self.early_flows(id);
        let mut sessions = self.sessions();
        let live = sessions.live.get_mut(&id).ok_or("syncid not found")?;
        let mut states: Vec<_> = self.shards.iter().map(Shard::lock).collect();
        let links = states
            .iter()
            .flat_map(|state| &state.links)
            .filter(|link| link.session == id);
        let partial = links.filter(|link| link.partial_from.is_some()).count();
        let skips_sync =
            self.options.release.resumes_without_sync() && partial == self.shards.len();
        match live.phase {
            Phase::Snapshot => {}
            Phase::Registered if skips_sync && live.flows.len() == self.shards.len() => {}
            Phase::Registered if live.flows.len() > partial => {
                self.violation(format!(
                    "STARTSTABLE of SYNC{id} while a full flow had no SYNC"
                ));
                return Err("invalid state");
            }
            Phase::Registered | Phase::Stable => return Err("invalid state"),
        }
        if !early.is_empty() {
            self.violation(format!(
                "STARTSTABLE of SYNC{id} before the end of the snapshot was read on flows {early:?}"
            ));
        }
        for (flow, state) in states.iter_mut().enumerate() {
            self.flow_stable(flow, state, id)?;
        }
        live.phase = Phase::Stable;
        let counter = if partial == self.shards.len() {
            &self.syncs.1
        } else {
            &self.syncs.0
        };
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// The flows of a session whose replica cannot have read `FULLSYNC_END` yet.
    fn early_flows(&self, id: u32) -> Vec<usize> {
        let flows: Vec<(usize, Arc<Conn>)> = match self.sessions().live.get(&id) {
            Some(live) => live
                .flows
                .iter()
                .map(|(flow, (_, conn))| (*flow, Arc::clone(conn)))
                .collect(),
            None => return Vec::new(),
        };
        let unread: Vec<u64> = flows
            .iter()
            .map(|(_, conn)| socket_queue::unread_by_peer(&conn.stream))
            .collect();
        let begun = |flow: usize| {
            let state = self.shards[flow].lock();
            let link = state.links.iter().find(|link| link.session == id);
            link.is_none_or(|link| link.phase != Phase::Snapshot || link.end_taken)
        };
        // Our own thread may not have counted yet what the replica has read already: it gets a moment.
        let read = |flow: usize, unread: u64| {
            let state = self.shards[flow].lock();
            let link = state.links.iter().find(|link| link.session == id);
            link.is_none_or(|link| {
                link.phase != Phase::Snapshot
                    || link.end_at.is_some_and(|end| link.written >= end + unread)
            })
        };
        let early = flows.iter().zip(unread).filter(|((flow, _), unread)| {
            !begun(*flow)
                || !super::super::within(std::time::Duration::from_millis(50), || {
                    read(*flow, *unread)
                })
        });
        early.map(|((flow, _), _)| *flow).collect()
    }

    fn flow_stable(
        &self,
        flow: usize,
        state: &mut super::shard::ShardState,
        id: u32,
    ) -> Result<(), Refusal> {
        let recorded = self
            .options
            .replay
            .as_ref()
            .and_then(|replay| replay.recorded.get(flow));
        let from = state
            .links
            .iter()
            .find(|link| link.session == id)
            .and_then(|link| link.partial_from);
        let direct =
            from.filter(|_| self.options.release.resumes_without_sync() && recorded.is_none());
        let missed: Vec<Vec<u8>> = match direct {
            Some(from) => state
                .ring
                .since(from)
                .ok_or("partial sync failed")?
                .iter()
                .map(|e| e.to_vec())
                .collect(),
            None => Vec::new(),
        };
        let next = state.ring.next();
        let Some(link) = state.links.iter_mut().find(|link| link.session == id) else {
            return Ok(());
        };
        let mut token = link.token.clone();
        if self.faulty() && self.faults().wrong_token(flow) {
            token = token.chars().rev().collect();
        }
        let mut skip_to = next;
        match (
            recorded,
            recorded
                .and_then(|recorded| recorded.partial.as_ref())
                .filter(|_| from.is_some()),
        ) {
            (_, Some(partial)) => {
                link.set_recorded(partial.bytes.clone());
                skip_to = partial.lsn_end;
            }
            (Some(recorded), None) => {
                link.set_recorded(recorded.stable.clone());
                skip_to = recorded.lsn.1;
            }
            (None, None) => {}
        }
        link.start_stable(next, &token, self.options.offset_in_blob);
        let now = Instant::now();
        for (lsn, entry) in (from.unwrap_or(next)..).zip(&missed) {
            link.deliver(entry, lsn, &[], now);
        }
        state.ring.skip(skip_to.saturating_sub(next));
        Ok(())
    }

    /// Notes an acknowledgement.
    pub fn acknowledge(&self, flow: usize, link: u64, position: u64) {
        let mut state = self.shards[flow].lock();
        if let Some(link) = state.link(link) {
            link.acked = position;
            state.acked = Some(position);
        }
    }
}

/// A lock, also after a panic elsewhere.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
