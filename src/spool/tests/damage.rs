//! Files that are cut off, changed, or somebody else's.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::batches::{Sketch, again, batch_of, flat, journal, journal_sketches, snapshot_sketches};
use super::*;
use crate::entry::{Body, Item};
use crate::spool::{decode, encode, with_checksums};

/// A spool that was killed: its flow 0 has these batches, from entry 1 on. The entries one by one.
async fn killed(dir: &Path, batches: &[Vec<Sketch>], settings: Settings) -> Vec<Flat> {
    let spool = spool_in(dir, settings);
    let mut inlet = spool.inlet(0).unwrap();
    let mut all = Vec::new();
    for sketches in batches {
        let batch = batch_of(sketches, Some(1 + all.len() as u64));
        all.extend(flat(&batch));
        inlet.push(batch).await.unwrap();
    }
    assert!(inlet.on_disk().unwrap().reached(1 + all.len() as u64).await);
    all
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|it| it == "journal"))
        .collect();
    files.sort();
    files
}

/// Opens the spool and reads all runs, each from its start: what comes is compared, entry by entry. How many entries
/// came, how many the runs promised, and how many files were put aside.
async fn read_all(dir: &Path, all: &[Flat]) -> (usize, usize, usize) {
    let (spool, recovered) = resume(dir, settings());
    let runs = recovered[0].runs.clone();
    let damaged = recovered[0].damaged.len();
    for pair in runs.windows(2) {
        assert!(pair[0].end < pair[1].start, "runs in order: {runs:?}");
    }
    let Some(last) = runs.last() else {
        return (0, 0, damaged);
    };
    let (inlet, mut outlet) = both(&spool, 0);
    outlet.read_from(last.start).unwrap();
    drop(inlet);
    let mut at = last.start as usize - 1;
    loop {
        match outlet.next().await {
            Ok(Some(batch)) => {
                for item in flat(&batch) {
                    assert_eq!(Some(&item), all.get(at), "entry {}", at + 1);
                    at += 1;
                }
            }
            Ok(None) => {
                assert_eq!(at, last.end as usize - 1, "all that was promised");
                break;
            }
            Err(ReadError::Damaged { file, .. }) => {
                assert!(file.extension().is_some_and(|it| it == "corrupt") && file.exists());
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let promised = (last.end - last.start) as usize;
    (at + 1 - last.start as usize, promised, damaged)
}

/// A copy of a directory's files.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn is_spilled(item: &Item) -> bool {
    match item {
        Item::Command(command) => matches!(command.args, Body::Spilled(_)),
        Item::Record(record) => matches!(record.value, Body::Spilled(_)),
        _ => false,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_file_cut_off_at_any_byte_yields_the_whole_records_before_and_is_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let batch = vec![Sketch::Command(0, 0, vec![b'a'; 30], false)];
    let spilled = vec![
        Sketch::Command(3, 9, vec![b's'; 100], true),
        Sketch::Nothing(true),
        Sketch::Command(3, 9, vec![b't'; 50], true),
    ];
    let batches = [batch.clone(), spilled, batch.clone(), batch];
    let all = killed(dir.path(), &batches, settings()).await;
    let [segment] = &segments(dir.path())[..] else {
        panic!("one segment");
    };
    let len = fs::metadata(segment).unwrap().len();
    let mut counts = std::collections::BTreeSet::new();
    for cut in 0..len {
        let dir = copy(dir.path());
        let [segment] = &segments(dir.path())[..] else {
            panic!("one segment");
        };
        OpenOptions::new()
            .write(true)
            .open(segment)
            .unwrap()
            .set_len(cut)
            .unwrap();
        let (came, promised, damaged) = read_all(dir.path(), &all).await;
        assert_eq!((came, damaged), (promised, 0), "cut at {cut}");
        counts.insert(came);
        // And a second time, after its seal.
        assert_eq!(
            read_all(dir.path(), &all).await,
            (came, promised, 0),
            "cut at {cut}"
        );
        if came > 0 {
            let (spool, _) = resume(dir.path(), settings());
            let (mut inlet, mut outlet) = both(&spool, 0);
            outlet.read_from(1).unwrap();
            let next = inlet.next_lsn().unwrap();
            inlet.push(journal(next, 1, 10)).await.unwrap();
            assert!(inlet.on_disk().unwrap().reached(next + 1).await);
            drop((inlet, outlet, spool));
            let (_spool, recovered) = resume(dir.path(), settings());
            assert_eq!(recovered[0].runs, vec![1..next + 1], "cut at {cut}");
        }
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [0, 1, 4, 5]);
}

#[tokio::test]
async fn a_changed_byte_anywhere_is_found_and_nothing_wrong_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let batch = vec![
        Sketch::Command(0, 7, b"SET a b".to_vec(), false),
        Sketch::Command(0, 0, b"a body in a file".to_vec(), true),
    ];
    let all = killed(
        dir.path(),
        &[batch.clone(), batch.clone(), batch],
        settings(),
    )
    .await;
    let sealed = copy(dir.path());
    assert_eq!(read_all(sealed.path(), &all).await, (6, 6, 0));
    let (mut aside, mut late) = (0, 0);
    for origin in [dir.path(), sealed.path()] {
        let [segment] = &segments(origin)[..] else {
            panic!("one segment");
        };
        for at in 0..fs::metadata(segment).unwrap().len() {
            let dir = copy(origin);
            let [segment] = &segments(dir.path())[..] else {
                panic!("one segment");
            };
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(segment)
                .unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            let (came, promised, damaged) = read_all(dir.path(), &all).await;
            aside += damaged;
            late += usize::from(came < promised);
            let is_seal = origin == sealed.path() && came == 6;
            assert!(came < 6 || is_seal, "a changed byte {at} was not noticed");
        }
    }
    assert!(
        aside > 0,
        "damage before the last record is found when the spool is opened"
    );
    assert!(late > 0, "and in a sealed segment when it is read");
}

#[tokio::test]
async fn damage_in_the_middle_is_put_aside_and_named_and_runs_around_it_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let batches: Vec<_> = (0..200)
        .map(|_| vec![Sketch::Command(0, 0, vec![1; 5000], false)])
        .collect();
    let tiny = Settings {
        max_size: 1 << 20,
        ..settings()
    };
    let all = killed(dir.path(), &batches, tiny).await;
    let files = segments(dir.path());
    assert!(files.len() >= 4, "{files:?}");
    // Without its seal it is read whole.
    let middle = &files[1];
    let len = fs::metadata(middle).unwrap().len();
    let file = OpenOptions::new().write(true).open(middle).unwrap();
    file.set_len(len - 72).unwrap();
    file.write_all_at(b"XXXX", 6000).unwrap();
    let (spool, recovered) = resume(dir.path(), settings());
    let [first, second] = &recovered[0].runs[..] else {
        panic!("{recovered:?}");
    };
    assert_eq!((first.start, second.end), (1, 201));
    let mut aside = middle.clone().into_os_string();
    aside.push(".corrupt");
    assert_eq!(recovered[0].damaged, [PathBuf::from(&aside)]);
    assert!(Path::new(&aside).exists() && !middle.exists());
    let (mut inlet, mut outlet) = both(&spool, 0);
    let error = inlet.push(journal(201, 1, 1)).await.unwrap_err();
    assert!(matches!(error, PushError::Unplaced { .. }), "{error}");
    assert!(outlet.read_from(first.end + 1).is_err(), "in between");
    outlet.read_from(second.start + 1).unwrap();
    assert_eq!(inlet.next_lsn(), Some(201));
    inlet.flush().await.unwrap();
    let batch = outlet.next().await.unwrap().unwrap();
    assert_eq!(flat(&batch)[0], all[second.start as usize]);
    assert!(inlet.on_disk().unwrap().reached(202).await);
    eventually("the other run is removed", || !files[0].exists());
    drop((inlet, outlet, spool));
    let (_spool, recovered) = resume(dir.path(), settings());
    assert_eq!(recovered[0].runs, vec![second.start..202]);
}

#[tokio::test]
async fn what_belongs_to_another_master_or_release_is_not_used_and_removed_when_the_caller_says_so()
{
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), &[vec![Sketch::Nothing(false)]], settings()).await;
    let found = Found::at(dir.path()).unwrap();
    let other = Identity {
        flows: 3,
        ..identity()
    };
    assert_ne!(found.identity(), Some(&other));
    assert_eq!(segments(dir.path()).len(), 1, "looking changes nothing");
    let spool = found.start_anew(&other, settings()).unwrap();
    assert_eq!(names(dir.path()), "identity");
    assert!(spool.inlet(2).is_ok());
    drop(spool);
    fs::write(dir.path().join("identity"), "df2redis spool 2\nmaster x\n").unwrap();
    let found = Found::at(dir.path()).unwrap();
    assert!(found.identity().is_none());
    let why = found.unreadable().unwrap();
    assert!(why.contains("another release"), "{why}");
    assert!(found.resume(settings()).unwrap().is_none());
}

