//! From paths to tasks, or to everything that is wrong with them.

use std::ffi::OsString;
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
/// `task_names` picks tasks of several by their names; none picks all. A single name for a single file that does not
/// name its task is the name; a single file that does must agree. Complaints about all files come together, sorted.
pub fn load(paths: &[PathBuf], task_names: &[String]) -> Result<Vec<Task>, ConfigErrors> {
    load_in(paths, task_names, &|name| std::env::var_os(name))
}

/// [`load`], with the environment as an argument.
pub(super) fn load_in(
    paths: &[PathBuf],
    task_names: &[String],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<Task>, ConfigErrors> {
    let mut complaints = Vec::new();
    let mut tasks = Vec::new();
    let only_name = match (paths, task_names) {
        ([_], [name]) => Some(name.as_str()),
        _ => None,
    };
    for path in paths {
        match read(path, only_name, env) {
            Ok(task) => tasks.push((path, task)),
            Err(mut more) => complaints.append(&mut more),
        }
    }
    for (n, (path, task)) in tasks.iter().enumerate() {
        let mut earlier = tasks.iter().take(n);
        if let Some((first, _)) = earlier.find(|(_, other)| other.name == task.name) {
            complaints.push(Complaint {
                file: path.to_path_buf(),
                place: None,
                key: Some("task.name".into()),
                what: format!(
                    "{} is also the name of the task in {}, expected a name of its own",
                    quoted(&task.name),
                    first.display()
                ),
            });
        }
    }
    if !task_names.is_empty() && complaints.is_empty() {
        complaints.extend(choose(&mut tasks, task_names));
    }
    match ConfigErrors::of(complaints) {
        Some(errors) => Err(errors),
        None => Ok(tasks.into_iter().map(|(_, task)| task).collect()),
    }
}

/// Keeps the tasks of those names; complains about each that there is not.
fn choose(tasks: &mut Vec<(&PathBuf, Task)>, wanted: &[String]) -> Vec<Complaint> {
    let names: Vec<String> = tasks.iter().map(|(_, task)| task.name.clone()).collect();
    tasks.retain(|(_, task)| wanted.contains(&task.name));
    let unknown = wanted.iter().filter(|name| !names.contains(name));
    unknown.map(|name| unknown_task(name, &names)).collect()
}

fn unknown_task(wanted: &str, names: &[String]) -> Complaint {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = match nearest(wanted, &names) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("expected one of \"{}\"", names.join("\", \"")),
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
