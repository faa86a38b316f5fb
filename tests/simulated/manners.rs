//! What the simulator does about replicas, good and bad: violations, waiting writers, resuming, faults.

use crate::recordings::{joined, mixed};
use crate::support::client::Reply;
use crate::support::dragonfly::{Compression, Fault, Script};
use crate::support::recorded::{Entry, Item};
use crate::support::replica::Replica;
use crate::support::{Client, SimulatedDragonfly, eventually, within};
use std::time::{Duration, Instant};

/// A replica with open flows whose snapshot was not asked for.
fn registered(source: &SimulatedDragonfly) -> Replica {
    let mut replica = Replica::connect(source.port());
    replica.open_flows();
    replica
}

#[test]
fn what_would_harm_a_real_master_is_a_violation() {
    let source = SimulatedDragonfly::options().dataset(mixed()).start();
    let violation = |what: &str| {
        eventually(what, || {
            source
                .violations()
                .iter()
                .any(|violation| violation.contains(what))
        });
        assert_eq!(source.take_violations().len(), 1, "{what}");
    };
    let mut client = source.client();
    client
        .send(&["REPLCONF", "CLIENT-VERSION", "4"])
        .expect("a request");
    violation("without a session");

    let mut replica = Replica::connect(source.port());
    replica.open_flow(0, None);
    let twice = source
        .client()
        .cmd(&["DFLY", "FLOW", source.master_id(), &replica.session(), "0"]);
    assert_eq!(twice, "ERR invalid state");
    violation("registered twice");
    let (session, id) = (replica.session(), source.master_id().to_owned());
    replica.flows[0].send(&["DFLY", "FLOW", &id, &session, "1"]);
    violation("a second DFLY FLOW");
    replica.leave();

    let mut replica = registered(&source);
    let session = replica.session();
    assert_eq!(
        replica.control.cmd(&["DFLY", "STARTSTABLE", &session]),
        "ERR invalid state"
    );
    violation("had no SYNC");
    replica.leave();

    let replica = Replica::synced(source.port());
    replica.flows[1].send(&["PING"]);
    violation("only REPLCONF ACK may come");
    eventually("RESP in the stream", || {
        replica.flows[1].bytes().ends_with(b"+PONG\r\n")
    });
    replica.leave();
    assert_eq!(
        source.violations(),
        Vec::<String>::new(),
        "an orderly end is none"
    );
}

#[test]
fn starting_stable_sync_before_the_end_of_a_snapshot_was_read_is_a_violation() {
    let source = SimulatedDragonfly::options().dataset(mixed()).start();
    let mut replica = registered(&source);
    replica.flows[1].pause(true);
    replica.sync();
    eventually("the end of flow 0", || {
        replica.flows[0].items().contains(&Item::End)
    });
    // Flow 1's end lies in its socket, or is on its way there: it is not read.
    replica.stable();
    assert_eq!(
        source.take_violations(),
        ["STARTSTABLE of SYNC1 before the end of the snapshot was read on flows [1]"]
    );
    replica.leave();
}

#[test]
fn a_connection_that_ends_in_a_reset_is_a_violation() {
    let source = SimulatedDragonfly::start();
    let replica = Replica::connect(source.port());
    let linger = socket2::SockRef::from(replica.control.stream()).set_linger(Some(Duration::ZERO));
    linger.expect("a socket option");
    drop(replica);
    eventually("the reset", || !source.violations().is_empty());
    assert_eq!(
        source.take_violations(),
        ["the control connection of SYNC1 ended in a reset instead of in order"]
    );
    assert_eq!(source.replicas(), 0, "the session is over");
}

#[test]
#[should_panic(expected = "a real master would have been harmed")]
fn a_violation_that_no_test_looked_at_fails_it() {
    let source = SimulatedDragonfly::start();
    source
        .client()
        .send(&["REPLCONF", "CLIENT-VERSION", "4"])
        .expect("a request");
    eventually("the violation", || !source.violations().is_empty());
}

#[test]
fn writes_wait_while_a_replica_that_does_not_read_has_a_mebibyte_unsent() {
    let source = SimulatedDragonfly::options()
        .flows(1)
        .send_buffer(64 << 10)
        .start();
    let replica = Replica::synced(source.port());
    replica.flows[0].pause(true);
    let value = "v".repeat(10_000);
    let writer = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..400).for_each(|_| {
                source.journal(0, ["SET", "k", &value]);
            })
        });
        eventually("a full output", || source.unsent(0) >= 1 << 20);
        // The kernel may take a little more before everything stands still.
        eventually("a writer that waits", || {
            let next = source.next_lsn(0);
            !within(Duration::from_millis(200), || source.next_lsn(0) != next)
        });
        let unsent = source.unsent(0);
        assert!(
            (1 << 20..(1 << 20) + 20_000).contains(&unsent),
            "{unsent} bytes unsent"
        );
        assert!(!writer.is_finished());
        replica.flows[0].pause(false);
        writer.join()
    });
    writer.expect("the writer");
    let blocked = source.blocked_writes();
    assert!(
        blocked.count > 0 && blocked.longest >= Duration::from_millis(200),
        "{blocked:?}"
    );
    eventually("all entries", || replica.flows[0].commands().len() == 400);
    replica.leave();
}

