//! Task files, right and wrong: every complaint with its exact text.

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

#[test]
fn the_smallest_file_gets_every_default() {
    let files = Files::new();
    let task = files.load(LEAST).unwrap();
    assert_eq!(task.name, "orders");
    assert_eq!(task.file, files.path("orders.toml"));
    assert_eq!(task.state_dir, files.path("state"));
    assert_eq!(task.shutdown_timeout, Duration::from_secs(30));
    assert_eq!(task.source.address.to_string(), "df:6379");
    assert_eq!(task.source.connect_timeout, Duration::from_secs(5));
    assert!(task.source.credentials.is_none() && task.source.tls.is_none());
    assert!(task.source.announce_ip.is_none() && task.source.announce_port.is_none());
    assert_eq!(task.target.address.to_string(), "redis:6379");
    assert_eq!((task.target.db(0), task.target.db(7)), (0, 7));
    assert!(!task.target.exclusive);
    assert_eq!(task.target.position_db, 0);
    assert!(task.filter.allows_everything());
    assert_eq!(task.policy.conflict, Conflict::Overwrite);
    assert_eq!(task.policy.on_error, Reaction::Stop);
    assert_eq!(task.policy.on_unsupported.json, Reaction::Stop);
    assert_eq!(task.policy.on_unsupported.command, Reaction::Stop);
    assert_eq!(task.policy.on_member_expiry, MemberExpiry::Drop);
    assert_eq!(task.limits.memory, 64 << 20);
    let expected = Spool {
        max_size: 10 << 30,
        min_free: 1 << 30,
        keep: Duration::from_secs(60),
        sync: SpoolSync::Interval,
        on_full: OnFull::Disconnect,
    };
    assert_eq!(task.spool, expected);
    assert_eq!(task.retry.initial, Duration::from_millis(200));
    assert_eq!(task.retry.max, Duration::from_secs(30));
    assert_eq!(task.retry.max_elapsed, None);
    assert_eq!(task.log.dir, files.path("log"));
    assert_eq!(task.log.level, Severity::Info);
    assert_eq!(task.log.format, LogFormat::Text);
    assert_eq!(task.log.console, Console::Auto);
    assert!(task.warnings.is_empty());
}

