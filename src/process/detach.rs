//! Detaching from terminal and session: the steps that daemon(7) lists for SysV daemons.
//!
//! The crate `daemonize` forks, makes the session, forks again, and sets mask, directory and standard streams. Around it,
//! here: descriptors closed, signals reset, and a pipe by which the process that was started hears from the one that
//! stays. PID file and user are not its business: it writes the one unlocked, and sets the other without its groups.

use std::fs;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use daemonize::{Daemonize, Outcome};
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, close, eaccess, pipe2};

use super::readiness::{Caller, Readiness};
use super::{Exit, signals};

/// How the daemon is to live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detach {
    /// Its working directory, absolute.
    pub chdir: PathBuf,
    /// Its file mode creation mask.
    pub umask: u32,
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The one that was started. All that is left for it is to wait for the other.
    Caller(Caller),
    /// The one that stays.
    Daemon(Readiness),
}

/// Why detaching failed. No other process has come to be.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Threads would be missing in the daemon, with all they were doing.
    #[error("cannot detach: the process already has {count} threads")]
    Threads {
        /// How many.
        count: usize,
    },
    /// The working directory cannot be entered.
    #[error("cannot use {} as the working directory: {cause}", .path.display())]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The kernel refused a step.
    #[error("cannot detach: {doing}: {cause}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        cause: io::Error,
    },
    /// No child could be made.
    #[error("cannot detach: {0}")]
    Fork(daemonize::Error),
}

/// Splits the process into the caller, with all it was started with but for open descriptors above 2, and a daemon of a
/// session of its own, without a terminal.
///
/// To be called with a single thread, and before anything is opened that is to stay open: **every descriptor above 2 is
/// closed in both**, whoever believes to own it. The daemon's standard streams are `/dev/null`; no signal is ignored or
/// blocked but those of [`super::ignore_fatal_signals`]. What fails in the daemon is told to the caller as
/// [`super::Verdict::Failed`].
pub fn detach(wanted: &Detach) -> Result<Side, DetachError> {
    let failed = |doing| move |cause| DetachError::System { doing, cause };
    only_thread()?;
    enterable(&wanted.chdir)?;
    // What is not yet written would be written by both.
    let _ = io::stdout().flush();
    close_descriptors().map_err(failed("closing inherited files"))?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|cause| failed("making a pipe")(cause.into()))?;
    signals::report_ended_children().map_err(failed("setting up signals"))?;
    let forks = Daemonize::new()
        .working_directory(&wanted.chdir)
        .umask(wanted.umask);
    match forks.execute() {
        Outcome::Parent(Ok(_)) => Ok(Side::Caller(Caller::over(reader))),
        Outcome::Parent(Err(error)) => Err(DetachError::Fork(error)),
        Outcome::Child(forked) => {
            drop(reader);
            let readiness = Readiness::over(writer);
            let reset = || signals::reset_inherited().map_err(|error| error.to_string());
            match forked
                .map_err(|error| error.to_string())
                .and_then(|_| reset())
            {
                Ok(()) => Ok(Side::Daemon(readiness)),
                Err(message) => {
                    readiness.failed(Exit::Internal, &format!("cannot detach: {message}"));
                    std::process::exit(Exit::Internal.code().into());
                }
            }
        }
    }
}

/// Refuses a process with several threads: only the one that forks exists in the child.
fn only_thread() -> Result<(), DetachError> {
    let threads = fs::read_dir("/proc/self/task").map_err(|cause| DetachError::System {
        doing: "counting threads in /proc/self/task",
        cause,
    })?;
    match threads.count() {
        1 => Ok(()),
        count => Err(DetachError::Threads { count }),
    }
}