#[test]
fn a_replica_that_leaves_no_room_is_dropped_after_the_timeout() {
    let timeout = Duration::from_millis(300);
    let options = SimulatedDragonfly::options()
        .flows(1)
        .send_buffer(64 << 10)
        .replication_timeout(timeout);
    let source = options.start();
    let replica = Replica::synced(source.port());
    replica.flows[0].pause(true);
    let (value, started) = ("v".repeat(10_000), Instant::now());
    (0..400).for_each(|_| {
        source.journal(0, ["SET", "k", &value]);
    });
    assert!(started.elapsed() >= timeout);
    assert_eq!(source.replicas(), 0);
    assert_eq!(
        source.ended_sessions(),
        ["SYNC1: its output was full for too long"]
    );
    replica.leave();
}

#[test]
fn a_fast_replica_never_makes_a_write_wait() {
    let source = SimulatedDragonfly::start();
    let replica = Replica::synced(source.port());
    Script::sets(2, 20_000, 1000, 50).play_at(&source, 100_000, |_, _, _| ());
    eventually("all entries", || {
        replica
            .flows
            .iter()
            .map(|flow| flow.commands().len())
            .sum::<usize>()
            == 20_000
    });
    assert_eq!(source.blocked_writes().count, 0);
    replica.leave();
}

#[test]
fn a_replica_resumes_within_the_ring_and_starts_anew_beyond_it() {
    let source = SimulatedDragonfly::options().flows(1).start();
    let replica = Replica::synced(source.port());
    replica.leave();
    (0..10_000).for_each(|n| {
        source.journal(0, ["INCR", &format!("c:{n}")]);
    });
    let next = source.next_lsn(0);
    assert_eq!((next, source.oldest_lsn(0)), (10_001, 10_001 - 8192));
    for (position, answer) in [
        (next - 8193, "FULL"),
        (next + 1, "FULL"),
        (next - 8192, "PARTIAL"),
        (next, "PARTIAL"),
    ] {
        let mut replica = Replica::connect(source.port());
        replica.open_flow(0, Some(position));
        assert_eq!(replica.flows[0].answer.0, answer, "{position}");
        if answer == "PARTIAL" {
            let session = replica.session();
            assert_eq!(
                replica.control.cmd(&["DFLY", "SYNC", &session]),
                "ERR invalid state"
            );
            replica.stable();
            source.journal(0, ["SET", "live", &position.to_string()]);
            let missed = usize::try_from(source.next_lsn(0) - position).expect("few");
            eventually("what was missed", || {
                replica.flows[0].commands().len() == missed
            });
            assert_eq!(
                replica.flows[0].journal()[1],
                Entry::Lsn(position),
                "the first entry's position"
            );
            // The ring moves on for the next round.
            source.skip_positions(0, 0);
        }
        replica.leave();
    }
}

#[test]
fn releases_before_1_35_resume_through_a_snapshot_of_the_missed_entries() {
    let source = SimulatedDragonfly::options()
        .release("df-v1.31.0")
        .flows(1)
        .start();
    let replica = Replica::synced(source.port());
    replica.leave();
    (0..5).for_each(|n| {
        source.journal(0, ["INCR", &format!("c:{n}")]);
    });
    let mut replica = Replica::connect(source.port());
    replica.open_flow(0, Some(3));
    assert_eq!(replica.flows[0].answer.0, "PARTIAL");
    replica.sync();
    replica.wait_ends();
    replica.stable();
    replica.wait_stable();
    let missed = replica.flows[0]
        .items()
        .into_iter()
        .filter(|item| matches!(item, Item::Journal(_)))
        .count();
    assert_eq!((missed, replica.flows[0].offset()), (3, Some(6)));
    replica.leave();
}

#[test]
fn a_key_is_sent_before_the_first_journal_entry_that_touches_it() {
    let source = SimulatedDragonfly::options()
        .flows(1)
        .dataset(mixed())
        .send_buffer(16 << 10)
        .flush_bytes(512)
        .start();
    let mut replica = registered(&source);
    replica.flows[0].pause(true);
    replica.sync();
    for key in ["s:999", "big:set", "new", "s:3"] {
        source.journal(0, ["APPEND", key, "x"]);
    }
    source.journal(3, ["INCR", "other"]);
    replica.flows[0].pause(false);
    replica.wait_ends();
    replica.stable();
    replica.wait_stable();
    let items = replica.flows[0].items();
    let touched = |item: &Item, key: &str| match item {
        Item::Record(record) => record.key == key.as_bytes(),
        Item::Chunk(..) => key == "big:set",
        _ => false,
    };
    for key in ["s:999", "big:set", "s:3", "other"] {
        let entry = items.iter().position(|item| {
            matches!(item, Item::Journal(entry) if entry.windows(key.len()).any(|part| part == key.as_bytes()))
        });
        let last = items
            .iter()
            .rposition(|item| touched(item, key))
            .expect("a record");
        assert!(last < entry.expect("an entry"), "{key}");
    }
    assert_eq!(joined(&items).len(), mixed().len());
    assert_eq!(replica.flows[0].offset(), Some(6));
    replica.leave();
}

