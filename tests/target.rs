//! The target's room against real Redis servers, and a scripted one where no real one can be made
//! to behave badly at the right moment.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use df2redis::entry::SpillWriter;
use df2redis::net::{TlsSettings, Verification};
use df2redis::target::{
    Conflict, Control, DeadLetter, ErrorPolicy, Kind, Limits, Notice, Owned, Ownership, Profile,
    Refusal, Settings, TargetError, Tolerate, Wanted, Writer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A redis-server of our own, in a directory of its own, killed when dropped.
struct Server {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Server {
    fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), &[])
    }

    fn start_with(dir: tempfile::TempDir, options: &[&str]) -> Self {
        let port = free_port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--unixsocket", "redis.sock"])
            .arg("--dir")
            .arg(dir.path())
            .args(options)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("cannot start redis-server: install it (apt-get install redis-server)");
        let server = Self { child, port, dir };
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let mut answer = [0; 5];
            let asked = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
                stream.write_all(b"PING\r\n")?;
                stream.read_exact(&mut answer)
            });
            if asked.is_ok() {
                return server;
            }
            assert!(Instant::now() < until, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn settings(&self) -> Settings {
        settings(&format!("127.0.0.1:{}", self.port))
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.ask_in(0, words)
    }

    fn ask_in<T: redis::FromRedisValue>(&self, db: u32, words: &[&str]) -> T {
        let url = format!("redis://127.0.0.1:{}/{db}", self.port);
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let (name, rest) = words.split_first().unwrap();
        redis::cmd(name).arg(rest).query(&mut connection).unwrap()
    }

    async fn writer(&self, policy: ErrorPolicy) -> Writer {
        Writer::connect(&self.settings(), quick(), policy)
            .await
            .unwrap()
    }
}

fn settings(address: &str) -> Settings {
    Settings {
        endpoint: address.parse().unwrap(),
        tls: None,
        username: None,
        password: None,
        connect_timeout: Duration::from_secs(10),
        position_db: 0,
        task: "test".to_owned(),
    }
}

/// Limits with short waits, and batches small enough that there are several.
fn quick() -> Limits {
    Limits {
        batch_commands: 50,
        retry_initial: Duration::from_millis(5),
        retry_max: Duration::from_millis(20),
        ..Limits::default()
    }
}

fn push(writer: &mut Writer, kind: Kind, db: u32, words: &[&[u8]], lsn: Option<u64>) {
    let out = writer.begin(kind, db, Tolerate::Nothing);
    out.command(words.len(), lsn);
    words.iter().for_each(|word| out.word(word));
}

fn record(writer: &mut Writer, key: &str, value: &str) {
    push(
        writer,
        Kind::Record,
        0,
        &[b"SET", key.as_bytes(), value.as_bytes()],
        None,
    );
}

fn entry(writer: &mut Writer, lsn: u64, words: &[&str]) {
    let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
    push(writer, Kind::Entry, 0, &words, Some(lsn));
    writer.mark(lsn + 1);
}

/// Drives until the writer has something to say.
async fn noticed(writer: &mut Writer) -> Notice {
    loop {
        if let Some(notice) = writer.notice() {
            return notice;
        }
        let driven = tokio::time::timeout(Duration::from_secs(30), writer.drive()).await;
        driven.expect("no notice within 30 s").unwrap();
    }
}

async fn settled(writer: &mut Writer) {
    let settled = tokio::time::timeout(Duration::from_secs(60), writer.settle()).await;
    settled.expect("not settled within 60 s").unwrap();
}

