//! Signals: which are ignored, and how those that stop become a value to wait for.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::signal::{SigHandler, Signal, signal};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook_tokio::{Handle, Signals};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How far a task has been asked to stop. It only ever rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    Run,
    /// Take nothing new, finish what is in flight, acknowledge, end.
    Drain,
    /// End at once.
    Now,
}

/// Ignores the signals that would end the process without asking: SIGHUP, sent when a session is lost, and
/// SIGPIPE, sent for a write that can just as well return an error. To be called first of all.
pub fn ignore_fatal_signals() -> io::Result<()> {
    for name in [Signal::SIGHUP, Signal::SIGPIPE] {
        #[expect(unsafe_code, reason = "signal(2) has no safe form")]
        // SAFETY: unsafe because a handler could do what is not allowed inside one, or replace one that
        // somebody relies on. SIG_IGN runs no code, and nobody has installed a handler yet.
        unsafe { signal(name, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// The signals that stop, being listened to: SIGTERM, SIGINT and SIGQUIT.
///
/// The first asks to drain; the second, or the end of the time given for draining, to end at once.
#[derive(Debug)]
pub struct StopSignals {
    handle: Handle,
    task: JoinHandle<()>,
}

impl StopSignals {
    /// Listens, on the current runtime, until dropped. After that the signals have no effect at all.
    pub fn listen(drain: Duration) -> io::Result<(Self, watch::Receiver<Stop>)> {
        let signals = Signals::new([SIGTERM, SIGINT, SIGQUIT])?;
        let handle = signals.handle();
        let (sender, receiver) = watch::channel(Stop::Run);
        let task = tokio::spawn(raise(signals, sender, drain));
        Ok((Self { handle, task }, receiver))
    }
}

async fn raise(mut signals: Signals, stop: watch::Sender<Stop>, drain: Duration) {
    if signals.next().await.is_none() {
        return;
    }
    stop.send_replace(Stop::Drain);
    tokio::select! {
        _ = signals.next() => {}
        () = sleep(drain) => {}
    }
    stop.send_replace(Stop::Now);
    // Whoever watches is told apart from whoever lost the sender.
    stop.closed().await;
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        self.handle.close();
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise as send;
    use std::sync::Mutex;

    /// Signals belong to the process: one test at a time.
    static SIGNALS: Mutex<()> = Mutex::new(());

    fn block_on<F: Future>(future: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_lost_session_and_a_closed_pipe_do_not_end_the_process() {
        let _one = SIGNALS.lock().unwrap();
        ignore_fatal_signals().unwrap();
        send(Signal::SIGHUP).unwrap();
        send(Signal::SIGPIPE).unwrap();
    }

    #[test]
    fn the_first_signal_drains_and_the_second_ends() {
        let _one = SIGNALS.lock().unwrap();
        block_on(async {
            let (_signals, mut stop) = StopSignals::listen(Duration::from_secs(3_600)).unwrap();
            assert_eq!(*stop.borrow_and_update(), Stop::Run);
            send(Signal::SIGTERM).unwrap();
            stop.changed().await.unwrap();
            assert_eq!(*stop.borrow_and_update(), Stop::Drain);
            send(Signal::SIGINT).unwrap();
            stop.changed().await.unwrap();
            assert_eq!(*stop.borrow_and_update(), Stop::Now);
        });
    }

    #[test]
    fn draining_ends_when_its_time_is_over() {
        let _one = SIGNALS.lock().unwrap();
        block_on(async {
            let (_signals, mut stop) = StopSignals::listen(Duration::from_millis(1)).unwrap();
            send(Signal::SIGQUIT).unwrap();
            stop.wait_for(|stop| *stop == Stop::Now).await.unwrap();
        });
    }
}
