//! The positions behind the fence: what is stored with the writes, and whether it may be gone on from.

use df2redis::target::{Conflict, Control, ErrorPolicy, Fence, Ownership, Stored, TargetError};

use super::{
    Following, POSITION, fenced, follow, follow_over, stable, taken, taken_position, with_claim,
};
use crate::ownership::{owned, wanted};
use crate::server::{Server, drive_once, entry, record, settled};

#[tokio::test]
async fn the_position_moves_with_the_writes_it_covers() {
    let server = Server::start();
    let Following { mut writer, .. } = follow(&server).await;
    for round in 1..=5u64 {
        for lsn in (round - 1) * 700..round * 700 {
            entry(&mut writer, lsn, &["INCR", "n"]);
        }
        settled(&mut writer).await;
        assert_eq!(writer.stored(), Some(round * 700));
        assert_eq!(taken_position(&server), round * 700);
    }
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 3_500);
}

#[tokio::test]
async fn at_every_moment_the_position_tells_how_often_was_counted() {
    let server = Server::start();
    let Following { mut writer, .. } = follow(&server).await;
    let () = server.ask(&["SET", "n", "0"]);
    let mut reader = server.redis.client();
    let mut seen = std::collections::BTreeSet::new();
    for lsn in 0..5_000u64 {
        entry(&mut writer, lsn, &["INCR", "n"]);
        if lsn % 7 == 0 {
            drive_once(&mut writer).await;
            tokio::task::yield_now().await;
        }
        if lsn % 11 == 0 {
            reader.ok(&["MULTI"]);
            reader.ok(&["GET", "n"]);
            reader.ok(&["HGET", POSITION, "lsn:0"]);
            let both = reader.ok(&["EXEC"]);
            let both: Vec<_> = both.items().iter().map(|item| item.text()).collect();
            assert_eq!(both[0], both[1]);
            seen.insert(both[0].clone());
        }
    }
    settled(&mut writer).await;
    assert!(seen.len() > 20, "it was looked at while it moved: {seen:?}");
}

#[tokio::test]
async fn a_position_without_a_command_is_stored_when_asked_for_and_once() {
    let server = Server::start();
    let Following { mut writer, .. } = follow(&server).await;
    let stores = || -> String { server.ask(&["INFO", "commandstats"]) };
    let count = |text: String| -> u64 {
        let line = text.split("cmdstat_hset:calls=").nth(1).unwrap();
        line.split(',').next().unwrap().parse().unwrap()
    };
    let before = count(stores());
    writer.mark(5);
    assert_eq!(
        (writer.applied(), writer.stored()),
        (Some(5), Some(0)),
        "applied, and not stored"
    );
    assert!(writer.is_settled());
    for _ in 0..3 {
        writer.store();
    }
    settled(&mut writer).await;
    writer.store();
    assert!(writer.is_settled());
    assert_eq!(taken_position(&server), 5);
    assert_eq!(count(stores()), before + 1);
    // Behind records it goes with them.
    record(&mut writer, "k", "v");
    writer.mark(9);
    writer.store();
    entry(&mut writer, 9, &["INCR", "n"]);
    settled(&mut writer).await;
    assert_eq!(taken_position(&server), 10);
    assert_eq!(count(stores()), before + 2);
}

#[tokio::test]
async fn positions_do_not_outlive_the_claim_they_belong_to() {
    let server = Server::start();
    let settings = server.settings();
    let mut control = Control::connect(&settings).await.unwrap();
    for (mapping, same, expected) in [
        ("0=0", true, stable(&[0])),
        ("0=0", true, stable(&[0])),
        ("0=1", false, Stored::Snapshot),
    ] {
        if server.ask::<u64>(&["EXISTS", POSITION]) == 0 {
            let mut wanted = wanted(owned(&[0], "*"), Conflict::Overwrite);
            wanted.mapping = mapping.to_owned();
            let establishing = Ownership::establish(&mut control, &settings, wanted, 1);
            establishing.await.unwrap();
            follow_over(&server, &settings, ErrorPolicy::Stop).await;
        }
        let mut wanted = wanted(owned(&[0], "*"), Conflict::Overwrite);
        wanted.mapping = mapping.to_owned();
        let establishing = Ownership::establish(&mut control, &settings, wanted, 1);
        assert_eq!(establishing.await.unwrap().is_same_mapping(), same);
        assert_eq!(taken(&server).await.1, expected);
    }
}