#[tokio::test]
async fn records_and_entries_arrive_in_order_in_their_databases() {
    let server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    for n in 0..1_000u64 {
        push(
            &mut writer,
            Kind::Record,
            0,
            &[b"SET", format!("k{n}").as_bytes(), b"v"],
            None,
        );
        if n % 100 == 0 {
            push(
                &mut writer,
                Kind::Record,
                3,
                &[b"SET", b"other", b"3"],
                None,
            );
        }
        writer.mark(n);
    }
    assert_eq!(writer.applied(), None);
    settled(&mut writer).await;
    assert_eq!(writer.applied(), Some(999));
    for n in 0..500 {
        entry(&mut writer, 1_000 + n, &["RPUSH", "list", &n.to_string()]);
        if n % 7 == 0 {
            push(&mut writer, Kind::Entry, 3, &[b"INCR", b"other"], Some(n));
        }
    }
    settled(&mut writer).await;
    assert_eq!(writer.applied(), Some(1_500));
    assert_eq!(writer.counters().in_flight_bytes, 0);
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), 1_001);
    assert_eq!(server.ask_in::<u64>(3, &["GET", "other"]), 75);
    let list: Vec<u64> = server.ask(&["LRANGE", "list", "0", "-1"]);
    assert!(list.iter().copied().eq(0..500));
}

#[tokio::test]
async fn a_full_target_pauses_records_and_entries_and_nothing_is_lost_or_doubled() {
    let server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    for n in 0..300 {
        record(&mut writer, &format!("k{n}"), "v");
    }
    let refused = noticed(&mut writer).await;
    assert!(
        matches!(&refused, Notice::Refused { refusal: Refusal::OutOfMemory, attempt: 1, answer, .. } if answer.starts_with("OOM")),
        "{refused:?}"
    );
    assert!(matches!(
        noticed(&mut writer).await,
        Notice::Refused { attempt: 2, .. }
    ));
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    settled(&mut writer).await;
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), 300);
    while !matches!(noticed(&mut writer).await, Notice::Recovered { .. }) {}

    let () = server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    for n in 0..300 {
        entry(&mut writer, n, &["INCR", "n"]);
    }
    assert!(matches!(
        noticed(&mut writer).await,
        Notice::Refused { attempt: 1, .. }
    ));
    assert_eq!(writer.applied(), None);
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    settled(&mut writer).await;
    assert_eq!(writer.applied(), Some(300));
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 300);
    assert!(writer.counters().retries >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_entry_counts_once_while_the_target_keeps_refusing_and_accepting() {
    let server = Arc::new(Server::start());
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let toggling = std::thread::spawn({
        let server = Arc::clone(&server);
        move || {
            while let Err(std::sync::mpsc::TryRecvError::Empty) = stopped.try_recv() {
                for limit in ["1", "0"] {
                    let () = server.ask(&["CONFIG", "SET", "maxmemory", limit]);
                }
            }
        }
    });
    let mut lsn = 0;
    while writer.counters().retries < 20 {
        for _ in 0..100 {
            entry(&mut writer, lsn, &["INCR", "n"]);
            entry(&mut writer, lsn + 1, &["RPUSH", "list", &lsn.to_string()]);
            lsn += 2;
            record(&mut writer, "k", &lsn.to_string());
        }
        settled(&mut writer).await;
        record(&mut writer, "plain", &lsn.to_string());
        settled(&mut writer).await;
        assert!(lsn < 1_000_000, "the target never refused");
    }
    drop(stop);
    toggling.join().unwrap();
    assert_eq!(writer.applied(), Some(lsn));
    assert_eq!(server.ask::<u64>(&["GET", "n"]), lsn / 2);
    let list: Vec<u64> = server.ask(&["LRANGE", "list", "0", "-1"]);
    assert!(list.iter().copied().eq((0..lsn).step_by(2)));
    assert_eq!(server.ask::<u64>(&["GET", "k"]), lsn);
    assert_eq!(server.ask::<u64>(&["GET", "plain"]), lsn);
}

#[tokio::test]
async fn a_refused_multi_whose_commands_were_accepted_is_an_unknown_outcome() {
    let (settings, _serving) = scripted(vec![
        ("PING\r\n", "+PONG\r\n"),
        PROBED,
        (
            "EXEC\r\n",
            "-BUSY script\r\n-BUSY script\r\n:1\r\n-ERR EXEC without MULTI\r\n",
        ),
    ])
    .await;
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop)
        .await
        .unwrap();
    entry(&mut writer, 0, &["INCR", "n"]);
    let error = writer.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn the_window_closes_while_nothing_is_answered_and_opens_again() {
    let server = Server::start();
    let limits = Limits {
        window: 100_000,
        batch_bytes: 20_000,
        ..quick()
    };
    let mut writer = Writer::connect(&server.settings(), limits, ErrorPolicy::Stop)
        .await
        .unwrap();
    for round in 0..3 {
        let mut pushed = 0;
        while writer.has_room() {
            record(
                &mut writer,
                &format!("{round}:{pushed}"),
                &"v".repeat(1_000),
            );
            pushed += 1;
        }
        assert!((90..=100).contains(&pushed), "{pushed}");
        settled(&mut writer).await;
    }
    assert!(server.ask::<u64>(&["DBSIZE"]) >= 270);
}

#[tokio::test]
async fn a_replica_is_waited_for_until_it_is_promoted() {
    let server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    entry(&mut writer, 0, &["INCR", "n"]);
    settled(&mut writer).await;
    let () = server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    entry(&mut writer, 1, &["INCR", "n"]);
    let notice = noticed(&mut writer).await;
    assert!(
        matches!(
            notice,
            Notice::Refused {
                refusal: Refusal::ReadOnly,
                ..
            }
        ),
        "{notice:?}"
    );
    record(&mut writer, "k", "v");
    let () = server.ask(&["REPLICAOF", "NO", "ONE"]);
    settled(&mut writer).await;
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 2);
    assert_eq!(server.ask::<String>(&["GET", "k"]), "v");
}

