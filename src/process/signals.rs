//! Signals: which are ignored, and how those that ask for something become values to wait for.
//!
//! Handlers do no work: signal-hook only notes that a signal has come. What comes before anybody listens waits, blocked,
//! so that a request during start-up neither ends the process nor is lost.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_tokio::{Handle, Signals as Incoming};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

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

/// What a signal asks for beside stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGUSR1: reopen all log files.
    ReopenLogs,
    /// SIGUSR2: write a full status report to the log.
    Report,
}

/// Ignored from the first moment to the last: SIGHUP, sent when a session is lost; SIGPIPE, sent for a write that can
/// just as well return an error, and so SIGXFSZ, for one beyond the limit of file sizes; SIGTTOU and SIGTTIN, which
/// would stop a background job that uses its terminal.
const IGNORED: [Signal; 5] = [
    Signal::SIGHUP,
    Signal::SIGPIPE,
    Signal::SIGXFSZ,
    Signal::SIGTTOU,
    Signal::SIGTTIN,
];

/// Ignores the signals that would end or stop the process without asking, and lets those wait that ask for something
/// ([`Signals::listen`] hears them). All others are unblocked, should whoever started us have blocked them. To be
/// called first of all, by the main thread.
pub fn ignore_fatal_signals() -> io::Result<()> {
    for name in IGNORED {
        set_disposition(name, SigHandler::SigIgn)?;
    }
    Ok(waiting().thread_set_mask()?)
}

/// The signals that wait until they are listened to.
fn waiting() -> SigSet {
    let mut waiting = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGUSR2]);
    if std::process::id() == 1 {
        // PID 1 has no default actions: what would end another process is lost on it, unless it is blocked.
        waiting.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT]);
    }
    waiting
}

fn set_disposition(name: Signal, disposition: SigHandler) -> io::Result<()> {
    debug_assert!(!matches!(disposition, SigHandler::Handler(_)));
    #[expect(unsafe_code, reason = "signal(2) has no safe form")]
    // SAFETY: unsafe because a handler could do what is not allowed inside one, or replace one that somebody relies
    // on. SIG_IGN and SIG_DFL run no code of ours, and what they are set for has no handler yet: those in IGNORED are
    // never listened to, and SIGCHLD only later.
    unsafe { signal(name, disposition) }?;
    Ok(())
}

/// Has a child's end reported again, which is what waiting for one takes: whoever started us may have ignored SIGCHLD.
pub(super) fn report_ended_children() -> io::Result<()> {
    set_disposition(Signal::SIGCHLD, SigHandler::SigDfl)
}

/// What a daemon starts with: no signal is ignored or blocked because whoever started us did so, only those that
/// [`ignore_fatal_signals`] names.
pub(super) fn reset_inherited() -> io::Result<()> {
    let ignored = ignored()?;
    for number in 1..=libc::SIGRTMAX() {
        let on_purpose = IGNORED.iter().any(|name| *name as libc::c_int == number);
        if on_purpose || ignored & (1 << (number - 1)) == 0 {
            continue;
        }
        #[expect(unsafe_code, reason = "real-time signals have no name in nix")]
        // SAFETY: as in set_disposition: SIG_DFL runs no code of ours, and the signal is ignored now, so it has no
        // handler that anybody could rely on.
        let previous = unsafe { libc::signal(number, libc::SIG_DFL) };
        if previous == libc::SIG_ERR {
            match io::Error::last_os_error() {
                // The C library keeps a few for itself, and sets them as it needs them.
                error if error.raw_os_error() == Some(libc::EINVAL) => {}
                error => return Err(error),
            }
        }
    }
    ignore_fatal_signals()
}

/// The signals that are ignored now, as a mask: bit 0 is signal 1.
fn ignored() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.ok_or_else(|| {
        io::Error::other("/proc/self/status does not tell which signals are ignored")
    })
}

