//! The PID file: races, stale files, impostors, and what is left behind.

use super::*;
use crate::process::testing::{Other, command, hear, play, say};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;

fn other(part: &str, path: &Path) -> Other {
    Other::start(command("process::pid_file::tests::child", part, path))
}

#[test]
#[ignore = "the other process of the tests below"]
fn child() {
    play(|part, place| match part {
        "hold" => {
            umask(Mode::from_bits_truncate(0o777));
            let _file = PidFile::create(place).unwrap();
            say("holding");
            hear();
        }
        "race" => race(place),
        "fork" => hold_and_fork(place),
        "become nobody" => become_nobody(place),
        "read lock" => lock_for_reading(place),
        part => panic!("no part: {part}"),
    });
}

/// At each line tries to be the one, and lets go at the next.
fn race(place: &Path) {
    while hear().is_some() {
        let created = PidFile::create(place);
        match &created {
            Ok(_) => say("won"),
            Err(PidFileError::Running { pid, .. }) => say(pid),
            Err(error) => say(error),
        }
        hear();
        drop(created);
        say("done");
    }
}

/// A child of the holder holds nothing, and its end takes nothing away.
fn hold_and_fork(place: &Path) {
    let file = PidFile::create(place).unwrap();
    // How the parent holds the child: both read the same standard input, and the wrong one could get the line.
    let (release, hold) = nix::unistd::pipe().unwrap();
    #[expect(unsafe_code, reason = "fork(2) has no safe form")]
    // SAFETY: this process has one thread, so the child may do all that a process may.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(file);
            say(if place.exists() { "kept" } else { "removed" });
            // Lives on, so that it would still hold a lock that it had inherited.
            drop(hold);
            fs::File::from(release)
                .read_to_end(&mut Vec::new())
                .unwrap();
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            hear();
            drop(file);
            say("let go");
            while hear().is_some() {}
            drop(hold);
            waitpid(child, None).unwrap();
        }
    }
}

/// Gives the file away and then up, in a directory in which it cannot be removed any more.
fn become_nobody(place: &Path) {
    let nobody = crate::process::Identity::look_up(Some("nobody"), None)
        .unwrap()
        .unwrap();
    let file = PidFile::create(place).unwrap();
    file.give_to(nobody.uid(), nobody.gid()).unwrap();
    nobody.assume().unwrap();
    drop(file);
    say("let go");
}

/// What anybody can do who may read the file.
fn lock_for_reading(place: &Path) {
    let lock = nix::libc::flock {
        l_type: nix::libc::F_RDLCK as nix::libc::c_short,
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let file = fs::File::open(place).unwrap();
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&lock)).unwrap();
    say("holding");
    hear();
}

#[test]
fn the_file_is_one_line_that_everybody_may_read_and_goes_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let mut other = other("hold", &path);
    other.says();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{}\n", other.pid())
    );
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(holder(&path).unwrap(), Holder::Running(other.pid()));
    assert!(other.ends().success());
    assert_eq!(holder(&path).unwrap(), Holder::Absent);
}

#[test]
fn a_second_process_is_refused_with_the_firsts_pid() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let mut first = other("hold", &path);
    first.says();
    let refusals = [
        PidFile::create(&path).unwrap_err(),
        PidFile::check_free(&path).unwrap_err(),
    ];
    for refused in refusals {
        let expected = format!(
            "already running, PID {}\nits PID file is {}",
            first.pid(),
            path.display()
        );
        assert_eq!(refused.to_string(), expected);
    }
    assert_eq!(holder(&path).unwrap(), Holder::Running(first.pid()));
}

#[test]
fn a_second_attempt_in_the_same_process_is_refused_and_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let _file = PidFile::create(&path).unwrap();
    assert!(PidFile::create(&path).is_err());
    assert!(PidFile::check_free(&path).is_err());
    assert_eq!(holder(&path).unwrap(), Holder::Running(std::process::id()));
    let mut rival = other("race", &path);
    rival.tell("go");
    assert_eq!(rival.says(), std::process::id().to_string());
}

#[test]
fn of_processes_that_race_exactly_one_wins_and_nothing_is_left() {
    const RACERS: usize = 4;
    const ROUNDS: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let mut racers: Vec<Other> = (0..RACERS).map(|_| other("race", &path)).collect();
    for _ in 0..ROUNDS {
        racers.iter_mut().for_each(|racer| racer.tell("go"));
        let said: Vec<String> = racers.iter_mut().map(Other::says).collect();
        let winner = said.iter().position(|said| said == "won").unwrap();
        let pid = racers[winner].pid().to_string();
        let lost = said.iter().filter(|said| **said == pid).count();
        assert_eq!(lost, RACERS - 1, "{said:?}, the winner is {pid}");
        racers.iter_mut().for_each(|racer| racer.tell("let go"));
        racers
            .iter_mut()
            .for_each(|racer| assert_eq!(racer.says(), "done"));
        assert_eq!(holder(&path).unwrap(), Holder::Absent);
    }
}

