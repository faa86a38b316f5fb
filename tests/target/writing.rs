//! One flow's writer against a real server: order, refusals, errors, large values.

use std::sync::Arc;

use df2redis::entry::SpillWriter;
use df2redis::target::{
    DeadLetter, ErrorPolicy, Kind, Limits, Notice, Refusal, TargetError, Tolerate, Writer,
};

use crate::server::{Server, entry, noticed, push, quick, record, settled};

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
async fn the_window_closes_while_nothing_is_answered_and_opens_again() {
    let server = Server::start();
    let limits = Limits {
        window: 100_000,
        batch_bytes: 20_000,
        ..quick()
    };
    let mut writer = Writer::connect(&server.settings(), limits, ErrorPolicy::Stop, None)
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
async fn a_large_spilled_value_streams_while_replies_are_read() {
    let server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    let mut spilled = SpillWriter::create_in(server.redis.dir()).unwrap();
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
