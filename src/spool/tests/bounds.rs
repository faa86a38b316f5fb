//! How much there may be on disk, and what happens when there is no room.

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;

use super::batches::{journal, part};
use super::*;

/// Pushes entries of 10,000 bytes until there is no room, which is said why. The next entry.
async fn fill(inlet: &mut Inlet, mut lsn: u64) -> (u64, super::super::Full) {
    loop {
        let pushed = inlet.push(journal(lsn, 1, 10_000)).await;
        lsn += 1;
        match pushed {
            Ok(()) => assert!(lsn < 20_000, "it is never full"),
            Err(PushError::Full(full)) => return (lsn, full),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn drain(outlet: &mut Outlet, from: u64, to: u64) {
    for expected in from..to {
        let batch = outlet.next().await.unwrap().unwrap();
        assert_eq!(lsns(&batch), [expected]);
        outlet.applied(expected + 1);
    }
}

#[tokio::test]
async fn a_full_spool_says_so_in_numbers_keeps_the_batch_and_goes_on_when_entries_are_applied() {
    let (_dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    let (next, full) = fill(&mut inlet, 1).await;
    assert!(next > 600, "8 MiB hold more than {next} entries");
    assert!(
        full.used + full.needed > full.max_size && full.used <= full.max_size,
        "{full:?}"
    );
    assert_eq!(full.max_size, 8 << 20);
    assert!(inlet.flush().await.is_err(), "still full");
    assert!(inlet.is_staged());
    eventually("all is written", || spool.status().queued == 0);
    assert!(spool.status().bytes <= 8 << 20);
    drain(&mut outlet, 1, 200).await;
    // What was applied is kept no longer than there is need for its room.
    inlet.flush().await.unwrap();
    assert!(!inlet.is_staged());
    let (next, _) = fill(&mut inlet, next).await;
    drain(&mut outlet, 200, next - 1).await;
    inlet.flush().await.unwrap();
    drain(&mut outlet, next - 1, next).await;
}

#[tokio::test]
async fn what_has_to_be_left_free_is_left_free() {
    let (_dir, spool) = spool(Settings {
        min_free: 1 << 20,
        ..small()
    });
    let (mut inlet, mut outlet) = both(&spool, 0);
    spool.faults().set_capacity(3 << 20);
    eventually("the file system is looked at", || {
        spool.status().free < 3 << 20
    });
    let mut lsn = 1;
    let full = loop {
        let pushed = inlet.push(journal(lsn, 1, 100_000)).await;
        lsn += 1;
        match pushed {
            Ok(()) => assert!(lsn < 1000),
            Err(PushError::Full(full)) => break full,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(full.free < (1 << 20) + full.needed, "{full}");
    assert_eq!(full.min_free, 1 << 20);
    assert!(lsn > 10, "there was room for some");
    eventually("all is written", || spool.status().queued == 0);
    let free = spool.status().free;
    assert!(free >= 1 << 20, "{free} bytes are left");
    spool.faults().set_capacity(1 << 30);
    while inlet.flush().await.is_err() {
        inlet.room().await;
    }
    drain(&mut outlet, 1, lsn).await;
}

#[tokio::test]
async fn a_refusing_system_is_a_full_spool_and_nothing_is_lost_or_written_twice() {
    for errno in [libc::ENOSPC, libc::EDQUOT] {
        let (dir, spool) = spool(small());
        let (mut inlet, mut outlet) = both(&spool, 0);
        inlet.push(journal(1, 1, 10)).await.unwrap();
        assert!(inlet.on_disk().unwrap().reached(2).await);
        spool.faults().fail_writing(Some(errno));
        inlet.push(journal(2, 1, 10)).await.unwrap();
        eventually("the system refuses", || spool.status().refused);
        let error = inlet.push(journal(3, 1, 10)).await.unwrap_err();
        assert!(
            matches!(&error, PushError::Full(full) if full.refused),
            "{error}"
        );
        assert_eq!(inlet.on_disk().unwrap().get(), 2);
        spool.faults().fail_writing(None);
        while inlet.flush().await.is_err() {
            inlet.room().await;
        }
        assert!(inlet.on_disk().unwrap().reached(4).await);
        assert!(!spool.status().refused);
        drain(&mut outlet, 1, 4).await;
        drop((inlet, outlet, spool));
        let (spool, recovered) = resume(dir.path(), small());
        assert_eq!(recovered[0].runs, vec![1..4]);
        let mut outlet = spool.outlet(0).unwrap();
        outlet.read_from(1).unwrap();
        drain(&mut outlet, 1, 4).await;
    }
}

#[tokio::test]
async fn a_flow_that_is_emptied_while_the_system_refuses_does_not_leave_the_spool_full() {
    let (_dir, spool) = spool(small());
    let mut inlet = spool.inlet(0).unwrap();
    spool.faults().fail_writing(Some(libc::ENOSPC));
    inlet.push(journal(1, 1, 10)).await.unwrap();
    eventually("the system refuses", || spool.status().refused);
    drop(inlet);
    spool.forget(0).unwrap();
    spool.faults().fail_writing(None);
    let mut inlet = spool.inlet(0).unwrap();
    let mut pushed = inlet.push(journal(5, 1, 10)).await;
    while pushed.is_err() {
        inlet.room().await;
        pushed = inlet.flush().await;
    }
    assert!(inlet.on_disk().unwrap().reached(6).await);
    assert_eq!(spool.status().queued, 0);
}

#[test]
fn no_more_than_256_mib_are_kept_over_all_flows_and_the_oldest_go_first() {
    use super::super::flow::{Flow, Segment};
    use super::super::record::Kind;
    use super::super::segment::SegmentFile;
    let (dir, spool) = spool(settings());
    let mut state = spool.shared.lock();
    let now = std::time::Instant::now();
    for flow in 0..2 {
        let mut full = Flow::new(1, 0);
        for number in 0..4 {
            let named = SegmentFile::new(dir.path(), flow as u32, number, Kind::Journal);
            full.segments.push_back(Segment {
                named: std::sync::Arc::new(named),
                first: number,
                next: number + 1,
                end: 0,
                bytes: 50 << 20,
                records: 1,
                received_at_ms: 0,
                applied_at: Some(now + Duration::from_millis(10 * number + flow as u64)),
            });
        }
        state.flows[flow] = full;
    }
    spool.shared.expire(&mut state);
    let left = state
        .flows
        .iter()
        .map(|flow| flow.segments.front().unwrap().first);
    assert_eq!(left.collect::<Vec<_>>(), [2, 1], "three of eight are gone");
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_ends_the_spool_with_its_reason() {
    let (_dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    spool.faults().fail_writing(Some(libc::EIO));
    inlet.push(journal(1, 1, 10)).await.unwrap();
    eventually("it fails", || spool.status().failed.is_some());
    let error = inlet.push(journal(2, 1, 10)).await.unwrap_err();
    let PushError::Failed(cause) = error else {
        panic!("{error}");
    };
    assert_eq!(cause.raw_os_error(), Some(libc::EIO));
    drain(&mut outlet, 1, 2).await;
    assert!(spool.finish().is_err());
}

#[tokio::test]
async fn entries_count_only_when_they_are_on_the_device_if_so_asked() {
    let (_dir, spool) = spool(Settings {
        sync: Durability::Always,
        ..small()
    });
    let (mut inlet, mut outlet) = both(&spool, 0);
    inlet.push(journal(1, 1, 10)).await.unwrap();
    assert!(inlet.on_disk().unwrap().reached(2).await);
    spool.faults().fail_syncing(Some(libc::ENOSPC));
    inlet.push(journal(2, 1, 10)).await.unwrap();
    eventually("it fails", || spool.status().failed.is_some());
    assert_eq!(inlet.on_disk().unwrap().get(), 2);
    drain(&mut outlet, 1, 3).await;
}

#[tokio::test]
async fn what_is_written_is_put_on_the_device_in_the_background() {
    let (_dir, spool) = spool(Settings {
        sync: Durability::Interval,
        ..small()
    });
    let mut inlet = spool.inlet(0).unwrap();
    inlet.push(journal(1, 1, 10)).await.unwrap();
    assert!(
        inlet.on_disk().unwrap().reached(2).await,
        "it counts when it is written"
    );
    eventually("a pass has been made", || spool.faults().synced() > 0);
    spool.faults().fail_syncing(Some(libc::EIO));
    inlet.push(journal(2, 1, 10)).await.unwrap();
    eventually("a pass that fails ends the spool", || {
        spool.status().failed.is_some()
    });
    assert!(spool.finish().is_err());
}

#[tokio::test]
async fn applied_segments_are_kept_for_a_while_and_what_is_not_applied_for_ever() {
    let (dir, spool) = spool(Settings {
        keep: Duration::from_millis(300),
        ..small()
    });
    let (mut inlet, mut outlet) = both(&spool, 0);
    for lsn in 1..500 {
        inlet.push(journal(lsn, 1, 10_000)).await.unwrap();
    }
    drain(&mut outlet, 1, 250).await;
    let applied = std::time::Instant::now();
    assert!(inlet.on_disk().unwrap().reached(500).await);
    let kept = spool.status().flows[0].kept;
    if applied.elapsed() < Duration::from_millis(300) {
        assert!(kept > 1 << 20, "{kept} bytes are kept");
    }
    eventually("they are removed", || spool.status().flows[0].kept == 0);
    drain(&mut outlet, 250, 260).await;
    assert!(outlet.read_from(1).is_err());
    outlet.read_from(260).unwrap();
    drain(&mut outlet, 260, 500).await;
    eventually("and these", || spool.status().flows[0].kept == 0);
    let left = spool.status().bytes;
    assert!(left < 1 << 20, "{left} bytes are left");
    let on_disk = || {
        let files = std::fs::read_dir(dir.path()).unwrap();
        // A file may be removed meanwhile.
        let lengths = files.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        lengths.sum::<u64>()
            - std::fs::metadata(dir.path().join("identity"))
                .unwrap()
                .len()
    };
    eventually("what is counted is what is there", || on_disk() == left);
}

#[tokio::test]
async fn a_target_that_comes_back_older_is_served_from_what_was_kept() {
    let (_dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    for lsn in 1..300 {
        inlet.push(journal(lsn, 1, 10_000)).await.unwrap();
    }
    drain(&mut outlet, 1, 300).await;
    assert!(inlet.on_disk().unwrap().reached(300).await);
    assert_eq!(spool.status().flows[0].oldest_ms, None);
    outlet.read_from(40).unwrap();
    assert!(spool.status().flows[0].oldest_ms.is_some());
    drain(&mut outlet, 40, 300).await;
}

#[tokio::test]
async fn batches_queue_in_memory_while_the_disk_stalls_and_then_the_inlet_waits() {
    let (_dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    spool.faults().stall(true);
    let pushed = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = pushed.clone();
    let pushing = tokio::spawn(async move {
        for lsn in 1..100 {
            inlet.push(journal(lsn, 1, 1000)).await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    // The outlet gets what there is at once, whatever the disk does.
    drain(&mut outlet, 1, 10).await;
    let memory = small().memory as usize;
    let waits = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = pushed.load(Ordering::Relaxed);
            if now == before {
                break now;
            }
            before = now;
        }
    };
    let queued = waits.await;
    assert!((10..memory / 1000).contains(&queued), "{queued} batches");
    spool.faults().stall(false);
    drain(&mut outlet, 10, 100).await;
    pushing.await.unwrap();
}

#[tokio::test]
async fn batches_pass_a_full_disk_through_memory_and_a_new_run_begins_behind_them() {
    let (dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    inlet.push(journal(1, 2, 10)).await.unwrap();
    spool.faults().fail_writing(Some(libc::ENOSPC));
    inlet.push(journal(3, 1, 10)).await.unwrap();
    eventually("the system refuses", || spool.status().refused);
    for lsn in 4..50 {
        assert!(inlet.push(journal(lsn, 1, 3000)).await.is_err());
        let passing = async { inlet.pass().await.unwrap() };
        // It waits for memory, so the outlet has to go on.
        let taking = async {
            let batch = outlet.next().await.unwrap().unwrap();
            assert!(!lsns(&batch).is_empty());
        };
        tokio::join!(passing, taking);
    }
    while inlet.next_lsn() != outlet_level(&spool) {
        let batch = outlet.next().await.unwrap().unwrap();
        outlet.applied(lsns(&batch).last().unwrap() + 1);
    }
    assert!(outlet.read_from(3).is_err(), "there is a gap behind it");
    spool.faults().fail_writing(None);
    while let Err(error) = inlet.push(journal(50, 1, 10)).await {
        assert!(matches!(error, PushError::Full(_)), "{error}");
        inlet.room().await;
        if inlet.flush().await.is_ok() {
            break;
        }
    }
    inlet.push(journal(51, 1, 10)).await.unwrap();
    assert!(inlet.on_disk().unwrap().reached(52).await);
    drain(&mut outlet, 50, 52).await;
    drop((inlet, outlet));
    spool.finish().unwrap();
    let (_spool, recovered) = resume(dir.path(), small());
    assert_eq!(recovered[0].runs, vec![50..52]);
}

/// The LSN up to which the outlet was told that all is applied.
fn outlet_level(spool: &Spool) -> Option<u64> {
    Some(spool.status().flows[0].applied)
}

#[tokio::test]
async fn a_full_spool_takes_no_overflow_either_until_some_is_read() {
    let (_dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 1);
    let mut number = 0;
    while inlet.push(part(number, 20_000)).await.is_ok() {
        number += 1;
        assert!(number < 10_000, "it is never full");
    }
    assert!(number > 300, "{number} parts in 8 MiB");
    for _ in 0..100 {
        outlet.next().await.unwrap().unwrap();
    }
    while inlet.flush().await.is_err() {
        inlet.room().await;
    }
    for _ in 100..=number {
        outlet.next().await.unwrap().unwrap();
    }
    eventually("nothing is left", || spool.status().bytes == 0);
}

#[tokio::test]
async fn a_dropped_spool_ends_what_was_given_out() {
    let (_dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    inlet.push(journal(1, 1, 10)).await.unwrap();
    drop(spool);
    drain(&mut outlet, 1, 2).await;
    assert!(matches!(
        inlet.push(journal(2, 1, 10)).await,
        Err(PushError::Failed(_))
    ));
    drop(inlet);
    assert!(outlet.next().await.unwrap().is_none());
}
