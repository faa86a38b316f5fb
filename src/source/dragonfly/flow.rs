//! One flow's socket: batches out, acknowledgements in.
//!
//! Invariants: nothing but `REPLCONF ACK` is ever written to a flow; whole entries are handed on as soon
//!   as they are there; bytes are handed on with their share of the budget, and reading waits for it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::{Arc, Weak};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::entry::{Batch, Budget, Item};
use crate::fail_point::{self, Place};

use super::error::{Link, Phase, SourceError};
use super::parser::{Decoded, TOKEN_LEN};
use super::pulse::Pulse;
use super::settings::ReadSettings;
use super::stream::StreamDecoder;
use super::wire::{CLOSE_WITHIN, Wire, drain, encode};

/// Acknowledgements that wait to be sent. A later one says all that an earlier one says.
const UNSENT_MAX: usize = 4096;

/// Proof that one flow of one session has sent its whole snapshot. Only the reader of that flow has
/// it, once, and gives it away when the snapshot has ended.
#[derive(Debug)]
pub struct SnapshotEnded {
    flow: u32,
    session: Arc<()>,
}

impl SnapshotEnded {
    pub(super) fn of(flow: u32, session: Arc<()>) -> Self {
        Self { flow, session }
    }

    /// Which flow.
    pub fn flow(&self) -> u32 {
        self.flow
    }

    /// Which flow, if of this session.
    pub(super) fn flow_of(&self, session: &Arc<()>) -> Option<u32> {
        Arc::ptr_eq(&self.session, session).then_some(self.flow)
    }
}

/// Where a flow begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// With a snapshot, whose end shows this token.
    Snapshot([u8; TOKEN_LEN]),
    /// In the journal, with the entry of this LSN.
    Journal(u64),
}

/// A flow that is about to carry what was asked for.
#[derive(Debug)]
pub struct Flow {
    ended: SnapshotEnded,
    flows: u32,
    begin: Begin,
    wire: Wire,
    input: BytesMut,
}

impl Flow {
    pub(super) fn new(
        ended: SnapshotEnded,
        flows: u32,
        begin: Begin,
        wire: Wire,
        input: BytesMut,
    ) -> Self {
        Self {
            ended,
            flows,
            begin,
            wire,
            input,
        }
    }

    /// The flow's number, that of its shard.
    pub fn flow(&self) -> u32 {
        self.ended.flow
    }

    /// The two directions. The socket is the reader's: it closes when the reader ends, which a
    /// stopped reader does once the acknowledger is dropped.
    pub fn split(self) -> (FlowReader, Acknowledger) {
        let flow = self.flow();
        let (read, half) = tokio::io::split(self.wire);
        let unsent = BytesMut::new();
        let writer = Arc::new(Mutex::new(Writer { half, unsent }));
        let (held, released) = oneshot::channel();
        let acknowledger = Acknowledger {
            flow,
            writer: Arc::downgrade(&writer),
            _held: Arc::new(held),
        };
        let reader = FlowReader {
            flow,
            flows: self.flows,
            begin: self.begin,
            ended: Some(self.ended),
            read,
            writer,
            released,
            input: self.input,
            pulse: Pulse::default(),
        };
        (reader, acknowledger)
    }
}

#[derive(Debug)]
struct Writer {
    half: WriteHalf<Wire>,
    unsent: BytesMut,
}

impl Writer {
    /// Cancel safe: what was not sent is sent first the next time.
    async fn acknowledge(&mut self, next: u64) -> io::Result<()> {
        if self.unsent.len() < UNSENT_MAX {
            let mut digits = itoa::Buffer::new();
            let next = digits.format(next).as_bytes();
            let request = encode(&[b"REPLCONF", b"ACK", next]);
            self.unsent.extend_from_slice(&request);
        }
        fail_point::pass(Place::Acknowledge);
        while self.unsent.has_remaining() {
            if self.half.write_buf(&mut self.unsent).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.half.flush().await?;
        fail_point::pass(Place::Acknowledged);
        Ok(())
    }
}

/// Tells the source how far a flow was applied. Clones are one.
#[derive(Debug, Clone)]
pub struct Acknowledger {
    flow: u32,
    writer: Weak<Mutex<Writer>>,
    /// Tells the reader, when the last one is dropped, that no more will be acknowledged.
    _held: Arc<oneshot::Sender<Infallible>>,
}

impl Acknowledger {
    /// The flow's number.
    pub fn flow(&self) -> u32 {
        self.flow
    }

