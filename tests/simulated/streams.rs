//! Handshakes and whole streams: replayed ones, and those of data sets.

use crate::recordings::{capture, joined, journal_of, mixed, recorded_flow};
use crate::support::client::Reply;
use crate::support::dragonfly::{Compression, Options, Stamp};
use crate::support::recorded::{Entry, Item, entries};
use crate::support::replica::Replica;
use crate::support::{Client, SimulatedDragonfly, eventually};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::time::Duration;

/// A request of a transcript, as it was sent.
fn ask(client: &mut Client, words: &str) -> String {
    let reply = client.cmd(&words.split(' ').collect::<Vec<_>>());
    as_recorded(&reply).to_string()
}

/// A reply as transcripts write it.
fn as_recorded(reply: &Reply) -> Json {
    match reply {
        Reply::Simple(text) => Json::from(format!("+{text}")),
        Reply::Error(text) => Json::from(format!("-{text}")),
        Reply::Int(n) => Json::from(*n),
        Reply::Array(items) => items.iter().map(as_recorded).collect(),
        other => panic!("{other:?} is in no transcript"),
    }
}

#[test]
fn a_replayed_capture_answers_every_request_of_its_transcript_as_the_master_did() {
    for scenario in [
        "v1.40.1/types",
        "v1.40.1/partial",
        "v1.27.4/journal",
        "v1.27.4/partial",
        "v1.40.1-1flow/journal",
    ] {
        let source = Options::replay(capture(scenario)).start();
        let transcript =
            std::fs::read_to_string(capture(scenario).join("main.txt")).expect("a transcript");
        let mut control = source.client();
        let mut flows: Vec<Client> = Vec::new();
        let mut lines = transcript.lines();
        while let Some(line) = lines.next() {
            let reply = if let Some(words) = line.strip_prefix("> ") {
                if words.starts_with("DFLY STARTSTABLE") {
                    settle(&source, &mut flows);
                }
                ask(&mut control, words)
            } else if let Some((_, words)) = line.split_once("] > ") {
                flows.push(source.client());
                ask(flows.last_mut().expect("a flow"), words)
            } else {
                assert!(line.starts_with("-- disconnected"), "{line}");
                leave(control, std::mem::take(&mut flows));
                eventually("the end of the session", || source.replicas() == 0);
                control = source.client();
                continue;
            };
            let recorded = lines
                .next()
                .and_then(|line| line.split_once("< "))
                .expect("an answer in the transcript")
                .1;
            let recorded: Json = serde_json::from_str(recorded).expect("an answer in JSON");
            assert_eq!(reply, recorded.to_string(), "{scenario}: {line}");
        }
        leave(control, flows);
        // The recorder asked for stable sync without a snapshot where v1.27.4 had refused to resume.
        let harm = source.take_violations();
        assert_eq!(
            harm.len(),
            usize::from(scenario == "v1.27.4/partial"),
            "{harm:?}"
        );
    }
}

/// Reads what the flows have sent, so that stable sync may start.
fn settle(source: &SimulatedDragonfly, flows: &mut [Client]) {
    if source.snapshot_bytes() == 0 || source.stable_replicas() > 0 {
        return;
    }
    for client in flows {
        let mut seen = Vec::new();
        let stream = client.stream().try_clone().expect("a second handle");
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("a timeout");
        let mut chunk = [0; 65536];
        while let Ok(n @ 1..) = std::io::Read::read(client.reader(), &mut chunk) {
            seen.extend_from_slice(&chunk[..n]);
        }
    }
}

/// Ends connections in order.
fn leave(control: Client, flows: Vec<Client>) {
    for client in flows.iter().chain([&control]) {
        let _ = client.stream().shutdown(std::net::Shutdown::Write);
    }
    for mut client in flows.into_iter().chain([control]) {
        let _ = std::io::Read::read_to_end(client.reader(), &mut Vec::new());
    }
}

