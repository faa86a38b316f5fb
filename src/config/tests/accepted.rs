//! What a right task file means.

use super::*;

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
    assert_eq!(task.target.positions, Positions::Transaction);
    assert_eq!(task.target.position_db, 0);
    assert!(task.filter.allows_everything());
    assert_eq!(task.policy.conflict, Conflict::Overwrite);
    assert_eq!(task.policy.on_error, Reaction::Stop);
    assert_eq!(task.policy.on_unsupported.json, Reaction::Stop);
    assert_eq!(task.policy.on_unsupported.command, Reaction::Stop);
    assert_eq!(task.policy.on_member_expiry, MemberExpiry::Emulate);
    assert_eq!(task.policy.on_cross_slot, CrossSlot::Fetch);
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
positions = "none"
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
on_cross_slot = "skip"
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
    assert_eq!(target.positions, Positions::None);
    assert_eq!(target.position_db, 15);
    assert!(task.filter.allows(2, b"cart:1") && !task.filter.allows(2, b"cart:tmp"));
    assert_eq!(task.policy.conflict, Conflict::Skip);
    assert_eq!(task.policy.on_error, Reaction::Skip);
    assert_eq!(task.policy.on_unsupported.json, Reaction::Skip);
    assert_eq!(task.policy.on_unsupported.bloom, Reaction::Stop);
    assert_eq!(task.policy.on_member_expiry, MemberExpiry::Stop);
    assert_eq!(task.policy.on_cross_slot, CrossSlot::Skip);
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
fn nodes_of_a_cluster_are_read_with_where_they_are_reached() {
    let files = Files::new();
    let text = "source.address = \"a:1\"\n[target]\ntype = \"redis-cluster\"\n\
                addresses = [\"b:1\", \"[::1]:2\"]\naddress_map = { \"10.0.0.1:6379\" = \"c:3\" }\n\
                db_map = { \"3\" = 0 }\n[filter]\ndatabases = [3]\n";
    let target = files.load(text).unwrap().target;
    let nodes = target.cluster.as_ref().unwrap();
    let shown = nodes.addresses.iter().map(ToString::to_string);
    assert_eq!(shown.collect::<Vec<_>>(), ["b:1", "[::1]:2"]);
    let reached = &nodes.address_map[&"10.0.0.1:6379".parse().unwrap()];
    assert_eq!(reached.to_string(), "c:3");
    assert_eq!(
        (target.address.to_string().as_str(), target.db(3)),
        ("b:1", 0)
    );
}
