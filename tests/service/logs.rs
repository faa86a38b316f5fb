//! Logs in the hands of others: logrotate in its three modes, a full disk, a terminal that stands still.

use crate::place::{PROGRAM, Place, Started};
use crate::support::eventually;
use nix::pty::{Winsize, openpty};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// A place whose target refuses each entry of [`refused`] for good, which is one line of the log.
fn telling() -> Place {
    let place = Place::with("[policy]\non_error = \"skip\"");
    place.source.journal(0, ["SET", "text", "no number"]);
    place
}

/// How many refusals of one transaction are told one by one, less a margin; the rest is only counted.
const TOLD: usize = 50;

/// Writes that make numbered lines in the log.
fn refused(place: &Place, numbers: std::ops::Range<u32>) {
    let numbers: Vec<u32> = numbers.collect();
    for some in numbers.chunks(TOLD) {
        for n in some {
            let key = format!("numbered:{n}:");
            place.source.journal(0, ["SET", &key, "text"]);
            place.source.journal(0, ["INCR", &key]);
        }
        place.source.ping();
        place.source.wait_acked();
    }
}

/// How often each number stands in the files whose names begin so.
fn numbered(dir: &Path) -> BTreeMap<u32, u32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("the log directory").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a log");
        let lines = text
            .lines()
            .filter(|line| line.contains("the target refused a command"));
        for line in lines {
            let number = line
                .split("numbered:")
                .nth(1)
                .and_then(|rest| rest.split(':').next());
            let number = number
                .and_then(|number| number.parse().ok())
                .expect("a number");
            *found.entry(number).or_default() += 1;
        }
    }
    found
}

/// Runs logrotate by this packaged file, several times under load. What the numbered lines came to.
#[track_caller]
fn rotated(packaged: &str) -> (Place, BTreeMap<u32, u32>) {
    let place = telling();
    let pidfile = place.at("pid");
    let running = Started(
        place
            .command(&["--pidfile", &pidfile.display().to_string()])
            .spawn()
            .expect("df2redis"),
    );
    place.wait_stable();
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join(packaged);
    let rules = fs::read_to_string(packaged)
        .expect("a packaged file")
        .replace("/var/log/df2redis", &place.at("log").display().to_string())
        .replace("/run/df2redis/*.pid", &pidfile.display().to_string())
        .replace("/usr/bin/df2redis", PROGRAM)
        .replace("su df2redis df2redis", "")
        .replace("create 0640 df2redis df2redis", "create 0640")
        // So that all files can be read as they are.
        .replace("delaycompress", "")
        .replace("compress", "nocompress")
        .replace("rotate 8", "rotate 100");
    fs::write(place.at("rules"), rules).expect("rules");
    for round in 0..8 {
        refused(&place, round * 250..round * 250 + 125);
        let inode = || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(place.log_file()).map(|about| about.ino()).ok()
        };
        let before = inode();
        // Lines are written while it works.
        let logrotate = Command::new("logrotate")
            .args(["--force", "--state"])
            .arg(place.at("rotations"))
            .arg(place.at("rules"))
            .spawn();
        let mut logrotate = logrotate.expect("logrotate (`make tools` installs it)");
        refused(&place, round * 250 + 125..round * 250 + 250);
        assert!(logrotate.wait().expect("its end").success());
        if before != inode() {
            eventually("the new file in use", || {
                fs::metadata(place.log_file()).is_ok_and(|about| about.len() > 0)
            });
        }
    }
    running.stop();
    let found = numbered(&place.at("log"));
    (place, found)
}

fn each_once() -> BTreeMap<u32, u32> {
    (0..2_000).map(|number| (number, 1)).collect()
}

fn files(place: &Place) -> usize {
    fs::read_dir(place.at("log"))
        .expect("the log directory")
        .count()
}

#[test]
fn logrotate_with_create_loses_and_doubles_no_line() {
    let (place, found) = rotated("packaging/logrotate/df2redis");
    assert_eq!(found, each_once());
    assert_eq!(files(&place), 9);
}

#[test]
fn logrotate_with_nocreate_loses_and_doubles_no_line() {
    let (place, found) = rotated("packaging/logrotate/examples/nocreate");
    assert_eq!(found, each_once());
    assert_eq!(files(&place), 9);
}

#[test]
fn logrotate_with_copytruncate_leaves_a_log_that_goes_on() {
    let (place, found) = rotated("packaging/logrotate/examples/copytruncate");
    // What is written between copying and cutting is lost, as logrotate's manual says.
    assert!(found.len() > 1_000, "{}", found.len());
    assert!(found.values().all(|times| *times == 1), "{found:?}");
    let text = place.log();
    assert!(
        text.contains("df2redis stopped") && !text.contains('\0'),
        "{text}"
    );
    assert_eq!(files(&place), 9);
}

