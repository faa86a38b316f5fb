//! A plain blocking replica for tests of the simulator: it does what it is told, right or wrong.

use super::client::{Client, Reply, encode_request};
use super::eventually;
use super::recorded::{Entry, Item, entries, items};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// One flow: everything it received after the `DFLY FLOW` reply.
pub struct Flow {
    /// What the master answered: `FULL` or `PARTIAL`, and the token.
    pub answer: (String, String),
    stream: TcpStream,
    received: Arc<Mutex<Vec<u8>>>,
    paused: Arc<AtomicBool>,
    /// The reader has seen that.
    stands: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// A session with its connections.
pub struct Replica {
    /// The control connection.
    pub control: Client,
    /// What the handshake answered.
    pub handshake: Reply,
    /// The flows, as far as they are open.
    pub flows: Vec<Flow>,
    port: u16,
}

impl Replica {
    /// Does the handshake with the master on this port.
    #[must_use]
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        let mut control = Client::connect(port);
        control.ok(&["PING"]);
        control.ok(&["REPLCONF", "listening-port", "7777"]);
        let handshake = control.ok(&["REPLCONF", "capa", "dragonfly"]);
        control.ok(&["REPLCONF", "CLIENT-VERSION", "4"]);
        Self {
            control,
            handshake,
            flows: Vec::new(),
            port,
        }
    }

    /// A whole full sync up to stable sync.
    #[must_use]
    #[track_caller]
    pub fn synced(port: u16) -> Self {
        let mut replica = Self::connect(port);
        replica.open_flows();
        replica.sync();
        replica.wait_ends();
        replica.stable();
        replica.wait_stable();
        replica
    }

    /// The session, such as `SYNC1`.
    #[must_use]
    pub fn session(&self) -> String {
        self.handshake.items()[1].text()
    }

    /// Opens every flow for a full sync.
    #[track_caller]
    pub fn open_flows(&mut self) {
        let count = self.handshake.items()[2].int().unwrap_or(0);
        (0..count).for_each(|flow| self.open_flow(flow.unsigned_abs() as usize, None));
    }

    /// Opens every flow at a position.
    #[track_caller]
    pub fn open_flows_at(&mut self, positions: &[u64]) {
        positions
            .iter()
            .enumerate()
            .for_each(|(flow, position)| self.open_flow(flow, Some(*position)));
    }

    /// Opens one flow.
    #[track_caller]
    pub fn open_flow(&mut self, flow: usize, position: Option<u64>) {
        let client = Client::connect(self.port);
        // A small window, so that a replica that does not read is noticed early.
        let _ = socket2::SockRef::from(client.stream()).set_recv_buffer_size(64 << 10);
        self.open_flow_on(client, flow, position);
    }

    /// Opens one flow on a connection that is there already.
    #[track_caller]
    pub fn open_flow_on(&mut self, mut client: Client, flow: usize, position: Option<u64>) {
        let mut words = vec![
            "DFLY".to_owned(),
            "FLOW".into(),
            self.handshake.items()[0].text(),
            self.session(),
            flow.to_string(),
        ];
        words.extend(position.map(|position| position.to_string()));
        let reply = client.ok(&words);
        self.flows.push(Flow::read(
            (reply.items()[0].text(), reply.items()[1].text()),
            client,
        ));
    }

    /// `DFLY SYNC`.
    #[track_caller]
    pub fn sync(&mut self) {
        let session = self.session();
        self.control.ok(&["DFLY", "SYNC", &session]);
    }

    /// Waits until every flow's snapshot has ended.
    #[track_caller]
    pub fn wait_ends(&self) {
        for flow in &self.flows {
            eventually("the end of a snapshot", || {
                flow.items().contains(&Item::End)
            });
        }
    }

    /// `DFLY STARTSTABLE`.
    #[track_caller]
    pub fn stable(&mut self) {
        let session = self.session();
        self.control.ok(&["DFLY", "STARTSTABLE", &session]);
    }

    /// Waits until every flow's snapshot is followed by its token.
    #[track_caller]
    pub fn wait_stable(&self) {
        for flow in &self.flows {
            eventually("the token of a flow", || flow.offset().is_some());
        }
    }

    /// Ends all connections in order: first our side, then until the master's end.
    #[track_caller]
    pub fn leave(self) {
        let _ = self.control.stream().shutdown(Shutdown::Write);
        for mut flow in self.flows {
            let _ = flow.stream.shutdown(Shutdown::Write);
            flow.pause(false);
            if let Some(reader) = flow.reader.take() {
                let _ = reader.join();
            }
        }
        let mut control = self.control;
        let _ = control.reader().read_to_end(&mut Vec::new());
    }
}

impl Flow {
    fn read(answer: (String, String), mut client: Client) -> Self {
        let stream = client
            .stream()
            .try_clone()
            .expect("a second handle to a socket");
        let received: Arc<Mutex<Vec<u8>>> = Arc::new(Mutex::new(client.reader().buffer().to_vec()));
        let [paused, stands, ended] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let into = Arc::clone(&received);
        let [wait, waits, end] = [&paused, &stands, &ended].map(Arc::clone);
        let mut source = stream.try_clone().expect("a third handle to a socket");
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; 256 << 10];
            let _ = source.set_read_timeout(Some(Duration::from_millis(20)));
            loop {
                let stands = wait.load(Ordering::SeqCst);
                waits.store(stands, Ordering::SeqCst);
                if stands {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                match source.read(&mut chunk) {
                    Ok(n) if n > 0 => into.lock().expect("a lock").extend_from_slice(&chunk[..n]),
                    Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
                    _ => break,
                }
            }
            end.store(true, Ordering::SeqCst);
            drop(client);
        });
        Self {
            answer,
            stream,
            received,
            paused,
            stands,
            ended,
            reader: Some(reader),
        }
    }

    /// Everything received so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.received.lock().expect("a lock").clone()
    }

    /// How much was received so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.received.lock().expect("a lock").len()
    }

    /// Whether the master has ended it.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Stops or goes on reading. Nothing is read any more when this returns.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
        while paused && !self.ended() && !self.stands.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }

    /// The items of its snapshot so far.
    #[must_use]
    pub fn items(&self) -> Vec<Item> {
        items(&self.bytes()).0
    }

    /// The position its journal begins with, once the snapshot is over.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        let items = self.items();
        let over = items.iter().any(|item| matches!(item, Item::Eof(_)));
        items.iter().find_map(|item| {
            if let Item::Offset(next) = item {
                over.then_some(*next)
            } else {
                None
            }
        })
    }

    /// The bare journal so far, after the snapshot if there was one.
    #[must_use]
    pub fn journal(&self) -> Vec<Entry> {
        let bytes = self.bytes();
        let from = if bytes.starts_with(b"REDIS") {
            items(&bytes).1
        } else {
            0
        };
        entries(&bytes[from..]).0
    }

    /// The words of all commands in its journal so far.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        let words = |entry| match entry {
            Entry::Command { args, .. } => Some(
                args.iter()
                    .map(|arg| arg.escape_ascii().to_string())
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
            Entry::Ping => Some("(ping)".into()),
            Entry::Lsn(_) => None,
        };
        self.journal().into_iter().filter_map(words).collect()
    }

    /// Sends any request.
    pub fn send(&self, words: &[&str]) {
        let mut out = Vec::new();
        encode_request(words, &mut out);
        let mut stream = &self.stream;
        stream.write_all(&out).expect("a flow that can be written");
    }

    /// Acknowledges a position.
    pub fn ack(&self, position: u64) {
        self.send(&["REPLCONF", "ACK", &position.to_string()]);
    }
}
