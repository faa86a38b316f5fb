//! Servers that are not what the program expects to find on a port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A port of 127.0.0.1 where every connection gets the same answer, or is passed on to a real server.
/// Dropping it ends it.
pub struct Impostor {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
    answer: Arc<Mutex<Answer>>,
}

/// What a connection meets.
#[derive(Clone)]
pub enum Answer {
    /// These bytes for whatever is said.
    Bytes(&'static [u8]),
    /// Nothing, ever.
    Silence,
    /// What the server on this port says.
    From(u16),
}

impl Impostor {
    /// Starts one.
    pub fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on 127.0.0.1");
        let impostor = Self {
            addr: listener.local_addr().expect("the address of a listener"),
            over: Arc::default(),
            answer: Arc::new(Mutex::new(answer)),
        };
        let (over, answer) = (impostor.over.clone(), impostor.answer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let answer = answer.lock().expect("no panic under the lock").clone();
                std::thread::spawn(move || serve(stream, &answer));
            }
        });
        impostor
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.addr.to_string()
    }

    /// What new connections meet from now on.
    pub fn becomes(&self, answer: Answer) {
        *self.answer.lock().expect("no panic under the lock") = answer;
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

/// Serves one connection until the other side ends it.
fn serve(mut stream: TcpStream, answer: &Answer) {
    let mut heard = [0; 4096];
    match answer {
        Answer::From(port) => {
            let Ok(server) = TcpStream::connect(("127.0.0.1", *port)) else {
                return;
            };
            let pipe = |from: &TcpStream, to: &TcpStream| {
                let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
                std::io::copy(&mut from, &mut to)?;
                to.shutdown(std::net::Shutdown::Write)
            };
            // Each ends with its side.
            std::thread::scope(|scope| {
                let back = scope.spawn(|| pipe(&server, &stream));
                let _ = pipe(&stream, &server);
                let _ = back.join();
            });
        }
        Answer::Bytes(bytes) => {
            while stream.read(&mut heard).is_ok_and(|read| read > 0) {
                if stream.write_all(bytes).is_err() {
                    return;
                }
            }
        }
        Answer::Silence => while stream.read(&mut heard).is_ok_and(|read| read > 0) {},
    }
}

/// A port where connections are neither accepted nor refused, as behind a firewall that drops packets.
pub struct BlackHole {
    listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl BlackHole {
    /// Fills the queue of a listener that nobody accepts from.
    pub fn start() -> Self {
        let tcp = || {
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                .expect("a socket")
        };
        let listener = tcp();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a free port");
        listener.listen(0).expect("a listener");
        let addr = listener.local_addr().expect("the address of a listener");
        let queued = (0..4).map(|_| {
            let socket = tcp();
            socket
                .set_nonblocking(true)
                .expect("a socket that does not wait");
            // In progress, which for all but the first it remains.
            let _ = socket.connect(&addr);
            socket
        });
        Self {
            _queued: queued.collect(),
            listener,
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        let addr = self
            .listener
            .local_addr()
            .expect("the address of a listener");
        addr.as_socket().expect("an IP address").to_string()
    }
}
