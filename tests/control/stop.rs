//! `df2redis stop`.

use crate::df2redis::Task;
use crate::said::{Said, df2redis, said};
use crate::support::{RedisServer, SimulatedDragonfly};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn a_process_is_stopped_by_its_pid_file_and_waited_for() {
    let (source, target) = (SimulatedDragonfly::start(), RedisServer::start());
    let task = Task::between(&source.address(), &target.address());
    let pid_file = task.dir().join("pid");
    let pid_file = pid_file.to_str().expect("UTF-8");
    let stop = |more: &[&str]| -> Said {
        let mut command = df2redis(&["stop", "--pidfile", pid_file]);
        said(command.args(more))
    };
    let nobody = stop(&[]);
    assert_eq!(nobody.exit, 0);
    assert_eq!(
        nobody.stdout,
        format!("not running: there is no {pid_file}\n")
    );

    let mut running = task.start_with(&["--pidfile", pid_file]);
    running.wait_stable();
    let stopped = stop(&[]);
    assert_eq!(stopped.exit, 0, "{stopped:?}");
    assert_eq!(stopped.stdout, format!("PID {} has ended\n", running.pid()));
    assert_eq!(running.exit_code(), 0);
    assert!(!fs::exists(pid_file).expect("a directory"));

    let mut running = task.start_with(&["--pidfile", pid_file]);
    running.wait_stable();
    running.signal(Signal::SIGSTOP);
    let still = stop(&["--timeout", "100ms"]);
    assert_eq!(still.exit, 1, "{still:?}");
    let expected = format!(
        "df2redis: PID {} has not ended within 100ms; --kill ends it at once\n",
        running.pid()
    );
    assert_eq!(still.stderr, expected);
    let killed = stop(&["--timeout", "100ms", "--kill"]);
    assert_eq!(killed.exit, 0, "{killed:?}");
    assert!(killed.stdout.contains(" was killed: "), "{killed:?}");

    let stale = stop(&[]);
    assert_eq!(stale.exit, 0, "{stale:?}");
    assert!(stale.stdout.contains("was left behind"), "{stale:?}");
    fs::write(pid_file, "precious").expect("a foreign file");
    let foreign = stop(&["--kill"]);
    assert_eq!(foreign.exit, 4, "{foreign:?}");
    assert!(foreign.stderr.contains("is not a PID file"), "{foreign:?}");
}