#[test]
fn its_own_rotation_loses_no_line_and_keeps_as_many_files_as_asked() {
    let place = Place::with(
        "[policy]\non_error = \"skip\"\n[log]\nrotate_size = \"1MiB\"\nrotate_keep = 50\nrotate_compress = false",
    );
    let running = Started(place.command(&[]).spawn().expect("df2redis"));
    place.wait_stable();
    for round in 0..32 {
        refused(&place, round * 250..round * 250 + 250);
    }
    running.stop();
    let found = numbered(&place.at("log"));
    assert_eq!(found.len(), 8_000);
    assert!(found.values().all(|times| *times == 1));
    assert!(place.at("log/orders_replicate.log.1").exists());
    let largest = fs::read_dir(place.at("log"))
        .expect("the log directory")
        .flatten();
    let largest = largest
        .map(|entry| entry.metadata().map_or(0, |about| about.len()))
        .max();
    assert!(largest.is_some_and(|bytes| bytes <= 1 << 20), "{largest:?}");
}

#[test]
fn a_full_disk_costs_lines_but_no_writes_and_the_log_resumes_with_their_number() {
    let place = telling();
    fs::create_dir(place.at("log")).expect("a directory");
    // A small disk that only this process and its like can see.
    let script = format!(
        "mount -t tmpfs -o size=256k none '{}' && exec {}",
        place.at("log").display(),
        place.line("")
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let spawned = unshare.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let running = Started(spawned.expect("unshare of util-linux"));
    let inside = Path::new("/proc")
        .join(running.pid().to_string())
        .join("root");
    let inside = inside.join(place.at("log").strip_prefix("/").expect("an absolute path"));
    let log = || fs::read_to_string(inside.join("orders_replicate.log")).unwrap_or_default();
    eventually(
        "stable sync; run the tests as root, as they mount a small disk",
        || log().contains("snapshot finished, following writes"),
    );
    // Somebody else fills it.
    let mut hog = File::create(inside.join("hog")).expect("a file on the small disk");
    while hog.write_all(&[0; 4096]).is_ok() {}
    let before = log();
    refused(&place, 0..2_000);
    place.replicates();
    // At most what was left of the last page.
    assert!(log().len() < before.len() + 4096, "{}", log().len());
    fs::remove_file(inside.join("hog")).expect("it is there");
    drop(hog);
    refused(&place, 2_000..2_001);
    eventually("the log going on", || log().contains("numbered:2000:"));
    let text = log();
    let lost = text
        .lines()
        .find(|line| line.contains("log lines lost, the file could not be written"));
    let lost = lost.unwrap_or_else(|| panic!("{text}"));
    assert!(lost.contains("No space left on device"), "{lost}");
    let number = lost
        .split("lost: ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let number: usize = number
        .and_then(|number| number.parse().ok())
        .expect("a number");
    // One of them may stand there in part, and others than these may have been lost as well.
    let is_whole = |line: &&str| line.contains("numbered:") && line.contains("out of range");
    let missing = 2_001 - text.lines().filter(is_whole).count();
    assert!(
        (missing..missing + 3).contains(&number),
        "{missing}: {text}"
    );
    place.replicates();
    running.stop();
}

#[test]
fn a_removed_log_directory_is_made_again() {
    let place = telling();
    let running = Started(place.command(&[]).spawn().expect("df2redis"));
    place.wait_stable();
    fs::remove_dir_all(place.at("log")).expect("it is there");
    refused(&place, 0..10);
    eventually("the log", || place.log().contains("numbered:9:"));
    running.stop();
}

#[test]
fn a_terminal_stopped_with_ctrl_s_holds_up_neither_writes_nor_the_log() {
    let place = telling();
    let size = Winsize {
        ws_row: 24,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None).expect("a pseudo terminal");
    let mut command = place.command(&[]);
    command.env("TERM", "xterm").stdout(Stdio::from(pty.slave));
    let running = Started(command.spawn().expect("df2redis"));
    drop(command);
    let mut screen = File::from(pty.master);
    place.wait_stable();
    // Ctrl-S: from now on whoever writes there waits; and nobody reads either.
    screen.write_all(b"\x13").expect("the terminal");
    for round in 0..16 {
        refused(&place, round * 250..round * 250 + 250);
    }
    place.replicates();
    // The log's own thread may have a few lines still to write.
    place.wait_logged("numbered:3999:");
    assert_eq!(numbered(&place.at("log")).len(), 4_000);
    // Ctrl-Q: it goes on, with what the console's channel still holds.
    screen.write_all(b"\x11").expect("the terminal");
    let mut shown = Vec::new();
    let mut part = [0; 4096];
    while !String::from_utf8_lossy(&shown).contains("numbered:") {
        let count = screen.read(&mut part).expect("what is shown");
        shown.extend_from_slice(&part[..count]);
    }
    place.replicates();
    running.stop();
}
