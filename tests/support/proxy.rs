//! A way to a server that tests can delay, throttle, stop and cut: one for all of them.
//!
//! ```text
//!             ┌── read ─▶ bytes, each with the time it came ─▶ gate, delay, rate ─▶ write ──┐
//! client ─────┤                                                                           ├───── server
//!             └── write ◀─ rate, delay, gate ◀─ bytes, each with the time it came ◀─ read ──┘
//! ```
//!
//! Invariants: bytes of one direction arrive in order, each once; what a direction holds while its gate is closed is
//!   delivered when it opens, even if whoever sent it is gone; a direction that is full is not read, as by a network
//!   that loses everything. Everything ends when the value is dropped.

mod pipe;
mod watched;

use self::pipe::{Conditions, Pipe};
use self::watched::Watched;
use super::eventually;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is remembered of what a client said first, in bytes.
const REMEMBERED: usize = 4 << 10;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    /// What the clients say.
    Server,
    /// What the server says.
    Client,
}

/// Both, for what is done to both.
pub const BOTH: [Towards; 2] = [Towards::Server, Towards::Client];

/// One connection.
struct Link {
    client: TcpStream,
    server: TcpStream,
    to_server: Pipe,
    to_client: Pipe,
    watched: Option<Mutex<Watched>>,
    /// The first bytes of the client.
    said: Mutex<Vec<u8>>,
    /// By direction: what comes is lost.
    swallows: [AtomicBool; 2],
    /// What the server has answered since the link was held.
    late: Mutex<Vec<u8>>,
    /// Both ends are done.
    open: AtomicUsize,
}

impl Link {
    fn pipe(&self, towards: Towards) -> &Pipe {
        match towards {
            Towards::Server => &self.to_server,
            Towards::Client => &self.to_client,
        }
    }

    fn has_said(&self, words: &str) -> bool {
        let (said, words) = (lock(&self.said), words.as_bytes());
        words.is_empty() || said.windows(words.len()).any(|part| part == words)
    }

    fn cut(&self) {
        // Either may be gone already.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
        self.to_server.abandon();
        self.to_client.abandon();
    }
}

#[derive(Default)]
struct Shared {
    /// Where the server is.
    upstream: Mutex<String>,
    refusing: AtomicBool,
    stopping: AtomicBool,
    /// Whether replies are matched to requests.
    watching: bool,
    /// Connections whose client ended with a transaction unanswered.
    unanswered: AtomicUsize,
    swallowed: AtomicU64,
    /// Connections are held from these bytes of their clients on; none of them, without any.
    holds_from: Mutex<Vec<u8>>,
    to_server: Conditions,
    to_client: Conditions,
    links: Mutex<Vec<Arc<Link>>>,
}

impl Shared {
    fn conditions(&self, towards: Towards) -> &Conditions {
        match towards {
            Towards::Server => &self.to_server,
            Towards::Client => &self.to_client,
        }
    }
}

