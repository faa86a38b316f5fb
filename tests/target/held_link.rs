//! A way to a server that can swallow what is sent, and deliver it much later: what a cut network does to the
//! bytes of a process that is gone.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::support::eventually;

/// One connection: what is held of it, and the server's end.
struct Held {
    bytes: Vec<u8>,
    server: TcpStream,
    /// Everything the server has sent.
    answers: JoinHandle<Vec<u8>>,
}

#[derive(Default)]
struct State {
    holding: bool,
    links: Vec<Held>,
}

/// Forwards connections to a server until it is told to hold what clients send.
pub struct HeldLink {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl HeldLink {
    /// A way to this port of 127.0.0.1.
    pub fn to(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                forward(client.unwrap(), upstream, &shared);
            }
        });
        Self { port, state }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on nothing reaches the server.
    pub fn hold(&self) {
        self.state.lock().unwrap().holding = true;
    }

    /// Whether bytes that end so are held.
    pub fn holds(&self, end: &[u8]) -> bool {
        let state = self.state.lock().unwrap();
        state.links.iter().any(|link| link.bytes.ends_with(end))
    }

    /// Loses the second half of what is held.
    pub fn halve(&self) {
        for link in &mut self.state.lock().unwrap().links {
            link.bytes.truncate(link.bytes.len() / 2);
        }
    }

    /// Delivers what is held, and yields everything the server has answered on those connections.
    pub fn release(self) -> String {
        let links = std::mem::take(&mut self.state.lock().unwrap().links);
        let mut all = Vec::new();
        for mut link in links {
            link.server.write_all(&link.bytes).unwrap();
            // The server answers everything before it closes its side.
            link.server.shutdown(Shutdown::Write).unwrap();
            eventually("the server answers and closes", || {
                link.answers.is_finished()
            });
            all.extend(link.answers.join().unwrap());
        }
        String::from_utf8_lossy(&all).into_owned()
    }
}

fn forward(client: TcpStream, upstream: u16, state: &Arc<Mutex<State>>) {
    let server = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
    let mut from_server = server.try_clone().unwrap();
    let mut to_client = client.try_clone().unwrap();
    let answers = std::thread::spawn(move || {
        let mut answers = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from_server.read(&mut buffer) {
            answers.extend_from_slice(&buffer[..read]);
            // The client may be gone.
            let _ = to_client.write_all(&buffer[..read]);
        }
        let _ = to_client.shutdown(Shutdown::Both);
        answers
    });
    let index = {
        let mut state = state.lock().unwrap();
        state.links.push(Held {
            bytes: Vec::new(),
            server,
            answers,
        });
        state.links.len() - 1
    };
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        let mut client = client;
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            let mut state = state.lock().unwrap();
            let holding = state.holding;
            // Released: nobody waits for more.
            let Some(link) = state.links.get_mut(index) else {
                return;
            };
            match holding {
                true => link.bytes.extend_from_slice(&buffer[..read]),
                false => link.server.write_all(&buffer[..read]).unwrap(),
            }
        }
    });
}