#[tokio::test]
async fn an_error_in_the_middle_names_key_command_and_entry() {
    let server = Server::start();
    let () = server.ask(&["SET", "text", "x"]);
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    for n in 0..20 {
        entry(&mut writer, n, &["INCR", "n"]);
    }
    entry(&mut writer, 20, &["LPUSH", "text", "x"]);
    entry(&mut writer, 21, &["INCR", "n"]);
    let error = writer.settle().await.unwrap_err();
    assert!(!error.is_temporary());
    let text = error.to_string();
    assert!(
        text.contains("refused LPUSH of key \"text\" (journal entry 20): WRONGTYPE"),
        "{text}"
    );
}

#[tokio::test]
async fn skipped_commands_are_recorded_and_the_rest_is_applied_exactly_once() {
    let server = Server::start();
    let () = server.ask(&["SET", "text", "x"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.jsonl");
    let dead_letter = Arc::new(DeadLetter::open(&path).unwrap());
    let mut writer = server.writer(ErrorPolicy::Skip { dead_letter }).await;
    record(&mut writer, "a", "1");
    push(
        &mut writer,
        Kind::Record,
        0,
        &[b"LPUSH", b"text", b"x"],
        None,
    );
    settled(&mut writer).await;
    for n in 0..30 {
        entry(&mut writer, n, &["INCR", "n"]);
        match n {
            10 => entry(&mut writer, n, &["NOSUCHCOMMAND", "k", "v"]),
            20 => entry(&mut writer, n, &["INCR"]),
            25 => entry(&mut writer, n, &["LPUSH", "text", "x"]),
            _ => {}
        }
    }
    settled(&mut writer).await;
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 30);
    assert_eq!(writer.counters().skipped, 4);
    assert_eq!(writer.applied(), Some(30));
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut lsns: Vec<_> = lines.iter().map(|line| line["lsn"].as_u64()).collect();
    lsns.sort();
    assert_eq!(lsns, [None, Some(10), Some(20), Some(25)]);
}

#[tokio::test]
async fn declared_errors_count_as_success() {
    let server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    for kind in [Kind::Record, Kind::Entry] {
        for _ in 0..2 {
            let out = writer.begin(kind, 0, Tolerate::BusyGroup);
            out.command(6, None);
            for word in [&b"XGROUP"[..], b"CREATE", b"s", b"g", b"0", b"MKSTREAM"] {
                out.word(word);
            }
        }
        let out = writer.begin(kind, 0, Tolerate::NoSuchKey);
        out.command(3, None);
        for word in [&b"RENAME"[..], b"gone", b"there"] {
            out.word(word);
        }
        for _ in 0..2 {
            let out = writer.begin(kind, 0, Tolerate::StreamId);
            out.command(5, None);
            for word in [&b"XADD"[..], b"s", b"5-5", b"f", b"v"] {
                out.word(word);
            }
        }
        settled(&mut writer).await;
    }
    assert_eq!(server.ask::<u64>(&["XLEN", "s"]), 1);
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_refused_before_anything_is_written_elsewhere() {
    let server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    record(&mut writer, "fine", "1");
    settled(&mut writer).await;
    push(
        &mut writer,
        Kind::Record,
        99,
        &[b"SET", b"stray", b"1"],
        None,
    );
    let error = writer.settle().await.unwrap_err();
    assert!(
        matches!(error, TargetError::Database { db: 99, .. }),
        "{error}"
    );
    assert_eq!(server.ask::<u64>(&["EXISTS", "stray"]), 0);
}

#[tokio::test]
async fn a_killed_target_is_reported_as_lost_with_what_is_unanswered() {
    let mut server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    record(&mut writer, "k", "v");
    settled(&mut writer).await;
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    record(&mut writer, "k", "v");
    let error = writer.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::Lost { .. }), "{error}");
    assert!(error.is_temporary());
    let error = Writer::connect(&server.settings(), quick(), ErrorPolicy::Stop)
        .await
        .unwrap_err();
    assert!(matches!(error, TargetError::Connect { .. }) && error.is_temporary());
}