/// Forwards connections to a server.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A way to the server at this address.
    #[must_use]
    #[track_caller]
    pub fn to(upstream: &str) -> Self {
        Self::start(upstream, false)
    }

    /// A way to a Redis that also counts transactions whose client has ended without an answer.
    #[must_use]
    #[track_caller]
    pub fn watching(upstream: &str) -> Self {
        Self::start(upstream, true)
    }

    #[track_caller]
    fn start(upstream: &str, watching: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port on 127.0.0.1");
        let port = listener
            .local_addr()
            .expect("the address of a listener")
            .port();
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.to_owned()),
            watching,
            ..Shared::default()
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.stopping.load(Ordering::SeqCst) {
                    return;
                }
                // One that is refused sees the end of its connection.
                if !accepting.refusing.load(Ordering::SeqCst) {
                    forward(client, &accepting);
                }
            }
        });
        Self { port, shared }
    }

    /// Its own port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Leads later connections to the server at this address.
    pub fn lead_to(&self, upstream: &str) {
        upstream.clone_into(&mut lock(&self.shared.upstream));
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// How much later bytes arrive.
    pub fn delay(&self, towards: Towards, by: Duration) {
        self.shared.conditions(towards).delay(by);
    }

    /// At which rate they arrive, on each connection; 0 for any.
    pub fn throttle(&self, towards: Towards, bytes_per_second: u64) {
        self.shared.conditions(towards).throttle(bytes_per_second);
    }

    /// Whether nothing arrives at all, on any connection. What is sent meanwhile waits.
    pub fn black_hole(&self, directions: &[Towards], closed: bool) {
        for towards in directions {
            self.shared.conditions(*towards).close(closed);
        }
        for link in self.links().iter() {
            link.to_server.look();
            link.to_client.look();
        }
    }

    /// Loses everything that comes in one direction from now on, of all present connections whose client has said these
    /// words at first; how many there are. Each stays open, and is good for nothing more: as behind a firewall that has
    /// forgotten it.
    #[must_use]
    pub fn swallow(&self, towards: Towards, said: &str) -> usize {
        let links = self.links();
        let chosen = links.iter().filter(|link| link.has_said(said));
        let lose =
            |link: &&Arc<Link>| link.swallows[towards as usize].store(true, Ordering::SeqCst);
        chosen.inspect(lose).count()
    }

    /// From now on each connection is held as by [`Self::hold`] once its client sends this, which is held too.
    pub fn hold_from(&self, part: &[u8]) {
        *lock(&self.shared.holds_from) = part.to_vec();
    }

    /// Bytes that were swallowed so far.
    #[must_use]
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    /// Ends every connection; what was under way is lost.
    pub fn cut(&self) {
        let links = std::mem::take(&mut *self.links());
        links.iter().for_each(|link| link.cut());
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        let open = |link: &&Arc<Link>| link.open.load(Ordering::SeqCst) > 0;
        self.links().iter().filter(open).count()
    }

    /// From now on nothing that these clients send reaches the server. Connections made later are not held.
    pub fn hold(&self) {
        self.links().iter().for_each(|link| link.to_server.hold());
    }

    /// Whether bytes that end so are held.
    #[must_use]
    pub fn holds(&self, end: &[u8]) -> bool {
        self.links()
            .iter()
            .any(|link| link.to_server.held_ends_with(end))
    }

    /// Whether bytes that contain this are held.
    #[must_use]
    pub fn holds_anywhere(&self, part: &[u8]) -> bool {
        self.links()
            .iter()
            .any(|link| link.to_server.held_contains(part))
    }

    /// Loses the second half of what is held.
    pub fn halve(&self) {
        self.links().iter().for_each(|link| link.to_server.halve());
    }

    /// Delivers what is held, and then the end of these connections, and yields everything the server has answered since.
    ///
    /// # Panics
    /// When it does not answer and close.
    #[must_use]
    #[track_caller]
    pub fn release(&self) -> String {
        let mut links = self.links();
        let (held, others) = std::mem::take(&mut *links)
            .into_iter()
            .partition::<Vec<_>, _>(|link| link.to_server.is_held());
        *links = others;
        drop(links);
        held.iter().for_each(|link| link.to_server.release());
        let mut all = Vec::new();
        for link in held {
            eventually("the server answers and closes", || {
                link.open.load(Ordering::SeqCst) == 0
            });
            all.extend_from_slice(&lock(&link.late));
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Whether there is a client now that waits to be told what has become of a transaction. Of connections that are
    /// watched.
    #[must_use]
    pub fn has_unanswered(&self) -> bool {
        let links = self.links();
        let watched = links.iter().filter_map(|link| link.watched.as_ref());
        watched
            .into_iter()
            .any(|watched| lock(watched).has_transaction())
    }

    /// How many connections have ended, since this was asked last, with a transaction that its client has sent, whole
    /// or in part, and that it was not told the outcome of.
    #[must_use]
    pub fn take_unanswered(&self) -> usize {
        self.shared.unanswered.swap(0, Ordering::SeqCst)
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        lock(&self.shared.links)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.cut();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the four threads of a connection. Without a server the client sees its end.
fn forward(client: TcpStream, shared: &Arc<Shared>) {
    let upstream = lock(&shared.upstream).clone();
    let Ok(server) = TcpStream::connect(upstream) else {
        return;
    };
    let clones = || Some([client.try_clone().ok()?, server.try_clone().ok()?]);
    let (Some([from_client, from_server]), Some([to_client, to_server])) = (clones(), clones())
    else {
        return;
    };
    for socket in [&client, &server] {
        // Bytes are late because of the test, not because they wait for more.
        let _ = socket.set_nodelay(true);
    }
    let link = Arc::new(Link {
        client,
        server,
        to_server: Pipe::default(),
        to_client: Pipe::default(),
        watched: shared.watching.then(Mutex::default),
        said: Mutex::default(),
        swallows: Default::default(),
        late: Mutex::default(),
        open: AtomicUsize::new(2),
    });
    lock(&shared.links).push(Arc::clone(&link));
    let ways = [
        (Towards::Server, from_client, to_server),
        (Towards::Client, from_server, to_client),
    ];
    for (towards, from, to) in ways {
        let (reading, all) = (Arc::clone(&link), Arc::clone(shared));
        std::thread::spawn(move || read(from, towards, &reading, &all));
        let (writing, all) = (Arc::clone(&link), Arc::clone(shared));
        std::thread::spawn(move || {
            write(to, towards, &writing, &all);
            if writing.open.fetch_sub(1, Ordering::SeqCst) == 1 {
                lock(&all.links)
                    .retain(|other| !Arc::ptr_eq(other, &writing) || other.to_server.is_held());
            }
        });
    }
}

fn read(mut from: TcpStream, towards: Towards, link: &Link, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..read];
        if towards == Towards::Server {
            let mut said = lock(&link.said);
            let room = REMEMBERED.saturating_sub(said.len());
            said.extend_from_slice(&bytes[..read.min(room)]);
        }
        if link.swallows[towards as usize].load(Ordering::SeqCst) {
            shared.swallowed.fetch_add(read as u64, Ordering::SeqCst);
            continue;
        }
        if towards == Towards::Server
            && let Some(watched) = &link.watched
        {
            lock(watched).sent(bytes);
        }
        if towards == Towards::Server {
            let part = lock(&shared.holds_from);
            if !part.is_empty() && bytes.windows(part.len()).any(|bytes| bytes == *part) {
                link.to_server.hold();
            }
        }
        if towards == Towards::Client && link.to_server.is_held() {
            lock(&link.late).extend_from_slice(bytes);
        }
        if !link.pipe(towards).push(bytes) {
            break;
        }
    }
    if towards == Towards::Server
        && let Some(watched) = &link.watched
        && lock(watched).has_transaction()
    {
        shared.unanswered.fetch_add(1, Ordering::SeqCst);
    }
    link.pipe(towards).end();
}

fn write(mut to: TcpStream, towards: Towards, link: &Link, shared: &Shared) {
    let (pipe, conditions) = (link.pipe(towards), shared.conditions(towards));
    while let Some(bytes) = pipe.next(conditions) {
        if towards == Towards::Client
            && let Some(watched) = &link.watched
        {
            // Before the client can act on it.
            lock(watched).answered(&bytes);
        }
        // What is sent to one who is gone is looked at all the same: it may be a held one's answer.
        let written = to.write_all(&bytes);
        if written.is_err() && !link.to_server.is_held() {
            break;
        }
        conditions.pace(bytes.len());
    }
    pipe.abandon();
    // The other direction may go on until its own end.
    let _ = to.shutdown(Shutdown::Write);
    if towards == Towards::Client {
        let _ = to.shutdown(Shutdown::Both);
    }
}
