//! How a session gets from its handshake to stable sync: flows, snapshot, journal.
//!
//! Invariants: a snapshot starts on all flows at one moment, and so does stable sync; what would crash a real
//!   master, or freeze its clients, is a violation.
//! Facts: states, checks and refusals as observed on v1.40.1 and v1.27.4.

use super::connection::Conn;
use super::hub::{Hub, Refusal, lock};
use super::link::{Link, Phase};
use super::shard::{Shard, ShardState};
use super::snapshot::{header, plans};
use super::{sender, socket_queue, tokens};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long our own count of sent bytes may lag behind what a replica has read.
const SETTLING: Duration = Duration::from_millis(50);

impl Hub {
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
        let token = self.token(flow, session);
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

    /// A new token, or the recorded one.
    fn token(&self, flow: usize, session: u32) -> String {
        let first = session == self.options.first_session;
        let recorded = self
            .options
            .replay
            .as_ref()
            .and_then(|replay| replay.recorded.get(flow));
        let token = recorded.and_then(|flow| {
            if first {
                Some(flow.token.clone())
            } else {
                flow.second_token.clone()
            }
        });
        token.unwrap_or_else(tokens::token)
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
            Some(mut dataset) => {
                let faults = self.faults();
                dataset
                    .records
                    .retain(|record| record.db != 0 || !faults.omits(&record.key));
                drop(faults);
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
            !begun(*flow) || !super::super::within(SETTLING, || read(*flow, *unread))
        });
        early.map(|((flow, _), _)| *flow).collect()
    }

    fn flow_stable(&self, flow: usize, state: &mut ShardState, id: u32) -> Result<(), Refusal> {
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
}