    /// Acknowledges every entry before `next`. Never answered. Cancel safe. An error means that the
    /// flow has ended; its reader knows why.
    pub async fn acknowledge(&self, next: u64) -> Result<(), SourceError> {
        let closed = |cause| SourceError::Closed {
            link: Link::Flow(self.flow),
            phase: Phase::Stable,
            cause,
        };
        let writer = self.writer.upgrade().ok_or_else(|| closed(None))?;
        let mut writer = writer.lock().await;
        let sent = writer.acknowledge(next).await;
        sent.map_err(|cause| closed(Some(cause)))
    }
}

/// Reads one flow from where it begins.
#[derive(Debug)]
pub struct FlowReader {
    flow: u32,
    flows: u32,
    begin: Begin,
    ended: Option<SnapshotEnded>,
    read: ReadHalf<Wire>,
    writer: Arc<Mutex<Writer>>,
    released: oneshot::Receiver<Infallible>,
    input: BytesMut,
    pulse: Pulse,
}

/// A flow that failed. It stays open until this is dropped: the master answers the end of one flow by
/// ending all others and the session, which would look like a cause and is not.
#[derive(Debug)]
pub struct FailedFlow {
    /// Why.
    pub cause: SourceError,
    _open: Box<(FlowReader, mpsc::Sender<Batch>)>,
}

/// Where a reader's batches go.
struct Outlet<'a> {
    out: &'a mpsc::Sender<Batch>,
    ended: &'a mpsc::Sender<SnapshotEnded>,
    budget: &'a Budget,
    settings: &'a ReadSettings,
}

impl FlowReader {
    /// The flow's number.
    pub fn flow(&self) -> u32 {
        self.flow
    }

    /// What the flow hears, and where it can be told that it hears nothing.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Reads until the flow fails, `stop` completes, or nobody takes the batches any more; the last
    /// two are no error. One that fails stays open. A stopped reader drops `out`, and reads on without looking until the
    /// acknowledger is dropped. Then closes the flow in order, within 2 s. `ended` gets its one message
    /// right after the batch with the snapshot's end. Waits while the budget is used up. Cancel safe:
    /// dropped, it closes in the background.
    pub async fn run(
        mut self,
        out: mpsc::Sender<Batch>,
        ended: mpsc::Sender<SnapshotEnded>,
        budget: Budget,
        settings: ReadSettings,
        stop: impl Future<Output = ()>,
    ) -> Result<(), FailedFlow> {
        let outlet = Outlet {
            out: &out,
            ended: &ended,
            budget: &budget,
            settings: &settings,
        };
        let result = tokio::select! {
            biased;
            () = stop => Ok(()),
            result = self.read_on(&outlet) => result,
        };
        if let Err(cause) = result {
            let _open = Box::new((self, out));
            return Err(FailedFlow { cause, _open });
        }
        drop(out);
        // What was read before is still being applied, and is to be acknowledged.
        tokio::select! {
            _ = &mut self.released => {}
            _ = drain(&mut self.read) => {}
        }
        self.close().await;
        Ok(())
    }

    async fn read_on(&mut self, outlet: &Outlet<'_>) -> Result<(), SourceError> {
        let settings = outlet.settings.clone();
        let mut decoder = match self.begin {
            Begin::Snapshot(token) => StreamDecoder::new(self.flow, self.flows, token, settings),
            Begin::Journal(next) => StreamDecoder::resumed(self.flow, self.flows, next, settings),
        };
        decoder.buffer().extend_from_slice(&self.input.split());
        if let Begin::Journal(next) = self.begin {
            self.pulse.received(next);
        }
        self.pulse.hears();
        let mut received_at_ms = outlet.settings.now_ms();
        loop {
            while let Some(decoded) = decoder.decode()? {
                if let Some(next) = decoded.items.last().and_then(next_after) {
                    self.pulse.received(next);
                }
                if !self.hand_on(decoded, received_at_ms, outlet).await {
                    return Ok(());
                }
            }
            let phase = decoder.phase();
            self.pulse.waits();
            let read = tokio::select! {
                biased;
                read = self.read.read_buf(decoder.buffer()) => read,
                (heard, silence) = self.pulse.silence() => {
                    return Err(SourceError::HalfOpen {
                        flow: self.flow,
                        received: heard.next,
                        silence,
                    });
                }
            };
            let cause = match read {
                Ok(0) => None,
                Ok(_) => {
                    self.pulse.hears();
                    received_at_ms = outlet.settings.now_ms();
                    continue;
                }
                Err(cause) => Some(cause),
            };
            let link = Link::Flow(self.flow);
            return Err(SourceError::Closed { link, phase, cause });
        }
    }

