//! Entries the target refuses: recorded on it before anything else, repeated once, given up; and forgetting all of it.

use std::sync::Arc;

use df2redis::target::{
    Control, DeadLetter, ErrorPolicy, Failed, Fence, Kind, Refusal, Retried, Stored, TargetError,
    forget, list,
};

use crate::fence::{Following, fenced, follow, follow_over, taken, with_claim};
use crate::server::{Server, entry, push, settled};

fn skip(server: &Server) -> ErrorPolicy {
    let path = server.redis.dir().join("dead.jsonl");
    let dead_letter = Arc::new(DeadLetter::open(&path).unwrap());
    ErrorPolicy::Skip { dead_letter }
}

fn words(failed: &Failed) -> Vec<String> {
    let text = |word: &Vec<u8>| String::from_utf8(word.clone()).unwrap();
    failed.words.iter().map(text).collect()
}

#[tokio::test]
async fn an_error_inside_a_transaction_is_recorded_before_the_task_stops() {
    let server = Server::start();
    let () = server.ask(&["SET", "text", "x"]);
    let Following { mut writer, .. } = follow(&server).await;
    for lsn in 0..30 {
        match lsn {
            10 => entry(&mut writer, lsn, &["LPUSH", "text", "a", "b"]),
            20 => entry(&mut writer, lsn, &["INCR", "text"]),
            _ => entry(&mut writer, lsn, &["INCR", "n"]),
        }
    }
    let error = writer.settle().await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Refused { lsn: Some(10), .. }),
        "{error}"
    );
    assert!(
        error.hint().contains("df2redis retry") && error.hint().contains("df2redis skip"),
        "{}",
        error.hint()
    );
    // The transaction was executed around them, so whoever starts next has to know.
    let (_, stored, failed) = taken(&server).await;
    assert!(matches!(stored, Stored::Stable { lsns, .. } if lsns == [30]));
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 28);
    let found: Vec<_> = failed
        .iter()
        .map(|failed| (failed.lsn, words(failed)))
        .collect();
    let expected = [
        (10, vec!["LPUSH", "text", "a", "b"]),
        (20, vec!["INCR", "text"]),
    ];
    let expected = expected.map(|(lsn, words)| {
        let words: Vec<_> = words.into_iter().map(str::to_owned).collect();
        (lsn, words)
    });
    assert_eq!(found, expected);
    assert!(failed[0].answer.starts_with("WRONGTYPE"), "{}", failed[0]);
}

#[tokio::test]
async fn what_was_refused_before_anything_was_executed_comes_again() {
    let server = Server::start();
    let Following { mut writer, .. } = follow(&server).await;
    entry(&mut writer, 0, &["INCR", "n"]);
    entry(&mut writer, 1, &["NOSUCHCOMMAND", "k"]);
    entry(&mut writer, 2, &["INCR", "n"]);
    let error = writer.settle().await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Refused { lsn: Some(1), .. }),
        "{error}"
    );
    let (_, stored, failed) = taken(&server).await;
    assert!(matches!(stored, Stored::Stable { lsns, .. } if lsns == [0]));
    assert!(failed.is_empty());
    assert_eq!(server.ask::<u64>(&["EXISTS", "n"]), 0);
}

#[tokio::test]
async fn with_skip_every_refused_entry_is_recorded_and_the_others_count_once() {
    let server = Server::start();
    with_claim(&server);
    let () = server.ask(&["SET", "text", "x"]);
    let settings = server.settings();
    let following = follow_over(&server, &settings, skip(&server)).await;
    let Following { mut writer, .. } = following;
    for lsn in 0..40 {
        match lsn {
            10 => entry(&mut writer, lsn, &["NOSUCHCOMMAND", "k", "v"]),
            20 => entry(&mut writer, lsn, &["INCR"]),
            25 => entry(&mut writer, lsn, &["LPUSH", "text", "x"]),
            26 => push(&mut writer, Kind::Entry, 3, &[b"HSET", b"k"], Some(lsn)),
            _ => entry(&mut writer, lsn, &["INCR", "n"]),
        }
    }
    settled(&mut writer).await;
    entry(&mut writer, 40, &["NOSUCHCOMMAND"]);
    entry(&mut writer, 41, &["LPUSH", "text", "y"]);
    settled(&mut writer).await;
    assert_eq!(writer.counters().skipped, 6);
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 36);
    let (_, stored, failed) = taken(&server).await;
    assert!(matches!(stored, Stored::Stable { lsns, .. } if lsns == [42]));
    let found: Vec<_> = failed
        .iter()
        .map(|failed| (failed.lsn, failed.db))
        .collect();
    assert_eq!(
        found,
        [(10, 0), (20, 0), (25, 0), (26, 3), (40, 0), (41, 0)]
    );
    let file = std::fs::read_to_string(server.redis.dir().join("dead.jsonl")).unwrap();
    assert_eq!(file.lines().count(), 6);
}

