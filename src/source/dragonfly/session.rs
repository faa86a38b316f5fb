//! A session with a master, in the only order of requests the master survives.
//!
//! ```text
//! Session ─register▶ Registered ─sync▶ Syncing ─start_stable▶ Stable
//!    │          │                         ▲ one SnapshotEnded of every flow
//!    │          │                      Flow ─▶ FlowReader
//!    │          └ all flows PARTIAL: Resumable ─flows▶ Resuming ─start_stable▶ Stable
//! one DFLY FLOW per connection
//! ```
//!
//! Invariants, each kept by a type that is consumed: the version is announced once, on a connection
//!   that owns a session; a connection carries one `DFLY FLOW` and every flow one connection;
//!   STARTSTABLE follows SYNC and the end of every flow's snapshot, or PARTIAL answers of every flow.
//!   Violating any of them ends the master's process or blocks all its clients.
//! The control connection stays open for the session's life, and its end is the session's.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::error::{Link, Phase, SourceError};
use super::flow::{Begin, Flow, SnapshotEnded};
use super::handshake::{Master, accepted, confirmed, connect, create_session};
use super::monitor::Monitor;
use super::reply::Reply;
use super::settings::Settings;
use super::wire::Conn;

/// Where the flows are to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// With a snapshot.
    Full,
    /// In the journal of this very master process: by flow, the LSN of the next entry.
    Resume(Vec<u64>),
    /// In the journal of a master that was a replica of another one and goes on in its place, with its positions.
    Succeed {
        /// The other one's replication id.
        of: String,
        /// By flow, the LSN of the next entry.
        lsns: Vec<u64>,
    },
}

impl Start {
    /// What is asked for on a flow, behind its number; and the LSN it begins with, if it does not begin with a
    /// snapshot.
    fn asked(&self, flow: u32) -> (Vec<String>, Option<u64>) {
        let own = |lsns: &[u64]| lsns.get(flow as usize).copied();
        match self {
            Self::Full => (Vec::new(), None),
            Self::Resume(lsns) => {
                let next = own(lsns);
                (next.iter().map(u64::to_string).collect(), next)
            }
            Self::Succeed { of, lsns } => {
                let vector: Vec<_> = lsns.iter().map(u64::to_string).collect();
                (vec![of.clone(), vector.join("-")], own(lsns))
            }
        }
    }
}

/// What the master grants.
#[derive(Debug)]
pub enum Registered {
    /// A snapshot.
    Full(Full),
    /// The journal from where it was asked for, on every flow.
    Resumable(Resumable),
    /// The journal on some flows and a snapshot on others, which cannot be had together, or nothing at all: the session
    /// has been closed, and another one is to ask for a snapshot.
    Mixed {
        /// Flows that could not be resumed, in order.
        full: Vec<u32>,
    },
}

/// A session without flows.
#[derive(Debug)]
pub struct Session {
    control: Conn,
    master: Master,
    settings: Arc<Settings>,
    /// The ordinary connection that was asked for the release.
    monitor: Option<Monitor>,
}

impl Session {
    /// Connects, authenticates, and creates a session. Not cancel safe, but harmless: the connection
    /// is closed in order.
    pub async fn open(settings: &Settings) -> Result<Self, SourceError> {
        let mut control = connect(settings, Link::Control, Phase::Handshake).await?;
        let mut master = create_session(&mut control, settings).await?;
        // Nice to know, and not worth failing for.
        let mut asked = None;
        if let Ok(mut monitor) = Monitor::open(settings).await
            && let Ok(release) = monitor.release().await
        {
            master.release = release;
            asked = Some(monitor);
        }
        Ok(Self {
            control,
            master,
            settings: Arc::new(settings.clone()),
            monitor: asked,
        })
    }

    /// An ordinary connection to the same master: the one it was already asked on, or a new one.
    pub async fn monitor(&mut self) -> Result<Monitor, SourceError> {
        match self.monitor.take() {
            Some(monitor) => Ok(monitor),
            None => Monitor::open(&self.settings).await,
        }
    }

