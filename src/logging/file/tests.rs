//! Failures, other people's hands on the file, and rotation.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn report(loss: &Loss) -> Vec<u8> {
    format!("lost {}: {}\n", loss.lines, loss.error).into_bytes()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn lines_are_appended_to_what_is_there_and_the_file_is_not_public() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/orders.log");
    for line in ["one\n", "two\n"] {
        opened(&path).append(line.as_bytes(), report);
    }
    assert_eq!(read(&path), "one\ntwo\n");
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_write_error_costs_lines_and_the_first_line_that_works_says_how_many() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.log");
    let mut log = opened(&path);
    log.append(b"one\n", report);
    // /dev/full: every write fails with "no space left".
    log.file = Some(OpenOptions::new().append(true).open("/dev/full").unwrap());
    log.path = PathBuf::from("/dev/full");
    log.append(b"two\n", report);
    log.append(b"three\n", report);
    log.path = path.clone();
    log.append(b"four\n", report);
    log.append(b"five\n", report);
    let full = io::Error::from_raw_os_error(nix::libc::ENOSPC);
    assert_eq!(read(&path), format!("one\nlost 2: {full}\nfour\nfive\n"));
}

#[test]
fn a_file_that_cannot_be_opened_again_is_tried_with_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/orders.log");
    let mut log = opened(&path);
    log.file = None;
    fs::remove_dir_all(dir.path().join("logs")).unwrap();
    fs::write(dir.path().join("logs"), "in the way").unwrap();
    log.append(b"one\n", report);
    fs::remove_file(dir.path().join("logs")).unwrap();
    log.append(b"two\n", report);
    let text = read(&path);
    assert!(
        text.starts_with("lost 1: ") && text.ends_with("\ntwo\n"),
        "{text}"
    );
}

#[test]
fn a_line_cut_in_the_middle_is_known_to_be_torn() {
    /// Takes two bytes, then nothing.
    struct Small(usize);
    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            match taken {
                0 => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(taken),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut torn = false;
    assert!(write_line(&mut Small(2), b"abcd\n", &mut torn).is_err());
    assert!(torn);
    assert!(write_line(&mut Small(0), b"abcd\n", &mut torn).is_err());
    assert!(
        torn,
        "nothing was written, so the cut line is still the last"
    );
    write_line(&mut Small(9), b"abcd\n", &mut torn).unwrap();
    assert!(!torn);
}

fn opened(path: &Path) -> LogFile {
    LogFile::open(path.to_owned(), None, Reopen::default()).unwrap()
}

#[test]
fn until_it_is_asked_to_open_the_file_again_lines_go_to_the_renamed_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.log");
    let renamed = dir.path().join("orders.log.1");
    let reopen = Reopen::default();
    let mut log = LogFile::open(path.clone(), None, reopen.clone()).unwrap();
    log.append(b"one\n", report);
    fs::rename(&path, &renamed).unwrap();
    log.append(b"two\n", report);
    // As logrotate does with `create`.
    fs::write(&path, "").unwrap();
    log.append(b"three\n", report);
    reopen.ask();
    log.append(b"four\n", report);
    assert_eq!(read(&renamed), "one\ntwo\nthree\n");
    assert_eq!(read(&path), "four\n");
}

#[test]
fn a_file_that_cannot_be_opened_again_goes_on_under_its_other_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/orders.log");
    let reopen = Reopen::default();
    let mut log = LogFile::open(path.clone(), None, reopen.clone()).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(dir.path().join("logs"), &elsewhere).unwrap();
    fs::write(dir.path().join("logs"), "in the way").unwrap();
    reopen.ask();
    log.append(b"one\n", report);
    assert_eq!(read(&elsewhere.join("orders.log")), "one\n");
    fs::remove_file(dir.path().join("logs")).unwrap();
    log.append(b"two\n", report);
    assert_eq!(read(&path), "two\n");
}

#[test]
fn a_removed_file_is_made_again_with_the_next_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/orders.log");
    let mut log = opened(&path);
    log.append(b"one\n", report);
    fs::remove_dir_all(dir.path().join("logs")).unwrap();
    log.append(b"two\n", report);
    assert_eq!(read(&path), "two\n");
}

#[test]
fn a_renamed_file_of_which_nobody_says_anything_is_made_again_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.log");
    let mut log = opened(&path);
    fs::rename(&path, dir.path().join("orders.log.1")).unwrap();
    let now = Instant::now();
    assert!(!log.lost_name(now + LOOK_EVERY));
    assert!(!log.lost_name(now + NAMELESS_FOR));
    assert!(log.lost_name(now + LOOK_EVERY * 2 + NAMELESS_FOR));
    // It came back, so nothing is amiss.
    fs::rename(dir.path().join("orders.log.1"), &path).unwrap();
    assert!(!log.lost_name(now + LOOK_EVERY * 4 + NAMELESS_FOR));
}

#[test]
fn a_file_that_was_cut_goes_on_at_its_new_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.log");
    let mut log = opened(&path);
    log.append(b"one\n", report);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    log.append(b"two\n", report);
    assert_eq!(read(&path), "two\n");
}

#[test]
fn no_line_is_lost_or_doubled_by_rotation_of_either_kind() {
    use proptest::test_runner::{Config, TestRunner};
    let steps = proptest::collection::vec(0..12_u8, 1..200);
    let mut runner = TestRunner::new(Config::with_cases(32));
    runner
        .run(&steps, |steps| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("orders.log");
            let reopen = Reopen::default();
            let settings = crate::config::Rotate {
                size: 200,
                keep: 1_000,
                compress: false,
            };
            let rotation = Some(Rotation::new(settings));
            let mut log = LogFile::open(path.clone(), rotation, reopen.clone()).unwrap();
            for (n, step) in steps.iter().enumerate() {
                match step {
                    0 => drop(fs::rename(&path, dir.path().join(format!("by-hand-{n}")))),
                    1 => reopen.ask(),
                    _ => log.append(format!("line {n}\n").as_bytes(), report),
                }
            }
            let mut found = Vec::new();
            for entry in fs::read_dir(dir.path()).unwrap() {
                let text = read(&entry.unwrap().path());
                found.extend(text.lines().map(|line| line[5..].parse::<usize>().unwrap()));
            }
            found.sort_unstable();
            let written = steps.iter().enumerate().filter(|(_, step)| **step > 1);
            let written: Vec<usize> = written.map(|(n, _)| n).collect();
            proptest::prop_assert_eq!(found, written);
            Ok(())
        })
        .unwrap();
}
