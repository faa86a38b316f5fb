//! Programs that are delivered have no fail points.

use ::df2redis::fail_point::DIE_AT;
use std::process::Command;

/// The file with all there is of them, as a program that passes one.
const PROGRAM: &str = r#"
#[path = "SOURCE"]
mod fail_point;
fn main() {
    fail_point::pass(fail_point::Place::Sync);
    println!("passed");
}
"#;

#[test]
fn a_build_without_debug_assertions_passes_them_and_does_not_know_the_variable() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (source, program) = (directory.path().join("main.rs"), directory.path().join("p"));
    let there = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fail_point.rs");
    std::fs::write(&source, PROGRAM.replace("SOURCE", there)).expect("a file");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args([
        "--edition=2024",
        "-Cdebug-assertions=off",
        "-Anonstandard",
        "-Aunused",
    ]);
    let built = rustc.arg("-o").arg(&program).arg(&source).output();
    let built = built.expect("rustc, with which this was built too");
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success(), "{said}");
    let run = Command::new(&program).env(DIE_AT, "sync 1").output();
    let run = run.expect("the program");
    assert!(run.status.success(), "{run:?}");
    assert_eq!(run.stdout, b"passed\n");
    let has = |path: &std::path::Path| {
        let bytes = std::fs::read(path).expect("a program");
        bytes
            .windows(DIE_AT.len())
            .any(|part| part == DIE_AT.as_bytes())
    };
    assert!(!has(&program));
    // The one that tests run does.
    assert!(has(env!("CARGO_BIN_EXE_df2redis").as_ref()));
}

#[test]
fn the_profiles_of_delivered_programs_have_no_debug_assertions() {
    let manifest = include_str!("../../Cargo.toml");
    let manifest: toml::Table = manifest.parse().expect("a manifest");
    for (name, profile) in manifest["profile"].as_table().expect("profiles") {
        let inherits = profile.get("inherits").and_then(toml::Value::as_str);
        let delivered = name == "release" || inherits == Some("release");
        assert_eq!(delivered, name != "dev", "{name}");
        assert_eq!(profile.get("debug-assertions"), None, "{name}");
    }
}
