//! Wrong task files, each complaint with its exact text.

use super::*;

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
            "orders.toml:1:1: zebra: unknown key, expected one of the tables task, source, target, filter, policy, limits, spool, retry, audit, log",
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
            "[source]\ntype = \"redis\"\naddress = \"df\"\nannounce_ip = \"me\"\nannounce_port = 0\n[target]\ntype = \"redis-clusters\"\naddress = \"::1:6379\"\ndb_map = { a = 1, \"1\" = \"2\" }\n[limits]\nmemory = \"1MiB\"\n[spool]\nmax_size = \"1MiB\"\nkeep = \"2days\"\nsync = \"allways\"\non_full = \"drop\"\n"
        ),
        [
            "orders.toml:2:8: source.type: \"redis\" is not known here, expected \"dragonfly\"",
            "orders.toml:3:11: source.address: \"df\" has no port, expected \"host:port\"",
            "orders.toml:4:15: source.announce_ip: \"me\" is not an IP address, expected one such as \"10.0.0.1\"",
            "orders.toml:5:17: source.announce_port: 0 is out of range, expected a number from 1 to 65535",
            "orders.toml:7:8: target.type: \"redis-clusters\" is not one of \"redis\", \"redis-cluster\", did you mean \"redis-cluster\"?",
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
fn keys_of_a_cluster_and_of_one_server_are_told_apart() {
    let behind =
        |target: &str| complaints(&format!("source.address = \"a:1\"\n[target]\n{target}"));
    assert_eq!(
        behind("address = \"b:1\"\naddresses = [\"c:1\"]\naddress_map = {}\n"),
        [
            "orders.toml:4:1: target.addresses: is for target.type = \"redis-cluster\", expected only target.address",
            "orders.toml:5:1: target.address_map: is for target.type = \"redis-cluster\", expected only target.address",
        ]
    );
    assert_eq!(
        behind("type = \"redis-cluster\"\naddress = \"b:1\"\n"),
        [
            "orders.toml:2:1: target.addresses: is missing, expected an array of some nodes of the cluster such as [\"host:port\"]",
            "orders.toml:4:1: target.address: is for one server, expected target.addresses, an array of some nodes of the cluster",
        ]
    );
    assert_eq!(
        behind(
            "type = \"redis-cluster\"\naddresses = [\"b\", 1, \"unix:/s\"]\n\
             address_map = { \"c\" = \"d:1\", \"e:1\" = 2 }\nposition_db = 1\n\
             db_map = { \"0\" = 3 }\n"
        ),
        [
            "orders.toml:4:14: target.addresses: \"b\" has no port, expected \"host:port\"",
            "orders.toml:4:19: target.addresses: is an integer, expected \"host:port\" or \"[ipv6]:port\"",
            "orders.toml:4:22: target.addresses: \"unix:/s\" is a socket, expected \"host:port\" as for every node of a cluster",
            "orders.toml:5:17: target.address_map.c: \"c\" has no port, expected \"host:port\"",
            "orders.toml:5:38: target.address_map.e:1: is an integer, expected \"host:port\" or \"[ipv6]:port\"",
            "orders.toml:6:1: target.position_db: is 1, expected 0, the only database of a cluster",
            "orders.toml:7:1: target.db_map: sends database 0 to 3, expected 0, the only database of a cluster",
        ]
    );
    assert_eq!(
        behind(
            "type = \"redis-cluster\"\naddresses = [\"b:1\", \"a:1\"]\n[filter]\ndatabases = [0, 3]\n"
        ),
        [
            "orders.toml:2:1: target.db_map: leaves database 3 of filter.databases where it is, expected { \"3\" = 0 }: a cluster has only database 0",
            "orders.toml:4:1: target.addresses: has the address of the source too, expected other servers",
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
