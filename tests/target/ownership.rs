//! Claims, conflicts, foreign keys and flushes on a real server.

use df2redis::target::{
    Conflict, Control, ErrorPolicy, Fence, Kind, Owned, Ownership, Passed, Settings, TargetError,
    Tolerate, Wanted,
};

use crate::server::{Server, push, settled};

pub fn owned(databases: &[u32], pattern: &str) -> Owned {
    let prefix = pattern.trim_end_matches('*').as_bytes().to_vec();
    Owned {
        databases: databases.to_vec(),
        include: vec![pattern.as_bytes().to_vec()],
        exclude: Vec::new(),
        matches: Box::new(move |key| key.starts_with(&prefix)),
    }
}

pub fn wanted(owned: Owned, conflict: Conflict) -> Wanted {
    Wanted {
        mapping: String::new(),
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
    ownership
        .flush(&mut control, None, None, &Passed::default())
        .await
        .unwrap();
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
    ownership
        .flush(&mut control, None, Some(2), &Passed::default())
        .await
        .unwrap();
    assert!(!flushes().contains("cmdstat_flushdb"), "records are there");
    assert_eq!(server.ask_in::<u64>(2, &["DBSIZE"]), 1);
    assert_eq!(server.ask_in::<u64>(1, &["DBSIZE"]), 1_500);
    ownership
        .flush(&mut control, None, None, &Passed::default())
        .await
        .unwrap();
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
        .flush_slots(&mut control, None, &[12_000..=12_200], &Passed::default())
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
async fn a_process_that_lost_the_fence_deletes_nothing() {
    let server = Server::start();
    for exclusive in [true, false] {
        let () = server.ask(&["FLUSHALL"]);
        let pattern = if exclusive { "*" } else { "a:*" };
        let what = wanted(owned(&[0, 1], pattern), Conflict::Overwrite);
        let (mut control, ownership) = establish(&server, "test", what).await.unwrap();
        let settings = server.settings();
        let first = Fence::take(&mut control, &settings).await.unwrap().fence;
        for db in 0..2 {
            for n in 0..1_500 {
                let () = server.ask_in(db, &["SET", &format!("a:{n}"), "x"]);
            }
        }
        let records = server.ask::<u64>(&["DBSIZE"]) - 1_500;
        let second = Fence::take(&mut control, &settings).await.unwrap().fence;
        let error = ownership
            .flush(&mut control, Some(&first), None, &Passed::default())
            .await
            .unwrap_err();
        assert!(matches!(error, TargetError::TakenOver { .. }), "{error}");
        let error = ownership
            .flush_slots(
                &mut control,
                Some(&first),
                &[0..=16_383],
                &Passed::default(),
            )
            .await
            .unwrap_err();
        assert!(matches!(error, TargetError::TakenOver { .. }), "{error}");
        for db in 0..2 {
            assert!(server.ask_in::<u64>(db, &["DBSIZE"]) >= 1_500);
        }
        ownership
            .flush(&mut control, Some(&second), None, &Passed::default())
            .await
            .unwrap();
        second
            .move_all(&mut control, &[(0, 5), (1, 6)])
            .await
            .unwrap();
        assert_eq!(server.ask_in::<u64>(1, &["DBSIZE"]), 0);
        assert_eq!(server.ask::<u64>(&["DBSIZE"]), records);
        let position = "df2redis:position:test";
        let moved: Vec<u64> = server.ask(&["HMGET", position, "lsn:0", "lsn:1"]);
        assert_eq!(moved, [5, 6]);
    }
}
