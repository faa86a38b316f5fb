//! Several files, directories, and which of their tasks are picked.

use super::*;

#[test]
fn complaints_about_all_files_come_together_and_two_tasks_cannot_share_a_name() {
    let files = Files::new();
    let named = |name: &str| format!("{LEAST}[task]\nname = \"{name}\"\n");
    let a = files.write("a.toml", named("orders"), 0o600);
    let b = files.write("b.toml", named("orders"), 0o600);
    let c = files.write("c.toml", "", 0o600);
    let errors = load_in(&[c, b, a], &[], &env).unwrap_err();
    assert_eq!(
        files.shown(&errors),
        [
            "a.toml: task.name: \"orders\" is also the name of the task in b.toml, expected a name of its own",
            "c.toml: is empty, expected at least [source] and [target] with an address each",
        ]
    );
}

#[test]
fn the_command_line_names_a_nameless_task_and_picks_a_named_one() {
    let files = Files::new();
    let nameless = files.write("a.toml", LEAST, 0o600);
    let named = files.write(
        "b.toml",
        format!("{LEAST}[task]\nname = \"orders\"\n"),
        0o600,
    );
    let strange = files.write("a b.toml", LEAST, 0o600);
    let load = |paths: &[&PathBuf], name: Option<&str>| {
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        let tasks = load_in(
            &paths,
            &name.map(str::to_owned).into_iter().collect::<Vec<_>>(),
            &env,
        )
        .map_err(|errors| files.shown(&errors).join("\n"))?;
        Ok(tasks
            .into_iter()
            .map(|task| task.name)
            .collect::<Vec<_>>()
            .join(" "))
    };
    assert_eq!(load(&[&nameless], Some("carts")), Ok("carts".into()));
    assert_eq!(load(&[&named], Some("orders")), Ok("orders".into()));
    assert_eq!(
        load(&[&nameless, &named], Some("orders")),
        Ok("orders".into())
    );
    assert_eq!(load(&[&nameless, &named], None), Ok("a orders".into()));
    assert_eq!(load(&[&strange], Some("carts")), Ok("carts".into()));
    let failed = |text: &str| Err::<String, _>(text.to_owned());
    assert_eq!(
        load(&[&named], Some("carts")),
        failed("b.toml:6:1: task.name: is \"orders\", but --task-name asks for \"carts\"")
    );
    assert_eq!(
        load(&[&nameless, &named], Some("order")),
        failed("--task-name: no task is named \"order\", did you mean \"orders\"?")
    );
    assert_eq!(
        load(&[&strange], None),
        failed(
            "a b.toml: task.name: is missing, and \"a b\" from the file's name cannot be a task name"
        )
    );
    assert_eq!(
        load(&[&nameless], Some("a/b")),
        failed(
            "--task-name: \"a/b\" is not a task name, expected 1 to 64 letters, digits, dots, dashes and underscores, \
             not starting with a dot or dash"
        )
    );
}

fn named(name: &str) -> String {
    format!("{LEAST}[task]\nname = \"{name}\"\n")
}

/// Names of the tasks, or the complaints.
fn picked(files: &Files, paths: &[PathBuf], names: &[&str]) -> Result<Vec<String>, Vec<String>> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let loaded = load_in(paths, &names, &env).map_err(|errors| files.shown(&errors))?;
    Ok(loaded.into_iter().map(|task| task.name).collect())
}

#[test]
fn every_toml_file_of_a_directory_is_a_task_in_the_order_of_names() {
    let files = Files::new();
    let dir = files.path("tasks");
    for inner in ["tasks", "tasks/c.toml", "tasks/deeper", "elsewhere"] {
        fs::create_dir(files.path(inner)).unwrap();
    }
    for name in ["b.toml", "a.toml", "deeper/d.toml", "../elsewhere/e.toml"] {
        files.write(&format!("tasks/{name}"), LEAST, 0o600);
    }
    // None of these is TOML.
    for name in [".hidden.toml", "README", "a.toml~", "a.toml.dpkg-dist"] {
        files.write(&format!("tasks/{name}"), "?", 0o600);
    }
    std::os::unix::fs::symlink(files.path("elsewhere/e.toml"), dir.join("linked.toml")).unwrap();
    let tasks = load_in(std::slice::from_ref(&dir), &[], &env).unwrap();
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "linked"]);
    assert_eq!(tasks[2].file, dir.join("linked.toml"));
}

