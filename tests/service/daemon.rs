//! `--daemon` and its PID file: the truth to the caller, races, what killed processes leave.

use crate::place::{PROGRAM, Place, gone, is_alive, status_of};
use crate::support::{SimulatedDragonfly, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

/// Starts a daemon in the place, from its directory and with relative paths.
fn daemon(place: &Place, more: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args([
        "replicate",
        "--daemon",
        "--config",
        "orders.toml",
        "--pidfile",
        "pid",
    ]);
    command
        .args(more)
        .current_dir(place.dir())
        .stdin(Stdio::null());
    command.output().expect("a caller that returns")
}

#[track_caller]
fn started(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_daemon_is_found_asked_and_stopped_by_its_pid_file() {
    let place = Place::new();
    assert_eq!(place.ask(&["status"]).status.code(), Some(3));
    started(&daemon(&place, &["--ready", "connected"]));
    let pid = place.wait_stable();
    let file = place.at("pid");
    assert_eq!(
        fs::read_to_string(&file).expect("a PID file"),
        format!("{pid}\n")
    );
    let mode = fs::metadata(&file)
        .expect("a PID file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd"))
            .expect("a directory")
            .as_os_str(),
        "/"
    );
    assert_eq!(status_of(pid, "Umask"), "0027");
    for stream in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{stream}")).expect("a stream");
        assert_eq!(target.as_os_str(), "/dev/null", "{stream}");
    }
    let output = place.ask(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("orders"), "{output:?}");
    let output = place.ask(&["stop", "--timeout", "30s"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!is_alive(pid), "stop returns when it is gone");
    assert!(!file.exists());
    assert!(place.log().contains("df2redis stopped"));
    assert_eq!(place.ask(&["stop"]).status.code(), Some(0));
}

#[test]
fn a_second_daemon_is_refused_with_the_firsts_pid_and_disturbs_nothing() {
    let place = Place::new();
    started(&daemon(&place, &[]));
    let pid = place.wait_stable();
    let output = daemon(&place, &[]);
    assert_eq!(output.status.code(), Some(73));
    let expected = format!("df2redis: already running, PID {pid}\n");
    assert!(text(&output.stderr).starts_with(&expected), "{output:?}");
    // The same task under another PID file.
    let mut other = place.command(&["--daemon", "--pidfile"]);
    let output = other.arg(place.at("other")).output().expect("a caller");
    assert_eq!(output.status.code(), Some(73));
    let expected = format!("df2redis: task orders is already running, PID {pid}\n");
    assert!(text(&output.stderr).starts_with(&expected), "{output:?}");
    assert!(!place.at("other").exists());
    place.replicates();
    place.stop(pid);
}

#[test]
fn what_a_killed_daemon_leaves_is_known_to_be_stale_even_if_its_number_is_somebody_elses() {
    let place = Place::new();
    started(&daemon(&place, &[]));
    let first = place.wait_stable();
    kill(first, Signal::SIGKILL).expect("it is there");
    gone(first);
    assert_eq!(place.ask(&["status"]).status.code(), Some(1));
    // Somebody else has that number now.
    let mut bystander = Command::new("sleep").arg("1000").spawn().expect("sleep");
    fs::write(place.at("pid"), format!("{}\n", bystander.id())).expect("the PID file");
    assert_eq!(place.ask(&["status"]).status.code(), Some(1));
    let output = place.ask(&["stop", "--kill", "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        bystander.try_wait().expect("its state").is_none(),
        "it was ended"
    );
    started(&daemon(&place, &["--ready", "stable"]));
    let second = place.wait_stable();
    assert_ne!(second, first);
    let said = fs::read_to_string(place.at("pid")).expect("a PID file");
    assert_eq!(said, format!("{second}\n"));
    place.replicates();
    assert!(
        bystander.try_wait().expect("its state").is_none(),
        "it was ended"
    );
    place.stop(second);
    bystander.kill().expect("it is there");
    bystander.wait().expect("its end");
}

#[test]
fn a_caller_whose_time_is_over_names_the_tasks_and_the_daemon_goes_on() {
    let place = Place::new();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let file = place.at("late.toml");
    let text_of = format!(
        "source.address = \"{address}\"\ntarget.address = {:?}\n",
        place.target.address()
    );
    fs::write(&file, text_of).expect("a task file");
    let late = file.display().to_string();
    let more = [
        "--config",
        &late,
        "--ready",
        "stable",
        "--ready-timeout",
        "500ms",
    ];
    let output = daemon(&place, &more);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("late") && said.contains("not ready after 500ms"),
        "{said}"
    );
    let pid = place.wait_stable();
    place.replicates();
    place.stop(pid);
}