#[tokio::test]
async fn a_segment_of_another_spool_is_put_aside() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    killed(dir.path(), &[vec![Sketch::Nothing(false)]], settings()).await;
    let foreign = Identity::of("another", 2);
    let spool = Found::at(other.path())
        .unwrap()
        .start_anew(&foreign, settings())
        .unwrap();
    let mut inlet = spool.inlet(0).unwrap();
    inlet.push(journal(2, 1, 10)).await.unwrap();
    assert!(inlet.on_disk().unwrap().reached(3).await);
    let name = "00000-000000000009.journal";
    fs::copy(&segments(other.path())[0], dir.path().join(name)).unwrap();
    let (_spool, recovered) = resume(dir.path(), settings());
    assert_eq!(recovered[0].runs, vec![1..2]);
    assert_eq!(
        recovered[0].damaged,
        [dir.path().join(format!("{name}.corrupt"))]
    );
}

#[tokio::test]
async fn after_a_start_of_the_machine_sealed_segments_are_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let batch = vec![Sketch::Command(0, 0, vec![b'x'; 200], false)];
    let all = killed(
        dir.path(),
        &[batch.clone(), batch.clone(), batch],
        settings(),
    )
    .await;
    assert_eq!(read_all(dir.path(), &all).await, (3, 3, 0));
    let segment = segments(dir.path()).remove(0);
    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(b"?", 200).unwrap();
    let (spool, recovered) = resume(dir.path(), settings());
    assert_eq!(recovered[0].runs, vec![1..4], "its seal is believed");
    drop(spool);
    let path = dir.path().join("identity");
    let text = fs::read_to_string(&path).unwrap();
    let (kept, boot) = text.split_once("boot ").unwrap();
    assert!(boot.len() > 30, "{boot:?}");
    fs::write(&path, format!("{kept}boot 0\n")).unwrap();
    let (_spool, recovered) = resume(dir.path(), settings());
    assert_eq!(
        (recovered[0].runs.len(), recovered[0].damaged.len()),
        (0, 1)
    );
}

