use super::*;
use flate2::read::GzDecoder;
use proptest::prelude::*;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[&str]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        for name in files {
            fs::write(dir.0.path().join(name), *name).unwrap();
        }
        dir
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("x.log")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        let mut names: Vec<_> = entries.map(|entry| name(entry).unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    fn unpacked(&self, name: &str) -> String {
        let file = File::open(self.0.path().join(name)).unwrap();
        let mut text = String::new();
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
        text
    }
}

fn rotation(keep: u32, compress: bool) -> Rotation {
    Rotation::new(Rotate {
        size: 100,
        keep,
        compress,
    })
}

#[test]
fn each_number_moves_by_one_and_the_oldest_goes() {
    let dir = Dir::new(&["x.log", "x.log.1", "x.log.2", "x.log.3.gz"]);
    rotation(3, false).rotate(&dir.log()).unwrap();
    assert_eq!(dir.names(), ["x.log.1", "x.log.2", "x.log.3"]);
    assert_eq!(dir.read("x.log.1"), "x.log");
    assert_eq!(dir.read("x.log.2"), "x.log.1");
    assert_eq!(dir.read("x.log.3"), "x.log.2");
}

#[test]
fn only_files_of_this_log_and_beyond_the_number_to_keep_are_removed() {
    let others = [
        "x.log.0",
        "x.log.01",
        "x.log.9.bz2",
        "x.log.9.tmp",
        "x.log.old",
        "y.log.9",
        "x.log-9",
    ];
    let dir = Dir::new(&others);
    for name in ["x.log", "x.log.1", "x.log.3.gz", "x.log.17"] {
        fs::write(dir.0.path().join(name), name).unwrap();
    }
    rotation(2, false).rotate(&dir.log()).unwrap();
    let mut expected = others.map(str::to_owned).to_vec();
    expected.extend(["x.log.1", "x.log.2"].map(str::to_owned));
    expected.sort();
    assert_eq!(dir.names(), expected);
}

#[test]
fn where_none_is_kept_the_log_is_removed() {
    let dir = Dir::new(&["x.log", "x.log.1", "x.log.2.gz"]);
    rotation(0, false).rotate(&dir.log()).unwrap();
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn what_a_kill_left_is_put_in_order() {
    // While 1 was compressed: after the rename of the whole one, and in the middle of another.
    let dir = Dir::new(&[
        "x.log",
        "x.log.1",
        "x.log.1.gz",
        "x.log.2.gz.tmp",
        "x.log.2",
    ]);
    rotation(5, false).rotate(&dir.log()).unwrap();
    assert_eq!(dir.names(), ["x.log.1", "x.log.2.gz", "x.log.3"]);
    assert_eq!(dir.read("x.log.2.gz"), "x.log.1.gz");
    // In the middle of the renaming, with 2 moved away already: it is filled, and 3 stays.
    let dir = Dir::new(&["x.log", "x.log.1", "x.log.3"]);
    rotation(3, false).rotate(&dir.log()).unwrap();
    assert_eq!(dir.names(), ["x.log.1", "x.log.2", "x.log.3"]);
    assert_eq!(dir.read("x.log.3"), "x.log.3");
}

#[test]
fn rotated_files_are_compressed_with_mode_and_time_and_older_ones_too() {
    let dir = Dir::new(&["x.log", "x.log.1", "x.log.2.gz.tmp"]);
    fs::set_permissions(dir.log(), fs::Permissions::from_mode(0o600)).unwrap();
    let written = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let file = File::options().write(true).open(dir.log()).unwrap();
    file.set_modified(written).unwrap();
    let mut rotation = rotation(5, true);
    rotation.rotate(&dir.log()).unwrap();
    rotation.compress(&dir.log());
    rotation.finish();
    assert_eq!(dir.names(), ["x.log.1.gz", "x.log.2.gz"]);
    assert_eq!(dir.unpacked("x.log.1.gz"), "x.log");
    assert_eq!(dir.unpacked("x.log.2.gz"), "x.log.1");
    let metadata = fs::metadata(dir.0.path().join("x.log.1.gz")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(metadata.modified().unwrap(), written);
}

#[test]
fn a_compression_that_fails_keeps_the_file_and_is_reported_once() {
    let dir = Dir::new(&["x.log.1"]);
    // A directory in place of the file that is written aside cannot be opened.
    let aside = dir.0.path().join("x.log.1.gz.tmp");
    fs::create_dir(&aside).unwrap();
    let mut rotation = rotation(5, true);
    rotation.compress(&dir.log());
    while !rotation.compressing.as_ref().unwrap().is_finished() {
        thread::yield_now();
    }
    assert!(rotation.failure().is_some());
    assert!(rotation.failure().is_none());
    assert_eq!(dir.read("x.log.1"), "x.log.1");
}

#[test]
fn a_rotation_is_due_by_size_and_never_while_one_is_compressed_or_put_off() {
    let mut rotation = rotation(5, true);
    let now = Instant::now();
    assert!(!rotation.is_due(0, 1_000, now), "an empty file");
    assert!(!rotation.is_due(90, 10, now));
    assert!(rotation.is_due(90, 11, now));
    let (end, ended) = std::sync::mpsc::channel::<()>();
    rotation.compressing = Some(thread::spawn(move || {
        ended.recv().map_err(io::Error::other)
    }));
    assert!(!rotation.is_due(90, 11, now));
    end.send(()).unwrap();
    rotation.finish();
    rotation.put_off(now);
    assert!(!rotation.is_due(90, 11, now + AGAIN_AFTER / 2));
    assert!(rotation.is_due(90, 11, now + AGAIN_AFTER));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// From whatever a kill may have left: nothing is overwritten, order is kept, and what is missing is older than
    /// all that is there, and too much to keep.
    #[test]
    fn rotating_loses_nothing_but_the_oldest(
        left in prop::collection::btree_map(1..9_u32, 0..4_u8, 0..8),
        keep in 1..9_u32,
    ) {
        let dir = Dir::new(&["x.log"]);
        let mut before = Vec::new();
        for (number, form) in left {
            let (plain, compressed) = (plain(&dir.log(), number), compressed(&dir.log(), number));
            // The same content for what is one file in two stages.
            let content = format!("was {number}");
            match form {
                0 => fs::write(plain, &content).unwrap(),
                1 => fs::write(compressed, &content).unwrap(),
                2 => {
                    fs::write(plain, &content).unwrap();
                    fs::write(with_suffix(&dir.log(), &format!(".{number}.gz.tmp")), "half").unwrap();
                }
                _ => {
                    fs::write(plain, &content).unwrap();
                    fs::write(compressed, &content).unwrap();
                }
            }
            before.push((number, content));
        }
        rotation(keep, false).rotate(&dir.log()).unwrap();
        let mut after = Vec::new();
        for number in 1..20 {
            let plain = fs::read_to_string(plain(&dir.log(), number));
            let compressed = fs::read_to_string(compressed(&dir.log(), number));
            prop_assert!(plain.is_err() || compressed.is_err(), "{:?}", dir.names());
            after.extend(plain.or(compressed));
        }
        prop_assert_eq!(after.remove(0), "x.log");
        prop_assert_eq!(dir.names().len(), after.len() + 1, "no leftovers");
        // What may stay: numbers up to `keep`, all if one of them was free, else all but the last.
        before.retain(|(number, _)| *number <= keep);
        if before.len() == keep as usize {
            before.pop();
        }
        let expected: Vec<_> = before.into_iter().map(|(_, content)| content).collect();
        prop_assert_eq!(after, expected);
    }
}
