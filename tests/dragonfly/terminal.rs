//! What an operator sees: a bar and a line on a terminal, phases and summaries in the log.

use crate::df2redis::Task;
use crate::support::dragonfly::Fault;
use crate::support::{Dataset, RedisServer, SimulatedDragonfly, eventually};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

/// A df2redis on a terminal of its own, and what it has drawn there.
struct OnTerminal {
    child: Child,
    drawn: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    fn start(task: &Task) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).expect("a pseudo terminal");
        let side = || Stdio::from(pty.slave.try_clone().expect("a handle to the terminal"));
        let mut command = task.command();
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        let child = command
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("df2redis starts");
        drop(command);
        drop(pty.slave);
        let drawn = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, seen) = (File::from(pty.master), Arc::clone(&drawn));
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            // The last one to close the other side ends this with an error.
            while let Ok(count @ 1..) = screen.read(&mut part) {
                seen.lock()
                    .expect("the screen")
                    .extend_from_slice(&part[..count]);
            }
        });
        Self { child, drawn }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.drawn.lock().expect("the screen")).into_owned()
    }

    #[track_caller]
    fn wait_drawn(&self, parts: &[&str]) {
        let all = || {
            let text = self.text();
            let lines = text.split(['\r', '\n', '\x1b']);
            lines
                .into_iter()
                .any(|line| parts.iter().all(|part| line.contains(part)))
        };
        eventually(&format!("{parts:?} on the terminal"), all);
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- on the terminal:\n{}", self.text().escape_debug());
        }
    }
}

#[test]
fn a_terminal_shows_a_bar_in_the_snapshot_and_the_lag_afterwards() {
    let source = SimulatedDragonfly::options()
        .dataset(Dataset::strings(20_000, 100))
        .start();
    for flow in 0..2 {
        source.inject(Fault::SlowFlow {
            flow,
            bytes_per_second: 100_000,
        });
    }
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = OnTerminal::start(&task);
    running.wait_drawn(&["%", "snapshot", "keys", "/s", "flows 0/2"]);
    source.clear_faults();
    running.wait_drawn(&["snapshot finished, following writes"]);
    source.journal(0, ["SET", "k", "v"]);
    running.wait_drawn(&["stable sync", "1 entries applied", "lag 0 entries"]);
    let pid = Pid::from_raw(running.child.id().try_into().expect("a process id"));
    kill(pid, Signal::SIGINT).expect("df2redis is there");
    let status = running.child.wait().expect("its end");
    assert_eq!(status.code(), Some(0));
    eventually("its last line", || {
        running.text().contains("df2redis stopped")
    });
}

#[test]
fn a_full_report_is_logged_on_request() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    for n in 0..10 {
        source.journal(0, ["SET", "k", &n.to_string()]);
    }
    source.wait_acked();
    running.signal(Signal::SIGUSR2);
    let line = running.wait_logged("INFO status, ");
    for part in [
        "task: copy",
        "phase: stable sync",
        "entries: 10",
        "sessions: 1",
    ] {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    let flow = source.flow_of("k");
    let line = running.wait_logged(&format!("INFO status of a flow, flow: {flow}"));
    assert!(line.contains("position: 11"), "{line}");
    assert!(!running.log().contains("stopping"), "{}", running.log());
    running.stop();
}

#[test]
fn the_log_tells_each_phase_and_a_summary_every_ten_seconds() {
    let source = SimulatedDragonfly::options()
        .dataset(Dataset::strings(1000, 100))
        .start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address());
    let mut running = task.start_stable();
    for n in 0..100 {
        source.journal(0, ["SET", "k", &n.to_string()]);
    }
    source.wait_acked();
    let line = running.wait_logged("summary");
    for part in [
        "phase: stable",
        "entries: 100",
        "entries_per_s: ",
        "lag_entries: 0",
        "lag_ms: ",
        "memory_bytes: ",
        "reconnects: 0",
    ] {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    let log = running.log();
    let phases = [
        "df2redis started",
        "target reached",
        "source reached",
        "full sync started",
        "snapshot finished, following writes, keys: 1000",
        "summary",
    ];
    let places: Vec<Option<usize>> = phases.iter().map(|phase| log.find(phase)).collect();
    assert!(places.iter().all(Option::is_some), "{places:?}");
    assert!(places.is_sorted(), "{places:?}");
    running.stop();
}