/// Answers connections by a script: after each request that ends in the given bytes, the reply.
async fn scripted(
    script: Vec<(&'static str, &'static str)>,
) -> (Settings, tokio::task::JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = String::new();
        let mut seen = 0;
        for (request, reply) in script {
            while !heard.get(seen..).unwrap().ends_with(request) {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                assert!(read > 0, "hung up before {request:?}, heard {heard:?}");
                heard.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            seen = heard.len();
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
        heard
    });
    (settings(&address), serving)
}

const PROBED: (&str, &str) = ("EXEC\r\n", "+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");

#[tokio::test]
async fn records_are_sent_again_from_the_first_refused_item_on_and_not_before() {
    let (settings, serving) = scripted(vec![
        ("PING\r\n", "+PONG\r\n"),
        PROBED,
        // The second command of the second item is refused; what follows it is accepted.
        ("last\r\n", "+OK\r\n:1\r\n-LOADING Redis is loading\r\n-ERR ignored, since it comes again\r\n+OK\r\n"),
        ("last\r\n", ":0\r\n-BUSY running a script\r\n:1\r\n+OK\r\n"),
        ("last\r\n", ":0\r\n:1\r\n:1\r\n+OK\r\n"),
    ])
    .await;
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop)
        .await
        .unwrap();
    let encode = |writer: &mut Writer, commands: &[&[&[u8]]]| {
        let out = writer.begin(Kind::Record, 0, Tolerate::Nothing);
        for words in commands {
            out.command(words.len(), None);
            words.iter().for_each(|word| out.word(word));
        }
    };
    encode(&mut writer, &[&[b"SET", b"one", b"1"]]);
    encode(
        &mut writer,
        &[
            &[b"DEL", b"two"],
            &[b"SADD", b"two", b"m"],
            &[b"SADD", b"two", b"n"],
        ],
    );
    encode(&mut writer, &[&[b"SET", b"three", b"last"]]);
    writer.mark(4);
    settled(&mut writer).await;
    assert_eq!(writer.applied(), Some(4));
    let heard = serving.await.unwrap();
    assert_eq!(heard.matches("one").count(), 1);
    assert_eq!(heard.matches("DEL").count(), 3);
    assert_eq!(heard.matches("three").count(), 3);
    let refusals = std::iter::from_fn(|| writer.notice()).filter_map(|notice| match notice {
        Notice::Refused { refusal, .. } => Some(refusal),
        _ => None,
    });
    assert_eq!(
        refusals.collect::<Vec<_>>(),
        [Refusal::Loading, Refusal::Busy]
    );
}

