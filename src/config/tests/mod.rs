//! Task files, right and wrong: every complaint with its exact text.

mod accepted;
mod refused;
mod secrets;
mod several;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::load::load_in;
use super::*;

/// The smallest task file.
const LEAST: &str = "[source]\naddress = \"df:6379\"\n[target]\naddress = \"redis:6379\"\n";

fn env(name: &str) -> Option<OsString> {
    match name {
        "DF_PASSWORD" => Some("from the environment".into()),
        "EMPTY" => Some("".into()),
        _ => None,
    }
}

/// Files in a directory of their own.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn load(&self, content: &str) -> Result<Task, Vec<String>> {
        let path = self.write("orders.toml", content, 0o600);
        let loaded = load_in(&[path], &[], &env);
        loaded
            .map(|mut tasks| tasks.remove(0))
            .map_err(|errors| self.shown(&errors))
    }

    /// The complaints, one a line, without the directory.
    fn shown(&self, errors: &ConfigErrors) -> Vec<String> {
        let dir = format!("{}/", self.0.path().display());
        let lines = errors.to_string();
        lines.lines().map(|line| line.replace(&dir, "")).collect()
    }

    fn warnings(&self, task: &Task) -> Vec<String> {
        let dir = format!("{}/", self.0.path().display());
        let warnings = task.warnings.iter();
        warnings
            .map(|warning| warning.to_string().replace(&dir, ""))
            .collect()
    }
}

fn complaints(content: &str) -> Vec<String> {
    Files::new().load(content).expect_err("a wrong task file")
}

/// The complaints about the smallest task file with these lines behind it (line 5 and following).
fn complaints_behind_least(more: &str) -> Vec<String> {
    complaints(&format!("{LEAST}{more}"))
}

/// What the first of several paths is called in complaints.
fn load_error(path: &Path) -> String {
    load_in(&[path.to_owned()], &[], &env)
        .unwrap_err()
        .to_string()
}

proptest! {
    /// The full sample with one piece cut out and another put in: correct, or refused with complaints.
    #[test]
    fn a_damaged_task_file_never_panics(
        at in 0..8_000_usize, cut in 0..40_usize, piece in r#"[\[\]"'=#\.\{\}a-z0-9\n\-\\]{0,6}|\PC{0,3}"#
    ) {
        let full = include_str!("../../../etc/df2redis/full.toml");
        let (start, end) = (at.min(full.len()), (at + cut).min(full.len()));
        let bytes = [&full.as_bytes()[..start], piece.as_bytes(), &full.as_bytes()[end..]].concat();
        let files = Files::new();
        let path = files.write("orders.toml", bytes, 0o600);
        if let Err(errors) = load_in(&[path], &[], &env) {
            prop_assert!(!errors.complaints().is_empty());
            for complaint in errors.complaints() {
                prop_assert!(!complaint.to_string().contains('\n'), "{}", complaint);
            }
        }
    }
}
