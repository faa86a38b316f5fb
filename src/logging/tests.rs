use super::outlet::Outlet;
use super::*;
use crate::config::{Console as Setting, Log, Rotate, Severity};
use slog::{debug, error};
use std::fs;
use std::io::Read;
use std::process::Command;

fn settings(dir: &Path, console: Setting) -> Log {
    Log {
        dir: dir.to_owned(),
        level: Severity::Info,
        format: LogFormat::Text,
        console,
        rotate: None,
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// The messages of a log, without their times.
fn messages(path: &Path) -> Vec<String> {
    let text = read(path);
    let message = |line: &str| line.split_once(' ').unwrap().1.to_owned();
    text.lines().map(message).collect()
}

#[test]
fn each_task_has_a_file_and_levels_of_its_own_and_the_end_writes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    let never = settings(dir.path(), Setting::Never);
    let orders = logs.open(&never, "orders", "orders_replicate").unwrap();
    let users = logs.open(&never, "users", "users_replicate").unwrap();
    assert_eq!(orders.path, dir.path().join("orders_replicate.log"));
    users.levels.set(Some("logging"), Some(Severity::Debug));
    for n in 0..2_000 {
        info!(orders.log, "line"; "n" => n);
    }
    debug!(orders.log, "not wanted");
    debug!(users.log, "wanted");
    drop(logs);
    let expected: Vec<_> = (0..2_000).map(|n| format!("INFO line, n: {n}")).collect();
    assert_eq!(messages(&orders.path), expected);
    assert_eq!(messages(&users.path), ["DEBG wanted"]);
    // Whoever still logs after the end does no harm.
    info!(orders.log, "too late");
}

#[test]
fn files_opened_anew_on_request_get_every_line_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    let task = logs.open(&settings(dir.path(), Setting::Never), "x", "x_y");
    let task = task.unwrap();
    let handle = logs.handle();
    let mut lines = 0;
    for round in 0..40 {
        for _ in 0..100 {
            info!(task.log, "line"; "n" => lines);
            lines += 1;
        }
        if fs::rename(&task.path, dir.path().join(format!("old-{round}"))).is_ok() {
            handle.reopen();
        }
    }
    drop(logs);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.path()).unwrap() {
        for message in messages(&entry.unwrap().path()) {
            let number = message.strip_prefix("INFO line, n: ").unwrap();
            found.push(number.parse::<u32>().unwrap());
        }
    }
    found.sort_unstable();
    assert_eq!(found, (0..lines).collect::<Vec<_>>());
}

#[test]
fn a_file_asked_to_be_opened_again_is_there_without_a_further_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    let task = logs.open(&settings(dir.path(), Setting::Never), "x", "x_y");
    let task = task.unwrap();
    fs::rename(&task.path, dir.path().join("old")).unwrap();
    logs.handle().reopen();
    drop(logs);
    assert_eq!(read(&task.path), "");
}

#[test]
fn only_a_console_that_is_off_by_itself_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    // As if started with standard output on a file, wherever this test was started.
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    logs.setting = Setting::Auto;
    let auto = logs.open(&settings(dir.path(), Setting::Auto), "auto", "auto_x");
    let never = logs.open(&settings(dir.path(), Setting::Never), "never", "never_x");
    let (auto, never) = (auto.unwrap(), never.unwrap());
    assert!(!auto.terminal.shows_progress());
    drop(logs);
    assert_eq!(
        messages(&auto.path),
        ["INFO Detected non-TTY stdout, disabling console output"]
    );
    assert_eq!(read(&never.path), "");
}

#[test]
fn a_lost_console_is_recorded_once_in_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    let never = settings(dir.path(), Setting::Never);
    let before = logs.open(&never, "before", "before_x").unwrap();
    lose_console(&logs.shared, &io::Error::from_raw_os_error(nix::libc::EIO));
    let after = logs.open(&never, "after", "after_x").unwrap();
    drop(logs);
    for task in [before, after] {
        assert_eq!(
            messages(&task.path),
            [
                "WARN the console failed, nothing is shown there any more, error: Input/output error (os error 5)"
            ]
        );
    }
}

/// A console on a pipe that is its reader's, as a service manager has it.
fn console(logs: &mut Logs, several: bool) -> io::PipeReader {
    let (reader, writer) = io::pipe().unwrap();
    let shared = Arc::clone(&logs.shared);
    let on_failure = move |error: &io::Error| lose_console(&shared, error);
    let outlet = Outlet::of(&writer, Box::new(on_failure)).unwrap();
    logs.console = Some(Console::on(Arc::new(outlet), Form::Syslog, None, several));
    reader
}

#[test]
fn lines_of_several_tasks_show_whose_they_are_and_those_of_one_do_not() {
    let dir = tempfile::tempdir().unwrap();
    for (several, expected) in [
        (false, "<4>WARN one, n: 2\n<6>INFO two, n: 3\n"),
        (
            true,
            "<4>WARN orders: one, n: 2\n<6>INFO users: two, n: 3\n",
        ),
    ] {
        let mut logs = Logs::start(Setting::Never, several).unwrap();
        let mut reader = console(&mut logs, several);
        let auto = settings(&dir.path().join(several.to_string()), Setting::Auto);
        let orders = logs.open(&auto, "orders", "orders_x").unwrap();
        let users = logs.open(&auto, "users", "users_x").unwrap();
        let never = Log {
            console: Setting::Never,
            ..auto
        };
        let quiet = logs.open(&never, "quiet", "quiet_x").unwrap();
        warn!(orders.log, "one"; "n" => 2);
        info!(users.log, "two"; "n" => 3);
        debug!(users.log, "not wanted");
        info!(quiet.log, "not here");
        drop(logs);
        let mut printed = String::new();
        reader.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, expected);
        assert_eq!(messages(&orders.path), ["WARN one, n: 2"]);
        assert_eq!(messages(&quiet.path), ["INFO not here"]);
    }
}