#[test]
fn every_key_is_read_and_paths_are_relative_to_the_file() {
    let files = Files::new();
    files.write("ca.pem", "", 0o644);
    files.write("cert.pem", "", 0o644);
    files.write("key.pem", "", 0o600);
    files.write("redis.password", "p w\r\n", 0o600);
    let task = files
        .load(
            r#"
[task]
name = "carts"
state_dir = "var/state"
shutdown_timeout = "1m 5s"
[source]
type = "dragonfly"
address = "[2001:db8::1]:6380"
username = "replica"
password_env = "DF_PASSWORD"
connect_timeout = "250ms"
announce_ip = "10.0.0.9"
announce_port = 6390
[source.tls]
ca = "ca.pem"
cert = "cert.pem"
key = "key.pem"
server_name = "df.example"
insecure_skip_verify = false
[target]
type = "redis"
address = "unix:/run/redis.sock"
password_file = "redis.password"
connect_timeout = "1s"
db_map = { "0" = 5, "2" = 0 }
exclusive = true
position_db = 15
[filter]
databases = [0, 2]
include = ["cart:*", "c?"]
exclude = ["*:tmp"]
[policy]
conflict = "skip"
on_error = "skip"
on_unsupported = { json = "skip", command = "stop" }
on_member_expiry = "stop"
[limits]
memory = "1GiB"
[spool]
max_size = "64MiB"
min_free = "0B"
keep = "0s"
sync = "always"
on_full = "throttle"
[retry]
initial = "1s"
max = "1s"
max_elapsed = "1h"
[log]
dir = "/srv/log"
level = "debug"
format = "json"
console = "never"
"#,
        )
        .unwrap();
    assert_eq!(task.name, "carts");
    assert_eq!(task.state_dir, files.path("var/state"));
    assert_eq!(task.shutdown_timeout, Duration::from_secs(65));
    let source = &task.source;
    assert_eq!(source.address.to_string(), "[2001:db8::1]:6380");
    let login = source.credentials.as_ref().unwrap();
    assert_eq!(login.username.as_deref(), Some("replica"));
    assert_eq!(login.password.expose(), b"from the environment");
    assert_eq!(source.connect_timeout, Duration::from_millis(250));
    assert_eq!(source.announce_ip, "10.0.0.9".parse().ok());
    assert_eq!(source.announce_port, Some(6390));
    let tls = source.tls.as_ref().unwrap();
    assert_eq!(tls.ca, Some(files.path("ca.pem")));
    assert_eq!(
        tls.identity,
        Some((files.path("cert.pem"), files.path("key.pem")))
    );
    assert_eq!(tls.server_name.as_deref(), Some("df.example"));
    assert!(!tls.insecure_skip_verify);
    let target = &task.target;
    let login = target.credentials.as_ref().unwrap();
    assert_eq!(
        (login.username.as_deref(), login.password.expose()),
        (None, &b"p w"[..])
    );
    assert_eq!(target.connect_timeout, Duration::from_secs(1));
    assert_eq!((target.db(0), target.db(2), target.db(3)), (5, 0, 3));
    assert!(target.exclusive);
    assert_eq!(target.position_db, 15);
    assert!(task.filter.allows(2, b"cart:1") && !task.filter.allows(2, b"cart:tmp"));
    assert_eq!(task.policy.conflict, Conflict::Skip);
    assert_eq!(task.policy.on_error, Reaction::Skip);
    assert_eq!(task.policy.on_unsupported.json, Reaction::Skip);
    assert_eq!(task.policy.on_unsupported.bloom, Reaction::Stop);
    assert_eq!(task.policy.on_member_expiry, MemberExpiry::Stop);
    assert_eq!(task.limits.memory, 1 << 30);
    let expected = Spool {
        max_size: 64 << 20,
        min_free: 0,
        keep: Duration::ZERO,
        sync: SpoolSync::Always,
        on_full: OnFull::Throttle,
    };
    assert_eq!(task.spool, expected);
    assert_eq!(task.retry.max_elapsed, Some(Duration::from_secs(3_600)));
    assert_eq!(task.log.dir, Path::new("/srv/log"));
    assert_eq!(task.log.level, Severity::Debug);
    assert_eq!(task.log.format, LogFormat::Json);
    assert_eq!(task.log.console, Console::Never);
    assert!(task.warnings.is_empty(), "{:?}", task.warnings);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let files = Files::new();
    let missing = files.path("missing.toml");
    let text = load_error(&missing);
    assert_eq!(
        text,
        format!(
            "{}: cannot be read: No such file or directory (os error 2)",
            missing.display()
        )
    );
    let dir = files.0.path();
    assert_eq!(
        load_error(dir),
        format!("{}: cannot be read: is a directory", dir.display())
    );
    let endless = load_error(Path::new("/dev/zero"));
    assert_eq!(
        endless,
        "/dev/zero: is larger than 1 MiB, expected a task file"
    );
}

#[test]
fn an_empty_file_is_refused_with_what_it_needs() {
    let expected =
        "orders.toml: is empty, expected at least [source] and [target] with an address each";
    assert_eq!(complaints(""), [expected]);
    assert_eq!(complaints("# only a comment\n"), [expected]);
}

#[test]
fn a_file_that_is_not_utf8_is_refused_at_the_first_wrong_byte() {
    let files = Files::new();
    let path = files.write("orders.toml", b"[source]\n# \xc3\xbc \xff\n", 0o600);
    let errors = load_in(&[path], &[], &env).unwrap_err();
    let expected = "orders.toml:2:5: is not UTF-8 here, expected TOML in UTF-8";
    assert_eq!(files.shown(&errors), [expected]);
}

#[test]
fn a_file_that_is_not_toml_is_refused_on_every_wrong_line() {
    let text = complaints("[source]\naddress = df:6379\n[target\naddress = \"redis:6379\"\n");
    assert_eq!(
        text,
        [
            "orders.toml:2:11: is not TOML: string values must be quoted, expected literal string",
            "orders.toml:3:8: is not TOML: unclosed table, expected `]`",
        ]
    );
    let text = complaints("[source]\npassword = \"hunter2\naddress = \"df:6379\"\n");
    assert!(!text.concat().contains("hunter2"), "{text:?}");
    let text = complaints(&format!("{LEAST}[source]\n"));
    assert_eq!(text, ["orders.toml:5:2: is not TOML: duplicate key"]);
}