#[test]
fn only_the_last_damaged_file_of_a_flow_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str| {
        File::create(dir.path().join(name)).unwrap();
        super::super::recovery::put_aside(&dir.path().join(name)).unwrap();
    };
    put("00000-000000000001.journal");
    put("00001-000000000002.journal");
    put("00000-000000000003.journal");
    assert_eq!(
        names(dir.path()),
        "00000-000000000003.journal.corrupt 00001-000000000002.journal.corrupt"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_batches_cut_or_changed_anywhere_yield_a_right_prefix(
        batches in prop::collection::vec(journal_sketches(), 1..8),
        damage in prop_oneof![
            (any::<prop::sample::Index>(), Just(None)),
            (any::<prop::sample::Index>(), (1_u8..).prop_map(Some)),
        ],
    ) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let all = killed(dir.path(), &batches, settings()).await;
            let segment = segments(dir.path()).remove(0);
            let file = OpenOptions::new().read(true).write(true).open(segment).unwrap();
            let at = damage.0.index(file.metadata().unwrap().len() as usize) as u64;
            match damage.1 {
                None => file.set_len(at).unwrap(),
                Some(flips) => {
                    let mut byte = [0];
                    file.read_exact_at(&mut byte, at).unwrap();
                    file.write_all_at(&[byte[0] ^ flips], at).unwrap();
                }
            }
            let (came, promised, damaged) = read_all(dir.path(), &all).await;
            assert_eq!(came, promised, "nothing is found only when it is read");
            assert!(came < all.len());
            assert!(damaged == 0 || damage.1.is_some());
        });
    }
}

