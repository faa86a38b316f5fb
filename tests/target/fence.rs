//! The fence, against real servers: who may write, and what is seen of everything that happens to it.

mod positions;

use std::task::Poll;
use std::time::Duration;

use df2redis::target::{
    Control, ErrorPolicy, Failed, Fence, Fenced, Kind, Limits, Settings, Stored, TargetError,
    Tolerate, Writer,
};

use crate::server::{Server, drive_once, entry, push, record, settled};
use crate::support::Proxy;
use crate::support::eventually;

/// A task behind its fence, in stable sync with one flow at position 0.
pub struct Following {
    pub control: Control,
    pub fence: Fence,
    pub writer: Writer,
}

pub async fn fenced(
    settings: &Settings,
    fence: &Fence,
    flow: u32,
    stored: Option<u64>,
    policy: ErrorPolicy,
) -> Result<Writer, TargetError> {
    let fence = fence.clone();
    let fenced = Fenced {
        fence,
        flow,
        stored,
    };
    Writer::connect(settings, Limits::default(), policy, Some(fenced)).await
}

/// Follows over `way`, with the control connection directly to the server.
pub async fn follow_over(server: &Server, way: &Settings, policy: ErrorPolicy) -> Following {
    let settings = Settings {
        endpoint: server.settings().endpoint,
        ..way.clone()
    };
    let mut control = Control::connect(&settings).await.unwrap();
    let fence = Fence::take(&mut control, &settings).await.unwrap().fence;
    fence
        .begin_snapshot(&mut control, None, false, 1)
        .await
        .unwrap();
    let mut writer = fenced(way, &fence, 0, None, policy).await.unwrap();
    writer.mark(0);
    writer.store();
    settled(&mut writer).await;
    fence
        .begin_stable(&mut control, "master", 1, 1)
        .await
        .unwrap();
    Following {
        control,
        fence,
        writer,
    }
}

pub async fn follow(server: &Server) -> Following {
    with_claim(server);
    follow_over(server, &server.settings(), ErrorPolicy::Stop).await
}

/// The part of the record that is written with the claim.
pub fn with_claim(server: &Server) {
    let () = server.ask(&["HSET", "df2redis:position:test", "format", "1"]);
}

pub async fn taken(server: &Server) -> (Fence, Stored, Vec<Failed>) {
    let settings = server.settings();
    let mut control = Control::connect(&settings).await.unwrap();
    let taken = Fence::take(&mut control, &settings).await.unwrap();
    (taken.fence, taken.stored, taken.failed)
}

fn stable(lsns: &[u64]) -> Stored {
    Stored::Stable {
        replication_id: "master".to_owned(),
        lsns: lsns.to_vec(),
    }
}

const POSITION: &str = "df2redis:position:test";
const FENCE: &str = "df2redis:fence:test";

/// A hundred increments are swallowed by the network, their process is gone, and another one goes on from what the
/// target holds.
async fn a_hundred(is_fenced: bool, late_before_resuming: bool) -> (u64, String) {
    let server = Server::start();
    with_claim(&server);
    let link = Proxy::to(&server.redis.address());
    let mut way = server.settings();
    way.endpoint = link.address().parse().unwrap();
    let Following { mut writer, .. } = follow_over(&server, &way, ErrorPolicy::Stop).await;
    if !is_fenced {
        writer = Writer::connect(&way, Limits::default(), ErrorPolicy::Stop, None)
            .await
            .unwrap();
        // Its databases are known, so that the increments are sent at once.
        push(&mut writer, Kind::Entry, 0, &[b"SET", b"n", b"0"], None);
        settled(&mut writer).await;
    }
    let first = |writer: &mut Writer| {
        for lsn in 0..100 {
            entry(writer, lsn, &["INCR", "n"]);
        }
    };
    link.hold();
    first(&mut writer);
    let end: &[u8] = if is_fenced {
        b"$5\r\nphase\r\n"
    } else {
        b"EXEC\r\n"
    };
    while !link.holds(end) {
        drive_once(&mut writer).await;
        tokio::task::yield_now().await;
    }
    assert!(writer.counters().in_flight_bytes > 0, "they are unanswered");
    drop(writer);

    let (fence, stored, _) = taken(&server).await;
    assert_eq!(stored, stable(&[0]), "nothing of them has arrived");
    let mut link = Some(link);
    let mut late = String::new();
    if late_before_resuming {
        late = link.take().unwrap().release();
    }
    let mut writer = fenced(&server.settings(), &fence, 0, Some(0), ErrorPolicy::Stop)
        .await
        .unwrap();
    first(&mut writer);
    settled(&mut writer).await;
    if let Some(link) = link {
        late = link.release();
    }
    assert_eq!(taken(&server).await.1, stable(&[100]));
    (server.ask(&["GET", "n"]), late)
}