    /// `false` when nobody listens any more.
    async fn hand_on(
        &mut self,
        decoded: Decoded,
        received_at_ms: i64,
        outlet: &Outlet<'_>,
    ) -> bool {
        let Decoded { bytes, items } = decoded;
        let held = Batch::in_memory(&bytes, &items);
        let ends = |item: &Item| matches!(item, Item::SnapshotEnd);
        let ended = match self.ended.take() {
            Some(ended) if items.iter().any(ends) => Some(ended),
            other => {
                self.ended = other;
                None
            }
        };
        let share = outlet.budget.take(held).await;
        let batch = Batch {
            bytes,
            items,
            received_at_ms,
            share,
        };
        fail_point::pass(Place::Received);
        if outlet.out.send(batch).await.is_err() {
            return false;
        }
        match ended {
            Some(ended) => outlet.ended.send(ended).await.is_ok(),
            None => true,
        }
    }

    /// The socket is shared with the acknowledger, which cannot keep it open: it holds it weakly.
    async fn close(mut self) {
        let orderly = async {
            self.writer.lock().await.half.shutdown().await?;
            drain(&mut self.read).await
        };
        // An error means that the connection is gone already, a timeout that nobody answers.
        drop(tokio::time::timeout(CLOSE_WITHIN, orderly).await);
    }
}

/// The LSN after an item of the journal.
fn next_after(item: &Item) -> Option<u64> {
    let lsn = match item {
        Item::Stable { next } => return Some(*next),
        Item::Command(command) => command.lsn,
        Item::Nothing { lsn, .. } => *lsn,
        Item::Record(_) | Item::Script(_) | Item::SnapshotEnd => None,
    };
    lsn.map(|lsn| lsn.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Stream;
    use std::future::pending;
    use tokio::net::{TcpListener, TcpStream};

    /// A flow that has received `input`, and the master's end of it.
    async fn flow(input: &[u8]) -> (Flow, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let wire = Wire::new(Stream::Tcp(near.unwrap()));
        let ended = SnapshotEnded::of(3, Arc::new(()));
        let begin = Begin::Snapshot([b't'; TOKEN_LEN]);
        let flow = Flow::new(ended, 4, begin, wire, input.into());
        (flow, far.unwrap().0)
    }

    #[tokio::test]
    async fn a_flow_that_ends_inside_an_item_gives_what_is_whole_and_says_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let settings = ReadSettings::new(dir.path(), 1 << 20);
        let (flow, mut master) = flow(b"REDIS0009\x00\x01k\x01v\x00\x01").await;
        let (reader, acknowledger) = flow.split();
        let (out, mut batches) = mpsc::channel(4);
        let (ended, _ends) = mpsc::channel(1);
        let running =
            tokio::spawn(reader.run(out, ended, Budget::new(1 << 20), settings, pending()));
        let batch = batches.recv().await.unwrap();
        assert_eq!(batch.items.len(), 1, "the whole key is not held back");
        master.shutdown().await.unwrap();
        let error = running.await.unwrap().unwrap_err().cause;
        assert_eq!(
            error.to_string(),
            "the source closed flow 3 during the snapshot"
        );
        assert!(error.is_temporary());
        assert!(acknowledger.acknowledge(1).await.is_err());
    }

    #[tokio::test]
    async fn reading_waits_for_the_budget_and_goes_on_when_a_batch_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let settings = ReadSettings::new(dir.path(), 1 << 20);
        let (flow, mut master) = flow(b"REDIS0009").await;
        let (reader, _acknowledger) = flow.split();
        let (out, mut batches) = mpsc::channel(64);
        let (ended, _ends) = mpsc::channel(1);
        let budget = Budget::new(100);
        let running = tokio::spawn(reader.run(out, ended, budget.clone(), settings, pending()));
        let key = [b"\x00\x01k\x40\xC8".as_slice(), &[b'v'; 200]].concat();
        master.write_all(&key).await.unwrap();
        let first = batches.recv().await.unwrap();
        assert_eq!(budget.used(), 100);
        master.write_all(&key).await.unwrap();
        let second = tokio::time::timeout(std::time::Duration::from_millis(50), batches.recv());
        assert!(
            second.await.is_err(),
            "nothing comes while the budget is used up"
        );
        drop(first);
        assert_eq!(batches.recv().await.unwrap().items.len(), 1);
        running.abort();
        let mut rest = Vec::new();
        master.read_to_end(&mut rest).await.unwrap();
        assert!(
            rest.is_empty(),
            "a cancelled reader closes in order and writes nothing"
        );
    }
}