#[test]
fn of_a_stream_of_short_lived_holders_each_finds_it_free_or_names_a_rival() {
    const ROUNDS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let mut racers: Vec<Other> = (0..3).map(|_| other("race", &path)).collect();
    let pids: Vec<String> = racers.iter().map(|racer| racer.pid().to_string()).collect();
    // All lines at once: whoever wins lets go while the others come.
    for racer in &mut racers {
        racer.tell(&["go"; ROUNDS * 2].join("\n"));
    }
    let mut won = 0;
    for racer in &mut racers {
        for _ in 0..ROUNDS {
            let said = racer.says();
            won += usize::from(said == "won");
            assert!(said == "won" || pids.contains(&said), "{said}");
            assert_eq!(racer.says(), "done");
        }
    }
    assert!(won > 0);
    assert_eq!(holder(&path).unwrap(), Holder::Absent);
}

#[test]
fn a_file_left_by_a_killed_process_is_stale_even_when_its_number_lives_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let mut killed = other("hold", &path);
    killed.says();
    killed.gets(Signal::SIGKILL);
    assert!(!killed.ends().success());
    assert_eq!(holder(&path).unwrap(), Holder::Stale(Some(killed.pid())));
    // A living process that has nothing to do with it.
    let alive = nix::unistd::getppid().as_raw();
    fs::write(&path, format!("{alive}\n")).unwrap();
    assert!(matches!(holder(&path).unwrap(), Holder::Stale(Some(_))));
    PidFile::check_free(&path).unwrap();
    let _file = PidFile::create(&path).unwrap();
    assert_eq!(holder(&path).unwrap(), Holder::Running(std::process::id()));
}

#[test]
fn a_child_of_the_holder_neither_holds_the_file_nor_removes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let mut holding = other("fork", &path);
    assert_eq!(holding.says(), "kept");
    assert_eq!(holder(&path).unwrap(), Holder::Running(holding.pid()));
    holding.tell("let go");
    assert_eq!(holding.says(), "let go");
    // The child lives on, until its input ends.
    assert_eq!(holder(&path).unwrap(), Holder::Absent);
    drop(PidFile::create(&path).unwrap());
    assert!(holding.ends().success());
}

#[test]
fn what_is_not_a_regular_file_is_refused_at_once_and_its_end_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("victim"), "1").unwrap();
    symlink(at("victim"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(at("dir")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for name in ["link", "dangling", "fifo", "dir", "socket"] {
        let errors = [
            PidFile::create(&at(name)).unwrap_err(),
            PidFile::check_free(&at(name)).unwrap_err(),
            holder(&at(name)).unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(error, PidFileError::NotAFile { .. }),
                "{name}: {error}"
            );
        }
    }
    assert_eq!(fs::read_to_string(at("victim")).unwrap(), "1");
    assert!(!at("nowhere").exists());
}

#[test]
fn a_file_that_holds_something_else_is_neither_written_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.toml");
    fs::write(&path, "[source]\naddress = \"a:1\"\n").unwrap();
    let refused = PidFile::create(&path).unwrap_err();
    assert!(matches!(refused, PidFileError::Foreign { .. }), "{refused}");
    assert!(PidFile::check_free(&path).is_err());
    assert!(fs::read_to_string(&path).unwrap().starts_with("[source]"));
    // Nor one that somebody has given this name beside its own.
    let linked = dir.path().join("pid");
    fs::write(dir.path().join("precious"), "1").unwrap();
    fs::hard_link(dir.path().join("precious"), &linked).unwrap();
    let refused = PidFile::create(&linked).unwrap_err();
    assert!(matches!(refused, PidFileError::Foreign { .. }), "{refused}");
    assert!(linked.exists());
}

#[test]
fn a_file_that_was_replaced_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let file = PidFile::create(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "77\n").unwrap();
    drop(file);
    assert_eq!(fs::read_to_string(&path).unwrap(), "77\n");
}

#[test]
fn somebody_who_only_reads_the_file_cannot_pass_for_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    fs::write(&path, "77\n").unwrap();
    let mut reader = other("read lock", &path);
    reader.says();
    assert_eq!(holder(&path).unwrap(), Holder::Stale(Some(77)));
    let refused = PidFile::create(&path).unwrap_err();
    assert!(
        matches!(refused, PidFileError::Blocked { pid, .. } if pid == reader.pid()),
        "{refused}"
    );
}

#[test]
fn whether_it_is_free_is_told_without_making_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    PidFile::check_free(&path).unwrap();
    assert!(!path.exists());
    let refused = PidFile::check_free(&dir.path().join("no/pid")).unwrap_err();
    assert!(refused.to_string().contains("cannot create"), "{refused}");
}

#[test]
fn where_it_cannot_be_removed_any_more_it_is_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let mut holding = other("become nobody", &path);
    if nix::unistd::geteuid().is_root() {
        // The directory is root's alone: the process that has become nobody may not even look into it.
        assert_eq!(holding.says(), "let go");
        assert_eq!(holder(&path).unwrap(), Holder::Stale(None));
    } else {
        assert!(!holding.ends().success(), "only root becomes nobody");
    }
}
