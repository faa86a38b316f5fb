//! A TCP proxy in front of a server: what passes, what is lost on the way, what is cut.
//!
//! Invariants: a connection that swallows stays open on both sides and brings nothing in that direction, as behind a
//!   firewall that forgot it; what is swallowed never arrives, so a connection that swallowed is good for nothing more;
//!   connections made later are not concerned.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is remembered of what a client said first.
const REMEMBERED: usize = 4 << 10;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    /// What the server says.
    Client,
    /// What the client says.
    Server,
}

/// One connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// The first bytes of the client.
    said: Mutex<Vec<u8>>,
    swallows: [AtomicBool; 2],
}

impl Pair {
    fn said(&self, words: &str) -> bool {
        let said = lock(&self.said);
        words.is_empty()
            || said
                .windows(words.len())
                .any(|part| part == words.as_bytes())
    }

    fn cut(&self) {
        // Errors: it is gone already.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

struct Shared {
    server: Mutex<String>,
    pairs: Mutex<Vec<Arc<Pair>>>,
    swallowed: AtomicU64,
    ended: AtomicBool,
}

/// A running proxy. Dropping it ends it, and every connection through it.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of the server at this address.
    #[must_use]
    #[track_caller]
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on 127.0.0.1");
        let addr = listener.local_addr().expect("the address of a listener");
        let shared = Arc::new(Shared {
            server: Mutex::new(server.to_owned()),
            pairs: Mutex::default(),
            swallowed: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new()
            .name("proxy".into())
            .spawn(move || accept(&accepting, &listener))
            .expect("a thread");
        Self {
            addr,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> String {
        self.addr.to_string()
    }

    /// Leads later connections to the server at this address.
    pub fn lead_to(&self, server: &str) {
        server.clone_into(&mut lock(&self.shared.server));
    }

    /// Swallows one direction of all present connections whose client has said these words; how many there are.
    pub fn swallow(&self, towards: Towards, said: &str) -> usize {
        let pairs = lock(&self.shared.pairs);
        let chosen = pairs.iter().filter(|pair| pair.said(said));
        let set = |pair: &Arc<Pair>| {
            pair.swallows[towards as usize].store(true, Ordering::SeqCst);
        };
        chosen.inspect(|pair| set(pair)).count()
    }

    /// Bytes that were swallowed so far.
    #[must_use]
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    /// Cuts all present connections.
    pub fn cut(&self) {
        lock(&self.shared.pairs).iter().for_each(|pair| pair.cut());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.cut();
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for client in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let server = lock(&shared.server).clone();
        // A server that is gone refuses, and so do we.
        if let Ok(client) = client
            && let Ok(server) = TcpStream::connect(server)
        {
            let pair = Arc::new(Pair {
                client,
                server,
                said: Mutex::default(),
                swallows: Default::default(),
            });
            lock(&shared.pairs).push(Arc::clone(&pair));
            for towards in [Towards::Client, Towards::Server] {
                let (shared, pair) = (Arc::clone(shared), Arc::clone(&pair));
                // They end with the connection.
                std::thread::spawn(move || pump(&shared, &pair, towards));
            }
        }
    }
}

/// Carries one direction until it ends.
fn pump(shared: &Shared, pair: &Arc<Pair>, towards: Towards) {
    let (mut from, mut to) = match towards {
        Towards::Client => (&pair.server, &pair.client),
        Towards::Server => (&pair.client, &pair.server),
    };
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if towards == Towards::Server {
            let mut said = lock(&pair.said);
            let room = REMEMBERED.saturating_sub(said.len());
            said.extend_from_slice(&buffer[..read.min(room)]);
        }
        if pair.swallows[towards as usize].load(Ordering::SeqCst) {
            shared.swallowed.fetch_add(read as u64, Ordering::SeqCst);
        } else if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    if Arc::strong_count(pair) <= 2 {
        // The other direction has ended too.
        lock(&shared.pairs).retain(|other| !Arc::ptr_eq(other, pair));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