#[tokio::test]
async fn bytes_of_a_dead_process_that_arrive_late_have_no_effect() {
    for before in [true, false] {
        let (n, late) = a_hundred(true, before).await;
        assert_eq!(n, 100);
        assert!(
            late.contains("+QUEUED\r\n*-1\r\n"),
            "they did arrive, and were not executed: {late}"
        );
    }
}

#[tokio::test]
async fn half_a_transaction_has_no_effect() {
    let server = Server::start();
    with_claim(&server);
    let link = Proxy::to(&server.redis.address());
    let mut way = server.settings();
    way.endpoint = link.address().parse().unwrap();
    let Following { mut writer, .. } = follow_over(&server, &way, ErrorPolicy::Stop).await;
    link.hold();
    for lsn in 0..100 {
        entry(&mut writer, lsn, &["INCR", "n"]);
    }
    while !link.holds(b"$5\r\nphase\r\n") {
        drive_once(&mut writer).await;
        tokio::task::yield_now().await;
    }
    link.halve();
    let late = link.release();
    assert!(
        late.contains("+QUEUED\r\n+QUEUED\r\n"),
        "half of it arrived: {late}"
    );
    let error = writer.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::Lost { .. }), "{error}");
    assert_eq!(taken(&server).await.1, stable(&[0]));
    assert_eq!(server.ask::<u64>(&["EXISTS", "n"]), 0);
}

#[tokio::test]
async fn without_the_fence_the_same_bytes_count_twice() {
    let (n, late) = a_hundred(false, false).await;
    assert_eq!(n, 200, "{late}");
}

fn taken_position(server: &Server) -> u64 {
    server.ask(&["HGET", POSITION, "lsn:0"])
}

#[tokio::test]
async fn keys_in_other_databases_than_the_positions_are_behind_the_fence_too() {
    let server = Server::start();
    let mut settings = server.settings();
    settings.position_db = 5;
    let () = server.ask_in(5, &["HSET", POSITION, "format", "1"]);
    let following = follow_over(&server, &settings, ErrorPolicy::Stop).await;
    let Following {
        mut writer, fence, ..
    } = following;
    for lsn in 0..300u64 {
        let db = (lsn % 3) as u32 + 4;
        push(&mut writer, Kind::Entry, db, &[b"INCR", b"n"], Some(lsn));
        writer.mark(lsn + 1);
        if lsn % 50 == 0 {
            push(&mut writer, Kind::Record, 7, &[b"SET", b"k", b"v"], None);
            settled(&mut writer).await;
        }
    }
    settled(&mut writer).await;
    for db in 4..=6 {
        assert_eq!(server.ask_in::<u64>(db, &["GET", "n"]), 100, "{db}");
    }
    assert_eq!(server.ask_in::<u64>(5, &["HGET", POSITION, "lsn:0"]), 300);
    // Records there are kept out as strictly as entries.
    let mut control = Control::connect(&settings).await.unwrap();
    Fence::take(&mut control, &settings).await.unwrap();
    push(&mut writer, Kind::Record, 7, &[b"SET", b"late", b"v"], None);
    let error = writer.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::TakenOver { .. }), "{error}");
    assert_eq!(server.ask_in::<u64>(7, &["EXISTS", "late"]), 0);
    drop(fence);
}

#[tokio::test]
async fn whoever_takes_the_fence_last_goes_on_and_the_other_one_is_told_by_whom() {
    let server = Server::start();
    let Following {
        mut writer,
        mut control,
        fence: first,
    } = follow(&server).await;
    entry(&mut writer, 0, &["INCR", "n"]);
    settled(&mut writer).await;
    let (second, stored, _) = taken(&server).await;
    assert_eq!(stored, stable(&[1]));
    entry(&mut writer, 1, &["INCR", "n"]);
    let error = writer.settle().await.unwrap_err();
    let expected = format!("process {} on host ", std::process::id());
    assert!(
        matches!(&error, TargetError::TakenOver { holder, .. } if holder.starts_with(&expected))
    );
    assert!(!error.is_temporary());
    let error = first.move_all(&mut control, &[(0, 7)]).await.unwrap_err();
    assert!(matches!(error, TargetError::TakenOver { .. }), "{error}");
    let mut late = fenced(&server.settings(), &first, 0, Some(1), ErrorPolicy::Stop)
        .await
        .unwrap();
    entry(&mut late, 1, &["INCR", "n"]);
    let error = late.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::TakenOver { .. }), "{error}");
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 1);
    let mut writer = fenced(&server.settings(), &second, 0, Some(1), ErrorPolicy::Stop)
        .await
        .unwrap();
    entry(&mut writer, 1, &["INCR", "n"]);
    settled(&mut writer).await;
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 2);
    assert_eq!(taken_position(&server), 2);
}

