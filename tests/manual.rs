//! Samples and manual pages against the definitions they describe.

#[path = "../examples/documents/generate.rs"]
mod generate;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use df2redis::commands::{self, Keys};
use df2redis::config::{self, schema};
use df2redis::process::Exit;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

/// Table and key of each assignment in a sample, commented out or not, and its value if it is not.
fn assignments(sample: &str) -> BTreeMap<(String, String), Option<String>> {
    let (mut table, mut found) = (String::new(), BTreeMap::new());
    for line in sample.lines() {
        let (line, commented) = match line.strip_prefix("# ") {
            Some(line) => (line, true),
            None => (line, false),
        };
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            table = name.to_owned();
        } else if let Some((key, value)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            let value = (!commented).then(|| value.to_owned());
            found.insert((table.clone(), key.to_owned()), value);
        }
    }
    found
}

#[test]
fn every_sample_is_a_correct_task_file() {
    let samples: Vec<PathBuf> = fs::read_dir(file("etc/df2redis"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(samples.len() >= 2, "{samples:?}");
    for sample in samples {
        let tasks = config::load(&[sample], &[]).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(tasks[0].warnings.is_empty(), "{:?}", tasks[0].warnings);
    }
}

#[test]
fn the_full_sample_has_every_key_and_shows_every_default() {
    let mut found = assignments(&read("etc/df2redis/full.toml"));
    for table in schema::TABLES {
        for key in table.keys {
            let name = (table.name.to_owned(), key.name.to_owned());
            let value = found
                .remove(&name)
                .unwrap_or_else(|| panic!("{name:?} is missing"));
            // The example of a key without a default, or of a table that is left out, is commented out.
            if let (Some(default), Some(value)) = (key.default, value) {
                let bare = value.trim_matches(['[', ']', '"']);
                assert_eq!(bare, default, "{name:?}");
            }
        }
    }
    assert!(found.is_empty(), "unknown: {found:?}");
}

#[test]
fn what_the_full_sample_leaves_commented_out_is_correct_too() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ca.pem", "client.pem", "client.key"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let alternatives = [
        "password = ",
        "password_file = ",
        "password_env = ",
        "on_unsupported = ",
        // Of a cluster, instead of an address.
        "addresses = ",
        "address_map = ",
    ];
    let mut content = String::new();
    for line in read("etc/df2redis/full.toml").lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let is_code = bare.starts_with('[') && bare.ends_with(']') || {
            let key = bare.split_once(" = ").map_or("", |(key, _)| key);
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        };
        if is_code && !alternatives.iter().any(|key| bare.starts_with(key)) {
            content.push_str(bare);
            content.push('\n');
        }
    }
    // A user needs a password, and only one of the three keys can be given.
    let content = content.replace("username = ", "password = \"secret\"\nusername = ");
    let path = dir.path().join("full.toml");
    fs::write(&path, content).unwrap();
    let tasks = config::load(&[path], &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(tasks[0].source.tls.is_some() && tasks[0].target.tls.is_some());
    assert_eq!(tasks[0].target.db(0), 3);
}

#[test]
fn what_the_full_sample_says_of_a_cluster_is_correct_too() {
    let dir = tempfile::tempdir().unwrap();
    let full = read("etc/df2redis/full.toml");
    let mut content = String::new();
    for line in full.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let line = match bare.split_once(" = ") {
            Some(("addresses" | "address_map", _)) => bare,
            Some(("address", text)) if text.contains("redis.") => "",
            Some(("type", "\"redis\"")) => "type = \"redis-cluster\"",
            _ => line,
        };
        content.push_str(line);
        content.push('\n');
    }
    let path = dir.path().join("full.toml");
    fs::write(&path, content).unwrap();
    let tasks = config::load(&[path], &[]).unwrap_or_else(|errors| panic!("{errors}"));
    let nodes = tasks[0].target.cluster.as_ref().unwrap();
    assert!(nodes.addresses.len() > 1 && !nodes.address_map.is_empty());
}

