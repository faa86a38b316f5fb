//! Puts the version that `--version` prints into `DF2REDIS_VERSION`: the package's, and the commit if there is one.
//!
//! The commit comes from `DF2REDIS_COMMIT` if that is set (packages built from an archive), else from git if the
//! package is the top of a working tree (not a directory unpacked somewhere inside another one), else from nowhere.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=DF2REDIS_COMMIT");
    let package = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let given = std::env::var("DF2REDIS_COMMIT").ok();
    let commit = given.filter(|commit| !commit.is_empty()).or_else(commit);
    let version = match commit {
        Some(commit) => format!("{package} ({commit})"),
        None => package,
    };
    println!("cargo::rustc-env=DF2REDIS_VERSION={version}");
}

/// The commit checked out, `None` without git or outside a working tree of our own.
fn commit() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // The commit changes when HEAD moves to another branch, or its branch to another commit.
    for name in ["HEAD", "packed-refs"] {
        watch(name);
    }
    if let Some(branch) = git(&["symbolic-ref", "--quiet", "HEAD"]) {
        watch(&branch);
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// Runs this script again when the file inside git's directory changes.
fn watch(name: &str) {
    if let Some(path) = git(&["rev-parse", "--git-path", name])
        && Path::new(&path).exists()
    {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// What git prints on one line; `None` if it fails or prints nothing.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
