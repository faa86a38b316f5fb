//! One direction of one connection: bytes that wait for their time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that wait before the sender has to.
const MOST: usize = 1 << 20;
/// Bytes written at once: a rate is kept in steps of this.
const STEP: usize = 16 << 10;

/// What a direction is like, on all connections.
#[derive(Debug, Default)]
pub struct Conditions {
    delay_us: AtomicU64,
    bytes_per_second: AtomicU64,
    closed: AtomicBool,
}

impl Conditions {
    /// How much later bytes arrive.
    pub fn delay(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.delay_us.store(micros, Ordering::SeqCst);
    }

    /// At which rate; 0 for any.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.bytes_per_second
            .store(bytes_per_second, Ordering::SeqCst);
    }

    /// Whether nothing arrives.
    pub fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    /// Takes the time that so many bytes take.
    pub fn pace(&self, bytes: usize) {
        let rate = self.bytes_per_second.load(Ordering::SeqCst);
        if rate > 0 {
            std::thread::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64));
        }
    }
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// Nothing more comes in.
    ended: bool,
    /// Nothing more goes out.
    abandoned: bool,
    /// This one's own gate.
    held: bool,
    /// It was held once: its answers are wanted even when its client is gone.
    was_held: bool,
}

/// A queue with a gate.
#[derive(Debug, Default)]
pub struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes once there is room; `false` when nobody takes them any more.
    pub fn push(&self, bytes: &[u8]) -> bool {
        let full = |state: &mut State| state.bytes >= MOST && !state.held && !state.abandoned;
        let state = self.lock();
        let state = self.changed.wait_while(state, full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.bytes += bytes.len();
        state.chunks.push_back((Instant::now(), bytes.to_vec()));
        self.changed.notify_all();
        !state.abandoned && !state.ended
    }

    /// Nothing more comes in.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Nothing more goes out.
    pub fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    /// The next bytes when their time has come; `None` at the end.
    pub fn next(&self, conditions: &Conditions) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if state.abandoned {
                return None;
            }
            let open = !state.held && !conditions.closed.load(Ordering::SeqCst);
            let delay = Duration::from_micros(conditions.delay_us.load(Ordering::SeqCst));
            let due = state.chunks.front().map(|(came, _)| *came + delay);
            let now = Instant::now();
            let wait = match due {
                _ if !open => None,
                None if state.ended => return None,
                None => None,
                Some(due) if due <= now => return Some(self.take(&mut state)),
                Some(due) => Some(due - now),
            };
            // Without a time of its own it is woken by whoever changes something.
            let wait = wait.unwrap_or(Duration::from_secs(3600));
            let woken = self.changed.wait_timeout(state, wait);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn take(&self, state: &mut State) -> Vec<u8> {
        let Some((came, mut bytes)) = state.chunks.pop_front() else {
            return Vec::new();
        };
        if bytes.len() > STEP {
            let rest = bytes.split_off(STEP);
            state.chunks.push_front((came, rest));
        }
        state.bytes -= bytes.len();
        self.changed.notify_all();
        bytes
    }

    /// The conditions have changed.
    pub fn look(&self) {
        let _state = self.lock();
        self.changed.notify_all();
    }

    /// Closes its own gate.
    pub fn hold(&self) {
        let mut state = self.lock();
        (state.held, state.was_held) = (true, true);
        self.changed.notify_all();
    }

    /// Opens its own gate, for what is there; nothing more comes in.
    pub fn release(&self) {
        let mut state = self.lock();
        (state.held, state.ended) = (false, true);
        self.changed.notify_all();
    }

    /// Whether it is, or was, held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lock().was_held
    }

    /// Whether what it holds ends so.
    #[must_use]
    pub fn held_ends_with(&self, end: &[u8]) -> bool {
        self.held_bytes().ends_with(end)
    }

    /// Whether what it holds contains this.
    #[must_use]
    pub fn held_contains(&self, part: &[u8]) -> bool {
        let bytes = self.held_bytes();
        bytes.windows(part.len()).any(|window| window == part)
    }

    fn held_bytes(&self) -> Vec<u8> {
        let state = self.lock();
        let chunks = state.chunks.iter().filter(|_| state.held);
        chunks.flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    /// Loses the second half of what it holds.
    pub fn halve(&self) {
        let mut bytes = self.held_bytes();
        bytes.truncate(bytes.len() / 2);
        let mut state = self.lock();
        state.bytes = bytes.len();
        state.chunks = VecDeque::from([(Instant::now(), bytes)]);
    }
}
