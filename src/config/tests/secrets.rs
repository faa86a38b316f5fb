//! Passwords and keys: where they come from, who may read them, and that they are never shown.

use super::*;

#[test]
fn a_password_can_come_from_one_place_only() {
    let both = "[source]\naddress = \"df:6379\"\npassword = \"a\"\npassword_env = \"DF_PASSWORD\"\n[target]\naddress = \"redis:6379\"\nusername = \"u\"\n";
    assert_eq!(
        complaints(both),
        [
            "orders.toml:4:1: source.password_env: is one password too many, expected only one of password, password_file and password_env",
            "orders.toml:7:1: target.username: has no password, expected one of password, password_file and password_env",
        ]
    );
}

#[test]
fn a_password_that_is_not_where_it_should_be_is_refused_without_being_shown() {
    let files = Files::new();
    files.write("empty", "\n", 0o600);
    files.write("lines", "hunter2\nhunter3\n", 0o600);
    let with = |line: &str| {
        let content = format!(
            "[source]\naddress = \"df:6379\"\n{line}\n[target]\naddress = \"redis:6379\"\n"
        );
        files.load(&content).unwrap_err().join("\n")
    };
    for (line, expected) in [
        (
            "password = \"\"",
            "orders.toml:3:12: source.password: is empty, expected a string",
        ),
        (
            "password_file = \"no\"",
            "orders.toml:3:17: source.password_file: \"no\" cannot be read: No such file or directory (os error 2)",
        ),
        (
            "password_file = \"empty\"",
            "orders.toml:3:17: source.password_file: \"empty\" is empty, expected a password",
        ),
        (
            "password_file = \"lines\"",
            "orders.toml:3:17: source.password_file: \"lines\" has several lines, expected one password",
        ),
        (
            "password_file = \"/dev/zero\"",
            "orders.toml:3:17: source.password_file: \"/dev/zero\" is larger than 64 KiB, expected a password",
        ),
        (
            "password_env = \"NO\"",
            "orders.toml:3:16: source.password_env: variable \"NO\" is not set in the environment, expected the password in it",
        ),
        (
            "password_env = \"EMPTY\"",
            "orders.toml:3:16: source.password_env: variable \"EMPTY\" is empty in the environment, expected the password in it",
        ),
    ] {
        assert_eq!(with(line), expected);
    }
}

#[test]
fn secrets_that_everybody_can_read_and_tls_without_verification_are_warned_about() {
    let files = Files::new();
    files.write("key.pem", "", 0o644);
    files.write("password", "hunter2", 0o604);
    let path = files.write(
        "orders.toml",
        "[source]\naddress = \"df:6379\"\npassword = \"hunter2\"\n[source.tls]\ncert = \"key.pem\"\nkey = \"key.pem\"\n\
         insecure_skip_verify = true\n[target]\naddress = \"redis:6379\"\npassword_file = \"password\"\n",
        0o644,
    );
    let tasks = load_in(&[path], &[], &env).unwrap();
    assert_eq!(
        files.warnings(&tasks[0]),
        [
            "orders.toml:3:1: source.password: the password stands in a file that everybody can read (mode 0644), expected mode 0600 or 0640",
            "orders.toml:6:1: source.tls.key: names a file that everybody can read (mode 0644), expected mode 0600 or 0640",
            "orders.toml:7:1: source.tls.insecure_skip_verify: any certificate is accepted: whoever is in between can read and change everything",
            "orders.toml:10:1: target.password_file: names a file that everybody can read (mode 0604), expected mode 0600 or 0640",
        ]
    );
    assert!(!format!("{tasks:?}").contains("hunter2"));
}

#[test]
fn secrets_that_the_group_can_read_are_not_warned_about() {
    let files = Files::new();
    files.write("key.pem", "", 0o640);
    files.write("password", "hunter2", 0o440);
    let path = files.write(
        "orders.toml",
        "[source]\naddress = \"df:6379\"\npassword = \"hunter2\"\n[source.tls]\ncert = \"key.pem\"\nkey = \"key.pem\"\n\
         [target]\naddress = \"redis:6379\"\npassword_file = \"password\"\n",
        0o640,
    );
    let tasks = load_in(&[path], &[], &env).unwrap();
    assert_eq!(files.warnings(&tasks[0]), Vec::<String>::new());
}

#[test]
fn a_task_file_without_a_secret_may_be_read_by_everybody() {
    let files = Files::new();
    let path = files.write("orders.toml", LEAST, 0o644);
    let tasks = load_in(&[path], &[], &env).unwrap();
    assert_eq!(files.warnings(&tasks[0]), Vec::<String>::new());
}
