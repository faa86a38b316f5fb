//! TLS, logins and Unix sockets on both sides.

use crate::df2redis::Task;
use crate::support::tls::TlsProxy;
use crate::support::{Dataset, RedisServer, SimulatedDragonfly};

fn keys(target: &RedisServer) -> i64 {
    let mut client = target.client();
    let all = client.ok(&["DBSIZE"]).int().expect("a number");
    let own = client.ok(&["KEYS", "df2redis:*"]).items().len();
    all - i64::try_from(own).expect("a number")
}

fn source() -> SimulatedDragonfly {
    SimulatedDragonfly::options()
        .dataset(Dataset::strings(1000, 50))
        .start()
}

/// Keys of a task file for one side behind the proxy.
fn tls(side: &str, proxy: &TlsProxy, identity: bool) -> Vec<String> {
    let mut lines = vec![format!("{side}.tls.ca = {:?}", proxy.ca())];
    if identity {
        lines.push(format!("{side}.tls.cert = {:?}", proxy.client_cert()));
        lines.push(format!("{side}.tls.key = {:?}", proxy.client_key()));
    }
    lines
}

fn with(task: Task, lines: Vec<String>) -> Task {
    lines.into_iter().fold(task, |task, line| task.with(line))
}

#[test]
fn both_sides_over_tls_with_client_certificates() {
    let source = source();
    let target = RedisServer::start();
    let front = TlsProxy::start_with_client_auth(source.port());
    let back = TlsProxy::start_with_client_auth(target.port());
    let task = Task::between(
        &format!("localhost:{}", front.port()),
        &format!("127.0.0.1:{}", back.port()),
    );
    let task = with(task, tls("source", &front, true));
    let task = with(task, tls("target", &back, true));
    let running = task.start_stable();
    source.journal(0, ["SET", "k", "v"]);
    source.wait_acked();
    assert_eq!(target.get("k"), "v");
    assert_eq!(keys(&target), 1001);
    running.stop();
}

#[test]
fn the_certificate_must_carry_the_wanted_name() {
    let source = source();
    let target = RedisServer::start();
    let front = TlsProxy::start(source.port());
    let address = format!("127.0.0.1:{}", front.port());
    let named = |name: &str| {
        let task = Task::between(&address, &target.address())
            .with(format!("source.tls.server_name = {name:?}"));
        with(task, tls("source", &front, false))
    };
    let task = named("dragonfly.example");
    let mut refused = task.start();
    let line = refused.wait_logged("invalid peer certificate");
    for part in ["WARN", &address, "dragonfly.example", "[source.tls]"] {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    refused.stop();
    named("localhost").start_stable().stop();
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_with_a_clear_message() {
    let source = source();
    let target = RedisServer::start();
    let front = TlsProxy::start(source.port());
    let other = TlsProxy::start(source.port());
    let address = format!("localhost:{}", front.port());
    let task = with(
        Task::between(&address, &target.address()),
        tls("source", &other, false),
    );
    let mut refused = task.start();
    // It tries again, for authorities are exchanged while services run.
    let line = refused.wait_logged("invalid peer certificate");
    for part in ["WARN", &address, "[source.tls]"] {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    refused.stop();
    assert_eq!(keys(&target), 0);
    // The same, with everybody let in.
    let task =
        Task::between(&address, &target.address()).with("source.tls.insecure_skip_verify = true");
    task.start_stable().stop();
}

#[test]
fn both_sides_with_a_login_and_a_unix_socket() {
    let source = SimulatedDragonfly::options()
        .dataset(Dataset::strings(1000, 50))
        .user("copy", "source secret", None)
        .require_password("another secret")
        .start();
    let target = RedisServer::start_with(&["--unixsocket", "redis.sock"]);
    let mut admin = target.client();
    admin.ok(&[
        "ACL",
        "SETUSER",
        "copy",
        "on",
        ">target secret",
        "~*",
        "+@all",
        "-@dangerous",
        "+info",
        "+flushdb",
        "+keys",
        "+restore",
        "+config|get",
        "+role",
        "+client",
    ]);
    admin.ok(&["ACL", "SETUSER", "default", "resetpass", ">some secret"]);
    let socket = format!("unix:{}", target.dir().join("redis.sock").display());
    let task = Task::between(&source.address(), &socket)
        .with("source.username = \"copy\"")
        .with("source.password = \"source secret\"")
        .with("target.username = \"copy\"")
        .with("target.password = \"target secret\"");
    let running = task.start_stable();
    source.journal(0, ["SET", "k", "v"]);
    source.wait_acked();
    assert_eq!(admin.ok(&["GET", "k"]), "v");
    assert!(!running.log().contains("secret"));
    running.stop();
}

#[test]
fn a_wrong_password_ends_with_its_own_exit_code() {
    let source = SimulatedDragonfly::options()
        .require_password("right")
        .start();
    let target = RedisServer::start();
    let task = Task::between(&source.address(), &target.address())
        .with("source.password = \"not this one\"");
    let mut refused = task.start();
    assert_eq!(refused.exit_code(), 77);
    let said = refused.messages();
    assert!(
        said.contains("password") && !said.contains("not this one"),
        "{said}"
    );
}