#[test]
fn a_misspelt_key_or_table_is_refused_with_the_likely_one() {
    assert_eq!(
        complaints(
            "[sorce]\n[source]\nadress = \"df:6379\"\naddress = \"df:6379\"\n[target]\naddress = \"redis:6379\"\ndbmap = {}\n"
        ),
        [
            "orders.toml:1:2: sorce: unknown table, did you mean \"source\"?",
            "orders.toml:3:1: source.adress: unknown key, did you mean \"address\"?",
            "orders.toml:7:1: target.dbmap: unknown table, did you mean \"db_map\"?",
        ]
    );
    assert_eq!(
        complaints_behind_least("[limits]\nmemroy = \"64MiB\"\nbananas = 1\nconflict = \"skip\"\n"),
        [
            "orders.toml:6:1: limits.memroy: unknown key, did you mean \"memory\"?",
            "orders.toml:7:1: limits.bananas: unknown key, expected one of memory",
            "orders.toml:8:1: limits.conflict: unknown key here, it belongs into [policy]",
        ]
    );
    assert_eq!(
        complaints(&format!("zebra = 1\naddress = 2\n{LEAST}")),
        [
            "orders.toml:1:1: zebra: unknown key, expected one of the tables task, source, target, filter, policy, limits, spool, retry, log",
            "orders.toml:2:1: address: unknown key here, it belongs into [source]",
        ]
    );
}

#[test]
fn unknown_keys_are_refused_in_every_table() {
    for table in schema::TABLES {
        let parent = table.name.rsplit_once('.').map_or("", |(parent, _)| parent);
        let mut content = LEAST.to_owned();
        match (table.name, parent) {
            ("source" | "target", _) => {
                let header = format!("[{}]\n", table.name);
                content = content.replace(&header, &format!("{header}zzzzzz = 1\n"));
            }
            _ => content.push_str(&format!("[{}]\nzzzzzz = 1\n", table.name)),
        }
        let text = complaints(&content).join("\n");
        assert!(
            text.contains(&format!("{}.zzzzzz: unknown key", table.name)),
            "{text}"
        );
    }
}