    /// Whom the session is with.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// Opens one connection per flow and registers it. The first error wins; all connections are then
    /// closed in order.
    pub async fn register(self, start: &Start) -> Result<Registered, SourceError> {
        let mut opening = JoinSet::new();
        for flow in 0..self.master.flows {
            let (settings, master) = (self.settings.clone(), self.master.clone());
            let (asked, next) = start.asked(flow);
            opening.spawn(async move {
                let idle = IdleFlow::connect(&settings, flow).await?;
                idle.register(&settings, &master, &asked, next).await
            });
        }
        let mut flows = Vec::new();
        let may_be_refused = matches!(start, Start::Succeed { .. });
        let mut refused = false;
        while let Some(opened) = opening.join_next().await {
            match opened {
                // A release that does not know the form, or counts shards otherwise: it takes a new session to go on.
                Ok(Err(SourceError::Refused { .. })) if may_be_refused => refused = true,
                Ok(flow) => flows.push(flow?),
                Err(failed) => match failed.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => break, // cancelled with the runtime
                },
            }
        }
        flows.sort_by_key(|flow| flow.flow);
        let is_full = |flow: &&RegisteredFlow| matches!(flow.begin, Begin::Snapshot(_));
        let full: Vec<u32> = flows.iter().filter(is_full).map(|flow| flow.flow).collect();
        let (control, master) = (self.control, self.master);
        if refused {
            let full = (0..master.flows).collect();
            drop(flows);
            control.close().await;
            return Ok(Registered::Mixed { full });
        }
        Ok(match full.len() {
            0 => Registered::Resumable(Resumable {
                control,
                master,
                flows,
            }),
            count if count == flows.len() => Registered::Full(Full {
                control,
                master,
                flows,
            }),
            _ => {
                // Flows first: their end is the session's, and the answer to it is no error then.
                drop(flows);
                control.close().await;
                Registered::Mixed { full }
            }
        })
    }

    /// Ends the session in order.
    pub async fn close(self) {
        self.control.close().await;
    }
}

/// A connection that may carry one `DFLY FLOW`.
struct IdleFlow {
    flow: u32,
    conn: Conn,
}

impl IdleFlow {
    async fn connect(settings: &Settings, flow: u32) -> Result<Self, SourceError> {
        let conn = connect(settings, Link::Flow(flow), Phase::Handshake).await?;
        Ok(Self { flow, conn })
    }

    /// Consumes the connection: a second request on it ends the master.
    async fn register(
        mut self,
        settings: &Settings,
        master: &Master,
        asked: &[String],
        next: Option<u64>,
    ) -> Result<RegisteredFlow, SourceError> {
        let flow = self.flow.to_string();
        let mut words = vec![
            &b"DFLY"[..],
            b"FLOW",
            master.id.as_bytes(),
            master.sync_id.as_bytes(),
            flow.as_bytes(),
        ];
        words.extend(asked.iter().map(String::as_bytes));
        let within = settings.connect_timeout;
        let reply = self.conn.ask(FLOW, &words, within).await?;
        let reply = match accepted(FLOW, reply) {
            // The flow's number is over what the master has now.
            Err(SourceError::Refused { answer, .. }) if answer.contains("out of range") => {
                return Err(SourceError::FlowCount {
                    expected: master.flows,
                    got: None,
                });
            }
            other => other?,
        };
        Ok(RegisteredFlow {
            flow: self.flow,
            conn: self.conn,
            begin: begin(&reply, next)?,
        })
    }
}

const FLOW: &str = "DFLY FLOW";

/// Where the flow begins by this answer. PARTIAL is one only to whoever asked for it; its token means nothing.
fn begin(reply: &Reply, next: Option<u64>) -> Result<Begin, SourceError> {
    let elements = match reply {
        Reply::Array(elements) => elements.as_slice(),
        _ => &[],
    };
    let begin = match elements {
        [kind, token, ..] => match kind.text() {
            Some(b"FULL") => token
                .text()
                .and_then(|token| token.try_into().ok())
                .map(Begin::Snapshot),
            Some(b"PARTIAL") => next.map(Begin::Journal),
            _ => None,
        },
        _ => None,
    };
    begin.ok_or_else(|| SourceError::Unexpected {
        request: FLOW,
        answer: match reply {
            Reply::Array(elements) => elements.iter().map(Reply::describe).collect(),
            other => other.describe(),
        },
    })
}

/// A connection that has become a flow.
#[derive(Debug)]
struct RegisteredFlow {
    flow: u32,
    conn: Conn,
    begin: Begin,
}

impl RegisteredFlow {
    fn into_flow(self, flows: u32, session: &Arc<()>) -> Flow {
        let (wire, input) = self.conn.into_parts();
        let ended = SnapshotEnded::of(self.flow, session.clone());
        Flow::new(ended, flows, self.begin, wire, input)
    }
}

/// A session with all its flows, before the snapshot.
#[derive(Debug)]
pub struct Full {
    control: Conn,
    master: Master,
    flows: Vec<RegisteredFlow>,
}