#[test]
fn a_directory_without_a_task_file_says_what_to_do() {
    let files = Files::new();
    files.write("orders.conf", LEAST, 0o600);
    let dir = files.path("");
    assert_eq!(
        load_error(&dir),
        format!(
            "{}: holds no task file, expected at least one *.toml (or --config with the path of another file or \
             directory)",
            dir.display()
        )
    );
}

#[test]
fn a_link_that_leads_nowhere_is_complained_about() {
    let files = Files::new();
    files.write("a.toml", LEAST, 0o600);
    std::os::unix::fs::symlink(files.path("gone"), files.path("b.toml")).unwrap();
    assert_eq!(
        picked(&files, &[files.path("")], &[]),
        Err(vec![
            "b.toml: cannot be read: No such file or directory (os error 2)".into()
        ])
    );
}

#[test]
fn a_file_that_is_reached_twice_counts_once() {
    let files = Files::new();
    let a = files.write("a.toml", LEAST, 0o600);
    let b = files.write("b.toml", LEAST, 0o600);
    let around = files.path("./a.toml");
    let paths = [b, a, files.path(""), around];
    assert_eq!(
        picked(&files, &paths, &[]),
        Ok(vec!["b".into(), "a".into()])
    );
}

#[test]
fn a_name_picks_from_a_directory_and_names_nothing_there() {
    let files = Files::new();
    files.write("a.toml", LEAST, 0o600);
    let dir = [files.path("")];
    assert_eq!(
        picked(&files, &dir, &["carts"]),
        Err(vec![
            "--task-name: no task is named \"carts\", expected one of \"a\"".into()
        ])
    );
    files.write("b.toml", named("carts"), 0o600);
    files.write("c.toml", LEAST, 0o600);
    assert_eq!(
        picked(&files, &dir, &["carts", "a"]),
        Ok(vec!["a".into(), "carts".into()])
    );
}

#[test]
fn what_is_wrong_with_tasks_that_were_not_picked_is_a_warning() {
    let files = Files::new();
    files.write("a.toml", named("orders"), 0o600);
    files.write("b.toml", named("carts"), 0o600);
    files.write("c.toml", named("carts"), 0o600);
    files.write("d.toml", "[source]\naddress = 1\n", 0o600);
    let dir = [files.path("")];
    let tasks = load_in(&dir, &["orders".into()], &env).unwrap();
    assert_eq!(tasks.len(), 1);
    let twice = "c.toml: task.name: \"carts\" is also the name of the task in b.toml, expected a name of its own";
    let wrong = [
        "d.toml:2:11: source.address: is an integer, expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"",
        "d.toml: target.address: is missing, expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"",
    ];
    let mut warnings = files.warnings(&tasks[0]);
    warnings.sort();
    let mut expected = vec![twice, wrong[0], wrong[1]];
    expected.sort_unstable();
    assert_eq!(warnings, expected);
    // Without a choice, and where the choice is not to be found, it is more than that.
    let all = picked(&files, &dir, &[]).unwrap_err();
    assert_eq!(all.len(), 3);
    let unknown = picked(&files, &dir, &["orders", "order"]).unwrap_err();
    assert_eq!(unknown.len(), 4);
    let line = "--task-name: no task is named \"order\", did you mean \"orders\"?";
    assert!(unknown.contains(&line.to_owned()), "{unknown:?}");
    assert_eq!(picked(&files, &dir, &["carts"]).unwrap_err().len(), 3);
}

#[test]
fn a_name_that_only_a_wrong_file_could_have_shows_what_is_wrong() {
    let files = Files::new();
    files.write("orders.toml", "", 0o600);
    assert_eq!(
        picked(&files, &[files.path("")], &["orders"]),
        Err(vec![
            "orders.toml: is empty, expected at least [source] and [target] with an address each"
                .into(),
            "--task-name: no task is named \"orders\", expected a correct task file with that name"
                .into(),
        ])
    );
}