#[test]
fn missing_keys_and_tables_are_named_with_what_is_expected() {
    let address = "is missing, expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"";
    assert_eq!(
        complaints("[source]\nusername = \"a\"\npassword = \"b\"\n"),
        [
            format!("orders.toml: target.address: {address}"),
            format!("orders.toml:1:1: source.address: {address}"),
        ]
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused_without_being_shown() {
    assert_eq!(
        complaints(
            "filter = 1\nlog = []\n[source]\naddress = 6379\npassword = 12345\nconnect_timeout = 5\nannounce_port = \"1\"\n\
             [source.tls]\ninsecure_skip_verify = \"yes\"\n[target]\naddress = \"redis:6379\"\ndb_map = [1]\n"
        ),
        [
            "orders.toml:1:10: filter: is an integer, expected a table",
            "orders.toml:2:7: log: is an array, expected a table",
            "orders.toml:4:11: source.address: is an integer, expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"",
            "orders.toml:5:12: source.password: is an integer, expected a string",
            "orders.toml:6:19: source.connect_timeout: is an integer, expected a duration such as \"30s\" or \"200ms\"",
            "orders.toml:7:17: source.announce_port: is a string, expected a number from 1 to 65535",
            "orders.toml:9:24: source.tls.insecure_skip_verify: is a string, expected true or false",
            "orders.toml:12:10: target.db_map: is an array, expected a table",
        ]
    );
    assert_eq!(
        complaints_behind_least(
            "[filter]\ndatabases = 0\ninclude = [1]\nexclude = \"a\"\n[policy]\non_unsupported = true\n[limits]\nmemory = 64\n"
        ),
        [
            "orders.toml:6:13: filter.databases: is an integer, expected an array of database numbers",
            "orders.toml:7:12: filter.include: is an integer, expected a pattern",
            "orders.toml:8:11: filter.exclude: is a string, expected an array of patterns such as [\"user:*\"]",
            "orders.toml:10:18: policy.on_unsupported: is a boolean, expected one of \"stop\", \"skip\"",
            "orders.toml:12:10: limits.memory: is an integer, expected a size such as \"64MiB\"",
        ]
    );
}

#[test]
fn a_value_that_means_nothing_is_refused_with_what_would() {
    assert_eq!(
        complaints_behind_least(
            "[task]\nname = \"a:b\"\nshutdown_timeout = \"soon\"\n\
             [filter]\ndatabases = [0, -1]\ninclude = []\nexclude = [\"a[b\"]\n\
             [policy]\nconflict = \"overwrit\"\non_error = \"maybe\"\n[policy.on_unsupported]\njson = \"skp\"\n\
             [limits]\nmemory = \"64 M\"\n[retry]\ninitial = \"1m\"\nmax = \"1s\"\nmax_elapsed = \"0s\"\n\
             [log]\nlevel = \"warn\"\nformat = \"xml\"\nconsole = \"on\"\n"
        ),
        [
            "orders.toml:6:8: task.name: \"a:b\" is not a task name, expected 1 to 64 letters, digits, dots, dashes and underscores, not starting with a dot or dash",
            "orders.toml:7:20: task.shutdown_timeout: \"soon\" is not a duration, expected a duration such as \"30s\" or \"200ms\"",
            "orders.toml:9:17: filter.databases: -1 is out of range, expected a number from 0 to 2147483646",
            "orders.toml:10:11: filter.include: is empty, expected an array of patterns such as [\"user:*\"] (or no such key)",
            "orders.toml:11:12: filter.exclude: \"a[b\" has a \"[\" that is never closed, expected \"]\" (or '\\[' for the character itself)",
            "orders.toml:13:12: policy.conflict: \"overwrit\" is not one of \"overwrite\", \"panic\", \"skip\", did you mean \"overwrite\"?",
            "orders.toml:14:12: policy.on_error: \"maybe\" is not known here, expected one of \"stop\", \"skip\"",
            "orders.toml:16:8: policy.on_unsupported.json: \"skp\" is not one of \"stop\", \"skip\", did you mean \"skip\"?",
            "orders.toml:18:10: limits.memory: \"64 M\" is not a size, expected a size such as \"64MiB\"",
            "orders.toml:20:1: retry.initial: the first wait, 1m, is longer than the longest, 1s, expected initial <= max",
            "orders.toml:22:15: retry.max_elapsed: \"0s\" is out of range, expected a duration from \"1ms\" to \"30days\"",
            "orders.toml:24:9: log.level: \"warn\" is not one of \"trace\", \"debug\", \"info\", \"warning\", \"error\", \"critical\", did you mean \"warning\"?",
            "orders.toml:25:10: log.format: \"xml\" is not known here, expected one of \"text\", \"json\"",
            "orders.toml:26:11: log.console: \"on\" is not known here, expected one of \"auto\", \"always\", \"never\"",
        ]
    );
    assert_eq!(
        complaints(
            "[source]\ntype = \"redis\"\naddress = \"df\"\nannounce_ip = \"me\"\nannounce_port = 0\n[target]\ntype = \"redis-cluster\"\naddress = \"::1:6379\"\ndb_map = { a = 1, \"1\" = \"2\" }\n[limits]\nmemory = \"1MiB\"\n[spool]\nmax_size = \"1MiB\"\nkeep = \"2days\"\nsync = \"allways\"\non_full = \"drop\"\n"
        ),
        [
            "orders.toml:2:8: source.type: \"redis\" is not known here, expected \"dragonfly\"",
            "orders.toml:3:11: source.address: \"df\" has no port, expected \"host:port\"",
            "orders.toml:4:15: source.announce_ip: \"me\" is not an IP address, expected one such as \"10.0.0.1\"",
            "orders.toml:5:17: source.announce_port: 0 is out of range, expected a number from 1 to 65535",
            "orders.toml:7:8: target.type: \"redis-cluster\" is not known here, expected \"redis\"",
            "orders.toml:8:11: target.address: \"::1:6379\" is an IPv6 address without brackets, expected \"[ipv6]:port\"",
            "orders.toml:9:12: target.db_map.a: is not a database number, expected \"source\" = target, such as \"0\" = 1",
            "orders.toml:9:25: target.db_map.1: is a string, expected a number from 0 to 2147483646",
            "orders.toml:11:10: limits.memory: \"1MiB\" is too small, expected at least \"16MiB\"",
            "orders.toml:13:12: spool.max_size: \"1MiB\" is too small, expected at least \"64MiB\"",
            "orders.toml:14:8: spool.keep: \"2days\" is out of range, expected a duration from \"0s\" to \"1day\"",
            "orders.toml:15:8: spool.sync: \"allways\" is not one of \"interval\", \"always\", \"never\", did you mean \"always\"?",
            "orders.toml:16:11: spool.on_full: \"drop\" is not known here, expected one of \"disconnect\", \"throttle\"",
        ]
    );
}

#[test]
fn a_source_that_is_its_own_target_is_refused() {
    assert_eq!(
        complaints("[source]\naddress = \"a:1\"\n[target]\naddress = \"a:1\"\n"),
        [
            "orders.toml:4:1: target.address: is the address of the source too, expected another server"
        ]
    );
}

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
fn tls_that_cannot_work_is_refused() {
    let files = Files::new();
    files.write("a.pem", "", 0o600);
    let text = files
        .load(
            "[source]\naddress = \"df:6379\"\n[source.tls]\nca = \"no.pem\"\ncert = \"a.pem\"\n\
             [target]\naddress = \"unix:/run/redis.sock\"\n[target.tls]\n",
        )
        .unwrap_err();
    assert_eq!(
        text,
        [
            "orders.toml:4:6: source.tls.ca: \"no.pem\" cannot be read: No such file or directory (os error 2)",
            "orders.toml:5:1: source.tls.key: is missing, expected a path, because there is tls.cert",
            "orders.toml:8:9: target.tls: cannot be used over a Unix socket, expected no such table",
        ]
    );
}

#[test]
fn databases_that_would_meet_on_the_target_are_refused() {
    let meet = |more: &str| {
        let loaded = Files::new().load(&format!("{LEAST}{more}"));
        loaded.map(|_| ()).map_err(|text| text.join("\n"))
    };
    let text = |one, other, to| {
        format!(
            "orders.toml:5:1: target.db_map: databases {one} and {other} of the source would both become {to} on the \
             target, expected one each (filter.databases can leave one out)"
        )
    };
    assert_eq!(meet("db_map = { \"1\" = 0 }\n"), Err(text(0, 1, 0)));
    assert_eq!(meet("db_map = { \"0\" = 1 }\n"), Err(text(1, 0, 1)));
    assert_eq!(
        meet("db_map = { \"1\" = 9, \"2\" = 9 }\n[filter]\ndatabases = [1, 2]\n"),
        Err(text(1, 2, 9))
    );
    assert_eq!(
        meet("db_map = { \"1\" = 0 }\n[filter]\ndatabases = [1]\n"),
        Ok(())
    );
    assert_eq!(meet("db_map = { \"1\" = 0, \"0\" = 1 }\n"), Ok(()));
    assert_eq!(meet("db_map = { \"1\" = 1 }\n"), Ok(()));
}

#[test]
fn directories_that_are_files_are_refused() {
    assert_eq!(
        complaints_behind_least("[task]\nstate_dir = \"orders.toml\"\n[log]\ndir = \"\"\n"),
        [
            "orders.toml:6:13: task.state_dir: \"orders.toml\" is a file, expected a directory",
            "orders.toml:8:7: log.dir: is empty, expected a string",
        ]
    );
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

proptest! {
    /// The full sample with one piece cut out and another put in: correct, or refused with complaints.
    #[test]
    fn a_damaged_task_file_never_panics(
        at in 0..8_000_usize, cut in 0..40_usize, piece in r#"[\[\]"'=#\.\{\}a-z0-9\n\-\\]{0,6}|\PC{0,3}"#
    ) {
        let full = include_str!("../../etc/df2redis/full.toml");
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