#[test]
fn acknowledgements_show_as_lag_and_count_for_wait() {
    let source = SimulatedDragonfly::start();
    let replica = Replica::synced(source.port());
    source.journal_global(0, ["FLUSHALL"]);
    let mut client = source.client();
    let info = |client: &mut Client| client.ok(&["INFO", "replication"]).text();
    assert!(
        info(&mut client).contains("port=7777,state=online,lag=1"),
        "{}",
        info(&mut client)
    );
    replica.flows.iter().for_each(|flow| flow.ack(2));
    source.wait_acked();
    assert!(info(&mut client).contains("lag=0"));
    client.send(&["WAIT", "1", "20000"]).expect("a request");
    eventually("the PING", || {
        replica
            .flows
            .iter()
            .all(|flow| flow.commands().last().is_some_and(|c| c == "(ping)"))
    });
    replica.flows.iter().for_each(|flow| flow.ack(3));
    assert_eq!(client.reply().expect("an answer"), Reply::Int(1));
    assert_eq!(
        client.ok(&["DFLY", "REPLICAOFFSET"]),
        Reply::Array(vec![Reply::Int(3), Reply::Int(3)])
    );
    replica.leave();
}

#[test]
fn passwords_and_permissions_are_checked_as_a_real_master_checks_them() {
    let options = SimulatedDragonfly::options().require_password("sec").user(
        "rep",
        "pw",
        Some(&["replconf", "ping"]),
    );
    let source = options.start();
    let mut client = source.client();
    assert_eq!(client.cmd(&["PING"]), "NOAUTH Authentication required.");
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    assert_eq!(client.cmd(&["AUTH", "rep", "no"]), wrong);
    assert_eq!(client.cmd(&["AUTH", "rep", "pw"]), "OK");
    assert_eq!(client.cmd(&["PING"]), "PONG");
    assert_eq!(
        client.cmd(&["DFLY", "THREAD"]),
        "NOPERM rep has no ACL permissions"
    );
    assert_eq!(client.cmd(&["AUTH", "sec"]), "OK");
    assert!(
        client
            .cmd(&["HELLO", "3"])
            .items()
            .contains(&Reply::Bulk(b"df-v1.40.1".to_vec()))
    );
    assert_eq!(
        client.cmd(&["PSYNC", "?", "-1"]),
        "ERR unknown command `PSYNC`"
    );
    assert_eq!(
        client.cmd(&["REPLCONF", "capa", "eof", "capa", "dragonfly"]),
        "OK"
    );
    assert_eq!(
        client.cmd(&["REPLCONF", "version", "1"]),
        "ERR syntax error"
    );
}

#[test]
fn faults_strike_where_they_were_asked_for() {
    let source = SimulatedDragonfly::options()
        .flows(1)
        .dataset(mixed())
        .compression(Compression::None)
        .start();
    source.inject(Fault::Answer {
        command: "PING",
        with: "-LOADING Dragonfly is loading",
        times: 1,
    });
    let mut client = source.client();
    assert_eq!(client.cmd(&["PING"]), "LOADING Dragonfly is loading");
    assert_eq!(client.cmd(&["PING"]), "PONG");

    source.inject(Fault::CloseFlow {
        flow: 0,
        after: 1000,
    });
    let mut replica = registered(&source);
    replica.sync();
    eventually("the end of the flow", || replica.flows[0].ended());
    assert_eq!(replica.flows[0].len(), 1000);
    replica.leave();

    let whole = {
        let replica = Replica::synced(source.port());
        let bytes = replica.flows[0].bytes();
        replica.leave();
        bytes
    };
    source.clear_faults();
    source.inject(Fault::CorruptByte {
        flow: 0,
        at: 5000,
        xor: 0xFF,
    });
    let mut replica = registered(&source);
    replica.sync();
    eventually("most of the flow", || {
        replica.flows[0].len() > whole.len() - 100
    });
    let bytes = replica.flows[0].bytes();
    assert_eq!(bytes[5000], whole[5000] ^ 0xFF);
    assert!(bytes[4900..5000] == whole[4900..5000] && bytes[5001..5100] == whole[5001..5100]);
    replica.leave();

    source.clear_faults();
    source.inject(Fault::WrongToken { flow: 0 });
    source.inject(Fault::WrongLsn { flow: 0, by: 2 });
    let replica = Replica::synced(source.port());
    let token = replica.flows[0].answer.1.clone();
    assert!(!replica.flows[0].items().contains(&Item::Eof(token)));
    source.journal(0, ["SET", "k", "v"]);
    eventually("an LSN", || {
        replica.flows[0].journal().contains(&Entry::Lsn(3))
    });
    replica.leave();
}