#[tokio::test]
async fn a_snapshot_stops_soon_after_another_process_has_taken_the_fence() {
    let server = Server::start();
    let Following { mut writer, .. } = follow(&server).await;
    for n in 0..100 {
        record(&mut writer, &format!("before{n}"), "v");
    }
    settled(&mut writer).await;
    taken(&server).await;
    record(&mut writer, "in flight", "v");
    let error = writer.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::TakenOver { .. }), "{error}");
    assert_eq!(
        server.ask::<u64>(&["EXISTS", "in flight"]),
        1,
        "one batch may be too late"
    );
}

#[tokio::test]
async fn what_somebody_does_to_the_tasks_own_keys_is_seen_with_the_next_transaction() {
    let server = Server::start();
    let swaps: &[&[&str]] = &[&["SWAPDB", "0", "1"], &["SWAPDB", "0", "1"]];
    let gone = "df2redis:fence:test is gone";
    let harms: [(&[&[&str]], &str, u64); 5] = [
        (&[&["FLUSHALL"]], gone, 0),
        (&[&["DEL", FENCE]], gone, 1),
        (&[&["SWAPDB", "0", "1"]], gone, 0),
        (swaps, "its dataset was replaced", 1),
        // Nothing else is wrong, so the next transaction is executed, and the one after it is not.
        (&[&["DEL", POSITION]], "df2redis:position:test is gone", 2),
    ];
    for (harm, what, counted) in harms {
        let () = server.ask(&["FLUSHALL"]);
        let Following { mut writer, .. } = follow(&server).await;
        entry(&mut writer, 0, &["INCR", "n"]);
        settled(&mut writer).await;
        for words in harm {
            let () = server.ask(words);
        }
        entry(&mut writer, 1, &["INCR", "n"]);
        let error = writer.settle().await.unwrap_err();
        assert!(
            matches!(&error, TargetError::Vanished { what: seen, .. } if seen == what),
            "{what}: {error}"
        );
        assert!(error.is_temporary());
        let n: Option<u64> = server.ask(&["GET", "n"]);
        assert_eq!(n.unwrap_or(0), counted, "{what}");
    }
}

#[tokio::test]
async fn a_restarted_server_is_not_written_to_with_old_positions() {
    let mut server = Server::start();
    let Following { fence, .. } = follow(&server).await;
    server.redis.restart();
    let error = fenced(&server.settings(), &fence, 0, Some(0), ErrorPolicy::Stop)
        .await
        .unwrap_err();
    assert!(matches!(error, TargetError::Replaced { .. }), "{error}");
    // Even one that holds the same fence again.
    let () = server.ask(&["SET", FENCE, "x"]);
    let mut control = Control::connect(&server.settings()).await.unwrap();
    let error = fence.move_all(&mut control, &[(0, 1)]).await.unwrap_err();
    assert!(!matches!(error, TargetError::Refused { .. }), "{error}");
    assert_eq!(server.ask::<u64>(&["EXISTS", POSITION]), 0);
}

#[tokio::test]
async fn a_dataset_that_changes_its_history_ends_the_connection() {
    let server = Server::start();
    let Following {
        mut control, fence, ..
    } = follow(&server).await;
    let () = server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let () = server.ask(&["REPLICAOF", "NO", "ONE"]);
    let error = fence.move_all(&mut control, &[(0, 1)]).await.unwrap_err();
    assert!(matches!(error, TargetError::Replaced { .. }), "{error}");
    let error = fenced(&server.settings(), &fence, 0, Some(0), ErrorPolicy::Stop)
        .await
        .unwrap_err();
    assert!(matches!(error, TargetError::Replaced { .. }), "{error}");
}

#[tokio::test]
async fn a_target_that_became_a_replica_ends_the_connection_with_records_and_with_entries() {
    for kind in [Kind::Record, Kind::Entry] {
        let server = Server::start();
        let Following { mut writer, .. } = follow(&server).await;
        let () = server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
        push(&mut writer, kind, 0, &[b"SET", b"k", b"v"], Some(0));
        let error = writer.settle().await.unwrap_err();
        assert!(
            matches!(&error, TargetError::Unready { answer, .. } if answer.contains("READONLY")),
            "{error}"
        );
        assert!(error.is_temporary());
    }
}

