//! The commands of recorded journals are known and can be planned.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::entry::Args;
use crate::rdb::Cursor;

/// The entries of a recorded flow after its end-of-file token: transaction id, words, packed.
fn journal(release: &str, scenario: &str, flow: u32) -> Vec<(u64, Vec<u8>, u32)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!(
        "tests/captures/dragonfly/{release}/{scenario}/flow-{flow}.bin"
    ));
    let bytes = std::fs::read(&path).unwrap();
    let end_of_file = |window: &[u8]| {
        window.starts_with(&[0xFF, 0, 0, 0, 0, 0, 0, 0, 0])
            && window[9..].iter().all(u8::is_ascii_hexdigit)
    };
    let start = bytes.windows(49).position(end_of_file).unwrap() + 49;
    let mut cursor = Cursor::new(&bytes[start..]);
    let mut entries = Vec::new();
    while !cursor.is_empty() {
        match cursor.packed().unwrap() {
            6 | 15 => _ = cursor.packed().unwrap(),
            13 => {}
            9..=11 => {
                let txid = cursor.packed().unwrap();
                cursor.packed().unwrap();
                let words = cursor.packed().unwrap();
                cursor.packed().unwrap();
                let begin = start + cursor.position();
                for _ in 0..words {
                    let len = cursor.packed().unwrap();
                    cursor.take(len, usize::MAX).unwrap();
                }
                let packed = bytes[begin..start + cursor.position()].to_vec();
                entries.push((txid, packed, words as u32));
            }
            other => panic!("opcode {other} in {}", path.display()),
        }
    }
    entries
}

#[test]
fn every_command_of_the_recorded_journals_is_known() {
    let features = Features {
        flavour: Flavour::Redis,
        version: (8, 2, 0),
        json: true,
        bloom: true,
    };
    for (release, scenario, total) in [
        ("v1.40.1", "journal", 170),
        ("v1.40.1", "journal-flush", 170),
        ("v1.27.4", "journal", 150),
        ("v1.27.4", "journal-flush", 150),
    ] {
        let entries: Vec<_> = (0..2)
            .flat_map(|flow| journal(release, scenario, flow))
            .collect();
        assert!(entries.len() >= total, "{}", entries.len());
        let mut unsupported = BTreeMap::new();
        for (txid, packed, words) in &entries {
            let args = Args::check(packed, *words).unwrap();
            let context = Context {
                features: &features,
                received_at_ms: 1_795_379_755_107,
                on_member_expiry: MemberExpiry::Drop,
                db: 0,
                txid: *txid,
                circumstances: Circumstances::default(),
                map_db: &Some,
            };
            let planned = plan(&args, &context);
            if let Plan::Unsupported(what) = planned {
                let name = String::from_utf8_lossy(args.name()).into_owned();
                assert_ne!(what.reason, Reason::Unknown, "{name} of {release}");
                unsupported.insert(name, what.kind.as_str());
            }
            let whole_server = matches!(planned, Plan::Global(_)) || args.name() == b"SCRIPT";
            assert_eq!(
                keys(&args).count() == 0,
                whole_server || args.name() == b"PING"
            );
        }
        let expected: &[(&str, &str)] = match release {
            "v1.40.1" => &[("CL.THROTTLE", "command")],
            _ => &[
                ("CL.THROTTLE", "command"),
                ("ZINTERSTORE", "lost"),
                ("ZRANGESTORE", "lost"),
                ("ZUNIONSTORE", "lost"),
            ],
        };
        let found: Vec<_> = unsupported
            .iter()
            .map(|(name, kind)| (&name[..], *kind))
            .collect();
        assert_eq!(found, expected, "{release} {scenario}");
    }
}
