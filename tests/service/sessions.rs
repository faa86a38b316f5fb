//! An operator's session that is lost: over SSH, in tmux, in screen, with and without nohup.

use crate::place::{Place, gone, is_alive, status_of};
use crate::sshd::Sshd;
use crate::support::eventually;
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Starts it in a session over SSH by this line, cuts the connection, and sees what is left.
#[track_caller]
fn survives_a_lost_connection(place: &Place, line: &str) -> Pid {
    let sshd = Sshd::start();
    let mut session = sshd.log_in();
    let shell = place.at("shell");
    session.type_line(&format!(
        "echo $$ > {0}.new; mv {0}.new {0}",
        shell.display()
    ));
    // As some shells and administrators have it: every job is told of the end.
    session.type_line("shopt -s huponexit");
    session.type_line(line);
    let pid = place.wait_stable();
    place.replicates();
    let shell = fs::read_to_string(shell).expect("the shell's number");
    let shell = Pid::from_raw(shell.trim().parse().expect("a number"));
    assert!(is_alive(shell));
    session.cut();
    gone(shell);
    place.replicates();
    assert!(is_alive(pid), "it has ended");
    pid
}

#[test]
fn a_background_job_outlives_its_ssh_connection() {
    let place = Place::new();
    let pid = survives_a_lost_connection(&place, &place.line("--task-name orders &"));
    place.wait_logged("the console failed, nothing is shown there any more");
    assert_eq!(place.log().matches("the console failed").count(), 1);
    place.stop(pid);
}

#[test]
fn a_background_job_is_not_stopped_by_a_terminal_that_stops_those_who_write() {
    let place = Place::new();
    let line = format!("stty tostop; {}", place.line("&"));
    let pid = survives_a_lost_connection(&place, &line);
    place.stop(pid);
}

#[test]
fn nohup_does_no_harm() {
    let place = Place::new();
    let line = format!("cd {}; nohup {}", place.dir().display(), place.line("&"));
    let pid = survives_a_lost_connection(&place, &line);
    assert!(
        place
            .log()
            .contains("Detected non-TTY stdout, disabling console output")
    );
    place.stop(pid);
}

#[test]
fn a_daemon_outlives_the_connection_that_started_it() {
    let place = Place::new();
    let pidfile = place.at("pid");
    let line = place.line(&format!("--daemon --pidfile {}", pidfile.display()));
    let pid = survives_a_lost_connection(&place, &line);
    let said = fs::read_to_string(&pidfile).expect("a PID file");
    assert_eq!(said, format!("{pid}\n"));
    place.stop(pid);
    assert!(!pidfile.exists());
}

#[test]
fn ssh_with_a_daemon_as_its_command_returns_when_it_is_stable() {
    let place = Place::new();
    let sshd = Sshd::start();
    let asked = Instant::now();
    let pidfile = place.at("pid").display().to_string();
    let line = place.line(&format!("--daemon --ready stable --pidfile {pidfile}"));
    let output = sshd.run(&line);
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "{:?}",
        asked.elapsed()
    );
    let pid = place.wait_stable();
    place.replicates();
    assert_eq!(
        status_of(pid, "NSsid"),
        status_of(pid, "NSpgid"),
        "a session of its own"
    );
    place.stop(pid);
}

#[test]
fn ssh_with_a_daemon_that_cannot_start_says_why_and_fails() {
    let place = Place::with("[log]\ndir = \"/proc/nowhere\"");
    let output = Sshd::start().run(&place.line("--daemon"));
    assert_eq!(output.status.code(), Some(73), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("df2redis: cannot ") && said.contains(" /proc/nowhere"),
        "{said}"
    );
}

#[test]
fn it_outlives_tmux() {
    let place = Place::new();
    let socket = place.at("tmux").display().to_string();
    let tmux = |words: &[&str]| {
        let mut tmux = Command::new("tmux");
        tmux.args(["-S", &socket, "-f", "/dev/null"]).args(words);
        tmux.env_remove("TMUX")
            .env("TERM", "xterm")
            .stdin(Stdio::null());
        let status = tmux.status().expect("tmux (`make tools` installs it)");
        assert!(status.success(), "tmux {words:?}");
    };
    tmux(&[
        "new-session",
        "-d",
        "-x",
        "100",
        "-y",
        "30",
        &place.line(""),
    ]);
    let pid = place.wait_stable();
    place.replicates();
    tmux(&["kill-server"]);
    place.replicates();
    place.wait_logged("the console failed, nothing is shown there any more");
    assert!(is_alive(pid));
    place.stop(pid);
}

#[test]
fn it_outlives_screen() {
    let place = Place::new();
    let sockets = place.at("screen");
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&sockets)
        .expect("a directory");
    let screen = |words: &[&str]| {
        let mut screen = Command::new("screen");
        screen
            .args(words)
            .env("SCREENDIR", &sockets)
            .env_remove("STY");
        screen
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let status = screen.status().expect("screen (`make tools` installs it)");
        assert!(status.success(), "screen {words:?}");
    };
    screen(&["-S", "orders", "-d", "-m", "sh", "-c", &place.line("")]);
    let pid = place.wait_stable();
    place.replicates();
    screen(&["-S", "orders", "-X", "quit"]);
    eventually("screen's end", || {
        fs::read_dir(&sockets).is_ok_and(|mut sockets| sockets.next().is_none())
    });
    place.replicates();
    assert!(is_alive(pid));
    place.stop(pid);
}
