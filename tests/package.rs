//! The Debian package and `make install`, with the program that this build of the tests belongs to.
//!
//! What needs root runs in a copy of the machine that is thrown away: tests/package/in_overlay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// The program's ordinary output; what it said if it failed.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.current_dir(PROJECT).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}\n{complaints}",
        output.status
    );
    said
}

fn make(target: &str) -> Command {
    let mut make = Command::new("make");
    // A make that runs the tests is not this one's parent.
    make.args(["--silent", target])
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .arg(concat!("BINARY=", env!("CARGO_BIN_EXE_df2redis")));
    make
}

/// Runs a scenario of tests/package with the package, in a copy of the machine.
#[track_caller]
fn scenario(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let package = directory.path().join("df2redis.deb");
    succeed(
        make("deb")
            .arg(format!("DEB_DIR={}", package.display()))
            .arg("DEB_FLAGS=--fast --offline"),
    );
    let said = succeed(
        Command::new("tests/package/in_overlay")
            .arg("--see")
            .arg(directory.path())
            .arg(Path::new("tests/package").join(name))
            .arg(&package),
    );
    assert!(said.ends_with("all done\n"), "{said}");
}

#[test]
fn the_package_is_installed_upgraded_and_purged_and_starts_nothing_without_a_task() {
    scenario("install.sh");
}

#[test]
fn the_packaged_service_does_every_action_of_its_init_script_and_survives_an_upgrade() {
    scenario("service.sh");
}

/// All files below a directory, from there.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => left.push(path),
                false => found.push(path.strip_prefix(directory).unwrap().to_path_buf()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn make_uninstall_takes_back_what_make_install_put_and_nobody_changed() {
    let root = tempfile::tempdir().unwrap();
    let destination = format!("DESTDIR={}", root.path().display());
    succeed(make("install").arg(&destination));
    let put = files(root.path());
    assert!(put.len() >= 20, "{put:?}");
    for path in &put {
        // Everything names the program where it was put.
        let text = fs::read(root.path().join(path)).unwrap();
        let elsewhere = !path.ends_with("bin/df2redis")
            && String::from_utf8_lossy(&text).contains(" /usr/bin/df2redis");
        assert!(!elsewhere, "{} names /usr/bin", path.display());
    }
    let unit = root
        .path()
        .join("usr/local/lib/systemd/system/df2redis.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(
        unit.contains("\nExecStart=/usr/local/bin/df2redis replicate "),
        "{unit}"
    );

    let settings = root.path().join("etc/default/df2redis");
    fs::write(&settings, "DAEMON_ARGS=--log-level=debug\n").unwrap();
    succeed(make("install").arg(&destination));
    let kept = fs::read_to_string(&settings).unwrap();
    assert_eq!(kept, "DAEMON_ARGS=--log-level=debug\n");
    succeed(make("uninstall").arg(&destination));
    assert_eq!(files(root.path()), [PathBuf::from("etc/default/df2redis")]);
}
