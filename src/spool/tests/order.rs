//! What goes in comes out, in order, whichever way it takes.

use super::batches::{again, batch_of, flat, journal, journal_sketches, part, snapshot_sketches};
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