#[test]
fn what_fails_in_the_daemon_is_the_callers_answer() {
    let place = Place::new();
    // Its owner is not to be trusted, which only shows when the task is locked.
    fs::create_dir(place.at("state")).expect("a directory");
    fs::set_permissions(place.at("state"), fs::Permissions::from_mode(0o777)).expect("its mode");
    let output = daemon(&place, &[]);
    assert_eq!(output.status.code(), Some(73), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.starts_with("df2redis: cannot use the state directory "),
        "{said}"
    );
    assert!(said.contains("\ndf2redis: chmod go-w it"), "{said}");
    assert!(!place.at("pid").exists());
}

#[test]
fn a_wrong_password_is_the_callers_answer_when_it_waits_for_the_connection() {
    let source = SimulatedDragonfly::options()
        .require_password("right")
        .start();
    let place = Place::new();
    let content = format!(
        "source.address = {:?}\nsource.password = \"wrong\"\ntarget.address = {:?}\n",
        source.address(),
        place.target.address()
    );
    fs::write(place.at("orders.toml"), content).expect("a task file");
    let output = daemon(&place, &["--ready", "connected"]);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("WRONGPASS") && !said.contains("wrong\""),
        "{said}"
    );
    assert!(!place.at("pid").exists());
}

/// Processes started at once that all want one PID file. The task is never reached: its source says nothing.
#[test]
fn of_many_daemons_racing_for_one_pid_file_exactly_one_runs() {
    let place = Place::new();
    for _ in 0..10 {
        let start = |_| {
            let mut command = place.command(&["--daemon", "--pidfile"]);
            command.arg(place.at("pid")).stderr(Stdio::piped());
            command.spawn().expect("a caller")
        };
        let callers: Vec<Child> = (0..5).map(start).collect();
        let outputs = callers
            .into_iter()
            .map(|caller| caller.wait_with_output().expect("an end"));
        let outputs: Vec<Output> = outputs.collect();
        let codes: Vec<_> = outputs.iter().map(|output| output.status.code()).collect();
        let count = |code| codes.iter().filter(|one| **one == Some(code)).count();
        assert_eq!((count(0), count(73)), (1, 4), "{outputs:?}");
        let pid = fs::read_to_string(place.at("pid")).expect("a PID file");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number"));
        assert_eq!(place.pid(), Some(pid));
        let output = place.ask(&["stop"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(!place.at("pid").exists(), "a stale file");
    }
}

#[test]
fn a_daemon_of_another_user_has_all_its_groups_and_only_those() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can give up root: run the tests as root"
    );
    let place = Place::new();
    let nobody = nix::unistd::User::from_name("nobody")
        .expect("users")
        .expect("nobody");
    for dir in ["log", "state", "run"] {
        fs::create_dir(place.at(dir)).expect("a directory");
        nix::unistd::chown(&place.at(dir), Some(nobody.uid), Some(nobody.gid))
            .expect("root's right");
    }
    fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut command = place.command(&["--daemon", "--user", "nobody", "--ready", "stable"]);
    let pidfile = place.at("run/pid");
    let output = command
        .arg("--pidfile")
        .arg(&pidfile)
        .output()
        .expect("a caller");
    started(&output);
    let pid = place.wait_stable();
    let four = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
    assert_eq!(status_of(pid, "Uid"), four(nobody.uid.as_raw()));
    assert_eq!(status_of(pid, "Gid"), four(nobody.gid.as_raw()));
    assert_eq!(status_of(pid, "Groups"), nobody.gid.to_string());
    assert_eq!(status_of(pid, "CapEff"), "0000000000000000");
    place.replicates();
    place.stop(pid);
    eventually("the PID file gone", || !pidfile.exists());
}