/// Whether the daemon will be able to change to `path`, while that can still be said well.
fn enterable(path: &Path) -> Result<(), DetachError> {
    let entered = fs::metadata(path).and_then(|about| match about.is_dir() {
        true => Ok(eaccess(path, AccessFlags::X_OK)?),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    entered.map_err(|cause| DetachError::Directory {
        path: path.to_owned(),
        cause,
    })
}

/// Closes every descriptor above 2.
fn close_descriptors() -> io::Result<()> {
    let open = fs::read_dir("/proc/self/fd")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().parse().ok()))
        .collect::<io::Result<Vec<Option<RawFd>>>>()?;
    for number in open.into_iter().flatten().filter(|number| *number > 2) {
        // One of them was the directory just read, and is closed already. Errors of others concern whoever wrote there.
        let _ = close(number);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{Other, after, command, play, say};
    use crate::process::{TaskLock, Verdict};
    use nix::sys::stat::Mode;
    use nix::unistd::{alarm, getpgid, getpid, getppid, getsid, mkfifo};
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    /// A daemon that a failed test has left ends by itself.
    const LIFE_SECONDS: u32 = 60;

    #[test]
    #[ignore = "the caller, and then the daemon, of the tests below"]
    fn child() {
        play(split);
    }

    fn split(part: &str, place: &Path) {
        if part == "threads" {
            let (_end, wait) = std::sync::mpsc::channel::<()>();
            std::thread::spawn(move || wait.recv());
            return say(detach(&wanted(place)).unwrap_err());
        }
        match detach(&wanted(place)) {
            Ok(Side::Caller(caller)) => {
                let timeout = match part {
                    "late" => Duration::ZERO,
                    _ => Duration::from_secs(60),
                };
                say(format_args!("{:?}", caller.wait(timeout)));
            }
            Ok(Side::Daemon(readiness)) => {
                alarm::set(LIFE_SECONDS);
                daemon(part, place, &readiness);
            }
            Err(error) => say(error),
        }
    }

    fn wanted(place: &Path) -> Detach {
        Detach {
            chdir: place.to_owned(),
            umask: 0o037,
        }
    }

    /// What the daemon does once detached.
    fn daemon(part: &str, place: &Path, readiness: &Readiness) {
        match part {
            "ready" => {
                fs::write("facts", facts()).unwrap();
                readiness.ready();
                // Until the test is done with it.
                let _ = File::open("release").unwrap().read(&mut [0]);
            }
            "fails" => {
                let held = TaskLock::acquire(&place.join("missing/\0"), "a").unwrap_err();
                readiness.failed(Exit::CannotCreate, &held.to_string());
            }
            "late" => {
                let _ = File::open("release").unwrap().read(&mut [0]);
            }
            "dies" => {}
            part => panic!("no part: {part}"),
        }
    }

    /// One `name value` a line about this process.
    fn facts() -> String {
        let link = |name: &str| fs::read_link(format!("/proc/self/{name}")).unwrap();
        let mut descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter_map(|path| fs::read_link(path).ok())
            .map(|target| target.display().to_string())
            // The directory that is being read.
            .filter(|target| !target.ends_with("/fd"))
            .map(|target| match target.starts_with("pipe:") {
                true => "pipe".to_owned(),
                false => target,
            })
            .collect();
        descriptors.sort();
        let mode = {
            File::create("made").unwrap();
            fs::metadata("made").unwrap().mode() & 0o777
        };
        let session = getsid(None).unwrap();
        [
            format!("leads {}", session == getpid()),
            format!("session {session}"),
            format!("group {}", getpgid(None).unwrap()),
            format!("parent {}", getppid()),
            format!("terminal {}", File::open("/dev/tty").is_ok()),
            format!("cwd {}", link("cwd").display()),
            format!("mode {mode:o}"),
            format!("open {}", descriptors.join(" ")),
        ]
        .join("\n")
    }

    fn caller(part: &str, place: &Path) -> Other {
        Other::start(command("process::detach::tests::child", part, place))
    }

    /// What the caller says when its daemon plays this part.
    fn verdict(part: &str, place: &Path) -> String {
        let mut caller = caller(part, place);
        let said = caller.says();
        assert!(caller.ends().success());
        said
    }

    #[test]
    fn the_daemon_has_left_session_terminal_directory_and_files_behind() {
        let dir = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(dir.path()).unwrap();
        let release = place.join("release");
        mkfifo(&release, Mode::S_IRWXU).unwrap();
        let inherited = place.join("inherited");
        mkfifo(&inherited, Mode::S_IRWXU).unwrap();
        let inner = command("process::detach::tests::child", "ready", &place);
        let script = format!("exec 9>'{}'", inherited.display());
        let starting = std::thread::spawn(move || Other::start(after(&script, &inner)));
        // Opening waits for the other end.
        let mut inherited = File::open(inherited).unwrap();
        let mut caller = starting.join().unwrap();
        // Both come to an end only when neither caller nor daemon has them open, while the daemon lives.
        assert_eq!(caller.says_at_last(), [format!("{:?}", Verdict::Ready)]);
        assert_eq!(inherited.read(&mut [0]).unwrap(), 0);
        assert!(caller.ends().success());

        let facts = fs::read_to_string(place.join("facts")).unwrap();
        let fact = |name: &str| {
            let line = facts.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_start().to_owned()
        };
        assert_eq!(fact("leads"), "false", "it could get a terminal again");
        assert_eq!(fact("group"), fact("session"));
        assert_ne!(fact("session"), getsid(None).unwrap().to_string());
        assert_ne!(fact("parent"), caller.pid().to_string());
        assert_eq!(fact("terminal"), "false");
        assert_eq!(fact("cwd"), place.display().to_string());
        assert_eq!(fact("mode"), "640");
        assert_eq!(fact("open"), "/dev/null /dev/null /dev/null pipe");
        // Opening succeeds only because the daemon still waits there.
        File::options().write(true).open(release).unwrap();
    }

    #[test]
    fn the_callers_answer_is_the_daemons_own_error() {
        let dir = tempfile::tempdir().unwrap();
        let said = verdict("fails", dir.path());
        assert!(
            said.starts_with(
                "Failed { exit: CannotCreate, message: \"cannot create the state directory"
            ),
            "{said}"
        );
    }

    #[test]
    fn a_daemon_that_ends_without_a_word_is_told_from_one_that_takes_long() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(verdict("dies", dir.path()), format!("{:?}", Verdict::Died));
        let release = dir.path().join("release");
        mkfifo(&release, Mode::S_IRWXU).unwrap();
        let late = Verdict::NotReady(Vec::new());
        assert_eq!(verdict("late", dir.path()), format!("{late:?}"));
        File::options().write(true).open(release).unwrap();
    }

    #[test]
    fn a_process_with_threads_and_a_directory_that_is_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let said = caller("threads", dir.path()).says();
        assert_eq!(said, "cannot detach: the process already has 2 threads");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file, dir.path().join("missing")] {
            let said = caller("ready", &path).says();
            let expected = format!("cannot use {} as the working directory: ", path.display());
            assert!(said.starts_with(&expected), "{said}");
        }
    }
}
