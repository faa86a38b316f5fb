//! Sessions against a scripted master, which fails the test when a request arrives that would harm
//! a real one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::reply::{Reply, parse};
use super::*;
use crate::entry::{Budget, Item};
use crate::net::Secret;

const ID: &str = "203051a21dce67942f04e494a45e64a156971f24";
const TOKENS: [&str; 2] = [
    "43912efc4e0069df8e36adf40be8351943cf3d02",
    "7da9adaf37586b86933f7c1b106702b6f8b97151",
];

/// How a connection of the master ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
}

/// What the master saw.
#[derive(Debug, Default)]
struct Seen {
    /// Requests in the order they came, all connections together.
    requests: Vec<String>,
    ends: Vec<End>,
}

/// Answers by request; a request's prefix decides. Requests not listed get a good master's answer.
struct Fake {
    settings: Settings,
    seen: Arc<Mutex<Seen>>,
    _serving: JoinSet<()>,
}

type Answers = HashMap<&'static str, &'static str>;

impl Fake {
    async fn start(answers: &[(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let answers: Arc<Answers> = Arc::new(answers.iter().copied().collect());
        let mut serving = JoinSet::new();
        let shared = seen.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, answers.clone(), shared.clone()));
            }
        });
        let settings = Settings {
            endpoint,
            tls: None,
            username: Some("rep".to_owned()),
            password: Some(Secret::new(b"secret word".to_vec())),
            connect_timeout: Duration::from_secs(5),
            announce_ip: Some("10.0.0.9".to_owned()),
            announce_port: 7777,
            task: "orders".to_owned(),
        };
        Self {
            settings,
            seen,
            _serving: serving,
        }
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }

    async fn ends(&self, count: usize) -> Vec<End> {
        for _ in 0..1_000 {
            let ends = self.seen.lock().unwrap().ends.clone();
            if ends.len() >= count {
                return ends;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("fewer than {count} connections have ended");
    }

    async fn register(&self) -> Result<Full, SourceError> {
        let session = Session::open(&self.settings).await?;
        session.register(&Start::Full).await.map(full)
    }
}

/// What a session that asks for a snapshot gets.
fn full(registered: Registered) -> Full {
    match registered {
        Registered::Full(full) => full,
        other => panic!("not a snapshot: {other:?}"),
    }
}

/// The flow's whole stream: a key, the end; then offset, token and one entry.
fn stream(flow: usize) -> (Vec<u8>, Vec<u8>) {
    let start = [
        b"REDIS0009\xFE\x00\x00\x03foo\x03bar\xC8".as_slice(),
        &[0; 8],
    ]
    .concat();
    let stable = [
        b"\xD3\x05\0\0\0\0\0\0\0\xFF\0\0\0\0\0\0\0\0".as_slice(),
        TOKENS[flow].as_bytes(),
        b"\x0D\x0F\x05",
    ];
    (start, stable.concat())
}

async fn serve(mut socket: TcpStream, answers: Arc<Answers>, seen: Arc<Mutex<Seen>>) {
    let mut input = BytesMut::new();
    let mut session = false;
    let mut flow = None;
    let end = 'connection: loop {
        while let Ok((request, len)) = parse(&input) {
            drop(input.split_to(len));
            let Reply::Array(words) = request else {
                panic!("{request:?}")
            };
            let words: Vec<_> = words
                .iter()
                .map(|word| String::from_utf8_lossy(word.text().unwrap()))
                .collect();
            let request = words.join(" ");
            seen.lock().unwrap().requests.push(request.clone());
            if request.starts_with("REPLCONF CLIENT-VERSION") {
                assert!(session, "a version without a session ends a real master");
            }
            if request.starts_with("REPLCONF ACK") {
                continue;
            }
            let scripted = answers
                .iter()
                .find(|(start, _)| request.starts_with(**start));
            let answer =
                scripted.map_or_else(|| usual(&request), |(_, answer)| (*answer).to_owned());
            session |= request == "REPLCONF capa dragonfly";
            if let Some(number) = request.strip_prefix(&format!("DFLY FLOW {ID} SYNC6 ")) {
                assert_eq!(
                    flow.replace(number.parse::<usize>().unwrap()),
                    None,
                    "two flows on one connection"
                );
            }
            if answer == "close" {
                break 'connection End::Fin;
            }
            if socket.write_all(answer.as_bytes()).await.is_err() {
                break 'connection End::Reset;
            }
            if let Some(flow) = flow {
                let (start, stable) = stream(flow);
                socket.write_all(&[start, stable].concat()).await.unwrap();
            }
        }
        match socket.read_buf(&mut input).await {
            Ok(0) => break End::Fin,
            Ok(_) => {}
            Err(_) => break End::Reset,
        }
    };
    seen.lock().unwrap().ends.push(end);
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn usual(request: &str) -> String {
    match request {
        "PING" => "+PONG\r\n".to_owned(),
        "REPLCONF capa dragonfly" => format!("*5\r\n+{ID}\r\n+SYNC6\r\n:2\r\n:5\r\n+{ID}\r\n"),
        "INFO server" => bulk("# Server\r\ndragonfly_version:df-v1.40.1\r\nx:y\r\n"),
        "DFLY REPLICAOFFSET" => "*2\r\n:6\r\n:1\r\n".to_owned(),
        "TIME" => "*2\r\n$10\r\n1795379719\r\n$6\r\n758000\r\n".to_owned(),
        "INFO keyspace" => bulk("# Keyspace\r\ndb0:keys=47,x=1\r\ndb1:keys=2\r\n"),
        request if request.starts_with("DFLY FLOW") => {
            let flow = usize::from(request.ends_with('1'));
            format!("*2\r\n+FULL\r\n+{}\r\n", TOKENS[flow])
        }
        _ => "+OK\r\n".to_owned(),
    }
}

async fn refused(answers: &[(&'static str, &'static str)]) -> SourceError {
    let fake = Fake::start(answers).await;
    let error = fake.register().await.expect_err("the master refuses");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("secret word"), "{text}");
    error
}