impl Full {
    /// Whom the session is with.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// Asks for the snapshot. The flows must be read from now on, while the answer is awaited: the
    /// master writes to them before it answers.
    pub async fn sync(mut self) -> Result<(Syncing, Vec<Flow>), SourceError> {
        self.control.enter(Phase::Snapshot);
        let sync_id = self.master.sync_id.as_bytes();
        self.control.send(&[b"DFLY", b"SYNC", sync_id]).await?;
        let session = Arc::new(());
        let count = self.master.flows;
        let flows = self.flows.into_iter();
        let flows = flows.map(|flow| flow.into_flow(count, &session)).collect();
        let syncing = Syncing {
            control: self.control,
            master: self.master,
            session,
            confirmed: false,
        };
        Ok((syncing, flows))
    }

    /// Ends the session in order.
    pub async fn close(self) {
        self.control.close().await;
    }
}

/// A session with all its flows, each of which can go on where it was asked to.
#[derive(Debug)]
pub struct Resumable {
    control: Conn,
    master: Master,
    flows: Vec<RegisteredFlow>,
}

impl Resumable {
    /// Whom the session is with.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// The flows, which must be read from now on, and what has them start.
    pub fn flows(self) -> (Resuming, Vec<Flow>) {
        let session = Arc::new(());
        let count = self.master.flows;
        let flows = self.flows.into_iter();
        let flows = flows.map(|flow| flow.into_flow(count, &session)).collect();
        let resuming = Resuming {
            control: self.control,
            master: self.master,
        };
        (resuming, flows)
    }

    /// Ends the session in order.
    pub async fn close(self) {
        self.control.close().await;
    }
}

/// A session whose flows are about to carry the journal from where they were asked to.
#[derive(Debug)]
pub struct Resuming {
    control: Conn,
    master: Master,
}

impl Resuming {
    /// Asks for the journal. Refused when an entry has fallen out of the ring meanwhile. Waits as long as that takes;
    /// cancelling ends the session.
    pub async fn start_stable(self) -> Result<Stable, SourceError> {
        start_stable(self.control, self.master).await
    }
}

/// A session whose flows carry their snapshots.
#[derive(Debug)]
pub struct Syncing {
    control: Conn,
    master: Master,
    session: Arc<()>,
    confirmed: bool,
}

impl Syncing {
    /// Whom the session is with.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// Waits until the master confirms the start of the snapshot. Cancel safe; at once if it has.
    pub async fn confirm(&mut self) -> Result<(), SourceError> {
        if !self.confirmed {
            let reply = self.control.reply("DFLY SYNC").await?;
            confirmed("DFLY SYNC", reply)?;
            self.confirmed = true;
        }
        Ok(())
    }

    /// Waits for the session's end, and says how it came. Cancel safe.
    pub async fn watch(&mut self) -> SourceError {
        match self.confirm().await {
            Ok(()) => self.control.watch().await,
            Err(error) => error,
        }
    }

    /// Asks for the journal. Takes the end of the snapshot of every flow: earlier, the master would
    /// hold up all its clients until the flows are drained. The flows must be read meanwhile. Waits as
    /// long as that takes; cancelling ends the session.
    pub async fn start_stable(mut self, ended: Vec<SnapshotEnded>) -> Result<Stable, SourceError> {
        let mut flows: Vec<u32> = ended
            .iter()
            .filter_map(|ended| ended.flow_of(&self.session))
            .collect();
        flows.sort_unstable();
        flows.dedup();
        if flows.len() as u64 != u64::from(self.master.flows) {
            return Err(SourceError::SnapshotsOpen {
                ended: flows.len(),
                flows: self.master.flows,
            });
        }
        self.confirm().await?;
        start_stable(self.control, self.master).await
    }

    /// Ends the session in order.
    pub async fn close(self) {
        self.control.close().await;
    }
}

async fn start_stable(mut control: Conn, master: Master) -> Result<Stable, SourceError> {
    let words = [&b"DFLY"[..], b"STARTSTABLE", master.sync_id.as_bytes()];
    control.send(&words).await?;
    let reply = control.reply("DFLY STARTSTABLE").await?;
    confirmed("DFLY STARTSTABLE", reply)?;
    control.enter(Phase::Stable);
    Ok(Stable { control, master })
}

/// A session whose flows carry the journal.
#[derive(Debug)]
pub struct Stable {
    control: Conn,
    master: Master,
}

impl Stable {
    /// Whom the session is with.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// Waits for the session's end, and says how it came. Cancel safe.
    pub async fn watch(&mut self) -> SourceError {
        self.control.watch().await
    }

    /// Ends the session in order.
    pub async fn close(self) {
        self.control.close().await;
    }
}
