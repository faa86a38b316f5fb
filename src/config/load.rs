//! From paths to tasks, or to everything that is wrong with them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::checks::{self, Surroundings};
use super::complaint::{Complaint, ConfigErrors};
use super::document::{Document, nearest, quoted};
use super::task::Task;

/// What [`load`] asks of an operator's task name, in words.
const NAME_RULE: &str =
    "1 to 64 letters, digits, dots, dashes and underscores, not starting with a dot or dash";

/// Reads task files, one task each.
///
/// A path is a task file, or a directory whose `*.toml` are task files: regular files or links to such, in the order of
/// their names, without those that begin with a dot. A file that is reached twice counts once.
///
/// `task_names` picks tasks of several by their names; none picks all. A single name for a single file, given by its own
/// path, that does not name its task is the name; a single file that does must agree. Complaints about all files come
/// together, sorted. Where names pick and each is found in a correct file, what is wrong with other files is a warning of
/// the first picked task: what one process runs does not depend on the tasks of another.
pub fn load(paths: &[PathBuf], task_names: &[String]) -> Result<Vec<Task>, ConfigErrors> {
    load_in(paths, task_names, &|name| std::env::var_os(name))
}

/// [`load`], with the environment as an argument.
pub(super) fn load_in(
    paths: &[PathBuf],
    task_names: &[String],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<Task>, ConfigErrors> {
    let only_name = match (paths, task_names) {
        ([path], [name]) if !path.is_dir() => Some(name.as_str()),
        _ => None,
    };
    let mut complaints = Vec::new();
    let mut tasks = Vec::new();
    for file in files(paths, &mut complaints) {
        match read(&file, only_name, env) {
            Ok(task) => tasks.push((file, task)),
            Err(mut more) => complaints.append(&mut more),
        }
    }
    let twice = same_names(&tasks);
    complaints.extend(twice.iter().map(|(_, complaint)| complaint.clone()));
    let mut tasks: Vec<Task> = tasks.into_iter().map(|(_, task)| task).collect();
    if !task_names.is_empty() && only_name.is_none() {
        let known: Vec<String> = tasks.iter().map(|task| task.name.clone()).collect();
        let unknown: Vec<_> = task_names
            .iter()
            .filter(|name| !known.contains(name))
            .map(|name| unknown_task(name, &known))
            .collect();
        let picks_twice = twice.iter().any(|(name, _)| task_names.contains(name));
        tasks.retain(|task| task_names.contains(&task.name));
        if unknown.is_empty() && !picks_twice {
            complaints.sort();
            if let Some(first) = tasks.first_mut() {
                first.warnings.append(&mut complaints);
            }
        }
        complaints.extend(unknown);
    }
    match ConfigErrors::of(complaints) {
        Some(errors) => Err(errors),
        None => Ok(tasks),
    }
}

/// The task files that these paths stand for, each once.
fn files(paths: &[PathBuf], complaints: &mut Vec<Complaint>) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    for path in paths {
        let found = match path.is_dir() {
            true => listed(path),
            false => Ok(vec![path.clone()]),
        };
        match found {
            Ok(found) => files.extend(found.into_iter().filter(|file| {
                // One that cannot be resolved cannot be read either, and is complained about then.
                seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone()))
            })),
            Err(what) => complaints.push(Complaint {
                file: path.clone(),
                place: None,
                key: None,
                what,
            }),
        }
    }
    files
}

/// The task files of a directory, in the order of their names, or what is wrong with it.
fn listed(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let mut files = Vec::new();
    for entry in dir.read_dir().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let is_named = path
            .extension()
            .is_some_and(|extension| extension == "toml")
            && !entry.file_name().as_bytes().starts_with(b".");
        // A link that leads nowhere is a mistake, which reading it will tell.
        if is_named && path.metadata().map_or(true, |about| about.is_file()) {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(
            "holds no task file, expected at least one *.toml (or --config with the path of another \
             file or directory)"
                .into(),
        ),
        false => Ok(files),
    }
}

/// For each task with the name of an earlier one, that name and a complaint.
fn same_names(tasks: &[(PathBuf, Task)]) -> Vec<(String, Complaint)> {
    let mut twice = Vec::new();
    for (n, (path, task)) in tasks.iter().enumerate() {
        let mut earlier = tasks.iter().take(n);
        if let Some((first, _)) = earlier.find(|(_, other)| other.name == task.name) {
            let complaint = Complaint {
                file: path.clone(),
                place: None,
                key: Some("task.name".into()),
                what: format!(
                    "{} is also the name of the task in {}, expected a name of its own",
                    quoted(&task.name),
                    first.display()
                ),
            };
            twice.push((task.name.clone(), complaint));
        }
    }
    twice
}

fn unknown_task(wanted: &str, names: &[String]) -> Complaint {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = match (nearest(wanted, &names), names.as_slice()) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, []) => "expected a correct task file with that name".to_owned(),
        (None, _) => format!("expected one of \"{}\"", names.join("\", \"")),
    };
    about_task_name(format!("no task is named {}, {hint}", quoted(wanted)))
}

fn about_task_name(what: String) -> Complaint {
    Complaint {
        file: PathBuf::from("--task-name"),
        place: None,
        key: None,
        what,
    }
}

fn read(
    path: &Path,
    only_name: Option<&str>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Task, Vec<Complaint>> {
    if let Some(name) = only_name.filter(|name| !is_task_name(name)) {
        let what = format!("{} is not a task name, expected {NAME_RULE}", quoted(name));
        return Err(vec![about_task_name(what)]);
    }
    let document = Document::open(path).map_err(|complaint| vec![complaint])?;
    let surroundings = Surroundings::of(path, only_name, env).map_err(|error| {
        vec![Complaint {
            file: path.to_owned(),
            place: None,
            key: None,
            what: format!("cannot be made an absolute path: {error}"),
        }]
    })?;
    let task = document
        .parse()
        .and_then(|entries| checks::task(&document, &entries, &surroundings));
    let (complaints, mut warnings) = document.into_notes();
    match task {
        Some(mut task) if complaints.is_empty() => {
            warnings.sort();
            task.warnings = warnings;
            Ok(task)
        }
        _ => Err(complaints),
    }
}

/// What is wrong with a task's name, if anything.
pub(super) fn check_name(name: &str) -> Result<String, String> {
    match is_task_name(name) {
        true => Ok(name.to_owned()),
        false => Err(format!("is not a task name, expected {NAME_RULE}")),
    }
}

/// Names become parts of file names and of keys on the target, between colons and braces.
fn is_task_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=64).contains(&name.len()) && name.chars().all(good) && !name.starts_with(['.', '-'])
}
