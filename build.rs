//! Puts the version that `--version` prints into `DF2REDIS_VERSION`: the package's, and the commit if there is one.
//! Writes the names of all modules to `modules.rs`, so that a level for a module that does not exist is refused.
//!
//! The commit comes from `DF2REDIS_COMMIT` if that is set (packages built from an archive), else from git if the
//! package is the top of a working tree (not a directory unpacked somewhere inside another one), else from nowhere.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=DF2REDIS_COMMIT");
    let package = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let given = std::env::var("DF2REDIS_COMMIT").ok();
    let commit = given.filter(|commit| !commit.is_empty()).or_else(commit);
    let version = match commit {
        Some(commit) => format!("{package} ({commit})"),
        None => package,
    };
    println!("cargo::rustc-env=DF2REDIS_VERSION={version}");
    write_modules()
}

fn write_modules() -> io::Result<()> {
    // A directory stands for everything in it.
    println!("cargo::rerun-if-changed=src");
    let mut names = Vec::new();
    collect_modules(Path::new("src"), "", &mut names)?;
    names.sort();
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    let list = format!(
        "/// Every module, without the crate's name.\nconst MODULES: &[&str] = &{names:?};\n"
    );
    fs::write(Path::new(&out).join("modules.rs"), list)
}

/// Adds the modules whose files are in this directory, and those below them.
fn collect_modules(dir: &Path, above: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_dir = path.is_dir();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let no_module = ["main", "lib", "mod", "tests", "testing"].contains(&&*stem);
        if no_module || !(is_dir || is_source) {
            continue;
        }
        let name = match above {
            "" => stem.into_owned(),
            above => format!("{above}::{stem}"),
        };
        if is_dir {
            collect_modules(&path, &name, names)?;
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(())
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