#[tokio::test]
async fn a_full_target_is_waited_for_behind_the_fence_and_every_entry_counts_once() {
    let server = Server::start();
    let Following { mut writer, .. } = follow(&server).await;
    let mut lsn = 0;
    while writer.counters().retries < 5 {
        let () = server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        for _ in 0..50 {
            entry(&mut writer, lsn, &["INCR", "n"]);
            lsn += 1;
        }
        writer.drive().await.unwrap();
        let () = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        settled(&mut writer).await;
        assert!(lsn < 100_000, "the target never refused");
    }
    assert_eq!(server.ask::<u64>(&["GET", "n"]), lsn);
    assert_eq!(taken_position(&server), lsn);
}

#[tokio::test]
async fn a_control_transaction_that_was_given_up_swallows_nothing_that_comes_later() {
    let server = Server::start();
    let Following {
        mut control, fence, ..
    } = follow(&server).await;
    let mut refused = 0;
    for polls in 1u64.. {
        let lsns = [(0, polls)];
        let mut moving = Box::pin(fence.move_all(&mut control, &lsns));
        let mut left = polls;
        let moved = std::future::poll_fn(|cx| match moving.as_mut().poll(cx) {
            Poll::Ready(moved) => Poll::Ready(Some(moved)),
            Poll::Pending if left == 1 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        });
        let moved = tokio::time::timeout(Duration::from_secs(60), moved).await;
        let moved = moved.expect("moved within 60 s");
        drop(moving);
        if let Some(moved) = moved {
            moved.unwrap();
            break;
        }
        // Either it is usable, or it says that it is not: it never answers for what it has not done.
        match fence.move_all(&mut control, &[(0, 1_000)]).await {
            Ok(()) => assert_eq!(taken_position(&server), 1_000),
            Err(error) => {
                let said = df2redis::task::chain(&error);
                assert!(said.contains("a transaction was left open"), "{said}");
                refused += 1;
                control = Control::connect(&server.settings()).await.unwrap();
            }
        }
    }
    assert!(refused > 0, "none was given up within its transaction");
}

#[tokio::test]
async fn an_empty_transaction_proves_that_transactions_are_permitted_before_anything_is_written() {
    let server = Server::start();
    let Following { fence, .. } = follow(&server).await;
    let () = server.ask(&[
        "ACL", "SETUSER", "copier", "on", ">p", "~*", "+@all", "-multi",
    ]);
    let mut settings = server.settings();
    settings.username = Some("copier".to_owned());
    settings.password = Some(df2redis::net::Secret::new(b"p".to_vec()));
    let mut writer = fenced(&settings, &fence, 0, Some(0), ErrorPolicy::Stop)
        .await
        .unwrap();
    entry(&mut writer, 0, &["INCR", "n"]);
    let error = writer.settle().await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Permission { command, .. } if command == "MULTI"),
        "{error}"
    );
    assert_eq!(server.ask::<u64>(&["EXISTS", "n"]), 0);
    let mut control = Control::connect(&settings).await.unwrap();
    let error = fence.move_all(&mut control, &[(0, 8)]).await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Permission { command, .. } if command == "MULTI"),
        "{error}"
    );
    assert_eq!(taken_position(&server), 0);
}

#[tokio::test]
async fn large_values_and_tolerated_errors_pass_behind_the_fence() {
    let server = Server::start();
    let Following { mut writer, .. } = follow(&server).await;
    let mut large = df2redis::entry::SpillWriter::create_in(server.redis.dir()).unwrap();
    large.write(&vec![b'x'; 8 << 20]).unwrap();
    let large = large.finish();
    for lsn in 0..4 {
        let out = writer.begin(Kind::Entry, 0, Tolerate::Nothing);
        out.command(3, Some(lsn));
        out.word(b"APPEND");
        out.word(b"big");
        out.word_in_file(&large);
        let out = writer.begin(Kind::Entry, 0, Tolerate::NoSuchKey);
        out.command(3, Some(lsn));
        for word in [&b"RENAME"[..], b"gone", b"there"] {
            out.word(word);
        }
        writer.mark(lsn + 1);
    }
    settled(&mut writer).await;
    assert_eq!(server.ask::<u64>(&["STRLEN", "big"]), 32 << 20);
    assert_eq!(taken_position(&server), 4);
    assert!(taken(&server).await.2.is_empty());
    eventually("the connection is idle", || writer.is_settled());
}