#[test]
fn a_console_that_does_not_move_holds_up_neither_the_log_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    // Nobody reads: as on a terminal stopped with Ctrl-S, whoever writes there waits.
    let _reader = console(&mut logs, false);
    let task = logs.open(&settings(dir.path(), Setting::Auto), "x", "x_y");
    let task = task.unwrap();
    let value = "x".repeat(100);
    for n in 0..4_000 {
        info!(task.log, "line"; "n" => n, "value" => &value);
    }
    let start = Instant::now();
    drop(logs);
    let took = start.elapsed();
    assert_eq!(messages(&task.path).len(), 4_000);
    assert!(took >= CONSOLE_FLUSH, "the pipe took everything: {took:?}");
    assert!(took < CONSOLE_FLUSH + FILE_FLUSH, "{took:?}");
}

#[test]
fn a_console_whose_reader_is_gone_is_recorded_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    let reader = console(&mut logs, false);
    let task = logs.open(&settings(dir.path(), Setting::Auto), "x", "x_y");
    let task = task.unwrap();
    drop(reader);
    for n in 0..100 {
        info!(task.log, "line"; "n" => n);
    }
    drop(logs);
    let text = read(&task.path);
    assert_eq!(text.lines().count(), 101, "{text}");
    let lost = "WARN the console failed, nothing is shown there any more, error: Broken pipe (os error 32)";
    assert_eq!(text.matches(lost).count(), 1, "{text}");
}

#[test]
fn a_log_rotates_itself_and_keeps_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    let mut rotated = settings(dir.path(), Setting::Never);
    rotated.rotate = Some(Rotate {
        size: 4_096,
        keep: 100,
        compress: false,
    });
    let task = logs.open(&rotated, "x", "x_y").unwrap();
    for n in 0..1_000 {
        info!(task.log, "line"; "n" => n);
    }
    drop(logs);
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert!(files.len() > 5, "{files:?}");
    let mut lines = 0;
    for file in files {
        let path = file.unwrap().path();
        assert!(fs::metadata(&path).unwrap().len() <= 4_096);
        lines += messages(&path).len();
    }
    assert_eq!(lines, 1_000);
}

#[test]
fn a_log_that_cannot_be_opened_is_named() {
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    let settings = settings(Path::new("/proc/nowhere"), Setting::Never);
    let error = logs.open(&settings, "x", "x_y").err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("cannot open the log file /proc/nowhere/x_y.log: "),
        "{error}"
    );
}

#[test]
fn a_panic_is_in_every_log_with_its_backtrace_and_ends_nothing_but_its_thread() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "logging::tests::panics",
        ])
        .env("DF2REDIS_TEST_LOGS", dir.path())
        .output()
        .unwrap();
    // The test of the child fails by its second panic, which unwinds through the logs.
    assert_eq!(output.status.code(), Some(101), "{output:?}");
    for name in ["orders_x.log", "users_x.log"] {
        let messages = messages(&dir.path().join(name));
        let panics: Vec<_> = messages
            .iter()
            .filter(|message| message.starts_with("CRIT panicked, "))
            .collect();
        assert_eq!(panics.len(), 2, "{messages:?}");
        assert!(
            panics[0].contains("reason: in a thread\\nwith two lines"),
            "{panics:?}"
        );
        assert!(
            panics[0].contains("place: src/logging/tests.rs:"),
            "{panics:?}"
        );
        assert!(panics[0].contains("thread: apart"), "{panics:?}");
        assert!(panics[1].contains("reason: at the end"), "{panics:?}");
        let frames = messages
            .iter()
            .filter(|message| message.starts_with("ERRO backtrace, frame: "));
        let frames: Vec<_> = frames.collect();
        assert!(
            frames
                .iter()
                .any(|frame| frame.contains("logging::tests::panics")),
            "{frames:?}"
        );
    }
    let orders = messages(&dir.path().join("orders_x.log"));
    assert!(orders.contains(&"INFO going on".to_owned()), "{orders:?}");
    // Not printed: nobody reads this standard error.
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(!printed.contains("in a thread"), "{printed}");
}

#[test]
#[ignore = "the child of a_panic_is_in_every_log_with_its_backtrace: it panics"]
fn panics() {
    let dir = PathBuf::from(std::env::var_os("DF2REDIS_TEST_LOGS").unwrap());
    let mut logs = Logs::start(Setting::Never, false).unwrap();
    let handle = logs.handle();
    handle.catch_panics();
    let mut quiet = settings(&dir, Setting::Never);
    let orders = logs.open(&quiet, "orders", "orders_x").unwrap();
    quiet.level = Severity::Critical;
    let users = logs.open(&quiet, "users", "users_x").unwrap();
    error!(users.log, "not wanted");
    let apart = thread::Builder::new().name("apart".into());
    let apart = apart.spawn(|| panic!("in a thread\nwith {} lines", "two"));
    assert!(apart.unwrap().join().is_err());
    info!(orders.log, "going on");
    panic!("at the end");
}
