//! The fence against a scripted server: replies that are lost, late, or errors at the worst moment.

use df2redis::target::{ErrorPolicy, Fence, Kind, Limits, Settings, TargetError, Writer};
use tokio::task::JoinHandle;

use crate::fence::{Following, fenced, follow};
use crate::scripted::scripted;
use crate::server::{Server, drive_once, entry, push, settled};

/// A fence that was taken on a real server, and its token.
struct Known {
    server: Server,
    fence: Fence,
    token: String,
}

impl Known {
    async fn new() -> Self {
        let server = Server::start();
        let Following { fence, .. } = follow(&server).await;
        let token = server.ask(&["GET", "df2redis:fence:test"]);
        Self {
            server,
            fence,
            token,
        }
    }

    /// A writer to a server that is taken for the real one, and then answers by this script.
    async fn writer(&self, script: &[(&str, String)]) -> (Writer, JoinHandle<String>) {
        let info: String = self.server.ask(&["INFO", "server"]);
        let replication: String = self.server.ask(&["INFO", "replication"]);
        let login = [
            ("PING\r\n", "+PONG\r\n".to_owned()),
            ("server\r\n", bulk(&info)),
            ("replication\r\n", bulk(&replication)),
            ("$1\r\n0\r\n", "+OK\r\n".to_owned()),
        ];
        let steps = login.iter().chain(script);
        let steps = steps.map(|(heard, reply)| (heard.to_string(), reply.clone()));
        let (settings, serving) = scripted(steps.collect()).await;
        (self.connect(&settings).await, serving)
    }

    async fn connect(&self, settings: &Settings) -> Writer {
        let policy = ErrorPolicy::Stop;
        let limits = Limits {
            retry_initial: std::time::Duration::from_millis(5),
            ..Limits::default()
        };
        let fenced = df2redis::target::Fenced {
            fence: self.fence.clone(),
            flow: 0,
            stored: Some(0),
        };
        Writer::connect(settings, limits, policy, Some(fenced))
            .await
            .unwrap()
    }

    /// The answer to the first look at the fence.
    fn armed(&self) -> (&'static str, String) {
        let answer = format!("+OK\r\n*0\r\n+OK\r\n{}{}", bulk(&self.token), bulk("0"));
        ("lsn:0\r\n", answer)
    }