#[test]
fn a_replayed_capture_sends_the_recorded_bytes_and_positions() {
    let source = Options::replay(capture("v1.40.1/partial")).start();
    let replica = Replica::synced(source.port());
    let mut client = source.client();
    for (flow, end) in [(0, 24778), (1, 21834)] {
        let recorded = recorded_flow("v1.40.1/partial", flow);
        eventually("all recorded bytes", || {
            replica.flows[flow].len() == recorded.len()
        });
        assert!(replica.flows[flow].bytes() == recorded, "flow {flow}");
        assert_eq!(
            client.ok(&["DFLY", "REPLICAOFFSET"]).items()[flow],
            Reply::Int(end)
        );
    }
    replica.leave();
    let mut replica = Replica::connect(source.port());
    replica.open_flows_at(&[24778, 21834]);
    assert!(replica.flows.iter().all(|flow| flow.answer.0 == "PARTIAL"));
    replica.stable();
    for flow in 0..2 {
        let path = capture("v1.40.1/partial").join(format!("flow-{flow}.partial.bin"));
        let recorded = std::fs::read(path).expect("a recorded flow");
        eventually("all recorded bytes", || {
            replica.flows[flow].len() == recorded.len()
        });
        assert!(replica.flows[flow].bytes() == recorded, "flow {flow}");
    }
    assert_eq!((source.full_syncs(), source.partial_syncs()), (1, 1));
    replica.leave();
}

#[test]
fn journalling_the_recorded_commands_sends_the_recorded_stream() {
    let source = SimulatedDragonfly::options()
        .initial_lsn(6405)
        .flows(1)
        .start();
    let recorded = recorded_flow("v1.40.1-1flow/journal", 0);
    let (found, _) = entries(journal_of(&recorded));
    let replica = Replica::synced(source.port());
    for entry in &found {
        if let Entry::Command {
            op,
            db,
            txid,
            shards,
            args,
            ..
        } = entry
        {
            let stamp = Stamp {
                op: *op,
                db: *db,
                txid: *txid,
                shards: *shards,
            };
            source.journal_stamped(0, stamp, args);
        }
    }
    let count = found
        .iter()
        .filter(|entry| matches!(entry, Entry::Command { .. }))
        .count();
    eventually("all entries", || replica.flows[0].commands().len() == count);
    // LSN opcodes after the first depend on the clock.
    let first = |entries: Vec<Entry>| {
        let lsn = entries
            .iter()
            .position(|entry| matches!(entry, Entry::Lsn(_)));
        let rest: Vec<Entry> = entries
            .iter()
            .filter(|entry| !matches!(entry, Entry::Lsn(_)))
            .cloned()
            .collect();
        (lsn, entries.get(1).cloned(), rest)
    };
    assert_eq!(first(replica.flows[0].journal()), first(found));
    assert_eq!(source.next_lsn(0), 6576);
    replica.leave();
}

#[test]
fn a_snapshot_holds_every_record_once_however_it_is_framed() {
    let dataset = mixed();
    let expected: BTreeMap<_, _> = dataset
        .records
        .iter()
        .map(|r| (r.key.clone(), r.encode()))
        .collect();
    for (compression, tagged, blob) in [
        (Compression::Lz4, true, 0xCA),
        (Compression::Zstd, true, 0xC9),
        (Compression::None, true, 0),
        (Compression::Lz4, false, 0xCA),
        (Compression::None, false, 0),
    ] {
        let options = SimulatedDragonfly::options()
            .flows(3)
            .dataset(dataset.clone());
        let source = options
            .compression(compression)
            .tagged_chunks(tagged)
            .start();
        let replica = Replica::synced(source.port());
        let mut found = BTreeMap::new();
        for (flow, received) in replica.flows.iter().enumerate() {
            let items = received.items();
            let joined = joined(&items);
            assert!(joined.keys().all(|key| source.flow_of(key) == flow));
            let blobs = items
                .iter()
                .filter(|item| matches!(item, Item::Record(r) if r.blob == blob))
                .count();
            assert!(blobs > 200, "only {blobs} records in blobs of {blob:#x}");
            assert_eq!(
                items.iter().any(|item| matches!(item, Item::Chunk(..))),
                tagged && flow == source.flow_of("big:set")
            );
            assert_eq!(items.last(), Some(&Item::Eof(received.answer.1.clone())));
            found.extend(joined);
        }
        assert!(found == expected, "{compression:?}, tagged {tagged}");
        replica.leave();
    }
}
