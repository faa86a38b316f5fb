//! A scripted server, where no real one can be made to behave badly at the right moment.

use df2redis::target::{
    ErrorPolicy, Kind, Notice, Refusal, Settings, TargetError, Tolerate, Writer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{drive_once, entry, quick, record, settings, settled};

/// Answers connections by a script: after each request that ends in the given bytes, the reply.
pub async fn scripted<Text>(
    script: Vec<(Text, Text)>,
) -> (Settings, tokio::task::JoinHandle<String>)
where
    Text: AsRef<str> + Send + Sync + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = String::new();
        let mut seen = 0;
        for (request, reply) in &script {
            let (request, reply) = (request.as_ref(), reply.as_ref());
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
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop, None)
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
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop, None)
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
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop, None)
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
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop, None)
        .await
        .unwrap();
    entry(&mut writer, 0, &["INCR", "n"]);
    let error = writer.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_redis_is_called_so() {
    let (settings, _serving) =
        scripted(vec![("PING\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n")]).await;
    let error = Writer::connect(&settings, quick(), ErrorPolicy::Stop, None)
        .await
        .unwrap_err();
    assert!(matches!(error, TargetError::Protocol { .. }), "{error}");
}

/// Reads until what was heard ends so.
async fn hear(peer: &mut tokio::net::TcpStream, end: &str) -> String {
    let mut heard = String::new();
    while !heard.ends_with(end) {
        let mut buffer = [0; 4096];
        let read = peer.read(&mut buffer).await.unwrap();
        assert!(read > 0, "hung up before {end:?}, heard {heard:?}");
        heard.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    heard
}

#[tokio::test]
async fn entries_that_come_while_records_are_unanswered_share_the_next_transaction() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings(&listener.local_addr().unwrap().to_string());
    let (writer, mut peer) = tokio::join!(
        Writer::connect(&settings, quick(), ErrorPolicy::Stop, None),
        async {
            let (mut peer, _) = listener.accept().await.unwrap();
            hear(&mut peer, "PING\r\n").await;
            peer.write_all(b"+PONG\r\n").await.unwrap();
            peer
        }
    );
    let mut writer = writer.unwrap();
    record(&mut writer, "k", "first");
    drive_once(&mut writer).await;
    assert!(hear(&mut peer, "EXEC\r\n").await.contains("SELECT"));
    peer.write_all(PROBED.1.as_bytes()).await.unwrap();
    writer.drive().await.unwrap();
    hear(&mut peer, "first\r\n").await;
    for lsn in 0..5 {
        entry(&mut writer, lsn, &["INCR", "n"]);
        drive_once(&mut writer).await;
    }
    assert_eq!(writer.applied(), None);
    peer.write_all(b"+OK\r\n").await.unwrap();
    writer.drive().await.unwrap();
    let heard = hear(&mut peer, "EXEC\r\n").await;
    assert_eq!(heard.matches("INCR").count(), 5);
    assert_eq!(heard.matches("MULTI").count(), 1);
    let answer = [
        &["+OK\r\n"][..],
        &["+QUEUED\r\n"; 6],
        &["*6\r\n+OK\r\n"],
        &[":1\r\n"; 5],
    ];
    peer.write_all(answer.concat().concat().as_bytes())
        .await
        .unwrap();
    settled(&mut writer).await;
    assert_eq!(writer.applied(), Some(5));
}