#[tokio::test]
async fn nothing_is_sent_behind_an_unanswered_transaction() {
    let (settings, serving) = scripted(vec![
        ("PING\r\n", "+PONG\r\n"),
        PROBED,
        ("EXEC\r\n", "+OK\r\n+QUEUED\r\n+QUEUED\r\n"),
        // Nothing more may have been heard when this reply is sent.
        ("", "*2\r\n+OK\r\n:1\r\n"),
        (
            "EXEC\r\n",
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n:2\r\n:3\r\n",
        ),
    ])
    .await;
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop)
        .await
        .unwrap();
    entry(&mut writer, 0, &["INCR", "n"]);
    while writer.counters().in_flight_bytes == 0 || writer.counters().commands > 0 {
        tokio::select! {
            driven = writer.drive() => driven.unwrap(),
            () = tokio::task::yield_now() => {}
        }
    }
    entry(&mut writer, 1, &["INCR", "n"]);
    entry(&mut writer, 2, &["INCR", "n"]);
    settled(&mut writer).await;
    assert_eq!(writer.applied(), Some(3));
    let heard = serving.await.unwrap();
    assert_eq!(
        heard.matches("MULTI").count(),
        3,
        "the second and third entry share one"
    );
}

#[tokio::test]
async fn a_transaction_refused_while_it_was_filled_is_sent_again_whole() {
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    let busy: &'static str =
        format!("-BUSY script\r\n-BUSY script\r\n-BUSY script\r\n-BUSY script\r\n{aborted}").leak();
    let tried: &'static str =
        format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n-TRYAGAIN moving\r\n{aborted}").leak();
    let (settings, serving) = scripted(vec![
        ("PING\r\n", "+PONG\r\n"),
        PROBED,
        ("EXEC\r\n", busy),
        ("EXEC\r\n", tried),
        (
            "EXEC\r\n",
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n:1\r\n:2\r\n",
        ),
    ])
    .await;
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop)
        .await
        .unwrap();
    entry(&mut writer, 0, &["INCR", "n"]);
    entry(&mut writer, 1, &["INCR", "n"]);
    settled(&mut writer).await;
    assert_eq!(writer.counters().retries, 2);
    assert_eq!(writer.counters().commands, 2);
    assert_eq!(serving.await.unwrap().matches("INCR").count(), 6);
}