#[tokio::test]
async fn the_requests_of_a_session_come_in_the_only_safe_order_and_all_connections_end_in_order() {
    let fake = Fake::start(&[]).await;
    let session = Session::open(&fake.settings).await.unwrap();
    assert_eq!(session.master().release.as_deref(), Some("df-v1.40.1"));
    assert_eq!(session.master().flows, 2);
    let registered = full(session.register(&Start::Full).await.unwrap());
    let (mut syncing, flows) = registered.sync().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (out, mut batches) = mpsc::channel(64);
    let (ended, mut ends) = mpsc::channel(2);
    let (stop, _) = tokio::sync::watch::channel(false);
    let mut readers = JoinSet::new();
    let mut acknowledgers = Vec::new();
    for flow in flows {
        let (reader, acknowledger) = flow.split();
        acknowledgers.push(acknowledger);
        let settings = ReadSettings::new(dir.path(), 1 << 20);
        let mut stopped = stop.subscribe();
        readers.spawn(reader.run(
            out.clone(),
            ended.clone(),
            Budget::new(1 << 20),
            settings,
            async move {
                drop(stopped.wait_for(|stop| *stop).await);
            },
        ));
    }
    drop(out);
    syncing.confirm().await.unwrap();
    let tokens = vec![ends.recv().await.unwrap(), ends.recv().await.unwrap()];
    let mut stable = syncing.start_stable(tokens).await.unwrap();
    let mut next = Vec::new();
    while next.len() < 2 {
        let batch = batches.recv().await.unwrap();
        assert!(batch.received_at_ms > 0);
        next.extend(batch.items.iter().filter_map(|item| match item {
            Item::Nothing {
                lsn,
                acknowledge: true,
            } => *lsn,
            _ => None,
        }));
    }
    assert_eq!(next, [5, 5]);
    for acknowledger in &acknowledgers {
        acknowledger.acknowledge(6).await.unwrap();
    }
    let quiet = tokio::time::timeout(Duration::from_millis(50), stable.watch()).await;
    assert!(quiet.is_err(), "the session goes on");
    stop.send(true).unwrap();
    while batches.recv().await.is_some() {}
    for acknowledger in acknowledgers {
        // What was read before the stop is still being applied.
        acknowledger.acknowledge(7).await.unwrap();
    }
    while let Some(result) = readers.join_next().await {
        result.unwrap().unwrap();
    }
    stable.close().await;
    assert_eq!(fake.ends(4).await, [End::Fin; 4]);
    let requests = fake.requests();
    let control: Vec<_> = requests
        .iter()
        .filter(|request| !request.contains("FLOW"))
        .collect();
    let expected = [
        "AUTH rep secret word",
        "PING",
        "REPLCONF listening-port 7777",
        "REPLCONF ip-address 10.0.0.9",
        "REPLCONF capa eof capa psync2",
        "REPLCONF capa dragonfly",
        "REPLCONF CLIENT-VERSION 4",
    ];
    assert!(
        control
            .iter()
            .zip(expected)
            .all(|(request, expected)| **request == expected)
    );
    let position = |wanted: &str| {
        requests
            .iter()
            .position(|request| request.starts_with(wanted))
            .unwrap()
    };
    assert!(position("DFLY FLOW") < position("DFLY SYNC SYNC6"));
    assert!(position("DFLY SYNC SYNC6") < position("DFLY STARTSTABLE SYNC6"));
    assert_eq!(
        requests
            .iter()
            .filter(|request| *request == "REPLCONF ACK 6")
            .count(),
        2
    );
    assert_eq!(
        requests
            .iter()
            .filter(|request| request.contains("FLOW"))
            .count(),
        2
    );
}