#[test]
fn the_manual_says_what_a_cluster_makes_of_every_command_with_several_keys() {
    let page = read("man/df2redis.toml.5");
    let (_, section) = page
        .split_once("\n.SH COMMANDS OVER SEVERAL SLOTS\n")
        .unwrap();
    let section = &section[..section.find("\n.SH").unwrap()];
    let named: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix(".B "))
        .flat_map(|line| line.split(", "))
        .collect();
    for name in commands::names() {
        let spec = commands::lookup(name.as_bytes()).unwrap();
        // STICK goes nowhere.
        let is_single = matches!(spec.keys, Keys::None | Keys::At(_)) || name == "STICK";
        assert!(is_single || named.contains(&name), "{name}");
    }
}

#[test]
fn every_key_stands_in_the_manual_with_its_type_and_default() {
    let page = read("man/df2redis.toml.5");
    let mut entries = 0;
    for table in schema::TABLES {
        let header = format!("\n.SS [{}]\n", table.name);
        let (_, section) = page
            .split_once(&header)
            .unwrap_or_else(|| panic!("no {header}"));
        let end = section.find("\n.S").unwrap_or(section.len());
        let section = &section[..end];
        entries += section.matches("\n.TP\n").count();
        for key in table.keys {
            let entry = match key.default {
                Some(default) => {
                    format!(
                        "\n\\fB{}\\fR ({}, default: \\fB{default}\\fR)\n",
                        key.name, key.kind
                    )
                }
                None => format!("\n\\fB{}\\fR ({}, ", key.name, key.kind),
            };
            assert!(section.contains(&entry), "no {entry} in {header}");
        }
    }
    let keys: usize = schema::TABLES.iter().map(|table| table.keys.len()).sum();
    assert_eq!(entries, keys, "keys in the manual that do not exist");
}

#[test]
fn manual_page_and_completions_are_what_make_man_writes() {
    for document in generate::documents(&file("")).unwrap_or_else(|error| panic!("{error}")) {
        let committed = fs::read_to_string(file("").join(&document.path)).unwrap_or_default();
        // Line by line, so that the failure shows the first difference and not two whole pages.
        let mut committed = committed.lines();
        for line in document.text.lines() {
            let path = document.path.display();
            assert_eq!(committed.next(), Some(line), "{path} is old: run make man");
        }
        assert_eq!(committed.next(), None, "run make man");
    }
}

#[test]
fn every_command_option_and_exit_code_stands_in_the_manual() {
    let page = read(generate::PAGE).replace("\\-", "-");
    let commands = generate::commands();
    assert!(commands.len() >= 6, "{commands:?}");
    for (name, command) in commands {
        let (_, section) = page
            .split_once(&format!("\n.SS {name}\n"))
            .unwrap_or_else(|| panic!("no section {name}"));
        let section = &section[..section.find("\n.S").unwrap()];
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            // These two stand once, for all commands.
            let part = match option {
                "help" | "version" => &page,
                _ => section,
            };
            let entry = format!("\\fB--{option}\\fR");
            let found = part.split(".TP\n").skip(1).any(|part| {
                part.lines()
                    .next()
                    .is_some_and(|line| line.contains(&entry))
            });
            assert!(found, "no entry for {option} of {name}");
        }
    }
    for exit in Exit::ALL {
        let entry = format!(".TP\n.B {}\n", exit.code());
        assert!(page.contains(&entry), "no entry for exit code {exit:?}");
    }
}

#[test]
fn a_part_that_the_manual_lacks_is_missed() {
    let page = read(generate::PAGE);
    for (with, without) in [("begin stop", "begin halt"), ("begin exits", "begin")] {
        let page = page.replace(&format!("generated: {with}\n"), &format!("{without}\n"));
        assert!(generate::manual(&page).is_err(), "{with}");
    }
}