#[tokio::test]
async fn what_is_no_redis_is_called_so() {
    let (settings, _serving) =
        scripted(vec![("PING\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n")]).await;
    let error = Writer::connect(&settings, quick(), ErrorPolicy::Stop)
        .await
        .unwrap_err();
    assert!(matches!(error, TargetError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn a_large_spilled_value_streams_while_replies_are_read() {
    let server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    let mut spilled = SpillWriter::create_in(server.dir.path()).unwrap();
    let piece: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    for _ in 0..64 {
        spilled.write(&piece).unwrap();
    }
    let spill = spilled.finish();
    for round in 0..2 {
        for n in 0..2_000 {
            record(&mut writer, &format!("small{n}"), "v");
        }
        let kind = if round == 0 {
            Kind::Record
        } else {
            Kind::Entry
        };
        let out = writer.begin(kind, 0, Tolerate::Nothing);
        out.command(3, None);
        out.word(b"SET");
        out.word(b"big");
        out.word_of(spill.len());
        out.file(&spill, 0, spill.len());
        out.end_word();
        assert!(writer.has_room(), "what stands in a file is not in memory");
        record(&mut writer, "after", "v");
        settled(&mut writer).await;
    }
    assert_eq!(server.ask::<u64>(&["STRLEN", "big"]), 64 << 20);
    let end: Vec<u8> = server.ask(&["GETRANGE", "big", "-1048576", "-1"]);
    assert_eq!(end, piece);
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), 2_002);
}

#[tokio::test]
async fn replies_larger_than_any_buffer_do_not_block_the_connection() {
    let server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    let value = vec![b'x'; 1 << 20];
    for _ in 0..40 {
        push(
            &mut writer,
            Kind::Record,
            0,
            &[b"GETSET", b"k", &value],
            None,
        );
    }
    settled(&mut writer).await;
    for n in 0..40 {
        push(
            &mut writer,
            Kind::Entry,
            0,
            &[b"GETSET", b"k", &value],
            Some(n),
        );
    }
    settled(&mut writer).await;
    assert_eq!(writer.counters().commands, 80);
}

#[tokio::test]
async fn tls_unix_sockets_and_acl_users_work_for_both_kinds_of_connection() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls_port = free_port().to_string();
    let server = Server::start_with(
        dir,
        &[
            "--tls-port",
            &tls_port,
            "--tls-auth-clients",
            "no",
            "--tls-cert-file",
            "cert.pem",
            "--tls-key-file",
            "key.pem",
            "--tls-ca-cert-file",
            "cert.pem",
        ],
    );
    let () = server.ask(&[
        "ACL",
        "SETUSER",
        "copier",
        "on",
        ">pass word",
        "~*",
        "+@all",
        "-flushall",
    ]);
    let mut secure = settings(&format!("127.0.0.1:{tls_port}"));
    secure.tls = Some(TlsSettings {
        verification: Verification::Ca(cert),
        identity: None,
        server_name: Some("localhost".to_owned()),
    });
    let socket = server.dir.path().join("redis.sock");
    let local = settings(&format!("unix:{}", socket.display()));
    for mut settings in [secure, local] {
        settings.username = Some("copier".to_owned());
        settings.password = Some("pass word".to_owned());
        assert!(!format!("{settings:?}").contains("pass word"));
        let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop)
            .await
            .unwrap();
        for n in 0..5_000 {
            record(&mut writer, &format!("k{n}"), &"v".repeat(200));
        }
        settled(&mut writer).await;
        writer.close().await.unwrap();
        let mut control = Control::connect(&settings).await.unwrap();
        let profile = Profile::read(&mut control).await.unwrap();
        assert_eq!(profile.keys, [(0, 5_000)]);
        assert_eq!(profile.databases, Some(16));
        settings.password = Some("wrong".to_owned());
        for error in [
            Control::connect(&settings).await.unwrap_err(),
            Writer::connect(&settings, quick(), ErrorPolicy::Stop)
                .await
                .unwrap_err(),
        ] {
            assert!(matches!(error, TargetError::Login { .. }), "{error}");
            assert!(!error.to_string().contains("\"wrong\""));
        }
        let () = server.ask(&["FLUSHDB"]);
    }
    let error = Control::connect(&settings(&format!("127.0.0.1:{tls_port}")))
        .await
        .unwrap_err();
    assert!(
        error.is_temporary() || matches!(error, TargetError::Protocol { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let server = Server::start();
    let () = server.ask(&[
        "ACL", "SETUSER", "copier", "on", ">p", "~*", "+@all", "-set", "-scan",
    ]);
    let mut settings = server.settings();
    settings.username = Some("copier".to_owned());
    settings.password = Some("p".to_owned());
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop)
        .await
        .unwrap();
    record(&mut writer, "k", "v");
    let error = writer.settle().await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Permission { command, .. } if command == "SET"),
        "{error}"
    );
    let mut control = Control::connect(&settings).await.unwrap();
    let wanted = wanted(owned(&[0], "*"), Conflict::Panic);
    let error = Ownership::establish(&mut control, &settings, wanted, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, TargetError::Permission { command, .. } if command == "SCAN"),
        "{error}"
    );
}

fn owned(databases: &[u32], pattern: &str) -> Owned {
    let prefix = pattern.trim_end_matches('*').as_bytes().to_vec();
    Owned {
        databases: databases.to_vec(),
        include: vec![pattern.as_bytes().to_vec()],
        exclude: Vec::new(),
        matches: Box::new(move |key| key.starts_with(&prefix)),
    }
}

fn wanted(owned: Owned, conflict: Conflict) -> Wanted {
    Wanted {
        owned,
        exclusive: false,
        conflict,
        source: "abc".to_owned(),
    }
}

async fn establish(
    server: &Server,
    task: &str,
    wanted: Wanted,
) -> Result<(Control, Ownership), TargetError> {
    let settings = Settings {
        task: task.to_owned(),
        ..server.settings()
    };
    let mut control = Control::connect(&settings).await?;
    let ownership = Ownership::establish(&mut control, &settings, wanted, 1).await?;
    Ok((control, ownership))
}

