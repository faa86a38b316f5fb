//! Those who start services: supervisor, whoever listens on a notify socket, a container's kernel.

use crate::place::{PROGRAM, Place, Started, gone, is_alive};
use crate::support::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn supervisor_starts_it_restarts_it_when_killed_and_stops_it_in_order() {
    let place = Place::new();
    let at = |name: &str| place.at(name).display().to_string();
    // The packaged file, with the paths and the user of this test.
    let packaged = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/packaging/supervisor/df2redis.conf"
    );
    let program = fs::read_to_string(packaged)
        .expect("the packaged file")
        .replace("/usr/bin/df2redis", PROGRAM)
        .replace(
            "--config /etc/df2redis",
            &format!("--config {}", at("orders.toml")),
        )
        .replace("/run/df2redis/df2redis.pid", &at("pid"))
        .replace("user=df2redis\n", "")
        .replace("/var/log/supervisor/df2redis.log", &at("captured"));
    let set = program.lines().filter(|line| !line.starts_with(';'));
    let is_elsewhere = |line: &&str| {
        ["=/usr", " /etc", "/var/"]
            .iter()
            .any(|it| line.contains(it))
    };
    assert_eq!(
        set.filter(is_elsewhere).collect::<Vec<_>>(),
        Vec::<&str>::new()
    );
    let own = format!(
        "[supervisord]\nnodaemon=true\npidfile={}\nlogfile={}\nchildlogdir={}\n\
         [unix_http_server]\nfile={}\n\
         [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
         [supervisorctl]\nserverurl=unix://{}\n",
        at("supervisord.pid"),
        at("supervisord.log"),
        place.dir().display(),
        at("supervisor.sock"),
        at("supervisor.sock")
    );
    fs::write(place.at("supervisord.conf"), own + &program).expect("a configuration");
    let supervisord = Command::new("supervisord")
        .args(["-n", "-c", &at("supervisord.conf")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("supervisord (`make tools` installs it)");
    let mut supervisord = Started(supervisord);
    let control = |words: &[&str]| {
        let mut control = Command::new("supervisorctl");
        control.args(["-c", &at("supervisord.conf")]).args(words);
        let output = control
            .stdin(Stdio::null())
            .output()
            .expect("supervisorctl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = place.wait_stable();
    eventually("RUNNING", || {
        control(&["status", "df2redis"]).contains("RUNNING")
    });
    place.replicates();

    kill(first, Signal::SIGKILL).expect("it is there");
    gone(first);
    eventually("another process", || {
        place.pid().is_some_and(|pid| pid != first)
    });
    let second = place.pid().expect("just seen");
    place.source.wait_stable();
    place.replicates();

    control(&["signal", "USR1", "df2redis"]);
    place.wait_logged("log file opened again");
    assert!(control(&["stop", "df2redis"]).contains("stopped"));
    assert!(!is_alive(second));
    assert!(place.log().contains("df2redis stopped"));
    assert!(!place.at("pid").exists());

    control(&["start", "df2redis"]);
    eventually("a third process", || place.pid().is_some());
    place.source.wait_stable();
    place.replicates();
    kill(supervisord.pid(), Signal::SIGTERM).expect("it is there");
    supervisord.ends_with(0);
    assert_eq!(place.pid(), None, "it ends with supervisord");
}

#[test]
fn a_service_manager_hears_of_readiness_state_reloading_life_and_stopping() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.at("notify")).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    let hear = || {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).expect("a word within 30 s");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    // The words that come before one of these are answered.
    let hear_until = |wanted: &str| {
        let mut heard = Vec::new();
        loop {
            heard.push(hear());
            if heard.last().is_some_and(|last| last.contains(wanted)) {
                return heard;
            }
        }
    };
    let mut command = place.command(&[]);
    command
        .env("NOTIFY_SOCKET", place.at("notify"))
        .env("WATCHDOG_USEC", "400000");
    let mut running = Started(command.spawn().expect("df2redis"));
    assert_eq!(hear(), "READY=1\n");
    hear_until("STATUS=orders: stable sync, lag ");
    place.replicates();

    hear_until("WATCHDOG=1");
    let begun = Instant::now();
    let mut signs = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        signs += usize::from(hear() == "WATCHDOG=1\n");
    }
    assert!(
        (8..=14).contains(&signs),
        "{signs} signs of life in 2 s, each 200 ms"
    );

    kill(running.pid(), Signal::SIGUSR1).expect("it is there");
    let reloading = hear_until("RELOADING=1\n").pop().unwrap_or_default();
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    hear_until("READY=1\n");

    kill(running.pid(), Signal::SIGTERM).expect("it is there");
    hear_until("STOPPING=1\n");
    running.ends_with(0);
}

#[test]
fn as_the_first_process_of_a_container_it_stops_when_told_and_reaps_what_others_leave() {
    let place = Place::new();
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        PROGRAM,
        "replicate",
    ]);
    unshare.arg("--config").arg(place.at("orders.toml"));
    unshare
        .args(["--log-console", "always"])
        .stdin(Stdio::null());
    let stderr = fs::File::create(place.at("stderr")).expect("a file");
    let child = unshare.stdout(Stdio::null()).stderr(stderr).spawn();
    let mut outer = Started(child.expect("unshare of util-linux"));
    place.wait_logged("snapshot finished, following writes");
    assert!(place.log().contains("pid: 1,"), "{}", place.log());
    let inner = children(outer.pid());
    let [inner] = inner.as_slice() else {
        panic!("{inner:?}: not one child, run the tests as root")
    };
    place.replicates();

    // Processes whose parent has ended, of which the kernel makes PID 1 the parent.
    let target = inner.to_string();
    let status = Command::new("nsenter")
        .args([
            "--target",
            &target,
            "--pid",
            "sh",
            "-c",
            "sleep 0.2 & sleep 0.1 & sleep 0.01 &",
        ])
        .status();
    assert!(status.expect("nsenter of util-linux").success());
    eventually("the orphans adopted and reaped", || {
        children(*inner).is_empty()
    });
    place.replicates();

    // Blocked until it listens, and then heeded, though PID 1 has no default actions.
    kill(*inner, Signal::SIGTERM).expect("it is there");
    outer.ends_with(0);
    let said = fs::read_to_string(place.at("stderr")).expect("what it said");
    assert!(said.contains("<6>INFO df2redis stopped\n"), "{said}");
}

/// The children of all threads of a process.
fn children(pid: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = threads.into_iter().flatten().flatten();
    let lists = lists.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let text: Vec<String> = lists.collect();
    let numbers = text.iter().flat_map(|list| list.split_whitespace());
    numbers
        .filter_map(|number| number.parse().ok().map(Pid::from_raw))
        .collect()
}
