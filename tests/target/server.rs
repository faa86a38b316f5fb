//! Real Redis servers, and what the tests push to them.

use std::time::Duration;

use crate::support::RedisServer;
use df2redis::target::{ErrorPolicy, Kind, Limits, Notice, Settings, Tolerate, Writer};

/// A redis-server that also listens on `redis.sock` in its directory.
pub struct Server {
    pub redis: RedisServer,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Self {
        let socket = ["--unixsocket", "redis.sock"];
        let redis = RedisServer::start_with(&[&socket, options].concat());
        Self { redis }
    }

    pub fn settings(&self) -> Settings {
        settings(&self.redis.address())
    }

    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.ask_in(0, words)
    }

    pub fn ask_in<T: redis::FromRedisValue>(&self, db: u32, words: &[&str]) -> T {
        let url = format!("redis://{}/{db}", self.redis.address());
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let (name, rest) = words.split_first().unwrap();
        redis::cmd(name).arg(rest).query(&mut connection).unwrap()
    }

    pub async fn writer(&self, policy: ErrorPolicy) -> Writer {
        Writer::connect(&self.settings(), quick(), policy, None)
            .await
            .unwrap()
    }
}

pub fn settings(address: &str) -> Settings {
    Settings {
        endpoint: address.parse().unwrap(),
        tls: None,
        username: None,
        password: None,
        connect_timeout: Duration::from_secs(10),
        cluster: None,
        position_db: 0,
        task: "test".to_owned(),
    }
}

/// Limits with short waits, and batches small enough that there are several.
pub fn quick() -> Limits {
    Limits {
        batch_commands: 50,
        retry_initial: Duration::from_millis(5),
        retry_max: Duration::from_millis(20),
        ..Limits::default()
    }
}

pub fn push(writer: &mut Writer, kind: Kind, db: u32, words: &[&[u8]], lsn: Option<u64>) {
    let out = writer.begin(kind, db, Tolerate::Nothing);
    out.command(words.len(), lsn);
    words.iter().for_each(|word| out.word(word));
}

pub fn record(writer: &mut Writer, key: &str, value: &str) {
    push(
        writer,
        Kind::Record,
        0,
        &[b"SET", key.as_bytes(), value.as_bytes()],
        None,
    );
}

pub fn entry(writer: &mut Writer, lsn: u64, words: &[&str]) {
    let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
    push(writer, Kind::Entry, 0, &words, Some(lsn));
    writer.mark(lsn + 1);
}

/// Drives until the writer has something to say.
pub async fn noticed(writer: &mut Writer) -> Notice {
    loop {
        if let Some(notice) = writer.notice() {
            return notice;
        }
        let driven = tokio::time::timeout(Duration::from_secs(30), writer.drive()).await;
        driven.expect("no notice within 30 s").unwrap();
    }
}

pub async fn settled(writer: &mut Writer) {
    let settled = tokio::time::timeout(Duration::from_secs(60), writer.settle()).await;
    settled.expect("not settled within 60 s").unwrap();
}

/// Polls once: what can be written is written, what has come is read.
pub async fn drive_once(writer: &mut Writer) {
    let mut drive = std::pin::pin!(writer.drive());
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(driven) = drive.as_mut().poll(cx) {
            driven.unwrap();
        }
        std::task::Poll::Ready(())
    })
    .await;
}