#[tokio::test]
async fn panic_lists_keys_that_are_there_and_leaves_no_claim() {
    let server = Server::start();
    for n in 0..20 {
        let () = server.ask_in(2, &["SET", &format!("a:{n}"), "x"]);
    }
    let () = server.ask(&["SET", "b:1", "x"]);
    let panic = || wanted(owned(&[0, 2], "a:*"), Conflict::Panic);
    match establish(&server, "one", panic()).await {
        Err(TargetError::Conflict { keys, .. }) => {
            assert_eq!(keys.len(), 10);
            assert!(
                keys.iter()
                    .all(|(db, key)| *db == 2 && key.starts_with(b"a:"))
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), 1);
    let () = server.ask_in(2, &["FLUSHDB"]);
    let (_, ownership) = establish(&server, "one", panic()).await.unwrap();
    assert!(ownership.is_exclusive() && ownership.is_first());
    // The decision is made once: keys that come later, our own above all, are no conflict.
    let () = server.ask_in(2, &["SET", "a:1", "x"]);
    let (_, ownership) = establish(&server, "one", panic()).await.unwrap();
    assert!(ownership.is_exclusive() && !ownership.is_first());
}

#[tokio::test]
async fn keys_that_were_there_first_are_foreign_until_they_are_adopted() {
    let server = Server::start();
    for n in 0..2_500 {
        let () = server.ask_in(1, &["SET", &format!("old{n}"), "x"]);
    }
    let skip = || wanted(owned(&[0, 1], "*"), Conflict::Skip);
    let (mut control, ownership) = establish(&server, "one", skip()).await.unwrap();
    assert!(!ownership.is_exclusive());
    assert_eq!(ownership.foreign_count(), 2_500);
    let keys: Vec<String> = (0..3_000).map(|n| format!("old{n}")).collect();
    let asked: Vec<_> = keys.iter().map(|key| (1, key.as_bytes())).collect();
    let foreign = ownership.foreign(&mut control, &asked).await.unwrap();
    assert!(
        foreign
            .iter()
            .enumerate()
            .all(|(n, foreign)| *foreign == (n < 2_500))
    );
    assert_eq!(
        ownership
            .foreign(&mut control, &[(0, b"old1")])
            .await
            .unwrap(),
        [false]
    );

    let mut writer = server.writer(ErrorPolicy::Stop).await;
    push(
        &mut writer,
        Kind::Entry,
        1,
        &[b"SET", b"old7", b"ours"],
        Some(1),
    );
    let out = writer.begin(Kind::Entry, 0, Tolerate::Nothing);
    ownership.adopt(out, 1, b"old7", Some(1));
    settled(&mut writer).await;
    let (mut control, ownership) = establish(&server, "one", skip()).await.unwrap();
    assert_eq!(ownership.foreign_count(), 2_499);
    assert!(!ownership.is_first());

    // A flush takes what is ours, and nothing else.
    let () = server.ask_in(1, &["SET", "new", "ours"]);
    let () = server.ask(&["SET", "new", "ours"]);
    ownership.flush(&mut control, None).await.unwrap();
    assert_eq!(server.ask_in::<u64>(1, &["DBSIZE"]), 2_499);
    assert_eq!(server.ask_in::<u64>(1, &["EXISTS", "old7", "new"]), 0);
    assert_eq!(
        server.ask::<u64>(&["DBSIZE"]),
        2,
        "the claim and the list stay"
    );
}

#[tokio::test]
async fn overlapping_tasks_are_refused_by_name_and_others_are_not() {
    let server = Server::start();
    establish(
        &server,
        "one",
        wanted(owned(&[0, 1], "a:*"), Conflict::Overwrite),
    )
    .await
    .unwrap();
    establish(
        &server,
        "two",
        wanted(owned(&[0, 1], "b:*"), Conflict::Overwrite),
    )
    .await
    .unwrap();
    establish(
        &server,
        "three",
        wanted(owned(&[5], "*"), Conflict::Overwrite),
    )
    .await
    .unwrap();
    let error = establish(
        &server,
        "four",
        wanted(owned(&[1], "a:x*"), Conflict::Overwrite),
    )
    .await
    .unwrap_err();
    match &error {
        TargetError::Overlap { other, claim, .. } => {
            assert_eq!(
                (other.as_str(), claim.as_str()),
                ("one", "databases 0,1, keys a:*")
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.ask::<u64>(&["EXISTS", "df2redis:position:four"]), 0);
    // The same task comes back; with more than it claimed, it does not.
    establish(
        &server,
        "one",
        wanted(owned(&[0], "a:*"), Conflict::Overwrite),
    )
    .await
    .unwrap();
    let wider = establish(
        &server,
        "one",
        wanted(owned(&[7], "*"), Conflict::Overwrite),
    )
    .await;
    assert!(
        matches!(wider, Err(TargetError::Record { .. })),
        "{wider:?}"
    );
}

#[tokio::test]
async fn a_flush_takes_no_key_of_another_task_and_no_record() {
    let server = Server::start();
    let (mut control, ownership) = establish(
        &server,
        "one",
        wanted(owned(&[0, 1, 2], "*"), Conflict::Overwrite),
    )
    .await
    .unwrap();
    assert!(ownership.is_exclusive());
    for db in 0..4 {
        for n in 0..1_500 {
            let () = server.ask_in(db, &["SET", &format!("k{n}"), "x"]);
        }
    }
    // Somebody keeps positions in database 2; database 3 is nobody's.
    let () = server.ask_in(2, &["SET", "df2redis:position:other", "x"]);
    let flushes = || -> String { server.ask(&["INFO", "commandstats"]) };
    assert!(!flushes().contains("cmdstat_flushdb"));
    ownership.flush(&mut control, Some(2)).await.unwrap();
    assert!(!flushes().contains("cmdstat_flushdb"), "records are there");
    assert_eq!(server.ask_in::<u64>(2, &["DBSIZE"]), 1);
    assert_eq!(server.ask_in::<u64>(1, &["DBSIZE"]), 1_500);
    ownership.flush(&mut control, None).await.unwrap();
    assert!(
        flushes().contains("cmdstat_flushdb:calls=1,"),
        "database 1 is ours whole"
    );
    assert!(!flushes().contains("cmdstat_flushall"));
    let sizes: Vec<u64> = (0..4).map(|db| server.ask_in(db, &["DBSIZE"])).collect();
    assert_eq!(sizes, [1, 0, 1, 1_500]);
}

#[tokio::test]
async fn a_flush_of_slots_takes_those_slots_only() {
    let server = Server::start();
    let (mut control, ownership) = establish(
        &server,
        "one",
        wanted(owned(&[0], "*"), Conflict::Overwrite),
    )
    .await
    .unwrap();
    let () = server.ask(&["MSET", "foo", "1", "bar", "1", "{foo}x", "1"]);
    ownership
        .flush_slots(&mut control, &[12_000..=12_200])
        .await
        .unwrap();
    let left: Vec<String> = server.ask(&["KEYS", "*"]);
    assert_eq!(
        server.ask::<u64>(&["EXISTS", "foo", "{foo}x"]),
        0,
        "{left:?}"
    );
    assert_eq!(server.ask::<u64>(&["EXISTS", "bar"]), 1);
}

#[tokio::test]
async fn a_real_target_tells_its_release_limits_and_role() {
    let server = Server::start();
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "100mb"]);
    let mut control = Control::connect(&server.settings()).await.unwrap();
    let profile = Profile::read(&mut control).await.unwrap();
    assert!(profile.features.version >= (5, 0, 0));
    assert_eq!(profile.max_memory, Some(100 << 20));
    assert_eq!(profile.eviction.as_deref(), Some("noeviction"));
    assert_eq!(profile.max_bulk, Some(512 << 20));
    assert!(!profile.is_replica && !profile.is_loading);
    assert_eq!(
        (profile.run_id.len(), profile.replication_id.len()),
        (40, 40)
    );
    let cluster = Server::start_with(tempfile::tempdir().unwrap(), &["--cluster-enabled", "yes"]);
    let mut control = Control::connect(&cluster.settings()).await.unwrap();
    let error = Profile::read(&mut control).await.unwrap_err();
    assert!(error.hint().contains("redis-cluster"));
}