proptest! {
    #[test]
    fn a_record_decodes_to_the_batch_it_was_made_of(
        journal in journal_sketches(), snapshot in snapshot_sketches(), first in 0..u64::MAX / 2,
    ) {
        for batch in [batch_of(&journal, Some(first)), batch_of(&snapshot, None)] {
            // Spilled bodies are not in memory.
            if batch.items.iter().any(is_spilled) {
                prop_assert!(encode(&batch).is_err());
                continue;
            }
            let record = encode(&again(&batch)).unwrap();
            let (decoded, used) = decode(&record).unwrap();
            prop_assert_eq!(flat(&decoded), flat(&batch));
            prop_assert_eq!(decoded.received_at_ms, batch.received_at_ms);
            prop_assert_eq!(used, record.len());
            for cut in 0..record.len() {
                prop_assert!(decode(&record[..cut]).is_err());
            }
        }
    }

    #[test]
    fn any_descriptors_decode_without_a_panic(
        descriptors in prop::collection::vec(any::<u8>(), 0..200), bytes in 0_usize..200, count in 0_u32..50,
    ) {
        use super::super::items::{Lsns, decode};
        let lsns = Lsns { first: 5, next: 9 };
        if let Ok(items) = decode(&descriptors, bytes, count, lsns, &mut |_| None) {
            prop_assert_eq!(items.len(), count as usize);
        }
    }

    #[test]
    fn what_decodes_from_any_bytes_encodes_to_the_same_batch(
        kind in 1_u32..3, items in 0_u32..6, first in 0_u64..9,
        descriptors in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x48), Just(0x41), Just(3)], 0..30),
        bytes in prop::collection::vec(any::<u8>(), 0..30),
        tail in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let next = if kind == 1 { first + u64::from(items) } else { first };
        let head = [
            &[0; 4][..], &kind.to_le_bytes(), &[0; 16], &items.to_le_bytes(),
            &(descriptors.len() as u32).to_le_bytes(), &[0; 4], &(bytes.len() as u32).to_le_bytes(), &[0; 8],
            &first.to_le_bytes(), &next.to_le_bytes(), &[9; 8],
        ];
        let record = [head.concat(), descriptors, bytes, tail].concat();
        let record = with_checksums(&record);
        match decode(&record) {
            Ok((batch, used)) => {
                prop_assert!(used <= record.len());
                let again = encode(&batch).unwrap();
                let (second, whole) = decode(&again).unwrap();
                prop_assert_eq!(whole, again.len());
                prop_assert_eq!(flat(&batch), flat(&second));
            }
            Err(what) => prop_assert!(!what.contains("checksum") && !what.contains("begins here"), "{}", what),
        }
    }
}

#[tokio::test]
async fn what_was_received_from_a_master_is_its_successors_too_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), &[vec![Sketch::Nothing(false)]], settings()).await;
    let entries = |recovered: &[Recovered]| {
        let runs = recovered.iter().flat_map(|flow| &flow.runs);
        runs.map(|run| run.end - run.start).sum::<u64>()
    };
    let open = |master: &str| {
        let found = Found::at(dir.path()).unwrap();
        found
            .resume_of(&Identity::of(master, 2), settings())
            .unwrap()
    };
    let first = identity().master;
    // One after the other, each promoted in the place of the one before.
    for (of, successor) in [(first.as_str(), "second"), ("second", "third")] {
        let (mut spool, recovered) = open(of);
        assert_eq!(entries(&recovered), 1);
        spool.succeeded_by(successor).unwrap();
        spool.finish().unwrap();
    }
    let (spool, recovered) = open("third");
    assert_eq!(entries(&recovered), 1);
    spool.finish().unwrap();
    let (_spool, recovered) = open("second");
    assert_eq!(entries(&recovered), 0, "a stranger begins anew");
}