/// The signals that ask for something, being listened to: SIGTERM, SIGINT and SIGQUIT stop, SIGUSR1 and SIGUSR2 are
/// requests.
///
/// The first that stops asks to drain; the second, or the end of the time given for draining, to end at once.
#[derive(Debug)]
pub struct Signals {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Signals {
    /// Listens, on the current runtime, until dropped. After that the signals have no effect at all.
    ///
    /// To be called by the main thread: the signals that waited for this are from now on received by whoever calls it.
    /// `drain` is how long draining may take.
    pub fn listen(
        drain: Duration,
    ) -> io::Result<(
        Self,
        watch::Receiver<Stop>,
        mpsc::UnboundedReceiver<Request>,
    )> {
        let incoming = Incoming::new([SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2])?;
        // Only now that there are handlers.
        waiting().thread_swap_mask(SigmaskHow::SIG_UNBLOCK)?;
        let handle = incoming.handle();
        let (stop, stop_seen) = watch::channel(Stop::Run);
        let (requests, requested) = mpsc::unbounded_channel();
        let task = tokio::spawn(tell(incoming, stop, requests, drain));
        Ok((Self { handle, task }, stop_seen, requested))
    }
}

async fn tell(
    mut incoming: Incoming,
    stop: watch::Sender<Stop>,
    requests: mpsc::UnboundedSender<Request>,
    drain: Duration,
) {
    // When draining has to be over; `None`: it has not begun, or may take for ever.
    let mut end = None;
    loop {
        let over = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let number = tokio::select! {
            number = incoming.next() => number,
            () = over => {
                end = None;
                stop.send_replace(Stop::Now);
                continue;
            }
        };
        match number {
            // Whoever has stopped listening for requests has no logs any more.
            Some(SIGUSR1) => drop(requests.send(Request::ReopenLogs)),
            Some(SIGUSR2) => drop(requests.send(Request::Report)),
            Some(_) if *stop.borrow() == Stop::Run => {
                end = Instant::now().checked_add(drain);
                stop.send_replace(Stop::Drain);
            }
            Some(_) => {
                end = None;
                stop.send_replace(Stop::Now);
            }
            None => return,
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{Other, after, command, hear, play, say};
    use nix::sys::signal::raise as send;
    use std::path::Path;
    use std::process::Command;
    use std::sync::Mutex;

    /// Signals belong to the process: one test at a time.
    static SIGNALS: Mutex<()> = Mutex::new(());

    const HOUR: Duration = Duration::from_secs(3_600);

    fn block_on<F: Future>(future: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(future)
    }

    fn bit(name: Signal) -> u64 {
        1 << (name as i32 - 1)
    }

    fn child(part: &str) -> Command {
        command(
            "process::signals::tests::child_process",
            part,
            Path::new(""),
        )
    }

    #[test]
    #[ignore = "the other process of the tests below"]
    fn child_process() {
        play(|part, _| match part {
            "early" => {
                ignore_fatal_signals().unwrap();
                say("starting");
                hear();
                say("survived");
                block_on(async {
                    let (_signals, stop, mut requests) = Signals::listen(HOUR).unwrap();
                    for _ in 0..2 {
                        say(format_args!("{:?}", requests.recv().await.unwrap()));
                    }
                    say(format_args!("{:?}", *stop.borrow()));
                });
            }
            "reset" => {
                // What it was started with, for the test to be worth something.
                assert_ne!(ignored().unwrap() & bit(Signal::SIGINT), 0);
                assert_ne!(ignored().unwrap() & (1 << 36), 0);
                SigSet::from(Signal::SIGTERM).thread_block().unwrap();
                reset_inherited().unwrap();
                say(ignored().unwrap());
                say(SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM));
            }
            part => panic!("no part: {part}"),
        });
    }

    #[test]
    fn a_lost_session_a_closed_pipe_and_a_terminal_of_others_have_no_effect() {
        let _one = SIGNALS.lock().unwrap();
        ignore_fatal_signals().unwrap();
        for name in IGNORED {
            assert_ne!(ignored().unwrap() & bit(name), 0, "{name}");
            send(name).unwrap();
        }
    }

    #[test]
    fn the_first_signal_drains_and_the_second_ends() {
        let _one = SIGNALS.lock().unwrap();
        block_on(async {
            let (_signals, mut stop, _requests) = Signals::listen(HOUR).unwrap();
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
            let (_signals, mut stop, _requests) =
                Signals::listen(Duration::from_millis(1)).unwrap();
            send(Signal::SIGQUIT).unwrap();
            stop.wait_for(|stop| *stop == Stop::Now).await.unwrap();
        });
    }

    #[test]
    fn requests_are_told_and_do_not_stop_even_while_draining() {
        let _one = SIGNALS.lock().unwrap();
        block_on(async {
            let (_signals, mut stop, mut requests) = Signals::listen(HOUR).unwrap();
            send(Signal::SIGUSR1).unwrap();
            assert_eq!(requests.recv().await, Some(Request::ReopenLogs));
            assert_eq!(*stop.borrow(), Stop::Run);
            send(Signal::SIGTERM).unwrap();
            stop.changed().await.unwrap();
            send(Signal::SIGUSR2).unwrap();
            assert_eq!(requests.recv().await, Some(Request::Report));
            assert_eq!(*stop.borrow(), Stop::Drain);
        });
    }

    #[test]
    fn a_request_that_comes_during_start_up_is_heard_once_somebody_listens() {
        let mut other = Other::start(child("early"));
        assert_eq!(other.says(), "starting");
        other.gets(Signal::SIGUSR1);
        other.gets(Signal::SIGUSR2);
        other.tell("go on");
        assert_eq!(other.says(), "survived");
        let mut heard = [other.says(), other.says()];
        heard.sort();
        assert_eq!(heard, ["ReopenLogs", "Report"]);
        assert_eq!(other.says(), "Run");
        assert!(other.ends().success());
    }

    #[test]
    fn a_daemon_ignores_and_blocks_nothing_because_its_caller_did() {
        // A shell gives what it ignores to whom it starts. 37 is a real-time signal.
        let script = "trap '' INT QUIT CHLD WINCH 37";
        let mut other = Other::start(after(script, &child("reset")));
        let ignored: u64 = other.says().parse().unwrap();
        // Those between the named and the first real-time signal are the C library's.
        let ignored = (32..libc::SIGRTMIN()).fold(ignored, |mask, own| mask & !(1 << (own - 1)));
        let expected = IGNORED.iter().fold(0, |mask, name| mask | bit(*name));
        assert_eq!(ignored, expected);
        assert_eq!(other.says(), "false");
        assert!(other.ends().success());
    }
}