#[tokio::test]
async fn the_journal_cannot_be_asked_for_with_ends_that_are_missing_or_of_another_session() {
    let fake = Fake::start(&[]).await;
    let (mine, _flows) = fake.register().await.unwrap().sync().await.unwrap();
    let other = Arc::new(());
    let ended = [0, 1].map(|flow| SnapshotEnded::of(flow, other.clone()));
    let error = mine.start_stable(ended.into()).await.unwrap_err();
    assert!(
        matches!(error, SourceError::SnapshotsOpen { ended: 0, flows: 2 }),
        "{error}"
    );
    assert!(
        !fake
            .requests()
            .iter()
            .any(|request| request.contains("STARTSTABLE"))
    );
}

#[tokio::test]
async fn sessions_dropped_at_any_step_close_every_connection_without_a_reset() {
    let fake = Fake::start(&[]).await;
    drop(Session::open(&fake.settings).await.unwrap());
    assert_eq!(fake.ends(2).await, [End::Fin; 2]);
    drop(fake.register().await.unwrap());
    assert_eq!(fake.ends(6).await, [End::Fin; 6]);
    drop(fake.register().await.unwrap().sync().await.unwrap());
    assert_eq!(fake.ends(10).await, [End::Fin; 10]);
}

#[tokio::test]
async fn each_refusal_is_told_apart_and_names_the_remedy() {
    let error = refused(&[(
        "AUTH",
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    )])
    .await;
    assert!(matches!(error, SourceError::PasswordWrong { .. }) && !error.is_temporary());
    let error = refused(&[("PING", "-NOAUTH Authentication required.\r\n")]).await;
    assert!(matches!(error, SourceError::PasswordMissing));
    for (request, missing) in [
        ("PING", "+ping"),
        ("REPLCONF", "+replconf"),
        ("DFLY FLOW", "+dfly"),
    ] {
        let error = refused(&[(request, "-NOPERM rep has no ACL permissions\r\n")]).await;
        assert!(error.to_string().contains(missing), "{error}");
        assert!(error.hint().unwrap().contains("+replconf +dfly +ping"));
        assert!(!error.is_temporary());
    }
    let restricted = "-ERR Cannot execute restricted command (admin only)\r\n";
    let error = refused(&[("REPLCONF", restricted)]).await;
    assert!(error.hint().unwrap().contains("admin port"));
    let error = refused(&[(
        "PING",
        "-LOADING Dragonfly is loading the dataset in memory\r\n",
    )])
    .await;
    assert!(matches!(error, SourceError::Loading) && error.is_temporary());
    let error = refused(&[("REPLCONF", "-ERR Replicating a replica is unsupported\r\n")]).await;
    assert!(matches!(error, SourceError::IsReplica) && !error.is_temporary());
    let error = refused(&[("DFLY FLOW", "-ERR bad master id\r\n")]).await;
    assert!(matches!(error, SourceError::MasterChanged) && error.is_temporary());
    let error = refused(&[("DFLY FLOW", "-ERR syncid not found\r\n")]).await;
    assert!(matches!(error, SourceError::SessionLost { .. }) && error.is_temporary());
    let error = refused(&[(
        "DFLY FLOW",
        "-ERR value is not an integer or out of range\r\n",
    )])
    .await;
    assert!(
        matches!(
            error,
            SourceError::FlowCount {
                expected: 2,
                got: None
            }
        ) && error.is_temporary()
    );
}

#[tokio::test]
async fn servers_that_are_no_dragonfly_are_recognised() {
    for (request, answer) in [
        ("REPLCONF capa dragonfly", "+OK\r\n"),
        ("REPLCONF", "-ERR unknown command 'REPLCONF'\r\n"),
        ("AUTH", "HTTP/1.1 400 Bad Request\r\n\r\n"),
    ] {
        let error = refused(&[(request, answer)]).await;
        assert!(matches!(error, SourceError::NotDragonfly { .. }), "{error}");
        assert!(!error.is_temporary());
    }
    let error = refused(&[("AUTH", "\x15\x03\x03\x00\x02\x02\x46")]).await;
    assert!(error.hint().unwrap().contains("[source.tls]"));
    let error = refused(&[(
        "AUTH",
        "-ERR Bad TLS header, double check if you enabled TLS for your client.\r\n",
    )])
    .await;
    assert!(matches!(error, SourceError::NeedsTls));
}

