//! What goes in comes out, in order, whichever way it takes.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::batches::{
    Flat, Sketch, batch_of, flat, journal, journal_sketches, part, snapshot_sketches,
};
use super::*;
use crate::entry::Item;

#[tokio::test]
async fn what_goes_in_comes_out_and_is_on_disk_as_well() {
    let (dir, spool) = spool(settings());
    let (mut inlet, mut outlet) = both(&spool, 1);
    let batch = journal(7, 3, 20);
    let expected = flat(&batch);
    inlet.push(batch).await.unwrap();
    let batch = outlet.next().await.unwrap().unwrap();
    assert_eq!(flat(&batch), expected);
    assert_eq!(spool.status().read_records, 0, "it came through memory");
    assert!(inlet.on_disk().unwrap().reached(10).await);
    drop((inlet, batch));
    assert!(outlet.next().await.unwrap().is_none());
    drop((outlet, spool));
    let (spool, recovered) = resume(dir.path(), settings());
    assert_eq!(recovered[1].runs, vec![7..10]);
    let (inlet, mut outlet) = both(&spool, 1);
    outlet.read_from(8).unwrap();
    assert_eq!(inlet.next_lsn(), Some(10));
    let batch = outlet.next().await.unwrap().unwrap();
    assert_eq!(flat(&batch), expected[1..]);
    drop(inlet);
    assert!(outlet.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_slow_outlet_reads_from_disk_and_gets_memory_back_when_it_is_level() {
    let (_dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    let mut lsn = 1;
    while !spool.status().flows[0].disk_mode {
        inlet.push(journal(lsn, 1, 5000)).await.unwrap();
        lsn += 1;
    }
    for _ in 0..200 {
        inlet.push(journal(lsn, 1, 5000)).await.unwrap();
        lsn += 1;
    }
    for expected in 1..lsn {
        let batch = outlet.next().await.unwrap().unwrap();
        assert_eq!(flat(&batch)[0].lsn(), Some(expected));
    }
    let read = spool.status().read_records;
    assert!(read >= 100, "{read} records were read from disk");
    assert!(!spool.status().flows[0].disk_mode);
    inlet.push(journal(lsn, 1, 5000)).await.unwrap();
    outlet.next().await.unwrap().unwrap();
    assert_eq!(spool.status().read_records, read, "memory again");
}

#[tokio::test]
async fn a_snapshot_is_not_written_while_memory_holds_it_and_its_overflow_is_removed_when_read() {
    let (dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    inlet.push(part(0, 100)).await.unwrap();
    assert_eq!(flat(&outlet.next().await.unwrap().unwrap()).len(), 1);
    for number in 1..400 {
        inlet.push(part(number, 3000)).await.unwrap();
    }
    assert_eq!(spool.status().flows[0].records, 0, "no journal");
    assert!(spool.status().flows[0].disk_mode);
    for number in 1..400 {
        let batch = outlet.next().await.unwrap().unwrap();
        let key = format!("key:{number}").into_bytes();
        assert!(matches!(&flat(&batch)[0], Flat::Record(_, _, _, _, _, found, _) if *found == key));
    }
    assert!(spool.status().read_records > 300);
    assert_eq!(spool.status().bytes, 0);
    let mut batch = journal(9, 2, 10);
    batch.items.insert(0, Item::SnapshotEnd);
    batch.items.insert(1, Item::Stable { next: 9 });
    inlet.push(batch).await.unwrap();
    let ended = outlet.next().await.unwrap().unwrap();
    assert_eq!(flat(&ended), [Flat::SnapshotEnd, Flat::Stable(9)]);
    let first = outlet.next().await.unwrap().unwrap();
    assert_eq!(flat(&first), flat(&journal(9, 2, 10)));
    assert!(inlet.on_disk().unwrap().reached(11).await);
    eventually("overflow files are removed", || {
        !names(dir.path()).contains("overflow")
    });
}

#[tokio::test]
async fn a_batch_that_does_not_go_on_where_the_flow_is_is_refused() {
    let (_dir, spool) = spool(settings());
    let (mut inlet, _outlet) = both(&spool, 0);
    inlet.push(journal(5, 2, 10)).await.unwrap();
    let error = inlet.push(journal(8, 1, 10)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "flow 0 goes on with the entry 8, the spool with 7"
    );
    drop(inlet);
    let mut inlet = spool.inlet(0).unwrap();
    assert!(
        inlet.push(journal(6, 1, 10)).await.is_err(),
        "not twice either"
    );
    drop(inlet);
    let mut inlet = spool.inlet(0).unwrap();
    let mut torn = journal(7, 3, 10);
    torn.items.remove(1);
    let error = inlet.push(torn).await.unwrap_err();
    assert!(matches!(error, PushError::Malformed { .. }), "{error}");
    drop(inlet);
    let mut inlet = spool.inlet(0).unwrap();
    let error = inlet.push(part(0, 1)).await.unwrap_err();
    assert!(
        matches!(error, PushError::Unplaced { flow: 0 }),
        "a snapshot into a journal: {error}"
    );
    drop(inlet);
    spool
        .inlet(0)
        .unwrap()
        .push(journal(7, 1, 10))
        .await
        .unwrap();
}

#[tokio::test]
async fn inlets_and_outlets_are_given_out_one_at_a_time() {
    let (_dir, spool) = spool(settings());
    let inlet = spool.inlet(0).unwrap();
    let outlet = spool.outlet(0).unwrap();
    assert!(spool.inlet(0).is_err() && spool.outlet(0).is_err() && spool.forget(0).is_err());
    assert!(spool.inlet(2).is_err(), "there are two flows");
    drop((inlet, outlet));
    spool.forget(0).unwrap();
    assert!(spool.inlet(0).is_ok() && spool.outlet(0).is_ok());
}

#[tokio::test]
async fn a_flow_that_is_emptied_begins_anew_with_a_snapshot() {
    let (dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    for lsn in 0..100 {
        inlet.push(journal(100 + lsn, 1, 5000)).await.unwrap();
    }
    outlet.next().await.unwrap();
    let mut on_disk = inlet.on_disk().unwrap();
    drop((inlet, outlet));
    spool.forget(0).unwrap();
    assert!(
        !on_disk.reached(u64::MAX).await,
        "what it stood for is gone"
    );
    let (mut inlet, mut outlet) = both(&spool, 0);
    inlet.push(part(0, 5)).await.unwrap();
    assert!(matches!(
        flat(&outlet.next().await.unwrap().unwrap())[0],
        Flat::Record(..)
    ));
    let mut stable = part(1, 5);
    stable.items.push(Item::Stable { next: 3 });
    inlet.push(stable).await.unwrap();
    inlet.push(journal(3, 1, 5)).await.unwrap();
    outlet.next().await.unwrap().unwrap();
    assert_eq!(
        flat(&outlet.next().await.unwrap().unwrap())[0].lsn(),
        Some(3)
    );
    assert!(inlet.on_disk().unwrap().reached(4).await);
    drop((inlet, outlet));
    spool.finish().unwrap();
    let (_spool, recovered) = resume(dir.path(), small());
    assert_eq!(recovered[0].runs, vec![3..4]);
}

#[tokio::test]
async fn an_outlet_starts_again_at_any_entry_that_is_kept_even_at_one_that_is_still_being_written()
{
    let (_dir, spool) = spool(settings());
    let (mut inlet, mut outlet) = both(&spool, 0);
    for first in 0..10 {
        inlet.push(journal(10 + 3 * first, 3, 50)).await.unwrap();
    }
    assert!(inlet.on_disk().unwrap().reached(40).await);
    spool.faults().stall(true);
    for first in 10..20 {
        inlet.push(journal(10 + 3 * first, 3, 50)).await.unwrap();
    }
    for _ in 0..15 {
        outlet.next().await.unwrap().unwrap();
    }
    outlet.applied(55);
    for from in [10, 11, 39, 40, 41, 55, 69, 70] {
        outlet.read_from(from).unwrap();
        assert_eq!(spool.status().flows[0].applied, from);
    }
    let error = outlet.read_from(9).unwrap_err();
    assert_eq!(
        error.to_string(),
        "flow 0 of the spool does not hold the entry 9: it holds 10 to 70"
    );
    assert!(outlet.read_from(71).is_err());
    outlet.read_from(38).unwrap();
    let batch = outlet.next().await.unwrap().unwrap();
    assert_eq!(lsns(&batch), [38, 39]);
    spool.faults().stall(false);
    let mut seen = Vec::new();
    while seen.last() != Some(&69) {
        seen.extend(lsns(&outlet.next().await.unwrap().unwrap()));
    }
    assert_eq!(seen, (40..70).collect::<Vec<_>>());
    outlet.read_from(41).unwrap();
    drop(outlet);
    drop(inlet);
    let mut outlet = spool.outlet(0).unwrap();
    outlet.read_from(41).unwrap();
    let mut seen = Vec::new();
    while let Some(batch) = outlet.next().await.unwrap() {
        seen.extend(lsns(&batch));
    }
    assert_eq!(seen, (41..70).collect::<Vec<_>>());
}

#[tokio::test]
async fn nothing_is_lost_when_pushing_and_taking_are_cancelled() {
    let (_dir, spool) = spool(small());
    let (mut inlet, mut outlet) = both(&spool, 0);
    let mut seen = Vec::new();
    let mut cancelled = 0;
    for lsn in 1..200 {
        spool.faults().stall(lsn % 20 < 12);
        let push = inlet.push(journal(lsn, 1, 3000));
        // Polled once, then dropped.
        match push.now_or_never() {
            Some(pushed) => pushed.unwrap(),
            None => cancelled += usize::from(inlet.is_staged()),
        }
        if lsn % 3 == 0
            && let Some(next) = outlet.next().now_or_never()
        {
            seen.extend(lsns(&next.unwrap().unwrap()));
        }
    }
    spool.faults().stall(false);
    assert!(cancelled > 0, "the disk was stalled and memory was used up");
    inlet.flush().await.unwrap();
    drop(inlet);
    while let Some(batch) = outlet.next().await.unwrap() {
        seen.extend(lsns(&batch));
    }
    assert_eq!(seen, (1..200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_under_a_consumer_that_is_fast_and_slow_by_turns() {
    let (_dir, spool) = spool(Settings {
        memory: 256 << 10,
        ..settings()
    });
    const ENTRIES: u64 = 6000;
    let (mut inlet, mut outlet) = both(&spool, 0);
    let on_disk = inlet.on_disk().unwrap();
    let pushing = tokio::spawn(async move {
        for lsn in 1..ENTRIES {
            let size = (lsn * 7919 % 4000) as usize;
            inlet.push(journal(lsn, 1, size)).await.unwrap();
            if lsn % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    let mut expected = 1;
    let mut switches = 0;
    let mut was = false;
    while let Some(batch) = outlet.next().await.unwrap() {
        assert_eq!(flat(&batch)[0].lsn(), Some(expected));
        expected += 1;
        let behind = spool.status().flows[0].disk_mode;
        switches += u32::from(behind != was);
        was = behind;
        if expected % 1000 < 10 {
            // Slow until the inlet has gone ahead, if it still can.
            let far = expected + 300;
            let mut on_disk = on_disk.clone();
            if far < ENTRIES {
                assert!(on_disk.reached(far).await);
            }
        }
    }
    pushing.await.unwrap();
    assert_eq!(expected, ENTRIES);
    assert!(switches >= 4, "{switches} switches between memory and disk");
    assert!(spool.status().read_records > 0);
}

/// What happens to a flow.
#[derive(Debug, Clone)]
enum Step {
    Push(Vec<Sketch>, usize),
    Take(usize),
    /// Everything is written.
    Settle,
    Stall(bool),
}

fn steps(sketches: BoxedStrategy<Vec<Sketch>>) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (sketches, 0_usize..6).prop_map(|(items, times)| Step::Push(items, times)),
        3 => (0_usize..20).prop_map(Step::Take),
        1 => Just(Step::Settle),
        1 => any::<bool>().prop_map(Step::Stall),
    ];
    prop::collection::vec(step, 1..40)
}

/// Takes what is there, at most `most`.
async fn take(outlet: &mut Outlet, most: usize, left: &mut usize, seen: &mut Vec<Flat>) {
    for _ in 0..most.min(*left) {
        let batch = outlet.next().await.unwrap().unwrap();
        seen.extend(flat(&batch));
        *left -= 1;
    }
}

async fn walk(snapshot: Vec<Step>, stable: Vec<Step>) {
    let (dir, spool) = spool(Settings {
        memory: 16 << 10,
        ..settings()
    });
    let (mut inlet, mut outlet) = both(&spool, 0);
    let (mut pushed, mut seen, mut left) = (Vec::new(), Vec::new(), 0);
    let (mut lsn, mut journal) = (1000, Vec::new());
    let phases = [(snapshot, false), (stable, true)];
    for (steps, counted) in phases {
        for step in steps {
            match step {
                Step::Push(items, times) => {
                    for _ in 0..times {
                        let batch = batch_of(&items, counted.then_some(lsn));
                        let flat = flat(&batch);
                        if counted {
                            lsn += items.len() as u64;
                            journal.extend(flat.clone());
                        }
                        pushed.extend(flat);
                        // A stalled disk lets as much in as memory holds.
                        let pushing = inlet.push(batch);
                        tokio::pin!(pushing);
                        if (&mut pushing).now_or_never().is_none() {
                            spool.faults().stall(false);
                            pushing.await.unwrap();
                        }
                        left += 1;
                    }
                }
                Step::Take(most) => {
                    spool.faults().stall(false);
                    take(&mut outlet, most, &mut left, &mut seen).await;
                }
                Step::Settle => {
                    spool.faults().stall(false);
                    if counted {
                        assert!(inlet.on_disk().unwrap().reached(lsn).await);
                    }
                }
                Step::Stall(stalled) => spool.faults().stall(stalled),
            }
        }
        if !counted {
            spool.faults().stall(false);
            let mut end = batch_of(&[Sketch::SnapshotEnd], None);
            end.items.push(Item::Stable { next: lsn });
            pushed.extend(flat(&end));
            inlet.push(end).await.unwrap();
            left += 1;
        }
    }
    spool.faults().stall(false);
    assert!(inlet.on_disk().unwrap().reached(lsn).await);
    drop(inlet);
    while let Some(batch) = outlet.next().await.unwrap() {
        seen.extend(flat(&batch));
    }
    assert_eq!(seen, pushed);
    drop((outlet, spool));
    let (spool, recovered) = resume(dir.path(), settings());
    let runs: Vec<_> = (lsn > 1000).then_some(1000..lsn).into_iter().collect();
    assert_eq!(recovered[0].runs, runs);
    let (inlet, mut outlet) = both(&spool, 0);
    let from = 1000 + (lsn - 1000) / 3;
    outlet.read_from(from).unwrap();
    drop(inlet);
    let mut again = Vec::new();
    while let Some(batch) = outlet.next().await.unwrap() {
        again.extend(flat(&batch));
    }
    assert_eq!(again, journal[(from - 1000) as usize..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_steps_through_snapshot_and_journal_keep_order_and_the_journal_survives(
        snapshot in steps(snapshot_sketches().boxed()),
        stable in steps(journal_sketches().boxed()),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(walk(snapshot, stable));
    }
}