    /// The answer to a look at the fence behind a transaction.
    fn rearmed(&self) -> String {
        format!("+OK\r\n{}:1\r\n", bulk(&self.token))
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// One increment: MULTI, HSET of the position, INCR; the answer to EXEC.
const COUNTED: &str = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n:1\r\n";
/// How every transaction and its checks end.
const SENT: &str = "phase\r\n";

#[tokio::test]
async fn an_answer_that_is_lost_leaves_the_position_unknown() {
    let known = Known::new().await;
    for answered in ["", "+OK\r\n+QUEUED\r\n", COUNTED] {
        let script = [known.armed(), (SENT, answered.to_owned())];
        let (mut writer, serving) = known.writer(&script).await;
        entry(&mut writer, 0, &["INCR", "n"]);
        // The server hangs up when its script ends.
        let error = writer.settle().await.unwrap_err();
        assert!(
            matches!(&error, TargetError::Lost { unanswered, .. } if *unanswered > 0),
            "{error}"
        );
        assert!(error.is_temporary());
        assert_eq!(writer.applied(), Some(0), "nothing is assumed");
        let heard = serving.await.unwrap();
        assert_eq!(heard.matches("INCR").count(), 1, "{heard}");
    }
}

#[tokio::test]
async fn nothing_is_sent_before_the_look_at_the_fence_is_answered() {
    let known = Known::new().await;
    let script = [
        known.armed(),
        (SENT, COUNTED.to_owned()),
        // Nothing more may have been heard when this is sent.
        ("", known.rearmed()),
        (SENT, format!("{COUNTED}{}", known.rearmed())),
    ];
    let (mut writer, serving) = known.writer(&script).await;
    entry(&mut writer, 0, &["INCR", "n"]);
    while writer.stored() != Some(1) {
        drive_once(&mut writer).await;
        tokio::task::yield_now().await;
    }
    entry(&mut writer, 1, &["INCR", "n"]);
    settled(&mut writer).await;
    assert_eq!(writer.applied(), Some(2));
    let heard = serving.await.unwrap();
    let behind_exec = "*1\r\n$4\r\nEXEC\r\n*2\r\n$5\r\nWATCH\r\n$19\r\ndf2redis:fence:test\r\n";
    assert_eq!(
        heard.matches(behind_exec).count(),
        3,
        "one round trip: {heard}"
    );
}

#[tokio::test]
async fn an_answer_that_is_not_ours_keeps_the_next_transaction_back() {
    let known = Known::new().await;
    let another = "0 4711 elsewhere";
    for (behind, temporary, said) in [
        (
            format!("{COUNTED}+OK\r\n{}:1\r\n", bulk(another)),
            false,
            "process 4711 on host elsewhere",
        ),
        (
            format!("{COUNTED}+OK\r\n$-1\r\n:1\r\n"),
            true,
            "df2redis:fence:test is gone",
        ),
        (
            format!("{COUNTED}+OK\r\n{}:0\r\n", bulk(&known.token)),
            true,
            "df2redis:position:test is gone",
        ),
        (
            format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n*-1\r\n{}", known.rearmed()),
            true,
            "its dataset was replaced",
        ),
        (
            format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n*-1\r\n+OK\r\n{}:1\r\n", bulk(another)),
            false,
            "process 4711 on host elsewhere",
        ),
        (
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: LOADING data\r\n"
                .to_owned(),
            true,
            "LOADING",
        ),
        (
            "+OK\r\n+QUEUED\r\n-MASTERDOWN Link with MASTER is down\r\n\
             -EXECABORT Transaction discarded because of previous errors.\r\n"
                .to_owned(),
            true,
            "MASTERDOWN",
        ),
        (
            format!("{COUNTED}-LOADING data\r\n-LOADING data\r\n-LOADING data\r\n"),
            true,
            "LOADING",
        ),
        (
            format!("{COUNTED}+OK\r\n*1\r\n:1\r\n:1\r\n"),
            false,
            "while looking at the fence",
        ),
        (
            format!("{COUNTED}-NOPERM no WATCH\r\n"),
            false,
            "NOPERM no WATCH",
        ),
    ] {
        let (mut writer, serving) = known.writer(&[known.armed(), (SENT, behind)]).await;
        entry(&mut writer, 0, &["INCR", "n"]);
        let error = loop {
            match writer.drive().await {
                Ok(()) => entry(&mut writer, 1, &["INCR", "n"]),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert_eq!(error.is_temporary(), temporary, "{error}");
        let heard = serving.await.unwrap();
        assert_eq!(heard.matches("INCR").count(), 1, "{said}: {heard}");
    }
}

#[tokio::test]
async fn a_busy_server_is_asked_again_before_the_next_transaction() {
    let known = Known::new().await;
    let busy = "-BUSY script\r\n-BUSY script\r\n-BUSY script\r\n";
    let armed_at_1 = format!("+OK\r\n*0\r\n+OK\r\n{}{}", bulk(&known.token), bulk("1"));
    let script = [
        // At first nothing at all is answered, not even the transaction that proves that there are any.
        (
            "lsn:0\r\n",
            format!("{busy}-BUSY script\r\n-BUSY script\r\n"),
        ),
        known.armed(),
        (SENT, format!("{COUNTED}{busy}")),
        ("lsn:0\r\n", armed_at_1),
        (SENT, format!("{COUNTED}{}", known.rearmed())),
    ];
    let (mut writer, serving) = known.writer(&script).await;
    entry(&mut writer, 0, &["INCR", "n"]);
    settled(&mut writer).await;
    assert_eq!(writer.stored(), Some(1));
    entry(&mut writer, 1, &["INCR", "n"]);
    settled(&mut writer).await;
    assert_eq!(writer.stored(), Some(2));
    assert_eq!(writer.counters().retries, 1);
    assert_eq!(serving.await.unwrap().matches("INCR").count(), 2);
}

#[tokio::test]
async fn records_on_their_way_are_the_last_ones_when_the_fence_is_anothers() {
    let known = Known::new().await;
    let ok = |token: &str| format!("+OK\r\n{}", bulk(token));
    let script = [
        ("df2redis:fence:test\r\n", ok(&known.token)),
        ("df2redis:fence:test\r\n", ok("0 1 there")),
    ];
    let (mut writer, serving) = known.writer(&script).await;
    for n in 0..2 {
        push(&mut writer, Kind::Record, 0, &[b"SET", b"k", b"v"], None);
        match (n, writer.settle().await) {
            (0, Ok(())) => {}
            (1, Err(TargetError::TakenOver { .. })) => {}
            (n, settled) => panic!("{n}: {settled:?}"),
        }
    }
    assert_eq!(serving.await.unwrap().matches("SET").count(), 2);
}

#[tokio::test]
async fn a_server_that_does_not_say_who_it_is_is_not_the_one() {
    let known = Known::new().await;
    for (info, expected) in [
        ("$6\r\n# none\r\n", "restarted, failed over or replaced"),
        ("-NOPERM no INFO\r\n", "does not permit INFO"),
        (":1\r\n", "unexpected answer"),
    ] {
        let script = vec![
            ("PING\r\n".to_owned(), "+PONG\r\n".to_owned()),
            ("server\r\n".to_owned(), info.to_owned()),
            ("replication\r\n".to_owned(), info.to_owned()),
        ];
        let (settings, _serving) = scripted(script).await;
        let error = fenced(&settings, &known.fence, 0, None, ErrorPolicy::Stop)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