#[tokio::test]
async fn answers_of_the_wrong_shape_are_refused() {
    for (request, answer) in [
        (
            "REPLCONF capa dragonfly",
            "*3\r\n+short\r\n+SYNC6\r\n:2\r\n",
        ),
        (
            "REPLCONF capa dragonfly",
            "*3\r\n+203051a21dce67942f04e494a45e64a156971f24\r\n+SYNC6\r\n:1025\r\n",
        ),
        (
            "REPLCONF capa dragonfly",
            "*3\r\n+203051a21dce67942f04e494a45e64a156971f24\r\n+SYN\r\n:1\r\n",
        ),
        (
            "DFLY FLOW",
            "*2\r\n+PARTIAL\r\n+43912efc4e0069df8e36adf40be8351943cf3d02\r\n",
        ),
        ("DFLY FLOW", "*2\r\n+FULL\r\n+short\r\n"),
        ("DFLY FLOW", "+OK\r\n"),
    ] {
        let error = refused(&[(request, answer)]).await;
        assert!(matches!(error, SourceError::Unexpected { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_source_that_closes_or_says_nothing_is_named_with_its_place() {
    let error = refused(&[("REPLCONF capa", "close")]).await;
    assert_eq!(
        error.to_string(),
        "the source closed the control connection during the handshake"
    );
    assert!(error.is_temporary());
    let mut fake = Fake::start(&[("PING", "")]).await;
    fake.settings.connect_timeout = Duration::from_millis(50);
    let error = fake.register().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the source did not answer PING within 50ms"
    );
    let fake = Fake::start(&[("DFLY SYNC", "close")]).await;
    let (mut syncing, _flows) = fake.register().await.unwrap().sync().await.unwrap();
    let error = syncing.watch().await;
    assert_eq!(
        error.to_string(),
        "the source closed the control connection during the snapshot"
    );
}

#[tokio::test]
async fn tls_towards_a_plain_port_fails_with_a_hint() {
    let mut fake = Fake::start(&[]).await;
    fake.settings.tls = Some(crate::net::TlsSettings {
        verification: crate::net::Verification::Nothing,
        identity: None,
        server_name: None,
    });
    fake.settings.connect_timeout = Duration::from_millis(500);
    let error = fake.register().await.unwrap_err();
    assert!(
        matches!(error, SourceError::Connect(_)) && error.is_temporary(),
        "{error}"
    );
}

#[tokio::test]
async fn the_monitor_reports_what_the_user_may_ask_and_nothing_for_the_rest() {
    let fake = Fake::start(&[]).await;
    let mut monitor = Monitor::open(&fake.settings).await.unwrap();
    assert_eq!(monitor.offsets().await.unwrap(), [6, 1]);
    assert_eq!(monitor.time_ms().await.unwrap(), Some(1_795_379_719_758));
    assert_eq!(
        monitor.release().await.unwrap().as_deref(),
        Some("df-v1.40.1")
    );
    assert_eq!(
        monitor.keyspace().await.unwrap().unwrap(),
        [(0, 47), (1, 2)]
    );
    monitor.close().await;
    assert_eq!(fake.ends(1).await, [End::Fin]);
    assert!(
        fake.requests()
            .contains(&"CLIENT SETNAME df2redis:orders".to_owned())
    );

    let no = "-NOPERM rep has no ACL permissions\r\n";
    let hello =
        "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$17\r\ndragonfly_version\r\n$10\r\ndf-v1.27.4\r\n";
    let fake = Fake::start(&[
        ("INFO", no),
        ("TIME", no),
        ("CLIENT", no),
        ("DFLY", no),
        ("HELLO", hello),
    ])
    .await;
    let mut monitor = Monitor::open(&fake.settings).await.unwrap();
    assert_eq!(monitor.time_ms().await.unwrap(), None);
    assert_eq!(monitor.keyspace().await.unwrap(), None);
    assert_eq!(
        monitor.release().await.unwrap().as_deref(),
        Some("df-v1.27.4")
    );
    assert!(matches!(
        monitor.offsets().await,
        Err(SourceError::NoPermission {
            missing: "+dfly",
            ..
        })
    ));
}
