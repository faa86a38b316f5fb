//! A session with a master, in the only order of requests the master survives.
//!
//! ```text
//! Session ─register▶ Registered ─sync▶ Syncing ─start_stable▶ Stable
//!    │                                    ▲ one SnapshotEnded of every flow
//! one DFLY FLOW per connection         SnapshotFlow ─▶ FlowReader
//! ```
//!
//! Invariants, each kept by a type that is consumed: the version is announced once, on a connection
//!   that owns a session; a connection carries one `DFLY FLOW` and every flow one connection;
//!   STARTSTABLE follows SYNC and the end of every flow's snapshot. Violating any of them ends the
//!   master's process or blocks all its clients.
//! The control connection stays open for the session's life, and its end is the session's.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::error::{Link, Phase, SourceError};
use super::flow::{SnapshotEnded, SnapshotFlow};
use super::handshake::{Master, accepted, confirmed, connect, create_session};
use super::monitor::Monitor;
use super::parser::TOKEN_LEN;
use super::reply::Reply;
use super::settings::Settings;
use super::wire::Conn;

/// Where the flows are to begin. Positions of an earlier session are a case to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With a snapshot.
    Full,
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
    pub async fn register(self, start: Start) -> Result<Registered, SourceError> {
        let mut opening = JoinSet::new();
        for flow in 0..self.master.flows {
            let (settings, master) = (self.settings.clone(), self.master.clone());
            opening.spawn(async move {
                let idle = IdleFlow::connect(&settings, flow).await?;
                idle.register(&settings, &master, start).await
            });
        }
        let mut flows = Vec::new();
        while let Some(opened) = opening.join_next().await {
            match opened {
                Ok(flow) => flows.push(flow?),
                Err(failed) => match failed.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => break, // cancelled with the runtime
                },
            }
        }
        flows.sort_by_key(|flow| flow.flow);
        Ok(Registered {
            control: self.control,
            master: self.master,
            flows,
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
        start: Start,
    ) -> Result<RegisteredFlow, SourceError> {
        let Start::Full = start;
        let flow = self.flow.to_string();
        let words = [
            &b"DFLY"[..],
            b"FLOW",
            master.id.as_bytes(),
            master.sync_id.as_bytes(),
            flow.as_bytes(),
        ];
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
        let token = full(&reply)?;
        Ok(RegisteredFlow {
            flow: self.flow,
            conn: self.conn,
            token,
        })
    }
}

const FLOW: &str = "DFLY FLOW";

/// The token of a FULL answer. PARTIAL was not asked for.
fn full(reply: &Reply) -> Result<[u8; TOKEN_LEN], SourceError> {
    let token = match reply {
        Reply::Array(elements) => match elements.as_slice() {
            [kind, token, ..] if kind.text() == Some(b"FULL") => token.text(),
            _ => None,
        },
        _ => None,
    };
    token
        .and_then(|token| token.try_into().ok())
        .ok_or_else(|| SourceError::Unexpected {
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
    token: [u8; TOKEN_LEN],
}

/// A session with all its flows, before the snapshot.
#[derive(Debug)]
pub struct Registered {
    control: Conn,
    master: Master,
    flows: Vec<RegisteredFlow>,
}

impl Registered {
    /// Whom the session is with.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// Asks for the snapshot. The flows must be read from now on, while the answer is awaited: the
    /// master writes to them before it answers.
    pub async fn sync(mut self) -> Result<(Syncing, Vec<SnapshotFlow>), SourceError> {
        self.control.enter(Phase::Snapshot);
        let sync_id = self.master.sync_id.as_bytes();
        self.control.send(&[b"DFLY", b"SYNC", sync_id]).await?;
        let session = Arc::new(());
        let flows = self.flows.into_iter().map(|flow| {
            let (wire, input) = flow.conn.into_parts();
            let ended = SnapshotEnded::of(flow.flow, session.clone());
            SnapshotFlow::new(ended, self.master.flows, flow.token, wire, input)
        });
        let flows = flows.collect();
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
        let sync_id = self.master.sync_id.as_bytes();
        let words = [&b"DFLY"[..], b"STARTSTABLE", sync_id];
        self.control.send(&words).await?;
        let reply = self.control.reply("DFLY STARTSTABLE").await?;
        confirmed("DFLY STARTSTABLE", reply)?;
        self.control.enter(Phase::Stable);
        Ok(Stable {
            control: self.control,
            master: self.master,
        })
    }

    /// Ends the session in order.
    pub async fn close(self) {
        self.control.close().await;
    }
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