#[tokio::test]
async fn a_full_target_is_waited_for_until_the_record_is_on_it() {
    let server = Server::start();
    let () = server.ask(&["SET", "text", "x"]);
    let Following { mut writer, .. } = follow(&server).await;
    // In one transaction: an error, and what fills the target.
    entry(&mut writer, 0, &["LPUSH", "text", "x"]);
    entry(&mut writer, 1, &["CONFIG", "SET", "maxmemory", "1"]);
    loop {
        if let Some(notice) = writer.notice() {
            let refused = matches!(
                &notice,
                df2redis::target::Notice::Refused {
                    refusal: Refusal::OutOfMemory,
                    ..
                }
            );
            assert!(refused, "{notice:?}");
            break;
        }
        writer.drive().await.unwrap();
    }
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    let error = writer.settle().await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Refused { lsn: Some(0), .. }),
        "{error}"
    );
    assert_eq!(taken(&server).await.2.len(), 1);
}

/// A target that has refused `LPUSH text x` and `INCR text` of database 3.
async fn with_two_failed(server: &Server) -> (Control, Fence, Vec<Failed>) {
    let () = server.ask_in(3, &["SET", "text", "x"]);
    with_claim(server);
    let following = follow_over(server, &server.settings(), skip(server)).await;
    let Following { mut writer, .. } = following;
    push(
        &mut writer,
        Kind::Entry,
        3,
        &[b"LPUSH", b"text", b"x"],
        Some(0),
    );
    push(&mut writer, Kind::Entry, 3, &[b"INCR", b"text"], Some(1));
    writer.mark(2);
    settled(&mut writer).await;
    let (fence, _, failed) = taken(server).await;
    let control = Control::connect(&server.settings()).await.unwrap();
    (control, fence, failed)
}

#[tokio::test]
async fn a_failed_entry_is_repeated_until_it_is_accepted_and_then_no_more() {
    let server = Server::start();
    let (mut control, fence, failed) = with_two_failed(&server).await;
    let [push, incr] = &failed[..] else {
        panic!("{failed:?}");
    };
    let again = push.retry(&fence, &mut control).await.unwrap();
    assert!(
        matches!(&again, Retried::Refused(answer) if answer.starts_with("WRONGTYPE")),
        "{again:?}"
    );
    let still = taken_failed(&server, &mut control).await;
    assert_eq!(still.len(), 2);
    assert!(still.iter().all(|failed| !failed.unknown), "{still:?}");
    let () = server.ask_in(3, &["DEL", "text"]);
    let (fence, _, _) = taken(&server).await;
    assert_eq!(
        push.retry(&fence, &mut control).await.unwrap(),
        Retried::Applied
    );
    assert_eq!(server.ask_in::<u64>(3, &["LLEN", "text"]), 1);
    let left = taken_failed(&server, &mut control).await;
    assert_eq!(
        left.iter().map(|failed| failed.lsn).collect::<Vec<_>>(),
        [1]
    );
    let (fence, _, _) = taken(&server).await;
    incr.skip(&fence, &mut control).await.unwrap();
    assert!(taken_failed(&server, &mut control).await.is_empty());
    assert_eq!(server.ask::<u64>(&["EXISTS", "df2redis:failed:test"]), 0);
}

async fn taken_failed(server: &Server, control: &mut Control) -> Vec<Failed> {
    let taken = Fence::take(control, &server.settings()).await.unwrap();
    taken.failed
}

#[tokio::test]
async fn a_repetition_whose_answer_got_lost_is_not_tried_again() {
    let server = Server::start();
    let (mut control, fence, failed) = with_two_failed(&server).await;
    let () = server.ask_in(3, &["DEL", "text"]);
    // The record as it is while the answer is on its way.
    let json: String = server.ask(&["HGET", "df2redis:failed:test", "0:0:0"]);
    let pending = json.replace("\"unknown\":false", "\"unknown\":true");
    assert_ne!(json, pending);
    let () = server.ask(&["HSET", "df2redis:failed:test", "0:0:0", &pending]);
    let failed_now = taken_failed(&server, &mut control).await;
    assert!(failed_now[0].unknown && !failed_now[1].unknown);
    let (fence_now, _, _) = taken(&server).await;
    let again = failed_now[0].retry(&fence_now, &mut control).await.unwrap();
    assert_eq!(again, Retried::Unknown);
    assert_eq!(server.ask_in::<u64>(3, &["EXISTS", "text"]), 0);
    // Nor is anything done behind a fence that is another's by now.
    let error = failed[1].retry(&fence, &mut control).await.unwrap_err();
    assert!(matches!(error, TargetError::TakenOver { .. }), "{error}");
    let error = failed[1].skip(&fence, &mut control).await.unwrap_err();
    assert!(matches!(error, TargetError::TakenOver { .. }), "{error}");
    assert_eq!(server.ask::<u64>(&["HLEN", "df2redis:failed:test"]), 2);
    assert_eq!(server.ask_in::<u64>(3, &["EXISTS", "text"]), 0);
}