#[tokio::test]
async fn a_position_that_is_not_the_one_that_was_read_is_not_gone_on_from() {
    let server = Server::start();
    for (stored, what) in [
        (Some(7), "the position of flow 0 is 0, and 7 was stored"),
        (None, "the position of flow 0 is 0, and none was stored"),
    ] {
        let Following { fence, .. } = follow(&server).await;
        let mut writer = fenced(&server.settings(), &fence, 0, stored, ErrorPolicy::Stop)
            .await
            .unwrap();
        entry(&mut writer, 7, &["INCR", "n"]);
        let error = writer.settle().await.unwrap_err();
        assert!(
            matches!(&error, TargetError::Vanished { what: seen, .. } if seen == what),
            "{error}"
        );
        assert_eq!(server.ask::<u64>(&["EXISTS", "n"]), 0);
    }
}

/// The record, without taking the fence.
fn recorded(fields: &[String]) -> Stored {
    let pairs = fields.chunks(2);
    let pairs = pairs.map(|pair| (pair[0].clone(), pair[1].clone()));
    Stored::read(&pairs.collect()).unwrap()
}

#[tokio::test]
async fn a_record_tells_how_far_a_full_sync_has_come() {
    let server = Server::start();
    assert_eq!(taken(&server).await.1, Stored::Nothing);
    with_claim(&server);
    let settings = server.settings();
    let mut control = Control::connect(&settings).await.unwrap();
    let fence = Fence::take(&mut control, &settings).await.unwrap().fence;
    let of = Some(("master", 3));
    fence
        .begin_snapshot(&mut control, of, false, 1)
        .await
        .unwrap();
    let stored = |server: &Server| -> Vec<String> { server.ask(&["HGETALL", POSITION]) };
    let mut writers = Vec::new();
    for flow in 0..3 {
        let writer = fenced(&settings, &fence, flow, None, ErrorPolicy::Stop).await;
        writers.push(writer.unwrap());
    }
    for (writer, base) in writers.iter_mut().zip([10, 20, 30]) {
        record(writer, "k", "v");
        writer.mark(base);
        writer.store();
        assert_eq!(recorded(&stored(&server)), Stored::Snapshot);
        settled(writer).await;
        assert_eq!(writer.stored(), Some(base));
    }
    assert!(stored(&server).contains(&"snapshot".to_owned()));
    assert_eq!(
        recorded(&stored(&server)),
        Stored::Copied {
            replication_id: "master".to_owned(),
            lsns: vec![10, 20, 30]
        }
    );
    fence
        .begin_stable(&mut control, "master", 3, 2)
        .await
        .unwrap();
    entry(&mut writers[1], 20, &["INCR", "n"]);
    settled(&mut writers[1]).await;
    fence
        .move_all(&mut control, &[(0, 11), (1, 22), (2, 33)])
        .await
        .unwrap();
    for (writer, next) in writers.iter_mut().zip([11, 22, 33]) {
        writer.stands_at(next);
        writer.store();
        entry(writer, next, &["INCR", "n"]);
        settled(writer).await;
        assert_eq!(writer.applied(), Some(next + 1));
    }
    let (fence, all, _) = taken(&server).await;
    assert_eq!(all, stable(&[12, 23, 34]));
    assert_eq!(server.ask::<u64>(&["GET", "n"]), 4);
    // The next full sync begins with nothing.
    fence
        .begin_snapshot(&mut control, None, false, 3)
        .await
        .unwrap();
    assert!(
        !stored(&server)
            .iter()
            .any(|field| field.starts_with("lsn:"))
    );
    assert_eq!(taken(&server).await.1, Stored::Snapshot);
    let () = server.ask(&["HSET", POSITION, "format", "9"]);
    let error = Fence::take(&mut control, &settings).await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Record { what, .. } if what.contains("\"9\"")),
        "{error}"
    );
}