#[tokio::test]
async fn a_repetition_that_cannot_even_be_queued_changes_nothing() {
    let server = Server::start();
    with_claim(&server);
    let following = follow_over(&server, &server.settings(), skip(&server)).await;
    let Following { mut writer, .. } = following;
    entry(&mut writer, 0, &["NOSUCHCOMMAND", "k"]);
    settled(&mut writer).await;
    let (fence, _, failed) = taken(&server).await;
    let mut control = Control::connect(&server.settings()).await.unwrap();
    let again = failed[0].retry(&fence, &mut control).await.unwrap();
    assert!(
        matches!(&again, Retried::Refused(answer) if answer.starts_with("ERR unknown command")),
        "{again:?}"
    );
    assert!(!taken_failed(&server, &mut control).await[0].unknown);
}

#[tokio::test]
async fn a_full_sync_settles_what_failed_before_it() {
    let server = Server::start();
    let (mut control, fence, failed) = with_two_failed(&server).await;
    assert_eq!(failed.len(), 2);
    fence
        .begin_snapshot(&mut control, None, false, 1)
        .await
        .unwrap();
    assert!(taken_failed(&server, &mut control).await.is_empty());
}

#[tokio::test]
async fn forgetting_a_task_leaves_every_other_key_where_it_is() {
    let server = Server::start();
    let (mut control, _, _) = with_two_failed(&server).await;
    let () = server.ask(&["SADD", "df2redis:foreign:test", "0:a", "0:b"]);
    for key in ["a", "b", "c"] {
        let () = server.ask_in(3, &["RPUSH", &format!("df2redis:tmp:test:{key}"), "x"]);
    }
    let others = [
        "df2redis:position:test2",
        "df2redis:fence:test-old",
        "df2redis:tmp:tes:test",
        "df2redis:foreign:my.test",
        "test",
    ];
    for db in [0, 3] {
        for key in others {
            let () = server.ask_in(db, &["SET", key, "x"]);
        }
    }
    let settings = server.settings();
    let found = list(&mut control, &settings).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|found| (found.db, found.key.as_str(), found.count))
        .collect();
    let fields = server.ask::<u64>(&["HLEN", "df2redis:position:test"]);
    let expected = [
        (0, "df2redis:position:test", fields),
        (0, "df2redis:failed:test", 2),
        (0, "df2redis:foreign:test", 2),
        (3, "df2redis:tmp:test:*", 3),
        (0, "df2redis:fence:test", 1),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        server.ask::<u64>(&["HLEN", "df2redis:failed:test"]),
        2,
        "only listed"
    );
    let gone = forget(&mut control, &settings).await.unwrap();
    assert_eq!(gone.len(), expected.len());
    assert!(list(&mut control, &settings).await.unwrap().is_empty());
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), others.len() as u64);
    let of_three: Vec<String> = server.ask_in(3, &["KEYS", "*"]);
    assert_eq!(
        of_three.len(),
        others.len() + 1,
        "what was copied stays: {of_three:?}"
    );
}

#[tokio::test]
async fn a_process_that_still_runs_is_stopped_by_forgetting() {
    let server = Server::start();
    let Following {
        mut writer,
        mut control,
        fence,
    } = follow(&server).await;
    entry(&mut writer, 0, &["INCR", "n"]);
    settled(&mut writer).await;
    forget(&mut control, &server.settings()).await.unwrap();
    entry(&mut writer, 1, &["INCR", "n"]);
    let error = writer.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::Vanished { .. }), "{error}");
    let late = fenced(&server.settings(), &fence, 0, Some(1), ErrorPolicy::Stop).await;
    let mut late = late.unwrap();
    entry(&mut late, 1, &["INCR", "n"]);
    assert!(late.settle().await.is_err());
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 1);
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), 1);
}
